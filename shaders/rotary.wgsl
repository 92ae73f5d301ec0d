// Rotary embedding of queries and keys, and the write of fresh K/V into the store.
//
// rows [pass rows], binding 0             table [positions, ROTATED / 2] (cos, sin), binding 1
// qkv  [splits, .., stride] f32, summed over splits, binding 2: heads queries, kv_heads keys, kv_heads
//      values of HEAD_DIM
// keys, values [slots, kv_heads * HEAD_DIM] f32, or f16 with HALF_KV, bindings 3 and 4
// Queries are rotated in place (in the first split); keys go rotated and values unchanged into the row's
// slot. The first ROTATED elements of a head turn in pairs (i, i + ROTATED / 2), or (2i, 2i + 1) with
// INTERLEAVED. HEAD_DIM and ROTATED are even. Workgroup (row, 256 pairs).

struct Params {
    heads: u32,
    kv_heads: u32,
    splits: u32,
    split_stride: u32,
}

#include "pass"

#if HALF_KV
#include "saturated"
alias Stored = f16;
#else
alias Stored = f32;
#endif

@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(3) var<storage, read_write> keys: array<Stored>;
@group(0) @binding(4) var<storage, read_write> values: array<Stored>;

const PAIRS: u32 = HEAD_DIM / 2u;
const TURNS: u32 = ROTATED / 2u;

fn summed(index: u32) -> f32 {
    var sum = qkv[index];
    for (var s = 1u; s < params.splits; s++) {
        sum += qkv[s * params.split_stride + index];
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x >= pass_info.rows {
        return;
    }
    let row = rows[group.x];
    let heads = params.heads + 2u * params.kv_heads;
    let width = params.kv_heads * HEAD_DIM;
    let end = min(heads * PAIRS, (group.y + 1u) * 256u);
    for (var p = group.y * 256u + lane; p < end; p += 64u) {
        let head = p / PAIRS;
        let pair = p % PAIRS;
        var a = 2u * pair;
        var b = 2u * pair + 1u;
#if INTERLEAVED
#else
        if pair < TURNS {
            a = pair;
            b = pair + TURNS;
        }
#endif
        let from_a = (group.x * heads + head) * HEAD_DIM + a;
        let from_b = (group.x * heads + head) * HEAD_DIM + b;
        var v = vec2<f32>(summed(from_a), summed(from_b));
        let is_value = head >= params.heads + params.kv_heads;
        if pair < TURNS && !is_value {
            let turn = table[row.position * TURNS + pair];
            v = vec2<f32>(v.x * turn.x - v.y * turn.y, v.y * turn.x + v.x * turn.y);
        }
#if HALF_KV
        if head >= params.heads {
            v = saturated(v);
        }
#endif
        if is_value {
            let to = row.slot * width + (head - params.heads - params.kv_heads) * HEAD_DIM;
            values[to + a] = Stored(v.x);
            values[to + b] = Stored(v.y);
        } else if head >= params.heads {
            let to = row.slot * width + (head - params.heads) * HEAD_DIM;
            keys[to + a] = Stored(v.x);
            keys[to + b] = Stored(v.y);
        } else {
            qkv[from_a] = v.x;
            qkv[from_b] = v.y;
        }
    }
}
