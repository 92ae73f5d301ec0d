//! Gemma 3's text models (`Gemma3ForCausalLM`): windows and rotary tables that alternate by layer, norms before
//! and after both parts of a block, norms over query and key heads, scaled embeddings, GeGLU.

use super::{Family, Keys, llama, rotary};
use crate::architecture::{Activation, Architecture, Attention, BlockSpec, FeedForward, Norm, NormKind, Visibility};
use crate::error::{Error, Result};
use crate::tensors::{self, BlockRole, Role, Stored, TensorSpec};

pub(super) const FAMILY: Family = Family {
    architectures: &["Gemma3ForCausalLM", "Gemma3TextModel"],
    parse,
    tensors,
    chat_template: None,
    goldens: &["gemma3-alternating"],
};

fn parse(keys: &Keys) -> Result<Architecture> {
    for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if keys.optional_number(&[name])?.is_some() {
            return Err(Error::Unsupported {
                what: format!("{}: {name}", keys.file()),
                why: "Gemma 3 does not use it and no kernel computes it".to_owned(),
            });
        }
    }
    keys.refuse("use_bidirectional_attention", "this family is computed causally")?;
    keys.accept_text("hidden_activation", &["gelu_pytorch_tanh"])?;
    let hidden = keys.size(&["hidden_size"])?;
    let heads = keys.size(&["num_attention_heads"])?;
    let head_dim = keys.optional_size(&["head_dim"])?.unwrap_or(256);
    let max_positions = keys.size(&["max_position_embeddings"])?;
    let norm = Norm { kind: NormKind::Rms, eps: keys.optional_number(&["rms_norm_eps"])?.unwrap_or(1e-6) as f32 };
    let bias = keys.flag("attention_bias", false)?;
    let scalar = keys.optional_number(&["query_pre_attn_scalar"])?.unwrap_or(256.0);
    if !(scalar.is_finite() && scalar > 0.0) {
        return Err(Error::config(keys.file(), "query_pre_attn_scalar", format!("{scalar} must be positive")));
    }
    let block = BlockSpec {
        weights: 0,
        cache: 0,
        attention: Attention {
            heads,
            kv_heads: keys.optional_size(&["num_key_value_heads"])?.unwrap_or(heads),
            head_dim,
            scale: (1.0 / scalar.sqrt()) as f32,
            window: None,
            rotary: Some(GLOBAL),
            qk_norm: Some(norm),
            qkv_bias: bias,
            out_bias: bias,
        },
        feed_forward: FeedForward {
            gated: true,
            activation: Activation::GeluTanh,
            hidden: keys.size(&["intermediate_size"])?,
            bias: false,
        },
        attention_norm: norm,
        after_attention_norm: Some(norm),
        feed_forward_norm: Some(norm),
        after_feed_forward_norm: Some(norm),
    };
    let mut blocks = super::uniform(keys, &["num_hidden_layers"], &block)?;
    let window = match keys.optional_size(&["sliding_window"])? {
        None if !keys.is_given("sliding_window") => Some(4096),
        given => given,
    };
    let types = keys.texts("layer_types")?;
    // Every sixth layer sees everything, where the config does not say it layer by layer.
    let pattern = keys.optional_size(&["sliding_window_pattern", "_sliding_window_pattern"])?.unwrap_or(6).max(1);
    for (i, block) in blocks.iter_mut().enumerate() {
        let local = match &types {
            Some(types) => types.get(i) == Some(&"sliding_attention"),
            None => !(i + 1).is_multiple_of(pattern),
        };
        if local {
            block.attention.window = window;
            block.attention.rotary = Some(LOCAL);
        }
    }
    let vocab_size = keys.size(&["vocab_size"])?;
    Ok(Architecture {
        name: "Gemma3ForCausalLM".to_owned(),
        vocab_size,
        embedding_rows: vocab_size,
        hidden,
        blocks,
        visibility: Visibility::Causal,
        rotaries: rotaries(keys, head_dim, max_positions)?,
        learned_positions: None,
        final_norm: norm,
        tied_head: keys.flag("tie_word_embeddings", true)?,
        head_bias: false,
        embedding_scale: (hidden as f64).sqrt() as f32,
        logit_scale: 1.0,
        max_positions,
        shifted_logits: true,
        tokens: super::token_ids(keys)?,
    })
}

/// Index of the table of layers that see everything.
const GLOBAL: usize = 0;
/// Index of the table of layers with a window.
const LOCAL: usize = 1;

fn rotaries(keys: &Keys, dims: usize, max_positions: usize) -> Result<Vec<crate::architecture::Rotary>> {
    let theta = |name: &str, usual: f64| Ok::<_, Error>(keys.optional_number(&[name])?.unwrap_or(usual));
    let (global, local) = (theta("rope_theta", 1e6)?, theta("rope_local_base_freq", 1e4)?);
    // transformers 5 gives both tables' settings by the kind of layer.
    let by_kind = keys.object("rope_parameters")?;
    let of_kind = |kind: &str| by_kind.as_ref().map_or(Ok(None), |k| k.object(kind));
    let scaling = keys.object("rope_scaling")?;
    let scaling = match of_kind("full_attention")? {
        Some(own) => Some(own),
        None => scaling,
    };
    Ok(vec![
        rotary::table(keys, scaling.as_ref(), global, dims, max_positions)?,
        rotary::table(keys, of_kind("sliding_attention")?.as_ref(), local, dims, max_positions)?,
    ])
}

fn tensors(a: &Architecture, has: &dyn Fn(&str) -> bool) -> Vec<TensorSpec> {
    let root = if has("embed_tokens.weight") { "" } else { "model." };
    // Norms are stored as what is added to 1.
    let norm = |name: String| vec![(name, Stored { plus_one: true, ..Stored::default() })];
    tensors::list(a, &|role| match role {
        Role::Embedding => vec![(format!("{root}embed_tokens.weight"), Stored::default())],
        Role::FinalNorm => norm(format!("{root}norm.weight")),
        Role::Head => vec![("lm_head.weight".to_owned(), Stored::default())],
        Role::Block(set, role) => {
            let prefix = format!("{root}layers.{set}.");
            match role {
                BlockRole::AttentionNorm => norm(format!("{prefix}input_layernorm.weight")),
                BlockRole::QueryNorm => norm(format!("{prefix}self_attn.q_norm.weight")),
                BlockRole::KeyNorm => norm(format!("{prefix}self_attn.k_norm.weight")),
                BlockRole::AfterAttentionNorm => norm(format!("{prefix}post_attention_layernorm.weight")),
                BlockRole::FeedForwardNorm => norm(format!("{prefix}pre_feedforward_layernorm.weight")),
                BlockRole::AfterFeedForwardNorm => norm(format!("{prefix}post_feedforward_layernorm.weight")),
                other => llama::block(&prefix, other),
            }
        }
        _ => Vec::new(),
    })
}
