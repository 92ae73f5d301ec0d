//! `remask tune`: finds the kernels that are fastest on a device, for the shapes of a model.

use std::io::{Write, stdout};

use remask_wgpu::cache_folder;

use crate::model_args::DeviceArgs;
use crate::report::table;
use crate::subject::{Subject, SubjectArgs};
use crate::{Failure, Outcome};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Rows to find the fastest kernels for, powers of two; what is found for 8 rows serves 5 to 8
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512], value_name = "N,...")]
    rows: Vec<u32>,
}

pub fn run(args: &Args) -> Outcome {
    let Some(folder) = cache_folder() else {
        return Err(Failure::Message("there is no folder to keep the result in; set REMASK_CACHE_DIR".to_owned()));
    };
    if let Some(rows) = args.rows.iter().find(|n| !n.is_power_of_two()) {
        return Err(Failure::Message(format!("{rows} rows: only powers of two are tuned")));
    }
    let subject = Subject::open(&args.subject, None)?;
    let mut backend = subject.on_wgpu(&args.device)?;
    let mut matrix = false;
    let names = ["weights", "rows", "layer", "default us", "fastest us", "kernel"];
    let mut cells = vec![names.map(str::to_owned).to_vec()];
    for &rows in args.rows.iter().filter(|n| **n as usize <= subject.architecture.max_positions) {
        for t in pollster::block_on(backend.tune(rows))? {
            matrix |= t.kernel.tile().is_some();
            let faster = if t.us < t.default_us { format!("{:?}", t.kernel) } else { "the default".to_owned() };
            cells.push(vec![
                t.format.to_string(),
                t.rows.to_string(),
                format!("{} -> {}", t.cols, t.out),
                format!("{:.1}", t.default_us),
                format!("{:.1}", t.us),
                faster,
            ]);
        }
    }
    let gpu = backend.gpu();
    let file = gpu.tuning.save(&gpu.profile, &folder)?;
    let mut out = stdout();
    write!(out, "{}", table(&cells))?;
    if matrix {
        writeln!(out, "on matrix units the times are those of whole passes")?;
    }
    writeln!(out, "{} layers and rows in {}", gpu.tuning.len(), file.display())?;
    Ok(())
}
