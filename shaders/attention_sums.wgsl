// What the portable attention kernels read, write and sum alike, so that a row's bits do not depend on which of them
// computes it, nor on the rows beside it. Values are summed key after key in pieces of PIECE slots that begin at multiples of
// PIECE, and pieces one after the other. Shares are taken relative to a whole power of two near the largest score so far:
// what was summed before is scaled by whole powers of two, which rounds nothing, however often that happens.
//
// rows [pass rows]                        qkv [pass rows, q_stride] f32 (rotated queries first)
// keys, values [slots, kv_stride] f32, or f16 with HALF_STORE
// out [pass rows, out_stride] f32, or f16 with HALF
// All of them in fours, or with PAIRS in twos, where four does not divide HEAD_DIM; the last four of a head are then two
// and two zeros.

#include "halves"
#include "products"

#if PAIRS
alias Unit = vec2<f32>;
alias UnitOut = Two;
#if HALF_STORE
alias Stored = u32;
#else
alias Stored = vec2<f32>;
#endif
const UNIT: u32 = 2u;
#else
alias Unit = vec4<f32>;
alias UnitOut = Four;
#if HALF_STORE
alias Stored = vec2<u32>;
#else
alias Stored = vec4<f32>;
#endif
const UNIT: u32 = 4u;
#endif

@group(0) @binding(next) var<storage, read> rows: array<Row>;
@group(0) @binding(next) var<storage, read> qkv: array<Unit>;
@group(0) @binding(next) var<storage, read> keys: array<Stored>;
@group(0) @binding(next) var<storage, read> values: array<Stored>;
@group(0) @binding(next) var<storage, read_write> out: array<UnitOut>;

// Fours of a head.
const VECS: u32 = (HEAD_DIM + 3u) / 4u;
// Slots that are summed one after the other.
const PIECE: u32 = 16u;
const LOG2_E: f32 = 1.44269504;
// Below any score.
const NEVER: f32 = -1e30;

#if HALF_STORE
#if PAIRS
fn load(stored: Stored) -> Unit {
    return unpack2x16float(stored);
}
#else
fn load(stored: Stored) -> Unit {
    return vec4<f32>(unpack2x16float(stored.x), unpack2x16float(stored.y));
}
#endif
#else
fn load(stored: Stored) -> Unit {
    return stored;
}
#endif

// Four d of a head that begins at element `start`: of queries, scaled so that scores are in units of log2; of keys and of
// values.
#if PAIRS
fn joined(low: Unit, high: Unit, d: u32) -> vec4<f32> {
    return vec4<f32>(low, select(Unit(), high, 4u * d + 2u < HEAD_DIM));
}

fn second(d: u32) -> u32 {
    return select(0u, 1u, 4u * d + 2u < HEAD_DIM);
}

fn query4(start: u32, d: u32) -> vec4<f32> {
    let at = start / 2u + 2u * d;
    return joined(qkv[at], qkv[at + second(d)], d) * (params.scale * LOG2_E);
}

fn key4(start: u32, d: u32) -> vec4<f32> {
    let at = start / 2u + 2u * d;
    return joined(load(keys[at]), load(keys[at + second(d)]), d);
}

fn value4(start: u32, d: u32) -> vec4<f32> {
    let at = start / 2u + 2u * d;
    return joined(load(values[at]), load(values[at + second(d)]), d);
}

fn put4(start: u32, d: u32, v: vec4<f32>) {
    let at = start / 2u + 2u * d;
    out[at] = two(v.xy);
    if 4u * d + 2u < HEAD_DIM {
        out[at + 1u] = two(v.zw);
    }
}

const NOTHING: vec2<f32> = vec2<f32>(0.0);

fn put_nothing(unit: u32) {
    out[unit] = two(NOTHING);
}
#else
fn query4(start: u32, d: u32) -> vec4<f32> {
    return qkv[start / 4u + d] * (params.scale * LOG2_E);
}

fn key4(start: u32, d: u32) -> vec4<f32> {
    return load(keys[start / 4u + d]);
}

fn value4(start: u32, d: u32) -> vec4<f32> {
    return load(values[start / 4u + d]);
}

fn put4(start: u32, d: u32, v: vec4<f32>) {
    out[start / 4u + d] = four(v);
}

const NOTHING: vec4<f32> = vec4<f32>(0.0);

fn put_nothing(unit: u32) {
    out[unit] = four(NOTHING);
}
#endif

// The zeros behind the last head of a row.
fn put_end(row: u32, heads: u32, thread: u32, threads: u32) {
    for (var c = heads * HEAD_DIM / UNIT + thread; c < params.out_stride / UNIT; c += threads) {
        put_nothing(row * (params.out_stride / UNIT) + c);
    }
}

// 2^n of a whole n up to 127; 0 below float32's normal numbers.
fn power_of_two(n: f32) -> f32 {
    return bitcast<f32>(u32(max(n, -127.0) + 127.0) << 23u);
}

// 2^(score - reference): the same number times a whole power of two, whatever whole number the reference is.
fn share_of(score: f32, reference: f32) -> f32 {
    let whole = floor(score);
    return exp2(score - whole) * power_of_two(whole - reference);
}
