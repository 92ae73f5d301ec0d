//! Whether bf16 weights may be kept as f16, which matrix units take.
//!
//! bf16 has 8 bits of precision and f16 has 11, so every bf16 number from 2^-17 (7.6e-6) to 65280 is an
//! f16 number too and nothing is lost. Above there is none. Below, f16 has steps of 2^-24 (6e-8), and what
//! lies within half a step of zero becomes zero.

/// bf16 bits of the first magnitude that is infinite as f16: 65536.
const TOO_LARGE: u16 = 0x4780;
/// bf16 bits of infinity.
const INFINITE: u16 = 0x7F80;
/// bf16 bits of the largest magnitude that becomes zero: 2^-25, half of f16's smallest step.
const VANISHES: u16 = 0x3300;

/// Of weights spread evenly about zero, one in this many vanishes where f16's steps cost as much as bf16's
/// own rounding does. A few vanish in every model, and rows of tokens that were never trained may do so as
/// a whole: 256 of Llama 3's 128256 are of the order of 1e-24.
const MOST_VANISHED: usize = 256;

/// What is lost where bf16 weights are kept as f16.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HalfLoss {
    /// Weights looked at.
    pub weights: usize,
    /// Finite weights beyond what f16 holds.
    pub too_large: usize,
    /// The largest of them, 0 where there is none.
    pub largest: f32,
    /// Weights other than 0 that become 0.
    pub vanished: usize,
}

impl HalfLoss {
    /// The loss of little-endian bf16 weights.
    #[must_use]
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut loss = Self { weights: bytes.len() / 2, ..Self::default() };
        // 16-bit counters, so that the compiler counts many weights at a time.
        for bytes in bytes.chunks(2 * 16384) {
            let (mut large, mut small, mut peak) = (0u16, 0u16, 0u16);
            for b in bytes.as_chunks::<2>().0 {
                let magnitude = u16::from_le_bytes(*b) & 0x7FFF;
                large += u16::from((TOO_LARGE..INFINITE).contains(&magnitude));
                small += u16::from((magnitude != 0) & (magnitude <= VANISHES));
                peak = peak.max(if magnitude < INFINITE { magnitude } else { 0 });
            }
            loss.too_large += usize::from(large);
            loss.vanished += usize::from(small);
            if large > 0 {
                loss.largest = loss.largest.max(f32::from_bits(u32::from(peak) << 16));
            }
        }
        loss
    }

    /// The loss of these weights and of others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            weights: self.weights + other.weights,
            too_large: self.too_large + other.too_large,
            largest: self.largest.max(other.largest),
            vanished: self.vanished + other.vanished,
        }
    }

    /// Why these weights should not be kept as f16, where that would hurt.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.too_large > 0 {
            let (count, largest) = (self.too_large, self.largest);
            return Some(format!("{count} weights lie beyond f16's 65504, the largest at {largest:e}"));
        }
        (self.vanished > self.weights / MOST_VANISHED)
            .then(|| format!("{} of {} weights are so small that f16 makes them 0", self.vanished, self.weights))
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn bytes(values: impl IntoIterator<Item = bf16>) -> Vec<u8> {
        values.into_iter().flat_map(bf16::to_le_bytes).collect()
    }

    /// Every bf16 number, against the conversion itself.
    #[test]
    fn every_number_is_judged_as_it_converts() {
        for bits in 0..=u16::MAX {
            let value = bf16::from_bits(bits).to_f32();
            let half = f16::from_f32(value);
            let loss = HalfLoss::of(&bytes([bf16::from_bits(bits)]));
            assert_eq!(loss.too_large == 1, value.is_finite() && half.is_infinite(), "{value:e}");
            assert_eq!(loss.vanished == 1, value != 0.0 && half.to_f32() == 0.0, "{value:e}");
            if value.abs() >= 2f32.powi(-17) && value.abs() < 65536.0 {
                assert_eq!(half.to_f32(), value, "{value:e} is exact");
            }
        }
    }

    #[test]
    fn what_hurts_is_said() {
        let plain = |count: usize| (0..count).map(|i| bf16::from_f32(i as f32 * 1e-4 - 0.05005));
        let tiny = |count: usize| std::iter::repeat_n(bf16::from_f32(1e-24), count);
        let loss = HalfLoss::of(&bytes(plain(40_000)));
        assert_eq!((loss.weights, loss.problem()), (40_000, None));
        assert_eq!(HalfLoss::of(&bytes(plain(40_000).chain(tiny(150)))).problem(), None);
        let problem = HalfLoss::of(&bytes(plain(40_000).chain(tiny(160)))).problem().unwrap();
        assert!(problem.starts_with("160 of 40160 weights"), "{problem}");
        let large = [7e4, -1e30, f32::INFINITY, f32::NAN].map(bf16::from_f32);
        let problem = HalfLoss::of(&bytes(large)).and(loss).problem().unwrap();
        assert!(problem.starts_with("2 weights lie beyond") && problem.contains("e30"), "{problem}");
    }
}
