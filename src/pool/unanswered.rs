//! The detection of unanswered commands.
//!
//! A connection is checked out for one exchange, so one that has been in use for long waits for a reply, even if its caller has given
//! up. A check-out costs one comparison; without connections in use there is no timer. Does not decide what follows:
//! `topology::liveness` does, because an unanswered command alone proves nothing.

use std::time::{Duration, Instant};

use super::action::PoolAction;
use super::slots::{Slot, Slots};

/// How long a command may take before it counts as unanswered: few take longer.
pub const UNANSWERED_AFTER: Duration = Duration::from_secs(5);

/// The time of the next search for unanswered commands.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// While connections are in use or draining: at most [`UNANSWERED_AFTER`] after the first of them was checked out.
    due: Option<Instant>,
}

impl Unanswered {
    /// Takes that a connection is checked out, while `waiting` others wait for replies.
    pub(super) fn checked_out(&mut self, waiting: usize, now: Instant) {
        if waiting == 0 || self.due.is_none() {
            self.due = Some(now + UNANSWERED_AFTER);
        }
    }
}

impl<C> Slots<C> {
    /// Returns the time of the next search, if any reply is outstanding.
    pub(super) fn unanswered_due(&self) -> Option<(Instant, &'static str)> {
        let due = self.unanswered.due.filter(|_| self.in_use + self.draining > 0)?;
        Some((due, "UNANSWERED_AFTER"))
    }

    /// Searches for a connection that was checked out long ago, if the search is due, and sets the time of the next one.
    pub(super) fn find_unanswered<T>(&mut self, now: Instant) -> Option<PoolAction<T>> {
        self.unanswered_due().filter(|(due, _)| *due <= now)?;
        let since = self.iter().filter_map(|(_, slot)| match slot {
            Slot::InUse { since, interrupted: false, .. } | Slot::Draining { since, interrupted: false, .. } => Some(*since),
            Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } | Slot::InUse { .. } | Slot::Draining { .. } => None,
        });
        let oldest_due = since.min().map(|since| since + UNANSWERED_AFTER);
        let is_late = oldest_due.is_some_and(|due| due <= now);
        self.unanswered.due = oldest_due.map(|due| if is_late { now + UNANSWERED_AFTER } else { due });
        is_late.then_some(PoolAction::Unanswered)
    }
}
