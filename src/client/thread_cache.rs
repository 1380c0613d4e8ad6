//! What a thread keeps at hand for its operations: the source of servers, idle sessions, and a copy of the newest cluster time.
//!
//! Threads seldom share a cache, so that operations of different threads do not wait for each other.
//! Does not decide which server suits, nor when a session expires.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::error::Result;
use crate::io::shards::Sharded;
use crate::io::topology::TopologyDriver;
use crate::io::topology::select::{SelectedServer, SelectionSource};
use crate::operation::cluster_time::ClusterTime;
use crate::operation::session::SessionPool;
use crate::selection::Criteria;

/// The values that a thread's operations find without other threads.
pub(super) struct ThreadCache {
    epoch: u64,
    source: Option<Arc<SelectionSource>>,
    /// Numbers the random choices.
    draws: u64,
    /// When the clocks are read again.
    look_due: Option<Instant>,
    pub(super) sessions: SessionPool,
    pub(super) cluster_time: Arc<ClusterTime>,
}

/// The caches of all threads.
pub(super) struct ThreadCaches {
    shards: Sharded<ThreadCache>,
    /// Counts the changes of the client's state and of the topology: a cached source is out of date when it has grown.
    epoch: Arc<AtomicU64>,
}

/// The clocks are read at most this often by the operations that share a cache.
const LOOK_EVERY: Duration = Duration::from_micros(50);

impl ThreadCache {
    fn new() -> Self {
        Self { epoch: u64::MAX, source: None, draws: 0, look_due: None, sessions: SessionPool::default(), cluster_time: Arc::default() }
    }
}

impl ThreadCaches {
    pub(super) fn new() -> Self {
        Self { shards: Sharded::new(|_| ThreadCache::new()), epoch: Arc::default() }
    }

    /// Returns the counter of changes.
    pub(super) fn epoch(&self) -> &Arc<AtomicU64> {
        &self.epoch
    }

    /// Locks the cache of this thread.
    #[inline]
    pub(super) fn own(&self) -> MutexGuard<'_, ThreadCache> {
        self.shards.own()
    }

    /// Locks one cache after the other, except those that are in use.
    pub(super) fn idle(&self) -> impl Iterator<Item = MutexGuard<'_, ThreadCache>> {
        self.shards.idle()
    }

    /// Selects a server, if a topology driver runs and a server suits now. `open` returns the driver that new operations use.
    #[inline]
    pub(super) fn select_now(
        &self,
        criteria: &Criteria,
        now: Instant,
        open: impl FnOnce() -> Option<Arc<TopologyDriver>>,
    ) -> Result<Option<SelectedServer>> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut cache = self.shards.own();
        if cache.epoch != epoch {
            cache.epoch = epoch;
            cache.source = open().map(|driver| {
                // Threads draw different numbers.
                cache.draws = SmallRng::seed_from_u64(driver.draw()).next_u64();
                let snapshot = driver.snapshot();
                driver.source(snapshot)
            });
        }
        cache.draws = cache.draws.wrapping_add(1);
        let is_look_due = cache.look_due.is_none_or(|due| due <= now);
        if is_look_due {
            cache.look_due = Some(now + LOOK_EVERY);
        }
        let (source, mut random) = (cache.source.clone(), SmallRng::seed_from_u64(cache.draws));
        // Not under the lock: an application's selector may take its time.
        drop(cache);
        let Some(source) = source.filter(|source| source.driver.tasks().is_alive()) else { return Ok(None) };
        if is_look_due {
            source.driver.check_clocks();
        }
        source.choose(criteria, &mut random)
    }

    /// Draws a random number.
    pub(super) fn draw(&self) -> u32 {
        let mut cache = self.shards.own();
        cache.draws = cache.draws.wrapping_add(1);
        SmallRng::seed_from_u64(cache.draws).next_u32()
    }

    /// Marks the cached sources out of date, and drops them.
    pub(super) fn clear(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        for mut cache in self.shards.each() {
            cache.source = None;
        }
    }

    #[cfg(all(test, feature = "sandbox"))]
    pub(super) fn count(&self) -> usize {
        self.shards.each().count()
    }
}
