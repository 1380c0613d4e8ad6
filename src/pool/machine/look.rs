//! What follows a look at a connection that was idle for a while, and is lent if it is alive?

use std::time::Instant;

use super::{Checkout, CloseReason, Pool, PoolEvent};
use crate::pool::slots::Lease;
use crate::pool::waiters::{Place, Waiter};

impl<C> Pool<C> {
    /// A connection that was lent to be looked at is alive: it is lent for good. `asked_at` is when its caller came.
    pub fn handle_alive(&mut self, lease: Lease, asked_at: Instant, now: Instant) {
        let duration = now.saturating_duration_since(asked_at);
        self.event(|| PoolEvent::CheckedOut { connection_id: lease.id, duration });
    }

    /// A connection that was lent to be looked at is dead: its caller goes on asking, in the place it had.
    ///
    /// Returns what [`handle_checkout`](Self::handle_checkout) would.
    pub fn handle_dead_on_look(&mut self, lease: Lease, connection: C, place: Place, now: Instant) -> Checkout<C> {
        match self.slots.take_lent(lease) {
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
        self.waiters.insert(place.ticket, Waiter { since: place.asked_at, deadline: place.deadline });
        self.fill(now);
        Checkout::Waiting(place.ticket)
    }
}
