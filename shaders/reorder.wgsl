// Weights from rows to the order of fragments, or back with TO_ROWS.
//
// from, to: [rows, cols] in WEIGHT's format, scales behind, bindings 0 and 1. By rows as `weights.wgsl` reads
// them. In fragments, 16 rows follow 16 rows; in them 16 columns follow 16 columns (of int8 two such
// steps share an element of 16 bytes, of int4 four); in these the eight elements that each of 32
// invocations holds (`fragments.wgsl`). int8 are stored + 128, bytes of a step in the order 0 2 1 3; the
// nibbles of a step's word in the order 0 2 4 6 1 3 5 7: so that a mask finds two halves' worth. Then, for every
// 16 rows, 128 columns and g = lane / 4, four words with the scales of rows g and g + 8 for 32 columns each.
// With PAIRED, 16 rows of the first half and 16 rows of the second take turns.
// rows is a multiple of 16, or 32 with PAIRED, cols one of 128. An invocation makes a word.

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
#if WEIGHT == q4
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

// The scale of a block of 32 columns.
fn scale(quants: u32, row: u32, block: u32) -> u32 {
#if TO_ROWS
    let place = place_of(row);
    let word = ((place.x * (params.cols / 128u) + block / 4u) * 8u + place.y % 8u) * 4u + block % 4u;
    return (source[quants + word] >> (place.y / 8u * 16u)) & 0xFFFFu;
#else
    let index = row * (params.cols / 32u) + block;
    return (source[quants + index / 2u] >> (index % 2u * 16u)) & 0xFFFFu;
#endif
}

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
#if SCALED
    let pair = word - quants;
    if pair >= params.rows * (params.cols / 64u) {
        return;
    }
#if TO_ROWS
    let row = pair / (params.cols / 64u);
    let block = pair % (params.cols / 64u) * 2u;
    result[word] = scale(quants, row, block) | (scale(quants, row, block + 1u) << 16u);
#else
    let tile = pair / 32u / (params.cols / 128u);
    let block = pair / 32u % (params.cols / 128u) * 4u + pair % 4u;
    let row = row_of(tile, pair % 32u / 4u);
    result[word] = scale(quants, row, block) | (scale(quants, row_of(tile, pair % 32u / 4u + 8u), block) << 16u);
#endif
#endif
}
