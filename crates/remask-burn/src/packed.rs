//! Matrices on the CPU in the format they are stored in, and what lies between their products, on host memory.
//! Whatever is computed for a row depends on nothing but that row: its bits are the same in any company.

use std::sync::Arc;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, Param};
use burn::tensor::{Device, Tensor, TensorData};
use pulp::Arch;
use rayon::prelude::*;
use remask_core::architecture::{Attention, FeedForward, Rotary, RotaryPairing};
use remask_core::checkpoint::WeightFormat;

use crate::activation::activate;
use crate::linear::{Linear, angles, floats};
use crate::panels::Panels;
use crate::rows;
use crate::transformer::Normalisation;

/// A matrix in panels. Tensors go in and out without a copy.
#[derive(Debug, Clone)]
pub struct Packed(pub Arc<Panels>);

/// Queries, keys and values of some rows, `[rows, qkv width]`.
pub struct Rows {
    /// The elements.
    pub qkv: Vec<f32>,
    /// How many rows.
    pub rows: usize,
}

/// Cosines and sines of the rotary angles of some rows, `[rows, pairs]` each.
pub struct Turns {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    pub(crate) pairs: usize,
    pub(crate) pairing: RotaryPairing,
}

/// Host memory as a `[rows, cols]` tensor.
pub(crate) fn tensor(values: Vec<f32>, [rows, cols]: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, [rows, cols]), &Device::flex())
}

fn parameter(values: &Param<Tensor<1>>) -> Vec<f32> {
    floats(values.val())
}

impl Linear for Packed {
    type Turns = Turns;
    type Projected = Rows;

    fn product(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let [rows, _] = x.dims();
        let y = self.0.product_and_bias(&floats(x), rows, bias.map(floats).as_deref());
        tensor(y, [rows, self.0.rows()])
    }

    fn lookup(&self, ids: &[u32]) -> Tensor<2> {
        let rows: Vec<_> = ids.par_iter().map(|id| self.0.row(*id as usize)).collect();
        tensor(rows.concat(), [ids.len(), self.0.cols()])
    }

    fn normalised(x: Tensor<2>, norm: &Normalisation) -> Tensor<2> {
        let shape = x.dims();
        let mut x = floats(x);
        let (weight, bias) = (parameter(&norm.weight), norm.bias.as_ref().map(parameter));
        rows::normalise_each(&mut x, shape[1], &norm.norm, &weight, bias.as_deref());
        tensor(x, shape)
    }

    fn activated(up: Tensor<2>, part: &FeedForward) -> Tensor<2> {
        let [rows, _] = up.dims();
        tensor(activate(&floats(up), part), [rows, part.hidden])
    }

    fn turns(rotary: &Rotary, positions: &[u32], _: &Device) -> Turns {
        let [cos, sin] = angles(rotary, positions);
        Turns { cos, sin, pairs: rotary.dims / 2, pairing: rotary.pairing }
    }

    fn projected(
        qkv: Tensor<2>,
        attention: &Attention,
        norms: Option<[&Normalisation; 2]>,
        turns: Option<&Turns>,
    ) -> Rows {
        let [rows, width] = qkv.dims();
        let (mut qkv, head) = (floats(qkv), attention.head_dim);
        let norms = norms.map(|norms| norms.map(|norm| (parameter(&norm.weight), norm.norm)));
        let arch = Arch::new();
        rows::each(&mut qkv, width, |row, values| {
            arch.dispatch(|| {
                let (queries, rest) = values.split_at_mut(attention.q_width());
                let (keys, _) = rest.split_at_mut(attention.kv_width());
                if let Some(norms) = &norms {
                    for (heads, (weight, norm)) in [&mut *queries, &mut *keys].into_iter().zip(norms) {
                        heads.chunks_exact_mut(head).for_each(|head| rows::normalise(head, norm, weight, None));
                    }
                }
                if let Some(turns) = turns {
                    queries.chunks_exact_mut(head).for_each(|head| turns.rotate(row, head));
                    keys.chunks_exact_mut(head).for_each(|head| turns.rotate(row, head));
                }
            });
        });
        Rows { qkv, rows }
    }
}

impl Turns {
    /// Turns the first elements of a head of row `row`.
    #[inline(always)]
    fn rotate(&self, row: usize, head: &mut [f32]) {
        let span = row * self.pairs..(row + 1) * self.pairs;
        let turns = self.cos[span.clone()].iter().zip(&self.sin[span]);
        match self.pairing {
            RotaryPairing::Halves => {
                let (first, second) = head[..2 * self.pairs].split_at_mut(self.pairs);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
            RotaryPairing::Interleaved => {
                for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                    *pair = [pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin];
                }
            }
        }
    }
}

// Packed weights are constants to Burn: nothing to visit, to move or to train.
impl Module for Packed {
    burn::empty!(module);
}

impl ModuleDisplayDefault for Packed {
    fn content(&self, content: Content) -> Option<Content> {
        let shape = format!("[{}, {}] {}", self.0.rows(), self.0.cols(), WeightFormat::list(self.0.formats()));
        content.add_formatted(&shape).optional()
    }
}

impl ModuleDisplay for Packed {}
