//! Layers of passes of few rows on matrix units, five dispatches each: products end with what the next one begins
//! with. What a dispatch costs before it does anything is a good part of such a pass.

use remask_core::BackendError;
use remask_core::architecture::RotaryPairing;

use super::{Ending, Over, PassPlan, Product};
use crate::activations::Few;
use crate::kernels::gemm_matrix::{self, MatrixEnd, MatrixTile};
use crate::kernels::linear::{Shape, Strategy};
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

impl PassPlan<'_> {
    /// The buffers and the tiles of each layer, where all of them can be computed so.
    pub(super) fn few(&self, r: &Recorder<'_>) -> Option<(&Few, Vec<LayerTiles>)> {
        let few = self.activations.few.as_ref()?;
        let rotary = &self.architecture.rotary;
        let halves = rotary.pairing == RotaryPairing::Halves && rotary.dims == self.architecture.attention.head_dim;
        if !halves || self.sizes.rows > MatrixTile::FEW {
            return None;
        }
        let layers = self.weights.layers.iter().enumerate();
        let tiles: Option<_> = layers.map(|(i, layer)| self.tiles(r, layer, i == 0)).collect();
        Some((few, tiles?))
    }

    fn tiles(&self, r: &Recorder<'_>, layer: &DeviceLayer, first: bool) -> Option<LayerTiles> {
        let tile = |matrix: &DeviceMatrix, order, end, squares| {
            let DeviceMatrix { format, cols, rows: out, .. } = *matrix;
            let shape = Shape { rows: self.sizes.rows, cols, out };
            let tuned = r.gpu.tuning.kernel(format, shape).and_then(Strategy::tile);
            let tuned = tuned.filter(|t| MatrixTile::candidates_few(format, shape, end).contains(t));
            let mut choices = tuned.into_iter().chain(MatrixTile::choose_few(format, shape, end));
            let tile = choices.find(|tile| r.gpu.usable(&gemm_matrix::spec(format, *tile, end, squares)))?;
            (matrix.order == order && matrix.parts.len() == 1).then_some(tile)
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
    pub(super) async fn few_layers(
        &self,
        r: &mut Recorder<'_>,
        few: &Few,
        tiles: Vec<LayerTiles>,
    ) -> Result<(), BackendError> {
        let (act, layers) = (self.activations, &self.weights.layers);
        let Some(first) = layers.first() else { return Ok(()) };
        self.norm(r, &first.attention_norm, &few.normed, None, true).await?;
        let mut squares = 0;
        for (i, ((layer, tiles), [keys, values])) in layers.iter().zip(tiles).zip(self.arena).enumerate() {
            let product = |matrix, out| Product { matrix, x: &few.normed, out, over: Over::Rows };
            let with = [&act.rows, self.rotary, keys, values];
            let ending = Ending { end: self.rotary_end(), with: &with, squares };
            self.matrix(r, tiles.qkv, product(&layer.qkv, &act.qkv), ending).await?;
            self.attention(r, keys, values, true).await?;
            squares = self.told(r, few, (&layer.attention_out, tiles.out), &act.attended, &layer.mlp_norm).await?;
            let ending = Ending { squares, ..Ending::plain(MatrixEnd::SwiGlu) };
            self.matrix(r, tiles.gate_up, product(&layer.gate_up, &act.activated), ending).await?;
            // After the last layer nobody reads what is told.
            let next = layers.get(i + 1).map_or(&self.weights.final_norm, |next| &next.attention_norm);
            squares = self.told(r, few, (&layer.down, tiles.down), &act.activated, next).await?;
        }
        Ok(())
    }

    /// A layer whose result is added to the residual stream, and told to the next one, whose norm has the weight `gain`.
    /// Returns the partial sums of squares of each row.
    async fn told(
        &self,
        r: &mut Recorder<'_>,
        few: &Few,
        (matrix, tile): (&DeviceMatrix, MatrixTile),
        x: &wgpu::Buffer,
        gain: &wgpu::Buffer,
    ) -> Result<u32, BackendError> {
        let product = Product { matrix, x, out: &self.activations.hidden, over: Over::Rows };
        let with = [gain, &few.normed, &few.squares];
        self.matrix(r, tile, product, Ending { with: &with, ..Ending::plain(MatrixEnd::Residual) }).await?;
        Ok(matrix.rows / tile.n)
    }
}
