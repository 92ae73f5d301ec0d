//! GGUF's quantised blocks: their layouts, and their weights as float32.
//!
//! A block is some weights along a row with their scales, 2-byte aligned; numbers are little-endian, `d`
//! and `m` f16. The layouts are those of GGUF's specification, the float operations those of ggml's
//! `dequantize_row_*`, in their order; a test holds them against the reference implementation, bit for bit.

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
    /// 256 weights, 2 bits each, in sixteenths of 16 with scale and minimum of 4 bits.
    Q2K,
    /// 256 weights, 3 bits each, in sixteenths of 16 with a scale of 6 bits.
    Q3K,
    /// 256 weights, 4 bits each, in eights of 32 with scale and minimum of 6 bits.
    Q4K,
    /// 256 weights, 5 bits each, in eights of 32 with scale and minimum of 6 bits.
    Q5K,
    /// 256 weights, 6 bits each, in sixteenths of 16 with an int8 scale.
    Q6K,
    /// 32 weights `v[q] d`, 4 bits each, of a table of 16 int8.
    Iq4Nl,
    /// 256 weights of the same table, in eights of 32 with a scale of 6 bits.
    Iq4Xs,
}

/// Every type that is read: its number in a GGUF file, the name that GGUF tools print, and the weights and
/// bytes of a block.
const TYPES: [(BlockType, u32, &str, usize, usize); 12] = [
    (BlockType::Q4_0, 2, "Q4_0", BLOCK, 18),
    (BlockType::Q4_1, 3, "Q4_1", BLOCK, 20),
    (BlockType::Q5_0, 6, "Q5_0", BLOCK, 22),
    (BlockType::Q5_1, 7, "Q5_1", BLOCK, 24),
    (BlockType::Q8_0, 8, "Q8_0", BLOCK, 34),
    (BlockType::Q2K, 10, "Q2_K", SUPER, 84),
    (BlockType::Q3K, 11, "Q3_K", SUPER, 110),
    (BlockType::Q4K, 12, "Q4_K", SUPER, 144),
    (BlockType::Q5K, 13, "Q5_K", SUPER, 176),
    (BlockType::Q6K, 14, "Q6_K", SUPER, 210),
    (BlockType::Iq4Nl, 20, "IQ4_NL", BLOCK, 18),
    (BlockType::Iq4Xs, 23, "IQ4_XS", SUPER, 136),
];

/// Weights of a block of the K types.
pub(super) const SUPER: usize = 256;

/// What 4 bits stand for in the IQ4 types.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// A block in plain numbers. A weight of a block of 32 is `quant d` or `quant d + m`; one of a block of 256
/// `d scale quant` or `d scale quant - m minimum`.
pub(super) struct Unpacked {
    pub(super) d: f16,
    /// 0 for types that have none.
    pub(super) m: f16,
    /// What `d` is multiplied with for each group of weights; of blocks of 256.
    pub(super) scales: [i8; 16],
    /// What `m` is multiplied with for each group of weights; of blocks of 256.
    pub(super) minima: [u8; 16],
    /// Whole numbers, with their offset taken away.
    pub(super) quants: [i8; SUPER],
}

fn half_at(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

impl BlockType {
    /// Every type that this build reads.
    pub fn all() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|t| t.0)
    }

    /// The type of this number in a GGUF file.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        TYPES.iter().find(|t| t.1 == number).map(|t| t.0)
    }

    fn entry(self) -> (u32, &'static str, usize, usize) {
        // Every variant is in the table, which lists them in their order; a test goes through all.
        let (_, number, name, weights, bytes) = TYPES[self as usize];
        (number, name, weights, bytes)
    }

    /// Its number in a GGUF file.
    #[must_use]
    pub fn number(self) -> u32 {
        self.entry().0
    }

    /// The name that GGUF tools print.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// Weights in a block.
    #[must_use]
    pub fn weights(self) -> usize {
        self.entry().2
    }

    /// Bytes of a block.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.entry().3
    }

    /// The format that holds every weight of this type exactly: the smallest that there is. Where that is
    /// float32, f16 may hold the weights of one tensor all the same
    /// ([`Matrix::kept_as`](super::Matrix::kept_as)).
    #[must_use]
    pub fn format(self) -> WeightFormat {
        match self {
            Self::Q4_0 => WeightFormat::Q4,
            Self::Q4_1 => WeightFormat::Q4_1,
            Self::Q5_0 => WeightFormat::Q5_0,
            Self::Q5_1 => WeightFormat::Q5_1,
            // The table's numbers are int8.
            Self::Q8_0 | Self::Iq4Nl => WeightFormat::Q8,
            Self::Q4K => WeightFormat::Q4K,
            Self::Q5K => WeightFormat::Q5K,
            // Sixteenths with a scale of 6 bits are sixteenths with an int8 scale.
            Self::Q6K | Self::Q3K => WeightFormat::Q6K,
            Self::Q2K | Self::Iq4Xs => WeightFormat::F32,
        }
    }

    /// Weights that share a scale.
    pub(super) fn group(self) -> usize {
        if matches!(self, Self::Q2K | Self::Q3K | Self::Q6K) { 16 } else { 32 }
    }

    /// One block in plain numbers.
    ///
    /// # Panics
    /// Where `b` is not [`BlockType::bytes`] long.
    pub(super) fn unpack(self, b: &[u8]) -> Unpacked {
        let zero = f16::ZERO;
        let mut u = Unpacked { d: zero, m: zero, scales: [0; 16], minima: [0; 16], quants: [0; SUPER] };
        let quants = &mut u.quants;
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 | Self::Iq4Nl => u.d = half_at(b, 0),
            Self::Q4_1 | Self::Q5_1 => (u.d, u.m) = (half_at(b, 0), half_at(b, 2)),
            Self::Q4K | Self::Q5K => (u.d, u.m) = (half_at(b, 0), half_at(b, 2)),
            Self::Q2K => (u.d, u.m) = (half_at(b, 80), half_at(b, 82)),
            Self::Q3K => u.d = half_at(b, 108),
            Self::Q6K => u.d = half_at(b, 208),
            Self::Iq4Xs => u.d = half_at(b, 0),
        }
        match self {
            Self::Q4_0 => {
                nibbles(&b[2..], quants);
                quants[..BLOCK].iter_mut().for_each(|q| *q -= 8);
            }
            Self::Q4_1 => nibbles(&b[4..], quants),
            Self::Q5_0 => {
                fives(&b[2..], quants);
                quants[..BLOCK].iter_mut().for_each(|q| *q -= 16);
            }
            Self::Q5_1 => fives(&b[4..], quants),
            Self::Q8_0 => quants.iter_mut().zip(&b[2..]).for_each(|(to, q)| *to = *q as i8),
            Self::Iq4Nl => {
                nibbles(&b[2..], quants);
                quants[..BLOCK].iter_mut().for_each(|q| *q = IQ4[*q as usize & 15]);
            }
            Self::Q2K => {
                for (i, s) in b[..16].iter().enumerate() {
                    (u.scales[i], u.minima[i]) = ((s & 15) as i8, s >> 4);
                }
                twos(&b[16..80], quants);
            }
            Self::Q3K => {
                let s = &b[96..108];
                for (i, scale) in u.scales.iter_mut().enumerate() {
                    let low = if i < 8 { s[i] & 15 } else { s[i - 8] >> 4 };
                    *scale = (low | (s[8 + i % 4] >> (2 * (i / 4)) & 3) << 4) as i8 - 32;
                }
                twos(&b[32..96], quants);
                for (part, quants) in quants.chunks_exact_mut(32).enumerate() {
                    for (q, high) in quants.iter_mut().zip(&b[..32]) {
                        *q += (high >> part & 1) as i8 * 4 - 4;
                    }
                }
            }
            Self::Q4K | Self::Q5K => {
                for j in 0..8 {
                    (u.scales[j], u.minima[j]) = scale_and_minimum(&b[4..16], j);
                }
                let low = if self == Self::Q4K { &b[16..] } else { &b[48..] };
                for (low, quants) in low.chunks_exact(32).zip(quants.chunks_exact_mut(64)) {
                    halves(low, quants);
                }
                if self == Self::Q5K {
                    for (part, quants) in quants.chunks_exact_mut(32).enumerate() {
                        for (q, high) in quants.iter_mut().zip(&b[16..48]) {
                            *q |= ((high >> part & 1) << 4) as i8;
                        }
                    }
                }
            }
            Self::Q6K => {
                let (low, high) = (&b[..128], &b[128..192]);
                u.scales.iter_mut().zip(&b[192..208]).for_each(|(to, s)| *to = *s as i8);
                for (part, quants) in quants.chunks_exact_mut(32).enumerate() {
                    // Of 128 weights, the low nibbles of 64 bytes are the first 64, the high ones the others.
                    let (low, high) = (&low[part / 4 * 64 + part % 2 * 32..], &high[part / 4 * 32..]);
                    for ((q, low), high) in quants.iter_mut().zip(low).zip(high) {
                        let nibble = low >> (part % 4 / 2 * 4) & 15;
                        *q = (nibble | (high >> (2 * (part % 4)) & 3) << 4) as i8 - 32;
                    }
                }
            }
            Self::Iq4Xs => {
                let high = u16::from_le_bytes([b[2], b[3]]);
                for (j, scale) in u.scales[..8].iter_mut().enumerate() {
                    let low = b[4 + j / 2] >> (j % 2 * 4) & 15;
                    *scale = (low | ((high >> (2 * j) & 3) as u8) << 4) as i8 - 32;
                }
                for (packed, quants) in b[8..].chunks_exact(16).zip(quants.chunks_exact_mut(32)) {
                    halves(packed, quants);
                }
                quants.iter_mut().for_each(|q| *q = IQ4[*q as usize & 15]);
            }
        }
        u
    }

    /// Weights of whole blocks.
    #[must_use]
    pub fn dequantize(self, blocks: &[u8]) -> Vec<f32> {
        let mut out = Vec::with_capacity(blocks.len() / self.bytes() * self.weights());
        for block in blocks.chunks_exact(self.bytes()) {
            let u = self.unpack(block);
            let (d, m) = (u.d.to_f32(), u.m.to_f32());
            if self.weights() == BLOCK {
                let quants = u.quants[..BLOCK].iter().map(|q| f32::from(*q));
                match self {
                    Self::Q4_1 | Self::Q5_1 => out.extend(quants.map(|q| q * d + m)),
                    _ => out.extend(quants.map(|q| q * d)),
                }
                continue;
            }
            let minima = matches!(self, Self::Q2K | Self::Q4K | Self::Q5K);
            for (i, quants) in u.quants.chunks_exact(self.group()).enumerate() {
                let scale = d * f32::from(u.scales[i]);
                let quants = quants.iter().map(|q| f32::from(*q));
                if minima {
                    let minimum = m * f32::from(u.minima[i]);
                    out.extend(quants.map(|q| scale * q - minimum));
                } else {
                    out.extend(quants.map(|q| scale * q));
                }
            }
        }
        out
    }
}

/// The low nibbles of `bytes`, then the high ones.
fn halves(bytes: &[u8], quants: &mut [i8]) {
    let (low, high) = quants.split_at_mut(bytes.len());
    for ((low, high), b) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = ((b & 15) as i8, (b >> 4) as i8);
    }
}

/// 16 bytes as 32 numbers.
fn nibbles(bytes: &[u8], quants: &mut [i8; SUPER]) {
    halves(&bytes[..16], &mut quants[..BLOCK]);
}

/// 32 numbers of 5 bits: their high bits in a word, then their nibbles.
fn fives(bytes: &[u8], quants: &mut [i8; SUPER]) {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    nibbles(&bytes[4..], quants);
    quants[..BLOCK].iter_mut().enumerate().for_each(|(i, q)| *q |= ((high >> i & 1) << 4) as i8);
}

/// 64 bytes as 256 numbers of 2 bits: of 128 weights, 32 bytes have the first 32 in their lowest bits, the next
/// 32 in the bits above, and so on.
fn twos(bytes: &[u8], quants: &mut [i8; SUPER]) {
    for (part, quants) in quants.chunks_exact_mut(32).enumerate() {
        for (q, b) in quants.iter_mut().zip(&bytes[part / 4 * 32..]) {
            *q = (b >> (2 * (part % 4)) & 3) as i8;
        }
    }
}

/// Scale and minimum, 6 bits each, of 32 weights in a block of 256: `j` of 8.
fn scale_and_minimum(s: &[u8], j: usize) -> (i8, u8) {
    if j < 4 {
        ((s[j] & 63) as i8, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15 | s[j - 4] >> 6 << 4) as i8, s[j + 4] >> 4 | s[j] >> 6 << 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_every_type_in_its_order() {
        for (i, (of, number, ..)) in TYPES.into_iter().enumerate() {
            assert_eq!(of as usize, i);
            assert_eq!((BlockType::of_number(number), of.number()), (Some(of), number));
            assert_eq!(of.dequantize(&vec![0; 3 * of.bytes()]), vec![0.0; 3 * of.weights()], "{}", of.name());
        }
    }
}
