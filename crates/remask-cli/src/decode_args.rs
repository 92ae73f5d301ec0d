//! Options that say how to decode, and the environment variables that stand for them.

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use remask_core::decode::{AdaptiveSteps, DecodeSettings, MorSetting, Preset, Revision, Strategy};
use remask_core::{Acceptance, Cache, DecodeOptions, MorConfig};

/// How to decode.
#[derive(Args, Debug, Clone)]
pub struct DecodeArgs {
    /// Masked tokens to fill in after the prompt
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_tokens: usize,
    #[command(flatten)]
    settings: SettingArgs,
}

/// How to decode, whatever the length.
#[derive(Args, Debug, Clone)]
pub struct SettingArgs {
    #[command(flatten, next_help_heading = "Presets")]
    preset: PresetArgs,
    #[command(flatten, next_help_heading = "Decoding")]
    rules: RuleArgs,
    #[command(flatten, next_help_heading = "Mixture of recursions")]
    mor: MorArgs,
}

/// Where to start from; every other option goes before what the preset says.
#[derive(Args, Debug, Clone)]
#[group(multiple = false)]
struct PresetArgs {
    /// Least compute: probable tokens together, cached keys and values, mixture of recursions
    #[arg(long)]
    fast: bool,
    /// The knee of the measured frontier (default)
    #[arg(long)]
    balanced: bool,
    /// LLaDA's plain loop: a token a step, all rows in every pass
    #[arg(long)]
    quality: bool,
}

/// Rules of the decoder.
#[derive(Args, Debug, Clone)]
struct RuleArgs {
    /// Steps over all blocks, for the rules quota and random; one a token by default. Steps that do
    /// not divide over the blocks go to the earlier ones, fewer than one a block are raised
    #[arg(long, env = "REMASK_STEPS", value_name = "N")]
    steps: Option<usize>,
    /// Tokens decided together before the next ones are looked at; the last block may be shorter
    #[arg(long, env = "REMASK_BLOCK_LENGTH", value_name = "N")]
    block_length: Option<usize>,
    /// What a step commits: quota, random, threshold:P, factor:F, entropy:NATS, margin:P,
    /// hierarchy:P,LOW, credit:P, local-leap:P,RELAXED,RADIUS or parallel:MOST,P
    #[arg(long, env = "REMASK_ACCEPT", value_name = "RULE")]
    accept: Option<Acceptance>,
    /// Short for --accept threshold:P
    #[arg(long, value_name = "P", conflicts_with = "accept")]
    threshold: Option<f32>,
    /// Add Gumbel noise times this to the logits; 0, the default, takes the likeliest token
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Seed of every random choice
    #[arg(long)]
    seed: Option<u64>,
    /// Classifier-free guidance strength; doubles the work
    #[arg(long, value_name = "S")]
    cfg_scale: Option<f32>,
    /// Reuse keys and values of earlier passes: none, prefix, dual, delayed:REFRESH or
    /// vicinity:BEFORE,AFTER,WARM_UP
    #[arg(long, env = "REMASK_CACHE", value_name = "CACHE")]
    cache: Option<Cache>,
    /// Finish a block when its tokens are this probable on average (0.95), after this many passes
    /// over the text (8), this many times in a row (2)
    #[arg(long, env = "REMASK_ADAPTIVE_STEPS", value_name = "P,MIN,PATIENCE", num_args = 0..=1, default_missing_value = "0.95")]
    adaptive_steps: Option<AdaptiveSteps>,
    /// Look again at decided tokens: verify:P,ROUNDS or edit:P,ROUNDS
    #[arg(long, value_name = "HOW")]
    revise: Option<Revision>,
    /// Stop when the end of the answer and all before it are decided
    #[arg(long, env = "REMASK_EARLY_STOP", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new())]
    early_stop: Option<bool>,
    /// Fill everything behind the answer's end at once and stop computing it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new())]
    free_tail: Option<bool>,
}

/// Adaptive depth: compute hard tokens more often than easy ones.
#[derive(Args, Debug, Clone)]
struct MorArgs {
    /// Compute hard tokens in every pass of a cycle and easy ones in few
    #[arg(long, env = "REMASK_MOR", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new())]
    mor: Option<bool>,
    /// Passes of a cycle for the easiest tokens
    #[arg(long, env = "REMASK_MOR_MIN_RECURSIONS", default_value_t = MorConfig::default().min_recursions, value_name = "N")]
    mor_min_recursions: u32,
    /// Passes of a cycle for the hardest tokens
    #[arg(long, env = "REMASK_MOR_MAX_RECURSIONS", default_value_t = MorConfig::default().max_recursions, value_name = "N")]
    mor_max_recursions: u32,
    /// What makes a token hard
    #[arg(long, env = "REMASK_MOR_STRATEGY", value_enum, ignore_case = true, default_value = "confidence")]
    mor_strategy: StrategyKind,
    /// Tokens at least this certain are easy
    #[arg(long, env = "REMASK_MOR_CONFIDENCE_HIGH", default_value_t = MorConfig::default().confidence_high, value_name = "P")]
    mor_confidence_high: f32,
    /// Tokens at most this certain are hard
    #[arg(long, env = "REMASK_MOR_CONFIDENCE_LOW", default_value_t = MorConfig::default().confidence_low, value_name = "P")]
    mor_confidence_low: f32,
    /// Tokens at least this certain are not computed again in a cycle
    #[arg(long, env = "REMASK_MOR_SKIP_THRESHOLD", default_value_t = 0.95, value_name = "P")]
    mor_skip_threshold: f32,
    /// Make no exception for tokens above the skip threshold
    #[arg(long)]
    mor_no_skip: bool,
    /// Compute hard tokens one at a time instead of together
    #[arg(long)]
    mor_no_batch: bool,
    /// Report the statistics as a note
    #[arg(long, env = "REMASK_MOR_LOG_STATS", value_parser = BoolishValueParser::new())]
    mor_log_stats: bool,
}

/// Signs of difficulty.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum StrategyKind {
    /// A low probability
    Confidence,
    /// A high entropy
    Entropy,
    /// A small margin to the runner-up
    Margin,
    /// A candidate that changes from pass to pass
    Gradient,
    /// None: every token gets the greatest depth
    Fixed,
}

impl DecodeArgs {
    /// The decoder settings that these options ask for.
    pub fn options(&self) -> DecodeOptions {
        self.settings.options(self.max_tokens)
    }
}

impl SettingArgs {
    /// The decoder settings that these options ask for.
    pub fn options(&self, max_tokens: usize) -> DecodeOptions {
        let rules = &self.rules;
        let mut options = DecodeSettings {
            preset: self.preset.preset(),
            max_tokens: Some(max_tokens),
            steps: rules.steps,
            block_length: rules.block_length,
            accept: rules.accept.or(rules.threshold.map(Acceptance::Threshold)),
            temperature: rules.temperature,
            seed: rules.seed,
            cfg_scale: rules.cfg_scale,
            cache: rules.cache,
            mor: self.mor.mor.map(MorSetting::Switch),
            adaptive_steps: rules.adaptive_steps,
            revise: rules.revise,
            early_stop: rules.early_stop,
            free_tail: rules.free_tail,
        }
        .resolve();
        // Details count for whoever switched it on, the preset included.
        options.mor = options.mor.map(|_| self.mor.config());
        options
    }
}

impl PresetArgs {
    fn preset(&self) -> Preset {
        match (self.fast, self.quality) {
            (true, _) => Preset::Fast,
            (_, true) => Preset::Quality,
            _ => Preset::Balanced,
        }
    }
}

impl MorArgs {
    fn config(&self) -> MorConfig {
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
            skip_threshold: (!self.mor_no_skip).then_some(self.mor_skip_threshold),
            batch_by_difficulty: !self.mor_no_batch,
            log_stats: self.mor_log_stats,
        }
    }
}
