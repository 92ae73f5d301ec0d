//! Llama and what is built like it: Llama, SmolLM, Mistral (sliding window), Qwen2 (biases of queries, keys
//! and values) and Qwen3 (norms over each query and key head).

use super::{Family, Keys, rotary};
use crate::architecture::{Activation, Architecture, Attention, BlockSpec, FeedForward, Norm, NormKind, Visibility};
use crate::error::Result;
use crate::tensors::{self, BlockRole, Role, Stored, TensorSpec};

pub(super) const FAMILY: Family = Family {
    architectures: &["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"],
    parse,
    tensors,
    chat_template: None,
    goldens: &["llama-gqa-tied", "llama3-rope", "mistral-window", "qwen2-bias", "qwen2-window-off", "qwen3"],
};

fn parse(keys: &Keys) -> Result<Architecture> {
    let name = keys.architecture().to_owned();
    let (mistral, qwen2, qwen3) =
        (name == "MistralForCausalLM", name == "Qwen2ForCausalLM", name == "Qwen3ForCausalLM");
    keys.accept_text("hidden_act", &["silu"])?;
    keys.refuse("rope_interleaved", "checkpoints of this family pair halves")?;
    let hidden = keys.size(&["hidden_size"])?;
    let heads = keys.size(&["num_attention_heads"])?;
    let head_dim = super::head_dim(keys, hidden, heads)?;
    let max_positions = keys.size(&["max_position_embeddings"])?;
    // The defaults of each family's config class in transformers.
    let norm = Norm { kind: NormKind::Rms, eps: keys.optional_number(&["rms_norm_eps"])?.unwrap_or(1e-6) as f32 };
    let theta = keys.optional_number(&["rope_theta"])?.unwrap_or(10_000.0);
    let bias = !(mistral || qwen2) && keys.flag("attention_bias", false)?;
    let block = BlockSpec {
        weights: 0,
        cache: 0,
        attention: Attention {
            heads,
            kv_heads: keys.optional_size(&["num_key_value_heads"])?.unwrap_or(heads),
            head_dim,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            window: None,
            rotary: Some(0),
            qk_norm: qwen3.then_some(norm),
            qkv_bias: qwen2 || bias,
            out_bias: bias,
        },
        feed_forward: FeedForward {
            gated: true,
            activation: Activation::Silu,
            hidden: keys.size(&["intermediate_size"])?,
            bias: keys.flag("mlp_bias", false)?,
        },
        attention_norm: norm,
        after_attention_norm: None,
        feed_forward_norm: Some(norm),
        after_feed_forward_norm: None,
    };
    let mut blocks = super::uniform(keys, &["num_hidden_layers"], &block)?;
    let window = match keys.optional_size(&["sliding_window"])? {
        // What Mistral's config class takes where a file says nothing; null switches the window off.
        None if mistral && !keys.is_given("sliding_window") => Some(4096),
        given => given,
    };
    let windowed = windowed(keys, mistral, qwen2 || qwen3, blocks.len())?;
    for (block, _) in blocks.iter_mut().zip(windowed).filter(|(_, on)| *on) {
        block.attention.window = window;
    }
    let vocab_size = keys.size(&["vocab_size"])?;
    Ok(Architecture {
        name,
        vocab_size,
        embedding_rows: vocab_size,
        hidden,
        blocks,
        visibility: Visibility::Causal,
        rotaries: vec![rotary::parse(keys, theta, head_dim, max_positions)?],
        learned_positions: None,
        final_norm: norm,
        tied_head: keys.flag("tie_word_embeddings", false)?,
        head_bias: false,
        embedding_scale: 1.0,
        logit_scale: 1.0,
        max_positions,
        shifted_logits: true,
        tokens: super::token_ids(keys)?,
    })
}

/// Which of `layers` blocks see only a window. Qwen's published configs name a window and switch it off.
fn windowed(keys: &Keys, mistral: bool, qwen: bool, layers: usize) -> Result<Vec<bool>> {
    if qwen && !keys.flag("use_sliding_window", false)? {
        return Ok(vec![false; layers]);
    }
    if let Some(types) = keys.texts("layer_types")? {
        return Ok((0..layers).map(|i| types.get(i) == Some(&"sliding_attention")).collect());
    }
    let first = if qwen { keys.optional_size(&["max_window_layers"])?.unwrap_or(28) } else { 0 };
    Ok((0..layers).map(|i| (mistral || qwen) && i >= first).collect())
}

fn tensors(a: &Architecture, has: &dyn Fn(&str) -> bool) -> Vec<TensorSpec> {
    // Some exporters leave the prefix out.
    let root = if has("embed_tokens.weight") { "" } else { "model." };
    tensors::list(a, &|role| match role {
        Role::Embedding => named(&format!("{root}embed_tokens"), "weight"),
        Role::FinalNorm => named(&format!("{root}norm"), "weight"),
        Role::Head => named("lm_head", "weight"),
        Role::Block(set, role) => block(&format!("{root}layers.{set}."), role),
        _ => Vec::new(),
    })
}

fn named(layer: &str, leaf: &str) -> Vec<(String, Stored)> {
    vec![(format!("{layer}.{leaf}"), Stored::default())]
}

/// Names of a block's tensors behind `prefix`, as Llama has them.
pub(super) fn block(prefix: &str, role: BlockRole) -> Vec<(String, Stored)> {
    let (layers, leaf): (&[&str], &str) = match role {
        BlockRole::AttentionNorm => (&["input_layernorm"], "weight"),
        BlockRole::Qkv => (&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "weight"),
        BlockRole::QkvBias => (&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "bias"),
        BlockRole::QueryNorm => (&["self_attn.q_norm"], "weight"),
        BlockRole::KeyNorm => (&["self_attn.k_norm"], "weight"),
        BlockRole::AttentionOut => (&["self_attn.o_proj"], "weight"),
        BlockRole::AttentionOutBias => (&["self_attn.o_proj"], "bias"),
        BlockRole::FeedForwardNorm => (&["post_attention_layernorm"], "weight"),
        BlockRole::Up => (&["mlp.gate_proj", "mlp.up_proj"], "weight"),
        BlockRole::UpBias => (&["mlp.gate_proj", "mlp.up_proj"], "bias"),
        BlockRole::Down => (&["mlp.down_proj"], "weight"),
        BlockRole::DownBias => (&["mlp.down_proj"], "bias"),
        _ => (&[], ""),
    };
    layers.iter().flat_map(|layer| named(&format!("{prefix}{layer}"), leaf)).collect()
}
