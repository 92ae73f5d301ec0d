// The inner loop of a tiled matrix product x * weights^T for a 256-invocation workgroup: a tile of
// TILE_M = 16 * TM rows of x by 64 rows of the weights, 16 columns a stage.
//
// x [m, cols] f32, binding 1. Invocation (tx, ty) holds rows ty + 16 i and columns tx + 16 j.
// Tiles are padded from 4 to 5 vectors a row so that the 16 columns of a subgroup fall on
// different banks. Rows past m and weights past part_rows count as zero.

const TILE_M: u32 = 16u * TM;
const TILE_N: u32 = 64u;
const PITCH: u32 = 5u;

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

var<workgroup> tile_x: array<vec4<f32>, TILE_M * PITCH>;
var<workgroup> tile_w: array<vec4<f32>, TILE_N * PITCH>;

alias Accumulator = array<vec4<f32>, TM>;

// Every invocation of the workgroup must call it.
fn tile_product(m0: u32, m: u32, n0: u32, lane: u32) -> Accumulator {
    var acc: Accumulator;
    let tx = lane % 16u;
    let ty = lane / 16u;
    let load_row = lane / 4u;
    let load_col = lane % 4u;
    for (var k = 0u; k < params.cols4; k += 4u) {
        let col = k + load_col;
        if load_row < TILE_M {
            var v = vec4<f32>(0.0);
            if m0 + load_row < m && col < params.cols4 {
                v = x[(m0 + load_row) * params.cols4 + col];
            }
            tile_x[load_row * PITCH + load_col] = v;
        }
        var w = vec4<f32>(0.0);
        if n0 + load_row < params.part_rows && col < params.cols4 {
            w = weight4(n0 + load_row, col, params.cols4, params.part_rows);
        }
        tile_w[load_row * PITCH + load_col] = w;
        workgroupBarrier();
        for (var c = 0u; c < 4u; c++) {
            let w0 = tile_w[tx * PITCH + c];
            let w1 = tile_w[(tx + 16u) * PITCH + c];
            let w2 = tile_w[(tx + 32u) * PITCH + c];
            let w3 = tile_w[(tx + 48u) * PITCH + c];
            for (var i = 0u; i < TM; i++) {
                let v = tile_x[(ty + 16u * i) * PITCH + c];
                acc[i] += vec4<f32>(dot(v, w0), dot(v, w1), dot(v, w2), dot(v, w3));
            }
        }
        workgroupBarrier();
    }
    return acc;
}
