// The inner loop of a tiled matrix product x * weights^T: a tile of TILE_M rows of x by TILE_N rows of
// the weights a workgroup, 16 columns a stage.
//
// x [m, cols] f32, binding 1. A workgroup is LANES_M x LANES_N invocations; invocation (tx, ty) holds the
// products of rows ty + LANES_M i (i < TM) and columns tx + LANES_N j (j < TN). Tiles are padded from 4
// to 5 vectors a row so that neighbouring columns fall on different banks. Rows past m and weights past
// part_rows count as zero.

const TILE_M: u32 = LANES_M * TM;
const TILE_N: u32 = LANES_N * TN;
const THREADS: u32 = LANES_M * LANES_N;
const PITCH: u32 = 5u;

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

var<workgroup> tile_x: array<vec4<f32>, TILE_M * PITCH>;
var<workgroup> tile_w: array<vec4<f32>, TILE_N * PITCH>;

alias Accumulator = array<array<f32, TN>, TM>;

// Every invocation of the workgroup must call it.
fn tile_product(m0: u32, m: u32, n0: u32, lane: u32) -> Accumulator {
    var acc: Accumulator;
    let tx = lane % LANES_N;
    let ty = lane / LANES_N;
    for (var k = 0u; k < params.cols4; k += 4u) {
        for (var i = lane; i < TILE_M * 4u; i += THREADS) {
            let row = m0 + i / 4u;
            let col = k + i % 4u;
            var v = vec4<f32>(0.0);
            if row < m && col < params.cols4 {
                v = x[row * params.cols4 + col];
            }
            tile_x[(i / 4u) * PITCH + i % 4u] = v;
        }
        for (var i = lane; i < TILE_N * 4u; i += THREADS) {
            let row = n0 + i / 4u;
            let col = k + i % 4u;
            var v = vec4<f32>(0.0);
            if row < params.part_rows && col < params.cols4 {
                v = weight4(row, col, params.cols4, params.part_rows);
            }
            tile_w[(i / 4u) * PITCH + i % 4u] = v;
        }
        workgroupBarrier();
        for (var c = 0u; c < 4u; c++) {
            var w: array<vec4<f32>, TN>;
            for (var j = 0u; j < TN; j++) {
                w[j] = tile_w[(tx + LANES_N * j) * PITCH + c];
            }
            for (var i = 0u; i < TM; i++) {
                let v = tile_x[(ty + LANES_M * i) * PITCH + c];
                for (var j = 0u; j < TN; j++) {
                    acc[i][j] += dot(v, w[j]);
                }
            }
        }
        workgroupBarrier();
    }
    return acc;
}
