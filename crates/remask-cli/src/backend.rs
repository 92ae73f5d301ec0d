//! Which of the backends runs a model, and how one is opened.

use clap::ValueEnum;
use remask_burn::{BurnBackend, CpuBackend, Device};
use remask_core::{Backend, BackendError, Model};
use remask_wgpu::{Gpu, WgpuBackend};

use crate::model_args::DeviceArgs;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// A GPU through Vulkan, Metal or DX12 where there is one, otherwise the CPU. A software
    /// Vulkan driver is slower than the CPU backend and used only where --adapter names it
    Auto,
    /// Our kernels through wgpu; without a GPU on a software Vulkan driver
    Wgpu,
    /// The CPU, every core of it
    Cpu,
    /// Burn's plain float32 tensors on the CPU: slow, to compare others with
    BurnFlex,
    /// Burn's tensors through wgpu
    #[cfg(feature = "burn-wgpu")]
    BurnWgpu,
    /// Burn's tensors through Vulkan
    #[cfg(feature = "burn-vulkan")]
    BurnVulkan,
    /// Burn's tensors through Metal
    #[cfg(feature = "burn-metal")]
    BurnMetal,
    /// Burn's tensors through CUDA
    #[cfg(feature = "burn-cuda")]
    BurnCuda,
    /// Burn's tensors through ROCm
    #[cfg(feature = "burn-rocm")]
    BurnRocm,
}

impl BackendName {
    /// Opens this backend and moves `model` to it. `progress` is told the bytes moved so far.
    pub fn open(
        self,
        device: &DeviceArgs,
        model: &Model,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Backend>, BackendError> {
        let wgpu = |gpu: Gpu, progress: &mut dyn FnMut(u64)| -> Result<Box<dyn Backend>, BackendError> {
            let mut loaded = pollster::block_on(WgpuBackend::load(gpu, model, device.weights, progress))?;
            loaded.set_batch_invariant(device.batch_invariant);
            Ok(Box::new(loaded))
        };
        match (self, self.burn_device()) {
            // Whoever names an adapter or its limits wants that.
            (Self::Auto, _) if device.adapter.is_some() || device.webgpu_limits => wgpu(device.open()?, progress),
            (Self::Auto, _) => match device.open_hardware()? {
                Some(gpu) => wgpu(gpu, progress),
                None => Self::Cpu.open(device, model, progress),
            },
            (Self::Cpu, _) => Ok(Box::new(CpuBackend::load(model, device.weights, progress)?)),
            (_, Some(burn)) => Ok(Box::new(BurnBackend::dense(model, burn, &self.name(), progress)?)),
            (_, None) => wgpu(device.open()?, progress),
        }
    }

    /// Burn's device that this backend computes on, `None` for those that are not Burn's.
    pub fn burn_device(self) -> Option<Device> {
        Some(match self {
            Self::Auto | Self::Wgpu => return None,
            Self::Cpu | Self::BurnFlex => Device::flex(),
            #[cfg(feature = "burn-wgpu")]
            Self::BurnWgpu => Device::wgpu(Default::default()),
            #[cfg(feature = "burn-vulkan")]
            Self::BurnVulkan => Device::vulkan(Default::default()),
            #[cfg(feature = "burn-metal")]
            Self::BurnMetal => Device::metal(Default::default()),
            #[cfg(feature = "burn-cuda")]
            Self::BurnCuda => Device::cuda(0),
            #[cfg(feature = "burn-rocm")]
            Self::BurnRocm => Device::rocm(0),
        })
    }

    /// As --backend takes it.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
