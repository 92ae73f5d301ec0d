// RMSNorm: out[i] = weight * x / sqrt(mean(x^2) + eps), one workgroup a row of VECTORS vectors of four columns.
//
// x [pass rows, cols] f32, binding 0   weight [cols] f32, binding 1
// out [.., cols] f32, or f16 with HALF, binding 2
// With ADD, x + the sum of addend [SPLITS, .., cols] (binding 4) takes the place of x, and is written back
// to x unless GATHER. With GATHER, row i of out is select[i].row of x (binding 3). Classifier-free guidance
// happens here too: the head is linear, so mixing the normalised rows u + (s + 1)(c - u) mixes the logits
// the same way and the head runs once.
//
// A row takes as long as its reads wait for each other. So an invocation keeps its EACH vectors of the row in
// registers, and asks for all that it will read before it uses any of it. With SUBGROUPS, subgroups are of 32.

struct Params {
    eps: f32,
    scale: f32,           // factor on the result (logit scale at the last norm, 1 elsewhere)
    split_stride4: u32,   // elements of a split / 4
    over: u32,            // which rows are gathered: `rows_over`
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

#if GATHER
// Of a row and of its guide.
alias Squares = vec2<f32>;
#else
alias Squares = f32;
#endif

// Whether every invocation has EACH vectors.
const WHOLE: bool = VECTORS % THREADS == 0u;

fn input(index: u32) -> vec4<f32> {
    var v = x[index];
#for s in 0..SPLITS
    v += addend[$su * params.split_stride4 + index];
#endfor
    return v;
}

// The sum over the workgroup; every invocation must call it.
#if SUBGROUPS
var<workgroup> shares: array<Squares, 32>;

fn over_workgroup(own: Squares, lane: u32) -> Squares {
    let share = subgroupAdd(own);
    if lane % 32u == 0u {
        shares[lane / 32u] = share;
    }
    workgroupBarrier();
    return subgroupAdd(select(Squares(), shares[lane % 32u], lane % 32u < THREADS / 32u));
}
#else
const SHARES: u32 = 16u;
var<workgroup> sums: array<Squares, THREADS>;
var<workgroup> shares: array<Squares, SHARES>;

fn over_workgroup(own: Squares, lane: u32) -> Squares {
    sums[lane] = own;
    workgroupBarrier();
    if lane < SHARES {
        var share = Squares();
        for (var i = lane; i < THREADS; i += SHARES) {
            share += sums[i];
        }
        shares[lane] = share;
    }
    workgroupBarrier();
    var sum = Squares();
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
    let v_$i = input(row + c_$i);
#if GATHER
    let u_$i = input(guide_row + c_$i);
#endif
#endfor
    var squares = Squares();
#for i in 0..EACH
#if GATHER
    let square_$i = Squares(dot(v_$i, v_$i), dot(u_$i, u_$i));
#else
    let square_$i = dot(v_$i, v_$i);
#endif
    squares += select(Squares(), square_$i, mine_$i);
#endfor
#if ADD
#if GATHER
#else
#for i in 0..EACH
    if mine_$i {
        x[row + c_$i] = v_$i;
    }
#endfor
#endif
#endif
    let inverse = 1.0 / sqrt(over_workgroup(squares, lane) / f32(VECTORS * 4u) + params.eps);
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
        out[group.x * VECTORS + c_$i] = four(v * gain_$i * params.scale);
    }
#endfor
}
