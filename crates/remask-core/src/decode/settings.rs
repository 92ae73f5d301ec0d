//! Settings as users give them: a preset, and what they want otherwise. The same names on the command
//! line, in a request's JSON and in the browser.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::accept::{Acceptance, Order};
use super::cache::Cache;
use super::mor::MorConfig;
use super::options::{AdaptiveSteps, DecodeOptions, Revision};

/// How far quality goes before speed. What each is made of was read off the frontier that `remask eval`
/// measures; see benches/results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// LLaDA's plain loop: a token a step, every row in every pass.
    Quality,
    /// The knee of the frontier.
    #[default]
    Balanced,
    /// As few rows as still give mostly the same answers.
    Fast,
}

impl Preset {
    /// Options of the preset for `max_tokens`.
    #[must_use]
    pub fn options(self, max_tokens: usize) -> DecodeOptions {
        let plain = DecodeOptions {
            max_tokens,
            steps: max_tokens,
            block_length: 32,
            acceptance: Acceptance::Quota(Order::LowConfidence),
            early_stop: true,
            ..DecodeOptions::default()
        };
        match self {
            Self::Quality => plain,
            Self::Balanced => DecodeOptions {
                acceptance: Acceptance::Threshold(0.9),
                cache: Cache::Vicinity { before: 16, after: 16, warm_up: 4 },
                mor: Some(MorConfig::default()),
                free_tail: true,
                ..plain
            },
            Self::Fast => DecodeOptions {
                acceptance: Acceptance::Threshold(0.6),
                cache: Cache::Vicinity { before: 8, after: 8, warm_up: 1 },
                mor: Some(MorConfig::default()),
                free_tail: true,
                ..plain
            },
        }
    }
}

/// A preset and what is wanted otherwise; everything can be left out.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeSettings {
    /// Where to start from.
    pub preset: Preset,
    /// See [`DecodeOptions::max_tokens`]; 64 where left out.
    pub max_tokens: Option<usize>,
    /// See [`DecodeOptions::steps`]; one a token where left out.
    pub steps: Option<usize>,
    /// See [`DecodeOptions::block_length`].
    pub block_length: Option<usize>,
    /// The acceptance rule, as text: `threshold:0.9`.
    #[serde(deserialize_with = "from_text")]
    pub accept: Option<Acceptance>,
    /// See [`DecodeOptions::temperature`].
    pub temperature: Option<f32>,
    /// See [`DecodeOptions::seed`].
    pub seed: Option<u64>,
    /// See [`DecodeOptions::cfg_scale`].
    pub cfg_scale: Option<f32>,
    /// The cache, as text: `delayed:8`.
    #[serde(deserialize_with = "from_text")]
    pub cache: Option<Cache>,
    /// Adaptive depth: on, off, or its settings.
    pub mor: Option<MorSetting>,
    /// Adaptive steps, as text: `0.95,8,2`.
    #[serde(deserialize_with = "from_text")]
    pub adaptive_steps: Option<AdaptiveSteps>,
    /// Revision, as text: `verify:0.6,1`.
    #[serde(deserialize_with = "from_text")]
    pub revise: Option<Revision>,
    /// See [`DecodeOptions::early_stop`].
    pub early_stop: Option<bool>,
    /// See [`DecodeOptions::free_tail`].
    pub free_tail: Option<bool>,
}

/// Adaptive depth, on or off or in detail.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum MorSetting {
    /// The defaults, or none.
    Switch(bool),
    /// On, with these settings.
    Config(MorConfig),
}

impl DecodeSettings {
    /// The options that these settings ask for. They are not checked; decoding does.
    #[must_use]
    pub fn resolve(&self) -> DecodeOptions {
        let base = self.preset.options(self.max_tokens.unwrap_or(64));
        DecodeOptions {
            steps: self.steps.unwrap_or(base.steps),
            block_length: self.block_length.unwrap_or(base.block_length),
            acceptance: self.accept.unwrap_or(base.acceptance),
            temperature: self.temperature.unwrap_or(base.temperature),
            seed: self.seed.unwrap_or(base.seed),
            cfg_scale: self.cfg_scale.unwrap_or(base.cfg_scale),
            cache: self.cache.unwrap_or(base.cache),
            mor: match self.mor {
                None => base.mor,
                Some(MorSetting::Switch(on)) => on.then(MorConfig::default),
                Some(MorSetting::Config(config)) => Some(config),
            },
            adaptive_steps: self.adaptive_steps.or(base.adaptive_steps),
            revision: self.revise.or(base.revision),
            early_stop: self.early_stop.unwrap_or(base.early_stop),
            free_tail: self.free_tail.unwrap_or(base.free_tail),
            ..base
        }
    }
}

/// A setting that is written as text.
fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|t| t.parse().map_err(serde::de::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(json: &str) -> DecodeOptions {
        serde_json::from_str::<DecodeSettings>(json).unwrap().resolve()
    }

    #[test]
    fn a_setting_goes_before_its_preset() {
        assert_eq!(resolve("{}"), Preset::Balanced.options(64));
        let plain = resolve(r#"{"preset": "quality", "max_tokens": 32}"#);
        assert_eq!((plain.steps, plain.acceptance, plain.cache), (32, "quota".parse().unwrap(), Cache::None));
        let own = resolve(
            r#"{"preset": "fast", "accept": "entropy:0.2", "cache": "delayed:4", "mor": false, "steps": 7,
                "adaptive_steps": "0.9", "revise": "edit", "early_stop": false, "temperature": 0.5, "seed": 3}"#,
        );
        assert_eq!((own.acceptance, own.mor, own.steps), (Acceptance::EntropyBound(0.2), None, 7));
        assert_eq!((own.cache, own.early_stop, own.free_tail), (Cache::Delayed { refresh: 4 }, false, true));
        assert!(own.adaptive_steps.is_some() && own.revision.is_some() && own.temperature == 0.5 && own.seed == 3);
        let mor = resolve(r#"{"mor": {"max_recursions": 6, "strategy": "entropy"}}"#).mor.unwrap();
        assert_eq!((mor.max_recursions, mor.min_recursions), (6, 1));
    }

    #[test]
    fn mistakes_are_named() {
        for (json, words) in [
            (r#"{"thresh": 0.9}"#, "unknown field `thresh`"),
            (r#"{"accept": "thresh"}"#, "acceptance rule \"thresh\" is not known"),
            (r#"{"cache": 3}"#, "expected a string"),
        ] {
            let message = serde_json::from_str::<DecodeSettings>(json).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
