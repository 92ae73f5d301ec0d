//! Weights on the device: matrices split into parts that fit one binding, streamed from the mapped
//! checkpoint so that the host never holds more than a few chunks of them.

use remask_core::checkpoint::{Checkpoint, Matrix, WeightFormat};
use remask_core::model::{Model, layer_matrices};
use remask_core::{BackendError, Error};

use crate::gpu::Gpu;

/// Bytes handed to the driver before waiting for it to take them: bounds the staging memory.
const CHUNK: usize = 16 << 20;

/// A weight matrix `[rows, cols]`, possibly of several tensors stacked by rows.
pub struct DeviceMatrix {
    /// Pieces by rows, in order.
    pub parts: Vec<Part>,
    /// Storage format.
    pub format: WeightFormat,
    /// Output features.
    pub rows: u32,
    /// Input features, a multiple of 4.
    pub cols: u32,
}

/// Consecutive rows of a matrix in one buffer.
pub struct Part {
    /// The weights, with the scales of q8 behind them.
    pub buffer: wgpu::Buffer,
    /// First row.
    pub first: u32,
    /// Number of rows.
    pub rows: u32,
}

/// One transformer block.
pub struct DeviceLayer {
    /// `[hidden]`.
    pub attention_norm: wgpu::Buffer,
    /// Queries, keys and values stacked: `[(heads + 2 kv_heads) * head_dim, hidden]`.
    pub qkv: DeviceMatrix,
    /// `[hidden, heads * head_dim]`.
    pub attention_out: DeviceMatrix,
    /// `[hidden]`.
    pub mlp_norm: wgpu::Buffer,
    /// Gate and up stacked: `[2 * mlp hidden, hidden]`.
    pub gate_up: DeviceMatrix,
    /// `[hidden, mlp hidden]`.
    pub down: DeviceMatrix,
}

/// Every weight of a model.
pub struct DeviceWeights {
    /// `[embedding_rows, hidden]`; also the head where that is tied.
    pub embedding: DeviceMatrix,
    /// Blocks.
    pub layers: Vec<DeviceLayer>,
    /// `[hidden]`.
    pub final_norm: wgpu::Buffer,
    /// `[embedding_rows, hidden]` where not tied.
    pub head: Option<DeviceMatrix>,
}

impl DeviceWeights {
    /// The head's matrix.
    #[must_use]
    pub fn head(&self) -> &DeviceMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Moves a model's weights to the device, in `format` or else as the checkpoint stores them.
    /// `progress` is told the bytes moved so far.
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
        let (a, names) = (&model.architecture, &model.names);
        let mut loader = Loader { gpu, checkpoint: &model.checkpoint, format, progress, moved: 0, pending: 0 };
        let embedding = loader.matrix(&[(&names.embedding, a.embedding_rows, a.hidden)]).await?;
        let mut layers = Vec::with_capacity(names.layers.len());
        for layer in &names.layers {
            let [q, k, v, out, gate, up, down] = layer_matrices(a, layer);
            layers.push(DeviceLayer {
                attention_norm: loader.vector(&layer.attention_norm, a.hidden).await?,
                qkv: loader.matrix(&[q, k, v]).await?,
                attention_out: loader.matrix(&[out]).await?,
                mlp_norm: loader.vector(&layer.mlp_norm, a.hidden).await?,
                gate_up: loader.matrix(&[gate, up]).await?,
                down: loader.matrix(&[down]).await?,
            });
        }
        let final_norm = loader.vector(&names.final_norm, a.hidden).await?;
        let head = match &names.head {
            Some(head) => Some(loader.matrix(&[(head, a.embedding_rows, a.hidden)]).await?),
            None => None,
        };
        loader.settle()?;
        Ok(Self { embedding, layers, final_norm, head })
    }
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
        let progress = &mut |_| ();
        let mut loader = Loader { gpu, checkpoint, format, progress, moved: 0, pending: 0 };
        let matrix = loader.matrix(&[(name, rows, cols)]).await?;
        loader.settle()?;
        Ok(matrix)
    }
}

/// A load under way.
struct Loader<'a> {
    gpu: &'a Gpu,
    checkpoint: &'a Checkpoint,
    format: Option<WeightFormat>,
    progress: &'a mut dyn FnMut(u64),
    moved: u64,
    pending: usize,
}

fn weights_error(e: Error) -> BackendError {
    BackendError::Weights(e.to_string())
}

impl Loader<'_> {
    async fn vector(&mut self, name: &str, len: usize) -> Result<wgpu::Buffer, BackendError> {
        let values = self.checkpoint.vector(name, len).map_err(weights_error)?;
        let bytes = bytemuck::cast_slice(&values);
        let buffer = self.gpu.storage(name, bytes.len() as u64).await?;
        self.write(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// One device matrix from tensors of equal width, stacked by rows.
    async fn matrix(&mut self, tensors: &[(&str, usize, usize)]) -> Result<DeviceMatrix, BackendError> {
        let open = |&(name, rows, cols): &(&str, usize, usize)| Matrix::open(self.checkpoint, name, rows, cols);
        let sources = tensors.iter().map(open).collect::<Result<Vec<_>, _>>().map_err(weights_error)?;
        // The disk reads ahead while the first rows are on their way.
        sources.iter().for_each(|s| self.checkpoint.will_need(s.name()));
        let (first, cols) = (&sources[0], sources[0].cols);
        if !cols.is_multiple_of(4) {
            return Err(BackendError::Unsupported {
                what: format!("tensor {}", first.name()),
                adapter: self.gpu.profile.name.clone(),
                why: format!("its {cols} columns are no multiple of 4, which the kernels read at a time"),
            });
        }
        let stored = first.format;
        let same = sources.iter().all(|s| s.format == stored);
        let wanted = self.format.unwrap_or(if same { stored } else { WeightFormat::F32 });
        let format = if wanted.fits(cols) { wanted } else { WeightFormat::F32 };
        let rows: usize = sources.iter().map(|s| s.rows).sum();
        // An even number of rows a part keeps q8's f16 scales on whole words.
        let most = (self.gpu.profile.limits.binding as usize / format.bytes(1, cols)).saturating_sub(1) & !1;
        if most == 0 {
            let action = format!("loading {}: one row of it exceeds a binding of this device", first.name());
            return Err(BackendError::OutOfMemory { action, bytes: format.bytes(1, cols) as u64 });
        }
        let mut parts = Vec::new();
        for start in (0..rows).step_by(most) {
            let count = most.min(rows - start);
            let buffer = self.gpu.storage(first.name(), format.bytes(count, cols).next_multiple_of(4) as u64).await?;
            self.fill(&buffer, &sources, start..start + count, format)?;
            parts.push(Part { buffer, first: start as u32, rows: count as u32 });
        }
        for source in &sources {
            self.checkpoint.discard(source.name());
        }
        Ok(DeviceMatrix { parts, format, rows: rows as u32, cols: cols as u32 })
    }

    /// Writes rows `range` of the stacked `sources` into `buffer`.
    fn fill(
        &mut self,
        buffer: &wgpu::Buffer,
        sources: &[Matrix],
        range: std::ops::Range<usize>,
        format: WeightFormat,
    ) -> Result<(), BackendError> {
        let cols = sources[0].cols;
        let row_bytes = format.bytes(1, cols) - if format == WeightFormat::Q8 { cols / 16 } else { 0 };
        let rows_a_chunk = (CHUNK / row_bytes).max(1);
        let mut scales = Vec::new();
        let mut source_start = 0;
        for source in sources {
            let source_end = source_start + source.rows;
            let (from, to) = (range.start.max(source_start), range.end.min(source_end));
            for start in (from..to.max(from)).step_by(rows_a_chunk) {
                let end = to.min(start + rows_a_chunk);
                let encoded = source.encode(start - source_start..end - source_start, format).map_err(weights_error)?;
                self.write(buffer, (start - range.start) * row_bytes, &encoded.values)?;
                scales.extend(encoded.scales.iter().flat_map(|s| s.iter().copied()));
            }
            source_start = source_end;
        }
        if !scales.is_empty() {
            scales.resize(scales.len().next_multiple_of(4), 0);
            self.write(buffer, range.len() * row_bytes, &scales)?;
        }
        Ok(())
    }

    fn write(&mut self, buffer: &wgpu::Buffer, offset: usize, bytes: &[u8]) -> Result<(), BackendError> {
        self.gpu.queue.write_buffer(buffer, offset as u64, bytes);
        self.moved += bytes.len() as u64;
        self.pending += bytes.len();
        (self.progress)(self.moved);
        if self.pending >= CHUNK {
            self.settle()?;
        }
        Ok(())
    }

    /// Has the driver take what was written, so that its staging memory can be used again.
    fn settle(&mut self) -> Result<(), BackendError> {
        self.pending = 0;
        self.gpu.queue.submit([]);
        self.gpu.wait()
    }
}
