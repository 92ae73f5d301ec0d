//! Golden cases: a checkpoint, logits that a reference implementation computed for it, and texts that
//! the reference generated. They tell a user whether a device and its driver compute right.
//!
//! A golden folder holds `golden.json` and `golden.safetensors` (directly or in a `golden` folder)
//! beside the model's own files:
//! - `golden.safetensors`: `input_ids` `[batch, T]` int64 and `logits` `[batch, T, V]` float32;
//! - `golden.json`: `{"cases": [...]}`, all greedy. A diffusion model's: `{"prompt": ids, "gen_length", "steps",
//!   "block_length", "expect": ids, "forward_passes"?, "threshold"?, "cfg_scale"?, "algorithm"? or "cache"?}`. An
//!   autoregressive model's: `{"algorithm": "greedy", "prompt": ids, "max_new_tokens", "expect": ids}`.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Row, Select, TokenSet};
use crate::checkpoint::{Bytes, Checkpoint, DType};
use crate::decode::{Acceptance, Cache, DecodeOptions, Order, StepReport, Vocabulary, Work, generate};
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::model::Model;
use crate::scheduler::{forward, logits};

/// A golden folder's contents.
pub struct Golden {
    /// Input ids, one list a sequence.
    pub inputs: Vec<Vec<u32>>,
    /// The reference's logits of all inputs, `[batch, T, width]`.
    pub logits: Vec<f32>,
    /// Logits of one row.
    pub width: usize,
    /// Generations.
    pub cases: Vec<Case>,
}

/// One generation of the reference.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Decoder, as the llada folders name it.
    #[serde(default)]
    algorithm: Option<String>,
    /// Cache, as the tales folder names it.
    #[serde(default)]
    cache: Option<String>,
    /// Prompt ids.
    pub prompt: Vec<u32>,
    /// Holes after the prompt, or tokens that are written at most.
    #[serde(alias = "max_new_tokens")]
    pub gen_length: usize,
    /// Steps over all blocks; an autoregressive model has none.
    #[serde(default)]
    pub steps: Option<usize>,
    /// Block length.
    #[serde(default)]
    pub block_length: Option<usize>,
    /// Confidence threshold, if the case uses one.
    #[serde(default)]
    pub threshold: Option<f32>,
    /// Guidance strength.
    #[serde(default)]
    pub cfg_scale: f32,
    /// Passes the reference ran, if it counted them.
    #[serde(default)]
    pub forward_passes: Option<u32>,
    /// Ids of the whole canvas at the end.
    pub expect: Vec<u32>,
}

/// Largest absolute logit error and relative L2 error that pass in float32.
pub const LOGIT_TOLERANCE: (f64, f64) = (1e-3, 1e-4);

impl Golden {
    /// Reads golden.json and golden.safetensors.
    ///
    /// # Errors
    /// [`Error::Golden`] where they are not of the form above.
    pub fn from_parts(file: &str, cases: &str, tensors: Bytes) -> Result<Self> {
        #[derive(Deserialize)]
        struct Cases {
            cases: Vec<Case>,
        }
        let broken = |problem: String| Error::Golden { file: file.to_owned(), problem };
        let cases: Cases =
            crate::json::from_slice(cases.as_bytes()).map_err(|e| broken(format!("golden.json: {e}")))?;
        let checkpoint = Checkpoint::from_bytes(&format!("{file}/golden.safetensors"), tensors)?;
        let missing = |name: &str| broken(format!("golden.safetensors has no usable {name}"));
        let ids = checkpoint
            .get("input_ids")
            .filter(|t| t.dtype == DType::I64 && t.shape.len() == 2)
            .ok_or_else(|| missing("input_ids [batch, T] int64"))?;
        let logits = checkpoint
            .get("logits")
            .filter(|t| t.dtype == DType::F32 && t.shape.len() == 3 && t.shape[..2] == *ids.shape)
            .ok_or_else(|| missing("logits [batch, T, V] float32"))?;
        let bytes = ids.bytes()?;
        let numbers = bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b));
        let numbers = numbers.map(u32::try_from).collect::<Result<Vec<_>, _>>();
        let numbers = numbers.map_err(|_| broken("input_ids holds a negative or huge id".to_owned()))?;
        Ok(Self {
            inputs: numbers.chunks(ids.shape[1].max(1)).map(<[u32]>::to_vec).collect(),
            width: logits.shape[2],
            logits: logits.to_f32()?,
            cases: cases.cases,
        })
    }

    /// Reads a golden folder; see the module's head for its layout.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Golden`], naming the file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(folder: &std::path::Path) -> Result<Self> {
        let nested = folder.join("golden");
        let at = if nested.is_dir() { nested } else { folder.to_path_buf() };
        let json = at.join("golden.json");
        let text = crate::text::read(&json)?;
        Self::from_parts(&at.display().to_string(), &text, Bytes::map(&at.join("golden.safetensors"))?)
    }
}

impl Case {
    /// What the case runs, in a few words.
    #[must_use]
    pub fn label(&self) -> String {
        let cache = self.cache.as_deref().filter(|c| *c != "full");
        let algorithm = self.algorithm.as_deref().filter(|a| *a != "llada");
        let mut label = algorithm.or(cache).unwrap_or("plain").to_owned();
        label += &format!(" {}", self.gen_length);
        if let Some((block, steps)) = self.block_length.zip(self.steps) {
            label += &format!("/{block}/{steps}");
        } else {
            label += &format!(" after {}", self.prompt.len());
        }
        if let Some(t) = self.threshold {
            label += &format!(" threshold {t}");
        }
        if self.cfg_scale > 0.0 {
            label += &format!(" cfg {}", self.cfg_scale);
        }
        label
    }

    /// The case's cache, whichever key names it; `None` for a name that this build does not know.
    fn cache(&self) -> Option<Cache> {
        match (self.algorithm.as_deref(), self.cache.as_deref()) {
            (None | Some("llada"), None | Some("full")) => Some(Cache::None),
            (Some("fast-dllm prefix cache"), None) | (None, Some("prefix")) => Some(Cache::Prefix),
            (Some("fast-dllm dual cache"), None) | (None, Some("dual")) => Some(Cache::Dual),
            _ => None,
        }
    }

    /// Whether an autoregressive model's likeliest tokens are asked for.
    fn is_greedy(&self) -> bool {
        self.algorithm.as_deref() == Some("greedy")
    }

    /// Decoder settings of the case; `None` where it asks for what this build does not have.
    #[must_use]
    pub fn options(&self) -> Option<DecodeOptions> {
        if self.is_greedy() {
            // Wherever the reference ended: what counts are the tokens.
            let max_tokens = self.expect.len().checked_sub(self.prompt.len())?;
            return Some(DecodeOptions { max_tokens, ignore_eos: true, ..DecodeOptions::default() });
        }
        Some(DecodeOptions {
            max_tokens: self.gen_length,
            steps: self.steps?,
            block_length: self.block_length?,
            acceptance: self.threshold.map_or(Acceptance::Quota(Order::LowConfidence), Acceptance::Threshold),
            cfg_scale: self.cfg_scale,
            cache: self.cache()?,
            ..DecodeOptions::default()
        })
    }
}

/// How logits compare with the reference's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LogitError {
    /// Largest absolute difference.
    pub max_abs: f64,
    /// L2 norm of the difference over the reference's.
    pub relative_l2: f64,
}

impl LogitError {
    /// Compares `computed` with `reference`, element by element. NaN anywhere gives infinite errors.
    #[must_use]
    pub fn between(computed: &[f32], reference: &[f32]) -> Self {
        let (mut max_abs, mut difference, mut norm) = (0f64, 0f64, 0f64);
        for (c, r) in computed.iter().zip(reference) {
            let d = f64::from(*c) - f64::from(*r);
            max_abs = if d.is_finite() { max_abs.max(d.abs()) } else { f64::INFINITY };
            difference += d * d;
            norm += f64::from(*r).powi(2);
        }
        let relative = (difference / norm.max(f64::MIN_POSITIVE)).sqrt();
        let same_length = computed.len() == reference.len();
        if !same_length || !relative.is_finite() || !max_abs.is_finite() {
            return Self { max_abs: f64::INFINITY, relative_l2: f64::INFINITY };
        }
        Self { max_abs, relative_l2: relative }
    }

    /// Whether both errors are within [`LOGIT_TOLERANCE`].
    #[must_use]
    pub fn passes(&self) -> bool {
        self.max_abs <= LOGIT_TOLERANCE.0 && self.relative_l2 <= LOGIT_TOLERANCE.1
    }
}

/// How a generation compares with the reference's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// What was run.
    pub label: String,
    /// First canvas position whose id differs; `None` where the canvases are identical.
    pub first_difference: Option<usize>,
    /// Passes we ran.
    pub forward_passes: u32,
    /// Passes the reference ran.
    pub reference_passes: Option<u32>,
}

impl CaseResult {
    /// Identical ids, and passes at most the reference's.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.first_difference.is_none() && self.reference_passes.is_none_or(|r| self.forward_passes <= r)
    }
}

/// Computes the golden inputs' logits on `backend` and compares them.
///
/// # Errors
/// [`Error::Golden`] where golden and model do not fit; [`Error::Backend`].
pub async fn check_logits(backend: &mut dyn Backend, model: &Model, golden: &Golden) -> Result<LogitError> {
    let a = &model.architecture;
    if golden.width != a.embedding_rows {
        let problem = format!("golden logits are {} wide, the model's head {}", golden.width, a.embedding_rows);
        return Err(Error::Golden { file: model.origin.clone(), problem });
    }
    let mut computed = Vec::with_capacity(golden.logits.len());
    for input in &golden.inputs {
        let mut lease = Lease::new(backend, 1, input.len())?;
        let store = lease.store();
        let row = |(position, token): (usize, &u32)| Row::of_canvas(a, store, position, *token, input.len());
        let rows: Vec<_> = input.iter().enumerate().map(row).collect();
        let select: Vec<_> = (0..rows.len()).map(|row| Select::logits(row, row)).collect();
        let work = Work { rows, select, ..Work::default() };
        computed.extend(logits(lease.backend(), &work).await?);
    }
    Ok(LogitError::between(&computed, &golden.logits))
}

/// First position after the prompt whose expected token is not the likeliest after those before it.
async fn recomputed(
    backend: &mut dyn Backend,
    model: &Model,
    vocabulary: &Vocabulary,
    case: &Case,
) -> Result<Option<usize>> {
    let (a, text) = (&model.architecture, &case.expect);
    let mut lease = Lease::new(backend, 1, text.len())?;
    let store = lease.store();
    let row = |(position, token): (usize, &u32)| Row::of_canvas(a, store, position, *token, text.len());
    let asked = case.prompt.len()..text.len();
    let work = Work {
        rows: text.iter().enumerate().map(row).collect(),
        select: asked.clone().map(|position| Select::likeliest(position - 1, position)).collect(),
        suppressed: vec![vocabulary.suppressed.clone()],
        ..Work::default()
    };
    let answers = forward(lease.backend(), &work).await?;
    let likeliest = answers.into_iter().filter_map(|answer| answer.candidate()).map(|c| c.token);
    Ok(asked.zip(likeliest).find(|(position, token)| text[*position] != *token).map(|(position, _)| position))
}

/// Runs one case on `backend`; `None` where this build does not have its decoder.
///
/// # Errors
/// As [`generate`].
pub async fn check_case(backend: &mut dyn Backend, model: &Model, case: &Case) -> Result<Option<CaseResult>> {
    let greedy = case.is_greedy() && !model.architecture.is_diffusion();
    let Some(options) = case.options().filter(|_| greedy || model.architecture.is_diffusion()) else { return Ok(None) };
    let mut vocabulary = Vocabulary::clone(&model.vocabulary);
    // The references suppress the mask id and everything above it while generating.
    let mut suppressed = TokenSet::clone(&vocabulary.suppressed);
    for id in vocabulary.mask.unwrap_or(u32::MAX)..model.architecture.embedding_rows as u32 {
        suppressed.insert(id);
    }
    vocabulary.suppressed = suppressed.into();
    let vocabulary = Arc::new(vocabulary);
    let watch = &mut |_: &StepReport| ControlFlow::Continue(());
    let done = generate(backend, &model.architecture, &vocabulary, &case.prompt, &options, watch).await?;
    let ids = done.canvas.tokens();
    let first_difference = if ids.len() == case.expect.len() {
        ids.iter().zip(&case.expect).position(|(a, b)| a != b)
    } else {
        Some(ids.len().min(case.expect.len()))
    };
    // Without keys and values of earlier passes: all rows of the expected text at once.
    let recomputed = if greedy { recomputed(backend, model, &vocabulary, case).await? } else { None };
    let first_difference = first_difference.into_iter().chain(recomputed).min();
    Ok(Some(CaseResult {
        label: case.label(),
        first_difference,
        forward_passes: done.forward_passes,
        reference_passes: case.forward_passes,
    }))
}
