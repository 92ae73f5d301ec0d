// Linear layer for a few rows, with the ends, the bias and the NORM of `gemm`, and the same bits. Reads each weight once,
// in 16-byte loads where the format allows. f32 in, any weight format, f32 accumulation.
//
// weights [part_rows, cols], binding 0   x [m, cols] f32, binding 1   out [m, out_stride] f32, binding 2; then
// gain [cols] f32, with NORM             bias [.., of all parts] f32, with BIAS
// m, at most ROWS, is how many of the pass's rows params.over says. cols % 8 == 0. Workgroup (tile of TILE_N columns).

#include "linear_params"
#include "pass"
#include "weights"
#include "gemv_tile"
#include "linear_ends"

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m = rows_over(params.over);
    let n0 = group.x * TILE_N;
    let products = few_rows_product(m, n0, lane);
#if GATED
    let ups = few_rows_product(m, n0 + columns(), lane);
#endif
    for (var e = 0u; e < EACH; e++) {
        let at = lane + THREADS * e;
        let row = at / TILE_N;
        let col = n0 + at % TILE_N;
        if row < m && at < PRODUCTS && col < columns() {
#if NORM
            let factor = inverses[row];
#else
            let factor = 1.0;
#endif
#if GATED
            put(row, col, factor, products[e], ups[e]);
#else
            put(row, col, factor, products[e], 0.0);
#endif
        }
    }
}
