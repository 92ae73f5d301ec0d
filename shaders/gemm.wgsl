// Linear layer: out[:, first ..] = x * weights^T by its END, of the product plus bias (with BIAS):
//     write   out is it
//     add     out + it
//     plain   activated(it)
//     gated   activated(gate) * up, where weights (and biases) are a gate's rows and then as many rows up
// f32 in, any weight format, f32 accumulation in an order that depends on the weights' columns alone. With NORM the rows of
// x are normalised first (RMSNorm).
//
// weights [part_rows, cols], binding 0   x [m, cols] f32, binding 1   out [m, out_stride] f32, binding 2; then
// gain [cols] f32, with NORM             bias [.., of all parts] f32, with BIAS
// m is how many of the pass's rows params.over says. cols % 8 == 0. Workgroup (n tile, m tile).

#include "linear_params"
#include "pass"
#include "weights"
#include "gemm_tile"
#include "linear_ends"

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m = rows_over(params.over);
    let m0 = group.y * TILE_M;
    let n0 = group.x * TILE_N;
    if m0 >= m {
        return;
    }
    let product = tile_product(m0, m, n0, lane);
#if GATED
    let up = tile_product(m0, m, n0 + columns(), lane);
#endif
    for (var i = 0u; i < TM; i++) {
#if NORM
        let factor = product.inverses[i];
#else
        let factor = 1.0;
#endif
        let row = m0 + lane / LANES_N + LANES_M * i;
        for (var j = 0u; j < TN; j++) {
            let col = n0 + lane % LANES_N + LANES_N * j;
            if row < m && col < columns() {
#if GATED
                put(row, col, factor, product.sums[i][j], up.sums[i][j]);
#else
                put(row, col, factor, product.sums[i][j], 0.0);
#endif
            }
        }
    }
}
