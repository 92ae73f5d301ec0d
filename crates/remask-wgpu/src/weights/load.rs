//! Weights from a checkpoint.

use std::collections::HashMap;
use std::ops::Range;

use remask_core::checkpoint::{Checkpoint, HalfLoss, Matrix, WeightFormat};
use remask_core::model::Model;
use remask_core::tensors::{Role, TensorKind, TensorSpec};
use remask_core::{BackendError, Error};

use super::{CHUNK, DeviceMatrix, DeviceWeights, Part};
use crate::gpu::Gpu;
use crate::kernels::linear::Arithmetic;
use crate::order::Order;
use crate::plan::outline::part_ranges;

impl DeviceWeights {
    /// Moves a model's weights to the device, in `format` or else as the checkpoint stores them; but bf16
    /// as f16, where this lets matrix units compute the model and f16 holds the weights. `progress` is told
    /// the bytes moved so far.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`], [`BackendError::Unsupported`], or [`BackendError::Weights`] for a
    /// checkpoint that cannot be converted.
    pub async fn load(
        gpu: &Gpu,
        model: &Model,
        format: Option<WeightFormat>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        if format.is_some() || !wants_f16(gpu, model)? {
            let keep = format.map_or(Keep::AsStored, Keep::In);
            return Ok(Self::load_as(gpu, model, keep, progress).await?);
        }
        match Self::load_as(gpu, model, Keep::Bf16AsF16, progress).await {
            Ok(weights) => {
                tracing::info!("bf16 weights are kept as f16, for the matrix units");
                let note = "bf16 weights are kept as f16, for the matrix units (--weights bf16 keeps them)";
                Ok(Self { note: Some(note.to_owned()), ..weights })
            }
            Err(LoadError::NotF16 { tensor, problem }) => {
                // What was loaded so far is dropped before it is loaded again.
                gpu.wait()?;
                let note = format!(
                    "weights stay bf16, which the matrix units do not take: tensor {tensor}: {problem} (--weights q8 may be faster)"
                );
                tracing::warn!("{note}");
                let weights = Self::load_as(gpu, model, Keep::AsStored, progress).await?;
                Ok(Self { note: Some(note), ..weights })
            }
            Err(LoadError::Backend(e)) => Err(e),
        }
    }

    async fn load_as(gpu: &Gpu, model: &Model, keep: Keep, progress: &mut dyn FnMut(u64)) -> Result<Self, LoadError> {
        let mut loader = Loader { gpu, checkpoint: &model.checkpoint, keep, progress, moved: 0, pending: 0 };
        let (mut matrices, mut vectors) = (HashMap::new(), HashMap::new());
        // Tensors of one role follow each other.
        for stacked in model.tensors.chunk_by(|a, b| a.role == b.role) {
            let Some(first) = stacked.first() else { continue };
            match first.kind {
                TensorKind::Matrix => {
                    matrices.insert(first.role, loader.matrix(&open_all(&model.checkpoint, stacked)?).await?);
                }
                TensorKind::Vector => {
                    vectors.insert(first.role, loader.vector(stacked).await?);
                }
            }
        }
        loader.settle().await?;
        Ok(Self { matrices, vectors, note: None })
    }
}

/// Whether bf16 matrices of the model's blocks would be computed on matrix units if they were f16.
fn wants_f16(gpu: &Gpu, model: &Model) -> Result<bool, BackendError> {
    let of_blocks = |spec: &&TensorSpec| spec.kind == TensorKind::Matrix && matches!(spec.role, Role::Block(..));
    let matrices = model.tensors.iter().filter(of_blocks);
    let format = |spec| Matrix::of(&model.checkpoint, spec).map(|m| m.format);
    let mut stored = matrices.map(format).collect::<Result<Vec<_>, _>>().map_err(weights_error)?;
    stored.dedup();
    Ok(Arithmetic::wants_f16(&gpu.profile, &model.architecture, &stored))
}

impl DeviceMatrix {
    /// Moves one matrix to the device from rows of float32, for tests and benches.
    ///
    /// # Errors
    /// As [`DeviceWeights::load`].
    pub async fn from_checkpoint(
        gpu: &Gpu,
        checkpoint: &Checkpoint,
        name: &str,
        [rows, cols]: [usize; 2],
        format: Option<WeightFormat>,
    ) -> Result<Self, BackendError> {
        let (progress, keep) = (&mut |_| (), format.map_or(Keep::AsStored, Keep::In));
        let mut loader = Loader { gpu, checkpoint, keep, progress, moved: 0, pending: 0 };
        let matrix = loader.matrix(&[Matrix::open(checkpoint, name, rows, cols).map_err(weights_error)?]).await?;
        loader.settle().await?;
        Ok(matrix)
    }
}

/// In which format matrices are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    AsStored,
    In(WeightFormat),
    Bf16AsF16,
}

impl Keep {
    /// The format that a matrix stored in `stored` is kept in.
    fn format(self, stored: WeightFormat, cols: usize) -> WeightFormat {
        let wanted = match (self, stored) {
            (Self::In(format), _) => format,
            (Self::Bf16AsF16, WeightFormat::Bf16) => WeightFormat::F16,
            (_, stored) => stored,
        };
        if wanted.fits(cols) { wanted } else { WeightFormat::F32 }
    }
}

/// Why a load did not come to its end.
enum LoadError {
    Backend(BackendError),
    /// A bf16 tensor that f16 does not hold.
    NotF16 {
        tensor: String,
        problem: String,
    },
}

impl From<BackendError> for LoadError {
    fn from(e: BackendError) -> Self {
        Self::Backend(e)
    }
}

impl From<LoadError> for BackendError {
    fn from(e: LoadError) -> Self {
        match e {
            LoadError::Backend(e) => e,
            LoadError::NotF16 { tensor, problem } => Self::Weights(format!("tensor {tensor}: {problem}")),
        }
    }
}

/// A load under way.
struct Loader<'a> {
    gpu: &'a Gpu,
    checkpoint: &'a Checkpoint,
    keep: Keep,
    progress: &'a mut dyn FnMut(u64),
    moved: u64,
    pending: usize,
}

fn weights_error(e: Error) -> BackendError {
    BackendError::Weights(e.to_string())
}

fn open_all<'a>(checkpoint: &'a Checkpoint, stacked: &[TensorSpec]) -> Result<Vec<Matrix<'a>>, BackendError> {
    stacked.iter().map(|spec| Matrix::of(checkpoint, spec)).collect::<Result<_, _>>().map_err(weights_error)
}

impl Loader<'_> {
    /// Vectors one behind the other.
    async fn vector(&mut self, stacked: &[TensorSpec]) -> Result<wgpu::Buffer, BackendError> {
        let mut values = Vec::new();
        for spec in stacked {
            values.extend(self.checkpoint.vector(spec).map_err(weights_error)?);
        }
        let bytes = bytemuck::cast_slice(&values);
        let label = stacked.first().map_or("vector", |spec| &spec.name);
        let buffer = self.gpu.storage(label, bytes.len() as u64).await?;
        self.write(&buffer, 0, bytes).await?;
        Ok(buffer)
    }

    /// One device matrix from tensors of equal width, stacked by rows. Neighbours that are kept in one format share
    /// their parts.
    async fn matrix(&mut self, sources: &[Matrix<'_>]) -> Result<DeviceMatrix, LoadError> {
        // The disk reads ahead while the first rows are on their way.
        sources.iter().for_each(|s| self.checkpoint.will_need(s.name()));
        let cols = sources.first().map_or(0, |s| s.cols);
        if let Some(first) = sources.first().filter(|_| !cols.is_multiple_of(4)) {
            return Err(LoadError::Backend(BackendError::Unsupported {
                what: format!("tensor {}", first.name()),
                adapter: self.gpu.profile.name.clone(),
                why: format!("its {cols} columns are no multiple of 4, which the kernels read at a time"),
            }));
        }
        let keep = self.keep;
        let format_of = |m: &Matrix| keep.format(m.format, cols);
        let (mut parts, mut first) = (Vec::new(), 0);
        for group in sources.chunk_by(|a, b| format_of(a) == format_of(b)) {
            let Some(format) = group.first().map(format_of) else { continue };
            first = self.group(group, format, first, &mut parts).await?;
        }
        sources.iter().for_each(|source| self.checkpoint.discard(source.name()));
        Ok(DeviceMatrix { parts, order: Order::Rows, rows: first, cols: cols as u32 })
    }

    /// Parts of matrices that are kept in one format, from row `first` on. Returns the row after them.
    async fn group(
        &mut self,
        sources: &[Matrix<'_>],
        format: WeightFormat,
        first: u32,
        parts: &mut Vec<Part>,
    ) -> Result<u32, LoadError> {
        let (name, cols) = sources.first().map_or(("", 0), |s| (s.name(), s.cols));
        let rows: usize = sources.iter().map(|s| s.rows).sum();
        let binding = self.gpu.profile.limits.binding;
        if format.bytes(3, cols) as u64 > binding {
            return Err(LoadError::Backend(BackendError::Unsupported {
                what: format!("tensor {name}"),
                adapter: self.gpu.profile.name.clone(),
                why: format!(
                    "a row of it takes {} bytes, and three must fit the {binding} that one binding spans",
                    format.bytes(1, cols)
                ),
            }));
        }
        let mut losses = vec![HalfLoss::default(); sources.len()];
        for range in part_ranges(binding, 0..rows, cols, format) {
            let (start, count) = (first + range.start as u32, range.len());
            let buffer = self.gpu.storage(name, format.bytes(count, cols).next_multiple_of(4) as u64).await?;
            self.fill(&buffer, sources, range, format, &mut losses).await?;
            parts.push(Part { buffer, first: start, rows: count as u32, format });
        }
        let mut judged = sources.iter().zip(&losses).filter_map(|(s, loss)| Some((s, loss.problem()?)));
        if let Some((source, problem)) = judged.next() {
            return Err(LoadError::NotF16 { tensor: source.name().to_owned(), problem });
        }
        Ok(first + rows as u32)
    }

    /// Writes rows `range` of the stacked `sources` into `buffer`. What bf16 loses as f16, where that was
    /// not asked for, is added to the source's `losses`.
    async fn fill(
        &mut self,
        buffer: &wgpu::Buffer,
        sources: &[Matrix<'_>],
        range: Range<usize>,
        format: WeightFormat,
        losses: &mut [HalfLoss],
    ) -> Result<(), LoadError> {
        let cols = sources.first().map_or(0, |s| s.cols);
        let row_bytes = format.bytes(1, cols) - format.scale_bytes(cols);
        let widest = sources.iter().map(|s| s.format.bytes(1, cols)).fold(row_bytes, usize::max);
        let rows_a_chunk = (CHUNK / widest).max(1);
        let mut scales = Vec::new();
        let mut source_start = 0;
        for (source, loss) in sources.iter().zip(losses) {
            let source_end = source_start + source.rows;
            let (from, to) = (range.start.max(source_start), range.end.min(source_end));
            for start in (from..to.max(from)).step_by(rows_a_chunk) {
                let end = to.min(start + rows_a_chunk);
                let rows = start - source_start..end - source_start;
                if self.keep == Keep::Bf16AsF16 {
                    *loss = loss.and(source.half_loss(rows.clone()).map_err(weights_error)?);
                    if loss.too_large > 0 {
                        return Ok(());
                    }
                }
                let encoded = source.encode(rows, format).map_err(weights_error)?;
                self.write(buffer, (start - range.start) * row_bytes, &encoded.values).await?;
                scales.extend(encoded.scales.iter().flat_map(|s| s.iter().copied()));
            }
            source_start = source_end;
        }
        if !scales.is_empty() {
            scales.resize(scales.len().next_multiple_of(4), 0);
            self.write(buffer, range.len() * row_bytes, &scales).await?;
        }
        Ok(())
    }

    async fn write(&mut self, buffer: &wgpu::Buffer, offset: usize, bytes: &[u8]) -> Result<(), BackendError> {
        self.gpu.queue.write_buffer(buffer, offset as u64, bytes);
        self.moved += bytes.len() as u64;
        self.pending += bytes.len();
        (self.progress)(self.moved);
        if self.pending >= CHUNK {
            self.settle().await?;
        }
        Ok(())
    }

    /// Has the driver take what was written, so that its staging memory can be used again.
    async fn settle(&mut self) -> Result<(), BackendError> {
        self.pending = 0;
        self.gpu.queue.submit([]);
        // A browser only calls back, and never blocks.
        #[cfg(target_arch = "wasm32")]
        {
            let (sender, taken) = futures_channel::oneshot::channel();
            self.gpu.queue.on_submitted_work_done(move || {
                // A dropped receiver means that the load has ended.
                let _ = sender.send(());
            });
            if taken.await.is_err() {
                tracing::debug!("the device did not say that it took the weights");
            }
        }
        self.gpu.wait()
    }
}
