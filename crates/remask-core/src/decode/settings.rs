//! Settings as users give them: a preset, and what they want otherwise. The same names on the command
//! line, in a request's JSON and in the browser.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::accept::{Acceptance, Order};
use super::cache::Cache;
use super::defaults::Defaults;
use super::mor::MorConfig;
use super::options::{AdaptiveSteps, DecodeOptions, Revision};
use super::sampling::Sampling;
use crate::architecture::Architecture;
use crate::error::Error;

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
    /// See [`Sampling::temperature`].
    pub temperature: Option<f32>,
    /// See [`Sampling::top_k`].
    pub top_k: Option<usize>,
    /// See [`Sampling::top_p`].
    pub top_p: Option<f32>,
    /// See [`Sampling::min_p`].
    pub min_p: Option<f32>,
    /// See [`Sampling::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// See [`Sampling::presence_penalty`].
    pub presence_penalty: Option<f32>,
    /// See [`Sampling::frequency_penalty`].
    pub frequency_penalty: Option<f32>,
    /// See [`Sampling::logit_bias`]: ids and what is added to their logits.
    pub logit_bias: BTreeMap<u32, f32>,
    /// See [`Sampling::logprobs`].
    pub logprobs: Option<usize>,
    /// See [`Sampling::seed`].
    pub seed: Option<u64>,
    /// See [`DecodeOptions::stop_ids`].
    pub stop_ids: Vec<u32>,
    /// See [`DecodeOptions::ignore_eos`].
    pub ignore_eos: bool,
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MorSetting {
    /// The defaults, or none.
    Switch(bool),
    /// On, with these settings.
    Config(MorConfig),
}

/// Written out, so that a mistake inside is named: serde's untagged enums keep it to themselves.
impl<'de> Deserialize<'de> for MorSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = MorSetting;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("true, false or an object of settings")
            }

            fn visit_bool<E>(self, on: bool) -> Result<MorSetting, E> {
                Ok(MorSetting::Switch(on))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MorSetting, A::Error> {
                MorConfig::deserialize(MapAccessDeserializer::new(map)).map(MorSetting::Config)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl DecodeSettings {
    /// Whether these settings mean something to a model of `architecture`: an autoregressive one has no steps,
    /// blocks, caches or depths to choose.
    ///
    /// # Errors
    /// [`Error::Request`] with the first setting that does not.
    pub fn check_for(&self, architecture: &Architecture) -> Result<(), Error> {
        if architecture.is_diffusion() {
            return Ok(());
        }
        let given = [
            ("steps", self.steps.is_some()),
            ("block length", self.block_length.is_some()),
            ("accept", self.accept.is_some()),
            ("cfg scale", self.cfg_scale.is_some_and(|s| s != 0.0)),
            ("cache", self.cache.is_some()),
            ("mor", self.mor.is_some_and(|mor| mor != MorSetting::Switch(false))),
            ("adaptive steps", self.adaptive_steps.is_some()),
            ("revise", self.revise.is_some()),
            ("early stop", self.early_stop.is_some()),
            ("free tail", self.free_tail.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::Request(format!(
                "{name} is a setting of diffusion models; {} writes token after token, leave it out",
                architecture.name
            ))),
            None => Ok(()),
        }
    }

    /// These settings, and where they say nothing those of `base`. The preset is this one's, so that whoever names
    /// a preset may want nothing of another's base.
    #[must_use]
    pub fn over(self, base: &Self) -> Self {
        let base = base.clone();
        Self {
            preset: self.preset,
            max_tokens: self.max_tokens.or(base.max_tokens),
            steps: self.steps.or(base.steps),
            block_length: self.block_length.or(base.block_length),
            accept: self.accept.or(base.accept),
            temperature: self.temperature.or(base.temperature),
            top_k: self.top_k.or(base.top_k),
            top_p: self.top_p.or(base.top_p),
            min_p: self.min_p.or(base.min_p),
            repetition_penalty: self.repetition_penalty.or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(base.frequency_penalty),
            logit_bias: if self.logit_bias.is_empty() { base.logit_bias } else { self.logit_bias },
            logprobs: self.logprobs.or(base.logprobs),
            seed: self.seed.or(base.seed),
            stop_ids: if self.stop_ids.is_empty() { base.stop_ids } else { self.stop_ids },
            ignore_eos: self.ignore_eos || base.ignore_eos,
            cfg_scale: self.cfg_scale.or(base.cfg_scale),
            cache: self.cache.or(base.cache),
            mor: self.mor.or(base.mor),
            adaptive_steps: self.adaptive_steps.or(base.adaptive_steps),
            revise: self.revise.or(base.revise),
            early_stop: self.early_stop.or(base.early_stop),
            free_tail: self.free_tail.or(base.free_tail),
        }
    }

    /// The options that these settings ask for, over the `defaults` of a model. They are not checked; decoding
    /// does.
    #[must_use]
    pub fn resolve(&self, defaults: &Defaults) -> DecodeOptions {
        let base = self.preset.options(self.max_tokens.unwrap_or(64));
        let usual = Sampling::default();
        let sampling = Sampling {
            temperature: self.temperature.or(defaults.temperature).unwrap_or(usual.temperature),
            top_k: self.top_k.or(defaults.top_k).unwrap_or(usual.top_k),
            top_p: self.top_p.or(defaults.top_p).unwrap_or(usual.top_p),
            min_p: self.min_p.or(defaults.min_p).unwrap_or(usual.min_p),
            repetition_penalty: self
                .repetition_penalty
                .or(defaults.repetition_penalty)
                .unwrap_or(usual.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(usual.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(usual.frequency_penalty),
            logit_bias: self.logit_bias.iter().map(|(id, bias)| (*id, *bias)).collect(),
            logprobs: self.logprobs,
            seed: self.seed.unwrap_or(usual.seed),
        };
        DecodeOptions {
            sampling,
            stop_ids: self.stop_ids.clone(),
            ignore_eos: self.ignore_eos,
            steps: self.steps.unwrap_or(base.steps),
            block_length: self.block_length.unwrap_or(base.block_length),
            acceptance: self.accept.unwrap_or(base.acceptance),
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
        serde_json::from_str::<DecodeSettings>(json).unwrap().resolve(&Defaults::default())
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
        assert!(
            own.adaptive_steps.is_some()
                && own.revision.is_some()
                && own.sampling.temperature == 0.5
                && own.sampling.seed == 3
        );
        let mor = resolve(r#"{"mor": {"max_recursions": 6, "strategy": "entropy"}}"#).mor.unwrap();
        assert_eq!((mor.max_recursions, mor.min_recursions), (6, 1));
    }

    #[test]
    fn what_is_not_said_comes_from_the_base() {
        let read = |json: &str| serde_json::from_str::<DecodeSettings>(json).unwrap();
        let base = read(r#"{"preset": "fast", "steps": 9, "mor": false, "cache": "dual", "temperature": 0.5}"#);
        let own = read(r#"{"preset": "quality", "steps": 4, "accept": "margin:0.2"}"#).over(&base);
        assert_eq!((own.preset, own.steps, own.temperature), (Preset::Quality, Some(4), Some(0.5)));
        assert_eq!((own.cache, own.mor), (Some(Cache::Dual), Some(MorSetting::Switch(false))));
        assert!(own.accept.is_some());
        assert_eq!(DecodeSettings { preset: Preset::Fast, ..DecodeSettings::default() }.over(&base), base);
    }

    #[test]
    fn mistakes_are_named() {
        for (json, words) in [
            (r#"{"thresh": 0.9}"#, "unknown field `thresh`"),
            (r#"{"accept": "thresh"}"#, "acceptance rule \"thresh\" is not known"),
            (r#"{"cache": 3}"#, "expected a string"),
            (r#"{"mor": {"recursions": 3}}"#, "unknown field `recursions`"),
            (r#"{"mor": {"max_recursions": "3"}}"#, "expected u32"),
            (r#"{"mor": 3}"#, "expected true, false or an object of settings"),
        ] {
            let message = serde_json::from_str::<DecodeSettings>(json).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
