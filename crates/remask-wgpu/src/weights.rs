//! Weights on the device: matrices split into parts that fit one binding, streamed from the checkpoint so that
//! the host never holds more than a few chunks of them.

use remask_core::checkpoint::{Checkpoint, HalfLoss, Matrix, WeightFormat};
use remask_core::model::{Model, layer_matrices};
use remask_core::{Architecture, BackendError, Error};

use crate::gpu::Gpu;
use crate::kernels::linear::Arithmetic;
use crate::order::Order;

/// Bytes handed to the driver before waiting for it to take them: bounds the staging memory, and in a browser,
/// where rows are copied and perhaps converted on their way, WebAssembly's, which never shrinks again.
const CHUNK: usize = if cfg!(target_arch = "wasm32") { 4 << 20 } else { 16 << 20 };

/// A weight matrix `[rows, cols]`, possibly of several tensors stacked by rows.
pub struct DeviceMatrix {
    /// Pieces by rows, in order.
    pub parts: Vec<Part>,
    /// Storage format.
    pub format: WeightFormat,
    /// Where in a part a weight lies.
    pub order: Order,
    /// Output features.
    pub rows: u32,
    /// Input features, a multiple of 4.
    pub cols: u32,
}

/// Consecutive rows of a matrix in one buffer.
pub struct Part {
    /// The weights, with the scales of q8 and q4 behind them.
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

impl DeviceLayer {
    /// Formats of the matrices.
    #[must_use]
    pub fn formats(&self) -> [WeightFormat; 4] {
        [&self.qkv, &self.attention_out, &self.gate_up, &self.down].map(|m| m.format)
    }
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
    /// What became of bf16 weights that matrix units could use as f16, in a sentence.
    pub note: Option<String>,
}

impl DeviceWeights {
    /// The head's matrix.
    #[must_use]
    pub fn head(&self) -> &DeviceMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

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
        let (a, names) = (&model.architecture, &model.names);
        let mut loader = Loader { gpu, checkpoint: &model.checkpoint, keep, progress, moved: 0, pending: 0 };
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
        loader.settle().await?;
        Ok(Self { embedding, layers, final_norm, head, note: None })
    }
}

/// Whether bf16 matrices of the model's layers would be computed on matrix units if they were f16.
fn wants_f16(gpu: &Gpu, model: &Model) -> Result<bool, BackendError> {
    let (a, checkpoint) = (&model.architecture, &model.checkpoint);
    let matrices = model.names.layers.iter().flat_map(|layer| layer_matrices(a, layer));
    let format = |(name, rows, cols)| Matrix::open(checkpoint, name, rows, cols).map(|m| m.format);
    let mut stored = matrices.map(format).collect::<Result<Vec<_>, _>>().map_err(weights_error)?;
    stored.dedup();
    Ok(Arithmetic::wants_f16(&gpu.profile, a, &stored))
}

impl DeviceWeights {
    /// Weights that are not there: matrices of `a`'s shapes without contents, and one layer for all, which have
    /// the same shapes. For a look at the dispatches that a pass will have.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn outline(gpu: &Gpu, a: &Architecture, format: WeightFormat) -> Result<Self, BackendError> {
        let nothing = gpu.storage("outline", 16).await?;
        let matrix = |rows: usize, cols: usize| {
            let parts = part_ranges(gpu, rows, cols, format).into_iter();
            let part = |r: std::ops::Range<usize>| Part {
                buffer: nothing.clone(),
                first: r.start as u32,
                rows: r.len() as u32,
            };
            DeviceMatrix {
                parts: parts.map(part).collect(),
                format,
                order: Order::Rows,
                rows: rows as u32,
                cols: cols as u32,
            }
        };
        let at = &a.attention;
        let layer = DeviceLayer {
            attention_norm: nothing.clone(),
            qkv: matrix((at.heads + 2 * at.kv_heads) * at.head_dim, a.hidden),
            attention_out: matrix(a.hidden, at.heads * at.head_dim),
            mlp_norm: nothing.clone(),
            gate_up: matrix(2 * a.mlp.hidden, a.hidden),
            down: matrix(a.hidden, a.mlp.hidden),
        };
        let embedding = matrix(a.embedding_rows, a.hidden);
        let head = (!a.tied_head).then(|| matrix(a.embedding_rows, a.hidden));
        Ok(Self { embedding, layers: vec![layer], final_norm: nothing, head, note: None })
    }

    /// Weights of `a`'s shape made up on the device: small matrices, norms of 1.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`], or [`BackendError::Unsupported`] for a shape that `format` cannot
    /// hold.
    pub async fn random(gpu: &Gpu, a: &Architecture, format: WeightFormat) -> Result<Self, BackendError> {
        let source = RandomSource::new(gpu, format).await?;
        let ones = vec![1f32; a.hidden];
        let vector = async || {
            let buffer = gpu.storage("norm", size_of_val(&ones[..]) as u64).await?;
            gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&ones));
            Ok::<_, BackendError>(buffer)
        };
        let at = &a.attention;
        let mut layers = Vec::with_capacity(a.layers);
        for _ in 0..a.layers {
            layers.push(DeviceLayer {
                attention_norm: vector().await?,
                qkv: source.matrix((at.heads + 2 * at.kv_heads) * at.head_dim, a.hidden).await?,
                attention_out: source.matrix(a.hidden, at.heads * at.head_dim).await?,
                mlp_norm: vector().await?,
                gate_up: source.matrix(2 * a.mlp.hidden, a.hidden).await?,
                down: source.matrix(a.hidden, a.mlp.hidden).await?,
            });
        }
        let embedding = source.matrix(a.embedding_rows, a.hidden).await?;
        let head = if a.tied_head { None } else { Some(source.matrix(a.embedding_rows, a.hidden).await?) };
        let final_norm = vector().await?;
        gpu.wait()?;
        Ok(Self { embedding, layers, final_norm, head, note: None })
    }
}

/// A chunk of random weights on the device, from which matrices are copied.
struct RandomSource<'a> {
    gpu: &'a Gpu,
    format: WeightFormat,
    weights: wgpu::Buffer,
    scales: wgpu::Buffer,
}

impl<'a> RandomSource<'a> {
    async fn new(gpu: &'a Gpu, format: WeightFormat) -> Result<Self, BackendError> {
        let mut state = 0x5EED_u64;
        // xorshift64*: these weights need to be varied and quick, not good.
        let mut bits = || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
        };
        // Uniform in +-0.035 has the standard deviation 0.02 of common initialisations.
        let mut weight = || (bits() as f32 / 2f32.powi(31) - 1.0) * 0.035;
        let bytes: Vec<u8> = match format {
            WeightFormat::F32 => (0..CHUNK / 4).flat_map(|_| weight().to_le_bytes()).collect(),
            WeightFormat::F16 => (0..CHUNK / 2).flat_map(|_| half::f16::from_f32(weight()).to_le_bytes()).collect(),
            WeightFormat::Bf16 => (0..CHUNK / 2).flat_map(|_| half::bf16::from_f32(weight()).to_le_bytes()).collect(),
            WeightFormat::Q8 | WeightFormat::Q4 => (0..CHUNK / 4).flat_map(|_| bits().to_le_bytes()).collect(),
        };
        let scale = half::f16::from_f32(0.035 / if format == WeightFormat::Q4 { 8.0 } else { 127.0 });
        let scales: Vec<u8> = (0..CHUNK / 16).flat_map(|_| scale.to_le_bytes()).collect();
        let source = Self {
            gpu,
            format,
            weights: gpu.storage("random weights", CHUNK as u64).await?,
            scales: gpu.storage("scales", (CHUNK / 8) as u64).await?,
        };
        gpu.queue.write_buffer(&source.weights, 0, &bytes);
        gpu.queue.write_buffer(&source.scales, 0, &scales);
        Ok(source)
    }

    async fn matrix(&self, rows: usize, cols: usize) -> Result<DeviceMatrix, BackendError> {
        if !self.format.fits(cols) || !cols.is_multiple_of(4) {
            return Err(BackendError::Unsupported {
                what: format!("a matrix of {rows} x {cols}"),
                adapter: self.gpu.profile.name.clone(),
                why: format!("{} weights do not divide its rows", self.format),
            });
        }
        let mut parts = Vec::new();
        for range in part_ranges(self.gpu, rows, cols, self.format) {
            let (first, rows) = (range.start as u32, range.len());
            let bytes = self.format.bytes(rows, cols).next_multiple_of(4);
            let buffer = self.gpu.storage("random", bytes as u64).await?;
            let scales = rows * self.format.scale_bytes(cols);
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut fill = |source: &wgpu::Buffer, from: usize, to: usize| {
                let mut at = from;
                while at < to {
                    let count = (source.size() as usize).min(to - at);
                    encoder.copy_buffer_to_buffer(source, 0, &buffer, at as u64, count as u64);
                    at += count;
                }
            };
            fill(&self.weights, 0, bytes - scales);
            fill(&self.scales, bytes - scales, bytes);
            self.gpu.queue.submit([encoder.finish()]);
            parts.push(Part { buffer, first, rows: rows as u32 });
        }
        Ok(DeviceMatrix { parts, format: self.format, order: Order::Rows, rows: rows as u32, cols: cols as u32 })
    }
}

/// Rows of each part of a matrix: as many as one binding holds.
fn part_ranges(gpu: &Gpu, rows: usize, cols: usize, format: WeightFormat) -> Vec<std::ops::Range<usize>> {
    let most = (gpu.profile.limits.binding as usize / format.bytes(1, cols)).saturating_sub(1);
    // An even number of rows a part keeps f16 scales on whole words, and whole tiles suit the matrix units.
    let most = if most < 128 { most & !1 } else { most & !127 };
    let starts = (0..rows).step_by(most.max(2));
    starts.map(|start| start..rows.min(start + most.max(2))).collect()
}

impl DeviceMatrix {
    /// The same weights once more, in the same memory.
    #[must_use]
    pub fn share(&self) -> Self {
        let part = |p: &Part| Part { buffer: p.buffer.clone(), first: p.first, rows: p.rows };
        Self { parts: self.parts.iter().map(part).collect(), ..*self }
    }

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
        let matrix = loader.matrix(&[(name, rows, cols)]).await?;
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
    async fn vector(&mut self, name: &str, len: usize) -> Result<wgpu::Buffer, BackendError> {
        let values = self.checkpoint.vector(name, len).map_err(weights_error)?;
        let bytes = bytemuck::cast_slice(&values);
        let buffer = self.gpu.storage(name, bytes.len() as u64).await?;
        self.write(&buffer, 0, bytes).await?;
        Ok(buffer)
    }

    /// One device matrix from tensors of equal width, stacked by rows.
    async fn matrix(&mut self, tensors: &[(&str, usize, usize)]) -> Result<DeviceMatrix, LoadError> {
        let open = |&(name, rows, cols): &(&str, usize, usize)| Matrix::open(self.checkpoint, name, rows, cols);
        let sources = tensors.iter().map(open).collect::<Result<Vec<_>, _>>().map_err(weights_error)?;
        // The disk reads ahead while the first rows are on their way.
        sources.iter().for_each(|s| self.checkpoint.will_need(s.name()));
        let (first, cols) = (&sources[0], sources[0].cols);
        if !cols.is_multiple_of(4) {
            return Err(LoadError::Backend(BackendError::Unsupported {
                what: format!("tensor {}", first.name()),
                adapter: self.gpu.profile.name.clone(),
                why: format!("its {cols} columns are no multiple of 4, which the kernels read at a time"),
            }));
        }
        let wanted = |source: &Matrix| match (self.keep, source.format) {
            (Keep::In(format), _) => format,
            (Keep::Bf16AsF16, WeightFormat::Bf16) => WeightFormat::F16,
            (_, stored) => stored,
        };
        let same = sources.iter().all(|s| wanted(s) == wanted(first));
        let wanted = if same { wanted(first) } else { WeightFormat::F32 };
        let format = if wanted.fits(cols) { wanted } else { WeightFormat::F32 };
        let rows: usize = sources.iter().map(|s| s.rows).sum();
        if format.bytes(3, cols) as u64 > self.gpu.profile.limits.binding {
            let action = format!("loading {}: one row of it exceeds a binding of this device", first.name());
            return Err(LoadError::Backend(BackendError::OutOfMemory { action, bytes: format.bytes(1, cols) as u64 }));
        }
        let mut losses = vec![HalfLoss::default(); sources.len()];
        let mut parts = Vec::new();
        for range in part_ranges(self.gpu, rows, cols, format) {
            let (start, count) = (range.start as u32, range.len());
            let buffer = self.gpu.storage(first.name(), format.bytes(count, cols).next_multiple_of(4) as u64).await?;
            self.fill(&buffer, &sources, range, format, &mut losses).await?;
            parts.push(Part { buffer, first: start, rows: count as u32 });
        }
        let mut judged = sources.iter().zip(&losses).filter_map(|(s, loss)| Some((s, loss.problem()?)));
        if let Some((source, problem)) = judged.next() {
            return Err(LoadError::NotF16 { tensor: source.name().to_owned(), problem });
        }
        for source in &sources {
            self.checkpoint.discard(source.name());
        }
        Ok(DeviceMatrix { parts, format, order: Order::Rows, rows: rows as u32, cols: cols as u32 })
    }

    /// Writes rows `range` of the stacked `sources` into `buffer`. What bf16 loses as f16, where that was
    /// not asked for, is added to the source's `losses`.
    async fn fill(
        &mut self,
        buffer: &wgpu::Buffer,
        sources: &[Matrix<'_>],
        range: std::ops::Range<usize>,
        format: WeightFormat,
        losses: &mut [HalfLoss],
    ) -> Result<(), LoadError> {
        let cols = sources[0].cols;
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
