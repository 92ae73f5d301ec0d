//! Phi-1, Phi-1.5 and Phi-2 (`PhiForCausalLM`): attention and feed-forward part side by side on one norm,
//! LayerNorm, partial rotary embedding, biases everywhere, the head's too.

use super::{Family, Keys, rotary};
use crate::architecture::{Architecture, Attention, BlockSpec, FeedForward, Norm, NormKind, Visibility};
use crate::error::Result;
use crate::tensors::{self, BlockRole, Role, Stored, TensorSpec};

pub(super) const FAMILY: Family =
    Family { architectures: &["PhiForCausalLM"], parse, tensors, chat_template: None, goldens: &["phi2"] };

fn parse(keys: &Keys) -> Result<Architecture> {
    keys.refuse("qk_layernorm", "no released checkpoint of the family has it and no kernel computes it")?;
    let hidden = keys.size(&["hidden_size"])?;
    let heads = keys.size(&["num_attention_heads"])?;
    let head_dim = super::head_dim(keys, hidden, heads)?;
    let max_positions = keys.size(&["max_position_embeddings"])?;
    let norm = Norm { kind: NormKind::Layer, eps: keys.optional_number(&["layer_norm_eps"])?.unwrap_or(1e-5) as f32 };
    let theta = keys.optional_number(&["rope_theta"])?.unwrap_or(10_000.0);
    let rotated = (keys.optional_number(&["partial_rotary_factor"])?.unwrap_or(0.5) * head_dim as f64) as usize;
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
            qk_norm: None,
            qkv_bias: true,
            out_bias: true,
        },
        feed_forward: FeedForward {
            gated: false,
            activation: super::gpt2::activation(keys, "hidden_act")?,
            hidden: keys.size(&["intermediate_size"])?,
            bias: true,
        },
        attention_norm: norm,
        after_attention_norm: None,
        feed_forward_norm: None,
        after_feed_forward_norm: None,
    };
    let vocab_size = keys.size(&["vocab_size"])?;
    Ok(Architecture {
        name: "PhiForCausalLM".to_owned(),
        vocab_size,
        embedding_rows: vocab_size,
        hidden,
        blocks: super::uniform(keys, &["num_hidden_layers"], &block)?,
        visibility: Visibility::Causal,
        rotaries: vec![rotary::parse(keys, theta, rotated, max_positions)?],
        learned_positions: None,
        final_norm: norm,
        tied_head: keys.flag("tie_word_embeddings", false)?,
        head_bias: true,
        embedding_scale: 1.0,
        logit_scale: 1.0,
        max_positions,
        shifted_logits: true,
        tokens: super::token_ids(keys)?,
    })
}

fn tensors(a: &Architecture, _has: &dyn Fn(&str) -> bool) -> Vec<TensorSpec> {
    tensors::list(a, &|role| {
        let block = if let Role::Block(set, _) = role { format!("model.layers.{set}.") } else { String::new() };
        let (layers, leaf): (&[&str], &str) = match role {
            Role::Embedding => (&["model.embed_tokens"], "weight"),
            Role::FinalNorm => (&["model.final_layernorm"], "weight"),
            Role::FinalNormBias => (&["model.final_layernorm"], "bias"),
            Role::Head => (&["lm_head"], "weight"),
            Role::HeadBias => (&["lm_head"], "bias"),
            Role::Positions => (&[], ""),
            Role::Block(_, role) => match role {
                BlockRole::AttentionNorm => (&["input_layernorm"], "weight"),
                BlockRole::AttentionNormBias => (&["input_layernorm"], "bias"),
                BlockRole::Qkv => (&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "weight"),
                BlockRole::QkvBias => (&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "bias"),
                BlockRole::AttentionOut => (&["self_attn.dense"], "weight"),
                BlockRole::AttentionOutBias => (&["self_attn.dense"], "bias"),
                BlockRole::Up => (&["mlp.fc1"], "weight"),
                BlockRole::UpBias => (&["mlp.fc1"], "bias"),
                BlockRole::Down => (&["mlp.fc2"], "weight"),
                BlockRole::DownBias => (&["mlp.fc2"], "bias"),
                _ => (&[], ""),
            },
        };
        layers.iter().map(|layer| (format!("{block}{layer}.{leaf}"), Stored::default())).collect()
    })
}
