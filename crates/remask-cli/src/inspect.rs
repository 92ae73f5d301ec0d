//! `remask inspect`.

use std::collections::BTreeMap;
use std::io::{Write, stdout};

use remask_core::Model;
use remask_core::architecture::{Architecture, BlockSpec, Norm, Rotary};
use remask_core::checkpoint::{Matrix, TensorView, WeightFormat};
use remask_core::tensors::TensorKind;
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
    let checkpoint = &model.checkpoint;
    let mut found = Vec::new();
    for tensor in checkpoint.tensors() {
        if tensor.has_non_finite()? {
            found.push((tensor.name.to_owned(), "holds NaN or infinite weights".to_owned()));
        }
        checkpoint.discard(tensor.name);
    }
    for spec in model.tensors.iter().filter(|spec| spec.kind == TensorKind::Matrix) {
        let matrix = Matrix::of(checkpoint, spec)?;
        if matrix.format == WeightFormat::Bf16
            && let Some(problem) = matrix.half_loss(0..spec.rows)?.problem()
        {
            found.push((spec.name.clone(), format!("cannot be kept as f16: {problem}")));
        }
        checkpoint.discard(&spec.name);
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
            "architecture": **a,
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
    let mut rows = vec![
        row("model", model.origin.clone()),
        row("architecture", a.name.clone()),
        row("parameters", format!("{:.1} M", a.parameters() as f64 / 1e6)),
        row("bytes", model.checkpoint.total_bytes().to_string()),
    ];
    rows.extend(describe(a));
    rows.push(row("tokenizer", if model.tokenizer.is_some() { "yes" } else { "no" }.to_owned()));
    write!(out, "{}", table(&rows))?;
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

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

/// The architecture, a row a property; blocks that are alike are described once.
fn describe(a: &Architecture) -> Vec<Vec<String>> {
    let mut kinds: Vec<(BlockSpec, Vec<usize>)> = Vec::new();
    for (index, block) in a.blocks.iter().enumerate() {
        let kind = BlockSpec { weights: 0, cache: 0, ..block.clone() };
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, members)) => members.push(index),
            None => kinds.push((kind, vec![index])),
        }
    }
    let mut layers = a.blocks.len().to_string();
    for (sets, what) in [(a.weight_sets(), "weights"), (a.cache_entries(), "keys and values")] {
        if sets < a.blocks.len() {
            layers += &format!(", {sets} sets of {what}");
        }
    }
    let mut rows = vec![row("layers", layers), row("hidden", a.hidden.to_string())];
    for (block, members) in &kinds {
        let of = if kinds.len() > 1 { format!(" of layers {}", ranges(members)) } else { String::new() };
        rows.push(row(&format!("attention{of}"), attention(a, block)));
        rows.push(row(&format!("feed-forward{of}"), feed_forward(block)));
        rows.push(row(&format!("norms{of}"), norms(block)));
    }
    let of_table = |index: usize| if a.rotaries.len() > 1 { format!("rotary {index}") } else { "rotary".to_owned() };
    rows.extend(a.rotaries.iter().enumerate().map(|(i, rotary)| row(&of_table(i), table_of_turns(rotary))));
    let id = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
    let t = &a.tokens;
    let head = if a.tied_head { "tied" } else { "of its own" };
    let biased = if a.head_bias { ", with a bias" } else { "" };
    let learned = a.learned_positions.map_or(String::new(), |rows| format!(", {rows} learned embeddings"));
    rows.extend([
        row("visibility", format!("{:?}", a.visibility)),
        row("final norm", norm(&a.final_norm)),
        row("vocabulary", format!("{} ids in {} rows, head {head}{biased}", a.vocab_size, a.embedding_rows)),
        row("positions", format!("{}{learned}", a.max_positions)),
        row("special ids", format!("mask {}, end {:?}, start {}, pad {}", id(t.mask), t.eos, id(t.bos), id(t.pad))),
    ]);
    let factors = [("embedding scale", a.embedding_scale), ("logit scale", a.logit_scale)];
    rows.extend(
        factors.iter().filter(|(_, factor)| *factor != 1.0).map(|(name, factor)| row(name, factor.to_string())),
    );
    rows
}

/// `0-4, 6`, of numbers that ascend.
fn ranges(members: &[usize]) -> String {
    let runs = members.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        [one] => one.to_string(),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

fn attention(a: &Architecture, block: &BlockSpec) -> String {
    let at = &block.attention;
    let mut text = format!("{} heads of {}, {} key/value heads", at.heads, at.head_dim, at.kv_heads);
    if let Some(window) = at.window {
        text += &format!(", window {window}");
    }
    match at.rotary {
        None => text += ", no rotary",
        Some(table) if a.rotaries.len() > 1 => text += &format!(", rotary {table}"),
        Some(_) => {}
    }
    if at.qk_norm.is_some() {
        text += ", queries and keys normalised";
    }
    match (at.qkv_bias, at.out_bias) {
        (true, true) => text += ", biases",
        (true, false) => text += ", biases of queries, keys and values",
        (false, true) => text += ", bias of the output",
        (false, false) => {}
    }
    text
}

fn feed_forward(block: &BlockSpec) -> String {
    let part = &block.feed_forward;
    let gated = if part.gated { ", gated" } else { "" };
    let biases = if part.bias { ", biases" } else { "" };
    let beside = if block.side_by_side() { ", side by side with attention" } else { "" };
    format!("{} wide, {:?}{gated}{biases}{beside}", part.hidden, part.activation)
}

fn norm(norm: &Norm) -> String {
    format!("{:?}, eps {:e}", norm.kind, norm.eps)
}

fn norms(block: &BlockSpec) -> String {
    let after = [("attention", block.after_attention_norm), ("feed-forward", block.after_feed_forward_norm)];
    let after: Vec<_> = after.iter().filter(|(_, norm)| norm.is_some()).map(|(part, _)| *part).collect();
    let after = if after.is_empty() { String::new() } else { format!(", also after {}", after.join(" and ")) };
    format!("{}{after}", norm(&block.attention_norm))
}

fn table_of_turns(rotary: &Rotary) -> String {
    format!("{} elements, theta {}, {:?}, scaling {:?}", rotary.dims, rotary.theta, rotary.pairing, rotary.scaling)
}
