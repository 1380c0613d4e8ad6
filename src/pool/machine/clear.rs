//! Clearing and closing a pool, and the suspension of the machine.
//!
//! connection-monitoring-and-pooling, "Clearing a Connection Pool". A pool behind a load balancer is cleared by service, in
//! `balanced`.

use std::time::Instant;

use super::super::refusal::{interrupted, suspended};
use super::{CheckOutFailure, CloseReason, Error, Pool, PoolAction, PoolEvent, PoolMode, Slot, cleared};

impl<C> Pool<C> {
    /// Clears the pool: its connections are stale, waiters are refused, and it is paused until the next `handle_ready`.
    pub fn handle_clear(&mut self, cause: &Error, interrupt_in_use: bool, now: Instant) {
        let was_ready = match self.state {
            PoolMode::Closed { .. } => return,
            PoolMode::Ready => true,
            PoolMode::Paused { .. } => false,
        };
        self.generation += 1;
        self.state = PoolMode::Paused { cause: Some(cause.clone()) };
        if was_ready {
            let cause = cause.clone();
            self.event(|| PoolEvent::PoolCleared { interrupt_in_use, cause, service_id: None });
        }
        // The connections being opened would be stale, and must not count against `maxConnecting`.
        let dials = self.abort(CloseReason::Stale, |slot| matches!(slot, Slot::Opening { .. }));
        let error = cleared(Some(cause));
        for waiter in self.waiters.all() {
            self.refuse(waiter, error.clone(), CheckOutFailure::ConnectionError, now);
        }
        self.close_idle(CloseReason::Stale);
        let interrupted = interrupted(cause);
        let leases = self.slots.interrupt(|slot| match slot {
            Slot::InUse { .. } | Slot::Draining { .. } => interrupt_in_use,
            Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } => false,
        });
        self.actions.extend(leases.into_iter().chain(dials).map(|lease| PoolAction::Interrupt(lease, interrupted.clone())));
    }

    /// Takes that the machine was suspended: older connections are closed, those in use at check-in.
    pub fn handle_resumed(&mut self, now: Instant) {
        self.close_idle(CloseReason::Idle);
        let dials = self.abort(CloseReason::Idle, |slot| matches!(slot, Slot::Opening { .. }));
        let drains = self.slots.distrust(self.next_id);
        self.actions.extend(drains.into_iter().chain(dials).map(|lease| PoolAction::Interrupt(lease, suspended())));
        self.fill(now);
    }

    /// Closes the pool: waiters are refused, idle connections are closed, those in use at check-in or, if interrupted, at once.
    ///
    /// Connections that a closed pool still has in use can be interrupted by a second call.
    pub fn handle_close(&mut self, why: &Error, interrupt_in_use: bool, now: Instant) {
        let mut dials = Vec::new();
        if !matches!(self.state, PoolMode::Closed { .. }) {
            self.state = PoolMode::Closed { why: why.clone() };
            dials = self.abort(CloseReason::PoolClosed, |slot| matches!(slot, Slot::Opening { .. }));
            for waiter in self.waiters.all() {
                self.refuse(waiter, why.clone(), CheckOutFailure::PoolClosed, now);
            }
            self.close_idle(CloseReason::PoolClosed);
            self.event(|| PoolEvent::PoolClosed);
        }
        let leases = self.slots.interrupt(|slot| match slot {
            Slot::Draining { .. } => true,
            Slot::InUse { .. } => interrupt_in_use,
            Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } => false,
        });
        self.actions.extend(leases.into_iter().chain(dials).map(|lease| PoolAction::Interrupt(lease, why.clone())));
    }
}
