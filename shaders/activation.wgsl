// The activation of a feed-forward part: out = activated(up), or with GATED activated(gate) * up.
//
// up   [SPLITS, .., width] f32, summed over splits, binding 0: width is cols, or with GATED 2 cols: in a row all gates,
//      then all ups, or with INTERLEAVED gates and ups in turns of 16
// out  [pass rows, cols] f32, or f16 with HALF, binding 1
// Workgroup (256 vectors of four columns, row).

struct Params {
    cols4: u32,
    split_stride4: u32,   // elements of a split / 4
    padding0: u32,
    padding1: u32,
}

#include "pass"
#include "halves"
#include "activations"

@group(0) @binding(0) var<storage, read> up: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<Four>;

fn summed(index: u32) -> vec4<f32> {
    var sum = up[index];
#for s in 1..SPLITS
    sum += up[$su * params.split_stride4 + index];
#endfor
    return sum;
}

fn activated4(v: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(activated(v.x), activated(v.y), activated(v.z), activated(v.w));
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let row = at.y;
    if at.x >= params.cols4 || row >= pass_info.rows {
        return;
    }
#if GATED
#if INTERLEAVED
    let first = row * 2u * params.cols4 + at.x / 4u * 8u + at.x % 4u;
    let second = first + 4u;
#else
    let first = row * 2u * params.cols4 + at.x;
    let second = first + params.cols4;
#endif
#else
    let first = row * params.cols4 + at.x;
#endif
    var v = activated4(summed(first));
#if GATED
    v *= summed(second);
#endif
    out[row * params.cols4 + at.x] = four(v);
}
