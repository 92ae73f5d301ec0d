//! The registry of model families: `architectures[0]` of a config.json leads to a parser and to the
//! names of the family's tensors.
//!
//! Dispatch is on `architectures[0]` and never on `model_type`: LLaDA-8B and LLaDA-MoE both call
//! themselves "llada". Adding a family is one file here, one row in [`FAMILIES`] and one golden.

mod keys;
mod llada;

use serde_json::Value;

use crate::architecture::{Architecture, TokenIds};
use crate::error::{Error, Result};

pub use keys::Keys;

/// One family of models.
pub struct Family {
    /// Values of `architectures[0]` that belong to it.
    pub architectures: &'static [&'static str],
    /// Parses the config.
    pub parse: fn(&Keys) -> Result<Architecture>,
    /// Names of its tensors.
    pub tensors: fn(&Architecture) -> TensorNames,
    /// Chat template (Jinja) where the checkpoint brings none.
    pub chat_template: Option<&'static str>,
    /// Golden folder under `tests/golden` that pins it.
    pub golden: &'static str,
}

/// Every family this build can run.
pub static FAMILIES: &[Family] = &[llada::FAMILY];

/// Full tensor names of a model, matched whole: leaf names repeat (LLaDA's `ff_out` is both the
/// head and every block's down projection).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorNames {
    /// Token embedding `[embedding_rows, hidden]`.
    pub embedding: String,
    /// Norm before the head `[hidden]`.
    pub final_norm: String,
    /// Head `[embedding_rows, hidden]`; `None` where it is tied to the embedding.
    pub head: Option<String>,
    /// One entry a block.
    pub layers: Vec<LayerNames>,
}

/// Tensor names of one block, `[out, in]` matrices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerNames {
    /// Norm before attention `[hidden]`.
    pub attention_norm: String,
    /// Query projection `[heads * head_dim, hidden]`.
    pub q: String,
    /// Key projection `[kv_heads * head_dim, hidden]`.
    pub k: String,
    /// Value projection `[kv_heads * head_dim, hidden]`.
    pub v: String,
    /// Attention output `[hidden, heads * head_dim]`.
    pub attention_out: String,
    /// Norm before the MLP `[hidden]`.
    pub mlp_norm: String,
    /// Gate projection `[mlp hidden, hidden]`.
    pub gate: String,
    /// Up projection `[mlp hidden, hidden]`.
    pub up: String,
    /// Down projection `[hidden, mlp hidden]`.
    pub down: String,
}

/// Finds the family of a config and parses it.
///
/// # Errors
/// [`Error::Config`] where the text is no JSON object or a key is missing, mistyped or contradicts
/// another; [`Error::UnknownArchitecture`]; [`Error::Unsupported`] for settings that would change
/// the result and are not implemented.
pub fn parse_config(file: &str, text: &str) -> Result<(&'static Family, Architecture)> {
    let value: Value =
        serde_json::from_str(text).map_err(|e| Error::config(file, "(file)", format!("not valid JSON: {e}")))?;
    if !value.is_object() {
        return Err(Error::config(file, "(file)", "expected a JSON object of settings"));
    }
    let name = value.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).ok_or_else(|| {
        Error::config(file, "architectures", "missing; expected a list with one name, such as [\"LLaDAModelLM\"]")
    })?;
    let family =
        FAMILIES.iter().find(|f| f.architectures.contains(&name)).ok_or_else(|| Error::UnknownArchitecture {
            file: file.to_owned(),
            found: keys::excerpt(&Value::from(name)),
            known: FAMILIES.iter().flat_map(|f| f.architectures).copied().collect::<Vec<_>>().join(", "),
        })?;
    let architecture = (family.parse)(&Keys::new(file, &value))?;
    check(file, &architecture)?;
    Ok((family, architecture))
}

/// Largest value accepted for any single dimension: far above every known model, far below
/// anything whose products could overflow.
const DIMENSION_LIMIT: usize = 1 << 24;

/// What must hold for any family: no zero or absurd dimension, heads that divide, ids in range.
fn check(file: &str, a: &Architecture) -> Result<()> {
    let at = &a.attention;
    for (key, value) in [
        ("vocab_size", a.vocab_size),
        ("embedding rows", a.embedding_rows),
        ("hidden size", a.hidden),
        ("layers", a.layers),
        ("attention heads", at.heads),
        ("key/value heads", at.kv_heads),
        ("head dimension", at.head_dim),
        ("MLP hidden size", a.mlp.hidden),
        ("maximum positions", a.max_positions),
    ] {
        if value == 0 || value > DIMENSION_LIMIT {
            return Err(Error::config(file, key, format!("{value} is outside 1..={DIMENSION_LIMIT}")));
        }
    }
    if a.layers > 4096 {
        return Err(Error::config(file, "layers", format!("{} layers; at most 4096 are accepted", a.layers)));
    }
    if !at.heads.is_multiple_of(at.kv_heads) {
        let problem = format!("{} query heads cannot be shared by {} key/value heads", at.heads, at.kv_heads);
        return Err(Error::config(file, "key/value heads", problem));
    }
    if a.rotary.dims > at.head_dim || !a.rotary.dims.is_multiple_of(2) {
        let problem = format!("{} rotated elements in a head of {}; must be even and fit", a.rotary.dims, at.head_dim);
        return Err(Error::config(file, "rotary", problem));
    }
    if !(a.rotary.theta.is_finite() && a.rotary.theta > 0.0) {
        return Err(Error::config(file, "rope_theta", format!("{} must be positive", a.rotary.theta)));
    }
    if !(a.norm.eps.is_finite() && a.norm.eps >= 0.0) {
        return Err(Error::config(file, "norm eps", format!("{} must not be negative", a.norm.eps)));
    }
    if a.embedding_rows < a.vocab_size {
        let problem = format!("{} rows cannot hold a vocabulary of {}", a.embedding_rows, a.vocab_size);
        return Err(Error::config(file, "embedding_size", problem));
    }
    let TokenIds { mask, eos, bos, pad } = &a.tokens;
    for (key, ids) in [
        ("mask_token_id", mask.as_slice()),
        ("eos_token_id", eos),
        ("bos_token_id", bos.as_slice()),
        ("pad_token_id", pad.as_slice()),
    ] {
        if let Some(id) = ids.iter().find(|id| **id as usize >= a.embedding_rows) {
            return Err(Error::config(file, key, format!("{id} is outside the {} embedding rows", a.embedding_rows)));
        }
    }
    Ok(())
}
