//! Has a command been waiting for its reply for long?
//!
//! A connection is lent for one exchange, so one that has been lent for long waits for a reply, even if its caller has given
//! up. What follows is decided in
//! `topology::liveness`: by itself it proves nothing. Lending costs one comparison; while nothing is lent, there is no
//! timer.

use std::time::{Duration, Instant};

use super::action::PoolAction;
use super::slots::{Slot, Slots};

/// After how long a command counts as unanswered: few take longer.
pub const UNANSWERED_AFTER: Duration = Duration::from_secs(5);

/// Knows when to look for unanswered commands next.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// While anything is lent or drained: not later than [`UNANSWERED_AFTER`] after the first of it was lent.
    due: Option<Instant>,
}

impl Unanswered {
    /// Takes that a connection is lent, beside others that wait for replies.
    pub(super) fn lent(&mut self, waiting: usize, now: Instant) {
        if waiting == 0 || self.due.is_none() {
            self.due = Some(now + UNANSWERED_AFTER);
        }
    }
}

impl<C> Slots<C> {
    /// Returns when to look next, if any reply is waited for.
    pub(super) fn unanswered_due(&self) -> Option<(Instant, &'static str)> {
        let due = self.unanswered.due.filter(|_| self.in_use + self.draining > 0)?;
        Some((due, "UNANSWERED_AFTER"))
    }

    /// Looks for a connection that was lent long ago, if it is time for that, and sets the time of the next look.
    pub(super) fn look_for_unanswered<T>(&mut self, now: Instant) -> Option<PoolAction<T>> {
        self.unanswered_due().filter(|(due, _)| *due <= now)?;
        let lent = self.iter().filter_map(|(_, slot)| match slot {
            Slot::InUse { since, interrupted: false, .. } | Slot::Draining { since, interrupted: false, .. } => Some(*since),
            Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } | Slot::InUse { .. } | Slot::Draining { .. } => None,
        });
        let oldest_due = lent.min().map(|since| since + UNANSWERED_AFTER);
        let is_late = oldest_due.is_some_and(|due| due <= now);
        self.unanswered.due = oldest_due.map(|due| if is_late { now + UNANSWERED_AFTER } else { due });
        is_late.then_some(PoolAction::Unanswered)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
