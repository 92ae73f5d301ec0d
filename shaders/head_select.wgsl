// The head and masked confidence selection in one kernel: logits exist in registers only.
//
// weights [part_rows, cols], binding 0     x [selected, cols] f32, binding 1
// partials [strips, selected] Selection, binding 2
// selected [selected], binding 3           suppressed [sets, words] bits, binding 4
// bias [ids] f32, binding 5, with BIAS
// A workgroup takes TILE_M rows (with FEW all of them, at most ROWS) and a strip of strip_tiles tiles of
// 64 ids, and writes one partial selection a row; select_reduce merges the strips. Each of CLASSES invocations keeps
// every CLASSES-th id of a row's strip, then these halve: on one device always in the same order, whatever the rows.
// Workgroup (strip, m tile).

struct Params {
    cols4: u32,
    part_rows: u32,
    first: u32,          // id of the part's first row
    first_strip: u32,    // strips of the parts before
    strip_tiles: u32,
    words: u32,          // words of a set of suppressed ids
    padding0: u32,
    padding1: u32,
}

#include "pass"
#include "weights"
#if FEW
#include "gemv_tile"
#else
#include "gemm_tile"
#endif
#include "random"
#include "selection"

@group(0) @binding(2) var<storage, read_write> partials: array<Selection>;
@group(0) @binding(3) var<storage, read> selected: array<Select>;
@group(0) @binding(4) var<storage, read> suppressed: array<u32>;
#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;
#endif

#if FEW
const CLASSES: u32 = 16u;
// Ids of a tile, whatever the rows.
const TILE_IDS: u32 = 64u;

// Of a tile: [row][id].
var<workgroup> logits: array<f32, ROWS * TILE_IDS>;
#else
const CLASSES: u32 = LANES_N;
#endif

var<workgroup> exchange: array<Selection, THREADS / 2u>;

// What is kept of id first + local of a row, given what was kept of others. row < pass_info.selected.
fn kept_with(kept: Selection, row: u32, local: u32, product: f32) -> Selection {
    let token = params.first + local;
    if local >= params.part_rows {
        return kept;
    }
    let own_set = selected[row].suppressed * params.words;
    if ((suppressed[own_set + (token >> 5u)] >> (token & 31u)) & 1u) == 1u {
        return kept;
    }
#if BIAS
    let logit = product + bias[token];
#else
    let logit = product;
#endif
    let temperature = selected[row].temperature;
    var score = logit;
    if temperature > 0.0 {
        let pick = selected[row];
        let bits = threefry(vec2<u32>(pick.key0, pick.key1), vec2<u32>(pick.position, token));
        score += temperature * gumbel(bits);
    }
    return merge(kept, selection_of(logit, score, token));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if FEW
    let row = lane / CLASSES;
    let class_of = lane % CLASSES;
    let live = row < min(pass_info.selected, ROWS);
    var kept = empty_selection();
    for (var t = 0u; t < params.strip_tiles; t++) {
        let n0 = (group.x * params.strip_tiles + t) * TILE_IDS;
        for (var part = 0u; part < TILE_IDS; part += TILE_N) {
            let products = few_rows_product(pass_info.selected, n0 + part, lane);
            for (var e = 0u; e < EACH; e++) {
                let at = lane + THREADS * e;
                if at < PRODUCTS {
                    logits[at / TILE_N * TILE_IDS + part + at % TILE_N] = products[e];
                }
            }
        }
        workgroupBarrier();
        if live {
            for (var c = class_of; c < TILE_IDS; c += CLASSES) {
                kept = kept_with(kept, row, n0 + c, logits[row * TILE_IDS + c]);
            }
        }
        // The next tile's first logits are put down behind two more barriers.
    }
    // The invocations of a row halve until one is left.
    for (var width = CLASSES / 2u; width > 0u; width >>= 1u) {
        if live && class_of >= width && class_of < 2u * width {
            exchange[row * (CLASSES / 2u) + class_of - width] = kept;
        }
        workgroupBarrier();
        if live && class_of < width {
            kept = merge(kept, exchange[row * (CLASSES / 2u) + class_of]);
        }
        workgroupBarrier();
    }
    if live && class_of == 0u {
        partials[(params.first_strip + group.x) * pass_info.selected + row] = kept;
    }
#else
    let m0 = group.y * TILE_M;
    if m0 >= pass_info.selected {
        return;
    }
    let tx = lane % LANES_N;
    let ty = lane / LANES_N;
    var kept: array<Selection, TM>;
    for (var i = 0u; i < TM; i++) {
        kept[i] = empty_selection();
    }
    for (var t = 0u; t < params.strip_tiles; t++) {
        let n0 = (group.x * params.strip_tiles + t) * TILE_N;
        let product = tile_product(m0, pass_info.selected, n0, lane);
        for (var i = 0u; i < TM; i++) {
            let row = min(m0 + ty + LANES_M * i, pass_info.selected - 1u);
            for (var j = 0u; j < TN; j++) {
                kept[i] = kept_with(kept[i], row, n0 + tx + LANES_N * j, product.sums[i][j]);
            }
        }
    }
    // The invocations of a row halve until one is left.
    for (var i = 0u; i < TM; i++) {
        for (var width = LANES_N / 2u; width > 0u; width >>= 1u) {
            if tx >= width && tx < 2u * width {
                exchange[ty * (LANES_N / 2u) + tx - width] = kept[i];
            }
            workgroupBarrier();
            if tx < width {
                kept[i] = merge(kept[i], exchange[ty * (LANES_N / 2u) + tx]);
            }
            workgroupBarrier();
        }
        let row = m0 + ty + LANES_M * i;
        if tx == 0u && row < pass_info.selected {
            partials[(params.first_strip + group.x) * pass_info.selected + row] = kept[i];
        }
    }
#endif
}
