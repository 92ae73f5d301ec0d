// A [rows, cols] weight matrix at binding 0, four weights of a row at a time, in float32.
// Only core WGSL: neither f16 nor subgroups are needed for any format.

#if WEIGHT == f32
@group(0) @binding(0) var<storage, read> weights: array<vec4<f32>>;

fn weight4(row: u32, col4: u32, cols4: u32, rows: u32) -> vec4<f32> {
    return weights[row * cols4 + col4];
}
#endif
#if WEIGHT == f16
@group(0) @binding(0) var<storage, read> weights: array<vec2<u32>>;

fn weight4(row: u32, col4: u32, cols4: u32, rows: u32) -> vec4<f32> {
    let packed = weights[row * cols4 + col4];
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
}
#endif
#if WEIGHT == bf16
@group(0) @binding(0) var<storage, read> weights: array<vec2<u32>>;

fn weight4(row: u32, col4: u32, cols4: u32, rows: u32) -> vec4<f32> {
    let packed = weights[row * cols4 + col4];
    let bits = vec4<u32>(packed.x << 16u, packed.x & 0xFFFF0000u, packed.y << 16u, packed.y & 0xFFFF0000u);
    return bitcast<vec4<f32>>(bits);
}
#endif
#if WEIGHT == q8
// int8 quants of all rows, then one f16 scale a block of 32 along the row, two scales a word.
@group(0) @binding(0) var<storage, read> weights: array<u32>;

fn weight4(row: u32, col4: u32, cols4: u32, rows: u32) -> vec4<f32> {
    let index = row * cols4 + col4;
    let packed = bitcast<i32>(weights[index]);
    let quants = vec4<i32>(packed << 24u, packed << 16u, packed << 8u, packed) >> vec4<u32>(24u);
    // A block of 32 weights is eight groups of four, so its number is index / 8.
    let block = index >> 3u;
    let scales = unpack2x16float(weights[rows * cols4 + (block >> 1u)]);
    return vec4<f32>(quants) * select(scales.x, scales.y, (block & 1u) == 1u);
}
#endif
