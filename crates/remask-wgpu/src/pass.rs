//! Which dispatches make a pass.

mod few;

use remask_core::architecture::RotaryPairing;
use remask_core::{Architecture, BackendError};

use crate::activations::Activations;
use crate::kernels::gemm::{End, Fused};
use crate::kernels::gemm_matrix::{MatrixEnd, MatrixTile};
use crate::kernels::linear::{Arithmetic, Portable, Shape, Strategy};
use crate::kernels::{
    attention, attention_matrix, attention_row, embed, gemm, gemm_matrix, head_select, rms_norm, rotary, select_reduce,
    select_strips, swiglu,
};
use crate::order::Order;
use crate::recording::{Recorder, Recording};
use crate::uniforms::PassSizes;
use crate::weights::{DeviceLayer, DeviceMatrix, DeviceWeights};
use crate::wgsl::KernelSpec;

/// What a pass answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A candidate a selected row.
    Candidates,
    /// The logits of the selected rows.
    Logits,
}

/// What the dispatches of a pass work on.
pub struct PassPlan<'a> {
    /// Shapes.
    pub architecture: &'a Architecture,
    /// Weights.
    pub weights: &'a DeviceWeights,
    /// Kind of arithmetic.
    pub arithmetic: Arithmetic,
    /// Intermediate results.
    pub activations: &'a Activations,
    /// Cosines and sines.
    pub rotary: &'a wgpu::Buffer,
    /// Keys and values of each layer.
    pub arena: &'a [[wgpu::Buffer; 2]],
    /// Suppressed ids.
    pub suppressed: &'a wgpu::Buffer,
    /// Sizes that the dispatches are large enough for.
    pub sizes: PassSizes,
}

/// Rows of an attention tile in a pass of `rows` rows.
#[must_use]
pub fn attention_tile_rows(arithmetic: Arithmetic, head_dim: u32, rows: u32) -> u32 {
    match arithmetic {
        Arithmetic::Full => attention::tile(head_dim).0,
        Arithmetic::Half => attention_matrix::tile(rows).0,
    }
}

/// How a linear layer's result lies in its buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Splits {
    /// Partial sums, one behind the other.
    count: u32,
    /// Elements of one.
    stride: u32,
}

impl Splits {
    /// The result itself.
    pub(crate) const WHOLE: Self = Self { count: 1, stride: 0 };
}

/// Rows that a linear layer runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Rows,
    Selected,
}

/// A linear layer over the normalised residual stream.
#[derive(Clone, Copy)]
struct Normed<'b> {
    matrix: &'b DeviceMatrix,
    /// Weight of the norm.
    gain: &'b wgpu::Buffer,
    /// Where the normalised rows go if a dispatch of its own makes them.
    between: &'b wgpu::Buffer,
}

/// A linear layer: f16 in on matrix units, f32 otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Product<'b> {
    pub(crate) matrix: &'b DeviceMatrix,
    pub(crate) x: &'b wgpu::Buffer,
    pub(crate) out: &'b wgpu::Buffer,
    pub(crate) over: Over,
}

/// What a product on matrix units begins and ends with.
#[derive(Clone, Copy)]
struct Ending<'b> {
    end: MatrixEnd,
    /// Buffers of the end, beside its output.
    with: &'b [&'b wgpu::Buffer],
    /// Partial sums of squares of each row of x, where x has not been normalised; else 0.
    squares: u32,
}

impl Ending<'_> {
    /// Of a product of what has been normalised, into its output alone.
    const fn plain(end: MatrixEnd) -> Self {
        Self { end, with: &[], squares: 0 }
    }
}

impl PassPlan<'_> {
    fn strategy(&self, r: &Recorder<'_>, matrix: &DeviceMatrix, rows: u32) -> Strategy {
        let shape = Shape { rows, cols: matrix.cols, out: matrix.rows };
        let tuned = r.gpu.tuning.kernel(matrix.format, shape);
        Strategy::choose_usable(&r.gpu.profile, matrix.order, matrix.format, shape, tuned, |spec| r.gpu.usable(spec))
    }

    /// Records the pass.
    ///
    /// # Errors
    /// As [`Recorder::dispatch`].
    pub async fn record(&self, mut r: Recorder<'_>, answer: Answer) -> Result<Recording, BackendError> {
        let (a, w, act, sizes) = (self.architecture, self.weights, self.activations, self.sizes);
        let at = &a.attention;
        let (head_dim, heads, kv_heads) = (at.head_dim as u32, at.heads as u32, at.kv_heads as u32);
        let half_kv = self.arithmetic == Arithmetic::Half;

        for part in &w.embedding.parts {
            let params = embed::Params {
                cols4: a.hidden as u32 / 4,
                first: part.first,
                part_rows: part.rows,
                scale: a.embedding_scale,
            };
            let buffers = [&part.buffer, &act.rows, &act.hidden];
            r.dispatch(embed::spec(w.embedding.format), &buffers, &params, embed::grid(sizes.rows)).await?;
        }
        if let Some((few, tiles)) = self.few(&r) {
            self.few_layers(&mut r, few, tiles).await?;
            self.head(&mut r, None, answer).await?;
            return Ok(r.finish());
        }
        let interleaved = a.rotary.pairing == RotaryPairing::Interleaved;
        // What lies in act.addend and is still to be added to the residual stream.
        let mut pending = None;
        for (layer, [keys, values]) in w.layers.iter().zip(self.arena) {
            let out = self.strategy(&r, &layer.attention_out, sizes.rows);
            let normed = Normed { matrix: &layer.qkv, gain: &layer.attention_norm, between: &act.normed };
            let splits = self.normed(&mut r, normed, &act.qkv, pending.take()).await?;
            let rotated = a.rotary.dims as u32;
            let variant = rotary::Variant { head_dim, rotated, interleaved, splits: splits.count, half_kv };
            let params = rotary::Params { heads, kv_heads, split_stride: splits.stride, padding: 0 };
            let buffers = [&act.rows, self.rotary, &act.qkv, keys, values];
            let grid = rotary::grid(variant, sizes.rows, heads + 2 * kv_heads);
            r.dispatch(rotary::spec(variant), &buffers, &params, grid).await?;
            self.attention(&mut r, keys, values, out.is_half()).await?;
            pending = self.residual(&mut r, &layer.attention_out, &act.attended, out).await?;

            let down = self.strategy(&r, &layer.down, sizes.rows);
            self.gate_up(&mut r, layer, pending.take(), down.is_half()).await?;
            pending = self.residual(&mut r, &layer.down, &act.activated, down).await?;
        }
        self.head(&mut r, pending, answer).await?;
        Ok(r.finish())
    }

    /// A linear layer over the normalised residual stream: in one dispatch where nothing is pending and the
    /// kernel can normalise.
    async fn normed(
        &self,
        r: &mut Recorder<'_>,
        layer: Normed<'_>,
        out: &wgpu::Buffer,
        pending: Option<Splits>,
    ) -> Result<Splits, BackendError> {
        let Normed { matrix, gain, between } = layer;
        match (self.strategy(r, matrix, self.sizes.rows), pending) {
            (Strategy::Portable(kernel), None) => {
                let product = Product { matrix, x: &self.activations.hidden, out, over: Over::Rows };
                self.portable(r, kernel, product, Some(gain), End::Write).await?;
                Ok(Splits::WHOLE)
            }
            (strategy, pending) => {
                self.norm(r, gain, between, pending, strategy.is_half()).await?;
                self.linear(r, matrix, between, out, strategy, Over::Rows).await
            }
        }
    }

    /// The MLP up to the input of its last layer, in f16 where `half`.
    async fn gate_up(
        &self,
        r: &mut Recorder<'_>,
        layer: &DeviceLayer,
        pending: Option<Splits>,
        half: bool,
    ) -> Result<(), BackendError> {
        let (act, matrix) = (self.activations, &layer.gate_up);
        let product = |x| Product { matrix, x, out: &act.activated, over: Over::Rows };
        match self.strategy(r, matrix, self.sizes.rows) {
            // A matrix in parts has a gate and its other half in different ones.
            Strategy::Portable(kernel)
                if pending.is_none() && kernel.fuses_swiglu(&r.gpu.profile) && matrix.parts.len() == 1 && !half =>
            {
                self.portable(r, kernel, product(&act.hidden), Some(&layer.mlp_norm), End::SwiGlu).await
            }
            Strategy::Matrix(tile)
                if tile.fuses_swiglu()
                    && matrix.order == Order::Paired
                    && half
                    && r.gpu.usable(&gemm_matrix::spec(matrix.format, tile, MatrixEnd::SwiGlu, 0)) =>
            {
                self.norm(r, &layer.mlp_norm, &act.normed_mlp, pending, true).await?;
                self.matrix(r, tile, product(&act.normed_mlp), Ending::plain(MatrixEnd::SwiGlu)).await.map(|_| ())
            }
            _ => {
                let normed = Normed { matrix, gain: &layer.mlp_norm, between: &act.normed_mlp };
                let splits = self.normed(r, normed, &act.gate_up, pending).await?;
                self.swiglu(r, splits, matrix.order, half).await
            }
        }
    }

    /// SwiGLU of what lies in `act.gate_up`, into `act.activated`, in f16 where `half`.
    pub(crate) async fn swiglu(
        &self,
        r: &mut Recorder<'_>,
        splits: Splits,
        order: Order,
        half: bool,
    ) -> Result<(), BackendError> {
        let (act, width) = (self.activations, self.architecture.mlp.hidden as u32);
        let params = swiglu::Params { cols4: width / 4, split_stride4: splits.stride / 4, padding: [0; 2] };
        let spec = swiglu::spec(swiglu::Variant { splits: splits.count, half, interleaved: order == Order::Paired });
        let grid = swiglu::grid(self.sizes.rows, width);
        r.dispatch(spec, &[&act.gate_up, &act.activated], &params, grid).await
    }

    /// Attention of all rows, its result in f16 where `half`.
    async fn attention(
        &self,
        r: &mut Recorder<'_>,
        keys: &wgpu::Buffer,
        values: &wgpu::Buffer,
        half: bool,
    ) -> Result<(), BackendError> {
        let (at, act, sizes) = (&self.architecture.attention, self.activations, self.sizes);
        let (head_dim, heads, kv_heads) = (at.head_dim as u32, at.heads as u32, at.kv_heads as u32);
        let params = attention::Params {
            q_stride: (heads + 2 * kv_heads) * head_dim,
            kv_stride: kv_heads * head_dim,
            group: heads / kv_heads,
            scale: at.scale,
        };
        if attention_row::suits(&r.gpu.profile, self.arithmetic, sizes.rows) {
            let halves = attention_row::Halves { store: self.arithmetic == Arithmetic::Half, out: half };
            let buffers = [&act.rows, &act.qkv, keys, values, &act.attended];
            let spec = attention_row::spec(head_dim, halves);
            return r.dispatch(spec, &buffers, &params, attention_row::grid(sizes.rows, heads)).await;
        }
        let spec = match self.arithmetic {
            Arithmetic::Full => attention::spec(r.gpu.profile.is_software(), head_dim),
            Arithmetic::Half => attention_matrix::spec(head_dim, sizes.rows, half),
        };
        let buffers = [&act.tiles, &act.rows, &act.qkv, keys, values, &act.attended];
        r.dispatch(spec, &buffers, &params, attention::grid(sizes.tiles, heads)).await
    }

    /// A norm over all rows, which adds what is pending to the residual stream first.
    async fn norm(
        &self,
        r: &mut Recorder<'_>,
        weight: &wgpu::Buffer,
        out: &wgpu::Buffer,
        pending: Option<Splits>,
        half: bool,
    ) -> Result<(), BackendError> {
        let act = self.activations;
        let mut buffers = vec![&act.hidden, weight, out];
        if pending.is_some() {
            buffers.push(&act.addend);
        }
        let spec = self.norm_spec(r, pending, rms_norm::Variant { half, ..rms_norm::Variant::default() });
        r.dispatch(spec, &buffers, &self.norm_params(pending, 1.0), rms_norm::grid(self.sizes.rows)).await
    }

    /// The norm that adds what is pending.
    fn norm_spec(&self, r: &Recorder<'_>, pending: Option<Splits>, variant: rms_norm::Variant) -> KernelSpec {
        let variant = rms_norm::Variant { splits: pending.map_or(0, |p| p.count), ..variant };
        let cols = self.architecture.hidden as u32;
        let spec = rms_norm::spec(rms_norm::Lanes::choose(&r.gpu.profile, cols), variant);
        if r.gpu.usable(&spec) { spec } else { rms_norm::spec(rms_norm::Lanes::portable(cols), variant) }
    }

    fn norm_params(&self, pending: Option<Splits>, scale: f32) -> rms_norm::Params {
        let split_stride4 = pending.map_or(0, |p| p.stride / 4);
        rms_norm::Params { eps: self.architecture.norm.eps, scale, split_stride4, padding: 0 }
    }

    /// A linear layer whose result is added to the residual stream: now, or by the next norm where it
    /// comes in splits.
    async fn residual(
        &self,
        r: &mut Recorder<'_>,
        matrix: &DeviceMatrix,
        x: &wgpu::Buffer,
        strategy: Strategy,
    ) -> Result<Option<Splits>, BackendError> {
        let act = self.activations;
        let product = Product { matrix, x, out: &act.hidden, over: Over::Rows };
        match strategy {
            Strategy::Matrix(tile)
                if tile.splits == 1 && r.gpu.usable(&gemm_matrix::spec(matrix.format, tile, MatrixEnd::Add, 0)) =>
            {
                self.matrix(r, tile, product, Ending::plain(MatrixEnd::Add)).await.map(|_| None)
            }
            Strategy::Matrix(_) => self.linear(r, matrix, x, &act.addend, strategy, Over::Rows).await.map(Some),
            Strategy::Portable(kernel) => self.portable(r, kernel, product, None, End::Add).await.map(|()| None),
        }
    }

    /// A linear layer into a buffer of its own.
    async fn linear(
        &self,
        r: &mut Recorder<'_>,
        matrix: &DeviceMatrix,
        x: &wgpu::Buffer,
        out: &wgpu::Buffer,
        strategy: Strategy,
        over: Over,
    ) -> Result<Splits, BackendError> {
        let product = Product { matrix, x, out, over };
        match strategy {
            Strategy::Portable(kernel) => {
                self.portable(r, kernel, product, None, End::Write).await?;
                Ok(Splits::WHOLE)
            }
            Strategy::Matrix(tile) => self.matrix(r, tile, product, Ending::plain(MatrixEnd::Sums)).await,
        }
    }

    /// A linear layer on matrix units.
    async fn matrix(
        &self,
        r: &mut Recorder<'_>,
        tile: MatrixTile,
        product: Product<'_>,
        ending: Ending<'_>,
    ) -> Result<Splits, BackendError> {
        let (Product { matrix, x, out, over }, Ending { end, with, squares }) = (product, ending);
        let (rows, columns) = (self.rows(over), end.columns(matrix.rows));
        // One split has no stride, so that its parameters are the same for any number of rows.
        let stride = if tile.splits == 1 { 0 } else { tile.padded(rows) * columns };
        let splits = Splits { count: tile.splits, stride };
        let few = self.activations.few.as_ref();
        let squared = few.filter(|_| squares > 0).map(|few| &few.squares);
        let meeting = few.filter(|_| tile.splits_meet(end)).map(|few| [&few.sums, &few.arrived]);
        for part in &matrix.parts {
            let params = gemm_matrix::Params {
                cols8: matrix.cols / 8,
                part_rows: part.rows,
                first: part.first,
                out_stride: columns,
                eps: self.architecture.norm.eps,
                extra: match end {
                    MatrixEnd::Rotary { .. } => self.architecture.attention.kv_heads as u32,
                    _ => splits.stride,
                },
                over_selected: u32::from(over == Over::Selected),
                first_row: 0,
            };
            let buffers = [&part.buffer, x, out].into_iter().chain(with.iter().copied()).chain(squared);
            let buffers: Vec<_> = buffers.chain(meeting.into_iter().flatten()).collect();
            let grid = gemm_matrix::grid(tile, rows, part.rows);
            r.dispatch(gemm_matrix::spec(matrix.format, tile, end, squares), &buffers, &params, grid).await?;
        }
        Ok(splits)
    }

    /// The last norm over the selected rows, and the head.
    async fn head(&self, r: &mut Recorder<'_>, pending: Option<Splits>, answer: Answer) -> Result<(), BackendError> {
        let (act, head, selected) = (self.activations, self.weights.head(), self.sizes.selected);
        // Logits and selections come of whole sums.
        let strategy = match self.strategy(r, head, selected) {
            Strategy::Matrix(tile) => Strategy::Matrix(MatrixTile { splits: 1, ..tile }),
            portable => portable,
        };
        let mut buffers = vec![&act.hidden, &self.weights.final_norm, &act.gathered, &act.select];
        if pending.is_some() {
            buffers.push(&act.addend);
        }
        let variant = rms_norm::Variant { gather: true, half: strategy.is_half(), ..rms_norm::Variant::default() };
        let spec = self.norm_spec(r, pending, variant);
        let params = self.norm_params(pending, self.architecture.logit_scale);
        r.dispatch(spec, &buffers, &params, rms_norm::grid(selected)).await?;

        let strips = match (answer, strategy) {
            (Answer::Logits, _) => {
                self.linear(r, head, &act.gathered, &act.logits, strategy, Over::Selected).await?;
                return Ok(());
            }
            (Answer::Candidates, Strategy::Portable(portable)) => self.portable_head(r, portable.for_head()).await?,
            (Answer::Candidates, Strategy::Matrix(tile)) => self.matrix_head(r, tile).await?,
        };
        let params = select_reduce::Params { strips, padding: [0; 3] };
        let buffers = [&act.partials, &act.candidates];
        r.dispatch(select_reduce::spec(), &buffers, &params, select_reduce::grid(selected)).await
    }

    /// The head fused with selection. Returns the strips of partial selections.
    async fn portable_head(&self, r: &mut Recorder<'_>, kernel: Portable) -> Result<u32, BackendError> {
        let (act, head, selected) = (self.activations, self.weights.head(), self.sizes.selected);
        let mut first_strip = 0;
        for part in &head.parts {
            let params = head_select::Params {
                cols4: head.cols / 4,
                part_rows: part.rows,
                first: part.first,
                first_strip,
                strip_tiles: head_select::strip_tiles(kernel, part.rows),
                padding: [0; 3],
            };
            let buffers = [&part.buffer, &act.gathered, &act.partials, &act.select, self.suppressed];
            let grid = head_select::grid(kernel, selected, part.rows);
            r.dispatch(head_select::spec(head.format, kernel), &buffers, &params, grid).await?;
            first_strip += head_select::strips(kernel, part.rows);
        }
        Ok(first_strip)
    }

    /// The head on matrix units: as many ids at a time as their logits find room for, and the selection
    /// over these. Returns the strips of partial selections.
    async fn matrix_head(&self, r: &mut Recorder<'_>, tile: MatrixTile) -> Result<u32, BackendError> {
        let (act, head, selected) = (self.activations, self.weights.head(), self.sizes.selected);
        let room = (act.chunk.size() / 4) as u32 / tile.padded(selected);
        // Even chunks, so that the last one fills the device too.
        let chunks = head.rows.div_ceil(room / 128 * 128);
        let most = head.rows.div_ceil(chunks).next_multiple_of(128);
        let mut strips = 0;
        for part in &head.parts {
            for first_row in (0..part.rows).step_by(most as usize) {
                let ids = most.min(part.rows - first_row);
                let params = gemm_matrix::Params {
                    cols8: head.cols / 8,
                    part_rows: part.rows,
                    first: 0,
                    out_stride: most,
                    eps: 0.0,
                    extra: 0,
                    over_selected: 1,
                    first_row,
                };
                let buffers = [&part.buffer, &act.gathered, &act.chunk];
                let grid = gemm_matrix::grid(tile, selected, ids);
                r.dispatch(gemm_matrix::spec(head.format, tile, MatrixEnd::Sums, 0), &buffers, &params, grid).await?;
                let params = select_strips::Params {
                    stride: most,
                    count: ids,
                    first: part.first + first_row,
                    first_strip: strips,
                    strip_ids: select_strips::STRIP_IDS,
                    padding: [0; 3],
                };
                let buffers = [&act.chunk, &act.partials, &act.select, self.suppressed];
                r.dispatch(select_strips::spec(), &buffers, &params, select_strips::grid(selected, ids)).await?;
                strips += select_strips::strips(ids);
            }
        }
        Ok(strips)
    }

    /// A linear layer by a kernel that every device can run, over what a norm makes of x where it has a `gain`.
    pub(crate) async fn portable(
        &self,
        r: &mut Recorder<'_>,
        kernel: Portable,
        product: Product<'_>,
        gain: Option<&wgpu::Buffer>,
        end: End,
    ) -> Result<(), BackendError> {
        let Product { matrix, x, out, over } = product;
        let fused = Fused { norm: gain.is_some(), end };
        for part in &matrix.parts {
            let params = gemm::Params {
                cols4: matrix.cols / 4,
                part_rows: part.rows,
                first: part.first,
                out_stride: fused.columns(matrix.rows),
                over_selected: u32::from(over == Over::Selected),
                eps: self.architecture.norm.eps,
                padding: [0; 2],
            };
            let buffers: Vec<_> = [&part.buffer, x, out].into_iter().chain(gain).collect();
            let grid = kernel.grid(self.rows(over), fused.columns(part.rows));
            r.dispatch(kernel.spec(matrix.format, fused), &buffers, &params, grid).await?;
        }
        Ok(())
    }

    fn rows(&self, over: Over) -> u32 {
        match over {
            Over::Rows => self.sizes.rows,
            Over::Selected => self.sizes.selected,
        }
    }
}
