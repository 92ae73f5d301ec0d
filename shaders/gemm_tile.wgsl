// The inner loop of a tiled matrix product x * weights^T: a tile of TILE_M rows of x by TILE_N rows of
// the weights a workgroup, 16 columns a stage.
//
// x [m, cols] f32, binding 1. A workgroup is LANES_M x LANES_N invocations; invocation (tx, ty) holds the
// products of rows ty + LANES_M i (i < TM) and columns tx + LANES_N j (j < TN). Tiles are padded from 4
// to 5 vectors a row so that neighbouring columns fall on different banks. Rows past m and weights past
// part_rows count as zero. With PREFETCH a stage's loads are under way while the one before is computed.
// With NORM the rows of x are normalised (RMSNorm, gain [cols] f32, binding 3): what each product is to be multiplied with
// for that comes with it, of squares that are summed as the row is loaded.
//
// Whatever the tile, a product is summed in the order of `linear_order`, that of `gemv_tile`; or, with IN_TURN, product after
// product, which is less work: on devices that are never given `gemv`.

const TILE_M: u32 = LANES_M * TM;
const TILE_N: u32 = LANES_N * TN;
const THREADS: u32 = LANES_M * LANES_N;
const PITCH: u32 = 5u;

#include "linear_order"

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

var<workgroup> tile_x: array<vec4<f32>, TILE_M * PITCH>;
var<workgroup> tile_w: array<vec4<f32>, TILE_N * PITCH>;

alias Accumulator = array<array<f32, TN>, TM>;

// Vectors of a stage that an invocation loads, at most.
const X_EACH: u32 = (TILE_M * 4u + THREADS - 1u) / THREADS;
const W_EACH: u32 = (TILE_N * 4u + THREADS - 1u) / THREADS;

#if NORM
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>;

// Sums of squares: [row][vector of STAGES stages].
var<workgroup> squares: array<f32, TILE_M * STAGES * 4u>;
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

struct Product {
    sums: Accumulator,
#if NORM
    // What each row's sums are multiplied with.
    inverses: array<f32, TM>,
#endif
}

// Every invocation of the workgroup must call it.
fn tile_product(m0: u32, m: u32, n0: u32, lane: u32) -> Product {
    var total = Accumulator();
    let tx = lane % LANES_N;
    let ty = lane / LANES_N;
#if NORM
#for s in 0..STAGES
    var squares_$s = array<f32, X_EACH>();
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
#if IN_TURN
    let segment = params.cols4;
#else
    let segment = segment4();
#endif
    for (var first = 0u; first < params.cols4; first += segment) {
#for s in 0..STAGES
#for h in 0..SUMS_EACH
        var acc_$s_$h = Accumulator();
#endfor
#if NORM
        var square_$s = array<f32, X_EACH>();
#endif
#endfor
        for (var pair = first; pair < min(first + segment, params.cols4); pair += 4u * STAGES) {
#for s in 0..STAGES
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
#for h in 0..SUMS_EACH
                for (var c = 4u / SUMS_EACH * $hu; c < 4u / SUMS_EACH * ($hu + 1u); c++) {
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
#if IN_TURN
                total[i][j] = acc_0_0[i][j];
#else
                total[i][j] += (acc_0_0[i][j] + acc_0_1[i][j]) + (acc_1_0[i][j] + acc_1_1[i][j]);
#endif
            }
        }
#if NORM
        for (var i = 0u; i < X_EACH; i++) {
#for s in 0..STAGES
            squares_$s[i] += square_$s[i];
#endfor
        }
#endif
    }
#if NORM
    for (var i = 0u; i < X_EACH; i++) {
        let at = lane + THREADS * i;
        if at < TILE_M * 4u {
#for s in 0..STAGES
            squares[(at / 4u * STAGES + $su) * 4u + at % 4u] = squares_$s[i];
#endfor
        }
    }
    workgroupBarrier();
    // Before the next product's squares take their place.
    var inverses: array<f32, TM>;
    for (var i = 0u; i < TM; i++) {
        var sum = 0.0;
        for (var q = 0u; q < 4u * STAGES; q++) {
            sum += squares[(ty + LANES_M * i) * (4u * STAGES) + q];
        }
        inverses[i] = inverse_root(sum);
    }
    workgroupBarrier();
    return Product(total, inverses);
#else
    return Product(total);
#endif
}
