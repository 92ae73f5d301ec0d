// The inner loop of a tiled matrix product x * weights^T: a tile of TILE_M rows of x by TILE_N rows of
// the weights a workgroup, 16 columns a stage.
//
// x [m, cols] f32, binding 1. A workgroup is LANES_M x LANES_N invocations; invocation (tx, ty) holds the
// products of rows ty + LANES_M i (i < TM) and columns tx + LANES_N j (j < TN). Tiles are padded from 4
// to 5 vectors a row so that neighbouring columns fall on different banks. Rows past m and weights past
// part_rows count as zero. With PREFETCH a stage's loads are under way while the one before is computed.
// With NORM the rows of x are normalised (RMSNorm, gain [cols] f32, binding 3): each product by the root
// mean square of its row, whose squares are summed as the row is loaded.
//
// Whatever the tile, a product is summed as `gemv_tile` sums it too: groups of eight columns go in turn to four sums, each
// product after product, and the four are added in pairs. So a row's bits do not depend on how many others there are.

const TILE_M: u32 = LANES_M * TM;
const TILE_N: u32 = LANES_N * TN;
const THREADS: u32 = LANES_M * LANES_N;
const PITCH: u32 = 5u;

#include "products"

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

var<workgroup> tile_x: array<vec4<f32>, TILE_M * PITCH>;
var<workgroup> tile_w: array<vec4<f32>, TILE_N * PITCH>;

alias Accumulator = array<array<f32, TN>, TM>;

// Vectors of a stage that an invocation loads, at most.
const X_EACH: u32 = (TILE_M * 4u + THREADS - 1u) / THREADS;
const W_EACH: u32 = (TILE_N * 4u + THREADS - 1u) / THREADS;

#if NORM
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>;

// Sums of squares: [row][vector of two stages].
var<workgroup> squares: array<f32, TILE_M * 8u>;
#endif

// Vector i of the stage that begins at vector k of the rows.
fn stage_x(i: u32, k: u32, m0: u32, m: u32) -> vec4<f32> {
    let row = m0 + i / 4u;
    let col = k + i % 4u;
    var v = vec4<f32>(0.0);
    if row < m && col < params.cols4 {
        v = x[row * params.cols4 + col];
    }
    return v;
}

fn stage_w(i: u32, k: u32, n0: u32) -> vec4<f32> {
    let row = n0 + i / 4u;
    let col = k + i % 4u;
    var v = vec4<f32>(0.0);
    if row < params.part_rows && col < params.cols4 {
        v = weight4(row, col, params.cols4, params.part_rows);
    }
    return v;
}

#if NORM
// The gain of vector i of that stage.
fn stage_gain(i: u32, k: u32) -> vec4<f32> {
    return gain[min(k + i % 4u, params.cols4 - 1u)];
}
#endif

// Every invocation of the workgroup must call it.
fn tile_product(m0: u32, m: u32, n0: u32, lane: u32) -> Accumulator {
#for s in 0..2
#for h in 0..2
    var acc_$s_$h = Accumulator();
#endfor
#endfor
    let tx = lane % LANES_N;
    let ty = lane / LANES_N;
#if NORM
#for s in 0..2
    var square_$s = array<f32, X_EACH>();
#endfor
#endif
#if PREFETCH
    var next_x: array<vec4<f32>, X_EACH>;
    var next_w: array<vec4<f32>, W_EACH>;
    for (var i = 0u; i < X_EACH; i++) {
        next_x[i] = stage_x(lane + THREADS * i, 0u, m0, m);
    }
#if NORM
    var next_gain: array<vec4<f32>, X_EACH>;
    for (var i = 0u; i < X_EACH; i++) {
        next_gain[i] = stage_gain(lane + THREADS * i, 0u);
    }
#endif
    for (var i = 0u; i < W_EACH; i++) {
        next_w[i] = stage_w(lane + THREADS * i, 0u, n0);
    }
#endif
    for (var pair = 0u; pair < params.cols4; pair += 8u) {
#for s in 0..2
        {
            let k = pair + 4u * $su;
#if PREFETCH
            for (var i = 0u; i < X_EACH; i++) {
                let at = lane + THREADS * i;
                if at < TILE_M * 4u {
                    var v = next_x[i];
#if NORM
                    square_$s[i] = with_product(square_$s[i], v, v);
                    v *= next_gain[i];
#endif
                    tile_x[(at / 4u) * PITCH + at % 4u] = v;
                }
            }
            for (var i = 0u; i < W_EACH; i++) {
                let at = lane + THREADS * i;
                if at < TILE_N * 4u {
                    tile_w[(at / 4u) * PITCH + at % 4u] = next_w[i];
                }
            }
            workgroupBarrier();
            for (var i = 0u; i < X_EACH; i++) {
                next_x[i] = stage_x(lane + THREADS * i, k + 4u, m0, m);
            }
#if NORM
            for (var i = 0u; i < X_EACH; i++) {
                next_gain[i] = stage_gain(lane + THREADS * i, k + 4u);
            }
#endif
            for (var i = 0u; i < W_EACH; i++) {
                next_w[i] = stage_w(lane + THREADS * i, k + 4u, n0);
            }
#else
            for (var i = 0u; i < X_EACH; i++) {
                let at = lane + THREADS * i;
                if at < TILE_M * 4u {
                    var v = stage_x(at, k, m0, m);
#if NORM
                    square_$s[i] = with_product(square_$s[i], v, v);
                    v *= stage_gain(at, k);
#endif
                    tile_x[(at / 4u) * PITCH + at % 4u] = v;
                }
            }
            for (var i = lane; i < TILE_N * 4u; i += THREADS) {
                tile_w[(i / 4u) * PITCH + i % 4u] = stage_w(i, k, n0);
            }
            workgroupBarrier();
#endif
#for h in 0..2
            for (var c = 2u * $hu; c < 2u * $hu + 2u; c++) {
                var w: array<vec4<f32>, TN>;
                for (var j = 0u; j < TN; j++) {
                    w[j] = tile_w[(tx + LANES_N * j) * PITCH + c];
                }
                for (var i = 0u; i < TM; i++) {
                    let v = tile_x[(ty + LANES_M * i) * PITCH + c];
                    for (var j = 0u; j < TN; j++) {
                        acc_$s_$h[i][j] = with_product(acc_$s_$h[i][j], v, w[j]);
                    }
                }
            }
#endfor
            workgroupBarrier();
        }
#endfor
    }
    for (var i = 0u; i < TM; i++) {
        for (var j = 0u; j < TN; j++) {
            acc_0_0[i][j] = (acc_0_0[i][j] + acc_0_1[i][j]) + (acc_1_0[i][j] + acc_1_1[i][j]);
        }
    }
#if NORM
    for (var i = 0u; i < X_EACH; i++) {
        let at = lane + THREADS * i;
        if at < TILE_M * 4u {
            squares[at / 4u * 8u + at % 4u] = square_0[i];
            squares[at / 4u * 8u + at % 4u + 4u] = square_1[i];
        }
    }
    workgroupBarrier();
    for (var i = 0u; i < TM; i++) {
        var sum = 0.0;
        for (var q = 0u; q < 8u; q++) {
            sum += squares[(ty + LANES_M * i) * 8u + q];
        }
        let inverse = 1.0 / sqrt(sum / f32(params.cols) + params.eps);
        for (var j = 0u; j < TN; j++) {
            acc_0_0[i][j] *= inverse;
        }
    }
    workgroupBarrier();
#endif
    return acc_0_0;
}
