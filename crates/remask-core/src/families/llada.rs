//! LLaDA-8B, LLaDA-1.5 and models of their shape (`LLaDAModelLM`): bidirectional attention, SwiGLU,
//! RMSNorm, rotary halves, no biases, OLMo-style keys and tensor names.

use super::{Family, Keys, LayerNames, TensorNames};
use crate::architecture::{
    Architecture, Attention, Biases, Mlp, MlpKind, Norm, NormKind, Rotary, RotaryPairing, TokenIds, Visibility,
};
use crate::error::{Error, Result};

pub(super) const FAMILY: Family = Family {
    architectures: &["LLaDAModelLM"],
    parse,
    tensors,
    chat_template: Some(CHAT_TEMPLATE),
    golden: "llada-mha",
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
    Ok(Architecture {
        name: "LLaDAModelLM".to_owned(),
        vocab_size,
        embedding_rows: keys.optional_size(&["embedding_size"])?.unwrap_or(vocab_size),
        hidden,
        layers: keys.size(&["n_layers", "num_hidden_layers"])?,
        attention: Attention {
            heads,
            kv_heads,
            head_dim,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            visibility: Visibility::All,
        },
        norm: Norm { kind: NormKind::Rms, eps: keys.number(&["rms_norm_eps"])? as f32 },
        rotary: Rotary { theta: keys.number(&["rope_theta"])?, dims: head_dim, pairing: RotaryPairing::Halves },
        mlp: Mlp { kind: MlpKind::SwiGlu, hidden: mlp_hidden },
        biases: Biases::default(),
        tied_head: keys.required_flag(&["weight_tying", "tie_word_embeddings"])?,
        embedding_scale: scale(keys.flag("input_emb_norm", false)?, (hidden as f64).sqrt()),
        logit_scale: scale(keys.flag("scale_logits", false)?, 1.0 / (hidden as f64).sqrt()),
        max_positions: keys.size(&["max_sequence_length", "max_position_embeddings"])?,
        shifted_logits: false,
        tokens: TokenIds {
            mask: Some(mask),
            eos: keys.token_ids("eos_token_id")?,
            bos: keys.token_ids("bos_token_id")?.first().copied(),
            pad: keys.token_ids("pad_token_id")?.first().copied(),
        },
    })
}

fn tensors(a: &Architecture) -> TensorNames {
    let root = "model.transformer";
    let layer = |i: usize| {
        let name = |leaf: &str| format!("{root}.blocks.{i}.{leaf}.weight");
        LayerNames {
            attention_norm: name("attn_norm"),
            q: name("q_proj"),
            k: name("k_proj"),
            v: name("v_proj"),
            attention_out: name("attn_out"),
            mlp_norm: name("ff_norm"),
            gate: name("ff_proj"),
            up: name("up_proj"),
            down: name("ff_out"),
        }
    };
    TensorNames {
        embedding: format!("{root}.wte.weight"),
        final_norm: format!("{root}.ln_f.weight"),
        head: (!a.tied_head).then(|| format!("{root}.ff_out.weight")),
        layers: (0..a.layers).map(layer).collect(),
    }
}
