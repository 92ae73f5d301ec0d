//! A pass recorded once per shape: pipelines, bind groups, parameter offsets and dispatch sizes,
//! re-encoded for every step that has the shape.

use std::collections::HashMap;
use std::sync::Arc;

use remask_core::BackendError;

use crate::compile::Kernel;
use crate::gpu::Gpu;
use crate::uniforms::Uniforms;
use crate::wgsl::KernelSpec;

/// One dispatch, ready to encode.
struct Dispatch {
    kernel: Arc<Kernel>,
    tensors: wgpu::BindGroup,
    offset: u32,
    grid: [u32; 3],
}

/// The dispatches of a pass, in order.
#[derive(Default)]
pub struct Recording {
    dispatches: Vec<Dispatch>,
}

/// Bind groups by kernel and buffers: different row counts of one model share them.
pub type BindGroups = HashMap<(KernelSpec, Vec<wgpu::Buffer>), wgpu::BindGroup>;

/// Records a pass.
pub struct Recorder<'a> {
    /// The device that kernels are compiled for.
    pub gpu: &'a mut Gpu,
    /// Where parameters go.
    pub uniforms: &'a mut Uniforms,
    /// Bind groups made so far.
    pub groups: &'a mut BindGroups,
    recording: Recording,
}

impl<'a> Recorder<'a> {
    /// An empty recording.
    pub fn new(gpu: &'a mut Gpu, uniforms: &'a mut Uniforms, groups: &'a mut BindGroups) -> Self {
        Self { gpu, uniforms, groups, recording: Recording::default() }
    }

    /// Adds a dispatch of `spec` over `buffers`, bound in order to group 0.
    ///
    /// # Errors
    /// [`BackendError::Kernel`] where the kernel does not compile, [`BackendError::Unsupported`] where
    /// the device binds fewer buffers or dispatches fewer workgroups.
    pub async fn dispatch<P: bytemuck::Pod>(
        &mut self,
        spec: KernelSpec,
        buffers: &[&wgpu::Buffer],
        params: &P,
        grid: [u32; 3],
    ) -> Result<(), BackendError> {
        self.dispatch_bytes(spec, buffers, bytemuck::bytes_of(params), grid).await
    }

    /// As [`Recorder::dispatch`], with parameters that are bytes already.
    ///
    /// # Errors
    /// As [`Recorder::dispatch`].
    pub async fn dispatch_bytes(
        &mut self,
        spec: KernelSpec,
        buffers: &[&wgpu::Buffer],
        params: &[u8],
        grid: [u32; 3],
    ) -> Result<(), BackendError> {
        let limits = &self.gpu.profile.limits;
        if buffers.len() > limits.storage_buffers as usize || grid.iter().any(|g| *g > limits.workgroups) {
            return Err(BackendError::Unsupported {
                what: format!("kernel {} over {grid:?} workgroups", spec.label()),
                adapter: self.gpu.profile.name.clone(),
                why: format!(
                    "the device allows {} storage buffers and {} workgroups along a dimension; compute fewer rows at a time",
                    limits.storage_buffers, limits.workgroups
                ),
            });
        }
        let kernel = self.gpu.kernel(&spec).await?;
        let offset = self.uniforms.offset(self.gpu, params)?;
        let key = (spec, buffers.iter().map(|b| (*b).clone()).collect::<Vec<_>>());
        let tensors = self.groups.entry(key).or_insert_with(|| {
            let resources = buffers.iter().map(|b| b.as_entire_binding());
            let entry = |(i, resource)| wgpu::BindGroupEntry { binding: i as u32, resource };
            self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&kernel.label),
                layout: &kernel.tensors,
                entries: &resources.enumerate().map(entry).collect::<Vec<_>>(),
            })
        });
        let tensors = tensors.clone();
        self.recording.dispatches.push(Dispatch { kernel, tensors, offset, grid });
        Ok(())
    }

    /// The finished recording.
    #[must_use]
    pub fn finish(self) -> Recording {
        self.recording
    }
}

impl Recording {
    /// Names of the dispatches' kernels, in order.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = &str> {
        self.dispatches.iter().map(|d| d.kernel.label.as_str())
    }

    /// Encodes every dispatch into one compute pass. `marks`, where given, gets a timestamp before the
    /// first dispatch and one after each.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, uniforms: &Uniforms, marks: Option<&wgpu::QuerySet>) {
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("pass"), timestamp_writes: None });
        let mut last: Option<&Arc<Kernel>> = None;
        if let Some(marks) = marks {
            pass.write_timestamp(marks, 0);
        }
        for (i, d) in self.dispatches.iter().enumerate() {
            if !last.is_some_and(|k| Arc::ptr_eq(k, &d.kernel)) {
                pass.set_pipeline(&d.kernel.pipeline);
                last = Some(&d.kernel);
            }
            pass.set_bind_group(0, &d.tensors, &[]);
            pass.set_bind_group(1, uniforms.group(), &[d.offset]);
            pass.dispatch_workgroups(d.grid[0], d.grid[1], d.grid[2]);
            if let Some(marks) = marks {
                pass.write_timestamp(marks, i as u32 + 1);
            }
        }
    }
}
