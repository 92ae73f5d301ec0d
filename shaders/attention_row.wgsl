// Attention of one row and head a workgroup: where a pass has few rows, all its invocations share one
// row's keys, and no tile of rows has to walk a long range one piece at a time.
//
// Bindings are those of `attention_sums`.
// An invocation scores every THREADS-th key of a chunk; then each of GROUPS groups of VECS invocations sums the values of
// every GROUPS-th piece of it, four elements each, and the first group adds up the pieces in their order. The reference of
// shares and the sums run along from chunk to chunk (as FlashAttention, arXiv 2205.14135). Query head h reads K/V head
// h / group. Workgroup (row, head).

#include "attention_params"
#include "pass"
#include "attention_sums"

const THREADS: u32 = 256u;
const GROUPS: u32 = THREADS / VECS;
// Keys whose shares are kept at a time.
const CHUNK: u32 = 1024u;
// Values of an invocation that are under way at a time.
const UNROLL: u32 = 8u;
// Invocations whose largest scores one of them merges first.
const MERGED: u32 = 16u;

var<workgroup> query: array<vec4<f32>, VECS>;
// Scores of the chunk's keys, then their shares.
var<workgroup> shares: array<f32, CHUNK>;
var<workgroup> by_thread: array<f32, THREADS>;
var<workgroup> merged: array<f32, THREADS / MERGED>;
// Of the piece of each group.
var<workgroup> piece_sums: array<f32, GROUPS>;
var<workgroup> pieces: array<vec4<f32>, THREADS>;

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
    let kv_from = head / params.group * HEAD_DIM;
    for (var d = thread; d < VECS; d += THREADS) {
        query[d] = query4(group.x * params.q_stride + head * HEAD_DIM, d);
    }
    workgroupBarrier();

    // Invocations past the last whole group sum nothing.
    let value_group = thread / VECS;
    let element = thread % VECS;
    let first = first_key(row.key_start, row.slot);
    var reference = NEVER;
    // Of the first group: all pieces so far.
    var sum = 0.0;
    var output = vec4<f32>(0.0);
    for (var base = first / PIECE * PIECE; base < row.key_end; base += CHUNK) {
        let begin = max(base, first) - base;
        let count = min(CHUNK, row.key_end - base);
        var peak = NEVER;
        for (var k = begin + thread; k < count; k += THREADS) {
            let key_at = (base + k) * params.kv_stride + kv_from;
            var score = 0.0;
            for (var d = 0u; d < VECS; d++) {
                score = with_product(score, query[d], key4(key_at, d));
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
        peak = NEVER;
        for (var i = 0u; i < THREADS / MERGED; i++) {
            peak = max(peak, merged[i]);
        }
        let higher = max(reference, floor(peak));
        let shrink = power_of_two(reference - higher);
        reference = higher;
        sum *= shrink;
        output *= shrink;
        for (var k = begin + thread; k < count; k += THREADS) {
            shares[k] = share_of(shares[k], reference);
        }
        workgroupBarrier();

        for (var done = 0u; done < count; done += GROUPS * PIECE) {
            let from_key = max(done + value_group * PIECE, begin);
            let to_key = min(done + value_group * PIECE + PIECE, count);
            if value_group < GROUPS {
                var piece_sum = 0.0;
                var piece = vec4<f32>(0.0);
                for (var k = from_key; k < to_key; k += UNROLL) {
                    var value: array<vec4<f32>, UNROLL>;
                    for (var u = 0u; u < UNROLL; u++) {
                        // Past the end the last one is read again, and not counted.
                        let slot = base + min(k + u, to_key - 1u);
                        value[u] = value4(slot * params.kv_stride + kv_from, element);
                    }
                    for (var u = 0u; u < UNROLL; u++) {
                        if k + u < to_key {
                            piece_sum += shares[k + u];
                            piece = fma(vec4<f32>(shares[k + u]), value[u], piece);
                        }
                    }
                }
                pieces[thread] = piece;
                if element == 0u {
                    piece_sums[value_group] = piece_sum;
                }
            }
            workgroupBarrier();
            if thread < VECS {
                for (var g = 0u; g < GROUPS && done + g * PIECE < count; g++) {
                    sum += piece_sums[g];
                    output += pieces[g * VECS + thread];
                }
            }
            workgroupBarrier();
        }
    }
    if thread < VECS {
        put4(group.x * params.out_stride + head * HEAD_DIM, thread, output / sum);
    }
    if head + 1u == groups.y {
        put_end(group.x, groups.y, thread, THREADS);
    }
}
