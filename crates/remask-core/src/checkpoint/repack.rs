//! GGUF's blocks as planes of the format that holds them exactly.

use super::WeightFormat;
use super::blocks::{BlockType, SUPER, Unpacked};
use crate::quantize::BLOCK;

impl BlockType {
    /// Whether `format`'s blocks hold every weight of this type exactly.
    #[must_use]
    pub fn fits_in(self, format: WeightFormat) -> bool {
        let one_scale = matches!(self, Self::Q4_0 | Self::Q5_0 | Self::Q8_0 | Self::Iq4Nl);
        format.is_quantized() && (format == self.format() || format == WeightFormat::Q8 && one_scale)
    }

    /// Whole blocks as the planes of `format`, where they [fit in it](BlockType::fits_in); else nothing.
    #[must_use]
    pub fn split(self, blocks: &[u8], format: WeightFormat) -> Vec<Vec<u8>> {
        if !self.fits_in(format) {
            return Vec::new();
        }
        let weights = blocks.len() / self.bytes() * self.weights();
        let mut planes: Vec<_> = format.planes().iter().map(|p| Vec::with_capacity(p.of(weights))).collect();
        for block in blocks.chunks_exact(self.bytes()) {
            if matches!((self, format), (Self::Q4_0, WeightFormat::Q4) | (Self::Q8_0, _)) {
                // What lies in the file is what is kept.
                let (scale, quants) = block.split_at(2);
                planes[0].extend_from_slice(quants);
                planes[1].extend_from_slice(scale);
            } else {
                self.push(format, &self.unpack(block), &mut planes);
            }
        }
        planes
    }

    /// Adds a block to the planes.
    fn push(self, format: WeightFormat, u: &Unpacked, planes: &mut [Vec<u8>]) {
        let quants = &u.quants[..self.weights()];
        if format == WeightFormat::Q8 {
            planes[0].extend(quants.iter().map(|q| *q as u8));
            planes[1].extend(u.d.to_le_bytes());
            return;
        }
        // What is taken from a number of the file is part of the format.
        let offset = match format {
            WeightFormat::Q5_0 => 16,
            WeightFormat::Q6K => 32,
            _ => 0,
        };
        let mut whole = [0u8; SUPER];
        whole.iter_mut().zip(quants).for_each(|(to, q)| *to = (q + offset) as u8);
        let whole = &whole[..quants.len()];
        let (nibbles, rest) = planes.split_at_mut(1);
        nibbles[0].extend(whole.as_chunks::<2>().0.iter().map(|[a, b]| a & 15 | b << 4));
        match format {
            WeightFormat::Q5_0 | WeightFormat::Q5_1 | WeightFormat::Q5K => {
                let byte = |q: &[u8; 8]| q.iter().rev().fold(0, |byte, q| byte << 1 | q >> 4 & 1);
                rest[0].extend(whole.as_chunks::<8>().0.iter().map(byte));
            }
            WeightFormat::Q6K => {
                let byte = |q: &[u8; 4]| q.iter().rev().fold(0, |byte, q| byte << 2 | q >> 4 & 3);
                rest[0].extend(whole.as_chunks::<4>().0.iter().map(byte));
            }
            _ => {}
        }
        let groups = self.weights() / self.group();
        let last = rest.len() - 1;
        match format {
            WeightFormat::Q5_0 => rest[last].extend(u.d.to_le_bytes()),
            WeightFormat::Q4_1 | WeightFormat::Q5_1 => {
                rest[last].extend(u.d.to_le_bytes());
                rest[last].extend(u.m.to_le_bytes());
            }
            WeightFormat::Q6K => {
                rest[last - 1].extend(u.scales[..groups].iter().map(|s| *s as u8));
                rest[last].extend(u.d.to_f32().to_le_bytes());
            }
            _ => {
                let pairs = u.scales[..SUPER / BLOCK].iter().zip(&u.minima);
                rest[last - 1].extend(pairs.flat_map(|(s, m)| [*s as u8, *m]));
                rest[last].extend(u.d.to_f32().to_le_bytes());
                rest[last].extend(u.m.to_f32().to_le_bytes());
            }
        }
    }
}
