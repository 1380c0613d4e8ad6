//! What follows when a connection can't be opened, or is no longer wanted before it is?
//!
//! A failure takes two steps, so that the error can first do its work on the server's state. What it means for the server
//! is decided in `topology::fault`.

use std::time::{Duration, Instant};

use super::Pool;
use crate::error::Error;
use crate::pool::action::PoolAction;
use crate::pool::event::{CheckOutFailure, CloseReason, PoolEvent};
use crate::pool::refusal::{found_dead, opened_too_late};
use crate::pool::slots::{Lease, Opening, Slot};
use crate::pool::waiters::WaiterId;

/// Is a connection that failed to open, and whoever is told why.
#[derive(Debug)]
pub(super) struct OpenFailure {
    lease: Lease,
    /// `None` if the connection was told as closed when it was aborted.
    reason: Option<CloseReason>,
    /// `None` if nobody wants to know.
    cause: Option<Error>,
    told: Option<(WaiterId, Instant, Error)>,
}

/// How long nothing is opened for `minPoolSize` alone after an attempt failed.
const REFILL_PAUSE: Duration = Duration::from_secs(1);

impl<C> Pool<C> {
    /// A connection could not be opened: whoever has waited longest leaves the queue, to be told why.
    ///
    /// Tells and opens nothing itself, so that the error can first do its work on the server's state: a pool is cleared
    /// before the connection is closed that it is cleared for. `handle_refill` follows.
    pub fn handle_open_failed(&mut self, lease: Lease, error: &Error, now: Instant) {
        let Some(Opening { since, aborted }) = self.slots.take_opening(lease) else {
            let text = format!("connection {} failed to open, but was not being opened", lease.id);
            return self.notes.push(tracing::Level::ERROR, text);
        };
        self.slots.vacate(lease);
        self.end_pause(now);
        self.logins.handle_failed(error, since, now);
        let stale = self.obsolete(lease);
        let mut told = None;
        if stale.is_none() {
            self.refill_at = self.logins.paused_until(now).max(Some(now + REFILL_PAUSE));
            told = self.waiters.first().and_then(|id| Some((id, self.waiters.remove(id)?.since, error.clone())));
        }
        let reason = Some(stale.unwrap_or(CloseReason::Error)).filter(|_| !aborted);
        let cause = (self.record_events && reason == Some(CloseReason::Error)).then(|| error.clone());
        self.failures.push(OpenFailure { lease, reason, cause, told });
    }

    /// What failed to open has done its work: it is told, and whatever should be opened may be opened.
    pub fn handle_refill(&mut self, now: Instant) {
        for OpenFailure { lease, reason, cause, told } in std::mem::take(&mut self.failures) {
            self.closed += 1;
            self.leave(lease);
            if let Some(reason) = reason {
                self.event(|| PoolEvent::ConnectionClosed { connection_id: lease.id, reason, error: cause });
            }
            if let Some((waiter, since, error)) = told {
                let error = self.checkout_failed(error, CheckOutFailure::ConnectionError, now.saturating_duration_since(since));
                self.actions.push_back(PoolAction::Refuse(waiter, error));
            }
        }
        self.refuse_for_login(now);
        self.fill(now);
    }

    /// Refuses whoever would need a new connection while none is opened, because the last login was refused.
    #[inline]
    pub(super) fn refused_login(&mut self, now: Instant) -> Option<Error> {
        let error = self.logins.refusal(now)?.clone();
        Some(self.checkout_failed(error, CheckOutFailure::ConnectionError, Duration::ZERO))
    }

    /// Refuses all who wait, if the last login was refused.
    fn refuse_for_login(&mut self, now: Instant) {
        let Some(error) = self.logins.refusal(now).cloned() else { return };
        for waiter in self.waiters.all() {
            self.refuse(waiter, error.clone(), CheckOutFailure::ConnectionError, now);
        }
    }

    /// Closes a connection that was not expected: a bug of ours.
    pub(super) fn disown(&mut self, lease: Lease, connection: C) {
        let text = format!("connection {} was returned, but was neither lent nor being opened", lease.id);
        self.notes.push(tracing::Level::ERROR, text);
        self.actions.push_back(PoolAction::Close(lease, connection));
    }

    /// Ends the pause after an earlier failure, if it is over: it is no timer any more.
    pub(super) fn end_pause(&mut self, now: Instant) {
        self.refill_at = self.refill_at.filter(|at| now < *at);
    }

    /// Gives up connections that are being opened: they are told as closed before those who waited for them are refused.
    pub(super) fn abort(&mut self, reason: CloseReason, wanted: impl Fn(&Slot<C>) -> bool) -> Vec<Lease> {
        let leases = self.slots.interrupt(wanted);
        let limit = self.config.open_timeout.unwrap_or_default();
        for lease in &leases {
            // Only for its time is one given up as failed.
            let error = || (reason == CloseReason::Error).then(|| opened_too_late(limit));
            self.event(|| PoolEvent::ConnectionClosed { connection_id: lease.id, reason, error: error() });
        }
        leases
    }

    /// Takes why the connection is broken that comes back next: its closing is told with that, if anybody wants to know.
    pub fn handle_cause(&mut self, lease: Lease, error: &Error) {
        if self.record_events {
            self.cause = Some((lease.id, error.clone()));
        }
    }

    /// Notes that a connection was found dead before it was lent.
    pub(super) fn note_dead(&mut self, lease: Lease) {
        if self.record_events {
            self.cause = Some((lease.id, found_dead()));
        }
    }

    /// Takes out why a connection failed that is closed for this reason.
    pub(super) fn cause_of(&mut self, lease: Lease, reason: CloseReason) -> Option<Error> {
        let (_, error) = self.cause.take_if(|(id, _)| *id == lease.id)?;
        Some(error).filter(|_| reason == CloseReason::Error)
    }
}
