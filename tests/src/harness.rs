//! Runs one kernel by itself on an adapter.

use std::time::Duration;

use remask_wgpu::Gpu;
use remask_wgpu::kernels::gemm_matrix::MatrixTile;
use remask_wgpu::plan::PassSizes;
use remask_wgpu::recording::{BindGroups, Recorder, Recording};
use remask_wgpu::uniforms::Uniforms;
use remask_wgpu::wgsl::KernelSpec;

use crate::blocking::block_on;

/// A device with what a lone dispatch needs.
pub struct Harness {
    /// The device.
    pub gpu: Gpu,
    /// Is shown every dispatch before its result is checked, to measure it.
    pub observer: Option<Observer>,
    uniforms: Uniforms,
}

/// What measures dispatches: it is told what runs, and given a function that runs it so many times and
/// says how long that took.
pub type Observer = Box<dyn FnMut(&Dispatched, &mut dyn FnMut(u64) -> Duration)>;

/// Kernels that run together.
#[derive(Debug, Clone)]
pub struct Dispatched {
    /// Names of the specialisations.
    pub kernels: String,
    /// `rows x inner dimension x columns` of a product, or the rows.
    pub shape: String,
    /// Bytes of all buffers, each counted once.
    pub bytes: u64,
    /// Multiplications and additions of a product; 0 for other kernels.
    pub operations: u64,
}

impl Dispatched {
    fn of(sizes: PassSizes, dispatches: &[(&KernelSpec, &[u32])], bytes: u64) -> Self {
        let labels: Vec<_> = dispatches.iter().map(|(spec, _)| spec.label()).collect();
        let mut described = Self {
            kernels: labels.first().cloned().unwrap_or_default(),
            shape: format!("{} rows", sizes.rows),
            bytes,
            operations: 0,
        };
        let mut columns = 0;
        for (spec, words) in dispatches {
            // Parameters of the products begin with the inner dimension and the rows of the weights.
            let (unit, over_selected) = match spec.shader {
                "gemm" | "gemv" => (4, words[4] == 1),
                "head_select" => (4, true),
                "gemm_matrix" => (8, words[6] == 1),
                _ => continue,
            };
            let rows = if over_selected { sizes.selected } else { sizes.rows };
            let inner = words[0] * unit;
            columns += words[1];
            described.operations += 2 * u64::from(rows) * u64::from(inner) * u64::from(words[1]);
            described.shape = format!("{rows} x {inner} x {columns}");
        }
        described
    }
}

/// Passes encoded into one submission while measuring.
const BATCH: u64 = 16;

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
        let uniforms = must("uniforms", block_on(Uniforms::new(&gpu, 1024)));
        Self { gpu, observer: None, uniforms }
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
        if let Some(mut observer) = self.observer.take() {
            let mut buffers: Vec<&wgpu::Buffer> = Vec::new();
            for buffer in dispatches.iter().flat_map(|d| d.1) {
                if !buffers.contains(buffer) {
                    buffers.push(buffer);
                }
            }
            let words: Vec<Vec<u32>> =
                dispatches.iter().map(|d| bytemuck::pod_collect_to_vec(bytemuck::bytes_of(&d.2))).collect();
            let kernels: Vec<_> = dispatches.iter().zip(&words).map(|(d, w)| (&d.0, &w[..])).collect();
            let described = Dispatched::of(sizes, &kernels, buffers.iter().map(|b| b.size()).sum());
            // Kernels that add to what is there would add again and again: what is checked starts anew.
            let kept: Vec<_> = buffers.iter().map(|b| (*b, self.copy(b))).collect();
            observer(&described, &mut |count| self.repeat(&recording, count));
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            kept.iter().for_each(|(b, copy)| encoder.copy_buffer_to_buffer(copy, 0, b, 0, b.size()));
            self.gpu.queue.submit([encoder.finish()]);
            self.observer = Some(observer);
        }
        self.repeat(&recording, 1);
    }

    /// Runs a recording `count` times and says how long that took.
    fn repeat(&self, recording: &Recording, count: u64) -> Duration {
        let begun = clock();
        let mut left = count;
        while left > 0 {
            let batch = left.min(BATCH);
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            (0..batch).for_each(|_| recording.encode(&mut encoder, &self.uniforms, None));
            self.gpu.queue.submit([encoder.finish()]);
            left -= batch;
        }
        must("run", self.gpu.wait());
        clock() - begun
    }

    /// A copy of a buffer.
    fn copy(&self, buffer: &wgpu::Buffer) -> wgpu::Buffer {
        let copy = must("copy", block_on(self.gpu.storage("copy", buffer.size())));
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
        self.gpu.queue.submit([encoder.finish()]);
        copy
    }

    /// Bytes a second that the device copies, read and written counted both: the most that any kernel can
    /// move.
    ///
    /// # Panics
    /// Where the device fails.
    #[must_use]
    pub fn copy_rate(&self) -> f64 {
        const BYTES: u64 = 64 << 20;
        const COUNT: u32 = 20;
        let buffers = [(); 2].map(|()| must("copy", block_on(self.gpu.storage("copy", BYTES))));
        let run = |count: u32| {
            let begun = clock();
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for i in 0..count as usize {
                encoder.copy_buffer_to_buffer(&buffers[i % 2], 0, &buffers[(i + 1) % 2], 0, BYTES);
            }
            self.gpu.queue.submit([encoder.finish()]);
            must("copy", self.gpu.wait());
            clock() - begun
        };
        run(2);
        let fastest = (0..3).map(|_| run(COUNT)).min().unwrap_or_default();
        2.0 * BYTES as f64 * f64::from(COUNT) / fastest.as_secs_f64()
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
        let bytes = must("read", block_on(self.gpu.read(buffer, (count * size_of::<T>()) as u64)));
        bytemuck::pod_collect_to_vec(&bytes)
    }
}

/// Time since some moment; none passes in a browser, where nothing is measured.
fn clock() -> Duration {
    #[cfg(target_arch = "wasm32")]
    return Duration::ZERO;
    #[cfg(not(target_arch = "wasm32"))]
    {
        static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed()
    }
}

/// Sizes of a pass for a lone kernel.
#[must_use]
pub fn sizes(rows: usize, selected: usize, tiles: usize) -> PassSizes {
    PassSizes { rows: rows as u32, selected: selected as u32, tiles: tiles as u32, logits: 0 }
}
