//! Options that say how to decode, and the environment variables that stand for them.

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use remask_core::decode::{AdaptiveSteps, DecodeSettings, Defaults, MorSetting, Preset, Revision, Strategy};
use remask_core::{Acceptance, Architecture, Cache, DecodeOptions, Error, Model, MorConfig};

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
    #[command(flatten)]
    diffusion: DiffusionArgs,
    #[command(flatten, next_help_heading = "Sampling")]
    sampling: SamplingArgs,
}

/// How diffusion models decode.
#[derive(Args, Debug, Clone)]
pub struct DiffusionArgs {
    #[command(flatten, next_help_heading = "Presets")]
    flags: PresetArgs,
    /// The same by name; where one of the three is given, that holds
    #[arg(long, env = "REMASK_PRESET", value_enum, default_value = "balanced", help_heading = "Presets")]
    preset: PresetName,
    #[command(flatten, next_help_heading = "Decoding of diffusion models")]
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

/// A preset's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PresetName {
    /// See --fast
    Fast,
    /// See --balanced
    Balanced,
    /// See --quality
    Quality,
}

/// How tokens are chosen; a model's generation_config.json says what holds otherwise.
#[derive(Args, Debug, Clone)]
struct SamplingArgs {
    /// Sample from softmax(logits / T), by Gumbel noise; 0, the default, takes the likeliest token
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Only the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Only the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Only tokens at least this share as probable as the likeliest
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Divide positive logits of tokens that occurred by this, multiply negative ones; 1 is off
    #[arg(long, value_name = "F")]
    repetition_penalty: Option<f32>,
    /// Subtract this from the logits of tokens that were written
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtract this from them as often as they were written
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Add to a token's logit: ID=BIAS, comma separated or several times
    #[arg(long, value_name = "ID=BIAS", value_delimiter = ',', value_parser = parse_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Report log-probabilities (with --json): of each token and of this many of the likeliest
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0")]
    logprobs: Option<usize>,
    /// Seed of every random choice
    #[arg(long)]
    seed: Option<u64>,
    /// Ids that end the answer beside the model's own
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    stop_ids: Vec<u32>,
    /// Write on behind the model's own end of a text
    #[arg(long)]
    ignore_eos: bool,
}

/// `ID=BIAS`.
fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || format!("{text:?} is not ID=BIAS, such as 50256=-100");
    let (id, bias) = text.split_once('=').ok_or_else(wrong)?;
    Ok((id.trim().parse().map_err(|_| wrong())?, bias.trim().parse().map_err(|_| wrong())?))
}

/// Rules of the decoder.
#[derive(Args, Debug, Clone)]
struct RuleArgs {
    /// Steps over all blocks, for the rules quota and random; one a token by default. Steps that do
    /// not divide over the blocks go to the earlier ones, fewer than one a block are raised
    #[arg(long, env = "REMASK_STEPS", alias = "diffusion-steps", value_name = "N")]
    steps: Option<usize>,
    /// Tokens decided together before the next ones are looked at; the last block may be shorter
    #[arg(long, env = "REMASK_BLOCK_LENGTH", alias = "block-size", value_name = "N")]
    block_length: Option<usize>,
    /// What a step commits: quota, random, threshold:P, factor:F, entropy:NATS, margin:P,
    /// hierarchy:P,LOW, credit:P, local-leap:P,RELAXED,RADIUS or parallel:MOST,P
    #[arg(long, env = "REMASK_ACCEPT", value_name = "RULE", overrides_with = "threshold")]
    accept: Option<Acceptance>,
    /// Short for --accept threshold:P
    #[arg(long, value_name = "P", overrides_with = "accept")]
    threshold: Option<f32>,
    /// Classifier-free guidance strength; doubles the work
    #[arg(long, env = "REMASK_CFG_SCALE", value_name = "S")]
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
    #[arg(long, env = "REMASK_REVISE", value_name = "HOW")]
    revise: Option<Revision>,
    /// Stop when the end of the answer and all before it are decided
    #[arg(long, env = "REMASK_EARLY_STOP", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new())]
    early_stop: Option<bool>,
    /// Fill everything behind the answer's end at once and stop computing it
    #[arg(long, env = "REMASK_FREE_TAIL", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new())]
    free_tail: Option<bool>,
}

/// Adaptive depth: compute hard tokens more often than easy ones.
#[derive(Args, Debug, Clone)]
struct MorArgs {
    /// Compute hard tokens in every pass of a cycle and easy ones in few
    #[arg(long, env = "REMASK_MOR", alias = "enable-mor", value_name = "BOOL", num_args = 0..=1, require_equals = true,
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
    #[arg(long, env = "REMASK_MOR_CONFIDENCE_HIGH", default_value_t = MorConfig::default().confidence_high, value_name = "P", value_parser = share)]
    mor_confidence_high: f32,
    /// Tokens at most this certain are hard
    #[arg(long, env = "REMASK_MOR_CONFIDENCE_LOW", default_value_t = MorConfig::default().confidence_low, value_name = "P", value_parser = share)]
    mor_confidence_low: f32,
    /// Tokens at least this certain are not computed again in a cycle
    #[arg(long, env = "REMASK_MOR_SKIP_THRESHOLD", default_value_t = 0.95, value_name = "P", value_parser = share)]
    mor_skip_threshold: f32,
    /// Make no exception for tokens above the skip threshold
    #[arg(long, env = "REMASK_MOR_NO_SKIP", value_parser = BoolishValueParser::new())]
    mor_no_skip: bool,
    /// Compute hard tokens one at a time instead of together
    #[arg(long, env = "REMASK_MOR_NO_BATCH", value_parser = BoolishValueParser::new())]
    mor_no_batch: bool,
    /// Report the statistics as a note; a server logs them for every request
    #[arg(long, env = "REMASK_MOR_LOG_STATS", visible_alias = "log-stats", value_parser = BoolishValueParser::new())]
    mor_log_stats: bool,
}

/// A number from 0 to 1.
fn share(text: &str) -> Result<f32, String> {
    let share = text.trim().parse::<f32>().map_err(|problem| problem.to_string())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("it must be from 0 to 1".to_owned()) }
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
    /// The decoder settings that these options ask of a model.
    pub fn options(&self, model: &Model) -> Result<DecodeOptions, Error> {
        self.settings.options(&model.architecture, &model.defaults, self.max_tokens)
    }
}

impl SettingArgs {
    /// The decoder settings that these options ask of a model.
    pub fn options(&self, a: &Architecture, defaults: &Defaults, max_tokens: usize) -> Result<DecodeOptions, Error> {
        let sampling = &self.sampling;
        let settings = DecodeSettings {
            max_tokens: Some(max_tokens),
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling.logit_bias.iter().copied().collect(),
            logprobs: sampling.logprobs,
            seed: sampling.seed,
            stop_ids: sampling.stop_ids.clone(),
            ignore_eos: sampling.ignore_eos,
            ..self.diffusion.settings()
        };
        settings.check_for(a)?;
        let mut options = settings.resolve(defaults);
        // Details count for whoever switched it on, the preset included.
        options.mor = options.mor.map(|_| self.diffusion.mor.config());
        Ok(options)
    }
}

impl DiffusionArgs {
    /// The settings that these options say.
    pub fn settings(&self) -> DecodeSettings {
        let rules = &self.rules;
        DecodeSettings {
            preset: self.flags.preset().unwrap_or(match self.preset {
                PresetName::Fast => Preset::Fast,
                PresetName::Balanced => Preset::Balanced,
                PresetName::Quality => Preset::Quality,
            }),
            steps: rules.steps,
            block_length: rules.block_length,
            accept: rules.threshold.map(Acceptance::Threshold).or(rules.accept),
            cfg_scale: rules.cfg_scale,
            cache: rules.cache,
            mor: self.mor.mor.map(MorSetting::Switch),
            adaptive_steps: rules.adaptive_steps,
            revise: rules.revise,
            early_stop: rules.early_stop,
            free_tail: rules.free_tail,
            ..DecodeSettings::default()
        }
    }

    /// Whether statistics of recompute depth are wanted.
    pub fn log_stats(&self) -> bool {
        self.mor.mor_log_stats
    }

    /// The same, and the details of recompute depth where it is on.
    pub fn settings_in_full(&self) -> DecodeSettings {
        let settings = self.settings();
        let on = settings.resolve(&Defaults::default()).mor.is_some();
        DecodeSettings { mor: if on { Some(MorSetting::Config(self.mor.config())) } else { settings.mor }, ..settings }
    }
}

impl PresetArgs {
    fn preset(&self) -> Option<Preset> {
        match (self.fast, self.balanced, self.quality) {
            (true, ..) => Some(Preset::Fast),
            (_, true, _) => Some(Preset::Balanced),
            (.., true) => Some(Preset::Quality),
            _ => None,
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
