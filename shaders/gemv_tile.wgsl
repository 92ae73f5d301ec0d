// The product x * weights^T for a few rows of x and TILE_N columns, each column by LANES invocations
// that split its weights among them.
//
// x [m, cols] f32, binding 1. An invocation takes COLS columns and, of each, UNROLL groups of eight
// weights at a time: their loads are all under way before the first is used. With NORM the rows of x are
// normalised (RMSNorm, gain [cols] f32, binding 3): each product by the root mean square of its row, which
// every workgroup finds for itself.

const LANES: u32 = 32u;
const GROUPS: u32 = 4u;
const THREADS: u32 = LANES * GROUPS;
const TILE_N: u32 = GROUPS * COLS;

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
#if NORM
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>;

// Sums of squares of each lane: [row][lane].
var<workgroup> squares: array<f32, ROWS * LANES>;
#endif

// Sums of each invocation: [row * COLS + column][invocation].
var<workgroup> sums: array<f32, ROWS * COLS * THREADS>;

// The product for row lane / TILE_N and column n0 + lane % TILE_N; nothing of use where lane is
// TILE_N * ROWS or above, or the row is m or above. Every invocation of the workgroup must call it.
fn few_rows_product(m: u32, n0: u32, lane: u32) -> f32 {
    var acc = array<array<f32, COLS>, ROWS>();
#if NORM
    var square = array<f32, ROWS>();
#endif
    let own = n0 + lane / LANES * COLS;
    let groups = params.cols4 / 2u;
    for (var c = lane % LANES; c < groups; c += LANES * UNROLL) {
        var w: array<array<Eight, COLS>, UNROLL>;
        for (var u = 0u; u < UNROLL; u++) {
            for (var j = 0u; j < COLS; j++) {
                // Past the end the last ones are read again, and not counted.
                w[u][j] = weight8(min(own + j, params.part_rows - 1u), min(c + LANES * u, groups - 1u), groups, params.part_rows);
            }
        }
        for (var u = 0u; u < UNROLL; u++) {
            let at = c + LANES * u;
            if at < groups {
#if NORM
                let gain_low = gain[2u * at];
                let gain_high = gain[2u * at + 1u];
#endif
                for (var i = 0u; i < ROWS; i++) {
                    let source = min(i, m - 1u) * params.cols4 + 2u * at;
                    var low = x[source];
                    var high = x[source + 1u];
#if NORM
                    square[i] += dot(low, low) + dot(high, high);
                    low *= gain_low;
                    high *= gain_high;
#endif
                    for (var j = 0u; j < COLS; j++) {
                        acc[i][j] += dot(low, w[u][j].low) + dot(high, w[u][j].high);
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
            squares[i * LANES + lane] = square[i];
        }
#endif
    }
    workgroupBarrier();
    var sum = 0.0;
    if lane < TILE_N * ROWS {
        let column = lane % TILE_N;
        let first = (lane / TILE_N * COLS + column % COLS) * THREADS + column / COLS * LANES;
        // Each starts at another lane, so that neighbours read from different banks.
        for (var l = 0u; l < LANES; l++) {
            sum += sums[first + (l + lane) % LANES];
        }
#if NORM
        var total = 0.0;
        for (var l = 0u; l < LANES; l++) {
            total += squares[lane / TILE_N * LANES + (l + lane) % LANES];
        }
        sum /= sqrt(total / f32(params.cols4 * 4u) + params.eps);
#endif
    }
    workgroupBarrier();
    return sum;
}
