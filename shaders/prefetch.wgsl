// Reads what the next product's workgroups begin with, so that it lies in the device's cache when they do. It runs
// beside a kernel that leaves memory idle: it shares nothing that is written with it, so nothing orders the two.
//
// weights, binding 0: in the order of fragments (`reorder.wgsl`)
// sink, binding 1: written at most in passing, never read; one to each dispatch, or they would wait for each other
// Workgroup (16 rows of weights, split of the inner dimension): EACH times THREADS elements.

struct Params {
    stride: u32,        // elements of 16 rows
    split_stride: u32,  // elements of a split of them
    skip: u32,          // elements of a split that others have read
    padding: u32,
}

#include "pass"

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sink: array<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = group.x * params.stride + group.y * params.split_stride + params.skip + thread;
    var seen = vec4<u32>(0u);
#for i in 0..EACH
    seen ^= weights[at + $iu * THREADS];
#endfor
    // Who knows nothing about weights cannot leave the reads out.
    if all(seen == vec4<u32>(0x5EED5EEDu)) {
        sink[0] = 1u;
    }
}
