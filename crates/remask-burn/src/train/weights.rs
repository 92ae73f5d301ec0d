//! A transformer that is trained, and its weights as a checkpoint in LLaDA's names.

use std::convert::Infallible;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Device, Distribution, Tensor};
use half::bf16;
use remask_core::checkpoint::{Bytes, WeightFormat};
use remask_core::tensors::{BlockRole, Role, Stored, TensorKind, TensorSpec};
use remask_core::{Architecture, Checkpoint, DType, Error, Result};
use safetensors::tensor::TensorView;

use crate::dense::Dense;
use crate::linear::{Precision, floats};
use crate::load;
use crate::transformer::{Source, Transformer};

/// A transformer whose matrices are tensors.
pub type Trained = Transformer<Dense>;

/// Standard deviation of new weights.
const SPREAD: f64 = 0.02;

/// Normal weights, narrower where a block adds to the residual stream; norms of ones, biases of zeros.
struct New<'a> {
    device: &'a Device,
    /// Times a block adds to the residual stream.
    added: usize,
}

impl Source<Dense> for New<'_> {
    type Error = Infallible;

    fn matrix(&mut self, role: Role, shape: [usize; 2]) -> Result<Dense, Infallible> {
        let spread = match role {
            Role::Block(_, BlockRole::AttentionOut | BlockRole::Down) => SPREAD / (self.added as f64).sqrt(),
            _ => SPREAD,
        };
        Ok(Dense::new(Tensor::random(shape, Distribution::Normal(0.0, spread), self.device)))
    }

    fn vector(&mut self, role: Role, len: usize) -> Result<Tensor<1>, Infallible> {
        Ok(if role.is_bias() { Tensor::zeros([len], self.device) } else { Tensor::ones([len], self.device) })
    }
}

/// A transformer with random weights, of which [`Device::seed`] decides.
#[must_use]
pub fn random(a: &Architecture, device: &Device) -> Trained {
    match Transformer::of(&mut New { device, added: 2 * a.blocks.len() }, a) {
        Ok(transformer) => numbered(transformer),
        Err(never) => match never {},
    }
}

/// The transformer of a container that [`container`] made.
///
/// # Errors
/// [`Error::Checkpoint`] or [`Error::Tensor`] where it is not that.
pub fn restore(a: &Architecture, specs: &[TensorSpec], bytes: Vec<u8>, device: &Device) -> Result<Trained> {
    of_checkpoint(a, specs, &Checkpoint::from_bytes("the checkpoint's weights", Bytes::Owned(bytes))?, device)
}

/// The transformer of a model's checkpoint, whatever it stores its weights as.
///
/// # Errors
/// [`Error::Tensor`]; [`Error::Io`].
pub fn of_checkpoint(
    a: &Architecture,
    specs: &[TensorSpec],
    checkpoint: &Checkpoint,
    device: &Device,
) -> Result<Trained> {
    let (transformer, _) = load::transformer(a, specs, checkpoint, Some(WeightFormat::F32), device, &mut |_| ())?;
    Ok(numbered(transformer))
}

/// The same weights, with products that compute in `precision`.
#[must_use]
pub fn computing_in(precision: Precision, mut transformer: Trained) -> Trained {
    transformer.matrices_mut().for_each(|matrix| matrix.precision = precision);
    transformer
}

/// The same parameters with ids that count up from 1: an optimiser's state is kept by id.
fn numbered(transformer: Trained) -> Trained {
    struct Number(u64);
    impl ModuleMapper for Number {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            Param::initialized(ParamId::from(self.0), param.into_value().detach().require_grad())
        }
    }
    transformer.map(&mut Number(0))
}

/// The weights as a safetensors container, `dtype` F32 or BF16.
///
/// # Errors
/// [`Error::Checkpoint`] where they cannot be put into one.
pub fn container(specs: &[TensorSpec], transformer: &Trained, dtype: DType) -> Result<Vec<u8>> {
    let failed = |problem: String| Error::Checkpoint { file: "the trained weights".to_owned(), problem };
    let dtype = if dtype == DType::BF16 { dtype } else { DType::F32 };
    let mut encoded = Vec::with_capacity(specs.len());
    for specs in specs.chunk_by(|a, b| a.role == b.role) {
        let role = specs[0].role;
        let values = match specs[0].kind {
            TensorKind::Matrix => transformer.matrix(role).map(|matrix| floats(matrix.weight.val())),
            TensorKind::Vector => transformer.vector(role).map(|vector| floats(vector.val())),
        };
        let values = values.ok_or_else(|| failed(format!("there is no {role:?}")))?;
        let mut rest = &values[..];
        // What is stacked here lies apart in a checkpoint.
        for spec in specs {
            if spec.stored != Stored::default() {
                return Err(failed(format!("{} cannot be written as {:?}", spec.name, spec.stored)));
            }
            let (own, behind) = rest.split_at_checked(spec.rows * spec.cols).unwrap_or_default();
            rest = behind;
            let bytes: Vec<u8> = match dtype {
                DType::BF16 => own.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                _ => own.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            encoded.push((&spec.name, spec.stored_shape(), bytes));
        }
    }
    let refused = |e: safetensors::SafeTensorError| failed(e.to_string());
    let mut views = Vec::with_capacity(encoded.len());
    for (name, shape, bytes) in &encoded {
        views.push((name, TensorView::new(dtype, shape.clone(), bytes).map_err(refused)?));
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).map_err(refused)
}
