//! When are the clocks looked at, to see whether the machine was asleep?
//!
//! By whoever does something, and not too often. What is made of a look is decided in `topology::suspension`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::clock::{self, BootClock};
use crate::topology::Suspension;

/// Looks at the clocks.
#[derive(Debug)]
pub(crate) struct Looks {
    suspension: Mutex<Suspension>,
    began: Instant,
    /// When somebody last looked, in microseconds since it began.
    looked_at: AtomicU64,
}

/// How many microseconds that the machine is awake lie between two looks, at the least: a busy client need not look for every
/// command.
const LOOK_EVERY_MICROS: u64 = 50;

impl Looks {
    /// Takes the first look.
    pub(crate) fn new(now: Instant, boot_clock: &dyn BootClock) -> Self {
        Self { suspension: Mutex::new(Suspension::new(now, boot_clock.now())), began: now, looked_at: AtomicU64::new(0) }
    }

    /// Looks, if it is time to, and returns how long the machine slept since the last time, if it did.
    #[inline]
    pub(crate) fn look(&self, now: Instant, boot_clock: &dyn BootClock) -> Option<Duration> {
        let elapsed = u64::try_from(now.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX);
        if elapsed < self.looked_at.load(Ordering::Relaxed).saturating_add(LOOK_EVERY_MICROS) {
            return None;
        }
        // Whoever finds somebody else looking need not look as well.
        let mut suspension = self.suspension.try_lock().ok()?;
        self.looked_at.store(elapsed, Ordering::Relaxed);
        suspension.handle_look(clock::now(), boot_clock.now())
    }
}
