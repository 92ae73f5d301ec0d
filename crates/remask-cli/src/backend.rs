//! Which of the backends runs a model, and how one is opened.

use clap::ValueEnum;
use remask_burn::CpuBackend;
use remask_burn::executor::BurnBackend;
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
            let loaded = pollster::block_on(WgpuBackend::load(gpu, model, device.weights, progress))?;
            Ok(Box::new(loaded))
        };
        let burn = |to, name: &str, progress: &mut dyn FnMut(u64)| -> Result<Box<dyn Backend>, BackendError> {
            Ok(Box::new(BurnBackend::dense(model, to, name, progress)?))
        };
        match self {
            // Whoever names an adapter or its limits wants that.
            Self::Auto if device.adapter.is_some() || device.webgpu_limits => wgpu(device.open()?, progress),
            Self::Auto => match device.open_hardware()? {
                Some(gpu) => wgpu(gpu, progress),
                None => Self::Cpu.open(device, model, progress),
            },
            Self::Wgpu => wgpu(device.open()?, progress),
            Self::Cpu => Ok(Box::new(CpuBackend::load(model, device.weights, progress)?)),
            Self::BurnFlex => burn(remask_burn::Device::flex(), "burn-flex", progress),
            #[cfg(feature = "burn-wgpu")]
            Self::BurnWgpu => burn(remask_burn::Device::wgpu(Default::default()), "burn-wgpu", progress),
            #[cfg(feature = "burn-vulkan")]
            Self::BurnVulkan => burn(remask_burn::Device::vulkan(Default::default()), "burn-vulkan", progress),
            #[cfg(feature = "burn-metal")]
            Self::BurnMetal => burn(remask_burn::Device::metal(Default::default()), "burn-metal", progress),
            #[cfg(feature = "burn-cuda")]
            Self::BurnCuda => burn(remask_burn::Device::cuda(0), "burn-cuda", progress),
            #[cfg(feature = "burn-rocm")]
            Self::BurnRocm => burn(remask_burn::Device::rocm(0), "burn-rocm", progress),
        }
    }
}
