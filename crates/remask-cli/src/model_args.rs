//! Options that choose a model and a device, shared by the commands that need them.

use std::path::Path;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use remask_core::checkpoint::WeightFormat;
use remask_core::{BackendError, Error, Model};
use remask_wgpu::{ADAPTER_VARIABLE, Gpu, LimitChoice, WgpuBackend};

use crate::bundled::{BUNDLED, Bundled};

/// Which device, and how weights are kept on it.
#[derive(Args, Debug, Clone)]
pub struct DeviceArgs {
    /// Adapter by index or part of its name (see `remask devices`); the best one by default
    #[arg(long, env = ADAPTER_VARIABLE, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
    /// Keep weights on the device as f32, f16, bf16, q8 or q4; as the checkpoint stores them by default
    #[arg(long, value_name = "FORMAT")]
    pub weights: Option<WeightFormat>,
    /// Use no more than WebGPU's default limits, as a browser would
    #[arg(long)]
    pub webgpu_limits: bool,
}

impl DeviceArgs {
    /// Opens the device.
    pub fn open(&self) -> Result<Gpu, BackendError> {
        let limits = if self.webgpu_limits { LimitChoice::WebGpuDefault } else { LimitChoice::Adapter };
        pollster::block_on(Gpu::open(self.adapter.as_deref(), limits))
    }

    /// Opens the device and moves `model` to it, with a progress bar where someone watches.
    pub fn load(&self, model: &Model) -> Result<WgpuBackend, BackendError> {
        let bar = ProgressBar::new(model.checkpoint.total_bytes());
        if let Ok(style) = ProgressStyle::with_template("loading {bar:30} {bytes}/{total_bytes} {bytes_per_sec}") {
            bar.set_style(style);
        }
        let loaded = self.open().and_then(|gpu| {
            pollster::block_on(WgpuBackend::load(gpu, model, self.weights, &mut |bytes| bar.set_position(bytes)))
        });
        bar.finish_and_clear();
        loaded
    }
}

/// Opens a model folder or file, or a bundled model by name.
pub fn open_model(name: &str) -> Result<Model, Error> {
    let path = Path::new(name);
    match Bundled::find(name) {
        Some(bundled) => bundled.open(),
        None => Model::open(path).map_err(|e| match e {
            Error::Io { action, path: missing, source } if !path.exists() => {
                let names: Vec<_> = BUNDLED.iter().map(|b| b.name).collect();
                let hint = format!("{source} (bundled models: {})", names.join(", "));
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
