//! One description of a transformer, whatever family its config came from.
//!
//! A family's parser (see [`crate::families`]) turns a Hugging Face `config.json` into an
//! [`Architecture`]; backends read only this. Layers are data: a list of [`BlockSpec`]s, each with its own
//! attention, feed-forward part and norms, that names the weights it uses and the keys and values it keeps.
//! Later families extend the enums, they do not add a second description.

use serde::Serialize;

/// Shapes, kinds and special ids of one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Architecture {
    /// Name in `architectures[0]`, e.g. `LLaDAModelLM`.
    pub name: String,
    /// Ids the model was trained to emit; rows of the head at or above this are padding.
    pub vocab_size: usize,
    /// Rows of the embedding and head matrices, at least `vocab_size`.
    pub embedding_rows: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// The transformer's blocks in the order they run.
    pub blocks: Vec<BlockSpec>,
    /// Which slots a row may see; a block's window narrows it further.
    pub visibility: Visibility,
    /// Rotary tables; blocks name theirs by index.
    pub rotaries: Vec<Rotary>,
    /// Rows of a table of learned position embeddings, which are added to the tokens' embeddings.
    pub learned_positions: Option<usize>,
    /// The norm before the head.
    pub final_norm: Norm,
    /// The head is the embedding matrix.
    pub tied_head: bool,
    /// The head has a bias.
    pub head_bias: bool,
    /// Factor on token embeddings as they enter the first block.
    pub embedding_scale: f32,
    /// Factor on logits.
    pub logit_scale: f32,
    /// Positions the model was trained for: prompt and answer together.
    pub max_positions: usize,
    /// Row i predicts token i + 1: autoregressive models, and diffusion models adapted from them.
    pub shifted_logits: bool,
    /// Special ids the config names.
    pub tokens: TokenIds,
}

/// One block: attention and a feed-forward part, each added to the residual stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockSpec {
    /// Which set of weights it uses; blocks that repeat one are a recursion.
    pub weights: usize,
    /// Which entry of keys and values it writes and reads.
    pub cache: usize,
    /// Its attention.
    pub attention: Attention,
    /// Its feed-forward part.
    pub feed_forward: FeedForward,
    /// The norm before attention and, where they run side by side, before the feed-forward part.
    pub attention_norm: Norm,
    /// A norm over attention's result before it is added (Gemma).
    pub after_attention_norm: Option<Norm>,
    /// The norm before the feed-forward part; `None` where it runs side by side with attention, on the same
    /// normalised input (Phi).
    pub feed_forward_norm: Option<Norm>,
    /// A norm over the feed-forward part's result before it is added (Gemma).
    pub after_feed_forward_norm: Option<Norm>,
}

impl BlockSpec {
    /// Whether attention and feed-forward part read the same normalised input and are added together.
    #[must_use]
    pub fn side_by_side(&self) -> bool {
        self.feed_forward_norm.is_none()
    }
}

/// Attention heads and what they do beside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; query head h reads K/V head h / (heads / kv_heads).
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Factor on query-key products, usually 1/sqrt(head_dim).
    pub scale: f32,
    /// A row sees only the last this many positions up to its own.
    pub window: Option<usize>,
    /// Index into [`Architecture::rotaries`]; `None` where nothing rotates.
    pub rotary: Option<usize>,
    /// A norm over each head of queries and keys, before they rotate.
    pub qk_norm: Option<Norm>,
    /// Query, key and value projections carry biases.
    pub qkv_bias: bool,
    /// The output projection carries a bias.
    pub out_bias: bool,
}

impl Attention {
    /// Elements of all query heads of a row.
    #[must_use]
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of all key heads of a row, or of all value heads.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Elements of a row's queries, keys and values together.
    #[must_use]
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// Which slots a row may attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Every slot of the canvas.
    All,
    /// Slots up to the row's own.
    Causal,
    /// Slots up to the end of the row's block of this length.
    BlockCausal(usize),
}

/// Normalisation kind and epsilon.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Norm {
    /// RMS or mean-and-variance.
    pub kind: NormKind,
    /// Added to the mean square (or variance) before the root.
    pub eps: f32,
}

/// Kinds of normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `w * x / sqrt(mean(x^2) + eps)`.
    Rms,
    /// `w * (x - mean) / sqrt(var + eps) + b`.
    Layer,
}

/// Rotary position embedding: the first `dims` elements of each head are rotated in pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rotary {
    /// Base of the angle progression.
    pub theta: f64,
    /// Elements of a head that rotate; even, at most head_dim.
    pub dims: usize,
    /// How elements pair up.
    pub pairing: RotaryPairing,
    /// How the angles are stretched for texts longer than the model was first trained for.
    pub scaling: RotaryScaling,
}

/// Which elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryPairing {
    /// (i, i + dims/2): "NeoX", every Hugging Face checkpoint.
    Halves,
    /// (2i, 2i + 1): GGUF files with permuted projections.
    Interleaved,
}

/// Changes of rotary frequencies (`rope_scaling` of config.json).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryScaling {
    /// Frequencies as theta gives them.
    None,
    /// All frequencies divided by this ("linear": position interpolation, arXiv 2306.15595).
    Linear(f64),
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, those between blended.
    Llama3 {
        /// What long wavelengths are divided by.
        factor: f64,
        /// Wavelengths above `original / low` are long.
        low: f64,
        /// Wavelengths below `original / high` are short.
        high: f64,
        /// Positions of the first training.
        original: f64,
    },
    /// YaRN (arXiv 2309.00071): a ramp over the pairs between frequencies that are kept and divided, and a
    /// factor on cosines and sines.
    Yarn {
        /// What slow pairs are divided by.
        factor: f64,
        /// Rotations over the first training's positions above which a pair is kept.
        beta_fast: f64,
        /// Rotations below which a pair is divided.
        beta_slow: f64,
        /// Positions of the first training.
        original: f64,
        /// Factor on cosines and sines.
        attention: f64,
        /// Whether the ramp's ends are rounded to whole pairs.
        truncate: bool,
    },
    /// Each pair's frequency divided by a number of its own (longrope, and GGUF's `rope_freqs.weight`).
    Factors(Vec<f64>),
}

impl Rotary {
    /// Angle of each pair at position 1, `[dims / 2]`, in float64.
    #[must_use]
    pub fn frequencies(&self) -> Vec<f64> {
        let (dims, pairs) = (self.dims as f64, self.dims / 2);
        let plain = |i: usize| self.theta.powf(-2.0 * i as f64 / dims);
        (0..pairs)
            .map(|i| {
                let frequency = plain(i);
                match &self.scaling {
                    RotaryScaling::None => frequency,
                    RotaryScaling::Linear(factor) => frequency / factor,
                    RotaryScaling::Llama3 { factor, low, high, original } => {
                        let wavelength = std::f64::consts::TAU / frequency;
                        if wavelength < original / high {
                            frequency
                        } else if wavelength > original / low {
                            frequency / factor
                        } else {
                            let kept = (original / wavelength - low) / (high - low);
                            (1.0 - kept) * frequency / factor + kept * frequency
                        }
                    }
                    RotaryScaling::Yarn { factor, beta_fast, beta_slow, original, truncate, .. } => {
                        // The pair that turns `rotations` times over the positions of the first training.
                        let pair = |rotations: f64| {
                            dims * (original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
                        };
                        let (mut first, mut last) = (pair(*beta_fast), pair(*beta_slow));
                        if *truncate {
                            (first, last) = (first.floor(), last.ceil());
                        }
                        (first, last) = (first.max(0.0), last.min(dims - 1.0));
                        let width = if first == last { 0.001 } else { last - first };
                        let divided = ((i as f64 - first) / width).clamp(0.0, 1.0);
                        divided * frequency / factor + (1.0 - divided) * frequency
                    }
                    RotaryScaling::Factors(factors) => frequency / factors.get(i).copied().unwrap_or(1.0),
                }
            })
            .collect()
    }

    /// Factor on cosines and sines.
    #[must_use]
    pub fn amplitude(&self) -> f64 {
        if let RotaryScaling::Yarn { attention, .. } = self.scaling { attention } else { 1.0 }
    }
}

/// Feed-forward part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FeedForward {
    /// `down(act(gate(x)) * up(x))` where gated, else `down(act(up(x)))`.
    pub gated: bool,
    /// The activation.
    pub activation: Activation,
    /// Inner width.
    pub hidden: usize,
    /// The projections carry biases.
    pub bias: bool,
}

impl FeedForward {
    /// Rows of the stacked gate and up projections, or of the up projection alone.
    #[must_use]
    pub fn up_width(&self) -> usize {
        if self.gated { 2 * self.hidden } else { self.hidden }
    }
}

/// Activations of feed-forward parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` ("gelu_new", "gelu_pytorch_tanh").
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt(2)))`.
    Gelu,
}

/// Special ids a config names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TokenIds {
    /// The mask id of a diffusion model; `None` for autoregressive models.
    pub mask: Option<u32>,
    /// Ids that end a text.
    pub eos: Vec<u32>,
    /// The id that starts a text.
    pub bos: Option<u32>,
    /// The padding id.
    pub pad: Option<u32>,
}

impl Architecture {
    /// Sets of block weights: one more than the largest [`BlockSpec::weights`].
    #[must_use]
    pub fn weight_sets(&self) -> usize {
        self.blocks.iter().map(|b| b.weights + 1).max().unwrap_or(0)
    }

    /// Entries of keys and values: one more than the largest [`BlockSpec::cache`].
    #[must_use]
    pub fn cache_entries(&self) -> usize {
        self.blocks.iter().map(|b| b.cache + 1).max().unwrap_or(0)
    }

    /// The first block that uses each set of weights, in the order of the sets.
    pub fn distinct_blocks(&self) -> impl Iterator<Item = &BlockSpec> {
        (0..self.weight_sets()).filter_map(|set| self.blocks.iter().find(|b| b.weights == set))
    }

    /// The first block that writes each entry of keys and values, in the order of the entries.
    pub fn cached_blocks(&self) -> impl Iterator<Item = &BlockSpec> {
        (0..self.cache_entries()).filter_map(|entry| self.blocks.iter().find(|b| b.cache == entry))
    }

    /// Elements of one slot's keys (or values) over all entries.
    #[must_use]
    pub fn kv_elements(&self) -> usize {
        self.cached_blocks().map(|b| b.attention.kv_width()).sum()
    }

    /// Whether the model fills in a canvas; if not, it writes token after token.
    #[must_use]
    pub fn is_diffusion(&self) -> bool {
        self.tokens.mask.is_some()
    }

    /// Parameters of the model that this describes.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let specs = crate::tensors::canonical(self);
        specs.iter().map(|spec| (spec.rows * spec.cols) as u64).sum()
    }

    /// The slots that the row at `position` may see on a canvas of `canvas` positions.
    #[must_use]
    pub fn visible(&self, position: usize, canvas: usize) -> std::ops::Range<usize> {
        match self.visibility {
            Visibility::All => 0..canvas,
            Visibility::Causal => 0..position + 1,
            Visibility::BlockCausal(block) => 0..((position / block + 1) * block).min(canvas),
        }
    }
}
