//! The weights of one panel, in the format they are kept in.
//!
//! Within a panel the weights of one input feature lie together, and so do the scales of one group of features:
//! whatever is loaded is a vector of `WIDTH` output features.

use bytemuck::Zeroable;
use half::{bf16, f16};
use pulp::{Scalar, Simd};
use remask_core::checkpoint::WeightFormat;
use remask_core::quantize::BLOCK;

use crate::panels::WIDTH;
use crate::widen;

/// Weights that share what byte scales are multiplied with.
const SUPER: usize = 256;

/// One panel: `[cols, WIDTH]` weights.
#[derive(Debug)]
pub(crate) enum Weights {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    /// Scales are `[cols / BLOCK, WIDTH]`.
    Q8 {
        quants: Vec<i8>,
        scales: Vec<f16>,
    },
    /// Bytes are `[cols / 2, WIDTH]`: byte j of a block holds its weights j and j + 16.
    Q4 {
        nibbles: Vec<u8>,
        scales: Vec<f16>,
    },
    Q4_1(Packed<4, HalfPairs>),
    Q5_0(Packed<5, Halves>),
    Q5_1(Packed<5, HalfPairs>),
    Q4K(Packed<4, BytePairs>),
    Q5K(Packed<5, BytePairs>),
    Q6K(Packed<6, SignedBytes>),
}

/// Whole numbers q of 4 to 6 bits, of which weights are `q a + b`. Products and b are exact in float32, so that
/// one rounding is all there is, fused or not: the same as in `a (q - offset)`, which is never rounded, and in
/// `q a - m`.
#[derive(Debug)]
pub(crate) struct Packed<const BITS: usize, C> {
    /// `[cols / 2, WIDTH]`: byte j holds weights 2j and 2j + 1.
    pub(crate) nibbles: Vec<u8>,
    /// `[cols / 8 * (BITS - 4), WIDTH]`: the bits above, the first weight's in the lowest.
    pub(crate) high: Vec<u8>,
    pub(crate) scaling: C,
}

/// What the numbers of a group of features are multiplied with, and what is added.
pub(crate) trait Scaling {
    /// Features of a group.
    const GROUP: usize;

    /// `a` and `b` of every output feature.
    fn of<S: Simd>(&self, simd: S, group: usize) -> [[f32; WIDTH]; 2];
}

/// An f16 a group: `a (q - 16)`.
#[derive(Debug)]
pub(crate) struct Halves(Vec<f16>);

/// Two f16 a group: `q a + b`.
#[derive(Debug)]
pub(crate) struct HalfPairs {
    scales: Vec<f16>,
    minima: Vec<f16>,
}

/// Two bytes a group, and two float32 for eight of them: `q (d s) - m t`.
#[derive(Debug)]
pub(crate) struct BytePairs {
    scales: Vec<i8>,
    minima: Vec<i8>,
    d: Vec<f32>,
    m: Vec<f32>,
}

/// An int8 a group, and a float32 for sixteen of them: `(d s) (q - 32)`.
#[derive(Debug)]
pub(crate) struct SignedBytes {
    scales: Vec<i8>,
    d: Vec<f32>,
}

/// Vector `at` of a plane. Planes are as long as the columns ask for.
#[inline(always)]
fn vector<T>(plane: &[T], at: usize) -> &[T; WIDTH] {
    &plane.as_chunks().0[at]
}

#[inline(always)]
fn times<S: Simd>(simd: S, a: &[f32; WIDTH], mut b: [f32; WIDTH]) -> [f32; WIDTH] {
    let ((a, _), (to, _)) = (S::as_simd_f32s(a), S::as_mut_simd_f32s(&mut b));
    to.iter_mut().zip(a).for_each(|(b, a)| *b = simd.mul_f32s(*a, *b));
    b
}

#[inline(always)]
fn times_number<S: Simd>(simd: S, mut a: [f32; WIDTH], number: f32) -> [f32; WIDTH] {
    let (number, (to, _)) = (simd.splat_f32s(number), S::as_mut_simd_f32s(&mut a));
    to.iter_mut().for_each(|a| *a = simd.mul_f32s(*a, number));
    a
}

impl Scaling for Halves {
    const GROUP: usize = BLOCK;

    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, group: usize) -> [[f32; WIDTH]; 2] {
        let a = widen::half(simd, vector(&self.0, group));
        [a, times_number(simd, a, -16.0)]
    }
}

impl Scaling for HalfPairs {
    const GROUP: usize = BLOCK;

    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, group: usize) -> [[f32; WIDTH]; 2] {
        [&self.scales, &self.minima].map(|plane| widen::half(simd, vector(plane, group)))
    }
}

impl Scaling for BytePairs {
    const GROUP: usize = BLOCK;

    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, group: usize) -> [[f32; WIDTH]; 2] {
        let block = group / (SUPER / BLOCK);
        let bytes = |plane: &[i8]| widen::int8(simd, vector(plane, group));
        let minimum = times(simd, vector(&self.m, block), bytes(&self.minima));
        [times(simd, vector(&self.d, block), bytes(&self.scales)), times_number(simd, minimum, -1.0)]
    }
}

impl Scaling for SignedBytes {
    const GROUP: usize = 16;

    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, group: usize) -> [[f32; WIDTH]; 2] {
        let scales = widen::int8(simd, vector(&self.scales, group));
        let a = times(simd, vector(&self.d, group / (SUPER / Self::GROUP)), scales);
        [a, times_number(simd, a, -32.0)]
    }
}

/// The planes of up to `WIDTH` rows, row by row, on their way into a panel.
pub(crate) struct Rows<'a> {
    pub planes: &'a [Vec<u8>],
    pub rows: usize,
}

impl Rows<'_> {
    /// Elements of plane `i`, the next row's beside the row's, zeros where there is no row.
    fn turned<T: Zeroable + Copy, const BYTES: usize>(&self, i: usize, read: impl Fn([u8; BYTES]) -> T) -> Vec<T> {
        let elements = self.planes[i].as_chunks::<BYTES>().0;
        let columns = elements.len() / self.rows.max(1);
        let mut out = vec![T::zeroed(); columns * WIDTH];
        for (row, elements) in elements.chunks_exact(columns.max(1)).enumerate() {
            for (to, element) in out.iter_mut().skip(row).step_by(WIDTH).zip(elements) {
                *to = read(*element);
            }
        }
        out
    }

    fn packed<const BITS: usize, C>(&self, scaling: C) -> Packed<BITS, C> {
        let high = if BITS > 4 { self.turned(1, u8::from_le_bytes) } else { Vec::new() };
        Packed { nibbles: self.turned(0, u8::from_le_bytes), high, scaling }
    }

    fn half_pairs(&self, i: usize) -> HalfPairs {
        HalfPairs {
            scales: self.turned(i, |[a, b, _, _]| f16::from_le_bytes([a, b])),
            minima: self.turned(i, |[_, _, a, b]| f16::from_le_bytes([a, b])),
        }
    }

    fn byte_pairs(&self, i: usize) -> BytePairs {
        let float = |bytes: [u8; 8], at: usize| f32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        BytePairs {
            scales: self.turned(i, |[s, _]| s as i8),
            minima: self.turned(i, |[_, m]| m as i8),
            d: self.turned(i + 1, |bytes| float(bytes, 0)),
            m: self.turned(i + 1, |bytes| float(bytes, 4)),
        }
    }

    /// The panel of these rows.
    pub(crate) fn panel(&self, format: WeightFormat) -> Weights {
        match format {
            WeightFormat::F32 => Weights::F32(self.turned(0, f32::from_le_bytes)),
            WeightFormat::F16 => Weights::F16(self.turned(0, f16::from_le_bytes)),
            WeightFormat::Bf16 => Weights::Bf16(self.turned(0, bf16::from_le_bytes)),
            WeightFormat::Q8 => {
                Weights::Q8 { quants: self.turned(0, i8::from_le_bytes), scales: self.turned(1, f16::from_le_bytes) }
            }
            WeightFormat::Q4 => {
                Weights::Q4 { nibbles: self.turned(0, u8::from_le_bytes), scales: self.turned(1, f16::from_le_bytes) }
            }
            WeightFormat::Q4_1 => Weights::Q4_1(self.packed(self.half_pairs(1))),
            WeightFormat::Q5_0 => Weights::Q5_0(self.packed(Halves(self.turned(2, f16::from_le_bytes)))),
            WeightFormat::Q5_1 => Weights::Q5_1(self.packed(self.half_pairs(2))),
            WeightFormat::Q4K => Weights::Q4K(self.packed(self.byte_pairs(1))),
            WeightFormat::Q5K => Weights::Q5K(self.packed(self.byte_pairs(2))),
            WeightFormat::Q6K => Weights::Q6K(self.packed(SignedBytes {
                scales: self.turned(2, i8::from_le_bytes),
                d: self.turned(3, f32::from_le_bytes),
            })),
        }
    }
}

impl Weights {
    /// How the weights are kept.
    pub(crate) fn format(&self) -> WeightFormat {
        match self {
            Self::F32(_) => WeightFormat::F32,
            Self::F16(_) => WeightFormat::F16,
            Self::Bf16(_) => WeightFormat::Bf16,
            Self::Q8 { .. } => WeightFormat::Q8,
            Self::Q4 { .. } => WeightFormat::Q4,
            Self::Q4_1(_) => WeightFormat::Q4_1,
            Self::Q5_0(_) => WeightFormat::Q5_0,
            Self::Q5_1(_) => WeightFormat::Q5_1,
            Self::Q4K(_) => WeightFormat::Q4K,
            Self::Q5K(_) => WeightFormat::Q5K,
            Self::Q6K(_) => WeightFormat::Q6K,
        }
    }

    /// The weights of output feature `lane`.
    pub(crate) fn row(&self, lane: usize) -> Vec<f32> {
        let column = |plane: &[u8], at: usize| plane.get(at * WIDTH + lane).copied().unwrap_or_default();
        let scale = |scales: &[f16], k: usize| scales.get(k / BLOCK * WIDTH + lane).map_or(0.0, |s| s.to_f32());
        match self {
            Self::F32(w) => w.iter().skip(lane).step_by(WIDTH).copied().collect(),
            Self::F16(w) => w.iter().skip(lane).step_by(WIDTH).map(|v| v.to_f32()).collect(),
            Self::Bf16(w) => w.iter().skip(lane).step_by(WIDTH).map(|v| v.to_f32()).collect(),
            Self::Q8 { quants, scales } => {
                let quants = quants.iter().skip(lane).step_by(WIDTH).enumerate();
                quants.map(|(k, q)| f32::from(*q) * scale(scales, k)).collect()
            }
            Self::Q4 { nibbles, scales } => {
                let value = |k: usize| {
                    let pair = column(nibbles, k / BLOCK * (BLOCK / 2) + k % (BLOCK / 2));
                    let nibble = if k % BLOCK < BLOCK / 2 { pair & 15 } else { pair >> 4 };
                    (f32::from(nibble) - 8.0) * scale(scales, k)
                };
                (0..2 * nibbles.len() / WIDTH).map(value).collect()
            }
            Self::Q4_1(packed) => packed.row(lane),
            Self::Q5_0(packed) => packed.row(lane),
            Self::Q5_1(packed) => packed.row(lane),
            Self::Q4K(packed) => packed.row(lane),
            Self::Q5K(packed) => packed.row(lane),
            Self::Q6K(packed) => packed.row(lane),
        }
    }
}

impl<const BITS: usize, C: Scaling> Packed<BITS, C> {
    fn row(&self, lane: usize) -> Vec<f32> {
        let column = |plane: &[u8], at: usize| plane.get(at * WIDTH + lane).copied().unwrap_or_default();
        let groups = 0..2 * self.nibbles.len() / WIDTH / C::GROUP;
        let group = |group: usize| {
            let [a, b] = self.scaling.of(Scalar::new(), group).map(|v| v[lane]);
            (group * C::GROUP..(group + 1) * C::GROUP).map(move |k| {
                let (nibble, more) = (column(&self.nibbles, k / 2) >> (k % 2 * 4) & 15, BITS - 4);
                let high =
                    if more > 0 { column(&self.high, k * more / 8) >> (k * more % 8) & ((1 << more) - 1) } else { 0 };
                f32::from(nibble | high << 4) * a + b
            })
        };
        groups.flat_map(group).collect()
    }
}
