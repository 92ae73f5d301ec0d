//! What a checkpoint's generation_config.json asks for where a user asks for nothing.

use crate::error::Result;
use crate::families::Keys;

/// Sampling settings of a generation_config.json.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Defaults {
    /// See [`Sampling`](super::Sampling); `None` where the file says nothing, or not to sample.
    pub temperature: Option<f32>,
    /// As above.
    pub top_k: Option<usize>,
    /// As above.
    pub top_p: Option<f32>,
    /// As above.
    pub min_p: Option<f32>,
    /// As above, whether or not tokens are sampled.
    pub repetition_penalty: Option<f32>,
}

/// transformers' own top-k where a file that samples gives none: what it leaves out of a saved file.
const USUAL_TOP_K: usize = 50;

impl Defaults {
    /// Reads the settings. Without `do_sample` the likeliest token is taken, as transformers does.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) with the key that is mistyped.
    pub fn parse(keys: &Keys) -> Result<Self> {
        let number = |name: &str| Ok::<_, crate::Error>(keys.optional_number(&[name])?.map(|n| n as f32));
        let repetition_penalty = number("repetition_penalty")?;
        if !keys.flag("do_sample", false)? {
            return Ok(Self { repetition_penalty, ..Self::default() });
        }
        Ok(Self {
            temperature: number("temperature")?.or(Some(1.0)),
            top_k: keys.optional_size(&["top_k"])?.or(Some(USUAL_TOP_K)),
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty,
        })
    }
}
