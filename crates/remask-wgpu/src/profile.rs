//! What an adapter offers, as plain data: kernel selection is a pure function of this and a shape, and
//! tests can make up any adapter they like.

use remask_core::BackendError;
use serde::Serialize;

/// Identity, features and limits of an adapter, as far as they matter to this engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterProfile {
    /// Device name as the driver gives it.
    pub name: String,
    /// API: Vulkan, Metal, Dx12, BrowserWebGpu.
    pub api: String,
    /// DiscreteGpu, IntegratedGpu, VirtualGpu, Cpu or Other.
    pub kind: String,
    /// Driver name and version.
    pub driver: String,
    /// PCI vendor id (0 in browsers).
    pub vendor: u32,
    /// PCI device id (0 in browsers).
    pub device: u32,
    /// f16 arithmetic in shaders.
    pub shader_f16: bool,
    /// Smallest and largest subgroup, where subgroup operations exist.
    pub subgroups: Option<(u32, u32)>,
    /// Matrix unit shapes.
    pub matrix_shapes: Vec<MatrixShape>,
    /// GPU timestamps.
    pub timestamps: bool,
    /// Compiled pipelines can be kept on disk.
    pub pipeline_cache: bool,
    /// Sizes that bind us.
    pub limits: ProfileLimits,
}

/// One shape that the matrix units multiply: `[m, k] * [k, n]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MatrixShape {
    /// Rows of the product.
    pub m: u32,
    /// Columns of the product.
    pub n: u32,
    /// Inner dimension.
    pub k: u32,
    /// Element type of both factors.
    pub input: String,
    /// Element type of the product.
    pub output: String,
}

/// Limits that bind us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProfileLimits {
    /// Largest buffer in bytes.
    pub buffer: u64,
    /// Largest storage binding in bytes.
    pub binding: u64,
    /// Storage buffers a kernel may bind.
    pub storage_buffers: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// Workgroups along one dimension of a dispatch.
    pub workgroups: u32,
    /// Alignment of uniform offsets in bytes.
    pub uniform_alignment: u32,
}

impl From<&wgpu::Limits> for ProfileLimits {
    fn from(l: &wgpu::Limits) -> Self {
        Self {
            buffer: l.max_buffer_size,
            binding: l.max_storage_buffer_binding_size,
            storage_buffers: l.max_storage_buffers_per_shader_stage,
            workgroup_bytes: l.max_compute_workgroup_storage_size,
            invocations: l.max_compute_invocations_per_workgroup,
            workgroups: l.max_compute_workgroups_per_dimension,
            uniform_alignment: l.min_uniform_buffer_offset_alignment,
        }
    }
}

impl AdapterProfile {
    /// Reads an adapter.
    #[must_use]
    pub fn of(adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let features = adapter.features();
        let shape = |p: &wgpu::CooperativeMatrixProperties| MatrixShape {
            m: p.m_size,
            n: p.n_size,
            k: p.k_size,
            input: format!("{:?}", p.ab_type),
            output: format!("{:?}", p.cr_type),
        };
        Self {
            name: info.name,
            api: format!("{:?}", info.backend),
            kind: format!("{:?}", info.device_type),
            driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
            vendor: info.vendor,
            device: info.device,
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            matrix_shapes: adapter.cooperative_matrix_properties().iter().map(shape).collect(),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
            limits: ProfileLimits::from(&adapter.limits()),
        }
    }

    /// The profile of a device that was opened with only some of the adapter's features.
    #[must_use]
    pub fn with_features(mut self, features: wgpu::Features) -> Self {
        use wgpu::Features as F;
        self.shader_f16 &= features.contains(F::SHADER_F16);
        self.subgroups = self.subgroups.filter(|_| features.contains(F::SUBGROUP));
        if !features.contains(F::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            self.matrix_shapes.clear();
        }
        self.timestamps &= features.contains(F::TIMESTAMP_QUERY | F::TIMESTAMP_QUERY_INSIDE_PASSES);
        self.pipeline_cache &= features.contains(F::PIPELINE_CACHE);
        self
    }

    /// An adapter of this kind, with matrix units or without.
    #[cfg(test)]
    pub(crate) fn made_up(kind: &str, matrix: bool) -> Self {
        let shape = MatrixShape { m: 16, n: 16, k: 16, input: "F16".into(), output: "F32".into() };
        Self {
            name: String::new(),
            api: "Vulkan".into(),
            kind: kind.into(),
            driver: String::new(),
            vendor: 0,
            device: 0,
            shader_f16: matrix,
            subgroups: matrix.then_some((32, 32)),
            matrix_shapes: if matrix { vec![shape] } else { Vec::new() },
            timestamps: false,
            pipeline_cache: false,
            limits: ProfileLimits {
                buffer: 1 << 30,
                binding: 1 << 30,
                storage_buffers: if matrix { 16 } else { 8 },
                workgroup_bytes: if matrix { 48 << 10 } else { 16 << 10 },
                invocations: 1024,
                workgroups: 65535,
                uniform_alignment: 256,
            },
        }
    }

    /// Whether this is a software adapter, which computes on the CPU.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.kind == "Cpu"
    }
}

impl std::fmt::Display for AdapterProfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes / (1 << 20);
        let yes = |on: bool| if on { "yes" } else { "no" };
        writeln!(f, "{} ({}, {})", self.name, self.api, self.kind)?;
        writeln!(f, "  driver            {}", self.driver)?;
        writeln!(f, "  vendor:device     {:04x}:{:04x}", self.vendor, self.device)?;
        writeln!(f, "  f16 arithmetic    {}", yes(self.shader_f16))?;
        match self.subgroups {
            Some((min, max)) => writeln!(f, "  subgroups         {min} to {max}")?,
            None => writeln!(f, "  subgroups         no")?,
        }
        let shapes: Vec<_> =
            self.matrix_shapes.iter().map(|s| format!("{}x{}x{} {}->{}", s.m, s.n, s.k, s.input, s.output)).collect();
        writeln!(f, "  matrix units      {}", if shapes.is_empty() { "no".to_owned() } else { shapes.join(", ") })?;
        writeln!(f, "  timestamps        {}", yes(self.timestamps))?;
        writeln!(f, "  pipeline cache    {}", yes(self.pipeline_cache))?;
        let l = &self.limits;
        writeln!(f, "  largest buffer    {} MiB (binding {} MiB)", mib(l.buffer), mib(l.binding))?;
        writeln!(f, "  storage buffers   {} a kernel", l.storage_buffers)?;
        write!(f, "  workgroup         {} invocations, {} KiB", l.invocations, l.workgroup_bytes / 1024)
    }
}

/// Environment variable that chooses an adapter where no option does.
pub const ADAPTER_VARIABLE: &str = "REMASK_ADAPTER";

/// Every adapter of this machine, hardware before software.
pub async fn adapters() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let mut found = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
    // Stable: the driver's own order decides among equals.
    found.sort_by_key(|a| preference(a.get_info().device_type));
    found
}

fn preference(kind: wgpu::DeviceType) -> u32 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// The adapter that `wanted` names: an index into [`adapters`] or part of a name, in any case. The
/// first one, the best, where nothing is wanted.
///
/// # Errors
/// [`BackendError::NoAdapter`], with the adapters that there are.
pub async fn choose_adapter(wanted: Option<&str>) -> Result<wgpu::Adapter, BackendError> {
    let found = adapters().await;
    let names: Vec<_> = found.iter().map(|a| a.get_info().name).collect();
    let index = pick(wanted, &names).map_err(BackendError::NoAdapter)?;
    found.into_iter().nth(index).ok_or_else(|| BackendError::NoAdapter("it went away while being chosen".to_owned()))
}

/// Index of the adapter that `wanted` names, or a sentence about why there is none.
fn pick(wanted: Option<&str>, names: &[String]) -> Result<usize, String> {
    if names.is_empty() {
        return Err("no Vulkan, Metal or DX12 driver was found; install one (on Debian without a GPU: \
                    apt install mesa-vulkan-drivers)"
            .to_owned());
    }
    let Some(wanted) = wanted.map(str::trim).filter(|w| !w.is_empty()) else { return Ok(0) };
    let by_index = wanted.parse::<usize>().ok().filter(|i| *i < names.len());
    let by_name = || names.iter().position(|n| n.to_lowercase().contains(&wanted.to_lowercase()));
    by_index.or_else(by_name).ok_or_else(|| {
        let list: Vec<_> = names.iter().enumerate().map(|(i, n)| format!("{i}: {n}")).collect();
        format!("no adapter matches {wanted:?}; there are {}", list.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_picked_by_index_or_name() {
        let names = ["NVIDIA H100".to_owned(), "llvmpipe (LLVM 15)".to_owned()];
        assert_eq!(pick(None, &names), Ok(0));
        assert_eq!(pick(Some(" "), &names), Ok(0));
        assert_eq!(pick(Some("1"), &names), Ok(1));
        assert_eq!(pick(Some("LLVMpipe"), &names), Ok(1));
        assert_eq!(pick(Some("h100"), &names), Ok(0));
        let error = pick(Some("radeon"), &names).unwrap_err();
        assert!(error.contains("\"radeon\"") && error.contains("1: llvmpipe"), "{error}");
        assert!(pick(None, &[]).unwrap_err().contains("install one"));
    }
}
