//! The detection of machine suspensions.
//!
//! Compares the boot clock, which advances during a suspension, with the monotonic clock, which does not. Does not decide the
//! consequences (`monitor`, `pool`).

use std::time::{Duration, Instant};

/// The detector of suspensions between two readings of the clocks.
#[derive(Debug)]
pub struct Suspension {
    last: (Instant, Duration),
}

/// The minimum gap of a suspension: servers and networks tolerate shorter ones.
const GAP_MIN: Duration = Duration::from_secs(2);

impl Suspension {
    /// Records the first reading.
    pub fn new(now: Instant, boot: Duration) -> Self {
        Self { last: (now, boot) }
    }

    /// Records a reading, and returns the length of a suspension since the last one, if there was one. A reading that is older
    /// than the last one is ignored: two threads may read the clocks at once.
    pub fn handle_reading(&mut self, now: Instant, boot: Duration) -> Option<Duration> {
        if now < self.last.0 {
            return None;
        }
        let awake = now.saturating_duration_since(self.last.0);
        let passed = boot.saturating_sub(self.last.1);
        self.last = (now, boot);
        Some(passed.saturating_sub(awake)).filter(|gap| *gap >= GAP_MIN)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests {
    use super::*;

    #[test]
    fn a_gap_between_the_clocks_is_noticed_once() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut suspension = Suspension::new(now, 100 * second);
        assert_eq!(suspension.handle_reading(now + second, 101 * second), None);
        assert_eq!(suspension.handle_reading(now + 2 * second, 3702 * second), Some(3600 * second));
        assert_eq!(suspension.handle_reading(now + 3 * second, 3703 * second), None);
        assert_eq!(suspension.handle_reading(now + 4 * second, 3705 * second), None, "below the smallest gap");
        assert_eq!(suspension.handle_reading(now + 3 * second, 3704 * second), None, "an earlier reading comes late");
        assert_eq!(suspension.handle_reading(now + 5 * second, 3706 * second), None, "and changes nothing");
    }
}
