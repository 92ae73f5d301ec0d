//! Requests as JSON: what to write, and how to decode. Settings have the names of the command line's
//! options, in JavaScript's spelling: `--block-length` is `blockLength`.

use remask_core::chat::Message;
use remask_core::decode::Strategy;
use remask_core::{Acceptance, Cache, Canvas, DecodeOptions, Error, Model, MorConfig, Order, Result};
use serde::Deserialize;

/// What a generation starts from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Prompt {
    /// A conversation, in the model's chat form.
    Messages(Vec<Message>),
    /// Plain text to be continued.
    Raw(String),
    /// Token ids, for models without a tokenizer.
    Ids(Vec<u32>),
    /// A text with gaps.
    Fill(Vec<Piece>),
}

/// A piece of a text with gaps.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Piece {
    /// Given text. Nothing in it is a special token or a gap.
    Text(String),
    /// This many tokens to be decided.
    Hole(usize),
}

/// How to decode. What is left out is as on the command line.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    max_tokens: usize,
    steps: Option<usize>,
    block_length: usize,
    temperature: f32,
    seed: u64,
    threshold: Option<f32>,
    remasking: Remasking,
    cfg_scale: f32,
    early_stop: bool,
    cache: CacheKind,
    cache_refresh: u32,
    prefix_look: usize,
    after_look: usize,
    warm_up: u32,
    mor: bool,
    mor_min_recursions: u32,
    mor_max_recursions: u32,
    mor_strategy: StrategyKind,
    mor_confidence_high: f32,
    mor_confidence_low: f32,
    mor_skip_threshold: Option<f32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Remasking {
    LowConfidence,
    Random,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CacheKind {
    None,
    Prefix,
    Dual,
    Delayed,
    Vicinity,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StrategyKind {
    Confidence,
    Entropy,
    Margin,
    Gradient,
    Fixed,
}

impl Default for Settings {
    /// The defaults of `remask generate`.
    fn default() -> Self {
        let mor = MorConfig::default();
        Self {
            max_tokens: 64,
            steps: None,
            block_length: 32,
            temperature: 0.0,
            seed: 0,
            threshold: None,
            remasking: Remasking::LowConfidence,
            cfg_scale: 0.0,
            early_stop: true,
            cache: CacheKind::None,
            cache_refresh: 8,
            prefix_look: 16,
            after_look: 16,
            warm_up: 4,
            mor: false,
            mor_min_recursions: mor.min_recursions,
            mor_max_recursions: mor.max_recursions,
            mor_strategy: StrategyKind::Confidence,
            mor_confidence_high: mor.confidence_high,
            mor_confidence_low: mor.confidence_low,
            mor_skip_threshold: mor.skip_threshold,
        }
    }
}

/// Reads a JSON value, with the reason in words where it does not fit.
///
/// # Errors
/// [`Error::Request`].
pub fn parse<'a, T: Deserialize<'a>>(what: &str, json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::Request(format!("{what}: {e}")))
}

impl Settings {
    /// The decoder settings that these ask for.
    #[must_use]
    pub fn options(&self) -> DecodeOptions {
        let order = match self.remasking {
            Remasking::LowConfidence => Order::LowConfidence,
            Remasking::Random => Order::Random,
        };
        let cache = match self.cache {
            CacheKind::None => Cache::None,
            CacheKind::Prefix => Cache::Prefix,
            CacheKind::Dual => Cache::Dual,
            CacheKind::Delayed => Cache::Delayed { refresh: self.cache_refresh },
            CacheKind::Vicinity => {
                Cache::Vicinity { before: self.prefix_look, after: self.after_look, warm_up: self.warm_up }
            }
        };
        DecodeOptions {
            max_tokens: self.max_tokens,
            steps: self.steps.unwrap_or(self.max_tokens),
            block_length: self.block_length,
            acceptance: self.threshold.map_or(Acceptance::Quota(order), Acceptance::Threshold),
            temperature: self.temperature,
            seed: self.seed,
            cfg_scale: self.cfg_scale,
            cache,
            mor: self.mor.then(|| self.mor_config()),
            early_stop: self.early_stop,
        }
    }

    fn mor_config(&self) -> MorConfig {
        MorConfig {
            min_recursions: self.mor_min_recursions,
            max_recursions: self.mor_max_recursions,
            strategy: match self.mor_strategy {
                StrategyKind::Confidence => Strategy::Confidence,
                StrategyKind::Entropy => Strategy::Entropy,
                StrategyKind::Margin => Strategy::Margin,
                StrategyKind::Gradient => Strategy::Gradient,
                StrategyKind::Fixed => Strategy::Fixed,
            },
            confidence_high: self.mor_confidence_high,
            confidence_low: self.mor_confidence_low,
            skip_threshold: self.mor_skip_threshold,
        }
    }
}

impl Prompt {
    /// Whether this is a text with gaps: there, an end of the answer in the middle would be nonsense.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        matches!(self, Self::Fill(_))
    }

    /// The canvas to decide.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where text cannot become ids; [`Error::Request`] where the settings do not fit
    /// the model.
    pub fn canvas(&self, model: &Model, options: &DecodeOptions) -> Result<Canvas> {
        let mask = model.vocabulary.mask;
        let prompt = match self {
            Self::Messages(messages) => model.encode_chat(messages)?,
            Self::Raw(text) => model.encode_raw(text)?,
            Self::Ids(ids) => ids.clone(),
            Self::Fill(pieces) => return Ok(Canvas::with_holes(&fill_tokens(model, pieces)?, mask)),
        };
        options.check(&model.architecture, &prompt)?;
        Ok(Canvas::new(&prompt, options.max_tokens, mask))
    }
}

/// The start id, where the model has one, then the pieces: ids, and `None` for every position to fill.
fn fill_tokens(model: &Model, pieces: &[Piece]) -> Result<Vec<Option<u32>>> {
    let most = model.architecture.max_positions;
    let mut tokens = Vec::from_iter(model.architecture.tokens.bos.map(Some));
    for piece in pieces {
        match piece {
            Piece::Text(text) => {
                let text = remask_core::chat::MarkedText::from_user(text);
                tokens.extend(model.text()?.encode(&text)?.into_iter().map(Some));
            }
            Piece::Hole(count) => tokens.resize(tokens.len().saturating_add(*count).min(most + 1), None),
        }
    }
    if tokens.len() > most {
        return Err(Error::Request(format!("the text and its gaps exceed the model's {most} positions; shorten it")));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: &str) -> DecodeOptions {
        parse::<Settings>("options", json).unwrap().options()
    }

    #[test]
    fn nothing_asked_for_is_the_command_lines_defaults() {
        let expected = DecodeOptions {
            max_tokens: 64,
            steps: 64,
            block_length: 32,
            early_stop: true,
            ..DecodeOptions::default()
        };
        assert_eq!(options("{}"), expected);
    }

    #[test]
    fn names_are_the_command_lines() {
        let given = options(
            r#"{"maxTokens": 8, "steps": 4, "blockLength": 2, "temperature": 0.5, "seed": 3, "remasking": "random",
                "cfgScale": 1.5, "earlyStop": false, "cache": "vicinity", "prefixLook": 1, "afterLook": 2, "warmUp": 3,
                "mor": true, "morStrategy": "gradient", "morMaxRecursions": 6, "morSkipThreshold": null}"#,
        );
        let expected = DecodeOptions {
            max_tokens: 8,
            steps: 4,
            block_length: 2,
            acceptance: Acceptance::Quota(Order::Random),
            temperature: 0.5,
            seed: 3,
            cfg_scale: 1.5,
            cache: Cache::Vicinity { before: 1, after: 2, warm_up: 3 },
            mor: Some(MorConfig {
                max_recursions: 6,
                strategy: Strategy::Gradient,
                skip_threshold: None,
                ..MorConfig::default()
            }),
            early_stop: false,
        };
        assert_eq!(given, expected);
        assert_eq!(options(r#"{"threshold": 0.75}"#).acceptance, Acceptance::Threshold(0.75));
    }

    #[test]
    fn unknown_settings_are_named() {
        let error = parse::<Settings>("options", r#"{"treshold": 0.9}"#).unwrap_err().to_string();
        assert!(error.starts_with("options: ") && error.contains("treshold"), "{error}");
    }
}
