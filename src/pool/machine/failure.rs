//! Connections that fail to open, or are given up before they are open.
//!
//! A failure takes two steps, so that the server's state can follow from the error first. Does not decide what the error means for
//! the server: `topology::fault` does.

use std::time::{Duration, Instant};

use super::Pool;
use crate::error::Error;
use crate::pool::action::PoolAction;
use crate::pool::event::{CheckOutFailure, CloseReason, PoolEvent};
use crate::pool::refusal::{found_dead, opened_too_late};
use crate::pool::slots::{Lease, Opening, Slot};
use crate::pool::waiters::WaiterId;

/// A connection that failed to open, and the waiter that receives the error.
#[derive(Debug)]
pub(super) struct OpenFailure {
    lease: Lease,
    /// `None` if the event of its closing was recorded when it was aborted.
    reason: Option<CloseReason>,
    /// `None` if events are not recorded.
    cause: Option<Error>,
    waiter: Option<(WaiterId, Instant, Error)>,
}

/// How long no connection is opened for `minPoolSize` alone after an opening has failed.
const REFILL_PAUSE: Duration = Duration::from_secs(1);

impl<C> Pool<C> {
    /// Takes the failure of an opening. The first waiter leaves the queue, to receive the error.
    ///
    /// Answers no waiter and opens nothing yet, so that the server's state can follow from the error first: the pool is cleared before
    /// the event of the connection's closing. `handle_refill` has to follow.
    pub fn handle_open_failed(&mut self, lease: Lease, error: &Error, now: Instant) {
        let Some(Opening { since, aborted }) = self.slots.take_opening(lease) else {
            let text = format!("connection {} failed to open, but was not being opened", lease.id);
            return self.notes.push(tracing::Level::ERROR, text);
        };
        self.slots.vacate(lease);
        self.end_pause(now);
        self.logins.handle_failed(error, since, now);
        let stale = self.obsolete(lease);
        let mut waiter = None;
        if stale.is_none() {
            self.refill_at = self.logins.paused_until(now).max(Some(now + REFILL_PAUSE));
            waiter = self.waiters.first().and_then(|id| Some((id, self.waiters.remove(id)?.since, error.clone())));
        }
        let reason = Some(stale.unwrap_or(CloseReason::Error)).filter(|_| !aborted);
        let cause = (self.record_events && reason == Some(CloseReason::Error)).then(|| error.clone());
        self.failures.push(OpenFailure { lease, reason, cause, waiter });
    }

    /// Takes that the server's state has followed from the failures: waiters receive the errors, and connections are opened.
    pub fn handle_refill(&mut self, now: Instant) {
        for OpenFailure { lease, reason, cause, waiter } in std::mem::take(&mut self.failures) {
            self.closed += 1;
            self.leave(lease);
            if let Some(reason) = reason {
                self.event(|| PoolEvent::ConnectionClosed { connection_id: lease.id, reason, error: cause });
            }
            if let Some((id, since, error)) = waiter {
                let error = self.checkout_failed(error, CheckOutFailure::ConnectionError, now.saturating_duration_since(since));
                self.actions.push_back(PoolAction::Refuse(id, error));
            }
        }
        self.refuse_for_login(now);
        self.fill(now);
    }

    /// Returns the error of a check-out that needs a new connection during the pause after a failed login.
    #[inline]
    pub(super) fn refused_login(&mut self, now: Instant) -> Option<Error> {
        let error = self.logins.refusal(now)?.clone();
        Some(self.checkout_failed(error, CheckOutFailure::ConnectionError, Duration::ZERO))
    }

    /// Refuses all waiters during the pause after a failed login.
    fn refuse_for_login(&mut self, now: Instant) {
        let Some(error) = self.logins.refusal(now).cloned() else { return };
        for waiter in self.waiters.all() {
            self.refuse(waiter, error.clone(), CheckOutFailure::ConnectionError, now);
        }
    }

    /// Closes a connection that the pool does not know: an internal error.
    pub(super) fn disown(&mut self, lease: Lease, connection: C) {
        let text = format!("connection {} was returned, but was neither in use nor being opened", lease.id);
        self.notes.push(tracing::Level::ERROR, text);
        self.actions.push_back(PoolAction::Close(lease, connection));
    }

    /// Ends the pause after an earlier failure once it is over, and with it its timer.
    pub(super) fn end_pause(&mut self, now: Instant) {
        self.refill_at = self.refill_at.filter(|at| now < *at);
    }

    /// Gives up connections that are being opened. The events of their closing come before waiters are refused.
    pub(super) fn abort(&mut self, reason: CloseReason, wanted: impl Fn(&Slot<C>) -> bool) -> Vec<Lease> {
        let leases = self.slots.interrupt(wanted);
        let limit = self.config.open_timeout.unwrap_or_default();
        for lease in &leases {
            // An error belongs only to an opening that took too long.
            let error = || (reason == CloseReason::Error).then(|| opened_too_late(limit));
            self.event(|| PoolEvent::ConnectionClosed { connection_id: lease.id, reason, error: error() });
        }
        leases
    }

    /// Takes the error of the broken connection that is checked in next, for the event of its closing.
    pub fn handle_cause(&mut self, lease: Lease, error: &Error) {
        if self.record_events {
            self.cause = Some((lease.id, error.clone()));
        }
    }

    /// Records that a connection failed its liveness check.
    pub(super) fn record_dead(&mut self, lease: Lease) {
        if self.record_events {
            self.cause = Some((lease.id, found_dead()));
        }
    }

    /// Takes the recorded error of a connection that is closed for this reason.
    pub(super) fn cause_of(&mut self, lease: Lease, reason: CloseReason) -> Option<Error> {
        let (_, error) = self.cause.take_if(|(id, _)| *id == lease.id)?;
        Some(error).filter(|_| reason == CloseReason::Error)
    }
}
