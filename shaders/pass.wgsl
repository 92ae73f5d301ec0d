// Bindings that every kernel shares, and the records that the host writes once a pass.
// Params is declared by the kernel that includes this file and differs from kernel to kernel.

// Sizes of the pass, the only values that change between passes of one recording.
struct Pass {
    rows: u32,      // rows computed
    selected: u32,  // rows whose candidates are wanted
    tiles: u32,     // attention row tiles
    logits: u32,    // rows whose logits are wanted
}

// One row of the pass. Slots are absolute: the store's first slot is already added. `turn` is where the position's
// cosines and sines lie in rotary tables.
struct Row {
    token: u32,
    position: u32,
    slot: u32,
    key_start: u32,
    key_end: u32,
    turn: u32,
    padding0: u32,
    padding1: u32,
}

// A row whose candidate is wanted, or its logits. guide is the unconditional twin; equal to row where there is none.
// position is that of the predicted token; suppressed is the set of ids that are never chosen.
struct Select {
    row: u32,
    guide: u32,
    guide_scale: f32,
    temperature: f32,
    key0: u32,
    key1: u32,
    position: u32,
    suppressed: u32,
}

@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> pass_info: Pass;

// Rows that a kernel runs over: all, those whose candidates are wanted, or those whose logits are.
fn rows_over(over: u32) -> u32 {
    return select(select(pass_info.rows, pass_info.selected, over == 1u), pass_info.logits, over == 2u);
}
