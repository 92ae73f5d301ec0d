// Linear layer: out[:, first ..] = x * weights^T, or += with RESIDUAL. f32 in, any weight format,
// f32 accumulation. With NORM the rows of x are normalised first (RMSNorm, gain [cols] f32, binding 3).
// With SWIGLU the weights are a gate's rows and then as many rows up, and out is silu(gate) * up.
//
// weights [part_rows, cols], binding 0   x [m, cols] f32, binding 1   out [m, out_stride] f32, binding 2
// m is how many of the pass's rows params.over says. cols % 4 == 0.
// Workgroup (n tile, m tile).

#include "linear_params"
#include "pass"
#include "weights"
#include "gemm_tile"

@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m = rows_over(params.over);
    let m0 = group.y * TILE_M;
    let n0 = group.x * TILE_N;
    if m0 >= m {
        return;
    }
    var acc = tile_product(m0, m, n0, lane);
#if SWIGLU
    let columns = params.part_rows / 2u;
    let up = tile_product(m0, m, n0 + columns, lane);
    for (var i = 0u; i < TM; i++) {
        for (var j = 0u; j < TN; j++) {
            acc[i][j] *= up[i][j] / (1.0 + exp(-acc[i][j]));
        }
    }
#else
    let columns = params.part_rows;
#endif
    for (var i = 0u; i < TM; i++) {
        let row = m0 + lane / LANES_N + LANES_M * i;
        for (var j = 0u; j < TN; j++) {
            let col = n0 + lane % LANES_N + LANES_N * j;
            if row < m && col < columns {
                let at = row * params.out_stride + params.first + col;
#if RESIDUAL
                out[at] += acc[i][j];
#else
                out[at] = acc[i][j];
#endif
            }
        }
    }
}
