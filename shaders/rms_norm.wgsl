// RMSNorm: out[i] = weight * x / sqrt(mean(x^2) + eps), one workgroup a row.
//
// x [pass rows, cols] f32, binding 0   weight [cols] f32, binding 1
// out [.., cols] f32, or f16 with HALF, binding 2
// With ADD, x + the sum of addend [splits, .., cols] (binding 4) takes the place of x, and is written back
// to x unless GATHER. With GATHER, row i of out is select[i].row of x (binding 3). Classifier-free guidance
// happens here too: the head is linear, so mixing the normalised rows u + (s + 1)(c - u) mixes the logits
// the same way and the head runs once.

struct Params {
    cols4: u32,
    eps: f32,
    scale: f32,           // factor on the result (logit scale at the last norm, 1 elsewhere)
    splits: u32,
    split_stride4: u32,   // elements of a split / 4
    padding0: u32,
    padding1: u32,
    padding2: u32,
}

#include "pass"
#include "halves"

#if ADD
#if GATHER
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
#else
@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
#endif
#else
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
#endif
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<Four>;
#if GATHER
@group(0) @binding(3) var<storage, read> selected: array<Select>;
#if ADD
@group(0) @binding(4) var<storage, read> addend: array<vec4<f32>>;
#endif
#else
#if ADD
@group(0) @binding(3) var<storage, read> addend: array<vec4<f32>>;
#endif
#endif

var<workgroup> sums: array<f32, THREADS>;

fn input(index: u32) -> vec4<f32> {
    var v = x[index];
#if ADD
    for (var s = 0u; s < params.splits; s++) {
        v += addend[s * params.split_stride4 + index];
    }
#endif
    return v;
}

// 1 / root mean square of a row; every invocation must call it.
fn inverse_rms(row: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var c = lane; c < params.cols4; c += THREADS) {
        let v = input(row * params.cols4 + c);
        sum += dot(v, v);
#if ADD
#if GATHER
#else
        x[row * params.cols4 + c] = v;
#endif
#endif
    }
    sums[lane] = sum;
    for (var width = THREADS / 2u; width > 0u; width >>= 1u) {
        workgroupBarrier();
        if lane < width {
            sums[lane] += sums[lane + width];
        }
    }
    workgroupBarrier();
    let mean = sums[0] / f32(params.cols4 * 4u);
    workgroupBarrier();
    return 1.0 / sqrt(mean + params.eps);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if GATHER
    if group.x >= pass_info.selected {
        return;
    }
    let pick = selected[group.x];
    let row = pick.row;
    let guide = inverse_rms(pick.guide, lane);
#else
    if group.x >= pass_info.rows {
        return;
    }
    let row = group.x;
#endif
    let own = inverse_rms(row, lane);
    for (var c = lane; c < params.cols4; c += THREADS) {
        // Without GATHER what was added is in x by now: an invocation reads what it wrote itself.
#if GATHER
        var v = input(row * params.cols4 + c) * own;
        if pick.guide != row {
            let u = input(pick.guide * params.cols4 + c) * guide;
            v = u + (pick.guide_scale + 1.0) * (v - u);
        }
#else
        let v = x[row * params.cols4 + c] * own;
#endif
        out[group.x * params.cols4 + c] = four(v * weight[c] * params.scale);
    }
}
