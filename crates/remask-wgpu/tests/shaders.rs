//! Every shader variant, without a GPU: it renders for both dialects, naga accepts it with nothing but
//! what WebGPU always has, and its parameters lie where the host writes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic here is a failed test")]

use naga::valid::{Capabilities, ValidationFlags, Validator};
use remask_wgpu::kernels::gemm_matrix::MatrixTile;
use remask_wgpu::kernels::select_reduce::CandidateRecord;
use remask_wgpu::kernels::{
    RowRecord, SelectRecord, activation, all_specs, attention, embed, fragment_probe, gemm, gemm_matrix, head_select,
    norm, reorder, rotary, select_reduce, select_strips,
};
use remask_wgpu::plan::PassSizes;
use remask_wgpu::uniforms::SLOT;
use remask_wgpu::wgsl::{Dialect, Extension, KernelSpec, SHADERS};

fn parse(spec: &KernelSpec) -> naga::Module {
    let text = spec.render(Dialect::Naga).unwrap();
    naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}: {}", spec.label(), e.emit_to_string(&text)))
}

#[test]
fn every_variant_is_valid_with_no_more_than_it_names() {
    // unpack2x16float is core WGSL; naga asks for it by name because old GL lacks it.
    let core = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    for spec in all_specs() {
        let module = parse(&spec);
        let mut allowed = core;
        if spec.extensions.contains(&Extension::F16) {
            allowed |= Capabilities::SHADER_FLOAT16;
        }
        if spec.extensions.contains(&Extension::Subgroups) {
            allowed |= Capabilities::SUBGROUP;
        }
        if spec.extensions.contains(&Extension::Matrix) {
            allowed |= Capabilities::COOPERATIVE_MATRIX;
        }
        let info = Validator::new(ValidationFlags::all(), allowed).validate(&module);
        let info = info.unwrap_or_else(|e| panic!("{}: {e:?}", spec.label()));
        // The writer panics where an operand of a matrix load or store is not bound to a name first.
        let options = naga::back::spv::Options { lang_version: (1, 4), ..Default::default() };
        let written = naga::back::spv::write_vec(&module, &info, &options, None);
        written.unwrap_or_else(|e| panic!("{}: {e}", spec.label()));
    }
}

#[test]
fn portable_variants_enable_nothing() {
    for spec in all_specs().iter().filter(|s| s.extensions.is_empty()) {
        for dialect in [Dialect::Naga, Dialect::Browser] {
            let text = spec.render(dialect).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                assert!(
                    !line.contains("enable ") && !line.contains("subgroup"),
                    "{} {dialect:?}: {line}",
                    spec.label()
                );
            }
        }
    }
}

#[test]
fn every_shader_file_is_used() {
    let specs = all_specs();
    for (name, source) in SHADERS {
        let used = specs.iter().any(|s| s.shader == *name);
        let included = SHADERS.iter().any(|(_, other)| other.contains(&format!("#include \"{name}\"")));
        assert!(used != included, "{name} is {}", if used { "both kernel and include" } else { "never used" });
        assert_eq!(used, source.contains("@compute"), "{name}");
    }
}

/// Workgroups of every variant fit WebGPU's default limits, those on matrix units and those that add up within
/// subgroups what they ask of a device.
#[test]
fn workgroups_fit_everywhere() {
    for spec in all_specs() {
        let module = parse(&spec);
        let size: u32 = module.entry_points[0].workgroup_size.iter().product();
        let asks = |extension| spec.extensions.contains(&extension);
        let most = if asks(Extension::Matrix) || asks(Extension::Subgroups) { 512 } else { 256 };
        assert!(size <= most, "{}: {size} invocations", spec.label());
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let shared = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
        let bytes: u32 = shared.map(|(_, v)| layouter[v.ty].size.next_multiple_of(16)).sum();
        let most = if asks(Extension::Matrix) { 48 } else { 16 };
        assert!(bytes <= most * 1024, "{}: {bytes} bytes of workgroup memory", spec.label());
        let tensors = module.global_variables.iter().filter(|(_, v)| v.binding.as_ref().is_some_and(|b| b.group == 0));
        let most = if asks(Extension::Matrix) { MatrixTile::STORAGE_BUFFERS as usize } else { 8 };
        assert!(tensors.count() <= most, "{}: too many storage buffers", spec.label());
    }
}

/// Bytes of a struct of 4-byte members in a shader.
fn struct_bytes(module: &naga::Module, name: &str) -> usize {
    let found = module.types.iter().find(|(_, t)| t.name.as_deref() == Some(name));
    let Some((_, naga::Type { inner: naga::TypeInner::Struct { members, span }, .. })) = found else {
        panic!("no struct {name}");
    };
    assert_eq!(members.len() * 4, *span as usize, "{name} has gaps");
    *span as usize
}

#[test]
fn records_have_the_size_that_shaders_expect() {
    let params: &[(&str, usize)] = &[
        ("activation", size_of::<activation::Params>()),
        ("attention", size_of::<attention::Params>()),
        ("attention_matrix", size_of::<attention::Params>()),
        ("attention_row", size_of::<attention::Params>()),
        ("embed", size_of::<embed::Params>()),
        ("fragment_probe", size_of::<fragment_probe::Params>()),
        ("gemm", size_of::<gemm::Params>()),
        ("gemm_matrix", size_of::<gemm_matrix::Params>()),
        ("gemv", size_of::<gemm::Params>()),
        ("head_select", size_of::<head_select::Params>()),
        ("reorder", size_of::<reorder::Params>()),
        ("norm", size_of::<norm::Params>()),
        ("rotary", size_of::<rotary::Params>()),
        ("select_reduce", size_of::<select_reduce::Params>()),
        ("select_strips", size_of::<select_strips::Params>()),
    ];
    for spec in all_specs() {
        let module = parse(&spec);
        let (_, bytes) = params.iter().find(|(name, _)| *name == spec.shader).expect("a Params struct");
        assert_eq!(struct_bytes(&module, "Params"), *bytes, "{}", spec.label());
        assert!(*bytes <= SLOT);
        assert_eq!(struct_bytes(&module, "Pass"), size_of::<PassSizes>());
        assert_eq!(struct_bytes(&module, "Row"), size_of::<RowRecord>());
        assert_eq!(struct_bytes(&module, "Select"), size_of::<SelectRecord>());
        match spec.shader {
            "attention" | "attention_matrix" => {
                assert_eq!(struct_bytes(&module, "Tile"), size_of::<attention::TileRecord>())
            }
            "select_reduce" => {
                assert_eq!(struct_bytes(&module, "Candidate"), size_of::<CandidateRecord>());
                assert_eq!(struct_bytes(&module, "Selection") as u64, head_select::SELECTION_BYTES);
            }
            _ => {}
        }
    }
}
