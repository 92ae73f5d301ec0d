//! Options that say how to decode, and the environment variables that stand for them.

use clap::{Args, ValueEnum, builder::BoolishValueParser};
use remask_core::decode::Strategy;
use remask_core::{Acceptance, Cache, DecodeOptions, MorConfig, Order};

/// How to decode.
#[derive(Args, Debug, Clone)]
pub struct DecodeArgs {
    /// Masked tokens to fill in after the prompt
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_tokens: usize,
    /// Steps over all blocks; one a token by default. Steps that do not divide over the blocks go to
    /// the earlier ones, fewer than one a block are raised
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Tokens decided together before the next ones are looked at; the last block may be shorter
    #[arg(long, default_value_t = 32, value_name = "N")]
    block_length: usize,
    /// Add Gumbel noise times this to the logits; 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    temperature: f32,
    /// Seed of every random choice
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Commit every token at least this probable (and always the best one) in place of a fixed number a step
    #[arg(long, value_name = "P", conflicts_with = "remasking")]
    threshold: Option<f32>,
    /// Which tokens of a step are committed first
    #[arg(long, value_enum, default_value = "low-confidence")]
    remasking: Remasking,
    /// Classifier-free guidance strength; doubles the work
    #[arg(long, default_value_t = 0.0, value_name = "S")]
    cfg_scale: f32,
    /// Go on to the last block even where the answer has ended
    #[arg(long)]
    no_early_stop: bool,
    /// Reuse keys and values of earlier passes for what is not computed again
    #[arg(long, value_enum, default_value = "none")]
    cache: CacheKind,
    /// Delayed cache: compute all positions every this many steps of a block
    #[arg(long, default_value_t = 8, value_name = "STEPS")]
    cache_refresh: u32,
    /// Vicinity cache: positions before the block that are computed with it
    #[arg(long, default_value_t = 16, value_name = "N")]
    prefix_look: usize,
    /// Vicinity cache: positions behind the block that are computed with it
    #[arg(long, default_value_t = 16, value_name = "N")]
    after_look: usize,
    /// Vicinity cache: passes at the start that compute all positions
    #[arg(long, default_value_t = 4, value_name = "PASSES")]
    warm_up: u32,
    #[command(flatten, next_help_heading = "Mixture of recursions")]
    mor: MorArgs,
}

/// Adaptive depth: compute hard tokens more often than easy ones.
#[derive(Args, Debug, Clone)]
struct MorArgs {
    /// Compute hard tokens in every pass of a cycle and easy ones in few
    #[arg(long, env = "REMASK_MOR", value_parser = BoolishValueParser::new())]
    mor: bool,
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
}

/// Orders under a fixed quota a step.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Remasking {
    /// Likeliest first
    LowConfidence,
    /// A fresh random order each step
    Random,
}

/// What passes may reuse.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum CacheKind {
    /// Nothing: the reference sampler
    None,
    /// Everything before the block
    Prefix,
    /// Everything but the block
    Dual,
    /// What was decided before the last pass
    Delayed,
    /// Everything but the block and its neighbourhood
    Vicinity,
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
            mor: self.mor.mor.then(|| self.mor.config()),
            early_stop: !self.no_early_stop,
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
        }
    }
}
