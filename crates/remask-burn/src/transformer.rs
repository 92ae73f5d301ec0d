//! A transformer as Burn modules, whatever its [`Architecture`] says: written once, for inference on any of Burn's
//! devices and for training. What a row attends to is left to the caller: a key/value store here, a batch of whole
//! texts there.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use remask_core::Architecture;
use remask_core::architecture::{BlockSpec, Norm, NormKind};
use remask_core::tensors::{BlockRole, Role};

use crate::linear::Linear;

/// A transformer whose matrices are of kind `L`.
#[derive(Module, Debug)]
pub struct Transformer<L: Linear> {
    /// Token embedding `[embedding_rows, hidden]`.
    pub embedding: L,
    /// Learned position embedding `[positions, hidden]`.
    pub positions: Option<L>,
    /// The sets of block weights; several blocks of the architecture may use one.
    pub blocks: Vec<Block<L>>,
    /// Norm before the head.
    pub norm: Normalisation,
    /// Head `[embedding_rows, hidden]`; `None` where it is the embedding.
    pub head: Option<L>,
    /// Bias of the head `[embedding_rows]`.
    pub head_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    architecture: Architecture,
}

/// A set of block weights.
#[derive(Module, Debug)]
pub struct Block<L: Linear> {
    /// Norm before attention.
    pub attention_norm: Normalisation,
    /// Query, key and value projections stacked by rows.
    pub qkv: Projection<L>,
    /// Norm over each query head.
    pub query_norm: Option<Normalisation>,
    /// Norm over each key head.
    pub key_norm: Option<Normalisation>,
    /// Attention output `[hidden, heads * head_dim]`.
    pub attention_out: Projection<L>,
    /// Norm over attention's result.
    pub after_attention_norm: Option<Normalisation>,
    /// Norm before the feed-forward part; `None` where it runs side by side with attention.
    pub feed_forward_norm: Option<Normalisation>,
    /// Gate and up projections stacked by rows, or the up projection.
    pub up: Projection<L>,
    /// Down projection `[hidden, feed-forward hidden]`.
    pub down: Projection<L>,
    /// Norm over the feed-forward part's result.
    pub after_feed_forward_norm: Option<Normalisation>,
}

/// A matrix and its bias.
#[derive(Module, Debug)]
pub struct Projection<L: Linear> {
    /// `[out, in]`.
    pub matrix: L,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

/// A norm's factors, and what it does with them.
#[derive(Module, Debug)]
pub struct Normalisation {
    /// Factors `[width]`.
    pub weight: Param<Tensor<1>>,
    /// What is added at the end, `[width]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Kind and epsilon.
    #[module(skip)]
    pub norm: Norm,
}

/// Where a transformer's weights come from.
pub trait Source<L> {
    /// What can go wrong.
    type Error;

    /// The matrix of a role, `[rows, cols]`.
    ///
    /// # Errors
    /// Where the source has none, or not of this shape.
    fn matrix(&mut self, role: Role, shape: [usize; 2]) -> Result<L, Self::Error>;

    /// The vector of a role.
    ///
    /// # Errors
    /// As [`Source::matrix`].
    fn vector(&mut self, role: Role, len: usize) -> Result<Tensor<1>, Self::Error>;
}

/// Tokens and positions of some rows, ready for a forward pass.
pub struct Inputs<L: Linear> {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// Of each rotary table of the architecture.
    turns: Vec<L::Turns>,
}

impl<L: Linear> Projection<L> {
    fn of<S: Source<L>>(source: &mut S, role: Role, shape: [usize; 2], bias: Option<Role>) -> Result<Self, S::Error> {
        let matrix = source.matrix(role, shape)?;
        let bias = bias.map(|role| source.vector(role, shape[0])).transpose()?;
        Ok(Self { matrix, bias: bias.map(Param::from_tensor) })
    }

    fn product(&self, x: Tensor<2>) -> Tensor<2> {
        self.matrix.product(x, self.bias.as_ref().map(Param::val))
    }
}

impl Normalisation {
    fn of<L, S: Source<L>>(
        source: &mut S,
        norm: Norm,
        width: usize,
        weight: Role,
        bias: Option<Role>,
    ) -> Result<Self, S::Error> {
        let weight = Param::from_tensor(source.vector(weight, width)?);
        let bias = bias.filter(|_| norm.kind == NormKind::Layer).map(|role| source.vector(role, width)).transpose()?;
        Ok(Self { weight, bias: bias.map(Param::from_tensor), norm })
    }
}

impl<L: Linear> Block<L> {
    fn of<S: Source<L>>(source: &mut S, hidden: usize, spec: &BlockSpec) -> Result<Self, S::Error> {
        use BlockRole as R;
        let role = |role| Role::Block(spec.weights, role);
        let (at, part) = (&spec.attention, &spec.feed_forward);
        let norm = |source: &mut S, norm, weight, bias: Option<R>| {
            Normalisation::of(source, norm, hidden, role(weight), bias.map(role))
        };
        let optional = |source: &mut S, own: Option<Norm>, weight, bias| {
            own.map(|own| norm(source, own, weight, bias)).transpose()
        };
        let of_head = |source: &mut S, weight| {
            let own = |norm| Normalisation::of(source, norm, at.head_dim, role(weight), None);
            at.qk_norm.map(own).transpose()
        };
        let projection = |source: &mut S, matrix, shape, bias: Option<R>| {
            Projection::of(source, role(matrix), shape, bias.map(role))
        };
        Ok(Self {
            attention_norm: norm(source, spec.attention_norm, R::AttentionNorm, Some(R::AttentionNormBias))?,
            qkv: projection(source, R::Qkv, [at.qkv_width(), hidden], at.qkv_bias.then_some(R::QkvBias))?,
            query_norm: of_head(source, R::QueryNorm)?,
            key_norm: of_head(source, R::KeyNorm)?,
            attention_out: projection(
                source,
                R::AttentionOut,
                [hidden, at.q_width()],
                at.out_bias.then_some(R::AttentionOutBias),
            )?,
            after_attention_norm: optional(source, spec.after_attention_norm, R::AfterAttentionNorm, None)?,
            feed_forward_norm: optional(
                source,
                spec.feed_forward_norm,
                R::FeedForwardNorm,
                Some(R::FeedForwardNormBias),
            )?,
            up: projection(source, R::Up, [part.up_width(), hidden], part.bias.then_some(R::UpBias))?,
            down: projection(source, R::Down, [hidden, part.hidden], part.bias.then_some(R::DownBias))?,
            after_feed_forward_norm: optional(source, spec.after_feed_forward_norm, R::AfterFeedForwardNorm, None)?,
        })
    }

    /// The block's share of the residual stream `x [rows, hidden]`, added to it.
    fn forward(
        &self,
        x: Tensor<2>,
        spec: &BlockSpec,
        turns: Option<&L::Turns>,
        attend: impl FnOnce(&BlockSpec, L::Projected) -> Tensor<2>,
    ) -> Tensor<2> {
        let normed = L::normalised(x.clone(), &self.attention_norm);
        let norms = self.query_norm.as_ref().zip(self.key_norm.as_ref()).map(|(q, k)| [q, k]);
        let projected = L::projected(self.qkv.product(normed.clone()), &spec.attention, norms, turns);
        let attended = self.attention_out.product(attend(spec, projected));
        let x = x + Self::after(attended, self.after_attention_norm.as_ref());
        let read = match &self.feed_forward_norm {
            Some(norm) => L::normalised(x.clone(), norm),
            None => normed,
        };
        let fed = self.down.product(L::activated(self.up.product(read), &spec.feed_forward));
        x + Self::after(fed, self.after_feed_forward_norm.as_ref())
    }

    fn after(x: Tensor<2>, norm: Option<&Normalisation>) -> Tensor<2> {
        match norm {
            Some(norm) => L::normalised(x, norm),
            None => x,
        }
    }
}

impl<L: Linear> Transformer<L> {
    /// The transformer that `a` describes, with weights from `source`.
    ///
    /// # Errors
    /// The source's.
    pub fn of<S: Source<L>>(source: &mut S, a: &Architecture) -> Result<Self, S::Error> {
        let d = a.hidden;
        let embedding = source.matrix(Role::Embedding, [a.embedding_rows, d])?;
        let positions = a.learned_positions.map(|rows| source.matrix(Role::Positions, [rows, d])).transpose()?;
        let blocks = a.distinct_blocks().map(|spec| Block::of(source, d, spec)).collect::<Result<_, _>>()?;
        let norm = Normalisation::of(source, a.final_norm, d, Role::FinalNorm, Some(Role::FinalNormBias))?;
        let head = (!a.tied_head).then(|| source.matrix(Role::Head, [a.embedding_rows, d])).transpose()?;
        let head_bias = a.head_bias.then(|| source.vector(Role::HeadBias, a.embedding_rows)).transpose()?;
        let head_bias = head_bias.map(Param::from_tensor);
        Ok(Self { embedding, positions, blocks, norm, head, head_bias, architecture: a.clone() })
    }

    /// The residual stream of rows after the last block, `[rows, hidden]`. `attend` gets a block and what its
    /// rows project, and answers what they attend to, `[rows, heads * head_dim]`.
    pub fn forward(
        &self,
        inputs: &Inputs<L>,
        mut attend: impl FnMut(&BlockSpec, L::Projected) -> Tensor<2>,
    ) -> Tensor<2> {
        let a = &self.architecture;
        let mut x = self.embedding.lookup(&inputs.tokens);
        if a.embedding_scale != 1.0 {
            x = x.mul_scalar(a.embedding_scale);
        }
        if let Some(positions) = &self.positions {
            x = x + positions.lookup(&inputs.positions);
        }
        for spec in &a.blocks {
            let turns = spec.attention.rotary.and_then(|table| inputs.turns.get(table));
            x = self.blocks[spec.weights].forward(x, spec, turns, &mut attend);
        }
        x
    }

    /// What the head reads, `[rows, hidden]`, from the residual stream.
    #[must_use]
    pub fn normed(&self, x: Tensor<2>) -> Tensor<2> {
        let x = L::normalised(x, &self.norm);
        if self.architecture.logit_scale == 1.0 { x } else { x.mul_scalar(self.architecture.logit_scale) }
    }

    /// Logits `[rows, embedding_rows]` of what [`Transformer::normed`] gives.
    #[must_use]
    pub fn logits(&self, normed: Tensor<2>) -> Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embedding).product(normed, self.head_bias.as_ref().map(Param::val))
    }

    /// The matrix of a role, where the model has it.
    #[must_use]
    pub fn matrix(&self, role: Role) -> Option<&L> {
        match role {
            Role::Embedding => Some(&self.embedding),
            Role::Positions => self.positions.as_ref(),
            Role::Head => self.head.as_ref(),
            Role::Block(set, role) => {
                let block = self.blocks.get(set)?;
                match role {
                    BlockRole::Qkv => Some(&block.qkv.matrix),
                    BlockRole::AttentionOut => Some(&block.attention_out.matrix),
                    BlockRole::Up => Some(&block.up.matrix),
                    BlockRole::Down => Some(&block.down.matrix),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The vector of a role, where the model has it.
    #[must_use]
    pub fn vector(&self, role: Role) -> Option<&Param<Tensor<1>>> {
        use BlockRole as R;
        fn weight(norm: &Option<Normalisation>) -> Option<&Param<Tensor<1>>> {
            norm.as_ref().map(|norm| &norm.weight)
        }
        match role {
            Role::FinalNorm => Some(&self.norm.weight),
            Role::FinalNormBias => self.norm.bias.as_ref(),
            Role::HeadBias => self.head_bias.as_ref(),
            Role::Block(set, role) => {
                let block = self.blocks.get(set)?;
                match role {
                    R::AttentionNorm => Some(&block.attention_norm.weight),
                    R::AttentionNormBias => block.attention_norm.bias.as_ref(),
                    R::QkvBias => block.qkv.bias.as_ref(),
                    R::QueryNorm => weight(&block.query_norm),
                    R::KeyNorm => weight(&block.key_norm),
                    R::AttentionOutBias => block.attention_out.bias.as_ref(),
                    R::AfterAttentionNorm => weight(&block.after_attention_norm),
                    R::FeedForwardNorm => weight(&block.feed_forward_norm),
                    R::FeedForwardNormBias => block.feed_forward_norm.as_ref()?.bias.as_ref(),
                    R::UpBias => block.up.bias.as_ref(),
                    R::DownBias => block.down.bias.as_ref(),
                    R::AfterFeedForwardNorm => weight(&block.after_feed_forward_norm),
                    R::Qkv | R::AttentionOut | R::Up | R::Down => None,
                }
            }
            Role::Embedding | Role::Positions | Role::Head => None,
        }
    }

    /// Every matrix, to be changed.
    pub fn matrices_mut(&mut self) -> impl Iterator<Item = &mut L> {
        let of_blocks = self.blocks.iter_mut();
        let of_blocks = of_blocks.flat_map(|b| [&mut b.qkv, &mut b.attention_out, &mut b.up, &mut b.down]);
        let tables = std::iter::once(&mut self.embedding).chain(&mut self.positions).chain(&mut self.head);
        tables.chain(of_blocks.map(|projection| &mut projection.matrix))
    }
}

impl<L: Linear> Inputs<L> {
    /// Rows of these tokens at these positions, for a model like `a` on `device`.
    #[must_use]
    pub fn new(a: &Architecture, tokens: Vec<u32>, positions: Vec<u32>, device: &Device) -> Self {
        let turns = a.rotaries.iter().map(|rotary| L::turns(rotary, &positions, device)).collect();
        Self { tokens, positions, turns }
    }
}
