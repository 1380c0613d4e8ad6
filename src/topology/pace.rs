//! How often may something be done that a server can bring about?
//!
//! A burst at once, then one in each interval (the generic cell rate algorithm). What is limited, and what happens beyond the
//! limit, is decided by its owner.

use std::time::{Duration, Instant};

/// A limit on how often something happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How many may happen at once.
    burst: u32,
    /// How often one more may happen after that.
    every: Duration,
    /// When all that has happened would have been admitted without the burst.
    paid_until: Option<Instant>,
    /// How many were refused since the last that was admitted.
    refused: u64,
}

impl Pace {
    /// Admits `burst` at once, and one more in each interval of `every`.
    pub(super) const fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, paid_until: None, refused: 0 }
    }

    /// Returns how many were refused since the last time, if one more may happen now; `None` if not.
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
