//! The CPU's linear layers at the shapes of the bundled model and of LLaDA-8B: every weight format, a
//! few rows to many. `cargo bench -p remask-burn --bench linear -- llada-8b` runs the larger ones.

// A benchmark of made-up weights may panic, and documents nothing.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use remask_burn::panels::Panels;
use remask_core::Checkpoint;
use remask_core::checkpoint::{Bytes, Matrix, WeightFormat};
use remask_core::random::{Key, threefry};

/// Name, output features, input features.
const SHAPES: [(&str, usize, usize); 6] = [
    ("tales-33m qkv", 1536, 512),
    ("tales-33m gate_up", 2688, 512),
    ("tales-33m down", 512, 1344),
    ("llada-8b attention_out", 4096, 4096),
    ("llada-8b gate_up", 24576, 4096),
    ("llada-8b down", 4096, 12288),
];

const ROWS: [usize; 8] = [1, 2, 4, 8, 32, 64, 128, 256];

const FORMATS: [WeightFormat; 5] = WeightFormat::MADE;

fn uniform(seed: u32, count: usize) -> Vec<f32> {
    let number = |i: usize| threefry(Key([seed, 0]), [i as u32, 0])[0] as f32 / u32::MAX as f32 - 0.5;
    (0..count).map(number).collect()
}

/// A float32 checkpoint of one matrix called "w".
fn checkpoint(values: &[f32], rows: usize, cols: usize) -> Checkpoint {
    let bytes = values.len() * 4;
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{rows},{cols}],"data_offsets":[0,{bytes}]}}}}"#);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(bytemuck::cast_slice(values));
    Checkpoint::from_bytes("bench", Bytes::Owned(file)).unwrap()
}

fn linear(c: &mut Criterion) {
    for (name, out, cols) in SHAPES {
        let weights = checkpoint(&uniform(1, out * cols), out, cols);
        let x = uniform(2, ROWS[ROWS.len() - 1] * cols);
        let mut group = c.benchmark_group(name);
        group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        for format in FORMATS {
            let panels = Panels::stack(&[Matrix::open(&weights, "w", out, cols).unwrap()], Some(format)).unwrap();
            for rows in ROWS {
                group.throughput(Throughput::Elements((2 * rows * out * cols) as u64));
                let id = BenchmarkId::new(format.to_string(), rows);
                group.bench_function(id, |b| b.iter(|| black_box(panels.product(&x[..rows * cols], rows))));
            }
        }
        group.finish();
    }
}

criterion_group!(benches, linear);
criterion_main!(benches);
