// f16 out of the words that they are loaded in: NVIDIA's compiler sees that nothing is converted.

fn two_halves(bits: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(bits));
}

fn four_halves(bits: vec2<u32>) -> vec4<f16> {
    return vec4<f16>(two_halves(bits.x), two_halves(bits.y));
}
