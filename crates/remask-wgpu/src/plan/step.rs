//! Dispatches as plain data: which kernel, over which buffers by name, with which parameters.

use remask_core::architecture::Norm;
use remask_core::tensors::Role;

use crate::wgsl::KernelSpec;

/// A buffer by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Rows of the pass, from the host.
    Rows,
    /// Rows whose candidates are wanted, from the host.
    Select,
    /// Rows whose logits are wanted, from the host.
    SelectLogits,
    /// Attention tiles, from the host.
    Tiles,
    /// Sets of suppressed ids, a row of bits each.
    Suppressed,
    /// The residual stream `[rows, hidden]`.
    Hidden,
    /// Normalised input of attention `[rows, hidden]`.
    Normed,
    /// Normalised input of the feed-forward part `[rows, hidden]`.
    NormedUp,
    /// Queries, keys and values `[rows, qkv width]`.
    Qkv,
    /// Attention's result `[rows, heads * head_dim]`.
    Attended,
    /// Gate and up, or up alone `[rows, up width]`.
    Up,
    /// Input of the down projection `[rows, feed-forward hidden]`.
    Activated,
    /// What is to be added to the residual stream: `[splits, rows, hidden]`.
    Addend,
    /// Normalised selected rows `[selected, hidden]`.
    Gathered,
    /// A chunk of the head's logits `[selected, ids]`, where matrix units compute it.
    Chunk,
    /// Partial selections `[strips, selected]`.
    Partials,
    /// `[selected]`.
    Candidates,
    /// Logits `[rows whose logits are wanted, embedding rows]`.
    Logits,
    /// In passes of few rows on matrix units: the next layer's input `[rows, hidden]`, f16, not divided by the
    /// rows' norms yet.
    FewNormed,
    /// Partial sums of squares of each of these rows.
    FewSquares,
    /// Sums of the splits of a product.
    FewSums,
    /// Splits of each tile that have arrived: zeros between dispatches.
    FewArrived,
    /// A part of a matrix.
    Matrix(Role, usize),
    /// Gains or biases.
    Vector(Role),
    /// Gains of the norms of queries' heads, then of keys', of a set of weights.
    HeadNorms(usize),
    /// Cosines and sines of a rotary table.
    Rotary(usize),
    /// Keys of a cache entry.
    Keys(usize),
    /// Values of a cache entry.
    Values(usize),
}

/// One dispatch.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The kernel.
    pub spec: KernelSpec,
    /// What is bound to group 0, in order.
    pub slots: Vec<Slot>,
    /// The kernel's parameters.
    pub params: Vec<u8>,
    /// Workgroups.
    pub grid: [u32; 3],
}

impl Step {
    /// A dispatch with these parameters.
    #[must_use]
    pub fn new<P: bytemuck::Pod>(spec: KernelSpec, slots: Vec<Slot>, params: &P, grid: [u32; 3]) -> Self {
        Self { spec, slots, params: bytemuck::bytes_of(params).to_vec(), grid }
    }
}

/// What lies in [`Slot::Addend`] and is still to be added to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pending {
    /// How it lies there.
    pub splits: Splits,
    /// The norm that the sum goes through first.
    pub after: Option<Before>,
}

/// A norm: its kind, and whose gains and biases it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Before {
    /// Kind and epsilon.
    pub norm: Norm,
    /// Its gains.
    pub gain: Role,
    /// Its biases, which a LayerNorm has.
    pub bias: Role,
}

/// How a linear layer's result lies in its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Splits {
    /// Partial sums, one behind the other.
    pub count: u32,
    /// Elements of one.
    pub stride: u32,
}

impl Splits {
    /// The result itself.
    pub const WHOLE: Self = Self { count: 1, stride: 0 };
}
