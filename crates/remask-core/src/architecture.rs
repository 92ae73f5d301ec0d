//! One description of a transformer, whatever family its config came from.
//!
//! A family's parser (see [`crate::families`]) turns a Hugging Face `config.json` into an
//! [`Architecture`]; backends read only this. Later families extend the enums, they do not add
//! a second description.

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
    /// Number of transformer blocks.
    pub layers: usize,
    /// Attention shape and visibility.
    pub attention: Attention,
    /// The normalisation before attention, before the MLP and before the head.
    pub norm: Norm,
    /// Rotary position embedding.
    pub rotary: Rotary,
    /// The feed-forward part of a block.
    pub mlp: Mlp,
    /// Which linear layers carry a bias.
    pub biases: Biases,
    /// The head is the embedding matrix.
    pub tied_head: bool,
    /// Factor on embeddings as they enter the first block.
    pub embedding_scale: f32,
    /// Factor on logits.
    pub logit_scale: f32,
    /// Positions the model was trained for: prompt and answer together.
    pub max_positions: usize,
    /// Row i predicts token i + 1 (models adapted from autoregressive ones, e.g. Dream).
    pub shifted_logits: bool,
    /// Special ids the config names.
    pub tokens: TokenIds,
}

/// Attention heads and which keys a row may see.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; query head h reads K/V head h / (heads / kv_heads).
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Factor on query-key products, usually 1/sqrt(head_dim).
    pub scale: f32,
    /// Which keys a row may see.
    pub visibility: Visibility,
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
    /// The last this many slots up to the row's own.
    Window(usize),
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `w * x / sqrt(mean(x^2) + eps)`.
    Rms,
    /// `w * (x - mean) / sqrt(var + eps) + b`.
    Layer,
}

/// Rotary position embedding: the first `dims` elements of each head are rotated in pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rotary {
    /// Base of the angle progression.
    pub theta: f64,
    /// Elements of a head that rotate; even, at most head_dim. 0 means no rotation.
    pub dims: usize,
    /// How elements pair up.
    pub pairing: RotaryPairing,
}

/// Which elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryPairing {
    /// (i, i + dims/2): "NeoX", every Hugging Face checkpoint.
    Halves,
    /// (2i, 2i + 1): GGUF files with permuted projections.
    Interleaved,
}

/// Feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mlp {
    /// Activation and gating.
    pub kind: MlpKind,
    /// Inner width.
    pub hidden: usize,
}

/// Kinds of feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpKind {
    /// `down(silu(gate(x)) * up(x))`.
    SwiGlu,
    /// `down(gelu_tanh(up(x)))`.
    GeluTanh,
}

/// Which linear layers carry a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Biases {
    /// Query, key and value projections.
    pub qkv: bool,
    /// Attention output projection.
    pub attention_out: bool,
    /// MLP projections.
    pub mlp: bool,
    /// The head.
    pub head: bool,
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
    /// Parameters of the model that this describes: matrices, biases excluded.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let (d, a) = (self.hidden as u64, &self.attention);
        let q = (a.heads * a.head_dim) as u64;
        let kv = (a.kv_heads * a.head_dim) as u64;
        let mlp = match self.mlp.kind {
            MlpKind::SwiGlu => 3,
            MlpKind::GeluTanh => 2,
        } * d
            * self.mlp.hidden as u64;
        let layer = d * (q + 2 * kv) + q * d + mlp + 2 * d;
        let matrices = if self.tied_head { 1 } else { 2 };
        matrices * self.embedding_rows as u64 * d + self.layers as u64 * layer + d
    }

    /// The slots that the row at `position` may see on a canvas of `canvas` positions.
    #[must_use]
    pub fn visible(&self, position: usize, canvas: usize) -> std::ops::Range<usize> {
        match self.attention.visibility {
            Visibility::All => 0..canvas,
            Visibility::Causal => 0..position + 1,
            Visibility::BlockCausal(block) => 0..((position / block + 1) * block).min(canvas),
            Visibility::Window(window) => (position + 1).saturating_sub(window)..position + 1,
        }
    }
}
