//! Models in one GGUF file, as llama.cpp's converter writes them: its metadata as a config.json, and its tensors.
//! What follows from here on is what every other model goes through.

use serde_json::{Map, Value as Json, json};

use crate::architecture::Architecture;
use crate::chat::ChatTemplate;
use crate::checkpoint::gguf::{Metadata, Value};
use crate::checkpoint::{Checkpoint, Matrix, WeightFormat};
use crate::error::{Error, Result};
use crate::families::Family;
use crate::tensors::{self, BlockRole, Role, Stored, TensorKind, TensorSpec};
use crate::tokenizer::MASK_TEXTS;

/// What `general.architecture` may say, and the family that it leads to.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("llada", "LLaDAModelLM"),
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gemma3", "Gemma3ForCausalLM"),
    ("phi2", "PhiForCausalLM"),
    ("gpt2", "GPT2LMHeadModel"),
];

/// Metadata below the prefix of a file's architecture.
struct Source<'a> {
    metadata: &'a Metadata,
    checkpoint: &'a Checkpoint,
    name: &'static str,
    family: &'static str,
}

impl Source<'_> {
    fn key(&self, leaf: &str) -> String {
        format!("{}.{leaf}", self.name)
    }

    fn size(&self, leaf: &str) -> Result<Option<usize>> {
        self.metadata.size(&self.key(leaf))
    }

    fn needed(&self, leaf: &str) -> Result<usize> {
        self.metadata.required(&self.key(leaf), self.size(leaf)?)
    }

    fn number(&self, leaf: &str) -> Result<Option<f64>> {
        self.metadata.number(&self.key(leaf))
    }

    fn token(&self, what: &str) -> Result<Option<usize>> {
        self.metadata.size(&format!("tokenizer.ggml.{what}_token_id"))
    }

    fn has(&self, tensor: &str) -> bool {
        self.checkpoint.get(tensor).is_some()
    }

    fn unsupported<T>(&self, what: &str, why: &str) -> Result<T> {
        Err(Error::Unsupported { what: format!("{}: {what}", self.metadata.file), why: why.to_owned() })
    }

    /// Elements of a head.
    fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize> {
        let file = &self.metadata.file;
        let (key, value) = (self.size("attention.key_length")?, self.size("attention.value_length")?);
        if let Some((key, value)) = key.zip(value).filter(|(key, value)| key != value) {
            return self.unsupported(
                &format!(
                    "{} = {key}, {} = {value}",
                    self.key("attention.key_length"),
                    self.key("attention.value_length")
                ),
                "no kernel computes keys and values of different lengths",
            );
        }
        if heads == 0 {
            return Err(Error::config(file, &self.key("attention.head_count"), "0 heads"));
        }
        match key.or(value) {
            Some(own) if self.name != "llada" => Ok(own),
            None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
            Some(own) if own == hidden / heads => Ok(own),
            Some(other) => {
                let problem =
                    format!("{other}, but {heads} heads of a hidden size of {hidden} have {}", hidden / heads);
                Err(Error::config(file, &self.key("attention.key_length"), problem))
            }
            None => {
                let problem = format!("{heads} heads do not divide the hidden size {hidden}");
                Err(Error::config(file, &self.key("attention.head_count"), problem))
            }
        }
    }

    /// `rope_scaling` of config.json.
    fn scaling(&self) -> Result<Json> {
        let factor = self.number("rope.scaling.factor")?;
        let kind = self.metadata.text(&self.key("rope.scaling.type"))?;
        if let Some(factors) = self.checkpoint.get("rope_freqs.weight") {
            let factors: Vec<_> = factors.to_f32()?.into_iter().map(f64::from).collect();
            return Ok(json!({"rope_type": "factors", "factors": factors}));
        }
        match (kind.unwrap_or(if factor.is_some() { "linear" } else { "none" }), factor) {
            ("none", None | Some(1.0)) | ("linear" | "yarn", None | Some(1.0)) => Ok(Json::Null),
            ("linear", Some(factor)) => Ok(json!({"rope_type": "linear", "factor": factor})),
            ("yarn", Some(factor)) => {
                let original = self.needed("rope.scaling.original_context_length")?;
                let mut scaling =
                    json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original});
                for (leaf, name) in [
                    ("rope.scaling.attn_factor", "attention_factor"),
                    ("rope.scaling.yarn_beta_fast", "beta_fast"),
                    ("rope.scaling.yarn_beta_slow", "beta_slow"),
                ] {
                    if let Some(value) = self.number(leaf)? {
                        scaling[name] = json!(value);
                    }
                }
                Ok(scaling)
            }
            (other, _) => self.unsupported(
                &format!("{} = {other}", self.key("rope.scaling.type")),
                "supported here: none, linear, yarn",
            ),
        }
    }
}

/// The metadata as the config.json of the model's family.
///
/// # Errors
/// [`Error::UnknownArchitecture`]; [`Error::Config`] for a key that is missing or mistyped;
/// [`Error::Unsupported`] for a setting that would change the result and that no kernel computes.
pub fn config(metadata: &Metadata, checkpoint: &Checkpoint) -> Result<Json> {
    let file = &metadata.file;
    let found = metadata.required("general.architecture", metadata.text("general.architecture")?)?;
    let Some((name, family)) = ARCHITECTURES.iter().find(|(name, _)| *name == found) else {
        let known: Vec<_> = ARCHITECTURES.iter().map(|(name, _)| format!("{name:?}")).collect();
        return Err(Error::UnknownArchitecture {
            file: file.clone(),
            found: format!("{found:?}"),
            known: format!("{} in GGUF files", known.join(", ")),
        });
    };
    let source = Source { metadata, checkpoint, name, family };
    let diffusion = *name == "llada";
    for (key, expected) in [(source.key("attention.causal"), !diffusion), ("diffusion.shift_logits".to_owned(), false)]
    {
        if metadata.flag(&key)?.is_some_and(|on| on != expected) {
            return source.unsupported(&format!("{key} = {}", !expected), "models of this family were not trained so");
        }
    }
    for leaf in ["attn_logit_softcapping", "final_logit_softcapping", "expert_count"] {
        if source.number(leaf)?.is_some_and(|v| v != 0.0) {
            return source.unsupported(&source.key(leaf), "no kernel of this build computes it");
        }
    }
    let rows = checkpoint.get(EMBEDDING).and_then(|t| t.shape.first().copied());
    let rows = rows.ok_or_else(|| Error::tensor(file, EMBEDDING, "missing"))?;
    let mut config = json!({
        "architectures": [family],
        "bos_token_id": source.token("bos")?,
        "pad_token_id": source.token("padding")?,
    });
    let own = match *name {
        "llada" => llada(&source, rows)?,
        "gpt2" => gpt2(&source, rows)?,
        "phi2" => phi2(&source, rows)?,
        _ => llama(&source, rows)?,
    };
    if let Some(config) = config.as_object_mut() {
        config.extend(own);
        config.entry("eos_token_id").or_insert(json!(ends(&source)?));
    }
    Ok(config)
}

/// Ids that end a text or a turn.
fn ends(source: &Source) -> Result<Vec<usize>> {
    let mut ends = Vec::new();
    for what in ["eos", "eot", "eom"] {
        ends.extend(source.token(what)?.filter(|id| !ends.contains(id)));
    }
    Ok(ends)
}

fn object(value: Json) -> Map<String, Json> {
    if let Json::Object(map) = value { map } else { Map::new() }
}

/// Llama, Mistral, Qwen and Gemma share their keys.
fn llama(source: &Source, rows: usize) -> Result<Map<String, Json>> {
    let (hidden, heads) = (source.needed("embedding_length")?, source.needed("attention.head_count")?);
    let head_dim = source.head_dim(hidden, heads)?;
    if let Some(rotated) = source.size("rope.dimension_count")?.filter(|dims| *dims != head_dim) {
        let why = "no checkpoint of this family rotates a part of its heads";
        return source.unsupported(&format!("{} = {rotated}", source.key("rope.dimension_count")), why);
    }
    let eps = source.key("attention.layer_norm_rms_epsilon");
    let mut config = object(json!({
        "hidden_size": hidden,
        "num_hidden_layers": source.needed("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": source.size("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "intermediate_size": source.needed("feed_forward_length")?,
        "vocab_size": rows,
        "max_position_embeddings": source.needed("context_length")?,
        "rms_norm_eps": source.metadata.required(&eps, source.metadata.number(&eps)?)?,
        // llama.cpp's own default where a file does not say.
        "rope_theta": source.number("rope.freq_base")?.unwrap_or(10_000.0),
        "rope_scaling": source.scaling()?,
        "tie_word_embeddings": !source.has(HEAD),
        "attention_bias": source.has("blk.0.attn_output.bias"),
        "mlp_bias": source.has("blk.0.ffn_down.bias"),
    }));
    let window = source.size("attention.sliding_window")?;
    match source.family {
        "Gemma3ForCausalLM" => {
            // llama.cpp knows the 27B model, whose scale is another, by its number of layers.
            let scalar = if source.needed("block_count")? == 62 { hidden / heads } else { head_dim };
            let local = source.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
            let pattern = source.metadata.size(&source.key("attention.sliding_window_pattern")).ok().flatten();
            config.extend(object(json!({
                "query_pre_attn_scalar": scalar,
                "sliding_window": window,
                "sliding_window_pattern": pattern,
                "rope_local_base_freq": local,
            })));
        }
        "LlamaForCausalLM" if window.is_some() => {
            config.extend(object(json!({"architectures": ["MistralForCausalLM"], "sliding_window": window})));
        }
        _ => {}
    }
    Ok(config)
}

fn gpt2(source: &Source, rows: usize) -> Result<Map<String, Json>> {
    let eps = source.key("attention.layer_norm_epsilon");
    Ok(object(json!({
        "n_embd": source.needed("embedding_length")?,
        "n_layer": source.needed("block_count")?,
        "n_head": source.needed("attention.head_count")?,
        "n_positions": source.needed("context_length")?,
        "n_inner": source.size("feed_forward_length")?,
        "vocab_size": rows,
        "layer_norm_epsilon": source.metadata.required(&eps, source.metadata.number(&eps)?)?,
        "activation_function": "gelu_new",
        "tie_word_embeddings": !source.has(HEAD),
    })))
}

fn phi2(source: &Source, rows: usize) -> Result<Map<String, Json>> {
    let (hidden, heads) = (source.needed("embedding_length")?, source.needed("attention.head_count")?);
    let head_dim = source.head_dim(hidden, heads)?;
    let eps = source.key("attention.layer_norm_epsilon");
    Ok(object(json!({
        "hidden_size": hidden,
        "num_hidden_layers": source.needed("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": source.size("attention.head_count_kv")?.unwrap_or(heads),
        "intermediate_size": source.needed("feed_forward_length")?,
        "vocab_size": rows,
        "max_position_embeddings": source.needed("context_length")?,
        "layer_norm_eps": source.metadata.required(&eps, source.metadata.number(&eps)?)?,
        "rope_theta": source.number("rope.freq_base")?.unwrap_or(10_000.0),
        "rope_scaling": source.scaling()?,
        "partial_rotary_factor": source.needed("rope.dimension_count")? as f64 / head_dim as f64,
        "hidden_act": "gelu_new",
        "tie_word_embeddings": !source.has(HEAD),
    })))
}

fn llada(source: &Source, rows: usize) -> Result<Map<String, Json>> {
    let file = &source.metadata.file;
    let (hidden, heads) = (source.needed("embedding_length")?, source.needed("attention.head_count")?);
    let head_dim = source.head_dim(hidden, heads)?;
    if let Some(found) = source.size("rope.dimension_count")?.filter(|found| *found != head_dim) {
        let problem = format!("{found}, but {heads} heads of a hidden size of {hidden} have {head_dim}");
        return Err(Error::config(file, &source.key("rope.dimension_count"), problem));
    }
    let mask = source.token("mask")?.or(named_mask(source.metadata)?);
    let mask = mask.ok_or_else(|| {
        let problem =
            format!("missing, and none of {MASK_TEXTS:?} is a token; a diffusion model cannot be decoded without");
        Error::config(file, "tokenizer.ggml.mask_token_id", problem)
    })?;
    let eps = source.key("attention.layer_norm_rms_epsilon");
    Ok(object(json!({
        "model_type": "llada",
        "d_model": hidden,
        "n_layers": source.needed("block_count")?,
        "n_heads": heads,
        "n_kv_heads": source.size("attention.head_count_kv")?.unwrap_or(heads),
        "mlp_hidden_size": source.needed("feed_forward_length")?,
        "vocab_size": source.size("vocab_size")?.unwrap_or(rows),
        "embedding_size": rows,
        "max_sequence_length": source.needed("context_length")?,
        "rope": true,
        "rope_theta": source.number("rope.freq_base")?.unwrap_or(10_000.0),
        "rope_scaling": source.scaling()?,
        "layer_norm_type": "rms",
        "rms_norm_eps": source.metadata.required(&eps, source.metadata.number(&eps)?)?,
        "block_type": "llama",
        "activation_type": "silu",
        "weight_tying": !source.has(HEAD),
        "mask_token_id": mask,
        "eos_token_id": source.token("eos")?,
    })))
}

/// The mask by its text: the converter writes no key for it.
fn named_mask(metadata: &Metadata) -> Result<Option<usize>> {
    let tokens = metadata.list("tokenizer.ggml.tokens", "a list of texts", Value::as_text)?.unwrap_or_default();
    Ok(MASK_TEXTS.iter().find_map(|text| tokens.iter().position(|t| t == text)))
}

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// The tensors. Rows of queries and keys are marked as they lie: for some architectures the converter reorders
/// them so that the pairs that rotary embedding turns are neighbours.
///
/// # Errors
/// [`Error::Unsupported`] for a tensor that no kernel computes with: leaving it out would change the result.
pub fn tensors(metadata: &Metadata, a: &Architecture, checkpoint: &Checkpoint) -> Result<Vec<TensorSpec>> {
    let name = metadata.text("general.architecture")?.unwrap_or_default();
    let pairs = matches!(name, "llada" | "llama");
    let has = |name: &str| checkpoint.get(name).is_some();
    let specs = tensors::list(a, &|role| {
        let plain = |name: &str| vec![(name.to_owned(), Stored::default())];
        let (set, role) = match role {
            Role::Embedding => return plain(EMBEDDING),
            Role::Positions => return plain("position_embd.weight"),
            Role::FinalNorm => return plain("output_norm.weight"),
            Role::FinalNormBias => return plain("output_norm.bias"),
            Role::Head => return plain(HEAD),
            Role::HeadBias => return plain("output.bias"),
            Role::Block(set, role) => (set, role),
        };
        let head_dim = a.distinct_blocks().nth(set).map_or(0, |block| block.attention.head_dim);
        let paired = Stored { paired: pairs.then_some(head_dim), ..Stored::default() };
        let full = |leaf: &str| format!("blk.{set}.{leaf}");
        let one = |leaf: &str| vec![(full(leaf), Stored::default())];
        match role {
            BlockRole::AttentionNorm => one("attn_norm.weight"),
            BlockRole::AttentionNormBias => one("attn_norm.bias"),
            BlockRole::Qkv | BlockRole::QkvBias => {
                let kind = if role == BlockRole::Qkv { "weight" } else { "bias" };
                let fused = full(&format!("attn_qkv.{kind}"));
                if has(&fused) {
                    return vec![(fused, Stored::default())];
                }
                let part = |(leaf, stored)| (full(&format!("{leaf}.{kind}")), stored);
                [("attn_q", paired), ("attn_k", paired), ("attn_v", Stored::default())].map(part).into()
            }
            BlockRole::QueryNorm => one("attn_q_norm.weight"),
            BlockRole::KeyNorm => one("attn_k_norm.weight"),
            BlockRole::AttentionOut => one("attn_output.weight"),
            BlockRole::AttentionOutBias => one("attn_output.bias"),
            BlockRole::AfterAttentionNorm => one("post_attention_norm.weight"),
            BlockRole::FeedForwardNorm => one("ffn_norm.weight"),
            BlockRole::FeedForwardNormBias => one("ffn_norm.bias"),
            BlockRole::Up | BlockRole::UpBias => {
                let kind = if role == BlockRole::Up { "weight" } else { "bias" };
                let gate = full(&format!("ffn_gate.{kind}"));
                let up = full(&format!("ffn_up.{kind}"));
                let names = if has(&gate) { vec![gate, up] } else { vec![up] };
                names.into_iter().map(|name| (name, Stored::default())).collect()
            }
            BlockRole::Down => one("ffn_down.weight"),
            BlockRole::DownBias => one("ffn_down.bias"),
            BlockRole::AfterFeedForwardNorm => one("post_ffw_norm.weight"),
        }
    });
    let known = |name: &str| name == "rope_freqs.weight" || specs.iter().any(|spec| spec.name == name);
    if let Some(odd) = checkpoint.tensors().find(|t| !known(t.name)) {
        return Err(Error::Unsupported {
            what: format!("{}: tensor {}", metadata.file, odd.name),
            why: format!("no kernel of this build computes with it in a model of architecture {name}"),
        });
    }
    Ok(specs)
}

/// Rows of each matrix that [`requantization`] looks at, spread over all of it.
const SAMPLED_ROWS: usize = 16;

/// The chat templates in a file's metadata (`tokenizer.chat_template` and `tokenizer.chat_template.NAME`), or the
/// family's own; `None` where there is none. `token` gives the text of what templates call `bos_token` or
/// `eos_token`.
///
/// # Errors
/// [`Error::Config`] where a template is no text, [`Error::Tokenizer`] where it does not parse.
pub fn chat_template(
    origin: &str,
    metadata: &Metadata,
    family: &Family,
    token: impl Fn(&str) -> Option<String>,
) -> Result<Option<ChatTemplate>> {
    let key = "tokenizer.chat_template";
    let mut named = Vec::from_iter(metadata.text(key)?.map(|source| ("default", source)));
    for name in metadata.behind("tokenizer.chat_template.") {
        named.extend(metadata.text(&format!("{key}.{name}"))?.map(|source| (name, source)));
    }
    let mut tokens = Vec::from(["bos_token", "eos_token"].map(|name| (name, token(name).unwrap_or_default())));
    let texts = metadata.list("tokenizer.ggml.tokens", "a list of texts", Value::as_text)?.unwrap_or_default();
    for (name, key) in [("unk_token", "unknown"), ("pad_token", "padding"), ("sep_token", "seperator")] {
        let id = metadata.size(&format!("tokenizer.ggml.{key}_token_id"))?;
        tokens.extend(id.and_then(|id| texts.get(id)).map(|text| (name, (*text).to_owned())));
    }
    let tokens = tokens.into_iter().map(|(name, text)| (name.to_owned(), text));
    match (named.is_empty(), family.chat_template) {
        (true, None) => Ok(None),
        (true, Some(own)) => {
            ChatTemplate::from_named("(the family's chat template)", [("default", own)], tokens).map(Some)
        }
        (false, _) => ChatTemplate::from_named(origin, named, tokens).map(Some),
    }
}

/// What becomes of quantised weights that are not kept as they are, a sentence: where they are requantised, as
/// another `format` asks for, with the error, measured on rows of every such matrix; where none was asked for, which
/// types are expanded because no format holds them. `None` where all are as they were.
///
/// # Errors
/// [`Error::Tensor`] where `format` cannot hold them.
pub fn requantization(
    tensors: &[TensorSpec],
    checkpoint: &Checkpoint,
    format: Option<WeightFormat>,
) -> Result<Option<String>> {
    let (mut types, mut matrices, mut sums, mut bytes) = (Vec::new(), 0, [0.0; 2], [0; 2]);
    for spec in tensors.iter().filter(|spec| spec.kind == TensorKind::Matrix) {
        let matrix = Matrix::of(checkpoint, spec)?;
        let Some(blocks) = format.map_or_else(|| matrix.expanded(), |f| matrix.requantized(f)) else { continue };
        if !types.contains(&blocks.name()) {
            types.push(blocks.name());
        }
        matrices += 1;
        bytes[0] += matrix.stored_bytes();
        bytes[1] += matrix.format.bytes(spec.rows, spec.cols) as u64;
        for row in (0..spec.rows).step_by(spec.rows.div_ceil(SAMPLED_ROWS).max(1)).filter(|_| format.is_some()) {
            let [lost, all] = matrix.loss(row..row + 1, format.unwrap_or(matrix.format))?;
            sums = [sums[0] + lost, sums[1] + all];
        }
    }
    let types = types.join(", ");
    Ok((matrices > 0).then(|| match format {
        Some(format) => {
            let percent = 100.0 * (sums[0] / sums[1].max(f64::MIN_POSITIVE)).sqrt();
            format!(
                "{matrices} matrices of {types} are kept as {format}: they change by {percent:.2} % (RMS, on a sample)"
            )
        }
        None => {
            let [stored, expanded] = bytes.map(|b| b as f64 / 1e6);
            format!(
                "{matrices} matrices of {types} are expanded from {stored:.1} to {expanded:.1} MB (half of that where f16 holds a matrix exactly); --weights q8 takes less and changes them"
            )
        }
    }))
}
