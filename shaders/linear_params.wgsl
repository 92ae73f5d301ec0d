// What the portable linear layers are told.

struct Params {
    cols4: u32,
    part_rows: u32,
    first: u32,          // output column of the part's first row
    out_stride: u32,
    over: u32,           // which rows x has: `rows_over`
    eps: f32,            // added to the mean square by NORM
    cols: u32,           // columns that NORM takes the mean over: without the zeros at the end
    padding: u32,
}
