//! In which format weights are kept on a device, and what is said about it.

use remask_core::checkpoint::WeightFormat;
use remask_core::{Backend, Model};
use remask_testkit::model::{WIDE, claim_matrix_units, made_up};
use remask_wgpu::{Gpu, LimitChoice, WgpuBackend, adapters};

fn load(model: &Model, format: Option<WeightFormat>, matrix_units: bool) -> WgpuBackend {
    let adapters = pollster::block_on(adapters());
    let adapter = adapters.last().expect("no adapter: install mesa-vulkan-drivers and libvulkan1");
    let mut gpu = pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::Adapter)).unwrap();
    if matrix_units {
        claim_matrix_units(&mut gpu);
    } else {
        gpu.profile.matrix_shapes.clear();
    }
    pollster::block_on(WgpuBackend::load(gpu, model, format, &mut |_| ())).unwrap()
}

#[test]
fn bf16_becomes_f16_where_matrix_units_would_compute() {
    let model = made_up(WIDE, |_, _| ());
    let kept = |format, units| load(&model, format, units).info().weights;
    assert_eq!(kept(None, true), "f16");
    assert_eq!(kept(None, false), "bf16", "without matrix units nothing is gained");
    assert_eq!(kept(Some(WeightFormat::Bf16), true), "bf16", "what is asked for is done");
    let notes = load(&model, None, true).notes();
    assert!(notes.iter().any(|n| n.contains("kept as f16") && n.contains("--weights bf16")), "{notes:?}");
    assert_eq!(load(&model, None, false).notes(), [""; 0]);

    // Narrow models are not computed on matrix units.
    let narrow = made_up(&WIDE.replace("\"d_model\": 1024", "\"d_model\": 512"), |_, _| ());
    assert_eq!(load(&narrow, None, true).info().weights, "bf16");
}

#[test]
fn weights_that_f16_does_not_hold_stay_bf16() {
    let large = made_up(WIDE, |name, values| {
        if name.ends_with("k_proj.weight") {
            values[777] = -1e5;
        }
    });
    let loaded = load(&large, None, true);
    assert_eq!(loaded.info().weights, "bf16");
    let [note] = &loaded.notes()[..] else { panic!("{:?}", loaded.notes()) };
    for words in ["stay bf16", "blocks.0.k_proj.weight", "1 weights lie beyond f16's 65504, the largest at 9.98"] {
        assert!(note.contains(words), "{words}: {note}");
    }

    let small = made_up(WIDE, |name, values| {
        if name.ends_with("wte.weight") {
            values.iter_mut().for_each(|v| *v *= 1e-7);
        }
    });
    let loaded = load(&small, None, true);
    assert_eq!(loaded.info().weights, "bf16");
    assert!(loaded.notes()[0].contains("wte.weight") && loaded.notes()[0].contains("f16 makes them 0"));

    // Tokens that were never trained: a few rows of next to nothing are no loss.
    let untrained = made_up(WIDE, |name, values| {
        if name.ends_with("wte.weight") {
            values[..1024].iter_mut().for_each(|v| *v *= 1e-20);
        }
    });
    assert_eq!(load(&untrained, None, true).info().weights, "f16");
}
