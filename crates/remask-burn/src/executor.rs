//! The [`Backend`] on Burn.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use remask_core::backend::BackendInfo;
use remask_core::checkpoint::WeightFormat;
use remask_core::{Architecture, Backend, BackendError, BackendFuture, Candidate, Model, Pass, StoreId};

use crate::linear::{Dense, Linear, Packed};
use crate::load::{self, FromMatrices};
use crate::select::candidate;
use crate::stores::{Plan, Stores};
use crate::transformer::{Transformer, Turns};

/// Logits that are worked out at a time: 64 MiB of them.
const MOST_LOGITS: usize = 1 << 24;

/// A model on the CPU.
pub type CpuBackend = BurnBackend<Packed>;

/// A model on one of Burn's devices.
pub struct BurnBackend<L: Linear> {
    transformer: Transformer<L>,
    architecture: Architecture,
    device: Device,
    stores: Stores,
    info: BackendInfo,
}

impl CpuBackend {
    /// Takes `model` into main memory, its matrices in `format` or else as stored. `progress` is told
    /// the bytes of the checkpoint that have been read.
    ///
    /// # Errors
    /// As [`load::transformer`].
    pub fn load(
        model: &Model,
        format: Option<WeightFormat>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        Self::on(Device::flex(), "cpu (Burn flex)", cpu_name(), model, format, progress)
    }
}

impl BurnBackend<Dense> {
    /// Moves `model` to `device` as float32 tensors. For Burn's other backends, and as the plainest
    /// form of the model to compare others with.
    ///
    /// # Errors
    /// As [`load::transformer`].
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

impl<L: FromMatrices> BurnBackend<L> {
    fn on(
        device: Device,
        name: &str,
        adapter: String,
        model: &Model,
        format: Option<WeightFormat>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        let Model { architecture, names, checkpoint, .. } = model;
        let (transformer, weights) = load::transformer(architecture, names, checkpoint, format, &device, progress)?;
        let info = BackendInfo { backend: name.to_owned(), adapter, weights: weights.to_string() };
        let architecture = architecture.clone();
        Ok(Self { transformer, architecture, device, stores: Stores::default(), info })
    }
}

impl<L: Linear> BurnBackend<L> {
    /// Computes a pass and hands the logits of the selected rows to `take`, some rows at a time: index
    /// of the first, and logits `[rows, head rows]`.
    fn run(
        &mut self,
        pass: &Pass,
        mut take: impl FnMut(usize, Vec<f32>) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let a = &self.architecture;
        pass.check(a.embedding_rows, |store| self.stores.capacity(store))?;
        let ids = |ids: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::from(&ids[..]), &self.device);
        let plan = Plan::of(pass.rows, &a.attention, &self.device);
        let turns = Turns::of(&a.rotary, pass.rows.iter().map(|r| r.position), &self.device);
        let tokens = ids(pass.rows.iter().map(|r| i64::from(r.token)).collect());
        let stores = &mut self.stores;
        let x = self.transformer.forward(tokens, &turns, |layer, p| plan.attend(stores, layer, p));

        let normed = self.transformer.normed(x);
        let rows_at_once = (MOST_LOGITS / a.embedding_rows).max(1);
        for (chunk, select) in pass.select.chunks(rows_at_once).enumerate() {
            let mut mixed = normed.clone().select(0, ids(select.iter().map(|s| i64::from(s.row)).collect()));
            // The head is linear: mixing what it reads mixes the logits the same way.
            if select.iter().any(|s| s.guide.is_some()) {
                let guides = select.iter().map(|s| i64::from(s.guide.map_or(s.row, |g| g.row)));
                let guide = normed.clone().select(0, ids(guides.collect()));
                let strength: Vec<f32> = select.iter().map(|s| 1.0 + s.guide.map_or(0.0, |g| g.scale)).collect();
                let strength = Tensor::<2>::from_data(TensorData::new(strength, [select.len(), 1]), &self.device);
                mixed = guide.clone() + (mixed - guide) * strength;
            }
            let logits = self.transformer.logits(mixed).try_into_data();
            let refused = |problem: String| BackendError::Device { operation: "read logits back".to_owned(), problem };
            let logits = logits.map_err(|e| refused(e.to_string()))?;
            take(chunk * rows_at_once, logits.try_into_vec().map_err(|e| refused(format!("{e:?}")))?)?;
        }
        Ok(())
    }
}

impl<L: Linear> Backend for BurnBackend<L> {
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
        Ok(self.stores.create(capacity, self.architecture.layers, &self.architecture.attention, &self.device))
    }

    fn release_store(&mut self, store: StoreId) {
        self.stores.release(store);
    }

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Candidate>> {
        Box::pin(async move {
            let width = self.architecture.embedding_rows;
            let mut candidates = Vec::with_capacity(pass.select.len());
            self.run(pass, |first, mut logits| {
                let select = &pass.select[first..];
                let found: Result<Vec<_>, _> = logits
                    .par_chunks_mut(width)
                    .zip(select)
                    .map(|(logits, select)| {
                        let position = pass.rows[select.row as usize].position;
                        candidate(logits, select, position, pass.suppressed).ok_or(BackendError::NotFinite { position })
                    })
                    .collect();
                candidates.append(&mut found?);
                Ok(())
            })?;
            Ok(candidates)
        })
    }

    fn logits<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<f32>> {
        Box::pin(async move {
            let mut all = Vec::with_capacity(pass.select.len() * self.architecture.embedding_rows);
            self.run(pass, |_, mut logits| {
                all.append(&mut logits);
                Ok(())
            })?;
            Ok(all)
        })
    }
}
