//! The order in which a matrix's weights lie on the device.
//!
//! Portable kernels read rows. Those on matrix units read fragments: what each invocation multiplies lies
//! together, so that one load of 16 bytes brings it into the registers where it is needed, with nothing to
//! pass through workgroup memory and nothing to wait for others for. Weights are put in that order once,
//! by the device, after they are loaded; and back where its kernels turn out not to compile.

/// An order of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Row by row.
    Rows,
    /// Fragments of 16 x 16 (`shaders/reorder.wgsl`).
    Fragments,
    /// The same, 16 rows of the first half and 16 of the second in turn: gate and up where they meet.
    Paired,
}
