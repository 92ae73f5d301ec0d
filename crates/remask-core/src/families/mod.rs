//! The registry of model families: `architectures[0]` of a config.json leads to a parser and to the
//! names of the family's tensors.
//!
//! Dispatch is on `architectures[0]` and never on `model_type`: LLaDA-8B and LLaDA-MoE both call
//! themselves "llada". Adding a family is one file here, one row in [`FAMILIES`] and one golden.

mod gemma3;
mod gpt2;
mod keys;
mod llada;
mod llama;
mod phi;
mod rotary;

use serde_json::Value;

use crate::architecture::{Architecture, BlockSpec, TokenIds};
use crate::error::{Error, Result};
use crate::json;
use crate::tensors::TensorSpec;

pub use keys::Keys;

/// The tensors of a family's model; the function answers whether the checkpoint has one of some name.
pub type ListTensors = fn(&Architecture, &dyn Fn(&str) -> bool) -> Vec<TensorSpec>;

/// One family of models.
pub struct Family {
    /// Values of `architectures[0]` that belong to it.
    pub architectures: &'static [&'static str],
    /// Parses the config.
    pub parse: fn(&Keys) -> Result<Architecture>,
    /// Its tensors; the function answers whether the checkpoint has a tensor of some name, since exporters
    /// differ in prefixes.
    pub tensors: ListTensors,
    /// Chat template (Jinja) where the checkpoint brings none.
    pub chat_template: Option<&'static str>,
    /// Golden folders under `tests/golden` that pin it.
    pub goldens: &'static [&'static str],
}

/// Every family this build can run.
pub static FAMILIES: &[Family] = &[llada::FAMILY, gpt2::FAMILY, phi::FAMILY, llama::FAMILY, gemma3::FAMILY];

/// Most blocks that are accepted.
const MOST_BLOCKS: usize = 4096;

/// As many blocks like `block` as the config says, each with weights, keys and values of its own.
fn uniform(keys: &Keys, names: &[&str], block: &BlockSpec) -> Result<Vec<BlockSpec>> {
    let count = keys.size(names)?;
    if !(1..=MOST_BLOCKS).contains(&count) {
        let problem = format!("{count} layers; 1 to {MOST_BLOCKS} are accepted");
        return Err(Error::config(keys.file(), names[0], problem));
    }
    Ok((0..count).map(|i| BlockSpec { weights: i, cache: i, ..block.clone() }).collect())
}

/// The special ids of an autoregressive model under their usual keys.
fn token_ids(keys: &Keys) -> Result<TokenIds> {
    Ok(TokenIds {
        mask: None,
        eos: keys.token_ids("eos_token_id")?,
        bos: keys.token_ids("bos_token_id")?.first().copied(),
        pad: keys.token_ids("pad_token_id")?.first().copied(),
    })
}

/// The size of a head: the config's own, or the hidden size shared out.
fn head_dim(keys: &Keys, hidden: usize, heads: usize) -> Result<usize> {
    if let Some(own) = keys.optional_size(&["head_dim"])? {
        return Ok(own);
    }
    if heads == 0 || !hidden.is_multiple_of(heads) {
        let problem = format!("{heads} heads do not divide the hidden size {hidden}");
        return Err(Error::config(keys.file(), "num_attention_heads", problem));
    }
    Ok(hidden / heads)
}

/// A JSON object of settings.
///
/// # Errors
/// [`Error::Config`] where the text is none.
pub fn parse_object(file: &str, text: &str) -> Result<Value> {
    let value = json::value(text.as_bytes()).map_err(|problem| Error::config(file, "(file)", problem))?;
    if value.is_object() { Ok(value) } else { Err(Error::config(file, "(file)", "expected a JSON object of settings")) }
}

/// Finds the family of a config and parses it.
///
/// # Errors
/// [`Error::Config`] where the text is no JSON object or a key is missing, mistyped or contradicts
/// another; [`Error::UnknownArchitecture`]; [`Error::Unsupported`] for settings that would change
/// the result and are not implemented.
pub fn parse_config(file: &str, text: &str) -> Result<(&'static Family, Architecture)> {
    let value = parse_object(file, text)?;
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
    let sizes = |entries: &[(&str, usize)]| match entries.iter().find(|(_, v)| *v == 0 || *v > DIMENSION_LIMIT) {
        Some((key, value)) => Err(Error::config(file, key, format!("{value} is outside 1..={DIMENSION_LIMIT}"))),
        None => Ok(()),
    };
    let eps = |eps: f32| {
        let right = eps.is_finite() && eps >= 0.0;
        if right { Ok(()) } else { Err(Error::config(file, "norm eps", format!("{eps} must not be negative"))) }
    };
    sizes(&[
        ("vocab_size", a.vocab_size),
        ("embedding rows", a.embedding_rows),
        ("hidden size", a.hidden),
        ("layers", a.blocks.len()),
        ("maximum positions", a.max_positions),
        ("learned positions", a.learned_positions.unwrap_or(1)),
    ])?;
    eps(a.final_norm.eps)?;
    for block in &a.blocks {
        let at = &block.attention;
        sizes(&[
            ("attention heads", at.heads),
            ("key/value heads", at.kv_heads),
            ("head dimension", at.head_dim),
            ("MLP hidden size", block.feed_forward.hidden),
            ("sliding_window", at.window.unwrap_or(1)),
        ])?;
        if at.heads.checked_mul(at.head_dim).is_none_or(|width| width > DIMENSION_LIMIT) {
            let problem = format!("{} heads of {} elements are more than {DIMENSION_LIMIT}", at.heads, at.head_dim);
            return Err(Error::config(file, "attention heads", problem));
        }
        if !at.heads.is_multiple_of(at.kv_heads) {
            let problem = format!("{} query heads cannot be shared by {} key/value heads", at.heads, at.kv_heads);
            return Err(Error::config(file, "key/value heads", problem));
        }
        let rotated = at.rotary.and_then(|i| a.rotaries.get(i)).map_or(0, |r| r.dims);
        if rotated > at.head_dim || !rotated.is_multiple_of(2) {
            let problem = format!("{rotated} rotated elements in a head of {}; must be even and fit", at.head_dim);
            return Err(Error::config(file, "rotary", problem));
        }
        let norms = [Some(block.attention_norm), block.after_attention_norm, block.feed_forward_norm];
        for norm in norms.into_iter().chain([block.after_feed_forward_norm, at.qk_norm]).flatten() {
            eps(norm.eps)?;
        }
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
