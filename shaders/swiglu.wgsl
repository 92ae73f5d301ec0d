// SwiGLU: out = silu(gate) * up.
//
// gate_up [SPLITS, .., 2 * cols] f32, summed over splits, binding 0: in a row all gates, then all ups, or with
//         INTERLEAVED gates and ups in turns of 16
// out     [pass rows, cols] f32, or f16 with HALF, binding 1
// Workgroup (256 vectors of four columns, row).

struct Params {
    cols4: u32,
    split_stride4: u32,   // elements of a split / 4
    padding0: u32,
    padding1: u32,
}

#include "pass"
#include "halves"

@group(0) @binding(0) var<storage, read> gate_up: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<Four>;

fn summed(index: u32) -> vec4<f32> {
    var sum = gate_up[index];
#for s in 1..SPLITS
    sum += gate_up[$su * params.split_stride4 + index];
#endfor
    return sum;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let row = at.y;
    if at.x >= params.cols4 || row >= pass_info.rows {
        return;
    }
#if INTERLEAVED
    let first = row * 2u * params.cols4 + at.x / 4u * 8u + at.x % 4u;
    let second = first + 4u;
#else
    let first = row * 2u * params.cols4 + at.x;
    let second = first + params.cols4;
#endif
    let gate = summed(first);
    let up = summed(second);
    out[row * params.cols4 + at.x] = four(gate / (1.0 + exp(-gate)) * up);
}
