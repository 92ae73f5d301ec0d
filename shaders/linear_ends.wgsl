// What becomes of a product of the portable linear layers.

#if ACTIVATES
#include "activations"
#endif

@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#if BIAS
#if NORM
@group(0) @binding(4) var<storage, read> bias: array<f32>;
#else
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#endif
#endif

// Columns of the result that the part has.
fn columns() -> u32 {
#if GATED
    return params.part_rows / 2u;
#else
    return params.part_rows;
#endif
}

// The end of the product for a row and one of the part's columns; `up` is the other half's, of a gated one.
fn put(row: u32, col: u32, product: f32, up: f32) {
    let at = row * params.out_stride + params.first + col;
    var result = product;
#if BIAS
    result += bias[params.first + col];
#endif
#if ACTIVATES
    result = activated(result);
#endif
#if GATED
#if BIAS
    result *= up + bias[params.first + columns() + col];
#else
    result *= up;
#endif
#endif
#if ADD
    out[at] += result;
#else
    out[at] = result;
#endif
}
