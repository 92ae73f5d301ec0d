// Weights from rows to the order of fragments, or back with TO_ROWS.
//
// from, to: [rows, cols] in WEIGHT's format, scales behind, bindings 0 and 1. By rows as `weights.wgsl` reads
// them. In fragments, 16 rows follow 16 rows; in them 16 columns follow 16 columns (of int8 two such
// steps share an element of 16 bytes, of int4 four); in these the eight elements that each of 32
// invocations holds (`fragments.wgsl`). int8 are stored + 128, bytes of a step in the order 0 2 1 3; the
// nibbles of a step's word in the order 0 2 4 6 1 3 5 7: so that a mask finds two halves' worth. Then, for every
// 16 rows, 128 columns and g = lane / 4, four words with the scales of rows g and g + 8 for 32 columns each.
// With PAIRED, 16 rows of the first half and 16 rows of the second take turns.
//
// PACKED formats (`weights.wgsl`) have their nibbles as int4 has them. Then follow their planes:
//   HIGH bits   for 16 rows, 64 columns and a lane HIGH words: a word has them for 4 / HIGH steps, those of elements 0, 2,
//               4 and 6 of each step in its lower half, of the others in its upper half
//   scales      as above: what 32 columns share is 16 bits in every format (with SCALING pair two times 16: first the
//               scales of all, then the minima)
//   FLOATS      for 16 rows, 256 columns and g = lane / 4: the numbers of row g, then those of row g + 8
//
// rows is a multiple of 16, or 32 with PAIRED, cols one of 128, or 256 with FLOATS. An invocation makes a word.

struct Params {
    rows: u32,
    cols: u32,
    groups_x: u32,  // workgroups along x
    padding: u32,
}

#include "pass"

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;

// Bits of an element, and elements in a word.
const BITS: u32 = 32u / EACH;
const MASK: u32 = (1u << BITS) - 1u;
// Words that an invocation's eight elements take, and steps of 16 columns in 16 bytes.
const WORDS: u32 = 8u / EACH;
const STEPS: u32 = 4u / WORDS;

// The row of the matrix that is row `r` of `tile` in the order of fragments.
fn row_of(tile: u32, r: u32) -> u32 {
#if PAIRED
    return tile / 2u * 16u + tile % 2u * (params.rows / 2u) + r;
#else
    return tile * 16u + r;
#endif
}

// Where a row is in the order of fragments: its tile of 16 rows, and the row in it.
fn place_of(row: u32) -> vec2<u32> {
#if PAIRED
    let half = params.rows / 2u;
    return vec2<u32>(row % half / 16u * 2u + row / half, row % half % 16u);
#else
    return vec2<u32>(row / 16u, row % 16u);
#endif
}

// First bit of element `e` of 8 in its word.
fn bit_of(e: u32) -> u32 {
#if WEIGHT == f16
    return (e & 1u) * 16u;
#endif
#if WEIGHT == q8
    return (e & 1u) * 16u + ((e >> 1u) & 1u) * 8u;
#endif
#if EACH == 8
    return (e & 1u) * 16u + (e >> 1u) * 4u;
#endif
}

// Word and first bit of an element by rows. A block of int4 has weights 0 to 15 in the low nibbles of its bytes.
fn by_rows(row: u32, col: u32) -> vec2<u32> {
#if WEIGHT == q4
    let of_block = col % 32u;
    return vec2<u32>(row * (params.cols / 8u) + col / 32u * 4u + of_block % 16u / 4u, of_block % 4u * 8u + of_block / 16u * 4u);
#else
    return vec2<u32>(row * (params.cols / EACH) + col / EACH, col % EACH * BITS);
#endif
}

// The same in the order of fragments.
fn by_fragments(row: u32, col: u32) -> vec2<u32> {
    let place = place_of(row);
    let step = col / 16u;
    let lane = place.y % 8u * 4u + col % 8u / 2u;
    let e = (col & 1u) + col % 16u / 8u * 2u + place.y / 8u * 4u;
    let element = (place.x * (params.cols / 16u / STEPS) + step / STEPS) * 32u + lane;
    return vec2<u32>(element * 4u + step % STEPS * WORDS + e / EACH, bit_of(e));
}

fn moved(row: u32, col: u32) -> u32 {
#if TO_ROWS
    let at = by_fragments(row, col);
#else
    let at = by_rows(row, col);
#endif
    let bits = (source[at.x] >> at.y) & MASK;
#if WEIGHT == q8
    return bits ^ 0x80u;
#else
    return bits;
#endif
}

// The 16 bits that a block of 32 columns has in the plane that begins at `begin`.
fn scale(begin: u32, row: u32, block: u32) -> u32 {
#if TO_ROWS
    let place = place_of(row);
    let word = ((place.x * (params.cols / 128u) + block / 4u) * 8u + place.y % 8u) * 4u + block % 4u;
    return (source[begin + word] >> (place.y / 8u * 16u)) & 0xFFFFu;
#else
    let index = row * (params.cols / 32u) + block;
    return (source[begin + index / 2u] >> (index % 2u * 16u)) & 0xFFFFu;
#endif
}

#if HIGH == 0
#else
// The bits above the nibble of an element, by rows or in the order of fragments.
const HIGH_MASK: u32 = (1u << HIGH) - 1u;
// Weights in a word, and steps.
const HIGH_EACH: u32 = 32u / HIGH;
const HIGH_STEPS: u32 = 4u / HIGH;

// Word and first bit of the bits of an element in the order of fragments.
fn high_by_fragments(row: u32, col: u32) -> vec2<u32> {
    let place = place_of(row);
    let step = col / 16u;
    let lane = place.y % 8u * 4u + col % 8u / 2u;
    let pair = col % 16u / 8u + place.y / 8u * 2u;
    let of_lane = (place.x * (params.cols / 64u) + step / 4u) * 32u + lane;
    let word = of_lane * HIGH + step % 4u / HIGH_STEPS;
    return vec2<u32>(word, (col & 1u) * 16u + (step % HIGH_STEPS * 4u + pair) * HIGH);
}

// Word `word` of the plane that begins at `begin`.
fn high_word(begin: u32, word: u32) -> u32 {
    var bits = 0u;
    for (var i = 0u; i < HIGH_EACH; i++) {
#if TO_ROWS
        let index = word * HIGH_EACH + i;
        let at = high_by_fragments(index / params.cols, index % params.cols);
        bits |= ((source[begin + at.x] >> at.y) & HIGH_MASK) << (i * HIGH);
#else
        let of_lane = word / HIGH;
        let lane = of_lane % 32u;
        let four_steps = of_lane / 32u % (params.cols / 64u);
        // Of each half of the word, element i % 16 / HIGH, with its pair and step.
        let place = i % (HIGH_EACH / 2u);
        let odd = i / (HIGH_EACH / 2u);
        let step = four_steps * 4u + word % HIGH * HIGH_STEPS + place / 4u;
        let row = row_of(of_lane / 32u / (params.cols / 64u), lane / 4u + place % 4u / 2u * 8u);
        let col = step * 16u + lane % 4u * 2u + odd + place % 2u * 8u;
        let index = row * params.cols + col;
        bits |= ((source[begin + index / HIGH_EACH] >> (index % HIGH_EACH * HIGH)) & HIGH_MASK) << (odd * 16u + place * HIGH);
#endif
    }
    return bits;
}
#endif

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let word = (group.y * params.groups_x + group.x) * 256u + thread;
    let quants = params.rows * (params.cols / EACH);
    if word < quants {
        var bits = 0u;
#if TO_ROWS
        let row = word / (params.cols / EACH);
        let of_row = word % (params.cols / EACH);
        for (var i = 0u; i < EACH; i++) {
#if WEIGHT == q4
            let col = of_row / 4u * 32u + of_row % 4u * 4u + i / 2u + i % 2u * 16u;
#else
            let col = of_row * EACH + i;
#endif
            bits |= moved(row, col) << by_rows(row, col).y;
        }
#else
        let element = word / 4u;
        let lane = element % 32u;
        let steps = params.cols / 16u / STEPS;
        let tile = element / 32u / steps;
        let step = element / 32u % steps * STEPS + word % 4u / WORDS;
        for (var i = 0u; i < EACH; i++) {
            let e = word % WORDS * EACH + i;
            let row = row_of(tile, lane / 4u + (e >> 2u) * 8u);
            let col = step * 16u + lane % 4u * 2u + (e & 1u) + (e >> 1u) % 2u * 8u;
            bits |= moved(row, col) << bit_of(e);
        }
#endif
        result[word] = bits;
        return;
    }
#if HIGH == 0
    let scales = quants;
#else
    let scales = quants + params.rows * (params.cols / HIGH_EACH);
    if word < scales {
        result[word] = high_word(quants, word - quants);
        return;
    }
#endif
#if SCALED
    let count = params.rows * (params.cols / 64u);
#if SCALING == pair
    let at = word - scales;
    if at >= 2u * count {
        return;
    }
#if TO_ROWS
    let row = at / (params.cols / 32u);
    let block = at % (params.cols / 32u);
    result[word] = scale(scales, row, block) | (scale(scales + count, row, block) << 16u);
#else
    // Scales are the lower halves of words by rows, minima the upper ones.
    let of_rows = at % count;
    let tile = of_rows / 32u / (params.cols / 128u);
    let block = of_rows / 32u % (params.cols / 128u) * 4u + of_rows % 4u;
    let g = of_rows % 32u / 4u;
    let low = source[scales + row_of(tile, g) * (params.cols / 32u) + block] >> (at / count * 16u);
    let high = source[scales + row_of(tile, g + 8u) * (params.cols / 32u) + block] >> (at / count * 16u);
    result[word] = (low & 0xFFFFu) | (high << 16u);
#endif
#else
    let pair = word - scales;
    if pair < count {
#if TO_ROWS
        let row = pair / (params.cols / 64u);
        let block = pair % (params.cols / 64u) * 2u;
        result[word] = scale(scales, row, block) | (scale(scales, row, block + 1u) << 16u);
#else
        let tile = pair / 32u / (params.cols / 128u);
        let block = pair / 32u % (params.cols / 128u) * 4u + pair % 4u;
        let row = row_of(tile, pair % 32u / 4u);
        let other = row_of(tile, pair % 32u / 4u + 8u);
        result[word] = scale(scales, row, block) | (scale(scales, other, block) << 16u);
#endif
        return;
    }
#if FLOATS == 0
#else
    let begin = scales + count;
    let blocks = params.cols / 256u;
    let at = word - begin;
    if at >= params.rows * blocks * FLOATS {
        return;
    }
#if TO_ROWS
    let place = place_of(at / FLOATS / blocks);
    let of_block = (place.x * blocks + at / FLOATS % blocks) * 8u + place.y % 8u;
    result[word] = source[begin + (of_block * 2u + place.y / 8u) * FLOATS + at % FLOATS];
#else
    let of_block = at / (2u * FLOATS);
    let row = row_of(of_block / 8u / blocks, of_block % 8u + at / FLOATS % 2u * 8u);
    result[word] = source[begin + (row * blocks + of_block / 8u % blocks) * FLOATS + at % FLOATS];
#endif
#endif
#endif
#endif
}
