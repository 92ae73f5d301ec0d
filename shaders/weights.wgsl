// A [rows, cols] weight matrix at binding 0, four or (with WIDE) eight weights of a row at a time, in
// float32. Only core WGSL: neither f16 nor subgroups are needed for any format.

#if WIDE
// Eight neighbouring weights.
struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}
#endif

#if WEIGHT == f32
@group(0) @binding(0) var<storage, read> weights: array<vec4<f32>>;

#if WIDE
fn weight8(row: u32, col8: u32, cols8: u32, rows: u32) -> Eight {
    let index = 2u * (row * cols8 + col8);
    return Eight(weights[index], weights[index + 1u]);
}
#else
fn weight4(row: u32, col4: u32, cols4: u32, rows: u32) -> vec4<f32> {
    return weights[row * cols4 + col4];
}
#endif
#endif
#if WEIGHT == f16
fn four(packed: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
}

#endif
#if WEIGHT == bf16
fn four(packed: vec2<u32>) -> vec4<f32> {
    let bits = vec4<u32>(packed.x << 16u, packed.x & 0xFFFF0000u, packed.y << 16u, packed.y & 0xFFFF0000u);
    return bitcast<vec4<f32>>(bits);
}

#endif
#if HALVES
#if WIDE
@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;

fn weight8(row: u32, col8: u32, cols8: u32, rows: u32) -> Eight {
    let packed = weights[row * cols8 + col8];
    return Eight(four(packed.xy), four(packed.zw));
}
#else
@group(0) @binding(0) var<storage, read> weights: array<vec2<u32>>;

fn weight4(row: u32, col4: u32, cols4: u32, rows: u32) -> vec4<f32> {
    return four(weights[row * cols4 + col4]);
}
#endif
#endif
#if WEIGHT == q4
// int4 quants of all rows, 16 bytes a block of 32 along the row, then one f16 scale a block, two scales a
// word. Byte j of a block is weight j in its low nibble and weight j + 16 in its high one, both plus 8.
@group(0) @binding(0) var<storage, read> weights: array<u32>;

// Group `group` of four weights of a block, without its scale.
fn four(block: u32, group: u32) -> vec4<f32> {
    let nibbles = (weights[block * 4u + group % 4u] >> (group / 4u * 4u)) & 0x0F0F0F0Fu;
    return vec4<f32>((vec4<u32>(nibbles) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u)) - 8.0;
}

#if WIDE
fn weight8(row: u32, col8: u32, cols8: u32, rows: u32) -> Eight {
    let block = (row * cols8 + col8) >> 2u;
    let scales = unpack2x16float(weights[rows * cols8 + (block >> 1u)]);
    let scale = select(scales.x, scales.y, (block & 1u) == 1u);
    let group = col8 % 4u * 2u;
    return Eight(four(block, group) * scale, four(block, group + 1u) * scale);
}
#else
fn weight4(row: u32, col4: u32, cols4: u32, rows: u32) -> vec4<f32> {
    let block = (row * cols4 + col4) >> 3u;
    let scales = unpack2x16float(weights[rows * cols4 / 2u + (block >> 1u)]);
    return four(block, col4 % 8u) * select(scales.x, scales.y, (block & 1u) == 1u);
}
#endif
#endif
#if WEIGHT == q8
// int8 quants of all rows, then one f16 scale a block of 32 along the row, two scales a word.
fn four(word: u32) -> vec4<f32> {
    let packed = bitcast<i32>(word);
    return vec4<f32>(vec4<i32>(packed << 24u, packed << 16u, packed << 8u, packed) >> vec4<u32>(24u));
}

#if WIDE
@group(0) @binding(0) var<storage, read> weights: array<vec2<u32>>;

fn weight8(row: u32, col8: u32, cols8: u32, rows: u32) -> Eight {
    let index = row * cols8 + col8;
    let packed = weights[index];
    // A block of 32 weights is four groups of eight; four scales fill one element.
    let block = index >> 2u;
    let words = weights[rows * cols8 + (block >> 2u)];
    let scales = unpack2x16float(select(words.x, words.y, (block & 2u) == 2u));
    let scale = select(scales.x, scales.y, (block & 1u) == 1u);
    return Eight(four(packed.x) * scale, four(packed.y) * scale);
}
#else
@group(0) @binding(0) var<storage, read> weights: array<u32>;

fn weight4(row: u32, col4: u32, cols4: u32, rows: u32) -> vec4<f32> {
    let index = row * cols4 + col4;
    // A block of 32 weights is eight groups of four, so its number is index / 8.
    let block = index >> 3u;
    let scales = unpack2x16float(weights[rows * cols4 + (block >> 1u)]);
    return four(weights[index]) * select(scales.x, scales.y, (block & 1u) == 1u);
}
#endif
#endif
