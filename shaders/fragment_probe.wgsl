// Which elements of a matrix an invocation holds: for each of 32, the indices (16 row + column) of its eight
// elements of a matrix of weights, of sums, and of sums in f16. See `fragments.wgsl`.
//
// found [3, 32, 8] f32, binding 0. One workgroup.

struct Params {
    padding0: u32,
    padding1: u32,
    padding2: u32,
    padding3: u32,
}

#include "pass"

@group(0) @binding(0) var<storage, read_write> found: array<f32>;

var<workgroup> halves: array<f16, 256>;
var<workgroup> floats: array<f32, 256>;

fn tell_weights(held: coop_mat16x16<f16, A>, to: u32) {
    var matrix: coop_mat16x16<f16, A> = held;
    var matrix_elements: array<f16, 8>;
#for i in 0..8
    found[to + $iu] = f32(matrix_elements[$iu]);
#endfor
}

fn tell_sums(held: coop_mat16x16<f32, C>, to: u32) {
    var matrix: coop_mat16x16<f32, C> = held;
    var matrix_elements: array<f32, 8>;
#for i in 0..8
    found[to + $iu] = matrix_elements[$iu];
#endfor
}

fn tell_half_sums(held: coop_mat16x16<f16, C>, to: u32) {
    var matrix: coop_mat16x16<f16, C> = held;
    var matrix_elements: array<f16, 8>;
#for i in 0..8
    found[to + $iu] = f32(matrix_elements[$iu]);
#endfor
}

@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < 256u; i += 32u) {
        halves[i] = f16(i);
        floats[i] = f32(i);
    }
    workgroupBarrier();
    let first = 0u;
    let weights = coopLoadT<coop_mat16x16<f16, A>>(&halves[first], 16u);
    let sums = coopLoadT<coop_mat16x16<f32, C>>(&floats[first], 16u);
    let half_sums = coopLoadT<coop_mat16x16<f16, C>>(&halves[first], 16u);
    tell_weights(weights, lane * 8u);
    tell_sums(sums, 256u + lane * 8u);
    tell_half_sums(half_sums, 512u + lane * 8u);
}
