//! Sharded state: one copy for each of a few groups of threads.
//!
//! Threads use the shards in turn, each its own: an uncontended lock is cheap, and memory that no other core writes stays in
//! the cache. Does not decide what a shard holds, nor when it is outdated (its owner).

use crossbeam_utils::CachePadded;

use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError, TryLockError, thread_local};

/// A value with one copy per shard.
#[derive(Debug)]
pub(crate) struct Sharded<T> {
    shards: Box<[CachePadded<Mutex<T>>]>,
}

/// The number of shards: about the number of runtime threads on common machines.
const SHARDS: usize = 16;

/// The number of threads that have been assigned a shard.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Threads are assigned to the shards in turn.
    static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS;
}

impl<T> Sharded<T> {
    /// Creates all shards.
    pub(crate) fn new(mut make: impl FnMut(usize) -> T) -> Self {
        Self { shards: (0..SHARDS).map(|index| CachePadded::new(Mutex::new(make(index)))).collect() }
    }

    /// Locks the shard of this thread.
    pub(crate) fn own(&self) -> MutexGuard<'_, T> {
        let shard = self.shards.get(OWN.with(|own| *own)).or(self.shards.first()).expect("there are shards");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks one shard after the other, and skips those that are locked.
    pub(crate) fn idle(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.shards.iter().filter_map(|shard| match shard.try_lock() {
            Ok(locked) => Some(locked),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    /// Locks one shard after the other.
    pub(crate) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_returns_to_its_own_shard() {
        let sharded = Sharded::new(|_| 0);
        for _ in 0..10 {
            *sharded.own() += 1;
        }
        let mut counts: Vec<i32> = sharded.each().map(|count| *count).collect();
        counts.sort_unstable();
        assert_eq!((counts.len(), counts.last().copied(), counts.iter().sum::<i32>()), (SHARDS, Some(10), 10));
    }

    #[test]
    fn threads_use_several_shards() {
        let sharded = Sharded::new(|_| 0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| *sharded.own() += 1);
            }
        });
        let counts: Vec<i32> = sharded.each().map(|count| *count).filter(|count| *count > 0).collect();
        assert_eq!(counts.iter().sum::<i32>(), 8);
        assert!(counts.len() > 1, "eight threads took {} shards", counts.len());
    }
}
