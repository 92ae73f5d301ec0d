//! Every kernel's case table, on every adapter of the machine.

use remask_testkit::cases::{MATRIX_TABLES, TABLES, gemm, rotary};
use remask_testkit::harness::Harness;
use remask_wgpu::adapters;
use remask_wgpu::wgsl::SHADERS;

fn on_every_adapter(shader: &str) {
    let adapters = pollster::block_on(adapters());
    assert!(!adapters.is_empty(), "no adapter, nothing was tested: install mesa-vulkan-drivers and libvulkan1");
    let (_, run) = TABLES.iter().find(|(name, _)| *name == shader).expect("a case table");
    for adapter in &adapters {
        println!("{shader} on {}", adapter.get_info().name);
        run(&mut Harness::open(adapter));
    }
}

macro_rules! tables {
    ($($name:ident),*) => { $(
        #[test]
        fn $name() {
            on_every_adapter(stringify!($name));
        }
    )* };
}

tables!(
    activation,
    attention,
    attention_row,
    batch_invariance,
    embed,
    gemm,
    gemv,
    head_select,
    norm,
    reorder,
    rotary,
    select_strips
);

/// Where an adapter has matrix units. Software adapters have none, so this says how many ran.
#[test]
fn matrix_units() {
    let mut ran = 0;
    for adapter in &pollster::block_on(adapters()) {
        let Some(mut harness) = Harness::with_matrix_units(adapter) else { continue };
        for (name, run) in MATRIX_TABLES {
            println!("{name} on {}", adapter.get_info().name);
            run(&mut harness);
        }
        ran += 1;
    }
    println!("{ran} adapters with matrix units");
}

/// Linear layers at the sizes that models have.
#[test]
fn layers() {
    for adapter in &pollster::block_on(adapters()) {
        gemm::run_layers(&mut Harness::open(adapter));
    }
}

/// Stores in f16 need no matrix units, so that they are tested on software adapters too.
#[test]
fn stores_in_f16() {
    let mut ran = 0;
    for adapter in &pollster::block_on(adapters()) {
        let Some(mut harness) = Harness::with_f16(adapter) else { continue };
        rotary::run_half(&mut harness);
        ran += 1;
    }
    println!("{ran} adapters with f16 in shaders");
}

/// A kernel without a case table is an untested kernel. select_reduce is tested through head_select.
#[test]
fn every_kernel_has_a_table() {
    let kernels = SHADERS.iter().filter(|(_, source)| source.contains("@compute")).map(|(name, _)| *name);
    for kernel in kernels.filter(|k| *k != "select_reduce") {
        assert!(TABLES.iter().chain(MATRIX_TABLES).any(|(name, _)| *name == kernel), "{kernel} has no case table");
    }
}
