//! Every golden folder of the project, on every adapter of the machine. The CPU's test is remask-burn's own.

use std::path::{Path, PathBuf};

use remask_core::golden::{Golden, check_case, check_logits};
use remask_core::{Backend, Model};
use remask_wgpu::{Gpu, LimitChoice, WgpuBackend, adapters};

fn golden_folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut folders: Vec<_> = root.read_dir().unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders
}

#[test]
fn goldens_agree_on_every_adapter() {
    let adapters = pollster::block_on(adapters());
    assert!(!adapters.is_empty(), "no adapter: install mesa-vulkan-drivers and libvulkan1");
    for adapter in &adapters {
        for limits in [LimitChoice::Adapter, LimitChoice::WebGpuDefault] {
            for folder in golden_folders() {
                check(adapter, limits, &folder);
            }
        }
    }
}

fn check(adapter: &wgpu::Adapter, limits: LimitChoice, folder: &Path) {
    let name = format!("{} on {} ({limits:?} limits)", folder.display(), adapter.get_info().name);
    let model = Model::open(folder).unwrap();
    let gpu = pollster::block_on(Gpu::from_adapter(adapter, limits)).unwrap();
    let mut backend = pollster::block_on(WgpuBackend::load(gpu, &model, None, &mut |_| ())).unwrap();
    check_backend(&mut backend, &model, folder, &name);
}

fn check_backend(backend: &mut dyn Backend, model: &Model, folder: &Path, name: &str) {
    let golden = Golden::open(folder).unwrap();
    let error = pollster::block_on(check_logits(backend, model, &golden)).unwrap();
    println!("{name}: logits within {:.2e} (relative L2 {:.2e})", error.max_abs, error.relative_l2);
    assert!(error.passes(), "{name}: {error:?}");
    for case in &golden.cases {
        let result = pollster::block_on(check_case(backend, model, case)).unwrap();
        let result = result.unwrap_or_else(|| panic!("{name}: no decoder for {}", case.label()));
        assert!(result.passes(), "{name}: {result:?}");
    }
    println!("{name}: all {} generations identical", golden.cases.len());
}
