//! What `remask bench` and `remask tune` run passes of.

use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use remask_burn::CpuBackend;
use remask_core::checkpoint::WeightFormat;
use remask_core::decode::{Defaults, Vocabulary};
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
    #[arg(long, default_value = BUNDLED.name)]
    model: String,
    /// Random weights of this shape in place of a model
    #[arg(long, value_enum, conflicts_with = "model")]
    shape: Option<Shape>,
}

/// What is measured: a model, or a shape without one, which our own kernels can have, on wgpu or the CPU.
pub struct Subject {
    /// What the user calls it.
    pub name: String,
    /// Its shapes.
    pub architecture: Arc<Architecture>,
    /// Its tokens.
    pub vocabulary: Arc<Vocabulary>,
    model: Option<Model>,
}

impl Subject {
    /// The model, or the shape with this many blocks.
    pub fn open(args: &SubjectArgs, layers: Option<usize>) -> Result<Self, Failure> {
        args.shape.map_or_else(|| Self::model(&args.model), |shape| Self::shape(shape, layers))
    }

    /// A shape or a model of this name; a file or folder of a shape's name goes before it.
    pub fn named(name: &str) -> Result<Self, Failure> {
        match Shape::from_str(name, true) {
            Ok(shape) if !Path::new(name).exists() => Self::shape(shape, None),
            _ => Self::model(name),
        }
    }

    fn shape(shape: Shape, layers: Option<usize>) -> Result<Self, Failure> {
        let text = serde_json::to_string(&shape.config(layers))?;
        let (_, architecture) = parse_config("config.json", &text)?;
        let vocabulary = Vocabulary::of(&architecture).into();
        let name = shape.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
        Ok(Self { name: format!("{name}'s shape"), architecture: architecture.into(), vocabulary, model: None })
    }

    fn model(name: &str) -> Result<Self, Failure> {
        let model = open_model(name)?;
        let (architecture, vocabulary) = (model.architecture.clone(), model.vocabulary.clone());
        Ok(Self { name: name.to_owned(), architecture, vocabulary, model: Some(model) })
    }

    /// Whether its weights mean something.
    pub fn is_trained(&self) -> bool {
        self.model.is_some()
    }

    /// What its files ask for.
    pub fn defaults(&self) -> Defaults {
        self.model.as_ref().map_or(Defaults::default(), |model| model.defaults)
    }

    /// Ids of a text; some ids where there is no tokenizer.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, Failure> {
        match &self.model {
            Some(model) if model.tokenizer.is_some() => Ok(model.encode_raw(text)?),
            _ => Ok((0..8).map(|i| (i * 7919 + 11) % self.architecture.vocab_size as u32).collect()),
        }
    }

    /// It on our own kernels.
    pub fn on_wgpu(&self, device: &DeviceArgs) -> Result<WgpuBackend, Failure> {
        let silent = &mut |_| ();
        let backend = match &self.model {
            Some(model) => pollster::block_on(WgpuBackend::load(device.open()?, model, device.weights, silent)),
            None => {
                let format = device.weights.unwrap_or(WeightFormat::F16);
                pollster::block_on(WgpuBackend::random(device.open()?, Architecture::clone(&self.architecture), format))
            }
        };
        let mut backend = backend?;
        backend.set_batch_invariant(device.batch_invariant);
        Ok(backend)
    }

    /// It on any backend.
    pub fn on(&self, name: BackendName, device: &DeviceArgs) -> Result<Box<dyn Backend>, Failure> {
        match &self.model {
            Some(model) => Ok(device.load_on(name, model)?),
            None if name == BackendName::Cpu => {
                let format = device.weights.unwrap_or(WeightFormat::F16);
                Ok(Box::new(CpuBackend::random(self.architecture.clone(), format)?))
            }
            None => Ok(Box::new(self.on_wgpu(device)?)),
        }
    }
}
