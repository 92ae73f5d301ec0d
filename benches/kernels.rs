//! Times of the kernels, over the case tables that their tests run, and of the conversions of weights:
//!
//!     cargo bench -p remask-benches [-- FILTER]
//!
//! A kernel's result is checked in the same run, right after it was measured. Adapters are chosen by
//! `REMASK_ADAPTER`, as by `remask`. At the end comes a table with the share of the rate at which the
//! device copies memory, which is the most that a kernel can move.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use criterion::Criterion;
use remask_core::checkpoint::{Bytes, Checkpoint, Matrix, WeightFormat};
use remask_testkit::cases::{MATRIX_TABLES, Table, activation, attention, gemm, head_select, norm, rotary};
use remask_testkit::data::uniform;
use remask_testkit::harness::{Dispatched, Harness};
use remask_testkit::model::bf16_container;
use remask_wgpu::{ADAPTER_VARIABLE, choose_adapter};

/// Tables that are measured: those with the sizes of models before those with the edges of tiles.
const MEASURED: &[Table] = &[
    ("layers", gemm::run_layers),
    ("head_select", head_select::run),
    ("attention", attention::run),
    ("norm", norm::run),
    ("rotary", rotary::run),
    ("activation", activation::run),
];

/// One kernel's times.
struct Measured {
    what: Dispatched,
    /// Seconds of each sample.
    samples: Vec<f64>,
}

fn main() {
    let criterion = Criterion::default().sample_size(10).configure_from_args();
    let criterion = criterion.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    let criterion = Rc::new(RefCell::new(criterion));
    conversions(&mut criterion.borrow_mut());
    let wanted = std::env::var(ADAPTER_VARIABLE).ok();
    let adapter = match pollster::block_on(choose_adapter(wanted.as_deref())) {
        Ok(adapter) => adapter,
        Err(e) => return eprintln!("no kernel was measured: {e}"),
    };
    let measured: Rc<RefCell<Vec<Measured>>> = Rc::default();
    let plain = Harness::open(&adapter);
    let copies = plain.copy_rate();
    observe(plain, MEASURED, &criterion, &measured);
    if let Some(matrix) = Harness::with_matrix_units(&adapter) {
        observe(matrix, MATRIX_TABLES, &criterion, &measured);
    }
    print(&adapter.get_info().name, copies, &measured.borrow());
    criterion.borrow_mut().final_summary();
}

/// Runs tables with every dispatch measured.
fn observe(
    mut harness: Harness,
    tables: &[Table],
    criterion: &Rc<RefCell<Criterion>>,
    measured: &Rc<RefCell<Vec<Measured>>>,
) {
    for (table, run) in tables {
        let (criterion, measured, table) = (criterion.clone(), measured.clone(), *table);
        harness.observer = Some(Box::new(move |what, time| {
            let mut samples = Vec::new();
            let name = format!("{table}/{} {}", what.kernels, what.shape);
            // The same kernel over the same shape is in many cases: once is enough.
            let same = |m: &Measured| m.what.kernels == what.kernels && m.what.shape == what.shape;
            if measured.borrow().iter().any(same) {
                return;
            }
            criterion.borrow_mut().bench_function(&name, |b| {
                b.iter_custom(|count| {
                    let spent = time(count);
                    samples.push(spent.as_secs_f64() / count as f64);
                    spent
                });
            });
            if !samples.is_empty() {
                measured.borrow_mut().push(Measured { what: what.clone(), samples });
            }
        }));
        run(&mut harness);
    }
}

fn print(adapter: &str, copies: f64, measured: &[Measured]) {
    println!("\n{adapter}: copies {:.1} GB/s, read and written together\n", copies / 1e9);
    println!("| kernel | shape | ms | GB/s | of copy | TFLOP/s |\n|---|---|---|---|---|---|");
    for Measured { what, samples } in measured {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let seconds = sorted[sorted.len() / 2];
        let rate = what.bytes as f64 / seconds;
        println!(
            "| {} | {} | {:.4} | {:.2} | {:.0} % | {:.4} |",
            what.kernels,
            what.shape,
            seconds * 1e3,
            rate / 1e9,
            100.0 * rate / copies,
            what.operations as f64 / seconds / 1e12
        );
    }
}

/// Conversions that weights go through on their way to a device, 32 MiB of bf16 each.
fn conversions(criterion: &mut Criterion) {
    let (rows, cols) = (4096, 4096);
    let weights = uniform(1, rows * cols, 0.05);
    let file = bf16_container(&[("w".to_owned(), vec![rows, cols], weights)]);
    let Ok(checkpoint) = Checkpoint::from_bytes("bench", Bytes::Owned(file)) else { return };
    let Ok(matrix) = Matrix::open(&checkpoint, "w", rows, cols) else { return };
    let mut group = criterion.benchmark_group("convert bf16");
    group.throughput(criterion::Throughput::Bytes((rows * cols * 2) as u64));
    group.bench_function("range check", |b| b.iter(|| black_box(matrix.half_loss(0..rows))));
    for format in [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4] {
        group.bench_function(format!("to {format}"), |b| b.iter(|| black_box(matrix.encode(0..rows, format).is_ok())));
    }
}
