// SwiGLU: out = silu(gate) * up.
//
// gate_up [splits, .., 2 * cols] f32 (gate first), summed over splits, binding 0
// out     [pass rows, cols] f32, or f16 with HALF, binding 1
// Workgroup (64 vectors of four columns, row).

struct Params {
    cols4: u32,
    splits: u32,
    split_stride4: u32,   // elements of a split / 4
    padding: u32,
}

#include "pass"
#include "halves"

@group(0) @binding(0) var<storage, read> gate_up: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<Four>;

fn summed(index: u32) -> vec4<f32> {
    var sum = gate_up[index];
    for (var s = 1u; s < params.splits; s++) {
        sum += gate_up[s * params.split_stride4 + index];
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let row = at.y;
    if at.x >= params.cols4 || row >= pass_info.rows {
        return;
    }
    let gate = summed(row * 2u * params.cols4 + at.x);
    let up = summed((row * 2u + 1u) * params.cols4 + at.x);
    out[row * params.cols4 + at.x] = four(gate / (1.0 + exp(-gate)) * up);
}
