//! GGUF's quantised blocks: their layouts, as float32 and as our own formats.
//!
//! A block is some weights along a row with their scales, 2-byte aligned; numbers are little-endian, `d`
//! and `m` f16. The layouts are those of GGUF's specification; a test holds them against the reference
//! implementation, bit for bit.

use half::f16;

use super::WeightFormat;
use crate::quantize::BLOCK;

/// A quantised type of GGUF that this build reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockType {
    /// 32 weights `(q - 8) d`, 4 bits each.
    Q4_0,
    /// 32 weights `q d + m`, 4 bits each.
    Q4_1,
    /// 32 weights `(q - 16) d`, 5 bits each.
    Q5_0,
    /// 32 weights `q d + m`, 5 bits each.
    Q5_1,
    /// 32 weights `q d`, int8.
    Q8_0,
    /// 256 weights, 4 bits each, in eights of 32 with scale and minimum of 6 bits.
    Q4K,
    /// 256 weights, 5 bits each, in eights of 32 with scale and minimum of 6 bits.
    Q5K,
    /// 256 weights, 6 bits each, in sixteenths of 16 with an int8 scale.
    Q6K,
}

/// Every type, with its number in a GGUF file.
const NUMBERS: [(u32, BlockType); 8] = [
    (2, BlockType::Q4_0),
    (3, BlockType::Q4_1),
    (6, BlockType::Q5_0),
    (7, BlockType::Q5_1),
    (8, BlockType::Q8_0),
    (12, BlockType::Q4K),
    (13, BlockType::Q5K),
    (14, BlockType::Q6K),
];

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

impl BlockType {
    /// The type of this number in a GGUF file.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        NUMBERS.iter().find(|(n, _)| *n == number).map(|(_, t)| *t)
    }

    /// The name that GGUF tools print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Weights in a block.
    #[must_use]
    pub fn weights(self) -> usize {
        match self {
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
            _ => BLOCK,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The format of ours that weights of this type are kept in: the smallest that loses nothing, or int8
    /// where none does.
    #[must_use]
    pub fn format(self) -> WeightFormat {
        if self == Self::Q4_0 { WeightFormat::Q4 } else { WeightFormat::Q8 }
    }

    /// Whether [`BlockType::format`] holds every weight exactly: one scale for 32 whole numbers.
    #[must_use]
    pub fn is_exact(self) -> bool {
        matches!(self, Self::Q4_0 | Self::Q5_0 | Self::Q8_0)
    }

    /// Whole blocks as our own format holds them exactly: quants, and f16 scales. Blocks of other types
    /// give nothing.
    #[must_use]
    pub fn split(self, blocks: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut quants, mut scales) = (Vec::with_capacity(blocks.len()), Vec::new());
        for block in blocks.chunks_exact(self.bytes()) {
            let (scale, rest) = block.split_at(2);
            match self {
                Self::Q4_0 | Self::Q8_0 => quants.extend_from_slice(rest),
                Self::Q5_0 => quants.extend(fives(rest).map(|q| (q as i8 - 16) as u8)),
                _ => return Default::default(),
            }
            scales.extend_from_slice(scale);
        }
        (quants, scales)
    }

    /// Weights of whole blocks.
    #[must_use]
    pub fn dequantize(self, blocks: &[u8]) -> Vec<f32> {
        let mut out = Vec::with_capacity(blocks.len() / self.bytes() * self.weights());
        for b in blocks.chunks_exact(self.bytes()) {
            let d = half_at(b, 0);
            match self {
                Self::Q4_0 => out.extend(nibbles(&b[2..]).map(|q| (f32::from(q) - 8.0) * d)),
                Self::Q4_1 => out.extend(nibbles(&b[4..]).map(|q| f32::from(q) * d + half_at(b, 2))),
                Self::Q5_0 => out.extend(fives(&b[2..]).map(|q| (f32::from(q) - 16.0) * d)),
                Self::Q5_1 => out.extend(fives(&b[4..]).map(|q| f32::from(q) * d + half_at(b, 2))),
                Self::Q8_0 => out.extend(b[2..].iter().map(|q| f32::from(*q as i8) * d)),
                Self::Q4K => q4k(b, &mut out),
                Self::Q5K => q5k(b, &mut out),
                Self::Q6K => q6k(b, &mut out),
            }
        }
        out
    }
}

/// 16 bytes as 32 numbers: the low nibbles, then the high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|b| b & 15).chain(bytes.iter().map(|b| b >> 4))
}

/// 32 numbers of 5 bits: their high bits in a word, then their nibbles.
fn fives(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    nibbles(&bytes[4..]).enumerate().map(move |(i, q)| q | ((high >> i & 1) as u8) << 4)
}

/// Scale and minimum, 6 bits each, of 32 weights in a block of 256: `j` of 8.
fn scale_and_minimum(s: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

fn q4k(b: &[u8], out: &mut Vec<f32>) {
    let (d, minimum) = (half_at(b, 0), half_at(b, 2));
    for (i, quants) in b[16..].chunks_exact(32).enumerate() {
        for (j, shift) in [(2 * i, 0), (2 * i + 1, 4)] {
            let (s, m) = scale_and_minimum(&b[4..16], j);
            out.extend(quants.iter().map(|q| d * s * f32::from(q >> shift & 15) - minimum * m));
        }
    }
}

fn q5k(b: &[u8], out: &mut Vec<f32>) {
    let (d, minimum, high) = (half_at(b, 0), half_at(b, 2), &b[16..48]);
    for (i, quants) in b[48..].chunks_exact(32).enumerate() {
        for (j, shift) in [(2 * i, 0), (2 * i + 1, 4)] {
            let (s, m) = scale_and_minimum(&b[4..16], j);
            let five = |(q, h): (&u8, &u8)| q >> shift & 15 | (h >> j & 1) << 4;
            out.extend(quants.iter().zip(high).map(|qh| d * s * f32::from(five(qh)) - minimum * m));
        }
    }
}

fn q6k(b: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for n in 0..2 {
        let (low, high, scales) = (&low[64 * n..], &high[32 * n..], &scales[8 * n..]);
        for part in 0..4 {
            // The low nibbles of 64 bytes are the first 64 weights, the high ones the others.
            let nibble = |l: usize| low[l + part % 2 * 32] >> (part / 2 * 4) & 15;
            out.extend((0..32).map(|l| {
                let q = nibble(l) | (high[l] >> (2 * part) & 3) << 4;
                let scale = scales[l / 16 + 2 * part] as i8;
                d * f32::from(scale) * (f32::from(q) - 32.0)
            }));
        }
    }
}
