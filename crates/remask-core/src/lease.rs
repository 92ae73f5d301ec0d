//! Stores that are given back whatever happens: also where a future is dropped before it is done.

use crate::backend::{Backend, BackendError, StoreId};

/// A backend, and the stores that were made through it. They are given back when this goes.
pub(crate) struct Lease<'a> {
    backend: &'a mut dyn Backend,
    stores: Vec<StoreId>,
}

impl<'a> Lease<'a> {
    /// `count` stores of `slots` each.
    ///
    /// # Errors
    /// As [`Backend::create_store`]; none is left then.
    pub(crate) fn new(backend: &'a mut dyn Backend, count: usize, slots: usize) -> Result<Self, BackendError> {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let mut lease = Self { backend, stores: Vec::with_capacity(count) };
        for _ in 0..count {
            let store = lease.backend.create_store(slots)?;
            lease.stores.push(store);
        }
        Ok(lease)
    }

    /// The backend.
    pub(crate) fn backend(&mut self) -> &mut dyn Backend {
        self.backend
    }

    /// The stores, in the order in which they were made.
    pub(crate) fn stores(&self) -> Vec<StoreId> {
        self.stores.clone()
    }

    /// The first store.
    pub(crate) fn store(&self) -> StoreId {
        self.stores.first().copied().unwrap_or(StoreId(u32::MAX))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.stores.drain(..).for_each(|store| self.backend.release_store(store));
    }
}
