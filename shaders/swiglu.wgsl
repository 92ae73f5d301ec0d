// SwiGLU: out = silu(gate) * up.
//
// gate_up [pass rows, 2 * cols] f32 (gate first), binding 0    out [pass rows, cols] f32, binding 1
// Workgroup (64 vectors of four columns, row).

struct Params {
    cols4: u32,
    padding0: u32,
    padding1: u32,
    padding2: u32,
}

#include "pass"

@group(0) @binding(0) var<storage, read> gate_up: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let row = at.y;
    if at.x >= params.cols4 || row >= pass_info.rows {
        return;
    }
    let gate = gate_up[row * 2u * params.cols4 + at.x];
    let up = gate_up[(row * 2u + 1u) * params.cols4 + at.x];
    out[row * params.cols4 + at.x] = gate / (1.0 + exp(-gate)) * up;
}
