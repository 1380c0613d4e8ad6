//! An allocator that counts allocations and bytes in use.
//!
//! An allocator that counts. Each thread counts in a place of its own, without a locked instruction, so that counting
//! does not slow down the thread that allocates most.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The system's allocator, counted.
#[derive(Debug)]
pub struct Counting;

/// A reading of the counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heap {
    /// How often memory was asked for; a block that is made larger or smaller counts again.
    pub allocations: u64,
    /// How much was asked for, in bytes.
    pub bytes: u64,
    /// How much is in use, in bytes.
    pub live: i64,
}

/// Reads the counts.
pub fn heap() -> Heap {
    let mut heap = Heap::default();
    for shard in &SHARDS {
        heap.allocations += shard.allocations.load(Relaxed);
        heap.bytes += shard.allocated.load(Relaxed);
        heap.live += shard.allocated.load(Relaxed).cast_signed() - shard.freed.load(Relaxed).cast_signed();
    }
    heap
}

impl Heap {
    /// Returns what has been added since an earlier reading.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { allocations: self.allocations - earlier.allocations, bytes: self.bytes - earlier.bytes, live: self.live - earlier.live }
    }
}

/// Counts of one thread, on cache lines of their own.
#[repr(align(128))]
struct Shard {
    allocations: AtomicU64,
    allocated: AtomicU64,
    freed: AtomicU64,
}

/// One per thread; threads beyond that share the last.
const SHARDS_MAX: usize = 64;

static SHARDS: [Shard; SHARDS_MAX] = [const { Shard::new() }; SHARDS_MAX];

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Stands for a thread that has not allocated yet.
const NONE: usize = usize::MAX;

thread_local! {
    static OWN: Cell<usize> = const { Cell::new(NONE) };
}

impl Shard {
    const fn new() -> Self {
        Self { allocations: AtomicU64::new(0), allocated: AtomicU64::new(0), freed: AtomicU64::new(0) }
    }
}

fn note(allocations: u64, allocated: usize, freed: usize) {
    let own = OWN.with(|own| {
        if own.get() == NONE {
            own.set(THREADS.fetch_add(1, Relaxed));
        }
        own.get()
    });
    let (allocated, freed) = (allocated as u64, freed as u64);
    if own < SHARDS_MAX - 1 {
        // Nobody else writes here.
        let shard = &SHARDS[own];
        shard.allocations.store(shard.allocations.load(Relaxed) + allocations, Relaxed);
        shard.allocated.store(shard.allocated.load(Relaxed) + allocated, Relaxed);
        shard.freed.store(shard.freed.load(Relaxed) + freed, Relaxed);
    } else {
        let shard = &SHARDS[SHARDS_MAX - 1];
        shard.allocations.fetch_add(allocations, Relaxed);
        shard.allocated.fetch_add(allocated, Relaxed);
        shard.freed.fetch_add(freed, Relaxed);
    }
}

// SAFETY: every call is handed on to the system's allocator as it came; counting neither allocates nor unwinds, for its
// thread-local place is made without allocation and has no destructor.
#[allow(unsafe_code, reason = "an allocator can't be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(1, size, layout.size());
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(0, 0, layout.size());
        unsafe { System.dealloc(block, layout) }
    }
}
