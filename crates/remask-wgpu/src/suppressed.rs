//! Sets of suppressed ids on the device: a table of bits with a row a set, which selected rows name.

use std::sync::Arc;

use remask_core::{BackendError, TokenSet};

use crate::gpu::Gpu;

/// Sets that a new table has room for.
const FIRST_SETS: usize = 4;

/// Sets on the device. Those that come again are not written again.
pub struct SuppressedSets {
    buffer: wgpu::Buffer,
    words: usize,
    /// The set of each row of the table, and the pass that last used it.
    held: Vec<(Arc<TokenSet>, u64)>,
    capacity: usize,
    passes: u64,
}

impl SuppressedSets {
    /// A table for heads of `rows` rows.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn new(gpu: &Gpu, rows: usize) -> Result<Self, BackendError> {
        let words = rows.div_ceil(32);
        let buffer = gpu.storage("suppressed", (FIRST_SETS * words * 4) as u64).await?;
        Ok(Self { buffer, words, held: Vec::new(), capacity: FIRST_SETS, passes: 0 })
    }

    /// The table.
    #[must_use]
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Has the table hold `sets`. Returns the row of each, and whether the buffer is new.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`]; [`BackendError::InvalidPass`] for more sets than the device holds at a time.
    pub async fn hold(&mut self, gpu: &Gpu, sets: &[Arc<TokenSet>]) -> Result<(Vec<u32>, bool), BackendError> {
        self.passes += 1;
        let mut grown = false;
        let mut rows = Vec::with_capacity(sets.len());
        for set in sets {
            let same = |held: &Arc<TokenSet>| Arc::ptr_eq(held, set) || **held == **set;
            let row = match self.held.iter().position(|(held, _)| same(held)) {
                Some(row) => row,
                None => {
                    if self.held.len() >= self.capacity && self.held.iter().all(|(_, used)| *used == self.passes) {
                        self.grow(gpu).await?;
                        grown = true;
                    }
                    self.place(gpu, set)
                }
            };
            if let Some((_, used)) = self.held.get_mut(row) {
                *used = self.passes;
            }
            rows.push(row as u32);
        }
        Ok((rows, grown))
    }

    /// Writes a set where there is room, or over the one that was not used for longest.
    fn place(&mut self, gpu: &Gpu, set: &Arc<TokenSet>) -> usize {
        let row = if self.held.len() < self.capacity {
            self.held.push((set.clone(), self.passes));
            self.held.len() - 1
        } else {
            let oldest = self.held.iter().enumerate().min_by_key(|(_, (_, used))| *used).map_or(0, |(row, _)| row);
            if let Some(held) = self.held.get_mut(oldest) {
                *held = (set.clone(), self.passes);
            }
            oldest
        };
        gpu.queue.write_buffer(&self.buffer, (row * self.words * 4) as u64, bytemuck::cast_slice(set.words()));
        row
    }

    /// Twice as many rows with the same contents.
    async fn grow(&mut self, gpu: &Gpu) -> Result<(), BackendError> {
        let most = (gpu.profile.limits.binding / (self.words * 4).max(1) as u64) as usize;
        let capacity = (2 * self.capacity).min(most);
        if capacity <= self.capacity {
            return Err(BackendError::InvalidPass(format!(
                "more sets of suppressed ids than the {most} that this device holds at a time; share sets or make fewer requests a pass"
            )));
        }
        let buffer = gpu.storage("suppressed", (capacity * self.words * 4) as u64).await?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("grow") });
        encoder.copy_buffer_to_buffer(&self.buffer, 0, &buffer, 0, self.buffer.size());
        gpu.queue.submit([encoder.finish()]);
        (self.buffer, self.capacity) = (buffer, capacity);
        Ok(())
    }
}
