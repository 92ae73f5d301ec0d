// What becomes of the sums that invocations hold in registers: the ends of `gemm_matrix`, whose buffers these
// functions read and write.

#if DEPTH == 1
#else

// What all but the first of DEPTH subgroups have of 16 rows, an invocation's four elements together.
const LEVEL: u32 = WARPS * FRAGS_N * 64u;
var<workgroup> handed: array<vec4<f32>, (DEPTH - 1u) * LEVEL>;

fn hand_over(own: coop_mat16x16<f32, C>, to: u32) {
    var matrix: coop_mat16x16<f32, C> = own;
    var matrix_elements: array<f32, 8>;
    handed[to] = vec4<f32>(matrix_elements[0], matrix_elements[1], matrix_elements[2], matrix_elements[3]);
    handed[to + 32u] = vec4<f32>(matrix_elements[4], matrix_elements[5], matrix_elements[6], matrix_elements[7]);
}

fn with_another(own: coop_mat16x16<f32, C>, at: u32) -> coop_mat16x16<f32, C> {
    var matrix: coop_mat16x16<f32, C> = own;
    var matrix_elements: array<f32, 8>;
    let low = handed[at];
    let high = handed[at + 32u];
#for e in 0..4
    matrix_elements[$e] += low[$e];
    matrix_elements[4 + $e] += high[$e];
#endfor
    return matrix;
}
#endif
#if MEET

// A whole vector: what lies behind it in workgroup memory would otherwise not be aligned as matrix loads need it, which
// then read something else.
var<workgroup> arrived: vec4<u32>;

// Where a subgroup's sums of a split lie, an invocation's four elements together.
fn put_down(own: coop_mat16x16<f32, C>, to: u32) {
    var matrix: coop_mat16x16<f32, C> = own;
    var matrix_elements: array<f32, 8>;
    sums[to] = vec4<f32>(matrix_elements[0], matrix_elements[1], matrix_elements[2], matrix_elements[3]);
    sums[to + 32u] = vec4<f32>(matrix_elements[4], matrix_elements[5], matrix_elements[6], matrix_elements[7]);
}

fn taken_up(at: u32) -> coop_mat16x16<f32, C> {
    var matrix: coop_mat16x16<f32, C>;
    var matrix_elements: array<f32, 8>;
    let low = sums[at];
    let high = sums[at + 32u];
#for e in 0..4
    matrix_elements[$e] = low[$e];
    matrix_elements[4 + $e] = high[$e];
#endfor
    return matrix;
}
#endif

// Of an invocation's eight elements of a product the first four are of its lower column of out, the others of the upper
// one, eight columns on; both of rows 0, 1, 8 and 9 from its first one (`fragments.wgsl`, transposed).
#if NORMED == 0
#else

// What each row of the tile is multiplied with.
var<workgroup> row_factors: array<f32, TILE_M>;

// FACTOR_LANES invocations of a subgroup add up the squares of a row. The first stage's barriers lie between this and
// the end of the product.
fn factor_rows(m0: u32, thread: u32) {
    let row = thread / FACTOR_LANES;
    let lane = thread % FACTOR_LANES;
#for p in 0..PARTS_EACH
    let at_$p = lane + $pu * FACTOR_LANES;
    let part_$p = select(0.0, squares[(m0 + row) * NORMED + min(at_$p, NORMED - 1u)], at_$p < NORMED);
#endfor
    var sum = part_0;
#for p in 1..PARTS_EACH
    sum += part_$p;
#endfor
    for (var step = 1u; step < FACTOR_LANES; step *= 2u) {
        sum += subgroupShuffleXor(sum, step);
    }
    if lane == 0u {
        row_factors[row] = 1.0 / (SHRINK * sqrt(sum / f32(params.cols8 * 8u) + params.eps));
    }
}

fn by_rows(held: coop_mat16x16<f32, C>, row: u32) -> coop_mat16x16<f32, C> {
    var matrix: coop_mat16x16<f32, C> = held;
    var matrix_elements: array<f32, 8>;
#for e in 0..8
    matrix_elements[$e] *= row_factors[row + $eu % 2u + $eu % 4u / 2u * 8u];
#endfor
    return matrix;
}
#endif
#if BIAS

// With what its two columns are added.
fn biased(held: coop_mat16x16<f32, C>, added: vec2<f32>) -> coop_mat16x16<f32, C> {
    var matrix: coop_mat16x16<f32, C> = held;
    var matrix_elements: array<f32, 8>;
#for e in 0..8
    matrix_elements[$e] += added[$eu / 4u];
#endfor
    return matrix;
}
#endif
#if ACTIVATES

#include "activations"
#endif
#if END == gated

// activated(gate) * up, element by element.
fn gated(gate: coop_mat16x16<f32, C>, up: coop_mat16x16<f32, C>) -> coop_mat16x16<f16, C> {
    var factor: coop_mat16x16<f32, C> = gate;
    var factor_elements: array<f32, 8>;
    var other: coop_mat16x16<f32, C> = up;
    var other_elements: array<f32, 8>;
    var matrix: coop_mat16x16<f16, C>;
    var matrix_elements: array<f16, 8>;
#for i in 0..4
    let gate_$i = vec2<f32>(activated(factor_elements[2u * $iu]), activated(factor_elements[2u * $iu + 1u]));
    let up_$i = vec2<f32>(other_elements[2u * $iu], other_elements[2u * $iu + 1u]);
    let two_$i = vec2<f16>(saturated(gate_$i * up_$i));
    matrix_elements[2u * $iu] = two_$i.x;
    matrix_elements[2u * $iu + 1u] = two_$i.y;
#endfor
    return matrix;
}
#endif
#if END == plain

// activated(product), element by element.
fn activated_halves(held: coop_mat16x16<f32, C>) -> coop_mat16x16<f16, C> {
    var factor: coop_mat16x16<f32, C> = held;
    var factor_elements: array<f32, 8>;
    var matrix: coop_mat16x16<f16, C>;
    var matrix_elements: array<f16, 8>;
#for i in 0..4
    let both_$i = vec2<f32>(activated(factor_elements[2u * $iu]), activated(factor_elements[2u * $iu + 1u]));
    let two_$i = vec2<f16>(saturated(both_$i));
    matrix_elements[2u * $iu] = two_$i.x;
    matrix_elements[2u * $iu + 1u] = two_$i.y;
#endfor
    return matrix;
}
#endif
#if SQUARES

// Sums of squares of each subgroup's columns.
var<workgroup> shares: array<f32, WARPS * TILE_M>;

// Of each of the invocation's four rows the sum of the squares of its columns.
fn squared(held: coop_mat16x16<f32, C>) -> vec4<f32> {
    var matrix: coop_mat16x16<f32, C> = held;
    var matrix_elements: array<f32, 8>;
    let low = vec4<f32>(matrix_elements[0], matrix_elements[1], matrix_elements[2], matrix_elements[3]);
    let high = vec4<f32>(matrix_elements[4], matrix_elements[5], matrix_elements[6], matrix_elements[7]);
    return low * low + high * high;
}

// The same of all of the subgroup's columns.
fn summed_over_rows(own: vec4<f32>) -> vec4<f32> {
    var sum = own + subgroupShuffleXor(own, 4u);
    sum += subgroupShuffleXor(sum, 8u);
    return sum + subgroupShuffleXor(sum, 16u);
}

fn share_squares(sums_of_rows: vec4<f32>, lane: u32, to: u32) {
    if lane < 4u {
        let share = to + lane * 2u;
        shares[share] = sums_of_rows.x;
        shares[share + 1u] = sums_of_rows.y;
        shares[share + 8u] = sums_of_rows.z;
        shares[share + 9u] = sums_of_rows.w;
    }
}
#endif
#if END == residual

// Sums times the gain of their two columns.
fn weighed(held: coop_mat16x16<f32, C>, gains: vec2<f32>) -> coop_mat16x16<f16, C> {
    var factor: coop_mat16x16<f32, C> = held;
    var factor_elements: array<f32, 8>;
    var matrix: coop_mat16x16<f16, C>;
    var matrix_elements: array<f16, 8>;
#for i in 0..4
    let two_$i = vec2<f32>(factor_elements[2u * $iu], factor_elements[2u * $iu + 1u]) * (gains[$iu / 2u] * SHRINK);
    let half_$i = vec2<f16>(saturated(two_$i));
    matrix_elements[2u * $iu] = half_$i.x;
    matrix_elements[2u * $iu + 1u] = half_$i.y;
#endfor
    return matrix;
}
#endif
#if HEAD_NORM

// What the norms of a head multiply the invocation's four rows with, from `row` of the tile on. Values have none.
fn head_factors(row: u32, head: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
#for w in 0..WARPS
    sum += vec4<f32>(
        shares[$wu * TILE_M + row],
        shares[$wu * TILE_M + row + 1u],
        shares[$wu * TILE_M + row + 8u],
        shares[$wu * TILE_M + row + 9u],
    );
#endfor
    let is_value = head >= params.out_stride / HEAD_DIM - params.extra;
    return select(1.0 / sqrt(sum / f32(HEAD_DIM) + params.eps), vec4<f32>(1.0), is_value);
}

// Their weights for elements `dim` and `dim` + 8 of both halves.
fn head_gains(head: u32, dim: u32) -> vec4<f32> {
    let heads = params.out_stride / HEAD_DIM - 2u * params.extra;
    let is_value = head >= heads + params.extra;
    let at = select(HEAD_DIM, 0u, head < heads) + dim;
    let gains = vec4<f32>(
        head_norms[at],
        head_norms[at + 8u],
        head_norms[at + HEAD_DIM / 2u],
        head_norms[at + HEAD_DIM / 2u + 8u],
    );
    return select(gains, vec4<f32>(1.0), is_value);
}

fn head_normed(held: coop_mat16x16<f32, C>, factors: vec4<f32>, gains: vec2<f32>) -> coop_mat16x16<f32, C> {
    var matrix: coop_mat16x16<f32, C> = held;
    var matrix_elements: array<f32, 8>;
#for e in 0..8
    matrix_elements[$e] *= factors[$eu % 4u] * gains[$eu / 4u];
#endfor
    return matrix;
}
#endif
#if END == rotary

const HALF_HEAD: u32 = HEAD_DIM / 2u;

// Where four rows' keys and values go, and of each the cosines and sines for two pairs of elements.
struct Turn {
    slots: vec4<u32>,
    pairs: array<vec4<f32>, 4>,
}

// For the rows from `row` on and elements `dim` and `dim` + 8 of a half. Values do not turn.
fn turn_of(row: u32, head: u32, dim: u32) -> Turn {
    let is_value = head >= params.out_stride / HEAD_DIM - params.extra;
    var turn: Turn;
#for k in 0..4
    let safe_$k = min(row + $ku % 2u + $ku / 2u * 8u, pass_info.rows - 1u);
    let turn_$k = rows[safe_$k].turn * HALF_HEAD + dim;
    turn.slots[$k] = rows[safe_$k].slot;
    turn.pairs[$k] = select(vec4<f32>(table[turn_$k], table[turn_$k + 8u]), vec4<f32>(1.0, 0.0, 1.0, 0.0), is_value);
#endfor
    return turn;
}

// Puts both halves of a head where they belong, for the rows and elements of `turn`.
fn put_turned(
    first: coop_mat16x16<f32, C>,
    second: coop_mat16x16<f32, C>,
    row: u32,
    turn: Turn,
    head: u32,
    dim: u32,
) {
    var low: coop_mat16x16<f32, C> = first;
    var low_elements: array<f32, 8>;
    var high: coop_mat16x16<f32, C> = second;
    var high_elements: array<f32, 8>;
    let heads = params.out_stride / HEAD_DIM - 2u * params.extra;
    let is_value = head >= heads + params.extra;
#for k in 0..4
    let row_$k = row + $ku % 2u + $ku / 2u * 8u;
    if row_$k < pass_info.rows {
        let pairs_$k = turn.pairs[$k];
#for h in 0..2
        let v_$h = low_elements[$hu * 4u + $ku];
        let w_$h = high_elements[$hu * 4u + $ku];
        let turn_$h = vec2<f32>(pairs_$k[2u * $hu], pairs_$k[2u * $hu + 1u]);
        let two_$h = vec2<f32>(v_$h * turn_$h.x - w_$h * turn_$h.y, w_$h * turn_$h.x + v_$h * turn_$h.y);
#endfor
        if head < heads {
            let to = row_$k * params.out_stride + head * HEAD_DIM + dim;
#for h in 0..2
            out[to + $hu * 8u] = two_$h.x;
            out[to + $hu * 8u + HALF_HEAD] = two_$h.y;
#endfor
        } else {
#for h in 0..2
            let half_$h = vec2<f16>(saturated(two_$h));
#endfor
            if is_value {
                let to = (turn.slots[$k] * params.extra + head - heads - params.extra) * HEAD_DIM + dim;
#for h in 0..2
                values[to + $hu * 8u] = half_$h.x;
                values[to + $hu * 8u + HALF_HEAD] = half_$h.y;
#endfor
            } else {
                let to = (turn.slots[$k] * params.extra + head - heads) * HEAD_DIM + dim;
#for h in 0..2
                keys[to + $hu * 8u] = half_$h.x;
                keys[to + $hu * 8u + HALF_HEAD] = half_$h.y;
#endfor
            }
        }
    }
#endfor
}
#endif
