//! The wall clock and the cluster time of the members.
//!
//! The wall clock runs from a given start; writes advance the cluster time.

use std::time::{Duration, Instant};

use bson::Timestamp;

/// The time on which the members agree.
pub(super) struct DeploymentTime {
    started: Instant,
    epoch_millis: i64,
    pub(super) latest: Timestamp,
    /// The wall clock at the last write, in milliseconds since 1970.
    pub(super) last_write_millis: i64,
}

impl DeploymentTime {
    pub(super) fn new(epoch_millis: i64, now: Instant) -> Self {
        let mut time = Self { started: now, epoch_millis, latest: Timestamp { time: 0, increment: 0 }, last_write_millis: epoch_millis };
        time.advance(now);
        time
    }

    /// Returns the wall clock, in milliseconds since 1970.
    pub(super) fn wall_millis(&self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.started);
        self.epoch_millis.saturating_add(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX))
    }

    /// Takes the next timestamp, for a write.
    pub(super) fn advance(&mut self, now: Instant) {
        let seconds = self.seconds(now);
        self.latest = if seconds > self.latest.time {
            Timestamp { time: seconds, increment: 1 }
        } else {
            Timestamp { time: self.latest.time, increment: self.latest.increment.saturating_add(1) }
        };
        self.last_write_millis = self.wall_millis(now);
    }

    /// Returns the newest timestamp; without writes, no-op entries advance it.
    pub(super) fn current(&mut self, now: Instant) -> Timestamp {
        let idle = self.seconds(now).saturating_sub(self.latest.time);
        if idle >= NOOP_INTERVAL_SECONDS {
            self.advance(now);
        }
        self.latest
    }

    fn seconds(&self, now: Instant) -> u32 {
        let seconds = Duration::from_millis(u64::try_from(self.wall_millis(now)).unwrap_or(0)).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

/// The interval of the primary's no-op entries when it is idle, in seconds.
const NOOP_INTERVAL_SECONDS: u32 = 10;
