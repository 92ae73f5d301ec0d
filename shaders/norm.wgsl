// RMSNorm, out[i] = weight * x / sqrt(mean(x^2) + eps), or with LAYER LayerNorm,
// out[i] = weight * (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) + bias. One workgroup a row of VECTORS vectors of
// four columns, of which the first COLS are the row's and the others zeros.
//
// x [pass rows, 4 VECTORS] f32, binding 0   weight [4 VECTORS] f32, binding 1
// out [.., 4 VECTORS] f32, or f16 with HALF, binding 2; then in this order
// bias [4 VECTORS] f32, with LAYER
// selected [selected], with GATHER: row i of out is then selected[i].row of x. Classifier-free guidance happens here
//          too: the head is linear, so mixing the normalised rows u + (s + 1)(c - u) mixes the logits the same way and
//          the head runs once; a bias is in both and stays what it is.
// addend [SPLITS, .., 4 VECTORS] f32, with ADD: x + the sum of the splits takes the place of x, and is written back to x
//          unless GATHER
// after_weight [4 VECTORS] f32, with AFTER: the sum of the splits goes through an RMSNorm of its own before it is added
//
// A row takes as long as its reads wait for each other. So an invocation keeps its EACH vectors of the row in
// registers, and asks for all that it will read before it uses any of it. With SUBGROUPS, subgroups are of 32.

struct Params {
    eps: f32,
    scale: f32,           // factor on the result (logit scale at the last norm, 1 elsewhere)
    split_stride4: u32,   // elements of a split / 4
    over: u32,            // which rows are gathered: `rows_over`
    after_eps: f32,       // of the addend's norm
    padding0: u32,
    padding1: u32,
    padding2: u32,
}

#include "pass"
#include "halves"

#if WRITES_BACK
@group(0) @binding(next) var<storage, read_write> x: array<vec4<f32>>;
#else
@group(0) @binding(next) var<storage, read> x: array<vec4<f32>>;
#endif
@group(0) @binding(next) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(next) var<storage, read_write> out: array<Four>;
#if LAYER
@group(0) @binding(next) var<storage, read> bias: array<vec4<f32>>;
#endif
#if GATHER
@group(0) @binding(next) var<storage, read> selected: array<Select>;
#endif
#if ADD
@group(0) @binding(next) var<storage, read> addend: array<vec4<f32>>;
#endif
#if AFTER
@group(0) @binding(next) var<storage, read> after_weight: array<vec4<f32>>;
#endif

// What is summed over a row: squares, or with LAYER a sum and one of squares; with GATHER of a row and of its guide.
#if GATHER
#if LAYER
alias Sums = vec4<f32>;
#else
alias Sums = vec2<f32>;
#endif
#else
#if LAYER
alias Sums = vec2<f32>;
#else
alias Sums = f32;
#endif
#endif

// Whether every invocation has EACH vectors.
const WHOLE: bool = VECTORS % THREADS == 0u;
const ONES: vec4<f32> = vec4<f32>(1.0);

#if AFTER
fn input(index: u32) -> vec4<f32> {
    return x[index];
}

fn added(index: u32) -> vec4<f32> {
    var v = vec4<f32>(0.0);
#for s in 0..SPLITS
    v += addend[$su * params.split_stride4 + index];
#endfor
    return v;
}
#else
fn input(index: u32) -> vec4<f32> {
    var v = x[index];
#for s in 0..SPLITS
    v += addend[$su * params.split_stride4 + index];
#endfor
    return v;
}
#endif

// The sum over the workgroup; every invocation must call it.
#if SUBGROUPS
var<workgroup> shares: array<Sums, 32>;

fn over_workgroup(own: Sums, lane: u32) -> Sums {
    let share = subgroupAdd(own);
#if AGAIN
    // What the call before left here has been read.
    workgroupBarrier();
#endif
    if lane % 32u == 0u {
        shares[lane / 32u] = share;
    }
    workgroupBarrier();
    return subgroupAdd(select(Sums(), shares[lane % 32u], lane % 32u < THREADS / 32u));
}
#else
const SHARES: u32 = 16u;
var<workgroup> sums: array<Sums, THREADS>;
var<workgroup> shares: array<Sums, SHARES>;

fn over_workgroup(own: Sums, lane: u32) -> Sums {
    sums[lane] = own;
    workgroupBarrier();
    if lane < SHARES {
        var share = Sums();
        for (var i = lane; i < THREADS; i += SHARES) {
            share += sums[i];
        }
        shares[lane] = share;
    }
    workgroupBarrier();
    var sum = Sums();
    for (var i = 0u; i < SHARES; i++) {
        sum += shares[i];
    }
    return sum;
}
#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if GATHER
    if group.x >= rows_over(params.over) {
        return;
    }
    let pick = selected[group.x];
    let row = pick.row * VECTORS;
    let guide_row = pick.guide * VECTORS;
#else
    if group.x >= pass_info.rows {
        return;
    }
    let row = group.x * VECTORS;
#endif
#for i in 0..EACH
    // Invocations past the end read the last vector, and count for nothing.
    let mine_$i = WHOLE | ($iu * THREADS + lane < VECTORS);
    let c_$i = min($iu * THREADS + lane, VECTORS - 1u);
    let gain_$i = weight[c_$i];
#if LAYER
    let bias_$i = bias[c_$i];
#endif
    var v_$i = input(row + c_$i);
#if GATHER
    var u_$i = input(guide_row + c_$i);
#endif
#if AFTER
    let after_gain_$i = after_weight[c_$i];
    let v_added_$i = added(row + c_$i);
#if GATHER
    let u_added_$i = added(guide_row + c_$i);
#endif
#endif
#endfor
#if AFTER
    var added_squares = Sums();
#for i in 0..EACH
#if GATHER
    if mine_$i {
        added_squares.x += dot(v_added_$i, v_added_$i);
        added_squares.y += dot(u_added_$i, u_added_$i);
    }
#else
#if LAYER
    added_squares.x += select(0.0, dot(v_added_$i, v_added_$i), mine_$i);
#else
    added_squares += select(0.0, dot(v_added_$i, v_added_$i), mine_$i);
#endif
#endif
#endfor
    let after_inverse = 1.0 / sqrt(over_workgroup(added_squares, lane) / f32(COLS) + params.after_eps);
#for i in 0..EACH
#if GATHER
    v_$i += v_added_$i * after_inverse.x * after_gain_$i;
    u_$i += u_added_$i * after_inverse.y * after_gain_$i;
#else
#if LAYER
    v_$i += v_added_$i * after_inverse.x * after_gain_$i;
#else
    v_$i += v_added_$i * after_inverse * after_gain_$i;
#endif
#endif
#endfor
#endif
#if WRITES_BACK
#for i in 0..EACH
    if mine_$i {
        x[row + c_$i] = v_$i;
    }
#endfor
#endif
#if LAYER
    // The mean, and then what rounding left in it: beside a large mean that is as large as what is normalised.
    var totals = Sums();
#for i in 0..EACH
    totals.x += select(0.0, dot(v_$i, ONES), mine_$i);
#if GATHER
    totals.z += select(0.0, dot(u_$i, ONES), mine_$i);
#endif
#endfor
    let means = over_workgroup(totals, lane) / f32(COLS);
    var moments = Sums();
#for i in 0..EACH
    let live_$i = select(vec4<f32>(0.0), ONES, vec4<u32>(4u * c_$i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(COLS));
    v_$i = (v_$i - means.x) * live_$i;
#if GATHER
    u_$i = (u_$i - means.z) * live_$i;
    let moments_$i = Sums(dot(v_$i, ONES), dot(v_$i, v_$i), dot(u_$i, ONES), dot(u_$i, u_$i));
#else
    let moments_$i = Sums(dot(v_$i, ONES), dot(v_$i, v_$i));
#endif
    moments += select(Sums(), moments_$i, mine_$i);
#endfor
    let left = over_workgroup(moments, lane) / f32(COLS);
#if GATHER
    let inverse = 1.0 / sqrt(max(left.yw - left.xz * left.xz, vec2<f32>(0.0)) + params.eps);
#else
    let inverse = 1.0 / sqrt(max(left.y - left.x * left.x, 0.0) + params.eps);
#endif
#for i in 0..EACH
    v_$i -= left.x * live_$i;
#if GATHER
    u_$i -= left.z * live_$i;
#endif
#endfor
#else
    var squares = Sums();
#for i in 0..EACH
#if GATHER
    let square_$i = Sums(dot(v_$i, v_$i), dot(u_$i, u_$i));
#else
    let square_$i = dot(v_$i, v_$i);
#endif
    squares += select(Sums(), square_$i, mine_$i);
#endfor
    let inverse = 1.0 / sqrt(over_workgroup(squares, lane) / f32(COLS) + params.eps);
#endif
#for i in 0..EACH
    if mine_$i {
#if GATHER
        var v = v_$i * inverse.x;
        if pick.guide != pick.row {
            let u = u_$i * inverse.y;
            v = u + (pick.guide_scale + 1.0) * (v - u);
        }
#else
        let v = v_$i * inverse;
#endif
#if LAYER
        out[group.x * VECTORS + c_$i] = four((v * gain_$i + bias_$i) * params.scale);
#else
        out[group.x * VECTORS + c_$i] = four(v * gain_$i * params.scale);
#endif
    }
#endfor
}
