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

#if NORM
#if BIAS
// A product of normalised rows with the bias of a column of the part.
fn whole(product: f32, factor: f32, column: u32) -> f32 {
    return fma(product, factor, bias[params.first + column]);
}
#else
fn whole(product: f32, factor: f32, column: u32) -> f32 {
    return product * factor;
}
#endif
#else
#if BIAS
fn whole(product: f32, factor: f32, column: u32) -> f32 {
    return product + bias[params.first + column];
}
#else
fn whole(product: f32, factor: f32, column: u32) -> f32 {
    return product;
}
#endif
#endif

// The end of the product for a row and one of the part's columns; `up` is the other half's, of a gated one.
fn put(row: u32, col: u32, factor: f32, product: f32, up: f32) {
    let at = row * params.out_stride + params.first + col;
    var result = whole(product, factor, col);
#if ACTIVATES
    result = activated(result);
#endif
#if GATED
    result *= whole(up, factor, columns() + col);
#endif
#if ADD
    out[at] += result;
#else
    out[at] = result;
#endif
}
