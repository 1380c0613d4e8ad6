//! Has the machine been asleep?
//!
//! Compares the boot clock, which goes on during a suspension, with the monotonic clock, which does not. What follows is
//! decided in `monitor` and `pool`.

use std::time::{Duration, Instant};

/// Notices that the machine was suspended between two looks at the clocks.
#[derive(Debug)]
pub struct Suspension {
    last: (Instant, Duration),
}

/// A shorter gap is not a suspension: servers and networks bear it.
const GAP_MIN: Duration = Duration::from_secs(2);

impl Suspension {
    /// Takes the first look.
    pub fn new(now: Instant, boot: Duration) -> Self {
        Self { last: (now, boot) }
    }

    /// Takes a look, and returns how long the machine slept since the last one, if it did. A look that was taken before the last
    /// one is ignored: two threads may look at once.
    pub fn handle_look(&mut self, now: Instant, boot: Duration) -> Option<Duration> {
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
        assert_eq!(suspension.handle_look(now + second, 101 * second), None);
        assert_eq!(suspension.handle_look(now + 2 * second, 3702 * second), Some(3600 * second));
        assert_eq!(suspension.handle_look(now + 3 * second, 3703 * second), None);
        assert_eq!(suspension.handle_look(now + 4 * second, 3705 * second), None, "below the smallest gap");
        assert_eq!(suspension.handle_look(now + 3 * second, 3704 * second), None, "an earlier look comes late");
        assert_eq!(suspension.handle_look(now + 5 * second, 3706 * second), None, "and changes nothing");
    }
}
