//! Autoregressive decoding on the CPU at GPT-2 124M's shape: 50 tokens after a prompt of 8, greedy, in float32 and
//! int8, and what a pass of one row takes at some depths.

// A benchmark of made-up weights may panic, and documents nothing.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use remask_burn::CpuBackend;
use remask_core::checkpoint::WeightFormat;
use remask_core::families::parse_config;
use remask_core::{Architecture, Backend, Pass, Row, Select, StoreId, TokenSet};

const CONFIG: &str = r#"{"architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_layer": 12, "n_head": 12,
    "n_positions": 1024, "vocab_size": 50257}"#;

/// Computes `tokens` at the positions from `first` on, and answers the token that follows.
fn step(backend: &mut CpuBackend, a: &Architecture, store: StoreId, first: usize, tokens: &[u32]) -> u32 {
    let row = |(i, token): (usize, &u32)| Row::of_canvas(a, store, first + i, *token, 1024);
    let rows: Vec<_> = tokens.iter().enumerate().map(row).collect();
    let select = [Select::likeliest(rows.len() - 1, first + tokens.len())];
    let suppressed = [TokenSet::new(a.embedding_rows).into()];
    let pass = Pass { rows: &rows, select: &select, suppressed: &suppressed };
    pollster::block_on(backend.forward(&pass)).unwrap()[0].candidate().unwrap().token
}

fn decode(c: &mut Criterion) {
    let (_, architecture) = parse_config("config.json", CONFIG).unwrap();
    let architecture = Arc::new(architecture);
    for format in [WeightFormat::F32, WeightFormat::Q8] {
        let mut backend = CpuBackend::random(architecture.clone(), format).unwrap();
        let mut group = c.benchmark_group(format!("gpt2-124m {format}"));
        group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
        group.bench_function("50 tokens", |b| {
            b.iter(|| {
                let store = backend.create_store(64).unwrap();
                let prompt: Vec<_> = (0..8).map(|i| i * 7919 % 50257).collect();
                let mut token = step(&mut backend, &architecture, store, 0, &prompt);
                for position in 8..57 {
                    token = step(&mut backend, &architecture, store, position, &[token]);
                }
                backend.release_store(store);
                black_box(token)
            });
        });
        let store = backend.create_store(1024).unwrap();
        let all: Vec<_> = (0..1024).map(|i| i * 31 % 50257).collect();
        step(&mut backend, &architecture, store, 0, &all);
        for depth in [64, 1023] {
            let name = format!("one row at {depth}");
            group.bench_function(name, |b| b.iter(|| step(&mut backend, &architecture, store, depth, &[7])));
        }
        group.bench_function("512 rows", |b| b.iter(|| step(&mut backend, &architecture, store, 0, &all[..512])));
        group.finish();
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
