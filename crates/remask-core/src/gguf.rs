//! Models in one GGUF file, as llama.cpp's converter writes them: its metadata as a config.json, the names
//! of its tensors, and its tokenizer as a tokenizer.json. What follows from here on is what every other
//! model goes through.

use serde_json::{Value as Json, json};

use crate::architecture::Architecture;
use crate::checkpoint::gguf::{Metadata, Value};
use crate::checkpoint::{Checkpoint, Matrix, WeightFormat};
use crate::error::{Error, Result};
use crate::families::{LayerNames, TensorNames};
use crate::model::layer_matrices;
use crate::tokenizer::MASK_TEXTS;

/// The metadata as the config.json of the model's family.
///
/// # Errors
/// [`Error::UnknownArchitecture`]; [`Error::Config`] for a key that is missing or mistyped;
/// [`Error::Unsupported`] for a setting that would change the result and that no kernel computes.
pub fn config(metadata: &Metadata, checkpoint: &Checkpoint) -> Result<Json> {
    let file = &metadata.file;
    let name = metadata.required("general.architecture", metadata.text("general.architecture")?)?;
    if name != "llada" {
        return Err(Error::UnknownArchitecture {
            file: file.clone(),
            found: format!("{name:?}"),
            known: "\"llada\" in GGUF files".to_owned(),
        });
    }
    let key = |leaf: &str| format!("{name}.{leaf}");
    let size = |leaf: &str| metadata.size(&key(leaf));
    let needed = |leaf: &str| metadata.required(&key(leaf), size(leaf)?);
    let unsupported =
        |what: String, why: &str| Err(Error::Unsupported { what: format!("{file}: {what}"), why: why.to_owned() });

    if metadata.size("split.count")?.unwrap_or(1) > 1 {
        return unsupported("a part of a split model".to_owned(), "join the parts with llama-gguf-split --merge");
    }
    for (key, expected) in [(key("attention.causal"), false), ("diffusion.shift_logits".to_owned(), false)] {
        if metadata.flag(&key)?.is_some_and(|on| on != expected) {
            return unsupported(format!("{key} = {}", !expected), "models of this family were not trained so");
        }
    }
    let scaling = metadata.text(&key("rope.scaling.type"))?.unwrap_or("none");
    let scaled = metadata.number(&key("rope.scaling.factor"))?.is_some_and(|f| f != 1.0);
    if scaling != "none" || scaled {
        return unsupported(format!("{} = {scaling}", key("rope.scaling.type")), "no kernel computes scaled positions");
    }
    let odd = checkpoint.tensors().find(|t| t.name.ends_with(".bias") || t.name.starts_with("rope_freqs"));
    if let Some(tensor) = odd {
        return unsupported(format!("tensor {}", tensor.name), "no kernel of this build computes with it");
    }

    let (hidden, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
    if heads == 0 {
        return Err(Error::config(file, &key("attention.head_count"), "0 heads"));
    }
    for leaf in ["rope.dimension_count", "attention.key_length", "attention.value_length"] {
        if let Some(found) = size(leaf)?.filter(|found| *found != hidden / heads) {
            let problem = format!("{found}, but {heads} heads of a hidden size of {hidden} have {}", hidden / heads);
            return Err(Error::config(file, &key(leaf), problem));
        }
    }
    let token = |what: &str| metadata.size(&format!("tokenizer.ggml.{what}_token_id"));
    let mask = token("mask")?.or(named_mask(metadata)?);
    let mask = mask.ok_or_else(|| {
        let problem =
            format!("missing, and none of {MASK_TEXTS:?} is a token; a diffusion model cannot be decoded without");
        Error::config(file, "tokenizer.ggml.mask_token_id", problem)
    })?;
    // llama.cpp's own default where a file does not say.
    let theta = metadata.number(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let eps = key("attention.layer_norm_rms_epsilon");
    let eps = metadata.required(&eps, metadata.number(&eps)?)?;
    let rows = checkpoint.get(EMBEDDING).and_then(|t| t.shape.first().copied());
    let rows = rows.ok_or_else(|| Error::tensor(file, EMBEDDING, "missing"))?;
    Ok(json!({
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": hidden,
        "n_layers": needed("block_count")?,
        "n_heads": heads,
        "n_kv_heads": size("attention.head_count_kv")?.unwrap_or(heads),
        "mlp_hidden_size": needed("feed_forward_length")?,
        "vocab_size": size("vocab_size")?.unwrap_or(rows),
        "embedding_size": rows,
        "max_sequence_length": needed("context_length")?,
        "rope": true,
        "rope_theta": theta,
        "layer_norm_type": "rms",
        "rms_norm_eps": eps,
        "block_type": "llama",
        "activation_type": "silu",
        "weight_tying": checkpoint.get(HEAD).is_none(),
        "mask_token_id": mask,
        "eos_token_id": token("eos")?,
        "bos_token_id": token("bos")?,
        "pad_token_id": token("padding")?,
    }))
}

/// The mask by its text: the converter writes no key for it.
fn named_mask(metadata: &Metadata) -> Result<Option<usize>> {
    let tokens = metadata.list("tokenizer.ggml.tokens", "a list of texts", Value::as_text)?.unwrap_or_default();
    Ok(MASK_TEXTS.iter().find_map(|text| tokens.iter().position(|t| t == text)))
}

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// The names of the tensors. Rows of queries and keys are marked as they lie: the converter reorders them
/// so that the pairs that rotary embedding turns are neighbours.
#[must_use]
pub fn tensors(a: &Architecture, checkpoint: &mut Checkpoint) -> TensorNames {
    let layer = |i: usize| {
        let name = |leaf: &str| format!("blk.{i}.{leaf}.weight");
        LayerNames {
            attention_norm: name("attn_norm"),
            q: name("attn_q"),
            k: name("attn_k"),
            v: name("attn_v"),
            attention_out: name("attn_output"),
            mlp_norm: name("ffn_norm"),
            gate: name("ffn_gate"),
            up: name("ffn_up"),
            down: name("ffn_down"),
        }
    };
    let layers: Vec<_> = (0..a.layers).map(layer).collect();
    for name in layers.iter().flat_map(|l| [&l.q, &l.k]) {
        checkpoint.set_paired(name, a.attention.head_dim);
    }
    TensorNames {
        embedding: EMBEDDING.to_owned(),
        final_norm: "output_norm.weight".to_owned(),
        head: (!a.tied_head).then(|| HEAD.to_owned()),
        layers,
    }
}

/// GPT-2's words: contractions, then letters, digits or other signs with a space before them, then spaces.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// How text is split into words, by llama.cpp's name for it: regular expressions, applied one after the
/// other, and whether a word that is a token is one whatever the merges say.
const SPLITS: &[(&[&str], &[&str], bool)] = &[
    (&["gpt-2", "mpt", "olmo", "jais"], &[GPT2], false),
    (&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], &[r"\p{N}", GPT2], false),
    (&["llama3", "llama-v3", "llama-bpe"], &[LLAMA3], true),
    (&["qwen2", "stablelm2", "megrez"], &[QWEN2], false),
    (&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING], false),
];

/// The tokenizer as a tokenizer.json; `None` where the file has none.
///
/// # Errors
/// [`Error::Tokenizer`] where it is of a kind that this build does not know, or its lists disagree.
pub fn tokenizer(metadata: &Metadata) -> Result<Option<Json>> {
    let refused = |problem: String| Error::Tokenizer { file: metadata.file.clone(), problem };
    let texts = |key| metadata.list(key, "a list of texts", Value::as_text);
    let Some(tokens) = texts("tokenizer.ggml.tokens")? else { return Ok(None) };
    let instead = "give the model's own with --tokenizer tokenizer.json";
    let model = metadata.text("tokenizer.ggml.model")?.unwrap_or("(none)");
    if model != "gpt2" {
        return Err(refused(format!("tokenizer.ggml.model = {model:?} is not known, only \"gpt2\" is; {instead}")));
    }
    let pre = metadata.text("tokenizer.ggml.pre")?.unwrap_or("(none)");
    let Some((_, splits, words_first)) = SPLITS.iter().find(|(names, ..)| names.contains(&pre)) else {
        let known: Vec<_> = SPLITS.iter().flat_map(|(names, ..)| *names).copied().collect();
        let known = known.join(", ");
        return Err(refused(format!("tokenizer.ggml.pre = {pre:?} is not known (known: {known}); {instead}")));
    };
    let kinds = metadata.list("tokenizer.ggml.token_type", "a list of whole numbers", Value::as_unsigned)?;
    let kinds = kinds.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
    let merges = texts("tokenizer.ggml.merges")?.unwrap_or_default();
    if kinds.len() != tokens.len() {
        return Err(refused(format!("{} tokens but {} token types", tokens.len(), kinds.len())));
    }
    let used = tokens.iter().zip(&kinds).enumerate().filter(|(_, (_, kind))| **kind != UNUSED);
    // Added tokens are in the vocabulary too: that is what gives them their ids. No merge leads to them.
    let vocabulary: serde_json::Map<_, _> = used.clone().map(|(id, (t, _))| ((*t).to_owned(), json!(id))).collect();
    let added = used.filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED)).map(|(id, (text, kind))| {
        json!({"id": id, "content": text, "special": *kind == CONTROL, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    });
    let pair = |merge: &&str| {
        let (a, b) = merge.split_once(' ').ok_or_else(|| refused(format!("merge {merge:?} is no pair")))?;
        Ok(json!([a, b]))
    };
    let split =
        |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    Ok(Some(json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": splits.iter().map(split).chain([bytes.clone()]).collect::<Vec<_>>(),
        },
        "decoder": bytes,
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": merges.iter().map(pair).collect::<Result<Vec<_>>>()?,
            "ignore_merges": words_first,
        },
    })))
}

/// Values of `tokenizer.ggml.token_type`.
const NORMAL: u64 = 1;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;

/// Rows of each matrix that [`requantization`] looks at, spread over all of it.
const SAMPLED_ROWS: usize = 16;

/// What becomes of weights whose blocks no format of ours holds exactly, where they are kept in `format` or
/// else in their own: a sentence with the error, measured on rows of every such matrix. `None` where nothing
/// is lost.
///
/// # Errors
/// [`Error::Tensor`] where `format` cannot hold them.
pub fn requantization(
    a: &Architecture,
    names: &TensorNames,
    checkpoint: &Checkpoint,
    format: Option<WeightFormat>,
) -> Result<Option<String>> {
    let tables = [Some(&names.embedding), names.head.as_ref()].into_iter().flatten();
    let tables = tables.map(|name| (name.as_str(), a.embedding_rows, a.hidden));
    let (mut types, mut kept, mut sums, mut matrices) = (Vec::new(), None, [0.0; 2], 0);
    for (name, rows, cols) in tables.chain(names.layers.iter().flat_map(|l| layer_matrices(a, l))) {
        let matrix = Matrix::open(checkpoint, name, rows, cols)?;
        let format = format.unwrap_or(matrix.format);
        let Some(blocks) = matrix.requantized(format) else { continue };
        if !types.contains(&blocks.name()) {
            types.push(blocks.name());
        }
        kept = Some(format);
        matrices += 1;
        for row in (0..rows).step_by(rows.div_ceil(SAMPLED_ROWS)) {
            let [lost, all] = matrix.loss(row..row + 1, format)?;
            sums = [sums[0] + lost, sums[1] + all];
        }
    }
    Ok(kept.map(|format| {
        let percent = 100.0 * (sums[0] / sums[1].max(f64::MIN_POSITIVE)).sqrt();
        let types = types.join(", ");
        format!("{matrices} matrices of {types} are kept as {format}: they change by {percent:.2} % (RMS, on a sample)")
    }))
}
