// RMSNorm: out[i] = weight * x / sqrt(mean(x^2) + eps), one workgroup a row.
//
// x [pass rows, cols] f32, binding 0   weight [cols] f32, binding 1   out [.., cols] f32, binding 2
// With GATHER, row i of out is select[i].row of x. Classifier-free guidance happens here too: the head
// is linear, so mixing the normalised rows u + (s + 1)(c - u) mixes the logits the same way and the
// head runs once.

struct Params {
    cols4: u32,
    eps: f32,
    scale: f32,       // factor on the result (logit scale at the last norm, 1 elsewhere)
    padding: u32,
}

#include "pass"

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
#if GATHER
@group(0) @binding(3) var<storage, read> selected: array<Select>;
#endif

var<workgroup> sums: array<f32, 128>;

// 1 / root mean square of a row; every invocation must call it.
fn inverse_rms(row: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var c = lane; c < params.cols4; c += 128u) {
        let v = x[row * params.cols4 + c];
        sum += dot(v, v);
    }
    sums[lane] = sum;
    for (var width = 64u; width > 0u; width >>= 1u) {
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

@compute @workgroup_size(128)
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
    for (var c = lane; c < params.cols4; c += 128u) {
        var v = x[row * params.cols4 + c] * own;
#if GATHER
        if pick.guide != row {
            let u = x[pick.guide * params.cols4 + c] * guide;
            v = u + (pick.guide_scale + 1.0) * (v - u);
        }
#endif
        out[group.x * params.cols4 + c] = v * weight[c] * params.scale;
    }
}
