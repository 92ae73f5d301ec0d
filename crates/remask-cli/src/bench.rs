//! `remask bench`: how long passes take on this machine's devices.

use std::io::{Write, stdout};
use std::time::Instant;

use remask_core::checkpoint::WeightFormat;
use remask_core::families::parse_config;
use remask_core::random::Key;
use remask_core::{Architecture, Backend, Keys, Pass, Row, Select, TokenSet};
use remask_wgpu::WgpuBackend;

use crate::bundled::BUNDLED;
use crate::model_args::{DeviceArgs, open_model};
use crate::report::table;
use crate::synth::Shape;
use crate::{Failure, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// Model folder, .safetensors file or name of a bundled model
    #[arg(long, default_value = BUNDLED[0].name)]
    model: String,
    /// Random weights of this shape in place of a model
    #[arg(long, value_enum, conflicts_with = "model")]
    shape: Option<Shape>,
    /// Blocks of the shape, where fewer are wanted
    #[arg(long, requires = "shape")]
    layers: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Rows of the passes to time; each sees all the others, and every row's candidate is wanted
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 64, 128, 256, 512, 1024], value_name = "N,...")]
    rows: Vec<u32>,
    /// Passes timed for each number of rows
    #[arg(long, default_value_t = 15, value_name = "N")]
    repeats: usize,
    /// Show the time of each kernel
    #[arg(long)]
    kernels: bool,
}

/// A pass over `rows` positions that see each other.
struct Request {
    rows: Vec<Row>,
    select: Vec<Select>,
    suppressed: TokenSet,
}

impl Request {
    fn new(backend: &mut dyn Backend, vocabulary: u32, count: u32) -> Result<Self, Failure> {
        let store = backend.create_store(count)?;
        let keys = Keys { start: 0, end: count };
        let rows = (0..count).map(|position| Row { store, position, token: position * 7919 % vocabulary, keys });
        let select = (0..count).map(|row| Select { row, guide: None, temperature: 0.0, key: Key::default() });
        let suppressed = TokenSet::new(backend.head_rows());
        Ok(Self { rows: rows.collect(), select: select.collect(), suppressed })
    }

    fn pass(&self) -> Pass<'_> {
        Pass { rows: &self.rows, select: &self.select, suppressed: &self.suppressed }
    }
}

pub fn run(args: &Args) -> Outcome {
    let started = Instant::now();
    let (architecture, mut backend) = match args.shape {
        Some(shape) => {
            let text = serde_json::to_string(&shape.config(args.layers))?;
            let (_, architecture) = parse_config("config.json", &text)?;
            let format = args.device.weights.unwrap_or(WeightFormat::F16);
            let random = WgpuBackend::random(args.device.open()?, architecture.clone(), format);
            (architecture, pollster::block_on(random)?)
        }
        None => {
            let model = open_model(&args.model)?;
            let silent = &mut |_| ();
            let load = WgpuBackend::load(args.device.open()?, &model, args.device.weights, silent);
            let backend = pollster::block_on(load)?;
            (model.architecture, backend)
        }
    };
    let info = backend.info();
    writeln!(
        stdout(),
        "{} ({}), {} weights, loaded in {:.0} ms",
        info.adapter,
        info.backend,
        info.weights,
        ms(started)
    )?;
    passes(args, &architecture, &mut backend)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn passes(args: &Args, a: &Architecture, backend: &mut WgpuBackend) -> Outcome {
    let mut cells = vec![["rows", "first ms", "median ms", "fastest ms"].map(str::to_owned).to_vec()];
    for &count in args.rows.iter().filter(|n| **n as usize <= a.max_positions) {
        let request = Request::new(backend, a.vocab_size as u32, count)?;
        let mut times = Vec::new();
        for _ in 0..=args.repeats {
            let begun = Instant::now();
            pollster::block_on(backend.forward(&request.pass()))?;
            times.push(ms(begun));
        }
        let first = times.remove(0);
        times.sort_by(f64::total_cmp);
        cells.push(vec![
            count.to_string(),
            format!("{first:.2}"),
            format!("{:.3}", times[times.len() / 2]),
            format!("{:.3}", times[0]),
        ]);
        if args.kernels {
            kernels(backend, &request, count)?;
        }
        backend.release_store(request.rows[0].store);
    }
    write!(stdout(), "{}", table(&cells))?;
    Ok(())
}

/// Milliseconds of each kernel in one pass, the slowest first.
fn kernels(backend: &mut WgpuBackend, request: &Request, count: u32) -> Outcome {
    let spans = pollster::block_on(backend.profile(&request.pass()))?;
    let mut sums: Vec<(String, f64, u32)> = Vec::new();
    for (label, ns) in spans {
        match sums.iter_mut().find(|(l, ..)| *l == label) {
            Some((_, sum, calls)) => {
                *sum += ns;
                *calls += 1;
            }
            None => sums.push((label, ns, 1)),
        }
    }
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = sums.iter().map(|s| s.1).sum();
    let mut cells = vec![["kernel", "dispatches", "us each", "ms"].map(str::to_owned).to_vec()];
    for (label, ns, calls) in sums {
        cells.push(vec![
            label,
            calls.to_string(),
            format!("{:.1}", ns / 1e3 / f64::from(calls)),
            format!("{:.3}", ns / 1e6),
        ]);
    }
    writeln!(stdout(), "{count} rows: {:.3} ms on the device\n{}", total / 1e6, table(&cells))?;
    Ok(())
}
