// Bindings that every kernel shares, and the records that the host writes once a pass.
// Params is declared by the kernel that includes this file and differs from kernel to kernel.

// Sizes of the pass, the only values that change between passes of one recording.
struct Pass {
    rows: u32,      // rows computed
    selected: u32,  // rows whose candidates are wanted
    tiles: u32,     // attention row tiles
    padding: u32,
}

// One row of the pass. Slots are absolute: the store's first slot is already added.
struct Row {
    token: u32,
    position: u32,
    slot: u32,
    key_start: u32,
    key_end: u32,
    padding0: u32,
    padding1: u32,
    padding2: u32,
}

// A row whose candidate is wanted. guide is the unconditional twin; equal to row where there is none.
struct Select {
    row: u32,
    guide: u32,
    guide_scale: f32,
    temperature: f32,
    key0: u32,
    key1: u32,
    position: u32,
    padding: u32,
}

@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> pass_info: Pass;
