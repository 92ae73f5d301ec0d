//! Rotary settings of a config.json: `rope_theta` with `rope_scaling`, or transformers 5's `rope_parameters`.

use super::Keys;
use crate::architecture::{Rotary, RotaryPairing, RotaryScaling};
use crate::error::{Error, Result};

/// A table of `dims` rotated elements. `theta` is the base where the scaling's own settings give none,
/// `max_positions` the positions of a config that does not name those of the first training.
pub(super) fn parse(keys: &Keys, theta: f64, dims: usize, max_positions: usize) -> Result<Rotary> {
    let scaling = match keys.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => keys.object("rope_parameters")?,
    };
    table(keys, scaling.as_ref(), theta, dims, max_positions)
}

/// As [`parse`], with the settings of the scaling given apart.
pub(super) fn table(
    keys: &Keys,
    scaling: Option<&Keys>,
    theta: f64,
    dims: usize,
    max_positions: usize,
) -> Result<Rotary> {
    let theta = match scaling {
        Some(s) => s.optional_number(&["rope_theta"])?.unwrap_or(theta),
        None => theta,
    };
    if !(theta.is_finite() && theta > 0.0) {
        return Err(Error::config(keys.file(), "rope_theta", format!("{theta} must be positive")));
    }
    let scaling = scaling.map_or(Ok(RotaryScaling::None), |s| scaled(s, dims, max_positions))?;
    Ok(Rotary { theta, dims, pairing: RotaryPairing::Halves, scaling })
}

fn scaled(s: &Keys, dims: usize, max_positions: usize) -> Result<RotaryScaling> {
    let positive = |name: &str, value: f64| {
        let right = value.is_finite() && value > 0.0;
        let key = format!("rope_scaling.{name}");
        if right { Ok(value) } else { Err(Error::config(s.file(), &key, format!("{value} must be positive"))) }
    };
    let needed = |name: &str| positive(name, s.number(&[name])?);
    let or = |name: &str, default: f64| positive(name, s.optional_number(&[name])?.unwrap_or(default));
    let kind = match s.text("rope_type")? {
        Some(kind) => kind,
        None => s.text("type")?.unwrap_or("default"),
    };
    match kind {
        "default" => Ok(RotaryScaling::None),
        "linear" => Ok(RotaryScaling::Linear(needed("factor")?)),
        "llama3" => {
            let (factor, low, high) = (needed("factor")?, needed("low_freq_factor")?, needed("high_freq_factor")?);
            if low >= high {
                let problem = format!("{low} must be below high_freq_factor {high}");
                return Err(Error::config(s.file(), "rope_scaling.low_freq_factor", problem));
            }
            let original = needed("original_max_position_embeddings")?;
            Ok(RotaryScaling::Llama3 { factor, low, high, original })
        }
        "yarn" => {
            let factor = needed("factor")?;
            // The paper's temperature, 0.1 ln(s) + 1; DeepSeek's exports give two of them.
            let heat = |scale: f64| if factor > 1.0 { 0.1 * scale * factor.ln() + 1.0 } else { 1.0 };
            let mscales = s.optional_number(&["mscale"])?.zip(s.optional_number(&["mscale_all_dim"])?);
            let usual = match mscales {
                Some((own, all)) if own != 0.0 && all != 0.0 => heat(own) / heat(all),
                _ => heat(1.0),
            };
            Ok(RotaryScaling::Yarn {
                factor,
                beta_fast: or("beta_fast", 32.0)?,
                beta_slow: or("beta_slow", 1.0)?,
                original: or("original_max_position_embeddings", max_positions as f64)?,
                attention: or("attention_factor", usual)?,
                truncate: s.flag("truncate", true)?,
            })
        }
        "factors" => {
            let factors = s.numbers("factors")?.unwrap_or_default();
            if factors.len() != dims / 2 {
                let problem = format!("{} factors for {} pairs", factors.len(), dims / 2);
                return Err(Error::config(s.file(), "rope_scaling.factors", problem));
            }
            factors.iter().try_for_each(|f| positive("factors", *f).map(|_| ()))?;
            Ok(RotaryScaling::Factors(factors))
        }
        other => Err(Error::Unsupported {
            what: format!("{}: rope_scaling of type {other:?}", s.file()),
            why: "supported here: default, linear, llama3, yarn; remove it to use the model up to its first length"
                .to_owned(),
        }),
    }
}
