//! How weight matrices are kept: the formats, and where in them a weight lies.
//!
//! A format is one or more planes, each with so many bytes for so many weights along a row. Rows of a matrix
//! follow each other within a plane, and the planes of a matrix (on a device: of a part of it) follow each other:
//! quants first, then what scales them. So every plane is aligned, and neighbouring weights lie together.
//!
//! - f32, f16, bf16: the numbers.
//! - q8: int8, then an f16 scale for 32 weights; q4: int4 as in GGUF's Q4_0, then the same (see
//!   [`quantize`](crate::quantize)).
//! - All others have nibbles first, byte j with weight 2j in its low half and 2j + 1 in its high one; then, for
//!   5 and 6 bits, their high bits, 1 or 2 a weight, the first weight in the lowest; then
//!   - q4_1, q5_1: f16 scale and f16 minimum of 32 weights: `q d + m`;
//!   - q5_0: an f16 scale of 32 weights: `(q - 16) d`;
//!   - q4_k, q5_k: for 32 weights a byte s and a byte t, then for 256 weights a float32 d and a float32 m:
//!     `d s q - m t`;
//!   - q6_k: for 16 weights an int8 s, then for 256 weights a float32 d: `d s (q - 32)`.
//!
//! These are GGUF's types of the same names, weight for weight. Scales of 6 bits have become bytes, and what they
//! are multiplied with float32: as f16 it is often subnormal, which not every device reads.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::DType;
use super::blocks::SUPER;
use crate::quantize::{self, BLOCK};

/// How a backend keeps a weight matrix. All formats are exact in float32 arithmetic once stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// 4 bytes a weight.
    F32,
    /// IEEE half, 2 bytes a weight.
    F16,
    /// Brain float, 2 bytes a weight.
    Bf16,
    /// int8 with one f16 scale a block of 32 along the row: 1.0625 bytes a weight.
    Q8,
    /// int4 with one f16 scale a block of 32 along the row: 0.5625 bytes a weight.
    Q4,
    /// GGUF's Q4_1: 0.625 bytes a weight.
    Q4_1,
    /// GGUF's Q5_0: 0.6875 bytes a weight.
    Q5_0,
    /// GGUF's Q5_1: 0.75 bytes a weight.
    Q5_1,
    /// GGUF's Q4_K: 0.59375 bytes a weight (0.5625 in the file).
    Q4K,
    /// GGUF's Q5_K: 0.71875 bytes a weight (0.6875 in the file).
    Q5K,
    /// GGUF's Q6_K: 0.828125 bytes a weight (0.8203125 in the file).
    Q6K,
}

/// A part of a format: so many bytes for so many weights along a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// Bytes of a group.
    pub bytes: usize,
    /// Weights of a group.
    pub weights: usize,
}

impl Plane {
    /// Bytes that `weights` weights along rows take.
    #[must_use]
    pub fn of(self, weights: usize) -> usize {
        weights / self.weights * self.bytes
    }
}

const fn plane(bytes: usize, weights: usize) -> Plane {
    Plane { bytes, weights }
}

const NIBBLES: Plane = plane(16, 32);
const HIGH_BITS: Plane = plane(4, 32);
const HIGH_PAIRS: Plane = plane(8, 32);
const SCALE: Plane = plane(2, 32);
const SCALE_AND_MINIMUM: Plane = plane(4, 32);
const BYTE_PAIR: Plane = plane(2, 32);
const TWO_FLOATS: Plane = plane(8, SUPER);

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8,
        Self::Q4,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The formats that weights of any other can be put in.
    pub const MADE: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Q8, Self::Q4];

    /// The format of matrices whose elements are stored as this type; int8 and int4 lie in blocks.
    pub(super) fn stored_as(dtype: DType) -> Option<Self> {
        match dtype {
            // What a float64 loses as float32 no backend could use.
            DType::F32 | DType::F64 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::Bf16),
            DType::I8 => Some(Self::Q8),
            DType::U8 => Some(Self::Q4),
            _ => None,
        }
    }

    /// The format's name, in options and in shaders.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Its planes, in their order.
    #[must_use]
    pub fn planes(self) -> &'static [Plane] {
        match self {
            Self::F32 => &const { [plane(4, 1)] },
            Self::F16 | Self::Bf16 => &const { [plane(2, 1)] },
            Self::Q8 => &const { [plane(32, 32), SCALE] },
            Self::Q4 => &const { [NIBBLES, SCALE] },
            Self::Q4_1 => &const { [NIBBLES, SCALE_AND_MINIMUM] },
            Self::Q5_0 => &const { [NIBBLES, HIGH_BITS, SCALE] },
            Self::Q5_1 => &const { [NIBBLES, HIGH_BITS, SCALE_AND_MINIMUM] },
            Self::Q4K => &const { [NIBBLES, BYTE_PAIR, TWO_FLOATS] },
            Self::Q5K => &const { [NIBBLES, HIGH_BITS, BYTE_PAIR, TWO_FLOATS] },
            Self::Q6K => &const { [NIBBLES, HIGH_PAIRS, BYTE_PAIR, plane(4, SUPER)] },
        }
    }

    /// Bytes that `rows` x `cols` weights take.
    #[must_use]
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        self.planes().iter().map(|p| p.of(rows * cols)).sum()
    }

    /// Whether weights share scales, and so lie in blocks.
    #[must_use]
    pub fn is_quantized(self) -> bool {
        self.planes().len() > 1
    }

    /// Whether weights of any other format can be put in this one. The others are used where a file has them.
    #[must_use]
    pub fn can_be_made(self) -> bool {
        Self::MADE.contains(&self)
    }

    /// The names of formats, each once, in the order they come: how a report names those of a model's matrices.
    #[must_use]
    pub fn list(formats: impl IntoIterator<Item = Self>) -> String {
        let mut found: Vec<&str> = Vec::new();
        for format in formats {
            if !found.contains(&format.name()) {
                found.push(format.name());
            }
        }
        found.join(", ")
    }

    /// Whether rows of `cols` weights can be kept in this format.
    #[must_use]
    pub fn fits(self, cols: usize) -> bool {
        let least = if matches!(self, Self::F16 | Self::Bf16) { 2 } else { 1 };
        cols.is_multiple_of(self.planes().iter().map(|p| p.weights).fold(least, usize::max))
    }

    /// The weights of whole rows that lie in these planes, as float32; nothing where planes are missing.
    #[must_use]
    pub fn decode<P: AsRef<[u8]>>(self, planes: &[P]) -> Vec<f32> {
        let plane = |i: usize| planes.get(i).map_or(&[][..], AsRef::as_ref);
        let (quants, last) = (plane(0), plane(self.planes().len() - 1));
        let halves = |bytes| <[u8]>::as_chunks::<2>(bytes).0.iter();
        let half = |at: usize| {
            last.get(2 * at..).and_then(|b| b.first_chunk()).map_or(0.0, |b| f16::from_le_bytes(*b).to_f32())
        };
        let float =
            |at: usize| last.get(4 * at..).and_then(|b| b.first_chunk()).map_or(0.0, |b| f32::from_le_bytes(*b));
        let bits = |plane: &[u8], at: usize, bits: usize| {
            let byte = plane.get(at * bits / 8).copied().unwrap_or(0);
            byte >> (at * bits % 8) & ((1 << bits) - 1)
        };
        let nibble = |at: usize| bits(quants, at, 4);
        let five = |at: usize| f32::from(nibble(at) | bits(plane(1), at, 1) << 4);
        let byte = |i: usize, at: usize| plane(i).get(at).copied().unwrap_or(0);
        // Scale and minimum of 32 weights in blocks of 256.
        let of_super = |i: usize, at: usize| {
            let (block, pair) = (at / SUPER, at / BLOCK * 2);
            (float(2 * block) * f32::from(byte(i, pair)), float(2 * block + 1) * f32::from(byte(i, pair + 1)))
        };
        let all = 0..2 * quants.len();
        match self {
            Self::F32 => quants.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F16 => halves(quants).map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Self::Bf16 => halves(quants).map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Self::Q8 => quantize::dequantize_q8(quants, last),
            Self::Q4 => quantize::dequantize_q4(quants, last),
            Self::Q4_1 => all.map(|i| f32::from(nibble(i)) * half(i / BLOCK * 2) + half(i / BLOCK * 2 + 1)).collect(),
            Self::Q5_0 => all.map(|i| (five(i) - 16.0) * half(i / BLOCK)).collect(),
            Self::Q5_1 => all.map(|i| five(i) * half(i / BLOCK * 2) + half(i / BLOCK * 2 + 1)).collect(),
            Self::Q4K => {
                let value = |i| {
                    let (scale, minimum) = of_super(1, i);
                    scale * f32::from(nibble(i)) - minimum
                };
                all.map(value).collect()
            }
            Self::Q5K => {
                let value = |i| {
                    let (scale, minimum) = of_super(2, i);
                    scale * five(i) - minimum
                };
                all.map(value).collect()
            }
            Self::Q6K => {
                let value = |i| {
                    let scale = float(i / SUPER) * f32::from(byte(2, i / 16) as i8);
                    scale * (f32::from(nibble(i) | bits(plane(1), i, 2) << 4) - 32.0)
                };
                all.map(value).collect()
            }
        }
    }
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for WeightFormat {
    type Err = String;

    /// A format that weights can be put in, by its name.
    fn from_str(s: &str) -> Result<Self, String> {
        let made = "use f32, f16, bf16, q8 or q4";
        match Self::ALL.into_iter().find(|f| f.name() == s) {
            Some(format) if format.can_be_made() => Ok(format),
            Some(format) => {
                Err(format!("{format} weights are used where a GGUF file has them, and cannot be made; {made}"))
            }
            None => Err(format!("unknown weight format {s:?}; {made}")),
        }
    }
}
