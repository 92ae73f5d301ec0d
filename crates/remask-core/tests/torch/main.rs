//! PyTorch's checkpoints: what PyTorch itself wrote (`tests/data/make_torch.py`) is read as it says, and what others
//! may write, by hand or by accident, is refused without being run, without a panic and within bounds of memory.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod build;
mod damaged;
mod hostile;
mod read;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use remask_core::Result;
use remask_core::checkpoint::{Bytes, Checkpoint};

/// Counts the bytes that are held, and the most that ever were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Checks that nothing so far ever held more than this: the files here have a few KB.
fn memory_was_bounded() {
    let most = MOST.load(Ordering::Relaxed);
    assert!(most < 96 << 20, "{most} bytes were held at once");
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/torch").join(name)
}

fn open(bytes: Vec<u8>) -> Result<Checkpoint> {
    Checkpoint::from_bytes("m.bin", Bytes::Owned(bytes))
}

/// The one line that `outcome` fails with. It must hold every one of `words`.
fn refusal<T>(what: &str, outcome: Result<T>, words: &[&str]) {
    let message = match outcome {
        Ok(_) => panic!("{what}: accepted"),
        Err(e) => e.to_string(),
    };
    assert!(message.lines().count() == 1 && message.len() < 500, "{what}: {message}");
    for word in words {
        assert!(message.contains(word), "{what}: no {word:?} in: {message}");
    }
}
