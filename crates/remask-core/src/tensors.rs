//! The tensors of a model as one list that everything iterates: loaders, GGUF, quantize, synth, inspect,
//! training and backends.

use crate::architecture::{Architecture, BlockSpec, Norm, NormKind};

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding `[embedding_rows, hidden]`.
    Embedding,
    /// Learned position embedding `[positions, hidden]`.
    Positions,
    /// Weight of the norm before the head `[hidden]`.
    FinalNorm,
    /// Bias of that norm.
    FinalNormBias,
    /// Head `[embedding_rows, hidden]`, where it is not the embedding.
    Head,
    /// Bias of the head `[embedding_rows]`.
    HeadBias,
    /// A tensor of a set of block weights.
    Block(usize, BlockRole),
}

impl Role {
    /// Whether it is added to what a projection or a norm gives.
    #[must_use]
    pub fn is_bias(self) -> bool {
        use BlockRole as R;
        match self {
            Self::FinalNormBias | Self::HeadBias => true,
            Self::Block(_, role) => matches!(
                role,
                R::AttentionNormBias
                    | R::QkvBias
                    | R::AttentionOutBias
                    | R::FeedForwardNormBias
                    | R::UpBias
                    | R::DownBias
            ),
            Self::Embedding | Self::Positions | Self::FinalNorm | Self::Head => false,
        }
    }
}

/// What a tensor of a block is for. Tensors that share a role are stacked by rows in the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockRole {
    /// Norm before attention `[hidden]`.
    AttentionNorm,
    /// Its bias.
    AttentionNormBias,
    /// Queries, keys and values `[qkv width, hidden]`, one tensor or three.
    Qkv,
    /// Their biases `[qkv width]`.
    QkvBias,
    /// Norm over each query head `[head_dim]`.
    QueryNorm,
    /// Norm over each key head `[head_dim]`.
    KeyNorm,
    /// Attention output `[hidden, heads * head_dim]`.
    AttentionOut,
    /// Its bias `[hidden]`.
    AttentionOutBias,
    /// Norm over attention's result `[hidden]`.
    AfterAttentionNorm,
    /// Norm before the feed-forward part `[hidden]`.
    FeedForwardNorm,
    /// Its bias.
    FeedForwardNormBias,
    /// Gate and up, or up alone `[up width, hidden]`, one tensor or two.
    Up,
    /// Their biases `[up width]`.
    UpBias,
    /// Down projection `[hidden, feed-forward hidden]`.
    Down,
    /// Its bias `[hidden]`.
    DownBias,
    /// Norm over the feed-forward part's result `[hidden]`.
    AfterFeedForwardNorm,
}

/// Kinds of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorKind {
    /// A weight matrix, kept in a [`WeightFormat`](crate::checkpoint::WeightFormat).
    Matrix,
    /// Factors or biases `[cols]`, one row, kept in float32.
    Vector,
}

/// How a tensor lies in its checkpoint, where that differs from `[rows, cols]` as the model uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// The checkpoint holds `[cols, rows]` (GPT-2's Conv1D).
    pub transposed: bool,
    /// Rows of each head of this size lie in pairs (2i, 2i + 1) that belong at (i, i + half) (GGUF's llama).
    pub paired: Option<usize>,
    /// The checkpoint holds w where the model uses 1 + w (Gemma's norms).
    pub plus_one: bool,
}

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is for.
    pub role: Role,
    /// Full name in the checkpoint, matched whole: leaf names repeat (LLaDA's `ff_out` is both the head and
    /// every block's down projection).
    pub name: String,
    /// Output features; 1 for vectors.
    pub rows: usize,
    /// Input features; elements of vectors.
    pub cols: usize,
    /// Matrix or vector.
    pub kind: TensorKind,
    /// How it lies in the checkpoint.
    pub stored: Stored,
}

impl TensorSpec {
    /// The shape that the checkpoint must give.
    #[must_use]
    pub fn stored_shape(&self) -> Vec<usize> {
        match (self.kind, self.stored.transposed) {
            (TensorKind::Vector, _) => vec![self.cols],
            (TensorKind::Matrix, false) => vec![self.rows, self.cols],
            (TensorKind::Matrix, true) => vec![self.cols, self.rows],
        }
    }
}

/// Names a role's tensors in a checkpoint and says how they lie there: one tensor, or, for
/// [`BlockRole::Qkv`], [`BlockRole::Up`] and their biases, the three or two that are stacked, in order.
pub type Naming<'a> = dyn Fn(Role) -> Vec<(String, Stored)> + 'a;

/// The tensors of `a`, named by `naming`, in the order in which a pass uses them.
#[must_use]
pub fn list(a: &Architecture, naming: &Naming<'_>) -> Vec<TensorSpec> {
    let (matrix, vector) = (TensorKind::Matrix, TensorKind::Vector);
    let mut roles = vec![(Role::Embedding, matrix, [a.embedding_rows, a.hidden])];
    if let Some(positions) = a.learned_positions {
        roles.push((Role::Positions, matrix, [positions, a.hidden]));
    }
    for (set, block) in a.distinct_blocks().enumerate() {
        let of_block = block_tensors(a, block).into_iter();
        roles.extend(of_block.map(|(role, kind, shape)| (Role::Block(set, role), kind, shape)));
    }
    roles.push((Role::FinalNorm, vector, [1, a.hidden]));
    if a.final_norm.kind == NormKind::Layer {
        roles.push((Role::FinalNormBias, vector, [1, a.hidden]));
    }
    if !a.tied_head {
        roles.push((Role::Head, matrix, [a.embedding_rows, a.hidden]));
    }
    if a.head_bias {
        roles.push((Role::HeadBias, vector, [1, a.embedding_rows]));
    }
    let mut specs = Vec::new();
    for (role, kind, [rows, cols]) in roles {
        let names = naming(role);
        let parts = part_sizes(a, role, names.len(), if kind == matrix { rows } else { cols });
        for ((name, stored), part) in names.into_iter().zip(parts) {
            let (rows, cols) = if kind == matrix { (part, cols) } else { (1, part) };
            specs.push(TensorSpec { role, name, rows, cols, kind, stored });
        }
    }
    specs
}

/// Rows (or elements) of the `parts` tensors that make up a role of `whole` rows.
fn part_sizes(a: &Architecture, role: Role, parts: usize, whole: usize) -> Vec<usize> {
    let Role::Block(set, role) = role else { return vec![whole; parts.min(1)] };
    let Some(block) = a.distinct_blocks().nth(set) else { return Vec::new() };
    match (role, parts) {
        (BlockRole::Qkv | BlockRole::QkvBias, 3) => {
            let at = &block.attention;
            vec![at.q_width(), at.kv_width(), at.kv_width()]
        }
        (BlockRole::Up | BlockRole::UpBias, 2) => vec![whole / 2; 2],
        _ => vec![whole; parts.min(1)],
    }
}

/// What a block consists of, with each role's kind and whole shape, in the order in which a pass uses it.
#[must_use]
pub fn block_tensors(a: &Architecture, block: &BlockSpec) -> Vec<(BlockRole, TensorKind, [usize; 2])> {
    use BlockRole as R;
    let (at, ff, d) = (&block.attention, &block.feed_forward, a.hidden);
    let mut found = Vec::new();
    let matrix = |role, rows, cols| (role, TensorKind::Matrix, [rows, cols]);
    let vector = |role, cols| (role, TensorKind::Vector, [1, cols]);
    let norm = |found: &mut Vec<_>, norm: Option<Norm>, weight, bias: Option<R>| {
        let Some(norm) = norm else { return };
        found.push(vector(weight, d));
        if let (NormKind::Layer, Some(bias)) = (norm.kind, bias) {
            found.push(vector(bias, d));
        }
    };
    norm(&mut found, Some(block.attention_norm), R::AttentionNorm, Some(R::AttentionNormBias));
    found.push(matrix(R::Qkv, at.qkv_width(), d));
    if at.qkv_bias {
        found.push(vector(R::QkvBias, at.qkv_width()));
    }
    if at.qk_norm.is_some() {
        found.push(vector(R::QueryNorm, at.head_dim));
        found.push(vector(R::KeyNorm, at.head_dim));
    }
    found.push(matrix(R::AttentionOut, d, at.q_width()));
    if at.out_bias {
        found.push(vector(R::AttentionOutBias, d));
    }
    norm(&mut found, block.after_attention_norm, R::AfterAttentionNorm, None);
    norm(&mut found, block.feed_forward_norm, R::FeedForwardNorm, Some(R::FeedForwardNormBias));
    found.push(matrix(R::Up, ff.up_width(), d));
    if ff.bias {
        found.push(vector(R::UpBias, ff.up_width()));
    }
    found.push(matrix(R::Down, d, ff.hidden));
    if ff.bias {
        found.push(vector(R::DownBias, d));
    }
    norm(&mut found, block.after_feed_forward_norm, R::AfterFeedForwardNorm, None);
    found
}

/// The tensors of `a` under names that say their role, one tensor a role: for what has no checkpoint.
#[must_use]
pub fn canonical(a: &Architecture) -> Vec<TensorSpec> {
    list(a, &|role| vec![(format!("{role:?}"), Stored::default())])
}

/// The specs of `role`, in the order in which they are stacked.
pub fn of(specs: &[TensorSpec], role: Role) -> impl Iterator<Item = &TensorSpec> {
    specs.iter().filter(move |spec| spec.role == role)
}
