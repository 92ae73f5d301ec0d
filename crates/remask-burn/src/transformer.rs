//! The LLaDA family as Burn modules: written once, for inference on any of Burn's devices and for
//! training. What a row attends to is left to the caller: a key/value store here, a batch of whole
//! texts there.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use remask_core::Architecture;
use remask_core::architecture::{Rotary, RotaryPairing};

use crate::linear::Linear;

/// A transformer whose matrices are of kind `L`.
#[derive(Module, Debug)]
pub struct Transformer<L: Linear> {
    /// Token embedding `[embedding_rows, hidden]`.
    pub embedding: L,
    /// The blocks.
    pub blocks: Vec<Block<L>>,
    /// Norm before the head.
    pub norm: RmsNorm,
    /// Head `[embedding_rows, hidden]`; `None` where it is the embedding.
    pub head: Option<L>,
    #[module(skip)]
    shape: Shape,
}

/// Attention and MLP, each behind a norm and added to the residual stream.
#[derive(Module, Debug)]
pub struct Block<L: Linear> {
    /// Norm before attention.
    pub attention_norm: RmsNorm,
    /// Query, key and value projections stacked by rows.
    pub qkv: L,
    /// Attention output `[hidden, heads * head_dim]`.
    pub attention_out: L,
    /// Norm before the MLP.
    pub mlp_norm: RmsNorm,
    /// Gate and up projections stacked by rows.
    pub gate_up: L,
    /// Down projection `[hidden, mlp hidden]`.
    pub down: L,
}

/// `weight * x / sqrt(mean(x^2) + eps)`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Factors `[hidden]`.
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f32,
}

/// What the forward pass must know beside the weights.
#[derive(Debug, Clone)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rotary: Rotary,
    embedding_scale: f32,
    logit_scale: f32,
}

/// Queries, keys and values of some rows: `[rows, heads, head_dim]`, keys and values with `kv_heads`.
/// Queries and keys are rotated.
pub struct Projections {
    /// Queries.
    pub q: Tensor<3>,
    /// Keys.
    pub k: Tensor<3>,
    /// Values.
    pub v: Tensor<3>,
}

impl RmsNorm {
    /// A norm with these factors.
    #[must_use]
    pub fn new(weight: Tensor<1>, eps: f32) -> Self {
        Self { weight: Param::from_tensor(weight), eps }
    }

    /// Normalises the rows of `x [rows, hidden]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let mean = x.clone().square().mean_dim(1);
        let inverse = mean.add_scalar(self.eps).sqrt().recip();
        x * inverse * self.weight.val().unsqueeze()
    }
}

impl<L: Linear> Transformer<L> {
    /// A transformer of these parts.
    #[must_use]
    pub fn new(a: &Architecture, embedding: L, blocks: Vec<Block<L>>, norm: RmsNorm, head: Option<L>) -> Self {
        let shape = Shape {
            heads: a.attention.heads,
            kv_heads: a.attention.kv_heads,
            head_dim: a.attention.head_dim,
            rotary: a.rotary,
            embedding_scale: a.embedding_scale,
            logit_scale: a.logit_scale,
        };
        Self { embedding, blocks, norm, head, shape }
    }

    /// The residual stream of rows after the last block, `[rows, hidden]`. `attend` gets a block's
    /// index and projections and answers what its rows attend to, `[rows, heads * head_dim]`.
    pub fn forward(
        &self,
        tokens: Tensor<1, Int>,
        turns: &Turns,
        mut attend: impl FnMut(usize, Projections) -> Tensor<2>,
    ) -> Tensor<2> {
        let mut x = self.embedding.lookup(tokens);
        if self.shape.embedding_scale != 1.0 {
            x = x.mul_scalar(self.shape.embedding_scale);
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let projections = self.project(block, block.attention_norm.forward(x.clone()), turns);
            x = x + block.attention_out.product(attend(index, projections));
            let gate_up = block.gate_up.product(block.mlp_norm.forward(x.clone()));
            x = x + block.down.product(L::gated(gate_up));
        }
        x
    }

    /// What the head reads, `[rows, hidden]`, from the residual stream.
    #[must_use]
    pub fn normed(&self, x: Tensor<2>) -> Tensor<2> {
        let x = self.norm.forward(x);
        if self.shape.logit_scale == 1.0 { x } else { x.mul_scalar(self.shape.logit_scale) }
    }

    /// Logits `[rows, embedding_rows]` of what [`Transformer::normed`] gives.
    #[must_use]
    pub fn logits(&self, normed: Tensor<2>) -> Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embedding).product(normed)
    }

    fn project(&self, block: &Block<L>, x: Tensor<2>, turns: &Turns) -> Projections {
        let Shape { heads, kv_heads, head_dim, rotary, .. } = self.shape;
        let [rows, _] = x.dims();
        let qkv = block.qkv.product(x).reshape([rows, heads + 2 * kv_heads, head_dim]);
        // Queries and keys turn together.
        let turned = turns.rotate(qkv.clone().narrow(1, 0, heads + kv_heads), &rotary);
        Projections {
            q: turned.clone().narrow(1, 0, heads),
            k: turned.narrow(1, heads, kv_heads),
            v: qkv.narrow(1, heads + kv_heads, kv_heads),
        }
    }
}

/// Cosines and sines of the rotary angles of some rows, `[rows, 1, dims / 2]` each.
pub struct Turns {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Turns {
    /// The turns of rows at `positions`. Angles are worked out in float64.
    #[must_use]
    pub fn of(rotary: &Rotary, positions: impl Iterator<Item = u32>, device: &burn::tensor::Device) -> Self {
        let pairs = rotary.dims / 2;
        let frequencies: Vec<_> = (0..pairs).map(|i| rotary.theta.powf(-2.0 * i as f64 / rotary.dims as f64)).collect();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        let mut rows = 0;
        for position in positions {
            rows += 1;
            for frequency in &frequencies {
                let (s, c) = (f64::from(position) * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        let tensor = |values| Tensor::from_data(TensorData::new(values, [rows, 1, pairs]), device);
        Self { cos: tensor(cos), sin: tensor(sin) }
    }

    /// The same turns for each of `times` sequences, one behind the other.
    #[must_use]
    pub fn repeated(self, times: usize) -> Self {
        Self { cos: self.cos.repeat_dim(0, times), sin: self.sin.repeat_dim(0, times) }
    }

    /// Turns the first `dims` elements of every head of `x [rows, heads, head_dim]`.
    fn rotate(&self, x: Tensor<3>, rotary: &Rotary) -> Tensor<3> {
        let [rows, heads, head_dim] = x.dims();
        let (dims, pairs) = (rotary.dims, rotary.dims / 2);
        if dims == 0 {
            return x;
        }
        let rest = (dims < head_dim).then(|| x.clone().narrow(2, dims, head_dim - dims));
        let turn = |a: Tensor<3>, b: Tensor<3>| {
            let (cos, sin) = (self.cos.clone(), self.sin.clone());
            let left = a.clone() * cos.clone() - b.clone() * sin.clone();
            (left, b * cos + a * sin)
        };
        let turned = match rotary.pairing {
            RotaryPairing::Halves => {
                let (a, b) = turn(x.clone().narrow(2, 0, pairs), x.narrow(2, pairs, pairs));
                Tensor::cat(vec![a, b], 2)
            }
            RotaryPairing::Interleaved => {
                let x = x.narrow(2, 0, dims).reshape([rows, heads, pairs, 2]);
                let half = |i| x.clone().narrow(3, i, 1).reshape([rows, heads, pairs]);
                let (a, b) = turn(half(0), half(1));
                Tensor::<3>::stack::<4>(vec![a, b], 3).reshape([rows, heads, dims])
            }
        };
        match rest {
            Some(rest) => Tensor::cat(vec![turned, rest], 2),
            None => turned,
        }
    }
}
