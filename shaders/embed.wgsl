// Embedding: hidden[row] = table[token of row] * scale; with POSITIONS, hidden[row] += table[position of row] * scale.
//
// weights  [rows of this part, cols], binding 0   rows    [pass rows], binding 1
// hidden   [pass rows, cols] f32, binding 2
// One workgroup a row. A table that is too large for one binding comes in parts, one dispatch each;
// a workgroup whose token or position lies in another part does nothing.

struct Params {
    cols4: u32,       // cols / 4
    first: u32,       // token id or position of this part's first row
    part_rows: u32,
    scale: f32,
}

#include "pass"
#include "weights"

@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read_write> hidden: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x;
    if row >= pass_info.rows {
        return;
    }
#if POSITIONS
    let index = rows[row].position;
#else
    let index = rows[row].token;
#endif
    if index < params.first || index - params.first >= params.part_rows {
        return;
    }
    for (var c = lane; c < params.cols4; c += 64u) {
        let v = weight4(index - params.first, c, params.cols4, params.part_rows) * params.scale;
#if POSITIONS
        hidden[row * params.cols4 + c] += v;
#else
        hidden[row * params.cols4 + c] = v;
#endif
    }
}
