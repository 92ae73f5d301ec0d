//! What the tests over several crates share: a way to run one kernel by itself, and per kernel a case
//! table with a float64 reference. Benches use the same cases, so a kernel that is measured is tested.

pub mod blocking;
pub mod cases;
pub mod data;
pub mod gguf;
pub mod harness;
pub mod model;
pub mod tolerance;
