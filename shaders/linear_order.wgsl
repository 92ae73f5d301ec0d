// The order in which the portable linear layers sum a row's products, which depends on the columns alone. A row is cut
// into at most eight segments of the same number of columns, a multiple of 32. Of a segment, groups of eight columns go in turn
// to four sums, each product after product; the four are added in pairs, and segments one after the other. So 32 invocations
// can share a row of weights, while one that has all of it needs four sums, and a fifth for the segments behind it.

#include "products"

// Segments at most.
const SEGMENTS: u32 = 8u;

// Vectors of four columns of a segment.
fn segment4() -> u32 {
    return (params.cols4 + 8u * SEGMENTS - 1u) / (8u * SEGMENTS) * 8u;
}
#if NORM

// One over the root of the mean square of a row whose squares have this sum.
fn inverse_root(squares: f32) -> f32 {
    return 1.0 / sqrt(fma(squares, 1.0 / f32(params.cols), params.eps));
}
#endif
