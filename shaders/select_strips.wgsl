// Selections over strips of a chunk of logits, for heads whose product matrix units compute.
//
// logits [selected, stride] f32, binding 0      partials [strips, selected] Selection, binding 1
// selected [selected], binding 2                suppressed [sets, words] bits, binding 3
// A workgroup takes one row and a strip of strip_ids ids of the chunk. Workgroup (strip, row).

struct Params {
    stride: u32,
    count: u32,          // ids of the chunk
    first: u32,          // id of the chunk's first column
    first_strip: u32,    // strips of the chunks before
    strip_ids: u32,
    words: u32,          // words of a set of suppressed ids
    padding0: u32,
    padding1: u32,
}

#include "pass"
#include "random"
#include "selection"

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> partials: array<Selection>;
@group(0) @binding(2) var<storage, read> selected: array<Select>;
@group(0) @binding(3) var<storage, read> suppressed: array<u32>;

const THREADS: u32 = 256u;

var<workgroup> exchange: array<Selection, THREADS / 2u>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
    if row >= pass_info.selected {
        return;
    }
    let pick = selected[row];
    let own_set = pick.suppressed * params.words;
    let end = min((group.x + 1u) * params.strip_ids, params.count);
    var kept = empty_selection();
    for (var c = group.x * params.strip_ids + lane; c < end; c += THREADS) {
        let token = params.first + c;
        if ((suppressed[own_set + (token >> 5u)] >> (token & 31u)) & 1u) == 0u {
            let logit = logits[row * params.stride + c];
            var score = logit;
            if pick.temperature > 0.0 {
                let bits = threefry(vec2<u32>(pick.key0, pick.key1), vec2<u32>(pick.position, token));
                score += pick.temperature * gumbel(bits);
            }
            kept = merge(kept, selection_of(logit, score, token));
        }
    }
    // The invocations halve until one is left.
    for (var width = THREADS / 2u; width > 0u; width >>= 1u) {
        if lane >= width && lane < 2u * width {
            exchange[lane - width] = kept;
        }
        workgroupBarrier();
        if lane < width {
            kept = merge(kept, exchange[lane]);
        }
        workgroupBarrier();
    }
    if lane == 0u {
        partials[(params.first_strip + group.x) * pass_info.selected + row] = kept;
    }
}
