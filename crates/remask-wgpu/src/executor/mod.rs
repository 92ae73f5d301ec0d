//! The [`Backend`](remask_core::Backend) on wgpu: a model's weights, its key/value arena and the passes recorded so
//! far.

mod ahead;
mod answer;
#[cfg(test)]
mod faults;
mod load;
#[cfg(test)]
mod tests;
mod translate;
#[cfg(not(target_arch = "wasm32"))]
mod tune;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use remask_core::{Architecture, BackendError, Pass};

use self::ahead::Ahead;
use crate::activations::Activations;
use crate::arena::Arena;
use crate::gpu::Gpu;
use crate::kernels::linear::Arithmetic;
use crate::plan::{ModelOutline, PassSizes, Planner, Slot};
use crate::record::{Buffers, record};
use crate::recording::{BindGroups, Recorder, Recording};
use crate::stores::Stores;
use crate::suppressed::SuppressedSets;
use crate::turns::Turns;
use crate::uniforms::Uniforms;
use crate::weights::DeviceWeights;

/// Recordings kept before all are forgotten. Sizes are rounded up to a few an octave, so that even
/// servers stay below this.
const MOST_RECORDINGS: usize = 1024;

/// A model on a wgpu device.
pub struct WgpuBackend {
    gpu: Gpu,
    architecture: Arc<Architecture>,
    weights: DeviceWeights,
    /// What planning knows of them.
    outline: ModelOutline,
    arithmetic: Arithmetic,
    batch_invariant: bool,
    turns: Turns,
    stores: Stores,
    arena: Arena,
    /// Slots to be copied before the next pass: from where, and to where.
    copies: Vec<[Range<u32>; 2]>,
    activations: Activations,
    suppressed: SuppressedSets,
    uniforms: Uniforms,
    groups: BindGroups,
    /// By the sizes that their dispatches are large enough for.
    recordings: HashMap<PassSizes, Recording>,
    ahead: Ahead,
}

impl WgpuBackend {
    /// The device.
    #[must_use]
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Whether the bits of a row may not depend on the other rows of its pass, nor on their number, on matrix units too.
    /// The portable kernels are so anyway; on matrix units it takes the order of sums that one row and a thousand have
    /// in common, which costs time where rows are few.
    pub fn set_batch_invariant(&mut self, on: bool) {
        self.batch_invariant = on;
        self.forget_recordings();
    }

    /// Makes stores, tables and intermediate buffers large enough for a pass. Stores keep their contents. Where it
    /// fails, what was there before is as it was. Returns the row of each of the pass's sets of suppressed ids.
    async fn reserve(
        &mut self,
        pass: &Pass<'_>,
        sizes: PassSizes,
        rounded: PassSizes,
    ) -> Result<Vec<u32>, BackendError> {
        let slots = pass.rows.iter().filter_map(|row| Some(self.stores.slots(row.store)?.end)).max().unwrap_or(0);
        let slots = self.copies.iter().map(|[_, to]| to.end).fold(slots, u32::max);
        let mut changed = self.arena.reserve(&self.gpu, slots).await?;
        if !self.copies.is_empty() {
            self.arena.copy(&self.gpu, &self.copies).await?;
            self.copies.clear();
        }
        changed |= self.turns.hold(&self.gpu, pass.rows.iter().map(|row| row.position)).await?;
        let (sets, grown) = self.suppressed.hold(&self.gpu, pass.suppressed).await?;
        changed |= grown;
        changed |= self.reserve_rows(rounded.rows.max(rounded.selected).max(rounded.logits)).await?;
        if sizes.logits > 0 {
            let rows = u64::from(self.arithmetic.room(sizes.logits));
            let bytes = rows * self.architecture.embedding_rows as u64 * 4;
            changed |= self.activations.reserve_logits(&self.gpu, bytes).await?;
        }
        if changed {
            self.forget_recordings();
        }
        Ok(sets)
    }

    /// Makes intermediate buffers large enough. True where they are new.
    async fn reserve_rows(&mut self, rows: u32) -> Result<bool, BackendError> {
        if rows <= self.activations.capacity() {
            return Ok(false);
        }
        self.activations = self.activations_for(self.arithmetic, rows.next_multiple_of(64)).await?;
        Ok(true)
    }

    async fn activations_for(&self, arithmetic: Arithmetic, rows: u32) -> Result<Activations, BackendError> {
        Activations::new(&self.gpu, &self.architecture, arithmetic, self.outline.strips(arithmetic)?, rows).await
    }

    /// Recordings name buffers; when buffers change they are made anew.
    fn forget_recordings(&mut self) {
        self.recordings.clear();
        self.ahead.clear();
        self.groups.clear();
    }

    async fn record(&mut self, sizes: PassSizes) -> Result<Recording, BackendError> {
        let steps = self.planner(sizes).pass()?;
        let (recorder, buffers) = self.recorder();
        record(recorder, buffers, steps).await
    }

    /// What the plan of a pass follows from.
    fn planner(&self, sizes: PassSizes) -> Planner<'_> {
        Planner {
            profile: &self.gpu.profile,
            tuning: &self.gpu.tuning,
            refused: self.gpu.refusals(),
            architecture: &self.architecture,
            weights: &self.outline,
            arithmetic: self.arithmetic,
            batch_invariant: self.batch_invariant,
            sizes,
            chunk: self.activations.chunk(),
        }
    }

    /// Where passes are recorded, and over which buffers.
    fn recorder(&mut self) -> (Recorder<'_>, Buffers<'_>) {
        let buffers = Buffers {
            weights: &self.weights,
            activations: &self.activations,
            arena: &self.arena,
            turns: &self.turns,
            suppressed: &self.suppressed,
        };
        (Recorder::new(&mut self.gpu, &mut self.uniforms, &mut self.groups), buffers)
    }

    /// Makes everything ready for a pass, with other kernels where some turn out not to compile.
    async fn prepare(&mut self, pass: &Pass<'_>) -> Result<Ready, BackendError> {
        loop {
            let refused = self.gpu.refusals().len();
            match self.prepare_once(pass).await {
                // The next plan does without the kernel, if there is a way to.
                Err(BackendError::Kernel { .. }) if self.gpu.refusals().len() > refused => (),
                Err(BackendError::Kernel { .. }) if self.arithmetic == Arithmetic::Half => self.widen().await?,
                done => return done,
            }
        }
    }

    /// Goes over from f16 arithmetic to float32 for good. Stores keep their contents. Where it fails, passes go on as
    /// before.
    async fn widen(&mut self) -> Result<(), BackendError> {
        tracing::warn!("going on in float32: a kernel of the matrix units that nothing else stands in for is missing");
        self.forget_recordings();
        // Weights in rows serve both kinds of arithmetic.
        let unsuited = self.weights.unsuit(&mut self.gpu).await;
        self.outline = self.weights.outline();
        unsuited?;
        let activations = self.activations_for(Arithmetic::Full, self.activations.capacity()).await?;
        let arena = self.arena.widened(&self.gpu).await?;
        (self.arithmetic, self.activations, self.arena) = (Arithmetic::Full, activations, arena);
        Ok(())
    }

    /// Buffers, the recording, and the records that its kernels read.
    async fn prepare_once(&mut self, pass: &Pass<'_>) -> Result<Ready, BackendError> {
        self.gpu.check()?;
        self.check(pass)?;
        let (mut sizes, mut key) = self.sizes(pass);
        let sets = self.reserve(pass, sizes, key).await?;
        let translated = self.translate(pass, &sets, key);
        sizes.tiles = translated.tiles.len() as u32;
        key.tiles = sizes.rounded_up(self.gpu.profile.limits.workgroups).tiles;
        if !self.recordings.contains_key(&key) {
            let recording = self.record(key).await?;
            if self.recordings.len() >= MOST_RECORDINGS {
                self.recordings.clear();
            }
            self.recordings.insert(key, recording);
        }
        let records: [(Slot, &[u8]); 4] = [
            (Slot::Rows, bytemuck::cast_slice(&translated.rows)),
            (Slot::Select, bytemuck::cast_slice(&translated.select)),
            (Slot::SelectLogits, bytemuck::cast_slice(&translated.select_logits)),
            (Slot::Tiles, bytemuck::cast_slice(&translated.tiles)),
        ];
        for (slot, bytes) in records {
            if let Some(buffer) = self.activations.get(slot).filter(|_| !bytes.is_empty()) {
                self.gpu.queue.write_buffer(buffer, 0, bytes);
            }
        }
        self.uniforms.set_pass(&self.gpu, sizes);
        Ok(Ready { key, sizes })
    }

    /// Runs a pass and returns, for each of its dispatches in order, the kernel's name and the
    /// nanoseconds between the end of the dispatch before it and its own. Empty where the device has no
    /// timestamps.
    ///
    /// # Errors
    /// As [`remask_core::Backend::forward`].
    pub async fn profile(&mut self, pass: &Pass<'_>) -> Result<Vec<(String, f64)>, BackendError> {
        use wgpu::BufferUsages as U;
        let Ready { key, .. } = self.prepare(pass).await?;
        let Some(recording) = self.recordings.get(&key).filter(|_| self.gpu.profile.timestamps) else {
            return Ok(Vec::new());
        };
        let count = recording.labels().len() as u32 + 1;
        let descriptor = wgpu::QuerySetDescriptor { label: Some("profile"), ty: wgpu::QueryType::Timestamp, count };
        let marks = self.gpu.device.create_query_set(&descriptor);
        let bytes = u64::from(count) * 8;
        let resolved = self.gpu.buffer("timestamps", bytes, U::QUERY_RESOLVE | U::COPY_SRC).await?;
        let staging = self.gpu.buffer("timestamps, host", bytes, U::MAP_READ | U::COPY_DST).await?;
        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("profile") });
        recording.encode(&mut encoder, &self.uniforms, Some(&marks));
        encoder.resolve_query_set(&marks, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
        self.gpu.queue.submit([encoder.finish()]);
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&self.gpu.map(&staging, bytes).await?);
        let period = f64::from(self.gpu.queue.get_timestamp_period());
        let spans = ticks.windows(2).map(|w| w[1].wrapping_sub(w[0]) as f64 * period);
        Ok(recording.labels().map(str::to_owned).zip(spans).collect())
    }
}

/// A pass that only has to be submitted.
#[derive(Debug, Clone, Copy)]
struct Ready {
    /// The sizes of its recording.
    key: PassSizes,
    /// Its own.
    sizes: PassSizes,
}
