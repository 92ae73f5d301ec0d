//! The commands of a pass, encoded while the device computes the one before.
//!
//! Encoding takes the processor two to three microseconds a dispatch, half a millisecond for a model of 32 layers, and a
//! decoder asks for a pass only when it knows what the last one found: the device would idle meanwhile. What changes
//! from pass to pass is in buffers though, and most passes have the sizes of one shortly before.

use super::{Ready, WgpuBackend};
use crate::kernels::select_reduce::CandidateRecord;
use crate::plan::{PassSizes, Slot};

/// Passes that are kept ready: a generation goes through a few dozen sizes, over and over.
const MOST: usize = 64;

/// Commands that only have to be submitted.
#[derive(Default)]
pub(super) struct Ahead {
    /// The oldest first.
    ready: Vec<(PassSizes, wgpu::CommandBuffer)>,
}

impl Ahead {
    /// Drops everything, as buffers or kernels change.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
    }

    /// Passes that are ready.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    fn take(&mut self, key: PassSizes) -> Option<wgpu::CommandBuffer> {
        let at = self.ready.iter().position(|(ready, _)| *ready == key)?;
        Some(self.ready.remove(at).1)
    }

    fn keep(&mut self, key: PassSizes, commands: wgpu::CommandBuffer) {
        if self.ready.len() >= MOST {
            self.ready.remove(0);
        }
        self.ready.push((key, commands));
    }
}

impl WgpuBackend {
    /// Submits the pass whose recording, inputs and room for its answers are there, and encodes another like it.
    pub(super) fn submit(&mut self, ready: Ready) {
        let commands = self.ahead.take(ready.key).unwrap_or_else(|| self.encode(ready));
        self.gpu.queue.submit([commands]);
        // Logits are copied as many as there are; and most who want them look at one pass.
        if ready.key.logits == 0 {
            let next = self.encode(ready);
            self.ahead.keep(ready.key, next);
        }
    }

    /// Bytes of a kind of answer to a pass of these sizes.
    pub(super) fn answer_bytes(&self, sizes: PassSizes, slot: Slot) -> u64 {
        if slot == Slot::Candidates {
            u64::from(sizes.selected) * size_of::<CandidateRecord>() as u64
        } else {
            u64::from(sizes.logits) * self.architecture.embedding_rows as u64 * 4
        }
    }

    fn encode(&self, Ready { key, sizes }: Ready) -> wgpu::CommandBuffer {
        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("pass") });
        if let Some(recording) = self.recordings.get(&key) {
            recording.encode(&mut encoder, &self.uniforms, None);
        }
        // As many candidates as any pass of this recording has.
        for (slot, sizes) in [(Slot::Candidates, key), (Slot::Logits, sizes)] {
            let bytes = self.answer_bytes(sizes, slot);
            let buffers = self.activations.get(slot).zip(self.activations.host(slot)).filter(|_| bytes > 0);
            if let Some((source, staging)) = buffers {
                encoder.copy_buffer_to_buffer(source, 0, staging, 0, bytes);
            }
        }
        encoder.finish()
    }
}
