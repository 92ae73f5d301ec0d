//! `remask synth`: a checkpoint of a given shape with random weights, where only the shape matters.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::PathBuf;

use clap::ValueEnum;
use half::f16;
use remask_core::checkpoint::INDEX_FILE;
use remask_core::families::parse_config;
use remask_core::random::{Purpose, step_key, threefry};
use remask_core::tensors::{TensorKind, TensorSpec};
use remask_core::{DType, Error, text};
use safetensors::View;
use serde_json::json;

use crate::Outcome;

#[derive(clap::Args)]
pub struct Args {
    /// Folder to write; made where it does not exist
    output: PathBuf,
    /// Shape of the model
    #[arg(long, value_enum, default_value = "llada-8b")]
    shape: Shape,
    /// Shape of this config.json, of any family
    #[arg(long, value_name = "FILE", conflicts_with_all = ["shape", "layers"])]
    config: Option<PathBuf>,
    /// Blocks, where fewer than the shape's are wanted
    #[arg(long)]
    layers: Option<usize>,
    /// Bytes of one shard at most, roughly
    #[arg(long, default_value_t = 5_000_000_000)]
    shard_bytes: usize,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Shapes that can be made.
#[derive(Clone, Copy, ValueEnum)]
pub enum Shape {
    /// LLaDA-8B: 32 layers, hidden 4096, MLP 12288, vocabulary 126464
    #[value(name = "llada-8b")]
    Llada8b,
    /// The bundled tales-33m: 8 layers, hidden 512, MLP 1344, vocabulary 8192
    #[value(name = "tales-33m")]
    Tales33m,
    /// GPT-2 of 124 million parameters: 12 layers, hidden 768, vocabulary 50257
    #[value(name = "gpt2-124m")]
    Gpt2,
    /// Phi-2: 32 layers, hidden 2560, vocabulary 51200
    #[value(name = "phi-2")]
    Phi2,
    /// Mistral-7B: 32 layers, hidden 4096, window 4096, vocabulary 32000
    #[value(name = "mistral-7b")]
    Mistral7b,
    /// A model of a few hundred kilobytes
    Tiny,
}

impl Shape {
    /// The config.json of the shape, with another number of blocks where `layers` says so.
    pub fn config(self, layers: Option<usize>) -> serde_json::Value {
        let llada = |hidden, own, heads, mlp, vocabulary, mask, eos| {
            json!({
                "architectures": ["LLaDAModelLM"], "model_type": "llada",
                "d_model": hidden, "n_layers": layers.unwrap_or(own), "n_heads": heads, "n_kv_heads": heads,
                "mlp_hidden_size": mlp, "vocab_size": vocabulary, "embedding_size": vocabulary,
                "max_sequence_length": 4096, "rope": true, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
                "layer_norm_type": "rms", "block_type": "llama", "activation_type": "silu", "weight_tying": false,
                "mask_token_id": mask, "eos_token_id": eos, "pad_token_id": eos,
            })
        };
        match self {
            Self::Llada8b => llada(4096, 32, 32, 12288, 126_464, 126_336, 126_081),
            Self::Tales33m => llada(512, 8, 8, 1344, 8192, 8191, 8186),
            Self::Tiny => llada(64, 2, 4, 128, 256, 255, 254),
            Self::Gpt2 => json!({
                "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768,
                "n_layer": layers.unwrap_or(12), "n_head": 12, "n_positions": 1024, "vocab_size": 50_257,
                "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
                "bos_token_id": 50_256, "eos_token_id": 50_256,
            }),
            Self::Phi2 => json!({
                "architectures": ["PhiForCausalLM"], "model_type": "phi", "hidden_size": 2560,
                "num_hidden_layers": layers.unwrap_or(32), "num_attention_heads": 32, "intermediate_size": 10_240,
                "max_position_embeddings": 2048, "partial_rotary_factor": 0.4, "rope_theta": 10_000.0,
                "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "vocab_size": 51_200, "tie_word_embeddings": false,
                "bos_token_id": 50_256, "eos_token_id": 50_256,
            }),
            Self::Mistral7b => json!({
                "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 4096,
                "num_hidden_layers": layers.unwrap_or(32), "num_attention_heads": 32, "num_key_value_heads": 8,
                "intermediate_size": 14_336, "sliding_window": 4096, "max_position_embeddings": 32_768,
                "rope_theta": 10_000.0, "hidden_act": "silu", "rms_norm_eps": 1e-5, "vocab_size": 32_000,
                "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
            }),
        }
    }
}

/// A tensor of f16 values that are made when it is written.
struct Random<'a> {
    shape: Vec<usize>,
    /// Value of every 16 random bits; one entry for constant tensors.
    values: &'a [f16],
    seed: u64,
}

impl View for &Random<'_> {
    fn dtype(&self) -> DType {
        DType::F16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut out: Vec<u8> = Vec::with_capacity(self.data_len() + 8);
        // xorshift64*: these weights need to be varied and quick, not good.
        let mut state = self.seed | 1;
        while out.len() < self.data_len() {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
            for i in 0..4 {
                let value = self.values[(bits >> (16 * i)) as u16 as usize % self.values.len()];
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        out.truncate(self.data_len());
        Cow::Owned(out)
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * 2
    }
}

/// Of random weights: values that a tensor's elements are drawn from.
struct Values {
    weights: Vec<f16>,
    biases: Vec<f16>,
}

impl Values {
    fn new() -> Self {
        let uniform =
            |most: f32| (0..=u16::MAX).map(|i| f16::from_f32((f32::from(i) / 32767.5 - 1.0) * most)).collect();
        // Uniform in +-0.035 has the standard deviation 0.02 of common initialisations.
        Self { weights: uniform(0.035), biases: uniform(0.01) }
    }

    /// For a tensor as its checkpoint holds it.
    fn of(&self, spec: &TensorSpec) -> &[f16] {
        match spec.kind {
            TensorKind::Matrix => &self.weights,
            TensorKind::Vector if spec.role.is_bias() => &self.biases,
            // Factors of 1, which some families store as what is added to 1.
            TensorKind::Vector if spec.stored.plus_one => &[f16::ZERO],
            TensorKind::Vector => &[f16::ONE],
        }
    }
}

pub fn run(args: &Args) -> Outcome {
    let (file, text) = match &args.config {
        Some(file) => (file.display().to_string(), text::read(file)?),
        None => ("config.json".to_owned(), serde_json::to_string_pretty(&args.shape.config(args.layers))?),
    };
    let (family, a) = parse_config(&file, &text)?;
    let specs = (family.tensors)(&a, &|_| false);
    let values = Values::new();

    let mut shards: Vec<Vec<(&str, Random)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for (index, spec) in specs.iter().enumerate() {
        let [low, high] = threefry(step_key(args.seed, index as u32, Purpose::Sample), [0, 0]);
        let seed = u64::from(high) << 32 | u64::from(low);
        let tensor = Random { shape: spec.stored_shape(), values: values.of(spec), seed };
        let bytes = (&tensor).data_len();
        if filled > 0 && filled + bytes > args.shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        if let Some(last) = shards.last_mut() {
            last.push((&spec.name, tensor));
        }
    }

    std::fs::create_dir_all(&args.output).map_err(Error::io("make the folder", &args.output))?;
    let write = |name: &str, text: String| {
        let path = args.output.join(name);
        std::fs::write(&path, text).map_err(Error::io("write", path))
    };
    write("config.json", text)?;
    let mut weight_map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        safetensors::serialize_to_file(shard.iter().map(|(n, t)| (*n, t)), None, &args.output.join(&file))?;
        weight_map.extend(shard.iter().map(|(name, _)| ((*name).to_owned(), file.clone())));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write(INDEX_FILE, serde_json::to_string_pretty(&index)?)?;
    writeln!(
        stdout(),
        "{}: {} parameters, {total} bytes in {} shards",
        args.output.display(),
        a.parameters(),
        shards.len()
    )?;
    Ok(())
}
