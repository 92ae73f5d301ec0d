//! Options that choose a model and a device, shared by the commands that need them.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use remask_core::checkpoint::WeightFormat;
use remask_core::{Backend, BackendError, Error, Model};
use remask_wgpu::{ADAPTER_VARIABLE, Gpu, LimitChoice, SharedGpu};

use crate::backend::BackendName;
use crate::bundled::{self, Named};
use crate::report::tell;

/// Which device, and how weights are kept on it.
#[derive(Args, Debug, Clone)]
pub struct DeviceArgs {
    /// What computes
    #[arg(long, env = "REMASK_BACKEND", value_enum, default_value = "auto")]
    pub backend: BackendName,
    /// Adapter of the wgpu backend, by index or part of its name (see `remask devices`); the best one
    /// by default
    #[arg(long, env = ADAPTER_VARIABLE, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
    /// Keep weights on the device as f32, f16, bf16, q8 or q4; as the checkpoint stores them by default
    /// (GGUF's quantised types as well), but bf16 as f16 where that lets matrix units compute and f16 holds
    /// the weights
    #[arg(long, env = "REMASK_WEIGHTS", value_name = "FORMAT")]
    pub weights: Option<WeightFormat>,
    /// Use no more than WebGPU's default limits, as a browser would
    #[arg(long, env = "REMASK_WEBGPU_LIMITS", value_parser = BoolishValueParser::new())]
    pub webgpu_limits: bool,
    /// The same bits for a text whatever shares its passes, on matrix units too (elsewhere it is always so): the order
    /// of sums then depends on the matrix alone, which costs time where rows are few
    #[arg(long, env = "REMASK_BATCH_INVARIANT")]
    pub batch_invariant: bool,
    /// The device, once it is open: all models are on one.
    #[arg(skip)]
    opened: SharedGpu,
}

impl DeviceArgs {
    /// Opens the adapter.
    pub fn open(&self) -> Result<Gpu, BackendError> {
        remask::open_gpu(&self.opened, self.adapter.as_deref(), self.limits())
    }

    /// Opens the best adapter that is a GPU, where there is one.
    pub fn open_hardware(&self) -> Result<Option<Gpu>, BackendError> {
        remask::open_hardware(&self.opened, self.limits())
    }

    fn limits(&self) -> LimitChoice {
        if self.webgpu_limits { LimitChoice::WebGpuDefault } else { LimitChoice::Adapter }
    }

    /// Opens the backend and moves `model` to it, with a progress bar where someone watches.
    pub fn load(&self, model: &Model) -> Result<Box<dyn Backend>, BackendError> {
        self.load_on(self.backend, model)
    }

    /// As [`DeviceArgs::load`], with the backend of this name.
    pub fn load_on(&self, backend: BackendName, model: &Model) -> Result<Box<dyn Backend>, BackendError> {
        let bar = ProgressBar::new(model.checkpoint.total_bytes());
        if let Ok(style) = ProgressStyle::with_template("loading {bar:30} {bytes}/{total_bytes} {bytes_per_sec}") {
            bar.set_style(style);
        }
        let loaded = backend.open(self, model, &mut |bytes| bar.set_position(bytes));
        bar.finish_and_clear();
        if let Some(note) = model.requantization(self.weights).map_err(|e| BackendError::Weights(e.to_string()))? {
            tell("note", &note);
        }
        loaded
    }
}

/// A tokenizer that goes before the model's.
#[derive(Args, Debug, Clone, Default)]
pub struct TokenizerArgs {
    /// This tokenizer.json in place of the model's own, for GGUF files whose tokenizer is not known here
    #[arg(long, env = "REMASK_TOKENIZER", value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

/// Opens a model folder or file, or a bundled model by name.
pub fn open_model(name: &str) -> Result<Model, Error> {
    open_model_with(name, &TokenizerArgs::default())
}

/// As [`open_model`], with a tokenizer of its own.
pub fn open_model_with(name: &str, tokenizer: &TokenizerArgs) -> Result<Model, Error> {
    match bundled::find(name) {
        Named::Bundled(_) if tokenizer.tokenizer.is_some() => {
            let problem = format!("{name} is part of the program and has its own tokenizer; leave --tokenizer out");
            Err(Error::Request(problem))
        }
        Named::Bundled(bundled) => bundled.open(),
        Named::Path(path) => Model::open_with(&path, tokenizer.tokenizer.as_deref()).map_err(|e| match e {
            Error::Io { action, path: missing, source } if !path.exists() => {
                let hint = format!("{source} (models by name: {})", bundled::names().join(", "));
                Error::Io { action, path: missing, source: std::io::Error::new(source.kind(), hint) }
            }
            other => other,
        }),
    }
}

/// An error of a generation, with the tensor that is to blame where logits were not finite.
pub fn explain(error: Error, model: &Model) -> Error {
    if !matches!(error, Error::Backend(BackendError::NotFinite { .. })) {
        return error;
    }
    match model.non_finite_tensor() {
        Some(tensor) => {
            let file = model.checkpoint.get(&tensor).map_or(model.origin.as_str(), |t| t.file);
            Error::tensor(file, &tensor, format!("holds NaN or infinite weights ({error})"))
        }
        None => error,
    }
}
