//! When has the pool something to do by itself, and when no more?

use std::time::Instant;

use super::machine::{Pool, WAIT_QUEUE_TIMEOUT};
use super::slots::Slot;

impl<C> Pool<C> {
    /// Tells whether it is closed and holds nothing any more: then there is nothing to wait for.
    pub fn is_over(&self) -> bool {
        self.is_closed() && self.slots.total() == 0
    }

    /// Says when `handle_timeout` is due, and for what.
    #[inline]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let mut due = self.waiters.next_deadline().map(|at| (at, WAIT_QUEUE_TIMEOUT));
        let mut consider = |at: Instant, name| {
            if due.is_none_or(|(earliest, _)| at < earliest) {
                due = Some((at, name));
            }
        };
        if let (Some(limit), Some(since)) = (self.config.max_idle_time, self.slots.oldest_since()) {
            consider(since + limit, "maxIdleTimeMS");
        }
        if let Some(at) = self.refill_at.filter(|_| self.below_min()) {
            consider(at, "minPoolSize");
        }
        if let Some((at, name)) = self.slots.unanswered_due() {
            consider(at, name);
        }
        if let Some(at) = self.room_due() {
            consider(at, "draining");
        }
        if self.slots.opening + self.slots.draining > 0 {
            for (_, slot) in self.slots.iter() {
                match slot {
                    Slot::Opening { deadline: Some(deadline), aborted: false, .. } => consider(*deadline, "opening"),
                    Slot::Draining { deadline, interrupted: false, .. } => consider(*deadline, "draining"),
                    Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } | Slot::InUse { .. } | Slot::Draining { .. } => {}
                }
            }
        }
        due
    }
}
