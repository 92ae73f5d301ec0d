//! GPT-2 (`GPT2LMHeadModel`): learned positions, LayerNorm, biases, matrices stored `[in, out]` (Conv1D), queries,
//! keys and values in one tensor, a tied head.

use super::{Family, Keys};
use crate::architecture::{Activation, Architecture, Attention, BlockSpec, FeedForward, Norm, NormKind, Visibility};
use crate::error::{Error, Result};
use crate::tensors::{self, BlockRole, Role, Stored, TensorSpec};

pub(super) const FAMILY: Family =
    Family { architectures: &["GPT2LMHeadModel"], parse, tensors, chat_template: None, goldens: &["gpt2"] };

/// The activation that a key names as transformers does.
pub(super) fn activation(keys: &Keys, name: &str) -> Result<Activation> {
    match keys.text(name)?.unwrap_or("gelu_new") {
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(Error::Unsupported {
            what: format!("{}: {name} = {other:?}", keys.file()),
            why: "supported here: gelu_new, gelu_pytorch_tanh, gelu_fast, gelu, silu".to_owned(),
        }),
    }
}

fn parse(keys: &Keys) -> Result<Architecture> {
    keys.refuse("add_cross_attention", "there is no second sequence to attend to")?;
    let hidden = keys.size(&["n_embd", "hidden_size"])?;
    let heads = keys.size(&["n_head", "num_attention_heads"])?;
    if heads == 0 || !hidden.is_multiple_of(heads) {
        let problem = format!("{heads} heads do not divide the hidden size {hidden}");
        return Err(Error::config(keys.file(), "n_head", problem));
    }
    let head_dim = hidden / heads;
    let positions = keys.size(&["n_positions", "n_ctx", "max_position_embeddings"])?;
    let eps = keys.optional_number(&["layer_norm_epsilon"])?.unwrap_or(1e-5) as f32;
    let norm = Norm { kind: NormKind::Layer, eps };
    let scale = if keys.flag("scale_attn_weights", true)? { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
    let by_layer = keys.flag("scale_attn_by_inverse_layer_idx", false)?;
    let width = match keys.optional_size(&["n_inner"])? {
        Some(width) => width,
        None => hidden.checked_mul(4).ok_or_else(|| Error::config(keys.file(), "n_embd", "overflows"))?,
    };
    let block = BlockSpec {
        weights: 0,
        cache: 0,
        attention: Attention {
            heads,
            kv_heads: heads,
            head_dim,
            scale: scale as f32,
            window: None,
            rotary: None,
            qk_norm: None,
            qkv_bias: true,
            out_bias: true,
        },
        feed_forward: FeedForward {
            gated: false,
            activation: activation(keys, "activation_function")?,
            hidden: width,
            bias: true,
        },
        attention_norm: norm,
        after_attention_norm: None,
        feed_forward_norm: Some(norm),
        after_feed_forward_norm: None,
    };
    let mut blocks = super::uniform(keys, &["n_layer", "num_hidden_layers"], &block)?;
    if by_layer {
        for (i, block) in blocks.iter_mut().enumerate() {
            block.attention.scale = (scale / (i + 1) as f64) as f32;
        }
    }
    let vocab_size = keys.size(&["vocab_size"])?;
    Ok(Architecture {
        name: "GPT2LMHeadModel".to_owned(),
        vocab_size,
        embedding_rows: vocab_size,
        hidden,
        blocks,
        visibility: Visibility::Causal,
        rotaries: Vec::new(),
        learned_positions: Some(positions),
        final_norm: norm,
        tied_head: keys.flag("tie_word_embeddings", true)?,
        head_bias: false,
        embedding_scale: 1.0,
        logit_scale: 1.0,
        max_positions: positions,
        shifted_logits: true,
        tokens: super::token_ids(keys)?,
    })
}

fn tensors(a: &Architecture, has: &dyn Fn(&str) -> bool) -> Vec<TensorSpec> {
    // The first published files leave the prefix out.
    let root = if has("wte.weight") { "" } else { "transformer." };
    let transposed = Stored { transposed: true, ..Stored::default() };
    tensors::list(a, &|role| {
        let (name, stored) = match role {
            Role::Embedding => (format!("{root}wte.weight"), Stored::default()),
            Role::Positions => (format!("{root}wpe.weight"), Stored::default()),
            Role::FinalNorm => (format!("{root}ln_f.weight"), Stored::default()),
            Role::FinalNormBias => (format!("{root}ln_f.bias"), Stored::default()),
            Role::Head => ("lm_head.weight".to_owned(), Stored::default()),
            Role::HeadBias => return Vec::new(),
            Role::Block(set, role) => {
                let (leaf, stored) = match role {
                    BlockRole::AttentionNorm => ("ln_1.weight", Stored::default()),
                    BlockRole::AttentionNormBias => ("ln_1.bias", Stored::default()),
                    BlockRole::Qkv => ("attn.c_attn.weight", transposed),
                    BlockRole::QkvBias => ("attn.c_attn.bias", Stored::default()),
                    BlockRole::AttentionOut => ("attn.c_proj.weight", transposed),
                    BlockRole::AttentionOutBias => ("attn.c_proj.bias", Stored::default()),
                    BlockRole::FeedForwardNorm => ("ln_2.weight", Stored::default()),
                    BlockRole::FeedForwardNormBias => ("ln_2.bias", Stored::default()),
                    BlockRole::Up => ("mlp.c_fc.weight", transposed),
                    BlockRole::UpBias => ("mlp.c_fc.bias", Stored::default()),
                    BlockRole::Down => ("mlp.c_proj.weight", transposed),
                    BlockRole::DownBias => ("mlp.c_proj.bias", Stored::default()),
                    _ => return Vec::new(),
                };
                (format!("{root}h.{set}.{leaf}"), stored)
            }
        };
        vec![(name, stored)]
    })
}
