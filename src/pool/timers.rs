//! The pool's timer, and its end.

use std::time::Instant;

use super::action::PoolAction;
use super::event::PoolEvent;
use super::machine::{Pool, WAIT_QUEUE_TIMEOUT};
use super::slots::Slot;
use crate::machine::Machine;
use crate::note::Note;

impl<C> Pool<C> {
    /// Returns whether the pool is closed and has no connections left.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.is_closed() && self.slots.total() == 0
    }

    /// Returns when `handle_timeout` is due, and the name of the limit that runs out then.
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

impl<C> Machine for Pool<C> {
    type Action = PoolAction<C>;
    type Event = PoolEvent;

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    #[inline]
    fn poll_action(&mut self) -> Option<PoolAction<C>> {
        Self::poll_action(self)
    }

    #[inline]
    fn poll_event(&mut self) -> Option<PoolEvent> {
        Self::poll_event(self)
    }

    #[inline]
    fn poll_note(&mut self) -> Option<Note> {
        Self::poll_note(self)
    }

    #[inline]
    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Self::poll_timeout(self)
    }

    #[inline]
    fn is_over(&self) -> bool {
        Self::is_over(self)
    }
}
