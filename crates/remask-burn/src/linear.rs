//! Linear layers: what differs between running a model on the CPU and everything else Burn does.

use std::sync::Arc;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, Param};
use burn::tensor::{Int, Tensor, TensorData, activation};

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

/// A matrix as a tensor: it can be trained, and lives on any of Burn's devices.
#[derive(Module, Debug)]
pub struct Dense {
    /// The weights, `[out, in]`.
    pub weight: Param<Tensor<2>>,
}

impl Linear for Dense {
    fn product(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.val().transpose())
    }

    fn lookup(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        self.weight.val().select(0, ids)
    }
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
