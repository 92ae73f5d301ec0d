//! float32 from the small numbers that weights are stored in, all exact.
//!
//! A loop that compilers make vectors of in one place may stay scalar in another, and then takes ten
//! times as long. So what most of the time goes into is said in instructions for the levels that have
//! them; the loops beside them are for the other levels.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::any::Any;
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::{float32x4_t, int16x4_t};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m128i, __m256};

use bytemuck::{Zeroable, cast};
use half::{bf16, f16};
use pulp::Simd;
#[cfg(target_arch = "aarch64")]
use pulp::aarch64::Neon;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

use crate::panels::WIDTH;

/// `simd` as the level `L`, if it is that. The answer is known when a kernel is compiled.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn level<L: Copy + 'static>(simd: impl Simd) -> Option<L> {
    (&simd as &dyn Any).downcast_ref().copied()
}

/// `N` numbers a vector, each vector made to `N` others.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn each<T, U: Zeroable + Copy, const N: usize>(from: &[T; WIDTH], vector: impl Fn(&[T; N]) -> [U; N]) -> [U; WIDTH] {
    let mut all = [U::zeroed(); WIDTH];
    for (to, from) in all.as_chunks_mut().0.iter_mut().zip(from.as_chunks().0) {
        *to = vector(from);
    }
    all
}

/// int8 as float32.
#[inline(always)]
pub(crate) fn int8<S: Simd>(simd: S, stored: &[i8; WIDTH]) -> [f32; WIDTH] {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = level::<V4>(simd) {
            return each(stored, |stored: &[i8; 16]| {
                let whole = simd.convert_i8x16_to_i32x16(cast(*stored));
                cast(simd.convert_i32x16_to_f32x16(whole))
            });
        }
        if let Some(simd) = level::<V3>(simd) {
            return each(stored, |stored: &[i8; 8]| {
                let whole = simd.convert_i8x16_to_i32x8(cast([cast(*stored), 0i64]));
                cast(simd.convert_i32x8_to_f32x8(whole))
            });
        }
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(Neon { neon, .. }) = level(simd) {
        return each(stored, |stored: &[i8; 8]| {
            let short = neon.vmovl_s8(cast(*stored));
            let (low, high) = (neon.vmovl_s16(neon.vget_low_s16(short)), neon.vmovl_high_s16(short));
            cast([neon.vcvtq_f32_s32(low), neon.vcvtq_f32_s32(high)])
        });
    }
    let mut floats = [0f32; WIDTH];
    floats.iter_mut().zip(stored).for_each(|(to, stored)| *to = f32::from(*stored));
    floats
}

/// The low or the high int4 of each byte, which stand for -8 to 7.
#[inline(always)]
pub(crate) fn int4<S: Simd>(simd: S, pairs: &[u8; WIDTH], high: bool) -> [i8; WIDTH] {
    #[cfg(target_arch = "x86_64")]
    if let Some(V3 { avx, avx2, .. }) = level::<V3>(simd).or(level::<V4>(simd).map(|simd| *simd)) {
        let mut pairs = cast(*pairs);
        if high {
            pairs = avx2._mm256_srli_epi16::<4>(pairs);
        }
        let nibbles = avx2._mm256_and_si256(pairs, avx._mm256_set1_epi8(15));
        return cast(avx2._mm256_sub_epi8(nibbles, avx._mm256_set1_epi8(8)));
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(Neon { neon, .. }) = level(simd) {
        return each(pairs, |pairs: &[u8; 16]| {
            let pairs = cast(*pairs);
            let nibbles = if high { neon.vshrq_n_u8::<4>(pairs) } else { neon.vandq_u8(pairs, neon.vdupq_n_u8(15)) };
            cast(neon.vsubq_u8(nibbles, neon.vdupq_n_u8(8)))
        });
    }
    let mut quants = [0i8; WIDTH];
    for (to, pair) in quants.iter_mut().zip(pairs) {
        *to = (if high { pair >> 4 } else { pair & 15 }) as i8 - 8;
    }
    quants
}

/// The low or the high nibble of each byte with, of `BITS` bits, those above it, which are the lowest of each byte
/// of `above`; and `above` without them.
#[inline(always)]
pub(crate) fn packed<S: Simd, const BITS: usize>(
    simd: S,
    pairs: &[u8; WIDTH],
    high: bool,
    above: [u8; WIDTH],
) -> ([i8; WIDTH], [u8; WIDTH]) {
    let mask = (1u8 << (BITS - 4)) - 1;
    #[cfg(target_arch = "x86_64")]
    if let Some(V3 { avx, avx2, .. }) = level::<V3>(simd).or(level::<V4>(simd).map(|simd| *simd)) {
        let mut nibbles = cast(*pairs);
        if high {
            nibbles = avx2._mm256_srli_epi16::<4>(nibbles);
        }
        nibbles = avx2._mm256_and_si256(nibbles, avx._mm256_set1_epi8(15));
        if BITS == 4 {
            return (cast(nibbles), above);
        }
        let above = cast(above);
        let top = avx2._mm256_and_si256(above, avx._mm256_set1_epi8(mask as i8));
        let whole = avx2._mm256_or_si256(nibbles, avx2._mm256_slli_epi16::<4>(top));
        // Bits that wander from byte to byte come from above, and are never looked at.
        let rest = if BITS == 5 { avx2._mm256_srli_epi16::<1>(above) } else { avx2._mm256_srli_epi16::<2>(above) };
        return (cast(whole), cast(rest));
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(Neon { neon, .. }) = level(simd) {
        let nibbles: [u8; WIDTH] = each(pairs, |pairs: &[u8; 16]| {
            let pairs = cast(*pairs);
            cast(if high { neon.vshrq_n_u8::<4>(pairs) } else { neon.vandq_u8(pairs, neon.vdupq_n_u8(15)) })
        });
        if BITS == 4 {
            return (cast(nibbles), above);
        }
        let top: [u8; WIDTH] = each(&above, |above: &[u8; 16]| {
            cast(neon.vshlq_n_u8::<4>(neon.vandq_u8(cast(*above), neon.vdupq_n_u8(mask))))
        });
        let rest = each(&above, |above: &[u8; 16]| {
            let above = cast(*above);
            cast(if BITS == 5 { neon.vshrq_n_u8::<1>(above) } else { neon.vshrq_n_u8::<2>(above) })
        });
        let mut whole = [0; WIDTH];
        whole.iter_mut().zip(nibbles).zip(top).for_each(|((to, nibble), top)| *to = (nibble | top) as i8);
        return (whole, rest);
    }
    let (mut quants, mut rest) = ([0i8; WIDTH], above);
    for ((to, pair), above) in quants.iter_mut().zip(pairs).zip(&mut rest) {
        *to = ((if high { pair >> 4 } else { pair & 15 }) | (*above & mask) << 4) as i8;
        *above >>= BITS - 4;
    }
    (quants, rest)
}

/// bf16 as float32: its bits are float32's upper half.
#[inline(always)]
pub(crate) fn brain(stored: &[bf16; WIDTH]) -> [f32; WIDTH] {
    let mut floats = [0f32; WIDTH];
    floats.iter_mut().zip(stored).for_each(|(to, stored)| *to = f32::from_bits(u32::from(stored.to_bits()) << 16));
    floats
}

/// f16 as float32.
#[inline(always)]
pub(crate) fn half<S: Simd>(simd: S, stored: &[f16; WIDTH]) -> [f32; WIDTH] {
    #[cfg(target_arch = "x86_64")]
    if let Some(V4 { avx512f, .. }) = level(simd) {
        return each(stored, |stored: &[f16; 16]| cast(avx512f._mm512_cvtph_ps(cast(*stored))));
    }
    #[cfg(target_arch = "x86_64")]
    if level::<V3>(simd).is_some() {
        // SAFETY: a kernel at this level runs only where there is F16C, see `panels::usable`.
        return each(stored, |stored: &[f16; 8]| cast(unsafe { vcvtph2ps(cast(*stored)) }));
    }
    #[cfg(target_arch = "aarch64")]
    if level::<Neon>(simd).is_some() {
        return each(stored, |stored: &[f16; 4]| cast(fcvtl(cast(*stored))));
    }
    let mut floats = [0f32; WIDTH];
    floats.iter_mut().zip(stored).for_each(|(to, stored)| *to = one_half(*stored));
    floats
}

/// Eight f16 as float32. The intrinsic could not be inlined: AVX2's level, as the library has it, comes
/// without F16C.
///
/// # Safety
/// The processor must have F16C.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx")]
unsafe fn vcvtph2ps(halves: __m128i) -> __m256 {
    let floats;
    // SAFETY: reads and writes the named registers only; the instruction is there by the caller's word.
    unsafe {
        std::arch::asm!(
            "vcvtph2ps {0}, {1}",
            out(ymm_reg) floats,
            in(xmm_reg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    floats
}

/// Four f16 as float32, which every aarch64 can. The intrinsic waits for Rust's f16.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn fcvtl(halves: int16x4_t) -> float32x4_t {
    let floats;
    // SAFETY: reads and writes the named registers only.
    unsafe {
        std::arch::asm!(
            "fcvtl {0:v}.4s, {1:v}.4h",
            out(vreg) floats,
            in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
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
