//! The commands of a pass, encoded while the device computes the one before.
//!
//! Encoding takes the processor two to three microseconds a dispatch, half a millisecond for a model of 32 layers, and a
//! decoder asks for a pass only when it knows what the last one found: the device would idle meanwhile. What changes
//! from pass to pass is in buffers though, and most passes have the sizes of one shortly before.

use super::{RecordingKey, WgpuBackend};
use crate::kernels::select_reduce::CandidateRecord;
use crate::pass::Answer;

/// Passes that are kept ready: a generation goes through a few dozen sizes, over and over.
const MOST: usize = 64;

/// Commands that only have to be submitted.
#[derive(Default)]
pub(super) struct Ahead {
    /// The oldest first.
    ready: Vec<(RecordingKey, wgpu::CommandBuffer)>,
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

    fn take(&mut self, key: RecordingKey) -> Option<wgpu::CommandBuffer> {
        let at = self.ready.iter().position(|(ready, _)| *ready == key)?;
        Some(self.ready.remove(at).1)
    }

    fn keep(&mut self, key: RecordingKey, commands: wgpu::CommandBuffer) {
        if self.ready.len() >= MOST {
            self.ready.remove(0);
        }
        self.ready.push((key, commands));
    }
}

impl WgpuBackend {
    /// Submits the pass whose recording, inputs and room for `bytes` of its answer are there, and encodes another like
    /// it. Returns the buffer that the answer can be read from.
    pub(super) fn submit(&mut self, key: RecordingKey, bytes: u64) -> wgpu::Buffer {
        let commands = self.ahead.take(key).unwrap_or_else(|| self.encode(key, bytes));
        self.gpu.queue.submit([commands]);
        // Whoever wants logits looks at one pass.
        if key.answer == Answer::Candidates {
            let next = self.encode(key, bytes);
            self.ahead.keep(key, next);
        }
        self.answer_buffers(key.answer)[1].clone()
    }

    /// Where an answer is computed, and where the host reads it.
    fn answer_buffers(&self, answer: Answer) -> [&wgpu::Buffer; 2] {
        let act = &self.activations;
        match answer {
            Answer::Candidates => [&act.candidates, &act.candidates_host],
            Answer::Logits => [&act.logits, &act.logits_host],
        }
    }

    fn encode(&self, key: RecordingKey, bytes: u64) -> wgpu::CommandBuffer {
        let [source, staging] = self.answer_buffers(key.answer);
        let bytes = match key.answer {
            // As many as any pass of this recording has.
            Answer::Candidates => u64::from(key.sizes.selected) * size_of::<CandidateRecord>() as u64,
            Answer::Logits => bytes,
        };
        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("pass") });
        if let Some(recording) = self.recordings.get(&key) {
            recording.encode(&mut encoder, &self.uniforms, None);
        }
        encoder.copy_buffer_to_buffer(source, 0, staging, 0, bytes);
        encoder.finish()
    }
}
