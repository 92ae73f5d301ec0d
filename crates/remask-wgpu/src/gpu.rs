//! The device: creation, buffers, pipelines, readback, and what it reports when something goes wrong.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_channel::oneshot;
use remask_core::BackendError;

use crate::profile::{AdapterProfile, ProfileLimits, choose_adapter};
use crate::wgsl::{Dialect, KernelSpec};

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
    faults: Arc<Mutex<Faults>>,
    pub(crate) kernels: HashMap<KernelSpec, Arc<Kernel>>,
    pub(crate) begun: HashMap<KernelSpec, Compilation>,
    params_layout: wgpu::BindGroupLayout,
}

/// How long a wait for the device keeps the processor busy before it sleeps.
#[cfg(not(target_arch = "wasm32"))]
const SPIN: std::time::Duration = std::time::Duration::from_millis(4);

/// Times that a wait for results asks a browser about something else meanwhile, a tenth of a millisecond each.
#[cfg(target_arch = "wasm32")]
const NUDGES: usize = 64;

/// A compilation under way.
#[cfg(not(target_arch = "wasm32"))]
type Compiling = Pin<Box<dyn Future<Output = Result<Kernel, String>> + Send>>;
#[cfg(target_arch = "wasm32")]
type Compiling = Pin<Box<dyn Future<Output = Result<Kernel, String>>>>;

/// A kernel that the driver was asked for.
pub(crate) enum Compilation {
    Running(Compiling),
    Done(Result<Kernel, String>),
}

/// A compiled kernel.
pub struct Kernel {
    /// The pipeline.
    pub pipeline: wgpu::ComputePipeline,
    /// Layout of group 0, its tensors.
    pub tensors: wgpu::BindGroupLayout,
    /// Name for messages.
    pub label: String,
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
        let features = adapter.features() & wanted;
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
        Ok(Self { device, queue, profile, faults, kernels: HashMap::new(), begun: HashMap::new(), params_layout })
    }

    /// Layout of group 1: the kernel's parameters at a dynamic offset, and the pass.
    #[must_use]
    pub fn params_layout(&self) -> &wgpu::BindGroupLayout {
        &self.params_layout
    }

    /// A buffer of at least `bytes`, zeroed.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, BackendError> {
        let size = bytes.max(16).next_multiple_of(16);
        let memory = || BackendError::OutOfMemory { action: format!("making the buffer {label}"), bytes: size };
        if size > self.profile.limits.buffer {
            return Err(memory());
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
            Some(_) => Err(memory()),
        }
    }

    /// A storage buffer that kernels read and write and the host copies to and from.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`], also where `bytes` is more than one binding may span.
    pub async fn storage(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer, BackendError> {
        if bytes > self.profile.limits.binding {
            let action = format!("making {label}, which may span {} bytes on this device", self.profile.limits.binding);
            return Err(BackendError::OutOfMemory { action, bytes });
        }
        use wgpu::BufferUsages as U;
        self.buffer(label, bytes, U::STORAGE | U::COPY_DST | U::COPY_SRC).await
    }

    /// The compiled kernel of a specialisation.
    ///
    /// # Errors
    /// [`BackendError::Device`] where the shader does not compile on this device.
    pub async fn kernel(&mut self, spec: &KernelSpec) -> Result<Arc<Kernel>, BackendError> {
        if let Some(kernel) = self.kernels.get(spec) {
            return Ok(kernel.clone());
        }
        let compiled = match self.begun.remove(spec) {
            Some(Compilation::Done(result)) => result,
            Some(Compilation::Running(compiling)) => compiling.await,
            None => compile(self.device.clone(), self.params_layout.clone(), spec.clone()).await,
        };
        let label = spec.label();
        let refused = |problem| BackendError::Device { operation: format!("compile kernel {label}"), problem };
        let kernel = Arc::new(compiled.map_err(refused)?);
        tracing::debug!(kernel = label, "compiled");
        self.kernels.insert(spec.clone(), kernel.clone());
        Ok(kernel)
    }

    /// Asks for a kernel without waiting for it. A browser compiles on its own side, so that other work can go
    /// on until [`Gpu::kernel`] wants the outcome.
    pub fn begin(&mut self, spec: &KernelSpec) {
        if self.kernels.contains_key(spec) || self.begun.contains_key(spec) {
            return;
        }
        let mut compiling = Box::pin(compile(self.device.clone(), self.params_layout.clone(), spec.clone()));
        // Everything is asked for before the first wait.
        let begun = match compiling.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Compilation::Done(result),
            Poll::Pending => Compilation::Running(compiling),
        };
        self.begun.insert(spec.clone(), begun);
    }

    /// Copies the first `bytes` of a buffer to the host, after everything submitted so far.
    /// `staging` is a MAP_READ buffer of at least that size.
    ///
    /// # Errors
    /// [`BackendError::DeviceLost`] or [`BackendError::Device`]; an error of earlier work surfaces here
    /// rather than as stale bytes.
    pub async fn map(&self, staging: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>, BackendError> {
        let (sender, receiver) = oneshot::channel();
        staging.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| {
            // A dropped receiver means that nobody waits for the bytes any more.
            let _ = sender.send(result);
        });
        self.wait()?;
        let mapped = self.received(receiver).await;
        self.check()?;
        let refused = |problem: String| BackendError::Device { operation: "read results back".to_owned(), problem };
        match mapped {
            Ok(Ok(())) => {
                let view = staging.slice(..bytes).get_mapped_range().map_err(|e| refused(e.to_string()))?;
                let copy = view.to_vec();
                drop(view);
                staging.unmap();
                Ok(copy)
            }
            Ok(Err(e)) => Err(refused(e.to_string())),
            Err(_) => Err(refused("the request was dropped".to_owned())),
        }
    }

    /// What a callback of the device sends; keeps the browser looking whether the device is done. Chromium does so whenever it is asked something,
    /// but by itself only after 2 ms and then every millisecond, which is much of a short pass.
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

/// Compiles a kernel, or says what the driver or the validation has against it. Everything is asked for before
/// the first wait.
async fn compile(device: wgpu::Device, params: wgpu::BindGroupLayout, spec: KernelSpec) -> Result<Kernel, String> {
    let label = spec.label();
    let source = spec.render(Dialect::native()).map_err(|e| e.to_string())?;
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(source.as_str().into()) };
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        bounds_checks: false,
        int_div_checks: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: no shader text comes from outside. Every loop of our shaders counts a bounded variable,
    // every divisor is a constant or a shape that is not 0, and indices stay within sizes that the
    // host has checked (`translate`) or are guarded in the shader.
    let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
    let tensors = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(&label),
        entries: &tensor_bindings(&source),
    });
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(&label),
        bind_group_layouts: &[Some(&tensors), Some(&params)],
        immediate_size: 0,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&label),
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Kernels write every workgroup element before they read it.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    match scope.pop().await {
        None => Ok(Kernel { pipeline, tensors, label }),
        Some(error) => Err(error.to_string()),
    }
}

/// Group 0 as the shader declares it: `@group(0) @binding(i) var<storage, access>`.
fn tensor_bindings(source: &str) -> Vec<wgpu::BindGroupLayoutEntry> {
    let declared = source.lines().filter_map(|line| line.trim().strip_prefix("@group(0) @binding("));
    declared
        .filter_map(|rest| {
            let (binding, rest) = rest.split_once(')')?;
            Some(wgpu::BindGroupLayoutEntry {
                binding: binding.parse().ok()?,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !rest.contains("read_write") },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
        })
        .collect()
}
