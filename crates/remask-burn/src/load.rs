//! From a checkpoint to modules.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use remask_core::architecture::{Architecture, Biases, MlpKind, NormKind};
use remask_core::checkpoint::{Matrix, WeightFormat};
use remask_core::families::TensorNames;
use remask_core::model::layer_matrices;
use remask_core::{BackendError, Checkpoint, Error, Result};

use crate::linear::{Dense, Packed};
use crate::panels::Panels;
use crate::transformer::{Block, RmsNorm, Transformer};

/// A kind of linear layer that can be made from a checkpoint's matrices, stacked by rows.
pub trait FromMatrices: crate::linear::Linear {
    /// The layer, kept in `format` or else as the checkpoint stores it, and its format.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a weight cannot be kept in `format`.
    fn stack(sources: &[Matrix], format: Option<WeightFormat>, device: &Device) -> Result<(Self, WeightFormat)>;
}

impl FromMatrices for Packed {
    fn stack(sources: &[Matrix], format: Option<WeightFormat>, _: &Device) -> Result<(Self, WeightFormat)> {
        let panels = Panels::stack(sources, format)?;
        let format = panels.format();
        Ok((Self(Arc::new(panels)), format))
    }
}

impl FromMatrices for Dense {
    /// Tensors are float32 whatever the checkpoint holds.
    fn stack(sources: &[Matrix], _: Option<WeightFormat>, device: &Device) -> Result<(Self, WeightFormat)> {
        let mut values = Vec::new();
        for source in sources {
            values.extend(source.to_f32(0..source.rows)?);
        }
        let shape = [sources.iter().map(|s| s.rows).sum(), sources.first().map_or(0, |s| s.cols)];
        Ok((Self::new(Tensor::from_data(TensorData::new(values, shape), device)), WeightFormat::F32))
    }
}

/// A checkpoint's transformer on `device`, and the format of its matrices. `progress` is told the bytes
/// of the checkpoint that have been read.
///
/// # Errors
/// [`BackendError::Unsupported`] or [`BackendError::Weights`].
pub fn transformer<L: FromMatrices>(
    a: &Architecture,
    names: &TensorNames,
    checkpoint: &Checkpoint,
    format: Option<WeightFormat>,
    device: &Device,
    progress: &mut dyn FnMut(u64),
) -> Result<(Transformer<L>, WeightFormat), BackendError> {
    check_supported(a)?;
    let weights = |e: Error| BackendError::Weights(e.to_string());
    let mut read = 0;
    let mut kept = WeightFormat::F32;
    let mut stack = |tensors: &[(&str, usize, usize)]| -> Result<L, BackendError> {
        let open = |(name, rows, cols): &(&str, usize, usize)| Matrix::open(checkpoint, name, *rows, *cols);
        let sources: Vec<_> = tensors.iter().map(open).collect::<Result<_>>().map_err(weights)?;
        // The disk reads ahead while the first rows are on their way.
        sources.iter().for_each(|s| checkpoint.will_need(s.name()));
        let (layer, format) = L::stack(&sources, format, device).map_err(weights)?;
        kept = format;
        for source in &sources {
            checkpoint.discard(source.name());
            read += source.format.bytes(source.rows, source.cols) as u64;
        }
        progress(read);
        Ok(layer)
    };
    let norm = |name: &str| {
        let values = checkpoint.vector(name, a.hidden).map_err(weights)?;
        Ok::<_, BackendError>(RmsNorm::new(Tensor::from_data(TensorData::new(values, [a.hidden]), device), a.norm.eps))
    };
    let embedding = stack(&[(&names.embedding, a.embedding_rows, a.hidden)])?;
    let mut blocks = Vec::with_capacity(names.layers.len());
    for layer in &names.layers {
        let [q, k, v, out, gate, up, down] = layer_matrices(a, layer);
        blocks.push(Block {
            attention_norm: norm(&layer.attention_norm)?,
            qkv: stack(&[q, k, v])?,
            attention_out: stack(&[out])?,
            mlp_norm: norm(&layer.mlp_norm)?,
            gate_up: stack(&[gate, up])?,
            down: stack(&[down])?,
        });
    }
    let final_norm = norm(&names.final_norm)?;
    let head = match &names.head {
        Some(head) => Some(stack(&[(head, a.embedding_rows, a.hidden)])?),
        None => None,
    };
    Ok((Transformer::new(a, embedding, blocks, final_norm, head), kept))
}

fn check_supported(a: &Architecture) -> Result<(), BackendError> {
    let missing = [
        (a.norm.kind != NormKind::Rms, "a norm other than RMSNorm"),
        (a.mlp.kind != MlpKind::SwiGlu, "an MLP other than SwiGLU"),
        (a.biases != Biases::default(), "biases"),
        (a.shifted_logits, "shifted logits"),
    ];
    match missing.iter().find(|(is, _)| *is) {
        None => Ok(()),
        Some((_, what)) => Err(BackendError::Unsupported {
            what: format!("{} with {what}", a.name),
            adapter: "Burn".to_owned(),
            why: "its modules of this build do not compute it".to_owned(),
        }),
    }
}
