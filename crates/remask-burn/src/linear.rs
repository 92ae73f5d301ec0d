//! What differs between running a model on the CPU and everything else Burn does: its matrices, and what is
//! computed between their products.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use remask_core::architecture::{Attention, FeedForward, Rotary};

use crate::transformer::Normalisation;

/// A `[out, in]` matrix, and the arithmetic that goes with its kind.
pub trait Linear: Module {
    /// Cosines and sines of the rotary angles of some rows.
    type Turns;

    /// Queries, keys and values of some rows, ready for attention.
    type Projected;

    /// `x [rows, in]` times the transposed matrix, and `bias [out]` added: `[rows, out]`.
    fn product(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2>;

    /// Rows of the matrix, `[ids, in]`: embeddings. Ids are below `out`.
    fn lookup(&self, ids: &[u32]) -> Tensor<2>;

    /// `x [rows, width]`, each row normalised.
    fn normalised(x: Tensor<2>, norm: &Normalisation) -> Tensor<2>;

    /// What the down projection reads, `[rows, hidden]`: the activation of `up [rows, hidden]`, or, where it is
    /// gated, that of the gate, which lies before it, times `up [rows, 2 * hidden]`.
    fn activated(up: Tensor<2>, part: &FeedForward) -> Tensor<2>;

    /// The turns of rows at `positions`. Angles are worked out in float64.
    fn turns(rotary: &Rotary, positions: &[u32], device: &Device) -> Self::Turns;

    /// Queries, keys and values `[rows, qkv width]` of rows, queries and keys first normalised head by head, where
    /// there are `norms` for them, and then turned.
    fn projected(
        qkv: Tensor<2>,
        attention: &Attention,
        norms: Option<[&Normalisation; 2]>,
        turns: Option<&Self::Turns>,
    ) -> Self::Projected;
}

/// What products of tensors compute in. Everything else is float32, and so are the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "train", derive(serde::Serialize, serde::Deserialize))]
pub enum Precision {
    /// float32, or what a device puts in its place (tf32 on NVIDIA's tensor cores).
    #[default]
    F32,
    /// Operands and results rounded to bfloat16: for devices that multiply it much faster.
    Bf16,
}

impl Precision {
    /// `a` times the transposed `b`, float32 to float32.
    #[must_use]
    pub fn product_transposed<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        self.rounded(a).matmul(self.rounded(b).transpose()).cast(FloatDType::F32)
    }

    /// `a` times `b`, float32 to float32.
    #[must_use]
    pub fn product<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        self.rounded(a).matmul(self.rounded(b)).cast(FloatDType::F32)
    }

    fn rounded<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(FloatDType::BF16),
        }
    }
}

/// The elements of a float32 tensor in host memory.
pub(crate) fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    // A tensor of this crate is never anything but float32, and the CPU cannot fail to hand it over.
    x.into_data().try_into_vec().unwrap_or_default()
}

/// Cosines and sines of the rotary angles of rows at `positions`, `[rows, dims / 2]` each.
pub(crate) fn angles(rotary: &Rotary, positions: &[u32]) -> [Vec<f32>; 2] {
    let (frequencies, amplitude) = (rotary.frequencies(), rotary.amplitude());
    let turns = positions.iter().flat_map(|position| frequencies.iter().map(|f| f64::from(*position) * f));
    let (sin, cos) = turns.map(f64::sin_cos).map(|(s, c)| ((s * amplitude) as f32, (c * amplitude) as f32)).unzip();
    [cos, sin]
}
