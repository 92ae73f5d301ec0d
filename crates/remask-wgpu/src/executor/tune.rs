//! Measures the kernels that a model's linear layers could be computed with.

use std::time::Instant;

use remask_core::checkpoint::WeightFormat;
use remask_core::tensors::{BlockRole, Role};
use remask_core::trial::Trial;
use remask_core::{Backend, BackendError};

use super::WgpuBackend;
use crate::kernels::gemm_matrix::{MatrixEnd, MatrixTile};
use crate::kernels::linear::{Portable, Shape, Strategy};
use crate::order::Order;
use crate::plan::PassSizes;
use crate::plan::outline::BLOCK_MATRICES;
use crate::record::record;
use crate::recording::Recording;
use crate::tuning::Tuned;

/// A kernel must take less than this share of the default's time to take its place, so that noise does not
/// decide among equals.
const WORTH: f64 = 0.97;

/// The same where whole passes are compared.
const WORTH_OF_PASS: f64 = 0.99;

/// Passes that a tile is measured by.
const PASSES: u32 = 9;

/// Times that the fastest tile and the default are compared.
const TURNS: u32 = 4;

/// A kernel that takes so many times the fastest one's time is not measured again.
const HOPELESS: f64 = 1.5;

impl WgpuBackend {
    /// Measures every kernel that could compute the model's linear layers for up to `rows` rows, a power of
    /// two, and uses the fastest from now on: one result a kind of layer. What stores hold stays.
    ///
    /// # Errors
    /// As [`remask_core::Backend::forward`].
    pub async fn tune(&mut self, rows: u32) -> Result<Vec<Tuned>, BackendError> {
        let mut results = Vec::new();
        for layer in BLOCK_MATRICES {
            let first = self.outline.get(Role::Block(0, layer))?;
            let (format, order, shape) =
                (first.format(), first.order, Shape { rows, cols: first.cols, out: first.rows });
            if order != Order::Rows {
                results.extend(self.tune_tile(layer, format, order, shape).await?);
                continue;
            }
            // The default comes first.
            let mut measured: Vec<(Portable, f64)> = Vec::new();
            for kernel in Portable::candidates(&self.gpu.profile, format, shape) {
                let best = measured.iter().map(|m| m.1).fold(f64::INFINITY, f64::min);
                let hopeless = best * HOPELESS;
                match self.time_layer(layer, kernel, rows, hopeless).await {
                    Ok(us) => measured.push((kernel, us)),
                    // One that this device cannot compile is no candidate.
                    Err(BackendError::Kernel { .. }) => (),
                    Err(e) => return Err(e),
                }
            }
            let Some([(_, default_us), (kernel, us)]) = fastest(&measured, WORTH) else { continue };
            let kernel = Strategy::Portable(kernel);
            results.push(Tuned { format, rows, cols: shape.cols, out: shape.out, kernel, us, default_us });
        }
        results.iter().for_each(|tuned| self.gpu.tuning.add(*tuned));
        self.forget_recordings();
        self.gpu.save_pipelines();
        Ok(results)
    }

    /// The tile of a layer on matrix units that a whole pass of so many rows is fastest with: what begins and ends a
    /// product is work of its neighbours too.
    async fn tune_tile(
        &mut self,
        layer: BlockRole,
        format: WeightFormat,
        order: Order,
        shape: Shape,
    ) -> Result<Option<Tuned>, BackendError> {
        let Some(block) = self.architecture.blocks.first() else { return Ok(None) };
        let (rows, head_dim) = (shape.rows, block.attention.head_dim as u32);
        let end = match layer {
            BlockRole::Qkv => MatrixEnd::Rotary { head_dim, head_norm: block.attention.qk_norm.is_some() },
            BlockRole::Up => MatrixEnd::of_feed_forward(block.feed_forward.gated, block.feed_forward.activation),
            _ => MatrixEnd::Residual,
        };
        let mut tiles = MatrixTile::candidates_few(format, shape, end);
        if tiles.is_empty() {
            tiles = MatrixTile::candidates(format, shape, order);
        }
        let vocabulary = self.architecture.vocab_size as u32;
        let trial = Trial::new(self, vocabulary, rows, rows).await?;
        let found = self.fastest_tile(&trial, tiles, format, shape).await;
        trial.end(self);
        let tuned = found?;
        tuned.into_iter().for_each(|tuned| self.gpu.tuning.add(tuned));
        Ok(tuned)
    }

    /// The tile with which a pass is fastest: the first one, unless another is faster in turns with it too. What a device
    /// makes of its clocks changes from second to second by more than tiles differ.
    pub(super) async fn fastest_tile(
        &mut self,
        trial: &Trial,
        tiles: Vec<MatrixTile>,
        format: WeightFormat,
        shape: Shape,
    ) -> Result<Option<Tuned>, BackendError> {
        let Shape { rows, cols, out } = shape;
        let tuned =
            |tile, us, default_us| Tuned { format, rows, cols, out, kernel: Strategy::Matrix(tile), us, default_us };
        let mut measured = Vec::new();
        for tile in tiles {
            measured.push((tile, self.time_pass(trial, tuned(tile, 0.0, 0.0)).await?));
        }
        let Some([default, other]) = fastest(&measured, WORTH_OF_PASS) else { return Ok(None) };
        let mut turns = [default, other];
        if other.0 != default.0 {
            turns = [default, other].map(|(tile, _)| (tile, f64::INFINITY));
            for _ in 0..TURNS {
                for (tile, best) in &mut turns {
                    *best = best.min(self.time_pass(trial, tuned(*tile, 0.0, 0.0)).await?);
                }
            }
        }
        Ok(fastest(&turns, WORTH_OF_PASS).map(|[(_, default_us), (tile, us)]| tuned(tile, us, default_us)))
    }

    /// Microseconds of the fastest of a few passes with a tile.
    async fn time_pass(&mut self, trial: &Trial, with: Tuned) -> Result<f64, BackendError> {
        self.gpu.tuning.add(with);
        self.forget_recordings();
        let found = self.fastest_pass(trial).await;
        self.gpu.tuning.remove(&with);
        found
    }

    /// Microseconds of the fastest of a few passes.
    async fn fastest_pass(&mut self, trial: &Trial) -> Result<f64, BackendError> {
        // The first compiles what is missing.
        self.forward(&trial.work().pass()).await?;
        let mut fastest = f64::INFINITY;
        for _ in 0..PASSES {
            let begun = Instant::now();
            self.forward(&trial.work().pass()).await?;
            fastest = fastest.min(begun.elapsed().as_secs_f64());
        }
        Ok(fastest * 1e6)
    }

    /// Microseconds that one linear layer takes with a kernel, in runs over those of all blocks. Above
    /// `hopeless` it is measured once only.
    async fn time_layer(
        &mut self,
        layer: BlockRole,
        kernel: Portable,
        rows: u32,
        hopeless: f64,
    ) -> Result<f64, BackendError> {
        if self.reserve_rows(rows).await? {
            self.forget_recordings();
        }
        let sizes = PassSizes { rows, selected: 1, tiles: 1, logits: 0 };
        let mut steps = Vec::new();
        for block in &self.architecture.blocks {
            self.planner(sizes).alone(&mut steps, block, layer, kernel)?;
        }
        let (recorder, buffers) = self.recorder();
        let recording = record(recorder, buffers, steps).await?;
        self.uniforms.set_pass(&self.gpu, sizes);
        // Enough runs that starting them does not count, and the fastest of a few.
        let once = self.seconds(&recording, 1)?.min(self.seconds(&recording, 1)?);
        let each = 1e6 / self.architecture.blocks.len() as f64;
        if once * each > hopeless {
            return Ok(once * each);
        }
        let count = (0.005 / once.max(1e-6)).ceil().clamp(1.0, 64.0);
        let mut fastest = once;
        for _ in 0..3 {
            fastest = fastest.min(self.seconds(&recording, count as u32)? / count);
        }
        Ok(fastest * each)
    }

    /// Seconds that a recording takes to run `count` times.
    fn seconds(&self, recording: &Recording, count: u32) -> Result<f64, BackendError> {
        let begun = Instant::now();
        let mut encoder =
            self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("tune") });
        (0..count).for_each(|_| recording.encode(&mut encoder, &self.uniforms, None));
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.wait()?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// The first of what was measured, which is the default, and the fastest: the default again where nothing takes less
/// than the share `worth` of its time.
fn fastest<K: Copy>(measured: &[(K, f64)], worth: f64) -> Option<[(K, f64); 2]> {
    let default = *measured.first()?;
    let fastest = measured.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    Some([default, fastest.filter(|(_, us)| *us < default.1 * worth).unwrap_or(default)])
}
