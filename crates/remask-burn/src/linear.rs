//! Linear layers: what differs between running a model on the CPU and everything else Burn does.

use std::sync::Arc;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, Param};
use burn::tensor::{Int, Tensor, TensorData};

use crate::panels::Panels;

/// A `[out, in]` matrix without bias.
pub trait Linear: Module {
    /// `x [rows, in]` times the transposed matrix: `[rows, out]`.
    fn product(&self, x: Tensor<2>) -> Tensor<2>;

    /// Rows of the matrix, `[ids, in]`: embeddings. Ids are below `out`.
    fn lookup(&self, ids: Tensor<1, Int>) -> Tensor<2>;
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
