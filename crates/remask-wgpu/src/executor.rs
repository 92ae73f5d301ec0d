//! The [`Backend`] on wgpu: a model's weights, its key/value arena and the passes recorded so far.

mod ahead;
#[cfg(test)]
mod tests;
#[cfg(not(target_arch = "wasm32"))]
mod tune;

use std::collections::HashMap;

use half::slice::HalfFloatSliceExt;
use remask_core::architecture::{Biases, MlpKind, NormKind};
use remask_core::backend::BackendInfo;
use remask_core::checkpoint::WeightFormat;
use remask_core::{Architecture, Backend, BackendError, BackendFuture, Candidate, Model, Pass, Select, StoreId};

use self::ahead::Ahead;
use crate::activations::Activations;
use crate::gpu::Gpu;
use crate::kernels::linear::Arithmetic;
use crate::kernels::select_reduce::{CandidateRecord, NOT_FINITE};
use crate::kernels::{RowRecord, SelectRecord, attention, head_select, rotary};
use crate::pass::{Answer, PassPlan, attention_tile_rows};
use crate::recording::{BindGroups, Recorder, Recording};
use crate::stores::Stores;
use crate::uniforms::{PassSizes, Uniforms};
use crate::weights::{DeviceMatrix, DeviceWeights};

/// Recordings kept before all are forgotten. Sizes are rounded up to a few an octave, so that even
/// servers stay below this.
const MOST_RECORDINGS: usize = 1024;

/// Slots of parameters: a model has a few dozen distinct ones.
const PARAMETER_SLOTS: u32 = 1024;

/// Rows, and rows whose candidates are wanted, of the passes that an answer begins with: the whole canvas of a
/// short request, then the block at work and its neighbourhood.
const FIRST_PASSES: [(u32, u32); 2] = [(96, 64), (40, 32)];

/// A model on a wgpu device.
pub struct WgpuBackend {
    gpu: Gpu,
    architecture: Architecture,
    weights: DeviceWeights,
    arithmetic: Arithmetic,
    rotary: wgpu::Buffer,
    stores: Stores,
    /// Keys and values of each layer, `[arena slots, kv_heads * head_dim]` in float32 or f16.
    arena: Vec<[wgpu::Buffer; 2]>,
    arena_slots: u32,
    activations: Activations,
    suppressed: wgpu::Buffer,
    suppressed_words: Vec<u32>,
    uniforms: Uniforms,
    groups: BindGroups,
    recordings: HashMap<RecordingKey, Recording>,
    ahead: Ahead,
}

/// Bytes of one slot of keys or of values in one layer.
fn slot_bytes(a: &Architecture, arithmetic: Arithmetic) -> u64 {
    let bytes = match arithmetic {
        Arithmetic::Full => 4,
        Arithmetic::Half => 2,
    };
    (a.attention.kv_heads * a.attention.head_dim * bytes) as u64
}

impl WgpuBackend {
    /// Moves `model` to the device, its weights in `format` or else as stored.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] where no kernel computes what the model needs, and as
    /// [`DeviceWeights::load`].
    pub async fn load(
        gpu: Gpu,
        model: &Model,
        format: Option<WeightFormat>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        check_supported(&gpu, &model.architecture)?;
        let weights = DeviceWeights::load(&gpu, model, format, progress).await?;
        Self::with_weights(gpu, model.architecture.clone(), weights).await
    }

    /// A model of `architecture`'s shape with random weights made on the device, for measurements where
    /// only the shape matters.
    ///
    /// # Errors
    /// As [`WgpuBackend::load`].
    pub async fn random(gpu: Gpu, architecture: Architecture, format: WeightFormat) -> Result<Self, BackendError> {
        check_supported(&gpu, &architecture)?;
        let weights = DeviceWeights::random(&gpu, &architecture, format).await?;
        Self::with_weights(gpu, architecture, weights).await
    }

    /// Asks for the kernels that the first passes of an answer will need, before the weights are there: a
    /// browser compiles while they are on their way. `format` is what the matrices will be kept in; where it
    /// turns out otherwise, this has been for nothing.
    ///
    /// # Errors
    /// As [`WgpuBackend::load`].
    pub async fn foresee(gpu: &mut Gpu, a: &Architecture, format: WeightFormat) -> Result<(), BackendError> {
        check_supported(gpu, a)?;
        let weights = DeviceWeights::outline(gpu, a, format).await?;
        let arithmetic = Arithmetic::choose(&gpu.profile, a, &[format]);
        let activations = Activations::new(gpu, a, arithmetic, strips(weights.head()), 64).await?;
        let (mut uniforms, mut groups) = (Uniforms::new(gpu, 1).await?, BindGroups::new());
        let nothing = &weights.final_norm;
        let arena = vec![[nothing.clone(), nothing.clone()]; weights.layers.len()];
        for (rows, selected) in FIRST_PASSES {
            let tile = attention_tile_rows(arithmetic, a.attention.head_dim as u32, rows);
            let sizes = PassSizes { rows, selected, tiles: rows.div_ceil(tile), padding: 0 };
            let plan = PassPlan {
                architecture: a,
                weights: &weights,
                arithmetic,
                activations: &activations,
                rotary: nothing,
                arena: &arena,
                suppressed: nothing,
                sizes,
            };
            let recorder = Recorder::ahead(gpu, &mut uniforms, &mut groups);
            plan.record(recorder, Answer::Candidates).await?;
        }
        Ok(())
    }

    async fn with_weights(mut gpu: Gpu, a: Architecture, mut weights: DeviceWeights) -> Result<Self, BackendError> {
        let arithmetic = weights.suit(&mut gpu, &a).await?;
        let table = rotary::table(&a.rotary, a.max_positions);
        let rotary = gpu.storage("rotary", size_of_val(&table[..]) as u64).await?;
        gpu.queue.write_buffer(&rotary, 0, bytemuck::cast_slice(&table));
        let suppressed_words = vec![0; a.embedding_rows.div_ceil(32)];
        let suppressed = gpu.storage("suppressed", suppressed_words.len() as u64 * 4).await?;
        tracing::debug!(?arithmetic, "loaded");
        let activations = Activations::new(&gpu, &a, arithmetic, strips(weights.head()), 64).await?;
        let uniforms = Uniforms::new(&gpu, PARAMETER_SLOTS).await?;
        Ok(Self {
            gpu,
            architecture: a,
            weights,
            arithmetic,
            rotary,
            stores: Stores::default(),
            arena: Vec::new(),
            arena_slots: 0,
            activations,
            suppressed,
            suppressed_words,
            uniforms,
            groups: BindGroups::new(),
            recordings: HashMap::new(),
            ahead: Ahead::default(),
        })
    }

    /// The device.
    #[must_use]
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Checks a pass and translates it into the records that kernels read.
    fn translate(&self, pass: &Pass) -> Result<Translated, BackendError> {
        let a = &self.architecture;
        let slots = |store| self.stores.slots(store);
        pass.check(a.embedding_rows, |store| slots(store).map(|s| s.len() as u32))?;
        let most = self.gpu.profile.limits.workgroups as usize;
        if pass.rows.len() > most || pass.select.len() > most {
            let problem = format!("{} rows; the device takes at most {most} in one pass", pass.rows.len());
            return Err(BackendError::InvalidPass(problem));
        }
        // Every store is there: the check has seen it.
        let rows: Vec<_> = pass
            .rows
            .iter()
            .filter_map(|row| {
                let start = slots(row.store)?.start;
                Some(RowRecord {
                    token: row.token,
                    position: row.position,
                    slot: start + row.position,
                    key_start: start + row.keys.start,
                    key_end: start + row.keys.end,
                    padding: [0; 3],
                })
            })
            .collect();
        let select = |s: &Select| SelectRecord {
            row: s.row,
            guide: s.guide.map_or(s.row, |g| g.row),
            guide_scale: s.guide.map_or(0.0, |g| g.scale),
            temperature: s.temperature,
            key: s.key.0,
            position: pass.rows[s.row as usize].position,
            padding: 0,
        };
        let select: Vec<_> = pass.select.iter().map(select).collect();
        let store: Vec<_> = pass.rows.iter().map(|r| r.store.0).collect();
        let rounded = PassSizes { rows: rows.len() as u32, ..PassSizes::default() }.rounded_up().rows;
        let most = attention_tile_rows(self.arithmetic, a.attention.head_dim as u32, rounded);
        let tiles = attention::tiles(&rows, &store, most);
        Ok(Translated { rows, select, tiles })
    }

    /// Makes arena and intermediate buffers large enough. Stores keep their contents.
    async fn reserve(&mut self, rows: u32) -> Result<(), BackendError> {
        if self.stores.extent() > self.arena_slots {
            let slots = self.stores.extent().next_power_of_two().max(256);
            let most = (self.gpu.profile.limits.binding / slot_bytes(&self.architecture, self.arithmetic)) as u32;
            let slots = slots.min(most.max(self.stores.extent()));
            self.grow_arena(slots).await?;
        }
        if rows > self.activations.capacity() {
            let strips = strips(self.weights.head());
            self.forget_recordings();
            let capacity = rows.next_multiple_of(64);
            self.activations =
                Activations::new(&self.gpu, &self.architecture, self.arithmetic, strips, capacity).await?;
        }
        Ok(())
    }

    async fn grow_arena(&mut self, slots: u32) -> Result<(), BackendError> {
        let bytes = u64::from(slots) * slot_bytes(&self.architecture, self.arithmetic);
        let mut arena = Vec::with_capacity(self.architecture.layers);
        for _ in 0..self.architecture.layers {
            arena.push([self.gpu.storage("keys", bytes).await?, self.gpu.storage("values", bytes).await?]);
        }
        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("grow") });
        for (old, new) in self.arena.iter().flatten().zip(arena.iter().flatten()) {
            encoder.copy_buffer_to_buffer(old, 0, new, 0, old.size());
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.forget_recordings();
        self.arena = arena;
        self.arena_slots = slots;
        Ok(())
    }

    /// Recordings name buffers; when buffers change they are made anew.
    fn forget_recordings(&mut self) {
        self.recordings.clear();
        self.ahead.clear();
        self.groups.clear();
    }

    async fn record(&mut self, sizes: PassSizes, answer: Answer) -> Result<Recording, BackendError> {
        let (plan, recorder) = self.plan(sizes);
        plan.record(recorder, answer).await
    }

    /// What the dispatches of a pass work on, and where they are recorded.
    fn plan(&mut self, sizes: PassSizes) -> (PassPlan<'_>, Recorder<'_>) {
        let plan = PassPlan {
            architecture: &self.architecture,
            weights: &self.weights,
            arithmetic: self.arithmetic,
            activations: &self.activations,
            rotary: &self.rotary,
            arena: &self.arena,
            suppressed: &self.suppressed,
            sizes,
        };
        (plan, Recorder::new(&mut self.gpu, &mut self.uniforms, &mut self.groups))
    }

    /// Makes everything ready for a pass, with other kernels where some turn out not to compile. Returns
    /// the key of the recording and the bytes of the answer.
    async fn prepare(&mut self, pass: &Pass<'_>, answer: Answer) -> Result<(RecordingKey, u64), BackendError> {
        loop {
            let refused = self.gpu.refusals().len();
            match self.prepare_once(pass, answer).await {
                // The next plan does without the kernel, if there is a way to.
                Err(BackendError::Kernel { .. }) if self.gpu.refusals().len() > refused => (),
                Err(BackendError::Kernel { .. }) if self.arithmetic == Arithmetic::Half => self.widen().await?,
                done => return done,
            }
        }
    }

    /// Goes over from f16 arithmetic to float32 for good. Stores keep their contents.
    async fn widen(&mut self) -> Result<(), BackendError> {
        tracing::warn!("going on in float32: a kernel of the matrix units that nothing else stands in for is missing");
        self.arithmetic = Arithmetic::Full;
        self.forget_recordings();
        self.weights.unsuit(&mut self.gpu).await?;
        let (a, rows) = (&self.architecture, self.activations.capacity());
        self.activations = Activations::new(&self.gpu, a, self.arithmetic, strips(self.weights.head()), rows).await?;
        for buffer in self.arena.iter_mut().flatten() {
            let halves: Vec<half::f16> = bytemuck::pod_collect_to_vec(&self.gpu.read(buffer, buffer.size()).await?);
            let wide = halves.to_f32_vec();
            *buffer = self.gpu.storage("keys or values", size_of_val(&wide[..]) as u64).await?;
            self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&wide));
        }
        Ok(())
    }

    /// Buffers, the recording, and the records that its kernels read.
    async fn prepare_once(&mut self, pass: &Pass<'_>, answer: Answer) -> Result<(RecordingKey, u64), BackendError> {
        self.gpu.check()?;
        let translated = self.translate(pass)?;
        let sizes = PassSizes {
            rows: translated.rows.len() as u32,
            selected: translated.select.len() as u32,
            tiles: translated.tiles.len() as u32,
            padding: 0,
        };
        let key = RecordingKey { sizes: sizes.rounded_up(), answer };
        self.reserve(key.sizes.rows.max(key.sizes.selected)).await?;
        let bytes = match answer {
            Answer::Candidates => sizes.selected as usize * size_of::<CandidateRecord>(),
            Answer::Logits => {
                let row = self.architecture.embedding_rows * 4;
                let bytes = sizes.selected as usize * row;
                let rows = self.arithmetic.room(sizes.selected);
                if self.activations.reserve_logits(&self.gpu, u64::from(rows) * row as u64).await? {
                    self.forget_recordings();
                }
                bytes
            }
        } as u64;
        if !self.recordings.contains_key(&key) {
            let recording = self.record(key.sizes, answer).await?;
            if self.recordings.len() >= MOST_RECORDINGS {
                self.recordings.clear();
            }
            self.recordings.insert(key, recording);
        }
        if self.suppressed_words != pass.suppressed.words() {
            self.suppressed_words = pass.suppressed.words().to_vec();
            self.gpu.queue.write_buffer(&self.suppressed, 0, bytemuck::cast_slice(&self.suppressed_words));
        }
        let act = &self.activations;
        self.gpu.queue.write_buffer(&act.rows, 0, bytemuck::cast_slice(&translated.rows));
        self.gpu.queue.write_buffer(&act.select, 0, bytemuck::cast_slice(&translated.select));
        self.gpu.queue.write_buffer(&act.tiles, 0, bytemuck::cast_slice(&translated.tiles));
        self.uniforms.set_pass(&self.gpu, sizes);
        Ok((key, bytes))
    }

    /// Runs a pass and returns the bytes of its answer.
    async fn run(&mut self, pass: &Pass<'_>, answer: Answer) -> Result<Vec<u8>, BackendError> {
        let (key, bytes) = self.prepare(pass, answer).await?;
        let staging = self.submit(key, bytes);
        let answer = self.gpu.map(&staging, bytes).await;
        // A process may be ended at any time: what was compiled for this pass is saved with it.
        self.gpu.save_pipelines();
        answer
    }

    /// Runs a pass and returns, for each of its dispatches in order, the kernel's name and the
    /// nanoseconds between the end of the dispatch before it and its own. Empty where the device has no
    /// timestamps.
    ///
    /// # Errors
    /// As [`Backend::forward`].
    pub async fn profile(&mut self, pass: &Pass<'_>) -> Result<Vec<(String, f64)>, BackendError> {
        use wgpu::BufferUsages as U;
        let (key, _) = self.prepare(pass, Answer::Candidates).await?;
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

/// What two passes must have in common to be run by one recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RecordingKey {
    /// Sizes that the dispatches are large enough for.
    sizes: PassSizes,
    answer: Answer,
}

/// The records of a pass as kernels read them.
struct Translated {
    rows: Vec<RowRecord>,
    select: Vec<SelectRecord>,
    tiles: Vec<attention::TileRecord>,
}

/// Partial selections that a head makes for one row of many. For the few rows of `gemv` there are
/// four times as many, which fit because buffers have room for 64 rows at least.
fn strips(head: &DeviceMatrix) -> u32 {
    head.parts.len() as u32 * head_select::TILED_STRIPS
}

/// Refuses what no kernel here computes.
fn check_supported(gpu: &Gpu, a: &Architecture) -> Result<(), BackendError> {
    let head_dim = a.attention.head_dim;
    let missing = [
        (a.norm.kind != NormKind::Rms, "a norm other than RMSNorm"),
        (a.mlp.kind != MlpKind::SwiGlu, "an MLP other than SwiGLU"),
        (a.biases != Biases::default(), "biases"),
        (a.shifted_logits, "shifted logits"),
        (
            !head_dim.is_multiple_of(4) || head_dim > attention::MAX_HEAD_DIM as usize,
            "a head dimension that is no multiple of four or above 256",
        ),
    ];
    match missing.iter().find(|(is, _)| *is) {
        None => Ok(()),
        Some((_, what)) => Err(BackendError::Unsupported {
            what: format!("{} with {what}", a.name),
            adapter: gpu.profile.name.clone(),
            why: "no kernel of this build computes it".to_owned(),
        }),
    }
}

impl Backend for WgpuBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            backend: format!("wgpu ({})", self.gpu.profile.api),
            adapter: self.gpu.profile.name.clone(),
            weights: self.weights.embedding.format.to_string(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let skipped = self.gpu.refusals().map(|(spec, why)| {
            let why = why.lines().next().unwrap_or_default();
            format!("kernel {} is not used on this device: {why}", spec.label())
        });
        let mut skipped: Vec<_> = skipped.collect();
        skipped.sort();
        self.weights.note.iter().cloned().chain(skipped).collect()
    }

    fn head_rows(&self) -> usize {
        self.architecture.embedding_rows
    }

    fn create_store(&mut self, capacity: u32) -> Result<StoreId, BackendError> {
        let most = self.architecture.max_positions;
        if capacity == 0 || capacity as usize > most {
            return Err(BackendError::InvalidPass(format!(
                "a store of {capacity} slots; the model has {most} positions"
            )));
        }
        let store = self.stores.create(capacity);
        let bytes = u64::from(self.stores.extent()) * slot_bytes(&self.architecture, self.arithmetic);
        if bytes > self.gpu.profile.limits.binding {
            self.stores.release(store);
            return Err(BackendError::OutOfMemory { action: "making a key/value store".to_owned(), bytes });
        }
        Ok(store)
    }

    fn release_store(&mut self, store: StoreId) {
        self.stores.release(store);
    }

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Candidate>> {
        Box::pin(async move {
            let bytes = self.run(pass, Answer::Candidates).await?;
            let records: Vec<CandidateRecord> = bytemuck::pod_collect_to_vec(&bytes);
            let answer = |(record, select): (&CandidateRecord, &remask_core::Select)| {
                if record.token == NOT_FINITE || !record.probability.is_finite() {
                    return Err(BackendError::NotFinite { position: pass.rows[select.row as usize].position });
                }
                Ok(Candidate {
                    token: record.token,
                    probability: record.probability,
                    entropy: record.entropy,
                    margin: record.margin,
                })
            };
            records.iter().zip(pass.select).map(answer).collect()
        })
    }

    fn logits<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<f32>> {
        Box::pin(async move {
            let bytes = self.run(pass, Answer::Logits).await?;
            Ok(bytemuck::pod_collect_to_vec(&bytes))
        })
    }
}
