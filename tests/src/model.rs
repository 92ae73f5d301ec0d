//! Small models of made-up weights, in memory, for tests that need a shape or weights that no golden has.

use std::borrow::Cow;

use remask_core::Model;
use remask_core::checkpoint::{Bytes, Checkpoint};
use remask_core::families::parse_config;
use remask_core::model::ModelFiles;
use remask_core::tensors::{Role, TensorKind};
use remask_core::tokenizer::TokenizerFiles;
use remask_wgpu::Gpu;
use remask_wgpu::profile::MatrixShape;

use crate::data::uniform;

/// A LLaDA model whose shape matrix units can compute: one block of two heads of 64 would be enough, but
/// models narrower than 1024 are not computed on them.
pub const WIDE: &str = r#"{"architectures": ["LLaDAModelLM"], "d_model": 1024, "n_layers": 1, "n_heads": 16,
    "mlp_hidden_size": 256, "vocab_size": 256, "max_sequence_length": 128, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5, "weight_tying": false, "mask_token_id": 255, "eos_token_id": 254}"#;

/// A safetensors file of bf16 tensors.
#[must_use]
pub fn bf16_container(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, shape, values) in tensors {
        let begin = data.len();
        data.extend(values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()));
        let end = data.len();
        entries.push(format!(r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    file
}

/// The model of a config with made-up bf16 weights, which `change` may change: it is told a tensor's name.
///
/// # Panics
/// Where the config is none.
#[must_use]
pub fn made_up(config: &str, change: impl Fn(&str, &mut [f32])) -> Model {
    let (family, a) = parse_config("config.json", config).expect("a config of this build");
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: Vec<usize>| {
        let scale = if shape.len() == 1 { 1.0 } else { 1.7 / (shape[shape.len() - 1] as f32).sqrt() };
        let mut values = uniform(tensors.len() as u32, shape.iter().product(), scale);
        change(name, &mut values);
        tensors.push((name.to_owned(), shape, values));
    };
    for spec in (family.tensors)(&a, &|_| false) {
        add(&spec.name, spec.stored_shape());
    }
    let checkpoint = Checkpoint::from_bytes("made-up.safetensors", Bytes::Owned(bf16_container(&tensors)));
    Model::from_files(ModelFiles {
        origin: "made-up".to_owned(),
        config: Cow::Borrowed(config),
        checkpoint: checkpoint.expect("a well-formed container"),
        tokenizer: TokenizerFiles::new(),
        tokenizer_config: None,
        chat_template: None,
        chat_templates: Vec::new(),
        generation_config: None,
    })
    .expect("a model with every tensor")
}

/// Has a device claim matrix units that it does not have: kernels for them are chosen, and do not compile.
pub fn claim_matrix_units(gpu: &mut Gpu) {
    gpu.profile.matrix_shapes = vec![MatrixShape { m: 16, n: 16, k: 16, input: "F16".into(), output: "F32".into() }];
    (gpu.profile.shader_f16, gpu.profile.subgroups) = (true, Some((32, 32)));
    gpu.fragments = Some(true);
    gpu.profile.limits.workgroup_bytes = gpu.profile.limits.workgroup_bytes.max(48 << 10);
    gpu.profile.limits.invocations = gpu.profile.limits.invocations.max(512);
}

/// Names of the matrices of a model's first block.
#[must_use]
pub fn first_layer(model: &Model) -> Vec<String> {
    let of_block = model.tensors.iter().filter(|spec| matches!(spec.role, Role::Block(0, _)));
    of_block.filter(|spec| spec.kind == TensorKind::Matrix).map(|spec| spec.name.clone()).collect()
}
