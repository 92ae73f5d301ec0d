//! From a plan to a recording: names become buffers.

use remask_core::BackendError;

use crate::activations::Activations;
use crate::arena::Arena;
use crate::plan::{Slot, Step};
use crate::recording::{Recorder, Recording};
use crate::suppressed::SuppressedSets;
use crate::turns::Turns;
use crate::weights::DeviceWeights;

/// The buffers that plans name.
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    /// Weights.
    pub weights: &'a DeviceWeights,
    /// Intermediate results.
    pub activations: &'a Activations,
    /// Keys and values.
    pub arena: &'a Arena,
    /// Rotary tables.
    pub turns: &'a Turns,
    /// Suppressed ids.
    pub suppressed: &'a SuppressedSets,
}

impl Buffers<'_> {
    fn of(&self, slot: Slot) -> Result<&wgpu::Buffer, BackendError> {
        let found = match slot {
            Slot::Matrix(role, i) => return self.weights.part(role, i),
            Slot::Vector(role) => return self.weights.vector(role),
            Slot::HeadNorms(set) => self.weights.head_norms.get(&set),
            Slot::Rotary(index) => self.turns.buffer(index),
            Slot::Keys(entry) => self.arena.entry(entry).map(|[keys, _]| keys),
            Slot::Values(entry) => self.arena.entry(entry).map(|[_, values]| values),
            Slot::Suppressed => Some(self.suppressed.buffer()),
            other => self.activations.get(other),
        };
        found.ok_or_else(|| BackendError::Device {
            operation: "record a pass".to_owned(),
            problem: format!("there is no buffer for {slot:?}"),
        })
    }
}

/// Records dispatches over these buffers.
///
/// # Errors
/// As [`Recorder::dispatch`].
pub async fn record(
    mut recorder: Recorder<'_>,
    buffers: Buffers<'_>,
    steps: Vec<Step>,
) -> Result<Recording, BackendError> {
    for step in steps {
        let bound = step.slots.iter().map(|slot| buffers.of(*slot)).collect::<Result<Vec<_>, _>>()?;
        recorder.dispatch_bytes(step.spec, &bound, &step.params, step.grid).await?;
    }
    Ok(recorder.finish())
}
