//! Layers of passes of few rows on matrix units, five dispatches each: products end with what the next one begins
//! with. What a dispatch costs before it does anything is a good part of such a pass.

use remask_core::BackendError;
use remask_core::architecture::RotaryPairing;

use super::PassPlan;
use crate::kernels::gemm_matrix::{self, MatrixEnd, MatrixTile};
use crate::kernels::linear::{Arithmetic, Shape};
use crate::order::Order;
use crate::recording::Recorder;
use crate::weights::{DeviceLayer, DeviceMatrix};

/// The tiles of a layer's products.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerTiles {
    qkv: MatrixTile,
    out: MatrixTile,
    gate_up: MatrixTile,
    down: MatrixTile,
}

/// A product, and what it ends with.
struct Ended<'b> {
    matrix: &'b DeviceMatrix,
    tile: MatrixTile,
    x: &'b wgpu::Buffer,
    /// Partial sums of squares of each row of x, where x has not been normalised; else 0.
    squares: u32,
    end: MatrixEnd,
    out: &'b wgpu::Buffer,
    /// Further buffers of the end.
    with: &'b [&'b wgpu::Buffer],
}

impl PassPlan<'_> {
    /// The tiles of each layer, where all of them can be computed so.
    pub(super) fn few(&self, r: &Recorder<'_>) -> Option<Vec<LayerTiles>> {
        let rotary = &self.architecture.rotary;
        let halves = rotary.pairing == RotaryPairing::Halves && rotary.dims == self.architecture.attention.head_dim;
        let few = self.arithmetic == Arithmetic::Half && self.sizes.rows <= MatrixTile::FEW && halves;
        let layers = self.weights.layers.iter().enumerate();
        few.then(|| layers.map(|(i, layer)| self.tiles(r, layer, i == 0)).collect()).flatten()
    }

    fn tiles(&self, r: &Recorder<'_>, layer: &DeviceLayer, first: bool) -> Option<LayerTiles> {
        let tile = |matrix: &DeviceMatrix, order, end, squares| {
            let DeviceMatrix { format, cols, rows: out, .. } = *matrix;
            let tile = MatrixTile::choose_few(format, Shape { rows: self.sizes.rows, cols, out }, end)?;
            let usable = r.gpu.usable(&gemm_matrix::spec(format, tile, end, squares));
            (usable && matrix.order == order && matrix.parts.len() == 1).then_some(tile)
        };
        let residual = |matrix| tile(matrix, Order::Fragments, MatrixEnd::Residual, 0);
        let (out, down) = (residual(&layer.attention_out)?, residual(&layer.down)?);
        let of_down = if first { 0 } else { layer.down.rows / down.n };
        Some(LayerTiles {
            qkv: tile(&layer.qkv, Order::Fragments, self.rotary_end(), of_down)?,
            out,
            gate_up: tile(&layer.gate_up, Order::Paired, MatrixEnd::SwiGlu, layer.attention_out.rows / out.n)?,
            down,
        })
    }

    fn rotary_end(&self) -> MatrixEnd {
        MatrixEnd::Rotary { head_dim: self.architecture.attention.head_dim as u32 }
    }

    /// Every layer.
    pub(super) async fn few_layers(&self, r: &mut Recorder<'_>, tiles: Vec<LayerTiles>) -> Result<(), BackendError> {
        let (act, layers) = (self.activations, &self.weights.layers);
        let Some(first) = layers.first() else { return Ok(()) };
        self.norm(r, &first.attention_norm, &act.few.normed, None, true).await?;
        let mut squares = 0;
        for (i, ((layer, tiles), [keys, values])) in layers.iter().zip(tiles).zip(self.arena).enumerate() {
            let qkv = Ended {
                matrix: &layer.qkv,
                tile: tiles.qkv,
                x: &act.few.normed,
                squares,
                end: self.rotary_end(),
                out: &act.qkv,
                with: &[&act.rows, self.rotary, keys, values],
            };
            self.ended(r, qkv).await?;
            self.attention(r, keys, values, true).await?;
            squares = self.told(r, &layer.attention_out, tiles.out, &act.attended, &layer.mlp_norm).await?;
            let gate_up = Ended {
                matrix: &layer.gate_up,
                tile: tiles.gate_up,
                x: &act.few.normed,
                squares,
                end: MatrixEnd::SwiGlu,
                out: &act.activated,
                with: &[],
            };
            self.ended(r, gate_up).await?;
            // After the last layer nobody reads what is told.
            let next = layers.get(i + 1).map_or(&self.weights.final_norm, |next| &next.attention_norm);
            squares = self.told(r, &layer.down, tiles.down, &act.activated, next).await?;
        }
        Ok(())
    }

    /// A layer whose result is added to the residual stream, and told to the next one, whose norm has the weight `gain`.
    /// Returns the partial sums of squares of each row.
    async fn told(
        &self,
        r: &mut Recorder<'_>,
        matrix: &DeviceMatrix,
        tile: MatrixTile,
        x: &wgpu::Buffer,
        gain: &wgpu::Buffer,
    ) -> Result<u32, BackendError> {
        let act = self.activations;
        let with = [gain, &act.few.normed, &act.few.squares];
        let end = MatrixEnd::Residual;
        self.ended(r, Ended { matrix, tile, x, squares: 0, end, out: &act.hidden, with: &with }).await?;
        Ok(matrix.rows / tile.n)
    }

    async fn ended(&self, r: &mut Recorder<'_>, product: Ended<'_>) -> Result<(), BackendError> {
        let Ended { matrix, tile, x, squares, end, out, with } = product;
        let few = &self.activations.few;
        for part in &matrix.parts {
            let params = gemm_matrix::Params {
                cols8: matrix.cols / 8,
                part_rows: part.rows,
                first: part.first,
                out_stride: end.columns(matrix.rows),
                eps: self.architecture.norm.eps,
                extra: self.architecture.attention.kv_heads as u32,
                over_selected: 0,
                first_row: 0,
            };
            let mut buffers = vec![&part.buffer, x, out];
            buffers.extend(with);
            if squares > 0 {
                buffers.push(&few.squares);
            }
            if tile.splits_meet(end) {
                buffers.extend([&few.sums, &few.arrived]);
            }
            let grid = gemm_matrix::grid(tile, self.sizes.rows, part.rows);
            r.dispatch(gemm_matrix::spec(matrix.format, tile, end, squares), &buffers, &params, grid).await?;
        }
        Ok(())
    }
}
