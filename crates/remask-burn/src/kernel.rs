//! The product of some rows with one panel of weights.
//!
//! Weights are stored small and multiplied as float32. Where rows are few, a weight is decoded in
//! registers and multiplied at once. Where they are many, a `DEPTH` of input features is decoded to
//! cache once, and every row runs over it. Either way an output is the sum of the same products in the
//! same order: what a row comes to does not depend on how many others there are.

use std::ops::Range;

use bytemuck::Zeroable;
use half::{bf16, f16};
use pulp::{Simd, WithSimd};
use remask_core::quantize::BLOCK;

use crate::panels::WIDTH;
use crate::stored::{Packed, Scaling, Weights};
use crate::widen;

/// Input features that are decoded to cache at a time: `DEPTH` x `WIDTH` float32 are 16 KiB, which leaves
/// room for the rows in a first-level cache.
const DEPTH: usize = 4 * BLOCK;

/// Most rows that one run over decoded weights takes: with two vectors each they fill AVX-512's 32
/// registers.
const MOST_ROWS: usize = 12;

/// Some rows over one panel.
pub(crate) struct Run<'a> {
    pub weights: &'a Weights,
    /// Input features.
    pub cols: usize,
    /// `[rows, cols]`.
    pub x: &'a [f32],
    /// What the products are added to, an element a row.
    pub sums: &'a mut [[f32; WIDTH]],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, cols, x, sums } = self;
        match weights {
            Weights::F32(w) => Panel { stored: &w[..], cols }.run(simd, x, sums),
            Weights::F16(w) => Panel { stored: &w[..], cols }.run(simd, x, sums),
            Weights::Bf16(w) => Panel { stored: &w[..], cols }.run(simd, x, sums),
            Weights::Q8 { quants, scales } => Panel { stored: Scaled { quants, scales }, cols }.run(simd, x, sums),
            Weights::Q4 { nibbles, scales } => {
                Panel { stored: Scaled { quants: nibbles, scales }, cols }.run(simd, x, sums);
            }
            Weights::Q4_1(packed) => Panel { stored: packed, cols }.run(simd, x, sums),
            Weights::Q5_0(packed) => Panel { stored: packed, cols }.run(simd, x, sums),
            Weights::Q5_1(packed) => Panel { stored: packed, cols }.run(simd, x, sums),
            Weights::Q4K(packed) => Panel { stored: packed, cols }.run(simd, x, sums),
            Weights::Q5K(packed) => Panel { stored: packed, cols }.run(simd, x, sums),
            Weights::Q6K(packed) => Panel { stored: packed, cols }.run(simd, x, sums),
        }
    }
}

/// The weights of a panel as they are stored.
trait Stored: Copy {
    /// Calls `each` with the input features of `range`, which begins with a multiple of `DEPTH` and ends within
    /// the columns, and their weights.
    fn features<S: Simd>(self, simd: S, range: Range<usize>, each: impl FnMut(usize, [f32; WIDTH]));

    /// `[cols, WIDTH]` weights that are float32 already.
    #[inline(always)]
    fn as_floats<'a>(self) -> Option<&'a [[f32; WIDTH]]>
    where
        Self: 'a,
    {
        None
    }
}

impl Stored for &[f32] {
    #[inline(always)]
    fn features<S: Simd>(self, _: S, range: Range<usize>, mut each: impl FnMut(usize, [f32; WIDTH])) {
        let features = &self.as_chunks().0[range.clone()];
        // A loop: the closure of an iterator's method is a function of its own, without this level's instructions.
        for (k, weights) in range.zip(features) {
            each(k, *weights);
        }
    }

    #[inline(always)]
    fn as_floats<'a>(self) -> Option<&'a [[f32; WIDTH]]>
    where
        Self: 'a,
    {
        Some(self.as_chunks().0)
    }
}

impl Stored for &[f16] {
    #[inline(always)]
    fn features<S: Simd>(self, simd: S, range: Range<usize>, mut each: impl FnMut(usize, [f32; WIDTH])) {
        let features = &self.as_chunks().0[range.clone()];
        for (k, weights) in range.zip(features) {
            each(k, widen::half(simd, weights));
        }
    }
}

impl Stored for &[bf16] {
    #[inline(always)]
    fn features<S: Simd>(self, _: S, range: Range<usize>, mut each: impl FnMut(usize, [f32; WIDTH])) {
        let features = &self.as_chunks().0[range.clone()];
        for (k, weights) in range.zip(features) {
            each(k, widen::brain(weights));
        }
    }
}

/// Whole numbers in blocks with one scale.
#[derive(Clone, Copy)]
struct Scaled<'a, T> {
    /// `[cols / T::WEIGHTS, WIDTH]`.
    quants: &'a [T],
    /// `[cols / BLOCK, WIDTH]`.
    scales: &'a [f16],
}

/// Whole numbers as they are stored.
trait Quants: Copy {
    /// Weights in one element: half a block apart where they are two.
    const WEIGHTS: usize;

    /// The numbers of an input feature: the first or the second of each element.
    fn numbers<S: Simd>(simd: S, feature: &[Self; WIDTH], second: bool) -> [f32; WIDTH];
}

/// int8.
impl Quants for i8 {
    const WEIGHTS: usize = 1;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, feature: &[Self; WIDTH], _: bool) -> [f32; WIDTH] {
        widen::int8(simd, feature)
    }
}

/// Two int4.
impl Quants for u8 {
    const WEIGHTS: usize = 2;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, feature: &[Self; WIDTH], second: bool) -> [f32; WIDTH] {
        widen::int8(simd, &widen::int4(simd, feature, second))
    }
}

impl<T: Quants> Stored for Scaled<'_, T> {
    #[inline(always)]
    fn features<S: Simd>(self, simd: S, range: Range<usize>, mut each: impl FnMut(usize, [f32; WIDTH])) {
        let (mut k, blocks) = (range.start, range.start / BLOCK..);
        let quants = &self.quants[range.start / T::WEIGHTS * WIDTH..range.end / T::WEIGHTS * WIDTH];
        for (block, quants) in blocks.zip(quants.chunks(BLOCK / T::WEIGHTS * WIDTH)) {
            let scales = widen::half(simd, &self.scales.as_chunks().0[block]);
            for which in 0..T::WEIGHTS {
                for feature in quants.as_chunks().0 {
                    let mut weights = T::numbers(simd, feature, which == 1);
                    let (to, _) = S::as_mut_simd_f32s(&mut weights);
                    let (scales, _) = S::as_simd_f32s(&scales);
                    to.iter_mut().zip(scales).for_each(|(w, scale)| *w = simd.mul_f32s(*w, *scale));
                    each(k, weights);
                    k += 1;
                }
            }
        }
    }
}

impl<const BITS: usize, C: Scaling> Stored for &Packed<BITS, C> {
    #[inline(always)]
    fn features<S: Simd>(self, simd: S, range: Range<usize>, mut each: impl FnMut(usize, [f32; WIDTH])) {
        let (nibbles, high) = (self.nibbles.as_chunks::<WIDTH>().0, self.high.as_chunks::<WIDTH>().0);
        for group in range.start / C::GROUP..range.end / C::GROUP {
            let [a, b] = self.scaling.of(simd, group);
            for eight in group * C::GROUP / 8..(group + 1) * C::GROUP / 8 {
                let mut above = [0; WIDTH];
                for (i, pairs) in nibbles[4 * eight..4 * eight + 4].iter().enumerate() {
                    if BITS > 4 && (i * (BITS - 4)).is_multiple_of(4) {
                        above = high[eight * (BITS - 4) + i * (BITS - 4) / 4];
                    }
                    for second in [false, true] {
                        let quants;
                        (quants, above) = widen::packed::<S, BITS>(simd, pairs, second, above);
                        let mut weights = widen::int8(simd, &quants);
                        let (to, _) = S::as_mut_simd_f32s(&mut weights);
                        let ((a, _), (b, _)) = (S::as_simd_f32s(&a), S::as_simd_f32s(&b));
                        for ((w, a), b) in to.iter_mut().zip(a).zip(b) {
                            *w = simd.mul_add_e_f32s(*w, *a, *b);
                        }
                        each(8 * eight + 2 * i + usize::from(second), weights);
                    }
                }
            }
        }
    }
}

/// A panel of so many columns.
#[derive(Clone, Copy)]
struct Panel<T> {
    stored: T,
    cols: usize,
}

impl<T: Stored> Panel<T> {
    /// Adds the products with `x [rows, cols]` to `sums`, one element a row.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, x: &[f32], sums: &mut [[f32; WIDTH]]) {
        // The weights of a feature, the sums of every row and one broadcast value.
        let registers = (1 + sums.len()) * WIDTH.div_ceil(S::F32_LANES) + 1;
        if S::IS_SCALAR || registers > S::REGISTER_COUNT {
            return self.in_cache(simd, x, sums);
        }
        match sums.len() {
            0 => {}
            1 => self.in_registers::<S, 1>(simd, x, sums),
            2 => self.in_registers::<S, 2>(simd, x, sums),
            3 => self.in_registers::<S, 3>(simd, x, sums),
            4 => self.in_registers::<S, 4>(simd, x, sums),
            5 => self.in_registers::<S, 5>(simd, x, sums),
            6 => self.in_registers::<S, 6>(simd, x, sums),
            7 => self.in_registers::<S, 7>(simd, x, sums),
            8 => self.in_registers::<S, 8>(simd, x, sums),
            _ => self.in_cache(simd, x, sums),
        }
    }

    #[inline(always)]
    fn in_registers<S: Simd, const ROWS: usize>(self, simd: S, x: &[f32], sums: &mut [[f32; WIDTH]]) {
        let x: [&[f32]; ROWS] = std::array::from_fn(|r| &x[r * self.cols..][..self.cols]);
        let mut kept = [[0f32; WIDTH]; ROWS];
        kept.copy_from_slice(sums);
        self.stored.features(simd, 0..self.cols, |k, weights| {
            let (weights, _) = S::as_simd_f32s(&weights);
            for (x, kept) in x.iter().zip(&mut kept) {
                // SAFETY: every slice of x is cols long, and k is less.
                let x = simd.splat_f32s(unsafe { *x.get_unchecked(k) });
                let (kept, _) = S::as_mut_simd_f32s(kept);
                for (kept, w) in kept.iter_mut().zip(weights) {
                    *kept = simd.mul_add_e_f32s(x, *w, *kept);
                }
            }
        });
        sums.copy_from_slice(&kept);
    }

    #[inline(always)]
    fn in_cache<S: Simd>(self, simd: S, x: &[f32], sums: &mut [[f32; WIDTH]]) {
        let mut decoded = Decoded([[0.0; WIDTH]; DEPTH]);
        for start in (0..self.cols).step_by(DEPTH) {
            let depth = DEPTH.min(self.cols - start);
            let weights = match self.stored.as_floats() {
                Some(stored) => &stored[start..start + depth],
                None => {
                    let to = &mut decoded.0[..depth];
                    self.stored.features(simd, start..start + depth, |k, weights| to[k - start] = weights);
                    &*to
                }
            };
            Floats { weights, x: &x[start..], stride: self.cols, sums: &mut *sums }.run(simd);
        }
    }
}

/// Some rows over float32 weights that lie as a panel's do.
pub(crate) struct Floats<'a> {
    /// An element an input feature.
    pub weights: &'a [[f32; WIDTH]],
    /// The rows, which start `stride` apart.
    pub x: &'a [f32],
    pub stride: usize,
    /// What the products are added to, an element a row.
    pub sums: &'a mut [[f32; WIDTH]],
}

impl Floats<'_> {
    #[inline(always)]
    pub(crate) fn run<S: Simd>(self, simd: S) {
        let Self { weights, x, stride, sums } = self;
        let most = most_rows::<S>();
        let tiles = sums.len().div_ceil(most);
        let mut first = 0;
        for tile in 0..tiles {
            // Tiles as even as can be: twelve rows and a lone one take as long as twice twelve.
            let count = sums.len() / tiles + usize::from(tile < sums.len() % tiles);
            let part = Tile { x: &x[first * stride..], stride, weights };
            part.run(simd, &mut sums[first..first + count]);
            first += count;
        }
    }
}

/// Most rows of a tile: two vectors of sums a row, of weights and one broadcast value must fit, into 32 registers of
/// AVX-512 and NEON, 16 of AVX2.
#[inline(always)]
fn most_rows<S: Simd>() -> usize {
    if S::F32_LANES == 8 { MOST_ROWS / 2 } else { MOST_ROWS }
}

/// Decoded weights, where vectors never straddle a cache line.
#[repr(align(64))]
struct Decoded([[f32; WIDTH]; DEPTH]);

/// Up to `MOST_ROWS` rows, which start `stride` apart in `x`, over decoded weights, an element a feature.
#[derive(Clone, Copy)]
struct Tile<'a> {
    x: &'a [f32],
    stride: usize,
    weights: &'a [[f32; WIDTH]],
}

impl Tile<'_> {
    /// Adds the products to `sums`, one element a row.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, sums: &mut [[f32; WIDTH]]) {
        match sums.len() {
            1 => self.rows::<S, 1>(simd, sums),
            2 => self.rows::<S, 2>(simd, sums),
            3 => self.rows::<S, 3>(simd, sums),
            4 => self.rows::<S, 4>(simd, sums),
            5 => self.rows::<S, 5>(simd, sums),
            6 => self.rows::<S, 6>(simd, sums),
            7 => self.rows::<S, 7>(simd, sums),
            8 => self.rows::<S, 8>(simd, sums),
            9 => self.rows::<S, 9>(simd, sums),
            10 => self.rows::<S, 10>(simd, sums),
            11 => self.rows::<S, 11>(simd, sums),
            _ => self.rows::<S, MOST_ROWS>(simd, sums),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const ROWS: usize>(self, simd: S, sums: &mut [[f32; WIDTH]]) {
        let sums = &mut sums[..ROWS];
        let x: [&[f32]; ROWS] = std::array::from_fn(|r| &self.x[r * self.stride..][..self.weights.len()]);
        for column in (0..WIDTH).step_by(2 * S::F32_LANES) {
            let columns = column..column + 2 * S::F32_LANES;
            let mut kept = [[S::f32s::zeroed(); 2]; ROWS];
            for (kept, sums) in kept.iter_mut().zip(sums.iter()) {
                kept.copy_from_slice(S::as_simd_f32s(&sums[columns.clone()]).0);
            }
            for (k, weights) in self.weights.iter().enumerate() {
                let (weights, _) = S::as_simd_f32s(&weights[columns.clone()]);
                let (a, b) = (weights[0], weights[1]);
                for r in 0..ROWS {
                    // SAFETY: every slice of x has an element for every one of the weights.
                    let v = simd.splat_f32s(unsafe { *x[r].get_unchecked(k) });
                    kept[r][0] = simd.mul_add_e_f32s(v, a, kept[r][0]);
                    kept[r][1] = simd.mul_add_e_f32s(v, b, kept[r][1]);
                }
            }
            for (kept, sums) in kept.iter().zip(sums.iter_mut()) {
                S::as_mut_simd_f32s(&mut sums[columns.clone()]).0.copy_from_slice(kept);
            }
        }
    }
}
