//! Buffers of a pass: what the host writes, intermediate results (sharing memory where their lifetimes
//! allow) and what the host reads.

use std::collections::HashMap;

use remask_core::architecture::BlockSpec;
use remask_core::{Architecture, BackendError};

use crate::gpu::Gpu;
use crate::kernels::SPLITS;
use crate::kernels::attention::TileRecord;
use crate::kernels::gemm_matrix::{MatrixTile, SPLIT_ROWS};
use crate::kernels::head_select::SELECTION_BYTES;
use crate::kernels::linear::Arithmetic;
use crate::kernels::select_reduce::CandidateRecord;
use crate::kernels::select_strips;
use crate::kernels::{RowRecord, SelectRecord, padded};
use crate::lifetimes::{BufferPlan, Lifetime};
use crate::plan::Slot;
use crate::profile::ProfileLimits;

/// Buffers for passes of up to [`Activations::capacity`] rows.
pub struct Activations {
    capacity: u32,
    buffers: HashMap<Slot, wgpu::Buffer>,
    /// Candidates and logits on their way to the host.
    host: HashMap<Slot, wgpu::Buffer>,
}

/// The widest of each kind of row over all blocks.
struct Widths {
    hidden: usize,
    qkv: usize,
    attended: usize,
    up: usize,
    activated: usize,
}

impl Widths {
    fn of(a: &Architecture) -> Self {
        let filled = |width: usize| padded(width as u32) as usize;
        let widest = |width: fn(&BlockSpec) -> usize| a.distinct_blocks().map(width).max().unwrap_or(0);
        let activated = filled(widest(|b| b.feed_forward.hidden));
        Self {
            hidden: filled(a.hidden),
            qkv: widest(|b| b.attention.qkv_width()),
            attended: filled(widest(|b| b.attention.q_width())),
            up: if a.blocks.iter().any(|b| b.feed_forward.gated) { 2 * activated } else { activated },
            activated,
        }
    }

    fn widest(&self) -> usize {
        self.hidden.max(self.qkv).max(self.up)
    }
}

/// Operations of a layer in the order that plans have them, for lifetimes.
mod step {
    pub const NORM: u32 = 1;
    pub const QKV: u32 = 2;
    pub const ATTENTION: u32 = 4;
    pub const OUT: u32 = 5;
    pub const UP_NORM: u32 = 6;
    pub const UP: u32 = 7;
    pub const ACTIVATION: u32 = 8;
    pub const DOWN: u32 = 9;
    pub const GATHER: u32 = 10;
    pub const HEAD: u32 = 11;
    pub const REDUCE: u32 = 12;
}

/// Columns of logits that a strip of the head takes.
fn strip_columns(a: &Architecture) -> usize {
    a.embedding_rows.next_multiple_of(128).min(select_strips::STRIP_IDS as usize)
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
        let w = Widths::of(a);
        let partials = Lifetime { bytes: rows * u64::from(strips) * SELECTION_BYTES, alive: step::HEAD..=step::REDUCE };
        let after = a.blocks.iter().any(|b| b.after_attention_norm.or(b.after_feed_forward_norm).is_some());
        // Side by side, attention and feed-forward part read the same rows.
        let side_by_side = a.blocks.iter().any(|b| b.side_by_side());
        let normed_end = if side_by_side { step::UP } else { step::QKV };
        let mut shared = vec![
            (Slot::Normed, floats(w.hidden, step::NORM..=normed_end)),
            (Slot::Qkv, splits(w.qkv, step::QKV..=step::ATTENTION)),
            (Slot::Attended, floats(w.attended, step::ATTENTION..=step::OUT)),
            (Slot::NormedUp, floats(w.hidden, step::UP_NORM..=step::UP)),
            (Slot::Up, splits(w.up, step::UP..=step::ACTIVATION)),
            // The activation may be the end of the product before it.
            (Slot::Activated, floats(w.activated, step::UP..=step::DOWN)),
            (Slot::Gathered, floats(w.hidden, step::GATHER..=step::HEAD)),
            (Slot::Partials, partials),
        ];
        if half {
            // The chunk is as large as the largest of the others, whose memory it takes, and holds a strip at least.
            shared.push((Slot::Chunk, splits(w.up.max(strip_columns(a)), step::HEAD..=step::REDUCE)));
        }
        let plan = BufferPlan::new(&shared.iter().map(|(_, lifetime)| lifetime.clone()).collect::<Vec<_>>());
        let mut memory = Vec::with_capacity(plan.buffers.len());
        for bytes in &plan.buffers {
            memory.push(gpu.storage("intermediate results", *bytes).await?);
        }
        let shared = shared.iter().zip(&plan.assigned);
        let mut buffers: HashMap<_, _> =
            shared.filter_map(|((slot, _), i)| Some((*slot, memory.get(*i)?.clone()))).collect();
        let records = |bytes: usize| rows * bytes as u64;
        let candidates = records(size_of::<CandidateRecord>());
        let own = [
            (Slot::Rows, "rows", records(size_of::<RowRecord>())),
            (Slot::Select, "select", records(size_of::<SelectRecord>())),
            (Slot::SelectLogits, "select logits", records(size_of::<SelectRecord>())),
            (Slot::Tiles, "tiles", records(size_of::<TileRecord>())),
            (Slot::Hidden, "hidden", rows * w.hidden as u64 * 4),
            (Slot::Addend, "addend", if half || after { split_rows * w.hidden as u64 * 4 } else { 16 }),
            (Slot::Candidates, "candidates", candidates),
            (Slot::Logits, "logits", 16),
        ];
        for (slot, label, bytes) in own {
            buffers.insert(slot, gpu.storage(label, bytes).await?);
        }
        if half {
            buffers.extend(few(gpu, w.hidden as u64, w.widest() as u64).await?);
        }
        let mut host = HashMap::new();
        for (slot, bytes) in [(Slot::Candidates, candidates), (Slot::Logits, 16)] {
            host.insert(slot, gpu.buffer("answers, host", bytes, U::MAP_READ | U::COPY_DST).await?);
        }
        Ok(Self { capacity, buffers, host })
    }

    /// Rows that buffers on a device of these limits can be made for.
    #[must_use]
    pub fn most_rows(limits: &ProfileLimits, a: &Architecture, arithmetic: Arithmetic, strips: u32) -> u32 {
        let w = Widths::of(a);
        let chunk = if arithmetic == Arithmetic::Half { strip_columns(a) } else { 0 };
        let widest = (w.widest().max(w.attended).max(w.activated).max(chunk) as u64 * 4)
            .max(u64::from(strips) * SELECTION_BYTES);
        let most = (limits.binding.min(limits.buffer) / widest).min(u64::from(u32::MAX / 2)) as u32;
        // Whole tiles of rows, and room for one more.
        let spare = arithmetic.room(most) - most;
        most.saturating_sub(spare).max(1)
    }

    /// Rows that fit.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The buffer of an intermediate result, or of what the host writes.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&wgpu::Buffer> {
        self.buffers.get(&slot)
    }

    /// Where the host reads candidates or logits.
    #[must_use]
    pub fn host(&self, slot: Slot) -> Option<&wgpu::Buffer> {
        self.host.get(&slot)
    }

    /// Elements that a chunk of the head's logits may have.
    #[must_use]
    pub fn chunk(&self) -> u64 {
        self.get(Slot::Chunk).map_or(0, |chunk| chunk.size() / 4)
    }

    /// Makes room for `bytes` of logits: all of it, or nothing changes. True where the buffers are new.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn reserve_logits(&mut self, gpu: &Gpu, bytes: u64) -> Result<bool, BackendError> {
        use wgpu::BufferUsages as U;
        if self.get(Slot::Logits).is_some_and(|logits| bytes <= logits.size()) {
            return Ok(false);
        }
        let logits = gpu.storage("logits", bytes).await?;
        let host = gpu.buffer("logits, host", bytes, U::MAP_READ | U::COPY_DST).await?;
        self.buffers.insert(Slot::Logits, logits);
        self.host.insert(Slot::Logits, host);
        Ok(true)
    }
}

/// What dispatches hand on to each other in passes of few rows on matrix units, for products of at most `widest`
/// columns.
async fn few(gpu: &Gpu, hidden: u64, widest: u64) -> Result<[(Slot, wgpu::Buffer); 4], BackendError> {
    let (rows, splits) = (u64::from(MatrixTile::FEW), u64::from(SPLITS[SPLITS.len() - 1]));
    // Tiles hold all rows, and 64 columns at least.
    let arrived = gpu.storage("arrived", widest / 64 * 4).await?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("arrived") });
    encoder.clear_buffer(&arrived, 0, None);
    gpu.queue.submit([encoder.finish()]);
    Ok([
        (Slot::FewNormed, gpu.storage("normed", rows * hidden * 2).await?),
        // Parts are read eight at a time.
        (Slot::FewSquares, gpu.storage("squares", rows * (hidden / 64) * 4 + 32).await?),
        (Slot::FewSums, gpu.storage("sums of splits", splits * rows * widest * 4).await?),
        (Slot::FewArrived, arrived),
    ])
}
