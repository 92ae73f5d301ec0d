//! Runs one kernel by itself on an adapter.

use remask_wgpu::Gpu;
use remask_wgpu::kernels::gemm_matrix::MatrixTile;
use remask_wgpu::recording::{BindGroups, Recorder};
use remask_wgpu::uniforms::{PassSizes, Uniforms};
use remask_wgpu::wgsl::KernelSpec;

use crate::blocking::block_on;

/// A device with what a lone dispatch needs.
pub struct Harness {
    /// The device.
    pub gpu: Gpu,
    uniforms: Uniforms,
}

/// A test failure with the reason, for results that tests cannot do without.
fn must<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("{what}: {e}"))
}

impl Harness {
    /// Opens an adapter at WebGPU's default limits, which every kernel here must live with.
    ///
    /// # Panics
    /// Where the adapter cannot be opened.
    #[must_use]
    pub fn open(adapter: &wgpu::Adapter) -> Self {
        Self::with(adapter, remask_wgpu::LimitChoice::WebGpuDefault)
    }

    /// Opens an adapter with all that it has, for kernels on matrix units. `None` where it has none that
    /// they can use.
    ///
    /// # Panics
    /// Where the adapter cannot be opened.
    #[must_use]
    pub fn with_matrix_units(adapter: &wgpu::Adapter) -> Option<Self> {
        let harness = Self::with(adapter, remask_wgpu::LimitChoice::Adapter);
        MatrixTile::supported(&harness.gpu.profile).then_some(harness)
    }

    /// Opens an adapter with all that it has, for kernels over stores in f16. `None` where shaders have no
    /// f16 there.
    ///
    /// # Panics
    /// Where the adapter cannot be opened.
    #[must_use]
    pub fn with_f16(adapter: &wgpu::Adapter) -> Option<Self> {
        let harness = Self::with(adapter, remask_wgpu::LimitChoice::Adapter);
        harness.gpu.profile.shader_f16.then_some(harness)
    }

    fn with(adapter: &wgpu::Adapter, limits: remask_wgpu::LimitChoice) -> Self {
        let gpu = must("open", block_on(Gpu::from_adapter(adapter, limits)));
        let uniforms = must("uniforms", block_on(Uniforms::new(&gpu, 64)));
        Self { gpu, uniforms }
    }

    /// A device buffer with these contents.
    ///
    /// # Panics
    /// Where memory runs out.
    #[must_use]
    pub fn upload<T: bytemuck::NoUninit>(&self, values: &[T]) -> wgpu::Buffer {
        let bytes = bytemuck::cast_slice(values);
        let buffer = must("buffer", block_on(self.gpu.storage("test", bytes.len() as u64)));
        self.gpu.queue.write_buffer(&buffer, 0, bytes);
        buffer
    }

    /// A buffer of `count` NaNs, so that what a kernel fails to write shows.
    #[must_use]
    pub fn poisoned(&self, count: usize) -> wgpu::Buffer {
        self.upload(&vec![f32::NAN; count])
    }

    /// Dispatches kernels over buffers, in order, in one pass.
    ///
    /// # Panics
    /// Where a kernel does not compile or the device fails.
    pub fn run<P: bytemuck::Pod>(
        &mut self,
        sizes: PassSizes,
        dispatches: &[(KernelSpec, &[&wgpu::Buffer], P, [u32; 3])],
    ) {
        let mut groups = BindGroups::new();
        let mut recorder = Recorder::new(&mut self.gpu, &mut self.uniforms, &mut groups);
        for (spec, buffers, params, grid) in dispatches {
            must("dispatch", block_on(recorder.dispatch(spec.clone(), buffers, params, *grid)));
        }
        let recording = recorder.finish();
        self.uniforms.set_pass(&self.gpu, sizes);
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        recording.encode(&mut encoder, &self.uniforms, None);
        self.gpu.queue.submit([encoder.finish()]);
        must("run", self.gpu.wait());
    }

    /// The first `count` f16 of a buffer.
    ///
    /// # Panics
    /// Where the device fails.
    #[must_use]
    pub fn download_halves(&self, buffer: &wgpu::Buffer, count: usize) -> Vec<f32> {
        self.download::<half::f16>(buffer, count.next_multiple_of(2)).into_iter().take(count).map(f32::from).collect()
    }

    /// The first `count` values of a buffer.
    ///
    /// # Panics
    /// Where the device fails.
    #[must_use]
    pub fn download<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        buffer: &wgpu::Buffer,
        count: usize,
    ) -> Vec<T> {
        use wgpu::BufferUsages as U;
        let bytes = (count * size_of::<T>()) as u64;
        let staging = must("staging", block_on(self.gpu.buffer("staging", bytes, U::MAP_READ | U::COPY_DST)));
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes.next_multiple_of(4));
        self.gpu.queue.submit([encoder.finish()]);
        let bytes = must("read", block_on(self.gpu.map(&staging, bytes)));
        bytemuck::pod_collect_to_vec(&bytes)
    }
}

/// Sizes of a pass for a lone kernel.
#[must_use]
pub fn sizes(rows: usize, selected: usize, tiles: usize) -> PassSizes {
    PassSizes { rows: rows as u32, selected: selected as u32, tiles: tiles as u32, padding: 0 }
}
