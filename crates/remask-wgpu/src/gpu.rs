//! The device: creation, buffers, pipelines, readback, and what it reports when something goes wrong.

use std::collections::HashMap;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;
use remask_core::BackendError;

use crate::compile::{Kernel, compile};
use crate::profile::{AdapterProfile, ProfileLimits, choose_adapter};
use crate::tuning::Tuning;
use crate::wgsl::KernelSpec;

/// Which limits a device is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitChoice {
    /// Everything the adapter has.
    #[default]
    Adapter,
    /// WebGPU's defaults, which every browser grants: to see natively what a browser sees.
    WebGpuDefault,
}

/// What a device is opened with where the adapter has it. At WebGPU's default limits it gets none of
/// them: every kernel that needs one has a portable stand-in.
const WANTED_FEATURES: wgpu::Features = wgpu::Features::SHADER_F16
    .union(wgpu::Features::SUBGROUP)
    .union(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
    .union(wgpu::Features::PASSTHROUGH_SHADERS)
    .union(wgpu::Features::TIMESTAMP_QUERY)
    .union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    .union(wgpu::Features::PIPELINE_CACHE);

/// A device and its queue, with the pipelines compiled so far.
pub struct Gpu {
    /// The logical device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// What it offers, with the limits it was opened with.
    pub profile: AdapterProfile,
    /// How long a driver may take over a kernel that another can stand in for.
    pub patience: Duration,
    /// Whether matrices lie in the registers of the matrix units as kernels take them to, once asked
    /// ([`crate::order`]).
    pub fragments: Option<bool>,
    /// What was measured to be fastest here.
    pub tuning: Tuning,
    faults: Arc<Mutex<Faults>>,
    pub(crate) kernels: HashMap<KernelSpec, Arc<Kernel>>,
    /// Kernels that were asked for and not used yet.
    pub(crate) begun: HashMap<KernelSpec, Compilation>,
    /// Kernels that are not used here, and why.
    refused: HashMap<KernelSpec, String>,
    #[cfg(not(target_arch = "wasm32"))]
    pipelines: Option<crate::cache::PipelineCache>,
    /// Kernels were compiled since pipelines were last saved.
    #[cfg(not(target_arch = "wasm32"))]
    unsaved: bool,
    params_layout: wgpu::BindGroupLayout,
}

/// Compilers of matrix kernels have been seen to run for minutes; a second is usual.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a wait for the device keeps the processor busy before it sleeps.
#[cfg(not(target_arch = "wasm32"))]
const SPIN: std::time::Duration = std::time::Duration::from_millis(4);

/// Times that a wait for results asks a browser about something else meanwhile, a tenth of a millisecond each.
#[cfg(target_arch = "wasm32")]
const NUDGES: usize = 64;

/// A kernel that a thread of its own compiles: a wait for a driver cannot be ended otherwise.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) type Compilation = std::sync::mpsc::Receiver<Result<Kernel, String>>;
/// A kernel that the browser was asked for. It compiles on its own side.
#[cfg(target_arch = "wasm32")]
pub(crate) type Compilation = std::pin::Pin<Box<dyn Future<Output = Result<Kernel, String>>>>;

/// A device that is opened once for several models, and again where it was lost.
#[derive(Clone, Default)]
pub struct SharedGpu(Arc<Mutex<Option<Gpu>>>);

impl std::fmt::Debug for SharedGpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SharedGpu").field(&locked(&self.0).as_ref().map(|gpu| &gpu.profile.name)).finish()
    }
}

impl SharedGpu {
    /// The device, opened by `open` where there is none that works.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn get_or_open(&self, open: impl FnOnce() -> Result<Gpu, BackendError>) -> Result<Gpu, BackendError> {
        let mut kept = locked(&self.0);
        if let Some(gpu) = kept.as_ref().filter(|gpu| locked(&gpu.faults).lost.is_none()) {
            return Ok(gpu.share());
        }
        let gpu = open()?;
        *kept = Some(gpu.share());
        Ok(gpu)
    }
}

/// The first thing that went wrong, as the driver reported it.
#[derive(Default)]
struct Faults {
    lost: Option<String>,
    error: Option<(bool, String)>,
}

/// Most errors that callbacks report are kept under a lock that nothing panics under.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer that is mapped or about to be: unmapped when this goes.
struct Mapping<'a>(Option<&'a wgpu::Buffer>);

impl Mapping<'_> {
    /// It was not mapped after all.
    fn never(mut self) {
        self.0 = None;
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.0 {
            buffer.unmap();
        }
    }
}

impl Gpu {
    /// Opens the adapter that `wanted` names (see [`choose_adapter`]).
    ///
    /// # Errors
    /// [`BackendError::NoAdapter`], or [`BackendError::Device`] where the driver refuses.
    pub async fn open(wanted: Option<&str>, limits: LimitChoice) -> Result<Self, BackendError> {
        Self::from_adapter(&choose_adapter(wanted).await?, limits).await
    }

    /// Opens an adapter.
    ///
    /// # Errors
    /// [`BackendError::Device`] where the driver refuses.
    pub async fn from_adapter(adapter: &wgpu::Adapter, limits: LimitChoice) -> Result<Self, BackendError> {
        let (limits, wanted) = match limits {
            LimitChoice::Adapter => (adapter.limits(), WANTED_FEATURES),
            LimitChoice::WebGpuDefault => (wgpu::Limits::default(), wgpu::Features::empty()),
        };
        let mut features = adapter.features() & wanted;
        // Only kernels for matrix units are handed over as SPIR-V.
        if !features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
            || adapter.get_info().backend != wgpu::Backend::Vulkan
        {
            features.remove(wgpu::Features::PASSTHROUGH_SHADERS);
        }
        let experimental_features = if features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            // SAFETY: cooperative matrices are used by our own shaders only, which the case tables check
            // against float64 on every adapter that has them.
            unsafe { wgpu::ExperimentalFeatures::enabled() }
        } else {
            wgpu::ExperimentalFeatures::disabled()
        };
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("remask"),
                required_features: features,
                experimental_features,
                required_limits: limits.clone(),
                memory_hints: wgpu::MemoryHints::Performance,
                ..Default::default()
            })
            .await
            .map_err(|e| BackendError::Device { operation: "open".to_owned(), problem: e.to_string() })?;
        let faults = Arc::new(Mutex::new(Faults::default()));
        let on_error = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let memory = matches!(error, wgpu::Error::OutOfMemory { .. });
            locked(&on_error).error.get_or_insert((memory, error.to_string()));
        }));
        let on_lost = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            locked(&on_lost).lost.get_or_insert(format!("{reason:?}: {message}"));
        });
        let profile = AdapterProfile { limits: ProfileLimits::from(&limits), ..AdapterProfile::of(adapter) };
        let profile = profile.with_features(features);
        let uniform = |binding, has_dynamic_offset| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Uniform,
                has_dynamic_offset,
                min_binding_size: None,
            },
            count: None,
        };
        let params_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("params"),
            entries: &[uniform(0, true), uniform(1, false)],
        });
        Ok(Self {
            device,
            queue,
            profile,
            patience: PATIENCE,
            fragments: None,
            tuning: Tuning::default(),
            faults,
            kernels: HashMap::new(),
            begun: HashMap::new(),
            refused: HashMap::new(),
            #[cfg(not(target_arch = "wasm32"))]
            pipelines: None,
            #[cfg(not(target_arch = "wasm32"))]
            unsaved: false,
            params_layout,
        })
    }

    /// The same device for another model: what was compiled so far is shared, and so are faults, since they are the
    /// device's.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            device: self.device.clone(),
            queue: self.queue.clone(),
            profile: self.profile.clone(),
            patience: self.patience,
            fragments: self.fragments,
            tuning: self.tuning.clone(),
            faults: self.faults.clone(),
            kernels: self.kernels.clone(),
            begun: HashMap::new(),
            refused: self.refused.clone(),
            #[cfg(not(target_arch = "wasm32"))]
            pipelines: self.pipelines.clone(),
            #[cfg(not(target_arch = "wasm32"))]
            unsaved: false,
            params_layout: self.params_layout.clone(),
        }
    }

    /// Keeps compiled pipelines in `folder` from now on, and uses those that are there, where the driver
    /// supports it. Without this nothing is written anywhere.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn keep_pipelines(&mut self, folder: &std::path::Path) {
        self.pipelines = crate::cache::PipelineCache::open(&self.device, &self.profile, folder);
    }

    /// Writes what was compiled since the last time, where pipelines are kept.
    pub fn save_pipelines(&mut self) {
        #[cfg(not(target_arch = "wasm32"))]
        if std::mem::take(&mut self.unsaved)
            && let Some(pipelines) = &mut self.pipelines
        {
            pipelines.save();
        }
    }

    /// Layout of group 1: the kernel's parameters at a dynamic offset, and the pass.
    #[must_use]
    pub fn params_layout(&self) -> &wgpu::BindGroupLayout {
        &self.params_layout
    }

    /// A buffer of at least `bytes`, zeroed.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`], or [`BackendError::Unsupported`] for more than the device has in one buffer.
    pub async fn buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, BackendError> {
        let size = bytes.max(16).next_multiple_of(16);
        if size > self.profile.limits.buffer {
            return Err(self.beyond(label, size, self.profile.limits.buffer));
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        });
        match scope.pop().await {
            None => self.check().map(|()| buffer),
            Some(_) => Err(BackendError::OutOfMemory { action: format!("making the buffer {label}"), bytes: size }),
        }
    }

    /// A storage buffer that kernels read and write and the host copies to and from.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`], or [`BackendError::Unsupported`] for more than one binding spans.
    pub async fn storage(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer, BackendError> {
        if bytes > self.profile.limits.binding {
            return Err(self.beyond(label, bytes, self.profile.limits.binding));
        }
        use wgpu::BufferUsages as U;
        self.buffer(label, bytes, U::STORAGE | U::COPY_DST | U::COPY_SRC).await
    }

    /// A size beyond a limit of the device, which no free memory helps against.
    fn beyond(&self, label: &str, bytes: u64, most: u64) -> BackendError {
        BackendError::Unsupported {
            what: format!("a buffer for {label}"),
            adapter: self.profile.name.clone(),
            why: format!("it would take {bytes} bytes, and the device has at most {most} in one"),
        }
    }

    /// The compiled kernel of a specialisation. One that does not compile, or that the driver takes longer
    /// than [`Gpu::patience`] over though another can stand in for it, is not tried again.
    ///
    /// # Errors
    /// [`BackendError::Kernel`] where the shader does not compile on this device.
    pub async fn kernel(&mut self, spec: &KernelSpec) -> Result<Arc<Kernel>, BackendError> {
        if let Some(kernel) = self.kernels.get(spec) {
            return Ok(kernel.clone());
        }
        let label = spec.label();
        if let Some(problem) = self.refused.get(spec) {
            return Err(BackendError::Kernel { kernel: label, problem: problem.clone() });
        }
        let compilation = match self.begun.remove(spec) {
            Some(compilation) => Ok(compilation),
            None => self.start(spec),
        };
        let compiled = match compilation {
            Ok(compilation) => self.outcome(spec, compilation).await,
            Err(problem) => Err(problem),
        };
        match compiled {
            Ok(kernel) => {
                tracing::debug!(kernel = label, "compiled");
                #[cfg(not(target_arch = "wasm32"))]
                {
                    self.unsaved = true;
                }
                let kernel = Arc::new(kernel);
                self.kernels.insert(spec.clone(), kernel.clone());
                Ok(kernel)
            }
            Err(problem) => {
                // A device that is lost compiles nothing: that says nothing about the kernel.
                self.check()?;
                self.refuse(spec, &problem);
                Err(BackendError::Kernel { kernel: label, problem })
            }
        }
    }

    /// Has a kernel never be used on this device, for a reason that [`Gpu::refusals`] tells. One that was
    /// compiled already stays in the passes that were recorded with it.
    pub fn refuse(&mut self, spec: &KernelSpec, why: &str) {
        tracing::warn!(kernel = spec.label(), "not used on this device: {why}");
        self.kernels.remove(spec);
        self.refused.insert(spec.clone(), why.to_owned());
    }

    /// The kernels that are not used on this device, and why.
    #[must_use]
    pub fn refusals(&self) -> &HashMap<KernelSpec, String> {
        &self.refused
    }

    /// Asks for a kernel without waiting for it, so that it is compiled beside what goes on until
    /// [`Gpu::kernel`] wants it.
    pub fn begin(&mut self, spec: &KernelSpec) {
        if self.kernels.contains_key(spec) || self.begun.contains_key(spec) || self.refused.contains_key(spec) {
            return;
        }
        // What is wrong is told to whoever wants the kernel.
        if let Ok(compilation) = self.start(spec) {
            self.begun.insert(spec.clone(), compilation);
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn start(&self, spec: &KernelSpec) -> Result<Compilation, String> {
        let (device, params, spec) = (self.device.clone(), self.params_layout.clone(), spec.clone());
        let cache = self.pipelines.as_ref().map(|p| p.cache.clone());
        let (sender, receiver) = std::sync::mpsc::channel();
        let compile = move || {
            // Nobody listens any more where it took too long.
            let _ = sender.send(pollster::block_on(compile(&device, &params, &spec, cache.as_ref())));
        };
        let thread = std::thread::Builder::new().name("compile".to_owned()).spawn(compile);
        thread.map_err(|e| format!("no thread to compile it on: {e}"))?;
        Ok(receiver)
    }

    #[cfg(not(target_arch = "wasm32"))]
    async fn outcome(&self, spec: &KernelSpec, compilation: Compilation) -> Result<Kernel, String> {
        // The portable kernels must be waited for, there is nothing else to compute with.
        let outcome = if spec.extensions.is_empty() {
            compilation.recv().map_err(|_| "its compilation crashed".to_owned())
        } else {
            compilation.recv_timeout(self.patience).map_err(|e| match e {
                RecvTimeoutError::Timeout => format!("the driver takes longer than {:?} over it", self.patience),
                RecvTimeoutError::Disconnected => "its compilation crashed".to_owned(),
            })
        };
        outcome?
    }

    #[cfg(target_arch = "wasm32")]
    fn start(&self, spec: &KernelSpec) -> Result<Compilation, String> {
        use std::task::{Context, Poll, Waker};
        let (device, params, spec) = (self.device.clone(), self.params_layout.clone(), spec.clone());
        let mut compiling: Compilation = Box::pin(async move { compile(&device, &params, &spec, None).await });
        // Everything is asked for before the first wait.
        Ok(match compiling.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Box::pin(std::future::ready(result)),
            Poll::Pending => compiling,
        })
    }

    #[cfg(target_arch = "wasm32")]
    async fn outcome(&self, _: &KernelSpec, compilation: Compilation) -> Result<Kernel, String> {
        compilation.await
    }

    /// The first `bytes` of a storage buffer, after everything submitted so far.
    ///
    /// # Errors
    /// As [`Gpu::buffer`] and [`Gpu::map`].
    pub async fn read(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>, BackendError> {
        use wgpu::BufferUsages as U;
        let staging = self.buffer("staging", bytes, U::MAP_READ | U::COPY_DST).await?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("read") });
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes.next_multiple_of(4));
        self.queue.submit([encoder.finish()]);
        self.map(&staging, bytes).await
    }

    /// Copies the first `bytes` of a buffer to the host, after everything submitted so far.
    /// `staging` is a MAP_READ buffer of at least that size.
    ///
    /// # Errors
    /// [`BackendError::DeviceLost`] or [`BackendError::Device`]; an error of earlier work surfaces here
    /// rather than as stale bytes.
    pub async fn map(&self, staging: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>, BackendError> {
        let (sender, receiver) = oneshot::channel();
        // Whatever happens from here on, also where nobody waits any more, the buffer can be used again.
        let mapping = Mapping(Some(staging));
        staging.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| {
            // A dropped receiver means that nobody waits for the bytes any more.
            let _ = sender.send(result);
        });
        self.wait()?;
        let mapped = self.received(receiver).await;
        let refused = |problem: String| BackendError::Device { operation: "read results back".to_owned(), problem };
        let copied = match mapped {
            Ok(Ok(())) => {
                let view = staging.slice(..bytes).get_mapped_range().map_err(|e| refused(e.to_string()))?;
                Ok(view.to_vec())
            }
            Ok(Err(e)) => {
                mapping.never();
                Err(refused(e.to_string()))
            }
            Err(_) => Err(refused("the request was dropped".to_owned())),
        };
        self.check()?;
        copied
    }

    /// What a callback of the device sends; keeps the browser looking whether the device is done. Chromium does so
    /// whenever it is asked something, but by itself only after 2 ms and then every millisecond, which is much of a
    /// short pass.
    #[cfg(target_arch = "wasm32")]
    async fn received<T>(&self, mut receiver: oneshot::Receiver<T>) -> Result<T, oneshot::Canceled> {
        for _ in 0..NUDGES {
            if let Some(value) = receiver.try_recv()? {
                return Ok(value);
            }
            self.device.push_error_scope(wgpu::ErrorFilter::Validation).pop().await;
        }
        receiver.await
    }

    /// What a callback of the device sends.
    #[cfg(not(target_arch = "wasm32"))]
    async fn received<T>(&self, receiver: oneshot::Receiver<T>) -> Result<T, oneshot::Canceled> {
        receiver.await
    }

    /// Waits until the device has done everything submitted. A browser's own loop does the waiting, so
    /// there this returns at once.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub fn wait(&self) -> Result<(), BackendError> {
        #[cfg(not(target_arch = "wasm32"))]
        if !self.profile.is_software() {
            // A sleeping thread is woken tens of microseconds late, which is much of a short pass.
            let asleep = std::time::Instant::now() + SPIN;
            while std::time::Instant::now() < asleep {
                if self.device.poll(wgpu::PollType::Poll).is_ok_and(|status| status.is_queue_empty()) {
                    return self.check();
                }
                std::hint::spin_loop();
            }
        }
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(e) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            self.check()?;
            return Err(BackendError::Device { operation: "finish its work".to_owned(), problem: e.to_string() });
        }
        self.check()
    }

    /// Reports the first fault since the last call, if there was one. A lost device stays lost.
    ///
    /// # Errors
    /// [`BackendError::DeviceLost`], [`BackendError::OutOfMemory`] or [`BackendError::Device`].
    pub fn check(&self) -> Result<(), BackendError> {
        let mut faults = locked(&self.faults);
        if let Some(reason) = &faults.lost {
            return Err(BackendError::DeviceLost(reason.clone()));
        }
        match faults.error.take() {
            None => Ok(()),
            Some((true, problem)) => {
                Err(BackendError::OutOfMemory { action: format!("computing ({problem})"), bytes: 0 })
            }
            Some((false, problem)) => Err(BackendError::Device { operation: "compute".to_owned(), problem }),
        }
    }
}
