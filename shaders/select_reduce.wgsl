// Merges the strips of head_select into one candidate a row.
//
// partials [strips, selected] Selection, binding 0    candidates [selected], binding 1
// A row with a logit that is not finite gets token 0xFFFFFFFF, which the host reports.
// One workgroup a row.

struct Params {
    strips: u32,
    padding0: u32,
    padding1: u32,
    padding2: u32,
}

#include "pass"
#include "selection"

struct Candidate {
    token: u32,
    probability: f32,
    entropy: f32,
    margin: f32,
}

@group(0) @binding(0) var<storage, read> partials: array<Selection>;
@group(0) @binding(1) var<storage, read_write> candidates: array<Candidate>;

var<workgroup> shared_selection: array<Selection, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x >= pass_info.selected {
        return;
    }
    var mine = empty_selection();
    for (var s = lane; s < params.strips; s += 64u) {
        mine = merge(mine, partials[s * pass_info.selected + group.x]);
    }
    shared_selection[lane] = mine;
    for (var width = 32u; width > 0u; width >>= 1u) {
        workgroupBarrier();
        if lane < width {
            shared_selection[lane] = merge(shared_selection[lane], shared_selection[lane + width]);
        }
    }
    if lane == 0u {
        let s = shared_selection[0];
        var out: Candidate;
        out.token = select(s.token, 0xFFFFFFFFu, s.not_finite == 1u);
        out.probability = exp(s.logit - s.top1) / s.sum;
        out.entropy = max(log(s.sum) - s.weighted / s.sum, 0.0);
        out.margin = (1.0 - exp(s.top2 - s.top1)) / s.sum;
        candidates[group.x] = out;
    }
}
