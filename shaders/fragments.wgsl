// What one invocation holds of a matrix of the matrix units: eight elements of 16 x 16, in an order that the
// device chooses. WGSL has no name for them. `spirv.rs` gives them one: where a function has the variables
// `matrix` and `matrix_elements`, the second is made another name of the first.
//
// The order that the kernels rely on is that of NVIDIA's drivers: with g = lane / 4 and t = lane % 4, elements 0
// and 1 are those of row g and columns 2t and 2t + 1, elements 2 and 3 those of columns 2t + 8 and 2t + 9,
// and 4 to 7 the same of row g + 8. A and C agree in it. (The registers are those of "Matrix Fragments for
// mma.m16n8k16", PTX ISA, the second and the third swapped.) Devices are asked before it is relied on
// (`fragment_probe.wgsl`).

// A matrix of factors, of what this invocation holds of it.
fn factor_of(two_0: vec2<f16>, two_1: vec2<f16>, two_2: vec2<f16>, two_3: vec2<f16>) -> coop_mat16x16<f16, A> {
    var matrix: coop_mat16x16<f16, A>;
    var matrix_elements: array<f16, 8>;
#for i in 0..4
    matrix_elements[2u * $iu] = two_$i.x;
    matrix_elements[2u * $iu + 1u] = two_$i.y;
#endfor
    return matrix;
}
