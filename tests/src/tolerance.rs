//! How far a float32 kernel may be from the float64 reference.

/// Bounds on the error of a result, relative to the magnitude of the numbers that went into it.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// L2 norm of the error over that of the reference.
    pub relative_l2: f64,
    /// Largest absolute error over the largest absolute reference.
    pub relative_max: f64,
}

impl Tolerance {
    /// Sums of a few thousand float32 products in any order.
    pub const F32: Self = Self { relative_l2: 2e-6, relative_max: 1e-5 };
    /// float32 with the device's own exp or log in between.
    pub const F32_TRANSCENDENTAL: Self = Self { relative_l2: 1e-5, relative_max: 1e-4 };

    /// Sums of up to 12288 exact products in matrix units, which add with fewer guard bits than float32
    /// arithmetic does.
    pub const MATRIX: Self = Self { relative_l2: 2e-5, relative_max: 1e-4 };
    /// One rounding to f16.
    pub const F16: Self = Self { relative_l2: 5e-4, relative_max: 1e-3 };

    /// As [`Self::check`], where results are kept in f16 and what it cannot hold becomes its largest number.
    ///
    /// # Panics
    /// As [`Self::check`].
    #[track_caller]
    pub fn check_saturated(&self, what: &str, computed: &[f32], reference: &[f64]) {
        let largest = f64::from(half::f16::MAX);
        let reference: Vec<_> = reference.iter().map(|r| r.clamp(-largest, largest)).collect();
        self.check(what, computed, &reference);
    }

    /// Panics with the worst element where `computed` is outside of the bounds. NaN never passes.
    ///
    /// # Panics
    /// Where an element is NaN, lengths differ or a bound is exceeded.
    #[track_caller]
    pub fn check(&self, what: &str, computed: &[f32], reference: &[f64]) {
        assert_eq!(computed.len(), reference.len(), "{what}: lengths");
        let peak = reference.iter().fold(0f64, |m, r| m.max(r.abs())).max(1e-30);
        let (mut worst, mut at, mut square, mut norm) = (0f64, 0, 0f64, 0f64);
        for (i, (c, r)) in computed.iter().zip(reference).enumerate() {
            let d = (f64::from(*c) - r).abs();
            assert!(!d.is_nan(), "{what}: element {i} is {c}, expected {r} (NaN: never written?)");
            if d > worst {
                (worst, at) = (d, i);
            }
            square += d * d;
            norm += r * r;
        }
        let (l2, max) = ((square / norm.max(1e-60)).sqrt(), worst / peak);
        assert!(
            l2 <= self.relative_l2 && max <= self.relative_max,
            "{what}: relative L2 {l2:.2e} (at most {:.0e}), worst {max:.2e} (at most {:.0e}) at element {at}: {} for {}",
            self.relative_l2,
            self.relative_max,
            computed.get(at).copied().unwrap_or(f32::NAN),
            reference.get(at).copied().unwrap_or(f64::NAN),
        );
    }
}
