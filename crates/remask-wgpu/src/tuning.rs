//! Which kernel each linear layer is fastest with on a device, measured by `remask tune` and kept beside the compiled
//! kernels. Without it the choice is that of [`Strategy::choose`].

use std::collections::HashMap;

use remask_core::checkpoint::WeightFormat;
use serde::{Deserialize, Serialize};

#[cfg(not(target_arch = "wasm32"))]
use crate::kernels::linear::Portable;
use crate::kernels::linear::{Shape, Strategy};
#[cfg(not(target_arch = "wasm32"))]
use crate::profile::AdapterProfile;

/// A layer's fastest kernel for up to so many rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// Format of the weights.
    pub format: WeightFormat,
    /// Rows of x: a power of two, which stands for those above the next lower one too.
    pub rows: u32,
    /// Inner dimension.
    pub cols: u32,
    /// Rows of the weights.
    pub out: u32,
    /// The fastest kernel.
    pub kernel: Strategy,
    /// Microseconds that it takes; on matrix units those of a whole pass, in which kernels begin and end what others do.
    pub us: f64,
    /// Microseconds that the kernel takes that is used where nothing was measured.
    pub default_us: f64,
}

impl Tuned {
    /// The layer's shape.
    fn shape(&self) -> Shape {
        Shape { rows: self.rows, cols: self.cols, out: self.out }
    }
}

type Key = (WeightFormat, u32, u32, u32);

fn key(format: WeightFormat, shape: Shape) -> Key {
    (format, shape.rows.next_power_of_two(), shape.cols, shape.out)
}

/// What was measured on a device.
#[derive(Debug, Clone, Default)]
pub struct Tuning(HashMap<Key, Tuned>);

impl Tuning {
    /// The kernel that was fastest, if this was measured.
    #[must_use]
    pub fn kernel(&self, format: WeightFormat, shape: Shape) -> Option<Strategy> {
        self.0.get(&key(format, shape)).map(|t| t.kernel)
    }

    /// Adds a measurement, in place of an earlier one of the same.
    pub fn add(&mut self, tuned: Tuned) {
        self.0.insert(key(tuned.format, tuned.shape()), tuned);
    }

    /// Takes a measurement back.
    pub fn remove(&mut self, tuned: &Tuned) {
        self.0.remove(&key(tuned.format, tuned.shape()));
    }

    /// Number of measurements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was kept for a device in `folder`; empty where there is nothing, or nothing readable. Kernels
    /// that this build would not try are left out.
    #[cfg(not(target_arch = "wasm32"))]
    #[must_use]
    pub fn open(profile: &AdapterProfile, folder: &std::path::Path) -> Self {
        let file = file_of(profile, folder);
        let read = crate::cache::read_checked(&file)
            .and_then(|data| serde_json::from_slice::<Vec<Tuned>>(&data).map_err(|e| e.to_string()));
        let mut tuning = Self::default();
        match read {
            Ok(measured) => {
                let tried = |t: &&Tuned| {
                    let known = match t.kernel {
                        Strategy::Portable(kernel) => {
                            Portable::candidates(profile, t.format, t.shape()).contains(&kernel)
                        }
                        // Whoever asks for it knows which tiles its weights can have.
                        Strategy::Matrix(_) => true,
                    };
                    t.rows.is_power_of_two() && known
                };
                measured.iter().filter(tried).for_each(|t| tuning.add(*t));
                tracing::debug!("{} tuned layers from {}", tuning.len(), file.display());
            }
            Err(why) => tracing::debug!("no tuning from {}: {why}", file.display()),
        }
        tuning
    }

    /// Keeps this for a device in `folder`. Returns the file.
    ///
    /// # Errors
    /// The system's, where it cannot be written.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save(&self, profile: &AdapterProfile, folder: &std::path::Path) -> std::io::Result<std::path::PathBuf> {
        let mut measured: Vec<_> = self.0.values().collect();
        measured.sort_by_key(|t| (t.format.name(), t.cols, t.out, t.rows));
        let file = file_of(profile, folder);
        crate::cache::write_checked(&file, &serde_json::to_vec(&measured)?)?;
        Ok(file)
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn file_of(profile: &AdapterProfile, folder: &std::path::Path) -> std::path::PathBuf {
    folder.join("tuning").join(crate::cache::fingerprint(profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_stands_for_the_rows_below_it() {
        let tile = crate::kernels::gemm::Tile::choose(true, 8, 64);
        let kernel = Strategy::Portable(crate::kernels::linear::Portable::Tiled(tile));
        let mut tuning = Tuning::default();
        let tuned = Tuned { format: WeightFormat::Q8, rows: 8, cols: 64, out: 96, kernel, us: 1.0, default_us: 2.0 };
        tuning.add(tuned);
        tuning.add(tuned);
        assert_eq!(tuning.len(), 1);
        let found = |rows, out| tuning.kernel(WeightFormat::Q8, Shape { rows, cols: 64, out });
        assert_eq!([4, 5, 8, 9].map(|rows| found(rows, 96).is_some()), [false, true, true, false]);
        assert_eq!((found(8, 64), tuning.kernel(WeightFormat::Q4, Shape { rows: 8, cols: 64, out: 96 })), (None, None));
    }
}
