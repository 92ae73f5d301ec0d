//! SPIR-V for drivers that unroll too much.
//!
//! NVIDIA's compiler unrolls every loop that it can count by eight. The loops of the kernels for matrix units
//! are long as they are: eight times as long they use so many registers that fewer workgroups fit a
//! multiprocessor, or spill, and no longer fit the instruction cache (measured on an H100: up to 30 percent of
//! a large product, and half of a small one). WGSL has no way to say so, SPIR-V has: so these kernels
//! go the same way that wgpu takes, WGSL through naga, and are handed over with their loops marked.

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// First word of the instruction that begins a loop, without its length.
const OP_LOOP_MERGE: u32 = 246;
/// Its control mask: do not unroll.
const DONT_UNROLL: u32 = 2;
/// Words before the first instruction.
const HEADER: usize = 5;

/// A compute shader with the entry point `main`.
pub struct Module {
    /// SPIR-V.
    pub words: Vec<u32>,
    /// Invocations of a workgroup.
    pub workgroup_size: [u32; 3],
}

/// Compiles WGSL so that no loop is unrolled. Like the other kernels it has no checks of its own: indices
/// stay within sizes that the host has checked.
///
/// # Errors
/// What naga has against the shader.
pub fn rolled(source: &str) -> Result<Module, String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| e.emit_to_string(source))?;
    let entry = module.entry_points.first().ok_or("no entry point")?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        // What Vulkan 1.2 takes, which matrix units need for their memory model.
        lang_version: (1, 5),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        // Kernels write every workgroup element before they read it.
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        use_storage_input_output_16: false,
        ..Default::default()
    };
    let main = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: entry.name.clone() };
    let mut words = spv::write_vec(&module, &info, &options, Some(&main)).map_err(|e| e.to_string())?;
    let mut at = HEADER;
    while let Some(first) = words.get(at).copied() {
        if first & 0xFFFF == OP_LOOP_MERGE
            && let Some(control) = words.get_mut(at + 3)
        {
            *control |= DONT_UNROLL;
        }
        at += (first >> 16).max(1) as usize;
    }
    Ok(Module { words, workgroup_size: entry.workgroup_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_is_marked() {
        let source = "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
            @compute @workgroup_size(32, 2)
            fn main(@builtin(local_invocation_index) lane: u32) {
                for (var i = 0u; i < 64u; i++) {
                    for (var j = 0u; j < out[0]; j += 2u) { out[lane] += i * j; }
                }
            }";
        let module = rolled(source).unwrap();
        assert_eq!(module.workgroup_size, [32, 2, 1]);
        assert_eq!(module.words[0], 0x0723_0203, "SPIR-V's magic number");
        let (mut at, mut controls) = (HEADER, Vec::new());
        while at < module.words.len() {
            if module.words[at] & 0xFFFF == OP_LOOP_MERGE {
                controls.push(module.words[at + 3]);
            }
            at += (module.words[at] >> 16) as usize;
        }
        assert_eq!(at, module.words.len(), "instructions end where the module does");
        assert_eq!(controls, [DONT_UNROLL; 2]);
        assert!(rolled("fn main() { nothing }").is_err_and(|e| e.contains("nothing")));
    }
}
