// Activations of feed-forward parts, by ACTIVATION. None overflows: where x is large they are x, or 0. What is multiplied and
// then added is an fma by name: kernels that stand in for each other give the same bits.

#if ACTIVATION == silu
fn activated(x: f32) -> f32 {
    return x / (1.0 + exp(-x));
}
#endif
#if ACTIVATION == gelu_tanh
// 0.5 x (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x / (1 + exp(-2 u)).
fn activated(x: f32) -> f32 {
    return x / (1.0 + exp(-1.5957691 * fma(0.044715 * x * x, x, x)));
}
#endif
#if ACTIVATION == gelu
// x F(x), where F is the normal distribution: above 0 it is x - x F(-x). F(-t) is exp(-t^2 / 2) times a slow function,
// which a polynomial in z = 1 / (1 + t / 4) follows to 5e-8 of its value up to t = 13; beyond, F(-t) is below float32's
// least normal number. The square of t's upper half is exact, and so is what is taken off it for whole powers of two; what
// is left is at most 0.43, where seven terms of exp's series are enough. So the result is within 1e-6 of its value on every
// device, for small ones too, which their own exp would not be.
fn activated(x: f32) -> f32 {
    let t = min(abs(x), 13.0);
    let z = 1.0 / fma(0.25, t, 1.0);
    var slow = fma(0.02689369, z, -0.15860856);
    slow = fma(slow, z, 0.30837268);
    slow = fma(slow, z, -0.22016293);
    slow = fma(slow, z, 0.2119947);
    slow = fma(slow, z, 0.028411517);
    slow = fma(slow, z, 0.10495057);
    slow = fma(slow, z, 0.098339856);
    slow = fma(slow, z, 0.09980846) * z;
    let upper = bitcast<f32>(bitcast<u32>(t) & 0xFFFFF000u);
    let square = 0.5 * upper * upper;
    let power = round(square * 1.442695);
    // ln 2 in two parts, whose products are exact. Of an fma in an fma compilers would make one, of the sum of the parts.
    let without_power = (square - power * 0.693359375) + power * 0.0002121943980455;
    let rest = fma(0.5 * (t - upper), t + upper, without_power);
    var power_of_rest = fma(-rest, 1.984127e-4, 1.3888889e-3);
    power_of_rest = fma(power_of_rest, -rest, 8.3333333e-3);
    power_of_rest = fma(power_of_rest, -rest, 4.1666668e-2);
    power_of_rest = fma(power_of_rest, -rest, 0.16666667);
    power_of_rest = fma(power_of_rest, -rest, 0.5);
    power_of_rest = fma(power_of_rest, -rest, 1.0);
    power_of_rest = fma(power_of_rest, -rest, 1.0);
    let tail = power_of_rest * bitcast<f32>(u32(127.0 - power) << 23u) * slow;
    // By its bits: of `x < 0` compilers would make a maximum, which takes 0 for a NaN.
    let bits = bitcast<u32>(x);
    let above = bitcast<f32>(select(bits, 0u, bits > 0x7FFFFFFFu && bits <= 0xFF800000u));
    return fma(-t, tail, above);
}
#endif
