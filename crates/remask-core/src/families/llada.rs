//! LLaDA-8B, LLaDA-1.5 and models of their shape (`LLaDAModelLM`): bidirectional attention, SwiGLU,
//! RMSNorm, rotary halves, no biases, OLMo-style keys and tensor names.

use super::{Family, Keys, rotary};
use crate::architecture::{
    Activation, Architecture, Attention, BlockSpec, FeedForward, Norm, NormKind, TokenIds, Visibility,
};
use crate::error::{Error, Result};
use crate::tensors::{self, BlockRole, Role, Stored, TensorSpec};

pub(super) const FAMILY: Family = Family {
    architectures: &["LLaDAModelLM"],
    parse,
    tensors,
    chat_template: Some(CHAT_TEMPLATE),
    goldens: &["llada-mha", "llada-gqa-tied"],
};

/// LLaDA's stock conversation form: one header a message, content trimmed, nothing between messages.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>\
{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}";

fn parse(keys: &Keys) -> Result<Architecture> {
    let absent = "the LLaDA family does not use it and no kernel computes it";
    for name in ["alibi", "include_bias", "include_qkv_bias", "bias_for_layer_norm", "attention_layer_norm"] {
        keys.refuse(name, absent)?;
    }
    keys.accept_text("layer_norm_type", &["rms"])?;
    keys.accept_text("block_type", &["llama"])?;
    keys.accept_text("activation_type", &["silu"])?;
    if !keys.flag("rope", true)? {
        return Err(Error::Unsupported {
            what: format!("{}: rope = false", keys.file()),
            why: "learned positions are not part of this family".to_owned(),
        });
    }
    if keys.optional_size(&["block_group_size"])?.unwrap_or(1) != 1 {
        return Err(Error::Unsupported {
            what: format!("{}: block_group_size", keys.file()),
            why: "grouped blocks change the tensor names; save the model with block_group_size 1".to_owned(),
        });
    }

    let hidden = keys.size(&["d_model", "hidden_size"])?;
    let heads = keys.size(&["n_heads", "num_attention_heads"])?;
    let kv_heads = if keys.flag("multi_query_attention", false)? {
        1
    } else {
        keys.optional_size(&["n_kv_heads", "num_key_value_heads"])?.unwrap_or(heads)
    };
    if heads == 0 || !hidden.is_multiple_of(heads) {
        let problem = format!("{heads} heads do not divide the hidden size {hidden}");
        return Err(Error::config(keys.file(), "n_heads", problem));
    }
    let head_dim = hidden / heads;
    let mlp_hidden = match keys.optional_size(&["mlp_hidden_size", "intermediate_size"])? {
        Some(width) => width,
        None => keys
            .size(&["mlp_ratio"])?
            .checked_mul(hidden)
            .ok_or_else(|| Error::config(keys.file(), "mlp_ratio", "the MLP width overflows"))?,
    };
    let vocab_size = keys.size(&["vocab_size"])?;
    let scale = |on: bool, factor: f64| if on { factor as f32 } else { 1.0 };
    let mask = keys.token_ids("mask_token_id")?.first().copied().ok_or_else(|| {
        Error::config(keys.file(), "mask_token_id", "missing; a diffusion model cannot be decoded without it")
    })?;
    let max_positions = keys.size(&["max_sequence_length", "max_position_embeddings"])?;
    let norm = Norm { kind: NormKind::Rms, eps: keys.number(&["rms_norm_eps"])? as f32 };
    let theta = keys.number(&["rope_theta"])?;
    let block = BlockSpec {
        weights: 0,
        cache: 0,
        attention: Attention {
            heads,
            kv_heads,
            head_dim,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            window: None,
            rotary: Some(0),
            qk_norm: None,
            qkv_bias: false,
            out_bias: false,
        },
        feed_forward: FeedForward { gated: true, activation: Activation::Silu, hidden: mlp_hidden, bias: false },
        attention_norm: norm,
        after_attention_norm: None,
        feed_forward_norm: Some(norm),
        after_feed_forward_norm: None,
    };
    Ok(Architecture {
        name: "LLaDAModelLM".to_owned(),
        vocab_size,
        embedding_rows: keys.optional_size(&["embedding_size"])?.unwrap_or(vocab_size),
        hidden,
        blocks: super::uniform(keys, &["n_layers", "num_hidden_layers"], &block)?,
        visibility: Visibility::All,
        rotaries: vec![rotary::parse(keys, theta, head_dim, max_positions)?],
        learned_positions: None,
        final_norm: norm,
        tied_head: keys.required_flag(&["weight_tying", "tie_word_embeddings"])?,
        head_bias: false,
        embedding_scale: scale(keys.flag("input_emb_norm", false)?, (hidden as f64).sqrt()),
        logit_scale: scale(keys.flag("scale_logits", false)?, 1.0 / (hidden as f64).sqrt()),
        max_positions,
        shifted_logits: false,
        tokens: TokenIds {
            mask: Some(mask),
            eos: keys.token_ids("eos_token_id")?,
            bos: keys.token_ids("bos_token_id")?.first().copied(),
            pad: keys.token_ids("pad_token_id")?.first().copied(),
        },
    })
}

fn tensors(a: &Architecture, _has: &dyn Fn(&str) -> bool) -> Vec<TensorSpec> {
    let root = "model.transformer";
    tensors::list(a, &|role| {
        let leaves: &[&str] = match role {
            Role::Embedding => &["wte"],
            Role::FinalNorm => &["ln_f"],
            Role::Head => &["ff_out"],
            Role::Block(_, block) => match block {
                BlockRole::AttentionNorm => &["attn_norm"],
                BlockRole::Qkv => &["q_proj", "k_proj", "v_proj"],
                BlockRole::AttentionOut => &["attn_out"],
                BlockRole::FeedForwardNorm => &["ff_norm"],
                BlockRole::Up => &["ff_proj", "up_proj"],
                BlockRole::Down => &["ff_out"],
                _ => &[],
            },
            _ => &[],
        };
        let block = if let Role::Block(set, _) = role { format!("blocks.{set}.") } else { String::new() };
        let name = |leaf: &&str| (format!("{root}.{block}{leaf}.weight"), Stored::default());
        leaves.iter().map(name).collect()
    })
}
