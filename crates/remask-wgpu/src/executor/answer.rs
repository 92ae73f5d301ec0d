//! The backend as the rest of the engine sees it.

use remask_core::backend::BackendInfo;
use remask_core::checkpoint::WeightFormat;
use remask_core::{Answer, Backend, BackendError, BackendFuture, Candidate, Pass, StoreId, Want};

use super::WgpuBackend;
use crate::kernels::select_reduce::{CandidateRecord, NOT_FINITE};
use crate::plan::Slot;

impl WgpuBackend {
    /// Runs a pass and returns the bytes of its candidates and those of its logits.
    async fn run(&mut self, pass: &Pass<'_>) -> Result<[Vec<u8>; 2], BackendError> {
        let ready = self.prepare(pass).await?;
        self.submit(ready);
        let mut answers = [Vec::new(), Vec::new()];
        for (answer, slot) in answers.iter_mut().zip([Slot::Candidates, Slot::Logits]) {
            let bytes = self.answer_bytes(ready.sizes, slot);
            if let Some(staging) = self.activations.host(slot).filter(|_| bytes > 0) {
                *answer = self.gpu.map(staging, bytes).await?;
            }
        }
        // A process may be ended at any time: what was compiled for this pass is saved with it.
        self.gpu.save_pipelines();
        Ok(answers)
    }
}

impl Backend for WgpuBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            backend: format!("wgpu ({})", self.gpu.profile.api),
            adapter: self.gpu.profile.name.clone(),
            weights: WeightFormat::list(self.weights.formats()),
        }
    }

    fn notes(&self) -> Vec<String> {
        let skipped = self.gpu.refusals().iter().map(|(spec, why)| {
            let why = why.lines().next().unwrap_or_default();
            format!("kernel {} is not used on this device: {why}", spec.label())
        });
        let mut skipped: Vec<_> = skipped.collect();
        skipped.sort();
        self.weights.note.iter().cloned().chain(skipped).collect()
    }

    fn most_rows(&self) -> usize {
        self.rows_limit() as usize
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
        let most = self.arena.most_slots(&self.gpu);
        self.stores.create(capacity, most).ok_or_else(|| BackendError::Unsupported {
            what: format!("a store of {capacity} slots beside those that there are"),
            adapter: self.gpu.profile.name.clone(),
            why: format!(
                "keys and values of all stores together have {most} slots there; wait for other requests to end, or \
                 shorten this one"
            ),
        })
    }

    fn release_store(&mut self, store: StoreId) {
        self.stores.release(store);
    }

    fn copy_slots(&mut self, from: StoreId, to: StoreId, slots: u32) -> bool {
        let (Some(from), Some(to)) = (self.stores.slots(from), self.stores.slots(to)) else { return false };
        if slots == 0 || from.len().min(to.len()) < slots as usize || from.start + slots > self.arena.slots() {
            return false;
        }
        self.copies.push([from.start..from.start + slots, to.start..to.start + slots]);
        true
    }

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Answer>> {
        Box::pin(async move {
            let [candidates, logits] = self.run(pass).await?;
            let records: Vec<CandidateRecord> = bytemuck::pod_collect_to_vec(&candidates);
            let logits: Vec<f32> = bytemuck::pod_collect_to_vec(&logits);
            let mut records = records.iter();
            let mut logits = logits.chunks(self.head_rows().max(1));
            let lost = || BackendError::Device {
                operation: "read results back".to_owned(),
                problem: "it answered fewer rows than were asked about".to_owned(),
            };
            let answer = |select: &remask_core::Select| match select.want {
                Want::Logits => logits.next().map(|row| Answer::Logits(row.to_vec())).ok_or_else(lost),
                Want::Candidate { .. } => {
                    let record = records.next().ok_or_else(lost)?;
                    if record.token == NOT_FINITE || !record.probability.is_finite() {
                        return Err(BackendError::NotFinite { position: select.position });
                    }
                    Ok(Answer::Candidate(Candidate {
                        token: record.token,
                        probability: record.probability,
                        entropy: record.entropy,
                        margin: record.margin,
                    }))
                }
            };
            pass.select.iter().map(answer).collect()
        })
    }
}
