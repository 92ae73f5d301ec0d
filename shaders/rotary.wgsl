// Norms and rotary embedding of queries and keys, and the write of fresh K/V into the store.
//
// rows [pass rows], binding 0             table [turns, ROTATED / 2] (cos, sin), binding 1
// qkv  [SPLITS, .., stride] f32, summed over splits, binding 2: heads queries, kv_heads keys, kv_heads
//      values of HEAD_DIM
// keys, values [slots, kv_heads * HEAD_DIM] f32, or f16 with HALF_KV, bindings 3 and 4
// head_norms [2, HEAD_DIM] f32, binding 5, with HEAD_NORM: each head of queries, and each of keys, goes through an RMSNorm
//      of this weight first
// Queries are rotated in place (in the first split); keys go rotated and values unchanged into the row's
// slot. The first ROTATED elements of a head turn in pairs (i, i + ROTATED / 2), or (2i, 2i + 1) with
// INTERLEAVED; where ROTATED is 0, nothing turns. HEAD_DIM and ROTATED are even. An invocation takes WIDTH neighbouring
// pairs, 4 (where 8 divides HEAD_DIM and ROTATED) or 1, and a workgroup HEADS whole heads. Workgroup (HEADS heads, row).

struct Params {
    heads: u32,
    kv_heads: u32,
    split_stride: u32,
    eps: f32,             // of the heads' norms
}

#include "pass"

#if HALF_KV
#include "saturated"
#endif

#if WIDTH == 4
alias Vector = vec4<f32>;
alias Turn = mat2x4<f32>;
#else
alias Vector = f32;
alias Turn = vec2<f32>;
#endif

#if HALF_KV
#if WIDTH == 4
alias Stored = vec4<f16>;

fn stored(v: Vector) -> Stored {
    return Stored(Vector(saturated(v.xy), saturated(v.zw)));
}
#else
alias Stored = f16;

fn stored(v: Vector) -> Stored {
    return Stored(saturated(vec2<f32>(v)).x);
}
#endif
#else
alias Stored = Vector;

fn stored(v: Vector) -> Stored {
    return v;
}
#endif

@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> table: array<Turn>;
@group(0) @binding(2) var<storage, read_write> qkv: array<Vector>;
@group(0) @binding(3) var<storage, read_write> keys: array<Stored>;
@group(0) @binding(4) var<storage, read_write> values: array<Stored>;
#if HEAD_NORM
@group(0) @binding(5) var<storage, read> head_norms: array<Vector>;
#endif

const THREADS: u32 = 128u;
// In vectors.
const HEAD: u32 = HEAD_DIM / WIDTH;
const TURNS: u32 = ROTATED / 2u / WIDTH;
// Invocations of a head.
const UNITS: u32 = HEAD / 2u;
const HEADS: u32 = THREADS / UNITS;

#if HEAD_NORM
// Sums of squares of each invocation.
var<workgroup> squares: array<f32, THREADS>;

#if WIDTH == 4
fn square(v: Vector) -> f32 {
    return dot(v, v);
}
#else
fn square(v: Vector) -> f32 {
    return v * v;
}
#endif
#endif

fn summed(index: u32) -> Vector {
    var sum = qkv[index];
#for s in 1..SPLITS
    sum += qkv[$su * (params.split_stride / WIDTH) + index];
#endfor
    return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
    if row >= pass_info.rows {
        return;
    }
    let heads = params.heads + 2u * params.kv_heads;
    let unit = lane % UNITS;
    let head = group.x * HEADS + lane / UNITS;
    // Invocations past the last head read what it has, and write nothing.
    let live = lane < HEADS * UNITS && head < heads;
    let turns = rows[row].turn * TURNS;
    let slot = rows[row].slot;
    var a = 2u * unit;
    var b = 2u * unit + 1u;
#if INTERLEAVED
#else
    if unit < TURNS {
        a = unit;
        b = unit + TURNS;
    }
#endif
    let base = (row * heads + min(head, heads - 1u)) * HEAD;
    var v = summed(base + a);
    var w = summed(base + b);
    let is_value = head >= params.heads + params.kv_heads;
#if HEAD_NORM
    squares[lane] = square(v) + square(w);
    workgroupBarrier();
    if !is_value {
        var sum = 0.0;
        for (var u = 0u; u < UNITS; u++) {
            sum += squares[min(lane - unit + u, THREADS - 1u)];
        }
        let inverse = 1.0 / sqrt(sum / f32(HEAD_DIM) + params.eps);
        let of_kind = select(HEAD, 0u, head < params.heads);
        v *= head_norms[of_kind + a] * inverse;
        w *= head_norms[of_kind + b] * inverse;
    }
#endif
    if unit < TURNS && !is_value {
        let turn = table[turns + unit];
#if WIDTH == 4
        let cosines = Vector(turn[0].xz, turn[1].xz);
        let sines = Vector(turn[0].yw, turn[1].yw);
#if INTERLEAVED
        // From pairs side by side to their first and their second elements.
        let firsts = Vector(v.xz, w.xz);
        w = Vector(v.yw, w.yw);
        v = firsts;
#endif
#else
        let cosines = turn.x;
        let sines = turn.y;
#endif
        let unturned = v;
        v = v * cosines - w * sines;
        w = w * cosines + unturned * sines;
#if WIDTH == 4
#if INTERLEAVED
        let turned = v;
        v = Vector(turned.x, w.x, turned.y, w.y);
        w = Vector(turned.z, w.z, turned.w, w.w);
#endif
#endif
    }
    if !live {
        return;
    }
    let slots = slot * params.kv_heads;
    if is_value {
        let to = (slots + head - params.heads - params.kv_heads) * HEAD;
        values[to + a] = stored(v);
        values[to + b] = stored(w);
    } else if head >= params.heads {
        let to = (slots + head - params.heads) * HEAD;
        keys[to + a] = stored(v);
        keys[to + b] = stored(w);
    } else {
        qkv[base + a] = v;
        qkv[base + b] = w;
    }
}
