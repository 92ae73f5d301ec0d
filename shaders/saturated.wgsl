// Numbers beyond f16's range become its largest, 65504: WGSL leaves open what conversion makes of them, and
// an infinity would turn every result that it goes into to NaN. Infinities and NaN stay what they are, so
// that what is broken shows. Tests bits: compilers may assume that NaN does not exist.

fn saturated(v: vec2<f32>) -> vec2<f32> {
    let bits = bitcast<vec2<u32>>(v);
    let magnitude = bits & vec2<u32>(0x7FFFFFFFu);
    let beyond = (magnitude > vec2<u32>(0x477FE000u)) & (magnitude < vec2<u32>(0x7F800000u));
    return bitcast<vec2<f32>>(select(bits, (bits & vec2<u32>(0x80000000u)) | vec2<u32>(0x477FE000u), beyond));
}
