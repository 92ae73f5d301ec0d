//! One uniform buffer for the parameters of every dispatch. Parameters do not change between passes,
//! so equal ones share a slot and nothing is written twice.

use std::collections::HashMap;

use remask_core::BackendError;

use crate::gpu::Gpu;
use crate::plan::PassSizes;

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
