//! Linear layers: what differs between running a model on the CPU and everything else Burn does.

use std::sync::Arc;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, Param};
use burn::tensor::{FloatDType, Int, Tensor, TensorData, activation};

use crate::exp::swiglu;
use crate::panels::Panels;

/// A `[out, in]` matrix without bias.
pub trait Linear: Module {
    /// `x [rows, in]` times the transposed matrix: `[rows, out]`.
    fn product(&self, x: Tensor<2>) -> Tensor<2>;

    /// Rows of the matrix, `[ids, in]`: embeddings. Ids are below `out`.
    fn lookup(&self, ids: Tensor<1, Int>) -> Tensor<2>;

    /// `silu(gate) * up` of `[rows, 2 * width]`, gate first: `[rows, width]`.
    fn gated(gate_up: Tensor<2>) -> Tensor<2> {
        let width = gate_up.dims()[1] / 2;
        let gate = activation::silu(gate_up.clone().narrow(1, 0, width));
        gate * gate_up.narrow(1, width, width)
    }
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

/// A matrix as a tensor: it can be trained, and lives on any of Burn's devices.
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

impl Linear for Dense {
    fn product(&self, x: Tensor<2>) -> Tensor<2> {
        self.precision.product_transposed(x, self.weight.val())
    }

    fn lookup(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        rows(self.weight.val(), ids)
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

/// A matrix on the CPU in the format it is stored in, multiplied by our own kernel. Tensors go in and
/// out without a copy.
#[derive(Debug, Clone)]
pub struct Packed(pub Arc<Panels>);

impl Linear for Packed {
    fn product(&self, x: Tensor<2>) -> Tensor<2> {
        let ([rows, _], device) = (x.dims(), x.device());
        let y = self.0.product(&floats(x), rows);
        Tensor::from_data(TensorData::new(y, [rows, self.0.rows()]), &device)
    }

    fn lookup(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let (count, device) = (ids.dims()[0], ids.device());
        let rows: Vec<f32> = ids.into_data().iter::<i64>().flat_map(|id| self.0.row(id as usize)).collect();
        Tensor::from_data(TensorData::new(rows, [count, self.0.cols()]), &device)
    }

    fn gated(gate_up: Tensor<2>) -> Tensor<2> {
        let ([rows, columns], device) = (gate_up.dims(), gate_up.device());
        let out = swiglu(&floats(gate_up), columns / 2);
        Tensor::from_data(TensorData::new(out, [rows, columns / 2]), &device)
    }
}

/// The elements of a float32 tensor in host memory.
pub(crate) fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    // A tensor of this crate is never anything but float32, and the CPU cannot fail to hand it over.
    x.into_data().try_into_vec().unwrap_or_default()
}

// Packed weights are constants to Burn: nothing to visit, to move or to train.
impl Module for Packed {
    burn::empty!(module);
}

impl ModuleDisplayDefault for Packed {
    fn content(&self, content: Content) -> Option<Content> {
        let shape = format!("[{}, {}] {}", self.0.rows(), self.0.cols(), self.0.format());
        content.add_formatted(&shape).optional()
    }
}

impl ModuleDisplay for Packed {}
