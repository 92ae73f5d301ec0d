//! Buffers of a pass: what the host writes, intermediate results (sharing memory where their lifetimes
//! allow) and what the host reads.

use remask_core::{Architecture, BackendError};

use crate::gpu::Gpu;
use crate::kernels::SPLITS;
use crate::kernels::attention::TileRecord;
use crate::kernels::gemm_matrix::{MatrixTile, SPLIT_ROWS};
use crate::kernels::head_select::SELECTION_BYTES;
use crate::kernels::linear::Arithmetic;
use crate::kernels::select_reduce::CandidateRecord;
use crate::kernels::{RowRecord, SelectRecord};
use crate::plan::{BufferPlan, Lifetime};

/// Buffers for passes of up to [`Activations::capacity`] rows.
pub struct Activations {
    capacity: u32,
    /// Rows of the pass, from the host.
    pub rows: wgpu::Buffer,
    /// Selected rows, from the host.
    pub select: wgpu::Buffer,
    /// Attention tiles, from the host.
    pub tiles: wgpu::Buffer,
    /// The residual stream `[rows, hidden]`.
    pub hidden: wgpu::Buffer,
    /// Input of attention `[rows, hidden]`.
    pub normed: wgpu::Buffer,
    /// `[rows, (heads + 2 kv_heads) * head_dim]`.
    pub qkv: wgpu::Buffer,
    /// `[rows, heads * head_dim]`.
    pub attended: wgpu::Buffer,
    /// Input of the MLP `[rows, hidden]`.
    pub normed_mlp: wgpu::Buffer,
    /// `[rows, 2 * mlp hidden]`.
    pub gate_up: wgpu::Buffer,
    /// `[rows, mlp hidden]`.
    pub activated: wgpu::Buffer,
    /// Normalised selected rows `[selected, hidden]`.
    pub gathered: wgpu::Buffer,
    /// What passes of few rows need beside, on matrix units.
    pub few: Option<Few>,
    /// What matrix units compute to be added to the residual stream: `[splits, rows, hidden]`.
    pub addend: wgpu::Buffer,
    /// A chunk of the head's logits `[selected, ids]`, where matrix units compute it.
    pub chunk: wgpu::Buffer,
    /// Partial selections `[strips, selected]`.
    pub partials: wgpu::Buffer,
    /// `[selected]`.
    pub candidates: wgpu::Buffer,
    /// Candidates on their way to the host.
    pub candidates_host: wgpu::Buffer,
    /// Logits `[selected, embedding rows]`, made when first asked for.
    pub logits: wgpu::Buffer,
    /// Logits on their way to the host.
    pub logits_host: wgpu::Buffer,
}

/// What dispatches hand on to each other in passes of few rows on matrix units.
pub struct Few {
    /// Input of attention or of the MLP `[rows, hidden]`, f16, not divided by the rows' norms yet.
    pub normed: wgpu::Buffer,
    /// Partial sums of squares of each of these rows.
    pub squares: wgpu::Buffer,
    /// Sums of the splits of a product.
    pub sums: wgpu::Buffer,
    /// Splits of each tile that have arrived: zeros between dispatches.
    pub arrived: wgpu::Buffer,
}

impl Few {
    /// For products of at most `widest` columns.
    async fn new(gpu: &Gpu, hidden: u64, widest: u64) -> Result<Self, BackendError> {
        let (rows, splits) = (u64::from(MatrixTile::FEW), u64::from(SPLITS[SPLITS.len() - 1]));
        // Tiles hold all rows, and 64 columns at least.
        let arrived = gpu.storage("arrived", widest / 64 * 4).await?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("arrived") });
        encoder.clear_buffer(&arrived, 0, None);
        gpu.queue.submit([encoder.finish()]);
        Ok(Self {
            normed: gpu.storage("normed", rows * hidden * 2).await?,
            // Parts are read eight at a time.
            squares: gpu.storage("squares", rows * (hidden / 64) * 4 + 32).await?,
            sums: gpu.storage("sums of splits", splits * rows * widest * 4).await?,
            arrived,
        })
    }
}

/// Operations of a layer in the order that recordings run them, for lifetimes.
mod step {
    pub const NORM: u32 = 1;
    pub const QKV: u32 = 2;
    pub const ATTENTION: u32 = 4;
    pub const OUT: u32 = 5;
    pub const MLP_NORM: u32 = 6;
    pub const GATE_UP: u32 = 7;
    pub const ACTIVATION: u32 = 8;
    pub const DOWN: u32 = 9;
    pub const GATHER: u32 = 10;
    pub const HEAD: u32 = 11;
    pub const REDUCE: u32 = 12;
}

impl Activations {
    /// Buffers for up to `capacity` rows, `strips` partial selections a row.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn new(
        gpu: &Gpu,
        a: &Architecture,
        arithmetic: Arithmetic,
        strips: u32,
        capacity: u32,
    ) -> Result<Self, BackendError> {
        use wgpu::BufferUsages as U;
        let half = arithmetic == Arithmetic::Half;
        // Matrix units compute whole tiles of rows, in splits where there are few.
        let capacity = if half { capacity.next_multiple_of(128) } else { capacity };
        let rows = u64::from(arithmetic.room(capacity));
        let split_rows = if half { rows.max(u64::from(SPLIT_ROWS)) } else { rows };
        let floats = |columns: usize, alive| Lifetime { bytes: rows * columns as u64 * 4, alive };
        let splits = |columns: usize, alive| Lifetime { bytes: split_rows * columns as u64 * 4, alive };
        let (d, at) = (a.hidden, &a.attention);
        let (qkv, gate_up) = ((at.heads + 2 * at.kv_heads) * at.head_dim, 2 * a.mlp.hidden);
        let widest = d.max(qkv).max(gate_up);
        let partials = Lifetime { bytes: rows * u64::from(strips) * SELECTION_BYTES, alive: step::HEAD..=step::REDUCE };
        let plan = BufferPlan::new(&[
            floats(d, step::NORM..=step::QKV),
            splits(qkv, step::QKV..=step::ATTENTION),
            floats(at.heads * at.head_dim, step::ATTENTION..=step::OUT),
            floats(d, step::MLP_NORM..=step::GATE_UP),
            splits(gate_up, step::GATE_UP..=step::ACTIVATION),
            // SwiGLU may be the end of the product before it.
            floats(a.mlp.hidden, step::GATE_UP..=step::DOWN),
            floats(d, step::GATHER..=step::HEAD),
            partials,
            // The chunk is as large as the largest of the others, whose memory it takes.
            if half { splits(gate_up, step::HEAD..=step::REDUCE) } else { floats(0, step::HEAD..=step::HEAD) },
        ]);
        let mut shared = Vec::with_capacity(plan.buffers.len());
        for bytes in &plan.buffers {
            shared.push(gpu.storage("intermediate results", *bytes).await?);
        }
        let [normed, qkv, attended, normed_mlp, gate_up, activated, gathered, partials, chunk] =
            std::array::from_fn(|i| shared[plan.assigned[i]].clone());
        let records = |bytes: usize| rows * bytes as u64;
        let candidate_bytes = records(size_of::<CandidateRecord>());
        Ok(Self {
            capacity,
            rows: gpu.storage("rows", records(size_of::<RowRecord>())).await?,
            select: gpu.storage("select", records(size_of::<SelectRecord>())).await?,
            tiles: gpu.storage("tiles", records(size_of::<TileRecord>())).await?,
            hidden: gpu.storage("hidden", rows * d as u64 * 4).await?,
            normed,
            qkv,
            attended,
            normed_mlp,
            gate_up,
            activated,
            gathered,
            few: if half { Some(Few::new(gpu, d as u64, widest as u64).await?) } else { None },
            addend: gpu.storage("addend", if half { split_rows * d as u64 * 4 } else { 16 }).await?,
            chunk,
            partials,
            candidates: gpu.storage("candidates", candidate_bytes).await?,
            candidates_host: gpu.buffer("candidates, host", candidate_bytes, U::MAP_READ | U::COPY_DST).await?,
            logits: gpu.storage("logits", 16).await?,
            logits_host: gpu.buffer("logits, host", 16, U::MAP_READ | U::COPY_DST).await?,
        })
    }

    /// Rows that fit.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Makes room for `bytes` of logits. True where the buffers are new.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn reserve_logits(&mut self, gpu: &Gpu, bytes: u64) -> Result<bool, BackendError> {
        use wgpu::BufferUsages as U;
        if bytes <= self.logits.size() {
            return Ok(false);
        }
        self.logits = gpu.storage("logits", bytes).await?;
        self.logits_host = gpu.buffer("logits, host", bytes, U::MAP_READ | U::COPY_DST).await?;
        Ok(true)
    }
}
