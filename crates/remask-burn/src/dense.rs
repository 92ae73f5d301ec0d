//! Matrices as tensors, and everything between their products as Burn's operations: for training, and for any of
//! Burn's devices.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use remask_core::architecture::{Activation, Attention, FeedForward, NormKind, Rotary, RotaryPairing};

use crate::linear::{Linear, Precision, angles};
use crate::transformer::Normalisation;

/// A matrix as a tensor.
#[derive(Module, Debug)]
pub struct Dense {
    /// The weights, `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// What products compute in.
    #[module(skip)]
    pub precision: Precision,
}

impl Dense {
    /// A matrix of these weights, whose products are float32.
    #[must_use]
    pub fn new(weight: Tensor<2>) -> Self {
        Self { weight: Param::from_tensor(weight), precision: Precision::F32 }
    }
}

/// Queries, keys and values of some rows: `[rows, heads, head_dim]`, keys and values with `kv_heads`.
pub struct Projections {
    /// Queries.
    pub q: Tensor<3>,
    /// Keys.
    pub k: Tensor<3>,
    /// Values.
    pub v: Tensor<3>,
}

impl Linear for Dense {
    type Turns = Turns;
    type Projected = Projections;

    fn product(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let product = self.precision.product_transposed(x, self.weight.val());
        match bias {
            Some(bias) => product + bias.unsqueeze(),
            None => product,
        }
    }

    fn lookup(&self, ids: &[u32]) -> Tensor<2> {
        let weight = self.weight.val();
        let ids: Vec<_> = ids.iter().map(|id| i64::from(*id)).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::from(&ids[..]), &weight.device());
        rows(weight, ids)
    }

    fn normalised(x: Tensor<2>, norm: &Normalisation) -> Tensor<2> {
        let x = match norm.norm.kind {
            NormKind::Rms => x,
            NormKind::Layer => x.clone() - x.mean_dim(1),
        };
        let square = x.clone().square().mean_dim(1);
        let inverse = square.add_scalar(norm.norm.eps).sqrt().recip();
        let scaled = x * inverse * norm.weight.val().unsqueeze();
        match &norm.bias {
            Some(bias) => scaled + bias.val().unsqueeze(),
            None => scaled,
        }
    }

    fn activated(up: Tensor<2>, part: &FeedForward) -> Tensor<2> {
        let activation = |x| match part.activation {
            Activation::Silu => activation::silu(x),
            Activation::GeluTanh => activation::gelu_approximate(x),
            Activation::Gelu => activation::gelu(x),
        };
        if !part.gated {
            return activation(up);
        }
        let width = part.hidden;
        activation(up.clone().narrow(1, 0, width)) * up.narrow(1, width, width)
    }

    fn turns(rotary: &Rotary, positions: &[u32], device: &Device) -> Turns {
        let shape = [positions.len(), 1, rotary.dims / 2];
        let [cos, sin] = angles(rotary, positions).map(|v| Tensor::from_data(TensorData::new(v, shape), device));
        Turns { cos, sin, pairing: rotary.pairing }
    }

    fn projected(
        qkv: Tensor<2>,
        attention: &Attention,
        norms: Option<[&Normalisation; 2]>,
        turns: Option<&Turns>,
    ) -> Projections {
        let Attention { heads, kv_heads, head_dim, .. } = *attention;
        let [rows, _] = qkv.dims();
        let qkv = qkv.reshape([rows, heads + 2 * kv_heads, head_dim]);
        let turned = |x| turns.map_or_else(|| Tensor::clone(&x), |turns| turns.rotate(x.clone()));
        let v = qkv.clone().narrow(1, heads + kv_heads, kv_heads);
        let Some([of_q, of_k]) = norms else {
            // Queries and keys turn together.
            let turned = turned(qkv.narrow(1, 0, heads + kv_heads));
            return Projections { q: turned.clone().narrow(1, 0, heads), k: turned.narrow(1, heads, kv_heads), v };
        };
        let by_head = |first, heads, norm| {
            let x = qkv.clone().narrow(1, first, heads).reshape([rows * heads, head_dim]);
            turned(Self::normalised(x, norm).reshape([rows, heads, head_dim]))
        };
        Projections { q: by_head(0, heads, of_q), k: by_head(heads, kv_heads, of_k), v }
    }
}

/// The rows of `x` at `indices`.
///
/// By gather, not by select: on a GPU the gradient of a gather is added up by all threads at once, that
/// of a select by one thread a column, row after row.
#[must_use]
pub fn rows(x: Tensor<2>, indices: Tensor<1, Int>) -> Tensor<2> {
    let ([_, columns], [count]) = (x.dims(), indices.dims());
    x.gather(0, indices.unsqueeze_dim::<2>(1).expand([count, columns]))
}

/// Cosines and sines of the rotary angles of some rows, `[rows, 1, dims / 2]` each.
pub struct Turns {
    cos: Tensor<3>,
    sin: Tensor<3>,
    pairing: RotaryPairing,
}

impl Turns {
    /// Turns the first `dims` elements of every head of `x [rows, heads, head_dim]`.
    fn rotate(&self, x: Tensor<3>) -> Tensor<3> {
        let ([rows, heads, head_dim], [_, _, pairs]) = (x.dims(), self.cos.dims());
        let dims = 2 * pairs;
        if dims == 0 {
            return x;
        }
        let rest = (dims < head_dim).then(|| x.clone().narrow(2, dims, head_dim - dims));
        let turn = |a: Tensor<3>, b: Tensor<3>| {
            let (cos, sin) = (self.cos.clone(), self.sin.clone());
            let left = a.clone() * cos.clone() - b.clone() * sin.clone();
            (left, b * cos + a * sin)
        };
        let turned = match self.pairing {
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
