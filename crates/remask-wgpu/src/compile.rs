//! From a specialisation to a pipeline: rendering, the shader module, and the layout that the shader declares.

#[cfg(not(target_arch = "wasm32"))]
use crate::wgsl::Extension;
use crate::wgsl::{Dialect, KernelSpec};

/// A compiled kernel.
pub struct Kernel {
    /// The pipeline.
    pub pipeline: wgpu::ComputePipeline,
    /// Layout of group 0, its tensors.
    pub tensors: wgpu::BindGroupLayout,
    /// Name for messages.
    pub label: String,
}

/// Compiles a kernel, or says what the driver or the validation has against it.
pub async fn compile(
    device: &wgpu::Device,
    params: &wgpu::BindGroupLayout,
    spec: &KernelSpec,
    cache: Option<&wgpu::PipelineCache>,
) -> Result<Kernel, String> {
    let label = spec.label();
    let source = spec.render(Dialect::native()).map_err(|e| e.to_string())?;
    // Error scopes are of the thread that opens them.
    let scopes = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation]
        .map(|filter| device.push_error_scope(filter));
    let module = module(device, spec, &label, &source);
    let tensors = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(&label),
        entries: &tensor_bindings(&source),
    });
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(&label),
        bind_group_layouts: &[Some(&tensors), Some(params)],
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
        cache,
    });
    // All are closed before the first wait, for others may be opened meanwhile.
    let [internal, memory, validation] = scopes;
    let answers = (validation.pop(), memory.pop(), internal.pop());
    let problem = answers.0.await.or(answers.1.await).or(answers.2.await);
    match problem {
        None => Ok(Kernel { pipeline, tensors, label }),
        Some(error) => Err(error.to_string()),
    }
}

/// The shader module of a kernel. What is wrong with it is told to the error scopes.
fn module(device: &wgpu::Device, spec: &KernelSpec, label: &str, source: &str) -> wgpu::ShaderModule {
    #[cfg(not(target_arch = "wasm32"))]
    if spec.extensions.contains(&Extension::Matrix)
        && device.features().contains(wgpu::Features::PASSTHROUGH_SHADERS)
        && let Ok(compiled) = crate::spirv::compile(source)
    {
        let [x, y, z] = compiled.workgroup_size;
        let main = wgpu::PassthroughShaderEntryPoint { name: "main".into(), workgroup_size: (x, y, z) };
        let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
            label: Some(label),
            spirv: Some(compiled.words.into()),
            entry_points: vec![main].into(),
            ..Default::default()
        };
        // SAFETY: as below, and naga has validated the module that its writer made this of.
        return unsafe { device.create_shader_module_passthrough(descriptor) };
    }
    #[cfg(target_arch = "wasm32")]
    let _ = spec;
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(source.into()) };
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        bounds_checks: false,
        int_div_checks: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: no shader text comes from outside. Every loop of our shaders counts a bounded variable,
    // every divisor is a constant or a shape that is not 0, and indices stay within sizes that the
    // host has checked (`translate`) or are guarded in the shader.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
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
