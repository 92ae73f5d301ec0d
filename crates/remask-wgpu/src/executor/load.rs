//! A model onto a device.

use std::collections::HashMap;
use std::sync::Arc;

use remask_core::architecture::{BlockSpec, NormKind};
use remask_core::checkpoint::WeightFormat;
use remask_core::{Architecture, BackendError, Model};

use super::WgpuBackend;
use super::ahead::Ahead;
use crate::activations::Activations;
use crate::arena::Arena;
use crate::gpu::Gpu;
use crate::kernels::attention;
use crate::kernels::linear::Arithmetic;
use crate::plan::{ModelOutline, PassSizes, Planner, tile_rows};
use crate::recording::BindGroups;
use crate::stores::Stores;
use crate::suppressed::SuppressedSets;
use crate::turns::Turns;
use crate::uniforms::Uniforms;
use crate::weights::DeviceWeights;

/// Slots of parameters: a model has a few dozen distinct ones.
const PARAMETER_SLOTS: u32 = 1024;

/// Rows, and rows whose candidates are wanted, of the passes that an answer begins with: the whole canvas of a
/// short request, then the block at work and its neighbourhood.
pub(super) const FIRST_PASSES: [(u32, u32); 2] = [(96, 64), (40, 32)];

impl WgpuBackend {
    /// Moves `model` to the device, its weights in `format` or else as stored.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] where no kernel computes what the model needs, and as
    /// [`DeviceWeights::load`].
    pub async fn load(
        gpu: Gpu,
        model: &Model,
        format: Option<WeightFormat>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        check_supported(&gpu, &model.architecture)?;
        let weights = DeviceWeights::load(&gpu, model, format, progress).await?;
        Self::with_weights(gpu, model.architecture.clone(), weights).await
    }

    /// A model of `architecture`'s shape with random weights made on the device, for measurements where
    /// only the shape matters.
    ///
    /// # Errors
    /// As [`WgpuBackend::load`].
    pub async fn random(gpu: Gpu, architecture: Architecture, format: WeightFormat) -> Result<Self, BackendError> {
        check_supported(&gpu, &architecture)?;
        let weights = DeviceWeights::random(&gpu, &architecture, format).await?;
        Self::with_weights(gpu, architecture.into(), weights).await
    }

    /// Asks for the kernels that the first passes of an answer will need, before the weights are there: a
    /// browser compiles while they are on their way. `format` is what the matrices will be kept in; where it
    /// turns out otherwise, or matrix units compute the model, this has been for nothing.
    ///
    /// # Errors
    /// As [`WgpuBackend::load`].
    pub fn foresee(gpu: &mut Gpu, a: &Architecture, format: WeightFormat) -> Result<(), BackendError> {
        check_supported(gpu, a)?;
        let weights = ModelOutline::uniform(gpu.profile.limits.binding, a, format);
        let mut specs = Vec::new();
        for (rows, selected) in FIRST_PASSES {
            let head_dim = a.blocks.first().map_or(1, |b| b.attention.head_dim as u32);
            let tile = tile_rows(Arithmetic::Full, head_dim, rows, false);
            let planner = Planner {
                profile: &gpu.profile,
                tuning: &gpu.tuning,
                refused: gpu.refusals(),
                architecture: a,
                weights: &weights,
                arithmetic: Arithmetic::Full,
                batch_invariant: false,
                sizes: PassSizes { rows, selected, tiles: rows.div_ceil(tile), logits: 0 },
                chunk: 0,
            };
            specs.extend(planner.pass()?.into_iter().map(|step| step.spec));
        }
        specs.iter().for_each(|spec| gpu.begin(spec));
        Ok(())
    }

    async fn with_weights(
        mut gpu: Gpu,
        a: Arc<Architecture>,
        mut weights: DeviceWeights,
    ) -> Result<Self, BackendError> {
        let arithmetic = weights.suit(&mut gpu, &a).await?;
        tracing::debug!(?arithmetic, "loaded");
        let outline = weights.outline();
        let strips = outline.strips(arithmetic)?;
        Ok(Self {
            turns: Turns::new(&gpu, &a.rotaries).await?,
            stores: Stores::default(),
            arena: Arena::new(&a, arithmetic),
            copies: Vec::new(),
            activations: Activations::new(&gpu, &a, arithmetic, strips, 64).await?,
            suppressed: SuppressedSets::new(&gpu, a.embedding_rows).await?,
            uniforms: Uniforms::new(&gpu, PARAMETER_SLOTS).await?,
            groups: BindGroups::new(),
            recordings: HashMap::new(),
            ahead: Ahead::default(),
            gpu,
            architecture: a,
            weights,
            outline,
            arithmetic,
            batch_invariant: false,
        })
    }
}

/// Refuses what no kernel here computes.
fn check_supported(gpu: &Gpu, a: &Architecture) -> Result<(), BackendError> {
    let after = |b: &BlockSpec| [b.after_attention_norm, b.after_feed_forward_norm].into_iter().flatten();
    let dims = || a.blocks.iter().map(|b| b.attention.head_dim);
    let missing = [
        (a.blocks.iter().flat_map(after).any(|n| n.kind != NormKind::Rms), "a LayerNorm over a part's result"),
        (
            a.blocks.iter().any(|b| b.attention.qk_norm.is_some_and(|n| n.kind != NormKind::Rms)),
            "a LayerNorm over heads",
        ),
        (
            dims().any(|d| !d.is_multiple_of(2) || d > attention::MAX_HEAD_DIM as usize),
            "a head dimension that is odd or above 256",
        ),
    ];
    match missing.iter().find(|(is, _)| *is) {
        None => Ok(()),
        Some((_, what)) => Err(BackendError::Unsupported {
            what: format!("{} with {what}", a.name),
            adapter: gpu.profile.name.clone(),
            why: "no kernel of this build computes it".to_owned(),
        }),
    }
}
