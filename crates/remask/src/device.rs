//! Devices to open models on.

use remask_burn::CpuBackend;
use remask_core::checkpoint::WeightFormat;
use remask_core::{Backend, BackendError, Model};
use remask_wgpu::tuning::Tuning;
use remask_wgpu::{AdapterProfile, Gpu, LimitChoice, SharedGpu, WgpuBackend, adapters, cache_folder};

use crate::open::OpenBackend;

/// What computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Device {
    /// The best GPU where there is one, otherwise the CPU.
    #[default]
    Auto,
    /// A GPU through Vulkan, Metal or DX12, by index or part of its name; the best one where none is named.
    Gpu(Option<String>),
    /// The CPU, every core of it.
    Cpu,
}

impl Device {
    /// Opens it for an engine. `weights` is the format that weights are kept in; as the checkpoint has them where none
    /// is named.
    #[must_use]
    pub fn opener(self, weights: Option<WeightFormat>) -> OpenBackend {
        self.openers(weights, 1).remove(0)
    }

    /// One for each of `count` models, all of which share the device.
    #[must_use]
    pub fn openers(self, weights: Option<WeightFormat>, count: usize) -> Vec<OpenBackend> {
        let opened = SharedGpu::default();
        let opener = |_| -> OpenBackend {
            let (device, opened) = (self.clone(), opened.clone());
            Box::new(move |model, progress| device.open(&opened, model, weights, progress))
        };
        (0..count).map(opener).collect()
    }

    fn open(
        &self,
        opened: &SharedGpu,
        model: &Model,
        weights: Option<WeightFormat>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Backend>, BackendError> {
        let gpu = match self {
            Self::Cpu => None,
            Self::Gpu(name) => Some(open_gpu(opened, name.as_deref(), LimitChoice::Adapter)?),
            Self::Auto => open_hardware(opened, LimitChoice::Adapter)?,
        };
        let Some(gpu) = gpu else { return Ok(Box::new(CpuBackend::load(model, weights, progress)?)) };
        Ok(Box::new(pollster::block_on(WgpuBackend::load(gpu, model, weights, progress))?))
    }
}

/// The adapter that `name` names, by index or part of its name, or the best one. It is opened where `opened` holds none
/// that works.
///
/// # Errors
/// As [`Gpu::open`].
pub fn open_gpu(opened: &SharedGpu, name: Option<&str>, limits: LimitChoice) -> Result<Gpu, BackendError> {
    opened.get_or_open(|| pollster::block_on(Gpu::open(name, limits)).map(kept))
}

/// As [`open_gpu`], the best adapter that is a GPU, where there is one.
///
/// # Errors
/// As [`Gpu::from_adapter`].
pub fn open_hardware(opened: &SharedGpu, limits: LimitChoice) -> Result<Option<Gpu>, BackendError> {
    let found = pollster::block_on(adapters());
    let hardware = found.iter().find(|adapter| !AdapterProfile::of(adapter).is_software());
    let open = |adapter| pollster::block_on(Gpu::from_adapter(adapter, limits)).map(kept);
    hardware.map(|adapter| opened.get_or_open(|| open(adapter))).transpose()
}

/// A device whose compiled kernels are kept for the next run, with what was tuned for it.
fn kept(mut gpu: Gpu) -> Gpu {
    if let Some(folder) = cache_folder() {
        gpu.keep_pipelines(&folder);
        gpu.tuning = Tuning::open(&gpu.profile, &folder);
    }
    gpu
}
