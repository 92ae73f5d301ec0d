// What the attention kernels are told.

struct Params {
    q_stride: u32,
    kv_stride: u32,
    group: u32,          // query heads that share one K/V head
    scale: f32,
}

// Consecutive rows of one store, and the union of the slots that they see.
struct Tile {
    first: u32,          // index of the first row
    count: u32,
    key_start: u32,
    key_end: u32,
}
