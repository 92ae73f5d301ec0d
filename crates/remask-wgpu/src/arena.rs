//! Keys and values on the device: of each cache entry two buffers over the slots of all stores.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use remask_core::{Architecture, BackendError};

use crate::gpu::Gpu;
use crate::kernels::linear::Arithmetic;

/// Keys and values of every cache entry, `[slots, kv width]` in float32 or f16; entries differ in width.
pub struct Arena {
    entries: Vec<[wgpu::Buffer; 2]>,
    /// Elements of a slot of each entry's keys, or of its values.
    widths: Vec<u64>,
    slots: u32,
    arithmetic: Arithmetic,
}

impl Arena {
    /// An arena without slots for the cache entries of `a`.
    #[must_use]
    pub fn new(a: &Architecture, arithmetic: Arithmetic) -> Self {
        let widths = a.cached_blocks().map(|b| b.attention.kv_width() as u64).collect();
        Self { entries: Vec::new(), widths, slots: 0, arithmetic }
    }

    /// Keys and values of an entry.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<&[wgpu::Buffer; 2]> {
        self.entries.get(index)
    }

    /// Slots that there are.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots that a device can hold at most: those of the widest entry must fit one binding.
    #[must_use]
    pub fn most_slots(&self, gpu: &Gpu) -> u32 {
        let limits = &gpu.profile.limits;
        let widest = self.widths.iter().max().map_or(1, |w| w * self.element_bytes());
        (limits.binding.min(limits.buffer) / widest.max(1)).min(u64::from(u32::MAX)) as u32
    }

    fn element_bytes(&self) -> u64 {
        match self.arithmetic {
            Arithmetic::Full => 4,
            Arithmetic::Half => 2,
        }
    }

    /// Makes room for `needed` slots, and some more, with the contents kept: all of it, or nothing changes. True where
    /// the buffers are new.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn reserve(&mut self, gpu: &Gpu, needed: u32) -> Result<bool, BackendError> {
        if needed <= self.slots {
            return Ok(false);
        }
        let generous = needed.next_power_of_two().max(256).min(self.most_slots(gpu)).max(needed);
        let (grown, slots) = match self.copied(gpu, generous).await {
            Ok(grown) => (grown, generous),
            // Twice the memory is a wish, what is needed is not.
            Err(BackendError::OutOfMemory { .. }) if generous > needed => (self.copied(gpu, needed).await?, needed),
            Err(e) => return Err(e),
        };
        (self.entries, self.slots) = (grown, slots);
        Ok(true)
    }

    /// Larger buffers with the same contents.
    async fn copied(&self, gpu: &Gpu, slots: u32) -> Result<Vec<[wgpu::Buffer; 2]>, BackendError> {
        let mut grown = Vec::with_capacity(self.widths.len());
        for width in &self.widths {
            let bytes = u64::from(slots) * width * self.element_bytes();
            grown.push([gpu.storage("keys", bytes).await?, gpu.storage("values", bytes).await?]);
        }
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("grow") });
        for (old, new) in self.entries.iter().flatten().zip(grown.iter().flatten()) {
            encoder.copy_buffer_to_buffer(old, 0, new, 0, old.size());
        }
        gpu.queue.submit([encoder.finish()]);
        Ok(grown)
    }

    /// Copies slots of every entry, one range after the other. Ranges lie within the arena's slots, and those of a pair
    /// are equally long.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn copy(&self, gpu: &Gpu, ranges: &[[Range<u32>; 2]]) -> Result<(), BackendError> {
        // A buffer cannot be copied to itself.
        let longest = ranges.iter().map(|[from, _]| u64::from(from.end - from.start)).max().unwrap_or(0);
        let widest = self.widths.iter().max().copied().unwrap_or(0);
        let between = gpu.storage("slots on their way", longest * widest * self.element_bytes()).await?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("copy") });
        for [from, to] in ranges {
            for (width, buffers) in self.widths.iter().zip(&self.entries) {
                let slot = width * self.element_bytes();
                let bytes = u64::from(from.end - from.start) * slot;
                for buffer in buffers {
                    encoder.copy_buffer_to_buffer(buffer, u64::from(from.start) * slot, &between, 0, bytes);
                    encoder.copy_buffer_to_buffer(&between, 0, buffer, u64::from(to.start) * slot, bytes);
                }
            }
        }
        gpu.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// The same contents in float32, where they were f16.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] and as [`Gpu::read`]; this arena stays as it is.
    pub async fn widened(&self, gpu: &Gpu) -> Result<Self, BackendError> {
        let mut entries = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let mut wide = Vec::with_capacity(2);
            for buffer in entry {
                let halves: Vec<half::f16> = bytemuck::pod_collect_to_vec(&gpu.read(buffer, buffer.size()).await?);
                let values = halves.to_f32_vec();
                let buffer = gpu.storage("keys or values", size_of_val(&values[..]) as u64).await?;
                gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&values));
                wide.push(buffer);
            }
            entries.extend(<[wgpu::Buffer; 2]>::try_from(wide).ok());
        }
        Ok(Self { entries, widths: self.widths.clone(), slots: self.slots, arithmetic: Arithmetic::Full })
    }
}
