//! `remask inspect`.

use std::collections::BTreeMap;
use std::io::{Write, stdout};

use remask_core::checkpoint::TensorView;
use serde_json::json;

use crate::Outcome;
use crate::model_args::open_model;
use crate::report::table;

#[derive(clap::Args)]
pub struct Args {
    /// Model folder, .safetensors file or name of a bundled model
    model: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Outcome {
    let model = open_model(&args.model)?;
    let mut out = stdout();
    let a = &model.architecture;
    let tensors: Vec<_> = model.checkpoint.tensors().collect();
    if args.json {
        let tensor = |t: &TensorView| json!({"name": t.name, "dtype": t.dtype.to_string(), "shape": t.shape, "bytes": t.bytes.len()});
        let value = json!({
            "architecture": a,
            "parameters": a.parameters(),
            "bytes": model.checkpoint.total_bytes(),
            "files": model.checkpoint.files().collect::<Vec<_>>(),
            "tokenizer": model.tokenizer.is_some(),
            "tensors": tensors.iter().map(tensor).collect::<Vec<_>>(),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        return Ok(());
    }
    let at = &a.attention;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let ids =
        format!("mask {:?}, end {:?}, start {:?}, pad {:?}", a.tokens.mask, a.tokens.eos, a.tokens.bos, a.tokens.pad);
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
    let mut by_dtype = BTreeMap::<String, (usize, usize)>::new();
    for t in &tensors {
        let entry = by_dtype.entry(t.dtype.to_string()).or_default();
        *entry = (entry.0 + 1, entry.1 + t.bytes.len());
    }
    for (dtype, (count, bytes)) in by_dtype {
        writeln!(out, "{count} tensors of {dtype}, {bytes} bytes")?;
    }
    writeln!(out)?;
    let head = ["tensor", "dtype", "shape"].map(str::to_owned).to_vec();
    let rows = tensors.iter().map(|t| vec![t.name.to_owned(), t.dtype.to_string(), format!("{:?}", t.shape)]);
    write!(out, "{}", table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))?;
    Ok(())
}
