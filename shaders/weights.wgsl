// A [rows, cols] weight matrix at binding 0, four or (with WIDE) eight weights of a row at a time, in
// float32. Only core WGSL: neither f16 nor subgroups are needed for any format.
//
// PACKED formats have nibbles of all rows, eight weights a word; with HIGH their 1 or 2 bits above, 32 or 16 weights a
// word; then, by SCALING,
//     half   an f16 d for 32 weights, two a word: d (q - 16)
//     pair   f16 d and m for 32 weights, a word: q d + m
//     bytes  bytes s and t for 32 weights, two such pairs a word; then float32 d and m for 256: d s q - m t
//     signed int8 s for 16 weights, four a word; then a float32 d for 256: d s (q - 32)
// Every weight is q a + b. Products are exact in float32, so that it does not matter whether they are fused with the sum:
// weights are those that ggml has, to the bit (but for the sign of a zero).

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
#if PACKED
@group(0) @binding(0) var<storage, read> weights: array<u32>;

// The numbers of four weights, whose nibbles are the lowest of `nibbles`, and the bits above them the lowest of `high`. In
// the low bits of 2^23 they are float32 at once.
fn four(nibbles: u32, high: u32) -> vec4<f32> {
    var q = (vec4<u32>(nibbles) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
#if HIGH == 1
    q |= vec4<u32>(high << 4u, high << 3u, high << 2u, high << 1u) & vec4<u32>(16u);
#endif
#if HIGH == 2
    q |= vec4<u32>(high << 4u, high << 2u, high, high >> 2u) & vec4<u32>(48u);
#endif
    return bitcast<vec4<f32>>(q | vec4<u32>(0x4B000000u)) - 8388608.0;
}

// What the numbers of group `at` of eight weights are multiplied with, and what is added; `all` such groups there are.
fn scaling(at: u32, all: u32) -> vec2<f32> {
    let begin = all + all / 4u * HIGH;
#if SCALING == half
    let scales = unpack2x16float(weights[begin + (at >> 3u)]);
    let scale = select(scales.x, scales.y, ((at >> 2u) & 1u) == 1u);
    return vec2<f32>(scale, -16.0 * scale);
#endif
#if SCALING == pair
    return unpack2x16float(weights[begin + (at >> 2u)]);
#endif
#if SCALING == bytes
    let pair = weights[begin + (at >> 3u)] >> ((at >> 2u) % 2u * 16u);
    let of_256 = begin + all / 8u + (at >> 5u) * 2u;
    let scale = bitcast<f32>(weights[of_256]) * f32(pair & 255u);
    return vec2<f32>(scale, -(bitcast<f32>(weights[of_256 + 1u]) * f32((pair >> 8u) & 255u)));
#endif
#if SCALING == signed
    let byte = bitcast<i32>(weights[begin + (at >> 3u)] << (24u - (at >> 1u) % 4u * 8u)) >> 24u;
    let scale = bitcast<f32>(weights[begin + all / 8u + (at >> 5u)]) * f32(byte);
    return vec2<f32>(scale, -32.0 * scale);
#endif
}

#if WIDE
fn weight8(row: u32, col8: u32, cols8: u32, rows: u32) -> Eight {
    let at = row * cols8 + col8;
    let all = rows * cols8;
    let nibbles = weights[at];
#if HIGH == 0
    let high = 0u;
#endif
#if HIGH == 1
    let high = weights[all + (at >> 2u)] >> (at % 4u * 8u);
#endif
#if HIGH == 2
    let high = weights[all + (at >> 1u)] >> (at % 2u * 16u);
#endif
    let s = scaling(at, all);
    return Eight(four(nibbles, high) * s.x + s.y, four(nibbles >> 16u, high >> (4u * HIGH)) * s.x + s.y);
}
#else
fn weight4(row: u32, col4: u32, cols4: u32, rows: u32) -> vec4<f32> {
    let index = row * cols4 + col4;
    let at = index >> 1u;
    let all = rows * cols4 / 2u;
    let nibbles = weights[at] >> (index % 2u * 16u);
#if HIGH == 0
    let high = 0u;
#endif
#if HIGH == 1
    let high = weights[all + (index >> 3u)] >> (index % 8u * 4u);
#endif
#if HIGH == 2
    let high = weights[all + (index >> 2u)] >> (index % 4u * 8u);
#endif
    let s = scaling(at, all);
    return four(nibbles, high) * s.x + s.y;
}
#endif
#endif
