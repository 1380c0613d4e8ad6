//! The outcome of a liveness check: a connection that was idle for long is alive or dead.

use std::time::Instant;

use super::{Checkout, CloseReason, Pool, PoolEvent};
use crate::pool::slots::Lease;
use crate::pool::waiters::{QueuePosition, Waiter};

impl<C> Pool<C> {
    /// Takes that a connection is alive: its check-out is complete. `requested_at` is when the check-out began.
    pub fn handle_alive(&mut self, lease: Lease, requested_at: Instant, now: Instant) {
        let duration = now.saturating_duration_since(requested_at);
        self.event(|| PoolEvent::CheckedOut { connection_id: lease.id, duration });
    }

    /// Takes that a connection is dead: its caller continues in its position in the queue.
    ///
    /// Returns what [`handle_checkout`](Self::handle_checkout) would return.
    pub fn handle_liveness_check_failed(&mut self, lease: Lease, connection: C, position: QueuePosition, now: Instant) -> Checkout<C> {
        match self.slots.take_in_use(lease) {
            Some(_) => {
                self.record_dead(lease);
                self.close(lease, connection, CloseReason::Error);
            }
            None => self.disown(lease, connection),
        }
        if let Some(refusal) = self.refusal() {
            return Checkout::Refused(refusal);
        }
        if let Some(checked_out) = self.check_out_newest(now) {
            return checked_out;
        }
        if let Some(refusal) = self.refused_login(now) {
            return Checkout::Refused(refusal);
        }
        self.waiters.insert(position.waiter, Waiter { since: position.requested_at, deadline: position.deadline });
        self.fill(now);
        Checkout::Waiting(position.waiter)
    }
}
