//! Rotary tables: cosines and sines of the positions that are in use.
//!
//! A model of a million positions has no room for all of them in one binding of WebGPU's default limits. So tables
//! are made in pages of `PAGE` positions as rows ask for them, and a row is told where its own lie. All tables of a
//! model have the same positions in the same place.

use std::collections::HashMap;

use remask_core::BackendError;
use remask_core::architecture::Rotary;

use crate::gpu::Gpu;
use crate::kernels::rotary;

/// Positions of a page.
const PAGE: u32 = 256;

/// Pages that a new table has room for.
const FIRST_PAGES: u32 = 4;

/// The rotary tables of a model.
pub struct Turns {
    rotaries: Vec<Rotary>,
    buffers: Vec<wgpu::Buffer>,
    /// Pages that there is room for.
    capacity: u32,
    /// Where each page of positions lies, and the pass that last used it.
    pages: HashMap<u32, (u32, u64)>,
    passes: u64,
}

fn page_bytes(rotary: &Rotary) -> u64 {
    u64::from(PAGE) * (rotary.dims / 2) as u64 * 8
}

impl Turns {
    /// Tables without positions yet.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub async fn new(gpu: &Gpu, rotaries: &[Rotary]) -> Result<Self, BackendError> {
        let mut turns =
            Self { rotaries: rotaries.to_vec(), buffers: Vec::new(), capacity: 0, pages: HashMap::new(), passes: 0 };
        turns.grow(gpu, FIRST_PAGES).await?;
        Ok(turns)
    }

    /// A table. Models in which nothing turns have one too, of nothing.
    #[must_use]
    pub fn buffer(&self, index: usize) -> Option<&wgpu::Buffer> {
        self.buffers.get(index)
    }

    /// Has the tables hold `positions`. True where the buffers are new.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`]; [`BackendError::InvalidPass`] where the positions lie on more pages than the
    /// device holds at a time.
    pub async fn hold(&mut self, gpu: &Gpu, positions: impl Iterator<Item = u32>) -> Result<bool, BackendError> {
        self.passes += 1;
        let mut wanted: Vec<_> = positions.map(|p| p / PAGE).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut missing = Vec::new();
        for page in &wanted {
            match self.pages.get_mut(page) {
                Some((_, used)) => *used = self.passes,
                None => missing.push(*page),
            }
        }
        let mut grown = false;
        let needed = self.pages.len() + missing.len();
        if needed > self.capacity as usize {
            let most = self.most_pages(gpu);
            if wanted.len() > most as usize {
                return Err(BackendError::InvalidPass(format!(
                    "rows at positions of {} pages of {PAGE}; rotary tables hold {most} of them at a time on this device",
                    wanted.len()
                )));
            }
            let capacity = (needed as u32).next_power_of_two().min(most);
            if capacity > self.capacity {
                self.grow(gpu, capacity).await?;
                grown = true;
            }
        }
        for page in missing {
            let at = self.place();
            for (turned, buffer) in self.rotaries.iter().zip(&self.buffers) {
                let values = rotary::table(turned, page * PAGE..(page + 1) * PAGE);
                gpu.queue.write_buffer(buffer, u64::from(at) * page_bytes(turned), bytemuck::cast_slice(&values));
            }
            self.pages.insert(page, (at, self.passes));
        }
        Ok(grown)
    }

    /// Where the cosines and sines of a position lie that is held.
    #[must_use]
    pub fn of(&self, position: u32) -> u32 {
        self.pages.get(&(position / PAGE)).map_or(0, |(at, _)| at * PAGE + position % PAGE)
    }

    /// Room for a page: free, or that of the page that was not used for longest.
    fn place(&mut self) -> u32 {
        let free = self.pages.len() as u32;
        if free < self.capacity {
            return free;
        }
        let oldest = self.pages.iter().min_by_key(|(page, (_, used))| (*used, **page)).map(|(page, _)| *page);
        oldest.and_then(|page| self.pages.remove(&page)).map_or(0, |(at, _)| at)
    }

    fn most_pages(&self, gpu: &Gpu) -> u32 {
        let widest = self.rotaries.iter().map(page_bytes).max().unwrap_or(0).max(1);
        (gpu.profile.limits.binding / widest).min(u64::from(u32::MAX / PAGE)) as u32
    }

    /// Larger tables with the same contents.
    async fn grow(&mut self, gpu: &Gpu, capacity: u32) -> Result<(), BackendError> {
        let mut buffers = Vec::with_capacity(self.rotaries.len().max(1));
        for rotary in &self.rotaries {
            buffers.push(gpu.storage("rotary", u64::from(capacity) * page_bytes(rotary)).await?);
        }
        if buffers.is_empty() {
            buffers.push(gpu.storage("rotary", 16).await?);
        }
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("grow") });
        for (old, new) in self.buffers.iter().zip(&buffers) {
            encoder.copy_buffer_to_buffer(old, 0, new, 0, old.size());
        }
        gpu.queue.submit([encoder.finish()]);
        (self.buffers, self.capacity) = (buffers, capacity);
        Ok(())
    }
}
