//! One uniform buffer for the parameters of every dispatch. Parameters do not change between passes,
//! so equal ones share a slot and nothing is written twice.

use std::collections::HashMap;

use remask_core::BackendError;

use crate::gpu::Gpu;

/// Bytes of one slot before alignment: the largest Params struct of any kernel.
pub const SLOT: usize = 32;

/// The arena and the bind group of every kernel's group 1.
pub struct Uniforms {
    buffer: wgpu::Buffer,
    pass: wgpu::Buffer,
    group: wgpu::BindGroup,
    stride: u32,
    capacity: u32,
    slots: HashMap<Vec<u8>, u32>,
}

impl Uniforms {
    /// An arena of `capacity` slots.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn new(gpu: &Gpu, capacity: u32) -> Result<Self, BackendError> {
        use wgpu::BufferUsages as U;
        let stride = (SLOT as u32).next_multiple_of(gpu.profile.limits.uniform_alignment.max(16));
        let usage = U::UNIFORM | U::COPY_DST;
        let buffer = gpu.buffer("params", u64::from(stride) * u64::from(capacity), usage).await?;
        let pass = gpu.buffer("pass", 16, usage).await?;
        let params = wgpu::BufferBinding { buffer: &buffer, offset: 0, size: wgpu::BufferSize::new(SLOT as u64) };
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("params"),
            layout: gpu.params_layout(),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) },
                wgpu::BindGroupEntry { binding: 1, resource: pass.as_entire_binding() },
            ],
        });
        Ok(Self { buffer, pass, group, stride, capacity, slots: HashMap::new() })
    }

    /// Group 1 of every kernel.
    #[must_use]
    pub fn group(&self) -> &wgpu::BindGroup {
        &self.group
    }

    /// Offset of the slot that holds `params`, written now if no dispatch had these before.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] where the arena is full: more distinct parameters than any model
    /// of this build has.
    pub fn offset(&mut self, gpu: &Gpu, params: &[u8]) -> Result<u32, BackendError> {
        if let Some(offset) = self.slots.get(params) {
            return Ok(*offset);
        }
        let index = self.slots.len() as u32;
        if index >= self.capacity || params.len() > SLOT {
            return Err(BackendError::Unsupported {
                what: "this model".to_owned(),
                adapter: gpu.profile.name.clone(),
                why: format!("it needs more than {} sets of kernel parameters", self.capacity),
            });
        }
        let offset = index * self.stride;
        gpu.queue.write_buffer(&self.buffer, u64::from(offset), params);
        self.slots.insert(params.to_vec(), offset);
        Ok(offset)
    }

    /// Writes the sizes of the next pass.
    pub fn set_pass(&self, gpu: &Gpu, sizes: PassSizes) {
        gpu.queue.write_buffer(&self.pass, 0, bytemuck::bytes_of(&sizes));
    }
}

/// `Pass` of `shaders/pass.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct PassSizes {
    /// Rows computed.
    pub rows: u32,
    /// Rows whose candidates are wanted.
    pub selected: u32,
    /// Attention row tiles.
    pub tiles: u32,
    /// Zero.
    pub padding: u32,
}

impl PassSizes {
    /// Sizes that fit this pass and others near it, so that they share one recording: each count up to the next of four
    /// steps an octave. Kernels read the true counts; a workgroup past them ends at once. Tiles are chosen for what is
    /// rounded up though, and of many rows a tile too many can be a turn of all multiprocessors: those get smaller steps.
    /// Few selected rows go up to a power of two: a block has fewer with every step, and these are the counts that
    /// kernels are chosen by.
    #[must_use]
    pub fn rounded_up(self) -> Self {
        let step = |n: u32| (n.next_power_of_two() / 8).max(1);
        let round = |n: u32| n.next_multiple_of(step(n));
        let rows_step = step(self.rows).min(32.max(step(self.rows) / 8));
        let rows = self.rows.next_multiple_of(rows_step);
        let selected = if self.selected <= 64 { self.selected.next_power_of_two() } else { round(self.selected) };
        Self { rows, selected, tiles: round(self.tiles), padding: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_up_to_few() {
        let rows = |n| PassSizes { rows: n, ..PassSizes::default() }.rounded_up().rows;
        let selected = |n| PassSizes { selected: n, ..PassSizes::default() }.rounded_up().selected;
        let count =
            |rounded: &dyn Fn(u32) -> u32| (1..=4096).map(rounded).collect::<std::collections::BTreeSet<_>>().len();
        assert!(count(&rows) <= 8 + 5 * 4 + 8 + 16 + 2 * 32 && count(&selected) <= 7 + 6 * 4);
        for n in 1..=4096 {
            for (rounded, coarse) in [(rows(n), false), (selected(n), n <= 64)] {
                let most = if coarse { 2 * n - 1 } else { (n * 5).div_ceil(4) };
                assert!((n..=most).contains(&rounded), "{n} {rounded}");
            }
            assert!(rows(n) - n < 64, "{n}");
            assert_eq!([rows(rows(n)), selected(selected(n))], [rows(n), selected(n)]);
        }
    }
}
