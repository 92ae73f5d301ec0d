//! float32 from the small numbers that weights are stored in, all exact.
//!
//! A loop that compilers make vectors of in one place may stay scalar in another, and then takes ten
//! times as long. So what most of the time goes into is said in instructions for the levels that have
//! them; the loops beside them are for the other levels.

use std::any::Any;

use half::{bf16, f16};
use pulp::Simd;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

use crate::panels::WIDTH;

/// `simd` as the level `L`, if it is that. The answer is known when a kernel is compiled.
#[inline(always)]
fn level<L: Copy + 'static>(simd: impl Simd) -> Option<L> {
    (&simd as &dyn Any).downcast_ref().copied()
}

/// int8 as float32.
#[inline(always)]
pub(crate) fn int8<S: Simd>(simd: S, stored: &[i8; WIDTH]) -> [f32; WIDTH] {
    let mut floats = [0f32; WIDTH];
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = level::<V4>(simd) {
            for (to, stored) in floats.as_chunks_mut::<16>().0.iter_mut().zip(stored.as_chunks::<16>().0) {
                let whole = simd.convert_i8x16_to_i32x16(bytemuck::cast(*stored));
                *to = bytemuck::cast(simd.convert_i32x16_to_f32x16(whole));
            }
            return floats;
        }
        if let Some(simd) = level::<V3>(simd) {
            for (to, stored) in floats.as_chunks_mut::<8>().0.iter_mut().zip(stored.as_chunks::<8>().0) {
                let low = bytemuck::cast([bytemuck::cast::<_, i64>(*stored), 0]);
                *to = bytemuck::cast(simd.convert_i32x8_to_f32x8(simd.convert_i8x16_to_i32x8(low)));
            }
            return floats;
        }
    }
    floats.iter_mut().zip(stored).for_each(|(to, stored)| *to = f32::from(*stored));
    floats
}

/// The low or the high int4 of each byte, which stand for -8 to 7.
#[inline(always)]
pub(crate) fn int4<S: Simd>(simd: S, pairs: &[u8; WIDTH], high: bool) -> [i8; WIDTH] {
    #[cfg(target_arch = "x86_64")]
    if let Some(V3 { avx, avx2, .. }) = level::<V3>(simd).or(level::<V4>(simd).map(|simd| *simd)) {
        let mut pairs = bytemuck::cast(*pairs);
        if high {
            pairs = avx2._mm256_srli_epi16::<4>(pairs);
        }
        let nibbles = avx2._mm256_and_si256(pairs, avx._mm256_set1_epi8(15));
        return bytemuck::cast(avx2._mm256_sub_epi8(nibbles, avx._mm256_set1_epi8(8)));
    }
    pairs.map(|pair| (if high { pair >> 4 } else { pair & 15 }) as i8 - 8)
}

/// bf16 as float32: their bits are float32's upper half.
#[inline(always)]
pub(crate) fn brain(stored: &[bf16; WIDTH]) -> [f32; WIDTH] {
    let mut floats = [0f32; WIDTH];
    floats.iter_mut().zip(stored).for_each(|(to, stored)| *to = f32::from_bits(u32::from(stored.to_bits()) << 16));
    floats
}

/// f16 as float32.
#[inline(always)]
pub(crate) fn half<S: Simd>(simd: S, stored: &[f16; WIDTH]) -> [f32; WIDTH] {
    let mut floats = [0f32; WIDTH];
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = level::<V4>(simd) {
        for (to, stored) in floats.as_chunks_mut::<16>().0.iter_mut().zip(stored.as_chunks::<16>().0) {
            *to = bytemuck::cast(simd.avx512f._mm512_cvtph_ps(bytemuck::cast(*stored)));
        }
        return floats;
    }
    floats.iter_mut().zip(stored).for_each(|(to, stored)| *to = one_half(*stored));
    floats
}

/// The library's is a call for every eight numbers.
#[inline(always)]
fn one_half(half: f16) -> f32 {
    /// Exponents are biased by 15 in f16 and by 127 in float32.
    const BIAS: u32 = 112 << 23;
    let bits = u32::from(half.to_bits());
    let (sign, rest) = ((bits & 0x8000) << 16, (bits & 0x7FFF) << 13);
    let normal = rest + BIAS;
    // Without an exponent: as the fraction of a number whose leading one is then taken away.
    let small = (f32::from_bits(rest + BIAS + (1 << 23)) - f32::from_bits(BIAS + (1 << 23))).to_bits();
    let magnitude = match bits & 0x7C00 {
        0 => small,
        0x7C00 => normal + BIAS,
        _ => normal,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;
    use crate::panels::vector_levels;

    struct Halves<'a>(&'a [f16; WIDTH]);

    impl WithSimd for Halves<'_> {
        type Output = [f32; WIDTH];

        fn with_simd<S: Simd>(self, simd: S) -> [f32; WIDTH] {
            half(simd, self.0)
        }
    }

    #[test]
    fn every_f16_is_widened_exactly() {
        let all: Vec<_> = (0..=u16::MAX).map(f16::from_bits).collect();
        for level in vector_levels() {
            for halves in all.as_chunks().0 {
                for (half, ours) in halves.iter().zip(Arch::dispatch(level, Halves(halves))) {
                    let exact = half.to_f32();
                    let same = ours.to_bits() == exact.to_bits() || ours.is_nan() && exact.is_nan();
                    assert!(same, "{:#06x} by {level:?}: {ours}", half.to_bits());
                }
            }
        }
    }
}
