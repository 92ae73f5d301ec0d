// The product x * weights^T for a few rows of x and TILE_N columns, each column by LANES invocations
// that split its weights among them, as `linear_order` has it: four to a segment.
//
// x [m, cols] f32, binding 1. An invocation takes COLS columns and, of each, UNROLL groups of eight
// weights at a time: their loads are all under way before the first is used. With NORM the rows of x are
// normalised (RMSNorm, gain [cols] f32, binding 3): what each product is to be multiplied with for that is left in
// `inverses`, which every workgroup finds for itself.

const LANES: u32 = 32u;
const THREADS: u32 = 128u;
const TILE_N: u32 = THREADS / LANES * COLS;
// Products of the workgroup, and of an invocation at the end.
const PRODUCTS: u32 = ROWS * TILE_N;
const EACH: u32 = (PRODUCTS + THREADS - 1u) / THREADS;

#include "linear_order"

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
#if NORM
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>;

// Sums of squares: [row][segment][vector of four groups].
var<workgroup> squares: array<f32, ROWS * SEGMENTS * 8u>;
var<workgroup> inverses: array<f32, ROWS>;
#endif

// Sums of each invocation: [row * COLS + column][invocation].
var<workgroup> sums: array<f32, ROWS * COLS * THREADS>;

// Product e is that of row (lane + THREADS * e) / TILE_N and column n0 + (lane + THREADS * e) % TILE_N, and nothing of use
// past PRODUCTS or where the row is m or above. Every invocation of the workgroup must call it.
fn few_rows_product(m: u32, n0: u32, lane: u32) -> array<f32, EACH> {
    var acc = array<array<f32, COLS>, ROWS>();
#if NORM
    var square_low = array<f32, ROWS>();
    var square_high = array<f32, ROWS>();
#endif
    let own = n0 + lane / LANES * COLS;
    let groups = params.cols4 / 2u;
    let segment = lane % LANES / 4u;
    let end = min((segment + 1u) * (segment4() / 2u), groups);
    for (var c = segment * (segment4() / 2u) + lane % 4u; c < end; c += 4u * UNROLL) {
        var w: array<array<Eight, COLS>, UNROLL>;
        for (var u = 0u; u < UNROLL; u++) {
            for (var j = 0u; j < COLS; j++) {
                // Past the end the last ones are read again, and not counted.
                w[u][j] = weight8(min(own + j, params.part_rows - 1u), min(c + 4u * u, end - 1u), groups, params.part_rows);
            }
        }
        for (var u = 0u; u < UNROLL; u++) {
            let at = c + 4u * u;
            if at < end {
#if NORM
                let gain_low = gain[2u * at];
                let gain_high = gain[2u * at + 1u];
#endif
                for (var i = 0u; i < ROWS; i++) {
                    let source = min(i, m - 1u) * params.cols4 + 2u * at;
                    var low = x[source];
                    var high = x[source + 1u];
#if NORM
                    square_low[i] = with_product(square_low[i], low, low);
                    square_high[i] = with_product(square_high[i], high, high);
                    low *= gain_low;
                    high *= gain_high;
#endif
                    for (var j = 0u; j < COLS; j++) {
                        acc[i][j] = with_product(with_product(acc[i][j], low, w[u][j].low), high, w[u][j].high);
                    }
                }
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < COLS; j++) {
            sums[(i * COLS + j) * THREADS + lane] = acc[i][j];
        }
#if NORM
        if lane < LANES {
            squares[(i * LANES + lane) * 2u] = square_low[i];
            squares[(i * LANES + lane) * 2u + 1u] = square_high[i];
        }
#endif
    }
    workgroupBarrier();
#if NORM
    if lane < ROWS {
        var sum = 0.0;
        for (var q = 0u; q < 8u; q++) {
            var of_vector = 0.0;
            for (var part = 0u; part < SEGMENTS; part++) {
                of_vector += squares[(lane * SEGMENTS + part) * 8u + q];
            }
            sum += of_vector;
        }
        inverses[lane] = inverse_root(sum);
    }
#endif
    var products = array<f32, EACH>();
    for (var e = 0u; e < EACH; e++) {
        let at = lane + THREADS * e;
        if at < PRODUCTS {
            let column = at % TILE_N;
            let first = (at / TILE_N * COLS + column % COLS) * THREADS + column / COLS * LANES;
            for (var part = 0u; part < SEGMENTS; part++) {
                let four = first + 4u * part;
                products[e] += (sums[four] + sums[four + 1u]) + (sums[four + 2u] + sums[four + 3u]);
            }
        }
    }
    workgroupBarrier();
    return products;
}
