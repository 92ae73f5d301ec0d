// What the attention kernels are told.

struct Params {
    q_stride: u32,
    kv_stride: u32,
    group: u32,          // query heads that share one K/V head
    scale: f32,
    window: u32,         // a row sees only this many slots, up to its own; 0 for all of its range
    out_stride: u32,     // columns of a row of out, zeros behind the last head
    padding0: u32,
    padding1: u32,
}

// Consecutive rows of one store, and the union of the slots that they see.
struct Tile {
    first: u32,          // index of the first row
    count: u32,
    key_start: u32,
    key_end: u32,
    slot: u32,           // lowest slot of a row
    padding0: u32,
    padding1: u32,
    padding2: u32,
}

// The first slot that is seen from `slot`, of a range that begins at `start`.
fn first_key(start: u32, slot: u32) -> u32 {
    let seen = slot + 1u;
    return select(start, max(start, seen - min(params.window, seen)), params.window > 0u);
}
