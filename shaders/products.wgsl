// Sums of products in an order that is written out: kernels that stand in for each other give the same bits. What is
// multiplied and then added is an fma by name, so that no compiler chooses.

// sum + a . b, one product after the other.
fn with_product(sum: f32, a: vec4<f32>, b: vec4<f32>) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}
