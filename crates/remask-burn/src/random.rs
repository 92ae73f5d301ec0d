//! Random weights on the CPU, where only the shape of a model matters.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use remask_core::Result;
use remask_core::checkpoint::{Bytes, Checkpoint, Matrix, WeightFormat};
use remask_core::tensors::Role;

use crate::packed::Packed;
use crate::panels::Panels;
use crate::transformer::Source;

/// Makes weights of the usual size.
pub(crate) struct RandomWeights {
    /// What matrices are kept in.
    pub format: WeightFormat,
    /// Of the numbers.
    pub state: u64,
}

impl RandomWeights {
    fn panels(&mut self, [rows, cols]: [usize; 2]) -> Result<Panels> {
        let count = rows * cols;
        let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{rows},{cols}],"data_offsets":[0,{}]}}}}"#, count * 4);
        let mut file = Vec::with_capacity(8 + header.len() + count * 4);
        file.extend((header.len() as u64).to_le_bytes());
        file.extend(header.as_bytes());
        for _ in 0..count {
            // xorshift64*: these weights need to be varied and quick, not good.
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let bits = (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32;
            file.extend(((bits / (1 << 23) as f32 - 1.0) * 0.035).to_le_bytes());
        }
        let checkpoint = Checkpoint::from_bytes("random weights", Bytes::Owned(file))?;
        Panels::stack(&[Matrix::open(&checkpoint, "w", rows, cols)?], Some(self.format))
    }
}

impl Source<Packed> for RandomWeights {
    type Error = remask_core::Error;

    fn matrix(&mut self, _: Role, shape: [usize; 2]) -> Result<Packed> {
        Ok(Packed(Arc::new(self.panels(shape)?)))
    }

    fn vector(&mut self, role: Role, len: usize) -> Result<Tensor<1>> {
        let device = Device::flex();
        Ok(if role.is_bias() { Tensor::zeros([len], &device) } else { Tensor::ones([len], &device) })
    }
}
