//! `remask inspect`.

use std::collections::BTreeMap;
use std::io::{Write, stdout};

use remask_core::Model;
use remask_core::checkpoint::{Matrix, TensorView, WeightFormat};
use remask_core::model::layer_matrices;
use remask_core::text::shown;
use serde_json::json;

use crate::Outcome;
use crate::model_args::open_model;
use crate::report::table;

#[derive(clap::Args)]
pub struct Args {
    /// Model folder, .safetensors or GGUF file, or name of a bundled model
    model: String,
    /// Read every weight: whether all are finite, and whether bf16 matrices could be kept as f16, which
    /// matrix units take
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Every tensor that something is wrong with, and what: `(tensor, problem)`.
fn problems(model: &Model) -> Result<Vec<(String, String)>, remask_core::Error> {
    let (a, names, checkpoint) = (&model.architecture, &model.names, &model.checkpoint);
    let mut found = Vec::new();
    for tensor in checkpoint.tensors() {
        if tensor.has_non_finite()? {
            found.push((tensor.name.to_owned(), "holds NaN or infinite weights".to_owned()));
        }
        checkpoint.discard(tensor.name);
    }
    let tables = [Some(&names.embedding), names.head.as_ref()].into_iter().flatten();
    let tables = tables.map(|name| (name.as_str(), a.embedding_rows, a.hidden));
    for (name, rows, cols) in tables.chain(names.layers.iter().flat_map(|l| layer_matrices(a, l))) {
        let matrix = Matrix::open(checkpoint, name, rows, cols)?;
        if matrix.format == WeightFormat::Bf16
            && let Some(problem) = matrix.half_loss(0..rows)?.problem()
        {
            found.push((name.to_owned(), format!("cannot be kept as f16: {problem}")));
        }
        checkpoint.discard(name);
    }
    Ok(found)
}

pub fn run(args: &Args) -> Outcome {
    let model = open_model(&args.model)?;
    let mut out = stdout();
    let a = &model.architecture;
    let tensors: Vec<_> = model.checkpoint.tensors().collect();
    let problems = args.check.then(|| problems(&model)).transpose()?;
    if args.json {
        let tensor =
            |t: &TensorView| json!({"name": t.name, "dtype": t.type_name(), "shape": t.shape, "bytes": t.len()});
        let value = json!({
            "architecture": a,
            "parameters": a.parameters(),
            "bytes": model.checkpoint.total_bytes(),
            "files": model.checkpoint.files().collect::<Vec<_>>(),
            "tokenizer": model.tokenizer.is_some(),
            "problems": problems,
            "requantization": model.requantization(None)?,
            "tensors": tensors.iter().map(tensor).collect::<Vec<_>>(),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        return Ok(());
    }
    let at = &a.attention;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let id = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
    let t = &a.tokens;
    let ids = format!("mask {}, end {:?}, start {}, pad {}", id(t.mask), t.eos, id(t.bos), id(t.pad));
    write!(
        out,
        "{}",
        table(&[
            row("model", model.origin.clone()),
            row("architecture", a.name.clone()),
            row("parameters", format!("{:.1} M", a.parameters() as f64 / 1e6)),
            row("bytes", model.checkpoint.total_bytes().to_string()),
            row("layers", a.layers.to_string()),
            row("hidden", a.hidden.to_string()),
            row(
                "attention",
                format!("{} heads of {}, {} key/value heads, {:?}", at.heads, at.head_dim, at.kv_heads, at.visibility)
            ),
            row(
                "rotary",
                format!(
                    "{} of {} elements, theta {}, {:?}",
                    a.rotary.dims, at.head_dim, a.rotary.theta, a.rotary.pairing
                )
            ),
            row("mlp", format!("{:?}, {} wide", a.mlp.kind, a.mlp.hidden)),
            row("norm", format!("{:?}, eps {:e}", a.norm.kind, a.norm.eps)),
            row(
                "vocabulary",
                format!(
                    "{} ids in {} rows, head {}",
                    a.vocab_size,
                    a.embedding_rows,
                    if a.tied_head { "tied" } else { "of its own" }
                )
            ),
            row("positions", a.max_positions.to_string()),
            row("special ids", ids),
            row("tokenizer", if model.tokenizer.is_some() { "yes" } else { "no" }.to_owned()),
        ])
    )?;
    let mut by_dtype = BTreeMap::<String, (usize, u64)>::new();
    for t in &tensors {
        let entry = by_dtype.entry(t.type_name()).or_default();
        *entry = (entry.0 + 1, entry.1 + t.len());
    }
    for (dtype, (count, bytes)) in by_dtype {
        writeln!(out, "{count} tensors of {dtype}, {bytes} bytes")?;
    }
    if let Some(note) = model.requantization(None)? {
        writeln!(out, "{note}")?;
    }
    match problems.as_deref() {
        None => {}
        Some([]) => writeln!(out, "every weight is finite, and f16 holds those that are bf16")?,
        Some(problems) => {
            for (tensor, problem) in problems {
                writeln!(out, "{}: {problem}", shown(tensor))?;
            }
        }
    }
    writeln!(out)?;
    let head = ["tensor", "dtype", "shape"].map(str::to_owned).to_vec();
    let rows = tensors.iter().map(|t| vec![t.name.to_owned(), t.type_name(), format!("{:?}", t.shape)]);
    write!(out, "{}", table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))?;
    Ok(())
}
