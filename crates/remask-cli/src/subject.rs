//! What `remask bench` and `remask tune` run passes of.

use remask_core::checkpoint::WeightFormat;
use remask_core::decode::Vocabulary;
use remask_core::families::parse_config;
use remask_core::{Architecture, Backend, Model};
use remask_wgpu::WgpuBackend;

use crate::Failure;
use crate::backend::BackendName;
use crate::bundled::BUNDLED;
use crate::model_args::{DeviceArgs, open_model};
use crate::synth::Shape;

/// Which model, or which shape.
#[derive(clap::Args)]
pub struct SubjectArgs {
    /// Model folder, .safetensors or GGUF file, or name of a bundled model
    #[arg(long, default_value = BUNDLED[0].name)]
    model: String,
    /// Random weights of this shape in place of a model
    #[arg(long, value_enum, conflicts_with = "model")]
    shape: Option<Shape>,
}

/// What is measured: a model, or a shape without one, which only our own kernels can have.
pub struct Subject {
    /// Its shapes.
    pub architecture: Architecture,
    /// Its tokens.
    pub vocabulary: Vocabulary,
    model: Option<Model>,
}

impl Subject {
    /// The model, or the shape with this many blocks.
    pub fn open(args: &SubjectArgs, layers: Option<usize>) -> Result<Self, Failure> {
        if let Some(shape) = args.shape {
            let text = serde_json::to_string(&shape.config(layers))?;
            let (_, architecture) = parse_config("config.json", &text)?;
            let vocabulary = Vocabulary::of(&architecture)?;
            return Ok(Self { architecture, vocabulary, model: None });
        }
        let model = open_model(&args.model)?;
        Ok(Self { architecture: model.architecture.clone(), vocabulary: model.vocabulary.clone(), model: Some(model) })
    }

    /// It on our own kernels.
    pub fn on_wgpu(&self, device: &DeviceArgs) -> Result<WgpuBackend, Failure> {
        let silent = &mut |_| ();
        let backend = match &self.model {
            Some(model) => pollster::block_on(WgpuBackend::load(device.open()?, model, device.weights, silent)),
            None => {
                let format = device.weights.unwrap_or(WeightFormat::F16);
                pollster::block_on(WgpuBackend::random(device.open()?, self.architecture.clone(), format))
            }
        };
        Ok(backend?)
    }

    /// It on any backend.
    pub fn on(&self, name: BackendName, device: &DeviceArgs) -> Result<Box<dyn Backend>, Failure> {
        match &self.model {
            Some(model) => Ok(device.load_on(name, model)?),
            None => Ok(Box::new(self.on_wgpu(device)?)),
        }
    }
}
