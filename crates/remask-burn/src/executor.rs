//! The [`Backend`] on Burn.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use remask_core::backend::{Answer, BackendInfo, Select, Want};
use remask_core::checkpoint::WeightFormat;
use remask_core::{Architecture, Backend, BackendError, BackendFuture, Model, Pass, StoreId};

use crate::attention::HostSlots;
use crate::dense::Dense;
use crate::load::{self, FromMatrices};
use crate::packed::Packed;
use crate::random::RandomWeights;
use crate::select::candidate;
use crate::stores::{Plans, Slots, Stores};
use crate::tensor_slots::TensorSlots;
use crate::transformer::{Inputs, Transformer};

/// Logits that are worked out at a time: 64 MiB of them.
const MOST_LOGITS: usize = 1 << 24;

/// A kind of linear layer with the keys and values that go with it.
pub trait Served: FromMatrices {
    /// The keys and values of one entry in one store.
    type Slots: Slots<Projected = Self::Projected> + Send;

    /// Runs a pass where it runs best.
    fn inside<R: Send>(pass: impl FnOnce() -> R + Send) -> R;
}

impl Served for Packed {
    type Slots = HostSlots;

    /// On a thread of the pool: a pass hands work to the others some hundred times, and whoever is not one of them
    /// sleeps until they are done, each time.
    fn inside<R: Send>(pass: impl FnOnce() -> R + Send) -> R {
        rayon::scope(|_| pass())
    }
}

impl Served for Dense {
    type Slots = TensorSlots;

    fn inside<R: Send>(pass: impl FnOnce() -> R + Send) -> R {
        pass()
    }
}

/// A model on the CPU.
pub type CpuBackend = BurnBackend<Packed>;

/// A model on one of Burn's devices.
pub struct BurnBackend<L: Served> {
    transformer: Transformer<L>,
    architecture: Arc<Architecture>,
    device: Device,
    stores: Stores<L::Slots>,
    info: BackendInfo,
}

impl CpuBackend {
    /// Takes `model` into main memory, its matrices in `format` or else as stored. `progress` is told
    /// the bytes of the checkpoint that have been read.
    ///
    /// # Errors
    /// [`BackendError::Weights`] where the checkpoint cannot be read, or kept in `format`.
    pub fn load(
        model: &Model,
        format: Option<WeightFormat>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        Self::on(Device::flex(), "cpu (Burn flex)", cpu_name(), model, format, progress)
    }

    /// A model of this shape with random weights, where only the shape matters.
    ///
    /// # Errors
    /// [`BackendError::Weights`] where `format` cannot hold them.
    pub fn random(architecture: Arc<Architecture>, format: WeightFormat) -> Result<Self, BackendError> {
        let mut source = RandomWeights { format, state: 1 };
        let transformer = Transformer::of(&mut source, &architecture);
        let transformer = transformer.map_err(|e| BackendError::Weights(e.to_string()))?;
        let weights = format.to_string();
        let info = BackendInfo { backend: "cpu (Burn flex)".to_owned(), adapter: cpu_name(), weights };
        Ok(Self { transformer, architecture, device: Device::flex(), stores: Stores::default(), info })
    }
}

impl BurnBackend<Dense> {
    /// Moves `model` to `device` as float32 tensors. For Burn's other backends, and as the plainest
    /// form of the model to compare others with.
    ///
    /// # Errors
    /// As [`CpuBackend::load`].
    pub fn dense(
        model: &Model,
        device: Device,
        name: &str,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        let adapter = format!("{device:?}");
        Self::on(device, name, adapter, model, None, progress)
    }
}

/// Vector instructions and threads that products use.
fn cpu_name() -> String {
    let arch = format!("{:?}", pulp::Arch::new());
    let vectors = match arch.split('(').next() {
        Some("V4") => "AVX-512",
        Some("V3") => "AVX2",
        Some("Neon" | "NeonFcma") => "NEON",
        _ => "no vectors",
    };
    format!("CPU, {} threads, {vectors}", rayon::current_num_threads())
}

impl<L: Served> BurnBackend<L> {
    fn on(
        device: Device,
        name: &str,
        adapter: String,
        model: &Model,
        format: Option<WeightFormat>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        let loaded =
            load::transformer(&model.architecture, &model.tensors, &model.checkpoint, format, &device, progress);
        let (transformer, weights) = loaded.map_err(|e| BackendError::Weights(e.to_string()))?;
        let info = BackendInfo { backend: name.to_owned(), adapter, weights: WeightFormat::list(weights) };
        let architecture = model.architecture.clone();
        Ok(Self { transformer, architecture, device, stores: Stores::default(), info })
    }

    /// Computes a pass.
    fn run(&mut self, pass: &Pass) -> Result<Vec<Answer>, BackendError> {
        let (a, device, stores) = (&self.architecture, &self.device, &mut self.stores);
        pass.check(a, |store| stores.capacity(store))?;
        let (tokens, positions) = pass.rows.iter().map(|r| (r.token, r.position)).unzip();
        let inputs = Inputs::new(a, tokens, positions, device);
        let mut plans = Plans::<L::Slots>::new(pass.rows);
        let x = self.transformer.forward(&inputs, |block, projected| {
            let plan = plans.of(&block.attention, device);
            L::Slots::attend(stores, block.cache, plan, &block.attention, projected)
        });
        let mut answers = Vec::with_capacity(pass.select.len());
        for select in pass.select.chunks((MOST_LOGITS / a.embedding_rows).max(1)) {
            let logits = self.transformer.logits(self.read_by_head(&x, select)).try_into_data();
            let refused = |problem: String| BackendError::Device { operation: "read logits back".to_owned(), problem };
            let logits = logits.map_err(|e| refused(e.to_string()))?;
            let mut logits: Vec<f32> = logits.try_into_vec().map_err(|e| refused(format!("{e:?}")))?;
            let rows = logits.par_chunks_mut(a.embedding_rows).zip(select);
            let found: Result<Vec<_>, _> = rows.map(|(logits, select)| answer(logits, select, pass)).collect();
            answers.append(&mut found?);
        }
        Ok(answers)
    }

    /// What the head reads for the selected rows of the residual stream `x`.
    fn read_by_head(&self, x: &Tensor<2>, select: &[Select]) -> Tensor<2> {
        let normed = |rows: &mut dyn Iterator<Item = u32>| {
            let rows: Vec<_> = rows.map(i64::from).collect();
            let rows = Tensor::<1, Int>::from_data(TensorData::from(&rows[..]), &self.device);
            self.transformer.normed(x.clone().select(0, rows))
        };
        let own = normed(&mut select.iter().map(|s| s.row));
        if select.iter().all(|s| s.guide.is_none()) {
            return own;
        }
        // The head is linear, and the shares of the two rows add up to 1: mixing what it reads mixes the logits the
        // same way, its bias included.
        let guide = normed(&mut select.iter().map(|s| s.guide.map_or(s.row, |g| g.row)));
        let strength: Vec<f32> = select.iter().map(|s| 1.0 + s.guide.map_or(0.0, |g| g.scale)).collect();
        let strength = Tensor::<2>::from_data(TensorData::new(strength, [select.len(), 1]), &self.device);
        guide.clone() + (own - guide) * strength
    }
}

/// What is wanted of a row, from its logits.
fn answer(logits: &mut [f32], select: &Select, pass: &Pass) -> Result<Answer, BackendError> {
    let Want::Candidate { temperature, key, suppressed } = select.want else {
        return Ok(Answer::Logits(logits.to_vec()));
    };
    let noise = (temperature, key, select.position);
    let found = candidate(logits, noise, &pass.suppressed[suppressed as usize]);
    let position = pass.rows[select.row as usize].position;
    found.map(Answer::Candidate).ok_or(BackendError::NotFinite { position })
}

impl<L: Served> Backend for BurnBackend<L> {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    fn head_rows(&self) -> usize {
        self.architecture.embedding_rows
    }

    fn create_store(&mut self, capacity: u32) -> Result<StoreId, BackendError> {
        let most = self.architecture.max_positions;
        if capacity == 0 || capacity as usize > most {
            let problem = format!("a store of {capacity} slots; the model has {most} positions");
            return Err(BackendError::InvalidPass(problem));
        }
        Ok(self.stores.create(capacity, &self.architecture, &self.device))
    }

    fn release_store(&mut self, store: StoreId) {
        self.stores.release(store);
    }

    fn copy_slots(&mut self, from: StoreId, to: StoreId, slots: u32) -> bool {
        self.stores.copy(from, to, slots, &self.architecture)
    }

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Answer>> {
        Box::pin(async move { L::inside(|| self.run(pass)) })
    }
}
