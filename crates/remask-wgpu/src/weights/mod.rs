//! Weights on the device: matrices split into parts that fit one binding, streamed from the checkpoint so that
//! the host never holds more than a few chunks of them.

mod load;
mod random;
mod suit;

use std::collections::HashMap;

use remask_core::checkpoint::WeightFormat;
use remask_core::tensors::{BlockRole, Role};
use remask_core::{Architecture, BackendError};

pub use self::suit::fragments_are_as_expected;
use crate::gpu::Gpu;
use crate::order::Order;
use crate::plan::{MatrixOutline, ModelOutline, PartOutline};

/// Bytes handed to the driver before waiting for it to take them: bounds the staging memory, and in a browser,
/// where rows are copied and perhaps converted on their way, WebAssembly's, which never shrinks again.
const CHUNK: usize = if cfg!(target_arch = "wasm32") { 4 << 20 } else { 16 << 20 };

/// A weight matrix `[rows, cols]`, possibly of several tensors stacked by rows.
pub struct DeviceMatrix {
    /// Pieces by rows, in order.
    pub parts: Vec<Part>,
    /// Where in a part a weight lies.
    pub order: Order,
    /// Output features.
    pub rows: u32,
    /// Input features, a multiple of 4.
    pub cols: u32,
}

/// Consecutive rows of a matrix in one buffer.
#[derive(Clone)]
pub struct Part {
    /// The weights: the planes of their format, one behind the other.
    pub buffer: wgpu::Buffer,
    /// First row.
    pub first: u32,
    /// Number of rows.
    pub rows: u32,
    /// Storage format.
    pub format: WeightFormat,
}

impl DeviceMatrix {
    /// The same weights once more, in the same memory.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { parts: self.parts.clone(), ..*self }
    }

    /// What planning knows of it.
    #[must_use]
    pub fn outline(&self) -> MatrixOutline {
        let part = |p: &Part| PartOutline { first: p.first, rows: p.rows, format: p.format };
        let Self { rows, cols, order, .. } = *self;
        MatrixOutline { rows, cols, order, parts: self.parts.iter().map(part).collect() }
    }
}

/// Every weight of a model, by role: a set of weights that several blocks use is there once.
pub struct DeviceWeights {
    /// Weight matrices. Where [`Role::Head`] is missing, the embedding is the head.
    pub matrices: HashMap<Role, DeviceMatrix>,
    /// Gains and biases.
    pub vectors: HashMap<Role, wgpu::Buffer>,
    /// Gains of the norms of queries' heads, then of keys', by the set of weights that they belong to.
    pub head_norms: HashMap<usize, wgpu::Buffer>,
    /// What became of bf16 weights that matrix units could use as f16, in a sentence.
    pub note: Option<String>,
}

impl DeviceWeights {
    /// All that a model has: the norms of heads of a set of weights come together.
    async fn assemble(
        gpu: &Gpu,
        a: &Architecture,
        matrices: HashMap<Role, DeviceMatrix>,
        mut vectors: HashMap<Role, wgpu::Buffer>,
    ) -> Result<Self, BackendError> {
        let mut head_norms = HashMap::new();
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("norms") });
        for (set, block) in a.distinct_blocks().enumerate() {
            let bytes = block.attention.head_dim as u64 * 4;
            let mut own = |role| vectors.remove(&Role::Block(set, role));
            let norms = own(BlockRole::QueryNorm).zip(own(BlockRole::KeyNorm));
            if let Some((query, key)) = norms {
                let both = gpu.storage("norms of heads", 2 * bytes).await?;
                encoder.copy_buffer_to_buffer(&query, 0, &both, 0, bytes);
                encoder.copy_buffer_to_buffer(&key, 0, &both, bytes, bytes);
                head_norms.insert(set, both);
            }
        }
        gpu.queue.submit([encoder.finish()]);
        Ok(Self { matrices, vectors, head_norms, note: None })
    }

    /// The head's matrix.
    #[must_use]
    pub fn head(&self) -> Option<&DeviceMatrix> {
        self.matrices.get(&Role::Head).or_else(|| self.matrices.get(&Role::Embedding))
    }

    /// What planning knows of them.
    #[must_use]
    pub fn outline(&self) -> ModelOutline {
        let mut outline = ModelOutline::default();
        self.matrices.iter().for_each(|(role, matrix)| outline.insert(*role, matrix.outline()));
        outline
    }

    /// Part `i` of a matrix.
    ///
    /// # Errors
    /// [`BackendError::Weights`] where the model has none.
    pub fn part(&self, role: Role, i: usize) -> Result<&wgpu::Buffer, BackendError> {
        let part = self.matrices.get(&role).and_then(|m| m.parts.get(i));
        part.map(|p| &p.buffer).ok_or_else(|| BackendError::Weights(format!("the model has no part {i} of {role:?}")))
    }

    /// Gains or biases.
    ///
    /// # Errors
    /// [`BackendError::Weights`] where the model has none.
    pub fn vector(&self, role: Role) -> Result<&wgpu::Buffer, BackendError> {
        self.vectors.get(&role).ok_or_else(|| BackendError::Weights(format!("the model has no vector for {role:?}")))
    }

    /// Formats of the blocks' matrices, each once, the most frequent ones first named.
    #[must_use]
    pub fn block_formats(&self) -> Vec<WeightFormat> {
        let of_blocks = self.matrices.iter().filter(|(role, _)| matches!(role, Role::Block(..)));
        let mut formats = Vec::new();
        for part in of_blocks.flat_map(|(_, matrix)| &matrix.parts) {
            if !formats.contains(&part.format) {
                formats.push(part.format);
            }
        }
        formats.sort_by_key(|f| f.name());
        formats
    }

    /// Formats of all matrices, those of the embedding first, some of them several times.
    #[must_use]
    pub fn formats(&self) -> Vec<WeightFormat> {
        let of = |role| self.matrices.get(&role).into_iter().flat_map(|m| m.parts.iter().map(|p| p.format));
        of(Role::Embedding).chain(self.block_formats()).chain(of(Role::Head)).collect()
    }

    /// The arithmetic that these weights, as they lie, are for.
    fn suits(&self, a: &Architecture) -> bool {
        (0..a.weight_sets()).all(|set| {
            let mut matrices = crate::plan::outline::BLOCK_MATRICES.iter();
            matrices.all(|role| self.matrices.get(&Role::Block(set, *role)).is_some_and(DeviceMatrix::has_fragments))
        })
    }
}
