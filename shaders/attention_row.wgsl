// Attention of one row and head a workgroup: where a pass has few rows, all its invocations share one
// row's keys, and no tile of rows has to walk a long range one piece at a time.
//
// rows  [pass rows], binding 0            qkv [pass rows, q_stride] f32, binding 1 (rotated queries first)
// keys, values [slots, kv_stride] f32, or f16 with HALF_STORE, bindings 2 and 3
// out [pass rows, heads * HEAD_DIM] f32, or f16 with HALF, binding 4
// An invocation scores every THREADS-th key of a chunk; then each of GROUPS groups of VECS invocations
// adds every GROUPS-th value of it, four elements each. Maximum and sum run along from chunk to chunk
// (as FlashAttention, arXiv 2205.14135). Query head h reads K/V head h / group. Workgroup (row, head).

#include "attention_params"
#include "pass"
#include "halves"

#if HALF_STORE
alias Stored = vec2<u32>;

fn load(four: Stored) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(four.x), unpack2x16float(four.y));
}
#else
alias Stored = vec4<f32>;

fn load(four: Stored) -> vec4<f32> {
    return four;
}
#endif

@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> keys: array<Stored>;
@group(0) @binding(3) var<storage, read> values: array<Stored>;
@group(0) @binding(4) var<storage, read_write> out: array<Four>;

const THREADS: u32 = 256u;
const VECS: u32 = HEAD_DIM / 4u;
const GROUPS: u32 = THREADS / VECS;
// Keys whose shares are kept at a time.
const CHUNK: u32 = 1024u;
// Values of a group that are under way at a time.
const UNROLL: u32 = 4u;
// Invocations whose results one of them merges first.
const MERGED: u32 = 16u;
const NEVER: f32 = -1e30;

var<workgroup> query: array<vec4<f32>, VECS>;
// Scores of the chunk's keys, then exp(score - running maximum).
var<workgroup> shares: array<f32, CHUNK>;
var<workgroup> by_thread: array<f32, THREADS>;
var<workgroup> merged: array<f32, THREADS / MERGED>;
var<workgroup> outputs: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if group.x >= pass_info.rows {
        return;
    }
    let row = rows[group.x];
    let head = group.y;
    let stride = params.kv_stride / 4u;
    let first = head / params.group * VECS;
    for (var d = thread; d < VECS; d += THREADS) {
        query[d] = qkv[group.x * (params.q_stride / 4u) + head * VECS + d] * params.scale;
    }
    workgroupBarrier();

    // Invocations past the last whole group add nothing.
    let value_group = thread / VECS;
    let element = thread % VECS;
    var best = NEVER;
    var sum = 0.0;
    var output = vec4<f32>(0.0);
    for (var base = row.key_start; base < row.key_end; base += CHUNK) {
        let count = min(CHUNK, row.key_end - base);
        var peak = NEVER;
        for (var k = thread; k < count; k += THREADS) {
            let from_key = (base + k) * stride + first;
            var score = 0.0;
            for (var d = 0u; d < VECS; d++) {
                score += dot(query[d], load(keys[from_key + d]));
            }
            shares[k] = score;
            peak = max(peak, score);
        }
        by_thread[thread] = peak;
        workgroupBarrier();
        if thread < THREADS / MERGED {
            for (var i = 0u; i < MERGED; i++) {
                peak = max(peak, by_thread[thread * MERGED + i]);
            }
            merged[thread] = peak;
        }
        workgroupBarrier();
        peak = best;
        for (var i = 0u; i < THREADS / MERGED; i++) {
            peak = max(peak, merged[i]);
        }
        let shrink = exp(best - peak);
        best = peak;
        sum *= shrink;
        output *= shrink;
        for (var k = thread; k < count; k += THREADS) {
            let share = exp(shares[k] - peak);
            shares[k] = share;
            sum += share;
        }
        workgroupBarrier();

        if value_group < GROUPS {
            for (var k = value_group; k < count; k += GROUPS * UNROLL) {
                var value: array<vec4<f32>, UNROLL>;
                for (var u = 0u; u < UNROLL; u++) {
                    // Past the end the last one is read again, and not counted.
                    value[u] = load(values[(base + min(k + GROUPS * u, count - 1u)) * stride + first + element]);
                }
                for (var u = 0u; u < UNROLL; u++) {
                    if k + GROUPS * u < count {
                        output += shares[k + GROUPS * u] * value[u];
                    }
                }
            }
        }
        workgroupBarrier();
    }

    outputs[thread] = output;
    by_thread[thread] = sum;
    workgroupBarrier();
    if thread < THREADS / MERGED {
        sum = 0.0;
        for (var i = 0u; i < MERGED; i++) {
            sum += by_thread[thread * MERGED + i];
        }
        merged[thread] = sum;
    }
    workgroupBarrier();
    if thread < VECS {
        sum = 0.0;
        for (var i = 0u; i < THREADS / MERGED; i++) {
            sum += merged[i];
        }
        output = vec4<f32>(0.0);
        for (var g = 0u; g < GROUPS; g++) {
            output += outputs[g * VECS + thread];
        }
        out[(group.x * groups.y + head) * VECS + thread] = four(output / sum);
    }
}
