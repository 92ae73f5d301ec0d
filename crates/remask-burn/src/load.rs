//! From a checkpoint to modules.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use remask_core::checkpoint::{Matrix, WeightFormat};
use remask_core::tensors::{self, Role, TensorSpec};
use remask_core::{Architecture, Checkpoint, Error, Result};

use crate::dense::Dense;
use crate::linear::Linear;
use crate::packed::Packed;
use crate::panels::Panels;
use crate::transformer::{Source, Transformer};

/// A kind of linear layer that can be made from a checkpoint's matrices, stacked by rows.
pub trait FromMatrices: Linear {
    /// The layer, kept in `format` or else as the checkpoint stores it, and its formats.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a weight cannot be kept in `format`.
    fn stack(sources: &[Matrix], format: Option<WeightFormat>, device: &Device) -> Result<(Self, Vec<WeightFormat>)>;
}

impl FromMatrices for Packed {
    fn stack(sources: &[Matrix], format: Option<WeightFormat>, _: &Device) -> Result<(Self, Vec<WeightFormat>)> {
        let panels = Panels::stack(sources, format)?;
        let formats = panels.formats();
        Ok((Self(Arc::new(panels)), formats))
    }
}

impl FromMatrices for Dense {
    /// Tensors are float32 whatever the checkpoint holds.
    fn stack(sources: &[Matrix], _: Option<WeightFormat>, device: &Device) -> Result<(Self, Vec<WeightFormat>)> {
        let mut values = Vec::new();
        for source in sources {
            values.extend(source.to_f32(0..source.rows)?);
        }
        let shape = [sources.iter().map(|s| s.rows).sum(), sources.first().map_or(0, |s| s.cols)];
        Ok((Self::new(Tensor::from_data(TensorData::new(values, shape), device)), vec![WeightFormat::F32]))
    }
}

/// The transformer of `specs` in `checkpoint`, on `device`, and the formats of its matrices. `progress` is told the
/// bytes of the checkpoint that have been read.
///
/// # Errors
/// [`Error::Tensor`] where a tensor is missing, of another shape, or cannot be kept in `format`; [`Error::Io`].
pub fn transformer<L: FromMatrices>(
    a: &Architecture,
    specs: &[TensorSpec],
    checkpoint: &Checkpoint,
    format: Option<WeightFormat>,
    device: &Device,
    progress: &mut dyn FnMut(u64),
) -> Result<(Transformer<L>, Vec<WeightFormat>)> {
    let mut stored = StoredWeights { specs, checkpoint, format, device, progress, read: 0, kept: Vec::new() };
    let transformer = Transformer::of(&mut stored, a)?;
    Ok((transformer, stored.kept))
}

struct StoredWeights<'a> {
    specs: &'a [TensorSpec],
    checkpoint: &'a Checkpoint,
    format: Option<WeightFormat>,
    device: &'a Device,
    progress: &'a mut dyn FnMut(u64),
    read: u64,
    /// The formats of the matrices.
    kept: Vec<WeightFormat>,
}

impl StoredWeights<'_> {
    fn wrong(&self, role: Role, problem: String) -> Error {
        Error::tensor(self.checkpoint.files().next().unwrap_or("(no file)"), &format!("{role:?}"), problem)
    }
}

impl<L: FromMatrices> Source<L> for StoredWeights<'_> {
    type Error = Error;

    fn matrix(&mut self, role: Role, [rows, cols]: [usize; 2]) -> Result<L> {
        let open = |spec| Matrix::of(self.checkpoint, spec);
        let sources: Vec<_> = tensors::of(self.specs, role).map(open).collect::<Result<_>>()?;
        let found = sources.iter().map(|s| s.rows).sum::<usize>();
        if found != rows || sources.iter().any(|s| s.cols != cols) {
            return Err(self.wrong(role, format!("has {found} rows, the model asks for [{rows}, {cols}]")));
        }
        // The disk reads ahead while the first rows are on their way.
        sources.iter().for_each(|s| self.checkpoint.will_need(s.name()));
        let (layer, formats) = L::stack(&sources, self.format, self.device)?;
        self.kept.extend(formats);
        for source in &sources {
            self.checkpoint.discard(source.name());
            self.read += source.stored_bytes();
        }
        (self.progress)(self.read);
        Ok(layer)
    }

    fn vector(&mut self, role: Role, len: usize) -> Result<Tensor<1>> {
        let mut values = Vec::with_capacity(len);
        for spec in tensors::of(self.specs, role) {
            values.extend(self.checkpoint.vector(spec)?);
        }
        if values.len() != len {
            return Err(self.wrong(role, format!("has {} elements, the model asks for {len}", values.len())));
        }
        Ok(Tensor::from_data(TensorData::new(values, [len]), self.device))
    }
}
