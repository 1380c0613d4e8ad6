//! A rate limit: a burst at once, then one per interval (the generic cell rate algorithm).
//!
//! Does not decide what is limited, nor what happens beyond the limit (its owner).

use std::time::{Duration, Instant};

/// A rate limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The size of a burst.
    burst: u32,
    /// The interval after a burst.
    every: Duration,
    /// When everything so far would have been admitted without the burst.
    paid_until: Option<Instant>,
    /// The number of refusals since the last admission.
    refused: u64,
}

impl Pace {
    /// Admits `burst` at once, and one more in each interval of `every`.
    pub(super) const fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, paid_until: None, refused: 0 }
    }

    /// Returns the number of refusals since the last admission, if one more is admitted now; `None` if not.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        let paid = self.paid_until.map_or(now, |at| at.max(now)) + self.every;
        if paid.saturating_duration_since(now) > self.every.saturating_mul(self.burst) {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        self.paid_until = Some(paid);
        Some(std::mem::take(&mut self.refused))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests {
    use super::*;

    #[test]
    fn burst_is_admitted_at_once_and_then_one_in_each_interval() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace::new(3, second);
        let admitted = |pace: &mut Pace, now| (0..10).filter_map(|_| pace.admit(now)).collect::<Vec<u64>>();
        assert_eq!(admitted(&mut pace, began), [0, 0, 0]);
        assert_eq!(admitted(&mut pace, began + second / 2), [0; 0]);
        assert_eq!(admitted(&mut pace, began + second), [17]);
        assert_eq!(admitted(&mut pace, began + 100 * second), [9, 0, 0], "what was not used does not add up beyond the burst");
    }
}
