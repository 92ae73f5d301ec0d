//! Weights from a checkpoint.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use remask_core::checkpoint::{Checkpoint, HalfLoss, Matrix, WeightFormat};
use remask_core::model::Model;
use remask_core::tensors::{Role, TensorKind, TensorSpec};
use remask_core::{BackendError, Error};

use super::{CHUNK, DeviceMatrix, DeviceWeights, Part};
use crate::gpu::Gpu;
use crate::kernels::linear::Arithmetic;
use crate::kernels::padded;
use crate::order::Order;
use crate::plan::outline::{padded_rows, part_ranges, sections};

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
            let (role, sections) = (first.role, sections(&model.architecture, first.role));
            match first.kind {
                TensorKind::Matrix => {
                    let sources = stacked.iter().map(|spec| Matrix::of(&model.checkpoint, spec));
                    let sources = sources.collect::<Result<Vec<_>, _>>().map_err(weights_error)?;
                    let pieces = placed(&sources, |m| m.rows, sections.as_deref());
                    let whole = sources.iter().map(|m| m.rows).sum();
                    let rows = padded_rows(&model.architecture, role, whole);
                    matrices.insert(role, loader.matrix(&sources, &pieces, rows).await?);
                }
                TensorKind::Vector => {
                    vectors.insert(role, loader.vector(stacked, sections.as_deref()).await?);
                }
            }
        }
        loader.settle().await?;
        Self::assemble(gpu, &model.architecture, matrices, vectors).await.map_err(LoadError::from)
    }
}

/// Rows of a source (or elements of a vector) and the row on the device that the first of them goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    /// Index of the source.
    source: usize,
    /// Its rows.
    rows: Range<usize>,
    /// Where they go.
    to: usize,
}

/// Where the rows of stacked sources go on the device, where each of `sections` is filled up with zeros: one behind the
/// other where there are none.
fn placed<T>(sources: &[T], rows: impl Fn(&T) -> usize, sections: Option<&[usize]>) -> Vec<Piece> {
    let whole: usize = sources.iter().map(&rows).sum();
    let whole = [whole];
    let sections = sections.unwrap_or(&whole);
    let (mut pieces, mut first, mut to) = (Vec::new(), 0, 0);
    for section in sections {
        let mut start = 0;
        for (source, rows) in sources.iter().map(&rows).enumerate() {
            let shared = first.max(start)..(first + section).min(start + rows);
            if !shared.is_empty() {
                let rows = shared.start - start..shared.end - start;
                pieces.push(Piece { source, rows, to: to + shared.start - first });
            }
            start += rows;
        }
        first += section;
        to += padded(*section as u32) as usize;
    }
    pieces
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
        let sources = [Matrix::open(checkpoint, name, rows, cols).map_err(weights_error)?];
        let matrix = loader.matrix(&sources, &[Piece { source: 0, rows: 0..rows, to: 0 }], rows).await?;
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
    /// The format that a matrix is kept in.
    fn format(self, source: &Matrix<'_>) -> Result<WeightFormat, Error> {
        let wanted = match (self, source.format) {
            (Self::In(format), _) => format,
            (Self::Bf16AsF16, WeightFormat::Bf16) => WeightFormat::F16,
            _ => source.kept_as()?,
        };
        Ok(if wanted.fits(source.cols) { wanted } else { WeightFormat::F32 })
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

impl Loader<'_> {
    /// Vectors one behind the other, each section filled up with zeros.
    async fn vector(
        &mut self,
        stacked: &[TensorSpec],
        sections: Option<&[usize]>,
    ) -> Result<wgpu::Buffer, BackendError> {
        let read = |spec| self.checkpoint.vector(spec).map_err(weights_error);
        let sources = stacked.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut values = Vec::new();
        for Piece { source, rows, to } in placed(&sources, Vec::len, sections) {
            values.resize(to, 0.0);
            values.extend(sources.get(source).and_then(|s| s.get(rows)).unwrap_or_default());
        }
        values.resize(padded(values.len() as u32) as usize, 0.0);
        let label = stacked.first().map_or("vector", |spec| &spec.name);
        let buffer = self.gpu.storage(label, size_of_val(&values[..]) as u64).await?;
        self.write(&buffer, 0, bytemuck::cast_slice(&values)).await?;
        Ok(buffer)
    }

    /// One device matrix from sources of equal width, whose rows go where `pieces` says, of `rows` rows in all. Neighbours that are kept in
    /// one format share their parts.
    async fn matrix(
        &mut self,
        sources: &[Matrix<'_>],
        pieces: &[Piece],
        rows: usize,
    ) -> Result<DeviceMatrix, LoadError> {
        // The disk reads ahead while the first rows are on their way.
        sources.iter().for_each(|s| self.checkpoint.will_need(s.name()));
        let cols = sources.first().map_or(0, |s| s.cols);
        let formats =
            sources.iter().map(|m| self.keep.format(m)).collect::<Result<Vec<_>, _>>().map_err(weights_error)?;
        let format_of = |p: &Piece| formats.get(p.source).copied().unwrap_or(WeightFormat::F32);
        let mut parts = Vec::new();
        let groups: Vec<_> = pieces.chunk_by(|a, b| format_of(a) == format_of(b)).collect();
        for (i, group) in groups.iter().enumerate() {
            let Some(first) = group.first() else { continue };
            let end = groups.get(i + 1).and_then(|next| next.first()).map_or(rows, |next| next.to);
            self.group(sources, group, format_of(first), first.to..end, &mut parts).await?;
        }
        sources.iter().for_each(|source| self.checkpoint.discard(source.name()));
        Ok(DeviceMatrix { parts, order: Order::Rows, rows: rows as u32, cols: padded(cols as u32) })
    }

    /// Parts of rows `range`, which are kept in one format.
    async fn group(
        &mut self,
        sources: &[Matrix<'_>],
        pieces: &[Piece],
        format: WeightFormat,
        range: Range<usize>,
        parts: &mut Vec<Part>,
    ) -> Result<(), LoadError> {
        let (name, cols) = sources.first().map_or(("", 0), |s| (s.name(), padded(s.cols as u32) as usize));
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
        for range in part_ranges(binding, range, cols, format) {
            let (first, count) = (range.start as u32, range.len());
            let buffer = self.gpu.storage(name, format.bytes(count, cols).next_multiple_of(4) as u64).await?;
            self.fill(&buffer, sources, pieces, range, format, &mut losses).await?;
            parts.push(Part { buffer, first, rows: count as u32, format });
        }
        let mut judged = sources.iter().zip(&losses).filter_map(|(s, loss)| Some((s, loss.problem()?)));
        match judged.next() {
            Some((source, problem)) => Err(LoadError::NotF16 { tensor: source.name().to_owned(), problem }),
            None => Ok(()),
        }
    }

    /// Writes what belongs to rows `range` into `buffer`, which is all zeros. What bf16 loses as f16, where that was
    /// not asked for, is added to the source's `losses`.
    async fn fill(
        &mut self,
        buffer: &wgpu::Buffer,
        sources: &[Matrix<'_>],
        pieces: &[Piece],
        range: Range<usize>,
        format: WeightFormat,
        losses: &mut [HalfLoss],
    ) -> Result<(), LoadError> {
        let cols = padded(sources.first().map_or(0, |s| s.cols) as u32) as usize;
        // Bytes of a row in each plane, and where the plane begins.
        let row_bytes: Vec<_> = format.planes().iter().map(|p| p.of(cols)).collect();
        let begins = row_bytes.iter().scan(0, |at, row| Some(std::mem::replace(at, *at + range.len() * row)));
        let planes: Vec<_> = row_bytes.iter().copied().zip(begins).collect();
        // A plane whose rows do not begin at whole words is written when all of it is there. Only the last one may be
        // such a plane.
        let mut whole = Vec::new();
        for Piece { source: index, rows, to } in pieces {
            let Some(source) = sources.get(*index) else { continue };
            let widest = format.bytes(1, cols).max(source.format.bytes(1, source.cols));
            let rows_a_chunk = (CHUNK / widest.max(1)).max(1);
            let (from, end) = (range.start.max(*to), range.end.min(to + rows.len()));
            for start in (from..end.max(from)).step_by(rows_a_chunk) {
                let end = end.min(start + rows_a_chunk);
                let taken = rows.start + start - to..rows.start + end - to;
                if self.keep == Keep::Bf16AsF16
                    && let Some(loss) = losses.get_mut(*index)
                {
                    *loss = loss.and(source.half_loss(taken.clone()).map_err(weights_error)?);
                    if loss.too_large > 0 {
                        return Ok(());
                    }
                }
                let encoded = source.encode(taken, format).map_err(weights_error)?;
                for (plane, (row_bytes, begin)) in encoded.planes.iter().zip(&planes) {
                    let plane = widened(plane, end - start, *row_bytes);
                    let before = (start - range.start) * row_bytes;
                    if row_bytes.is_multiple_of(4) {
                        self.write(buffer, begin + before, &plane).await?;
                    } else {
                        whole.resize(before, 0);
                        whole.extend_from_slice(&plane);
                    }
                }
            }
        }
        if let Some((_, begin)) = planes.last().filter(|_| !whole.is_empty()) {
            whole.resize(whole.len().next_multiple_of(4), 0);
            self.write(buffer, *begin, &whole).await?;
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

/// Rows of values with zeros behind each, up to `row_bytes`.
fn widened(values: &[u8], rows: usize, row_bytes: usize) -> Cow<'_, [u8]> {
    let own = values.len() / rows.max(1);
    if own == row_bytes {
        return Cow::Borrowed(values);
    }
    let mut wide = vec![0; rows * row_bytes];
    for (to, from) in wide.chunks_exact_mut(row_bytes.max(1)).zip(values.chunks_exact(own.max(1))) {
        if let Some(to) = to.get_mut(..from.len()) {
            to.copy_from_slice(from);
        }
    }
    Cow::Owned(wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_filled_up() {
        let piece = |source, rows: Range<usize>, to| Piece { source, rows, to };
        let of = |sources: &[usize], sections: Option<&[usize]>| placed(sources, |rows| *rows, sections);
        assert_eq!(of(&[60], Some(&[60])), [piece(0, 0..60, 0)]);
        assert_eq!(of(&[10, 10], Some(&[10, 10])), [piece(0, 0..10, 0), piece(1, 0..10, 16)]);
        // Gate and up in one tensor.
        assert_eq!(of(&[20], Some(&[10, 10])), [piece(0, 0..10, 0), piece(0, 10..20, 16)]);
        assert_eq!(of(&[6, 2, 2], None), [piece(0, 0..6, 0), piece(1, 0..2, 6), piece(2, 0..2, 8)]);
    }

    #[test]
    fn rows_are_widened() {
        assert_eq!(*widened(&[1, 2, 3, 4], 2, 3), [1, 2, 0, 3, 4, 0]);
        assert_eq!(*widened(&[1, 2, 3, 4], 2, 2), [1, 2, 3, 4]);
    }
}
