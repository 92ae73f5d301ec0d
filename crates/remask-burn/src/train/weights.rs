//! A transformer that is trained, and its weights as a checkpoint in LLaDA's names.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Device, Distribution, Tensor};
use half::bf16;
use remask_core::checkpoint::{Bytes, WeightFormat};
use remask_core::families::TensorNames;
use remask_core::model::layer_matrices;
use remask_core::{Architecture, Checkpoint, DType, Error, Result};
use safetensors::tensor::TensorView;

use crate::linear::{Dense, Precision, floats};
use crate::load;
use crate::transformer::{Block, RmsNorm, Transformer};

/// A transformer whose matrices are tensors.
pub type Trained = Transformer<Dense>;

/// Standard deviation of new weights.
const SPREAD: f64 = 0.02;

/// A transformer with random weights: normal, narrower where a block adds to the residual stream.
/// [`Device::seed`] decides which.
#[must_use]
pub fn random(a: &Architecture, device: &Device) -> Trained {
    let matrix = |rows: usize, cols: usize, spread: f64| {
        Dense::new(Tensor::random([rows, cols], Distribution::Normal(0.0, spread), device))
    };
    let norm = || RmsNorm::new(Tensor::ones([a.hidden], device), a.norm.eps);
    let (d, head_dim) = (a.hidden, a.attention.head_dim);
    let [q, kv] = [a.attention.heads, a.attention.kv_heads].map(|heads| heads * head_dim);
    let narrow = SPREAD / (2.0 * a.layers as f64).sqrt();
    let block = |_| Block {
        attention_norm: norm(),
        qkv: matrix(q + 2 * kv, d, SPREAD),
        attention_out: matrix(d, q, narrow),
        mlp_norm: norm(),
        gate_up: matrix(2 * a.mlp.hidden, d, SPREAD),
        down: matrix(d, a.mlp.hidden, narrow),
    };
    let head = (!a.tied_head).then(|| matrix(a.embedding_rows, d, SPREAD));
    let embedding = matrix(a.embedding_rows, d, SPREAD);
    numbered(Transformer::new(a, embedding, (0..a.layers).map(block).collect(), norm(), head))
}

/// The transformer of a container that [`container`] made.
///
/// # Errors
/// [`Error::Checkpoint`] or [`Error::Tensor`] where it is not that.
pub fn restore(a: &Architecture, names: &TensorNames, bytes: Vec<u8>, device: &Device) -> Result<Trained> {
    of_checkpoint(a, names, &Checkpoint::from_bytes("the checkpoint's weights", Bytes::Owned(bytes))?, device)
}

/// The transformer of a model's checkpoint, whatever it stores its weights as.
///
/// # Errors
/// [`Error::Backend`] where training cannot compute the model; [`Error::Tensor`].
pub fn of_checkpoint(
    a: &Architecture,
    names: &TensorNames,
    checkpoint: &Checkpoint,
    device: &Device,
) -> Result<Trained> {
    let (transformer, _) = load::transformer(a, names, checkpoint, Some(WeightFormat::F32), device, &mut |_| ())?;
    Ok(numbered(transformer))
}

/// The same weights, with products that compute in `precision`.
#[must_use]
pub fn computing_in(precision: Precision, mut transformer: Trained) -> Trained {
    let blocks = transformer.blocks.iter_mut();
    let of_blocks = blocks.flat_map(|b| [&mut b.qkv, &mut b.attention_out, &mut b.gate_up, &mut b.down]);
    let ends = std::iter::once(&mut transformer.embedding).chain(&mut transformer.head);
    of_blocks.chain(ends).for_each(|matrix| matrix.precision = precision);
    transformer
}

/// The same parameters with ids that count up from 1: an optimiser's state is kept by id.
fn numbered(transformer: Trained) -> Trained {
    struct Number(u64);
    impl ModuleMapper for Number {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            Param::initialized(ParamId::from(self.0), param.into_value().detach().require_grad())
        }
    }
    transformer.map(&mut Number(0))
}

/// The weights as a safetensors container, `dtype` F32 or BF16.
///
/// # Errors
/// [`Error::Checkpoint`] where they cannot be put into one.
pub fn container(a: &Architecture, names: &TensorNames, transformer: &Trained, dtype: DType) -> Result<Vec<u8>> {
    let failed = |e: safetensors::SafeTensorError| Error::Checkpoint {
        file: "the trained weights".to_owned(),
        problem: e.to_string(),
    };
    let encoded: Vec<_> = tensors(a, names, transformer)
        .into_iter()
        .map(|(name, shape, values)| {
            let bytes: Vec<u8> = match dtype {
                DType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            (name, shape, bytes)
        })
        .collect();
    let dtype = if dtype == DType::BF16 { dtype } else { DType::F32 };
    let mut views = Vec::with_capacity(encoded.len());
    for (name, shape, bytes) in &encoded {
        views.push((name, TensorView::new(dtype, shape.clone(), bytes).map_err(failed)?));
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).map_err(failed)
}

/// Every tensor by its name in a checkpoint. What is stacked here lies apart there.
fn tensors(a: &Architecture, names: &TensorNames, t: &Trained) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut out = Vec::new();
    let mut matrices = |matrix: &Dense, parts: &[(&str, usize, usize)]| {
        let values = floats(matrix.weight.val());
        let mut at = 0;
        for (name, rows, cols) in parts {
            out.push(((*name).to_owned(), vec![*rows, *cols], values[at..at + rows * cols].to_vec()));
            at += rows * cols;
        }
    };
    matrices(&t.embedding, &[(&names.embedding, a.embedding_rows, a.hidden)]);
    if let (Some(head), Some(name)) = (&t.head, &names.head) {
        matrices(head, &[(name, a.embedding_rows, a.hidden)]);
    }
    let mut norms = vec![(&names.final_norm, &t.norm)];
    for (block, layer) in t.blocks.iter().zip(&names.layers) {
        let parts = layer_matrices(a, layer);
        matrices(&block.qkv, &parts[..3]);
        matrices(&block.attention_out, &parts[3..4]);
        matrices(&block.gate_up, &parts[4..6]);
        matrices(&block.down, &parts[6..]);
        norms.extend([(&layer.attention_norm, &block.attention_norm), (&layer.mlp_norm, &block.mlp_norm)]);
    }
    out.extend(norms.into_iter().map(|(name, norm)| (name.clone(), vec![a.hidden], floats(norm.weight.val()))));
    out
}
