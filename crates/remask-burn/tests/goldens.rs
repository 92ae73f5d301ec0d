//! Every golden folder of the project on the CPU: the packed weights of its own backend, and Burn's tensors as other
//! devices have them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic here is a failed test")]

use std::path::{Path, PathBuf};

use remask_burn::executor::BurnBackend;
use remask_burn::{CpuBackend, Device};
use remask_core::decode::Work;
use remask_core::golden::{Golden, LogitError, check_case, check_logits};
use remask_core::scheduler::logits;
use remask_core::{Backend, Model, Row, Select};

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut folders: Vec<_> = root.read_dir().unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 13, "{folders:?}");
    folders
}

fn both(model: &Model) -> [Box<dyn Backend>; 2] {
    let cpu = CpuBackend::load(model, None, &mut |_| ()).unwrap();
    let dense = BurnBackend::dense(model, Device::flex(), "burn-flex", &mut |_| ()).unwrap();
    [Box::new(cpu), Box::new(dense)]
}

#[test]
fn logits_and_generations_agree_with_the_reference() {
    for folder in folders() {
        let (model, golden) = (Model::open(&folder).unwrap(), Golden::open(&folder).unwrap());
        for mut backend in both(&model) {
            let error = pollster::block_on(check_logits(&mut *backend, &model, &golden)).unwrap();
            let name = format!("{} on {}", folder.display(), backend.info().backend);
            println!("{name}: {error:?}");
            assert!(error.passes(), "{name}: {error:?}");
            for case in &golden.cases {
                let result = pollster::block_on(check_case(&mut *backend, &model, case)).unwrap();
                let result = result.unwrap_or_else(|| panic!("{name}: no decoder for {}", case.label()));
                assert!(result.passes(), "{name}: {result:?}");
            }
        }
    }
}

/// What a causal model computes row by row over what it has kept, and in pieces, is what it computes at once.
#[test]
fn kept_keys_and_values_serve_as_well_as_fresh_ones() {
    for folder in folders() {
        let (model, golden) = (Model::open(&folder).unwrap(), Golden::open(&folder).unwrap());
        let a = &model.architecture;
        if a.is_diffusion() {
            continue;
        }
        let length = golden.inputs[0].len();
        for mut backend in both(&model) {
            for piece in [1, 7] {
                let store = backend.create_store(length as u32).unwrap();
                let row = |(position, token): (usize, &u32)| Row::of_canvas(a, store, position, *token, length);
                let rows: Vec<_> = golden.inputs[0].iter().enumerate().map(row).collect();
                let mut found = Vec::new();
                for rows in rows.chunks(piece) {
                    let select: Vec<_> =
                        (0..rows.len()).map(|i| Select::logits(i, rows[i].position as usize)).collect();
                    let work = Work { rows: rows.to_vec(), select, suppressed: Vec::new(), full_rows: 0 };
                    found.extend(pollster::block_on(logits(&mut *backend, &work)).unwrap());
                }
                backend.release_store(store);
                let error = LogitError::between(&found, &golden.logits[..length * golden.width]);
                assert!(error.passes(), "{} in pieces of {piece}: {error:?}", folder.display());
            }
        }
    }
}
