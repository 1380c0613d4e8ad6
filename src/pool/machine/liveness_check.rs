//! What follows a look at a connection that was idle for a while, and is lent if it is alive?

use std::time::Instant;

use super::{Checkout, CloseReason, Pool, PoolEvent};
use crate::pool::slots::Lease;
use crate::pool::waiters::{QueuePosition, Waiter};

impl<C> Pool<C> {
    /// A connection that was lent to be looked at is alive: it is lent for good. `requested_at` is when its caller came.
    pub fn handle_alive(&mut self, lease: Lease, requested_at: Instant, now: Instant) {
        let duration = now.saturating_duration_since(requested_at);
        self.event(|| PoolEvent::CheckedOut { connection_id: lease.id, duration });
    }

    /// A connection that was lent to be looked at is dead: its caller goes on asking, in the position it had.
    ///
    /// Returns what [`handle_checkout`](Self::handle_checkout) would.
    pub fn handle_liveness_check_failed(&mut self, lease: Lease, connection: C, position: QueuePosition, now: Instant) -> Checkout<C> {
        match self.slots.take_in_use(lease) {
            Some(_) => {
                self.note_dead(lease);
                self.close(lease, connection, CloseReason::Error);
            }
            None => self.disown(lease, connection),
        }
        if let Some(refusal) = self.refusal() {
            return Checkout::Refused(refusal);
        }
        if let Some(lent) = self.lend_newest(now) {
            return lent;
        }
        if let Some(refusal) = self.refused_login(now) {
            return Checkout::Refused(refusal);
        }
        self.waiters.insert(position.waiter, Waiter { since: position.requested_at, deadline: position.deadline });
        self.fill(now);
        Checkout::Waiting(position.waiter)
    }
}
