//! The pool state machine: check-out, check-in, opening, closing.
//!
//! connection-monitoring-and-pooling. Clearing is in `clear`, what differs behind a load balancer in `balanced`. Does not decide how a
//! connection is opened, checked or drained: the shell does.

mod balanced;
mod clear;
mod failure;
mod late;
mod liveness_check;
mod overdue;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::action::{Checkout, Health, PoolAction, PoolConfig};
use super::event::{CheckOutFailure, CloseReason, PoolEvent, PoolStats};
use super::login::Logins;
use super::refusal::{cleared, opened_too_late, too_many};
use super::services::Services;
use super::slots::{InUseConnection, Lease, Opening, Slot, Slots};
use super::waiters::{Waiter, WaiterId, Waiters};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Stage};
use crate::note::{Note, Notes};
use failure::OpenFailure;

/// The connection pool of one server. `C` is the connection itself.
///
/// ```text
///            ready                    close
/// Paused <-----------> Ready   any ---------> Closed
///            clear
/// ```
#[derive(Debug)]
pub struct Pool<C> {
    pub(super) config: PoolConfig,
    state: PoolMode,
    generation: u64,
    next_id: u64,
    pub(super) slots: Slots<C>,
    pub(super) waiters: Waiters,
    /// After a failed opening, no connection is opened for `minPoolSize` before this moment.
    pub(super) refill_at: Option<Instant>,
    pub(super) logins: Logins,
    /// The connections that failed to open, until the server's state has followed from their errors.
    failures: Vec<OpenFailure>,
    /// The error of the broken connection that is checked in next.
    cause: Option<(u64, Error)>,
    actions: VecDeque<PoolAction<C>>,
    events: VecDeque<PoolEvent>,
    record_events: bool,
    pub(super) notes: Notes,
    /// The average round-trip time of the server, if known.
    round_trip: Option<Duration>,
    created: u64,
    closed: u64,
    /// The latest `now`, which must never go back.
    #[cfg(debug_assertions)]
    latest: Option<Instant>,
    /// Behind a load balancer only.
    services: Option<Box<Services>>,
}

#[derive(Debug)]
enum PoolMode {
    Paused { cause: Option<Error> },
    Ready,
    Closed { why: Error },
}

/// A connection that was idle for longer than this has to pass a liveness check before it is checked out.
const LIVENESS_CHECK_AFTER: Duration = Duration::from_secs(1);

/// The limit of the time in the wait queue. Once a connection is being opened for a waiter, it no longer applies.
pub(super) const WAIT_QUEUE_TIMEOUT: &str = "waitQueueTimeoutMS";

/// Maximum number of waiters of one pool: bounds the memory that they take.
pub(super) const WAITERS_MAX: usize = 100_000;

impl<C> Pool<C> {
    /// Creates a paused pool. `generation` is above the generations of all earlier pools of its server.
    pub fn new(config: PoolConfig, generation: u64) -> Self {
        Self {
            config,
            state: PoolMode::Paused { cause: None },
            generation,
            next_id: 1,
            slots: Slots::new(),
            waiters: Waiters::default(),
            refill_at: None,
            logins: Logins::default(),
            failures: Vec::new(),
            cause: None,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            record_events: false,
            notes: Notes::default(),
            round_trip: None,
            created: 0,
            closed: 0,
            #[cfg(debug_assertions)]
            latest: None,
            services: None,
        }
    }

    /// Sets whether events are recorded.
    pub fn record_events(&mut self, wanted: bool) {
        self.record_events = wanted;
    }

    /// Takes a check-out.
    #[inline]
    pub fn handle_checkout(&mut self, deadline: Option<Deadline>, now: Instant) -> Checkout<C> {
        self.check_time(now);
        self.event(|| PoolEvent::CheckOutStarted);
        if let Some(refusal) = self.refusal() {
            return Checkout::Refused(refusal);
        }
        if self.waiters.is_empty()
            && let Some(checked_out) = self.check_out_newest(now)
        {
            return checked_out;
        }
        if let Some(refusal) = self.refused_login(now) {
            return Checkout::Refused(refusal);
        }
        if self.waiters.len() >= WAITERS_MAX {
            let error = too_many(WAITERS_MAX);
            return Checkout::Refused(self.checkout_failed(error, CheckOutFailure::ConnectionError, Duration::ZERO));
        }
        let waiter = self.waiters.next_waiter_id();
        self.waiters.insert(waiter, Waiter { since: now, deadline });
        self.fill(now);
        Checkout::Waiting(waiter)
    }

    /// Takes that a waiter's caller has gone.
    pub fn handle_cancel(&mut self, waiter: WaiterId, now: Instant) {
        if let Some(gone) = self.waiters.remove(waiter) {
            let error = Error::new(ErrorKind::Timeout, "the caller went away").at(Stage::Checkout);
            self.checkout_failed(error, CheckOutFailure::Timeout, now.saturating_duration_since(gone.since));
        }
    }

    /// Takes a connection that is open, greeted and authenticated.
    pub fn handle_opened(&mut self, lease: Lease, connection: C, now: Instant) {
        self.check_time(now);
        let Some(Opening { since, aborted }) = self.slots.take_opening(lease) else {
            return self.disown(lease, connection);
        };
        self.logins.handle_succeeded();
        match self.obsolete(lease) {
            // The event of its closing was recorded when it was aborted.
            _ if aborted => {
                self.closed += 1;
                self.slots.vacate(lease);
                self.actions.push_back(PoolAction::Close(lease, connection));
            }
            Some(reason) => self.close(lease, connection, reason),
            None => {
                let duration = now.saturating_duration_since(since);
                self.event(|| PoolEvent::ConnectionReady { connection_id: lease.id, duration });
                self.settle(lease, connection, now);
            }
        }
        self.fill(now);
    }

    /// Takes a check-in, from a caller or from the draining of a late reply.
    #[inline]
    pub fn handle_checkin(&mut self, lease: Lease, connection: C, health: Health, now: Instant) {
        self.check_time(now);
        let Some(InUseConnection { since, interrupted, in_use }) = self.slots.take_in_use(lease) else {
            return self.disown(lease, connection);
        };
        if in_use {
            self.event(|| PoolEvent::CheckedIn { connection_id: lease.id });
        }
        self.unpin(lease);
        let obsolete = self.obsolete(lease);
        match (health, obsolete) {
            (Health::Broken, Some(CloseReason::Stale)) if self.services.is_some() => self.close(lease, connection, CloseReason::Error),
            (_, Some(reason)) => self.close(lease, connection, reason),
            (Health::Broken, None) => self.close(lease, connection, CloseReason::Error),
            (Health::Good | Health::ReplyOutstanding, None) if interrupted => self.close(lease, connection, CloseReason::Error),
            (Health::ReplyOutstanding, None) => {
                self.slots.drain(lease, since, now, now + self.config.drain_limit);
                self.actions.push_back(PoolAction::Drain(lease, connection));
            }
            (Health::Good, None) => self.settle(lease, connection, now),
        }
        self.fill(now);
    }

    /// Takes that the server has answered a check: connections may be opened and checked out.
    pub fn handle_ready(&mut self, now: Instant) {
        match self.state {
            PoolMode::Paused { .. } => {
                self.state = PoolMode::Ready;
                self.refill_at = self.logins.paused_until(now);
                self.event(|| PoolEvent::PoolReady);
                self.fill(now);
            }
            PoolMode::Ready | PoolMode::Closed { .. } => {}
        }
    }

    /// Refuses late waiters, closes connections that were idle for too long, and ends late openings and drains.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.check_time(now);
        let served = self.opening();
        while let Some((waiter, deadline)) = self.waiters.late(now) {
            // Once a connection is being opened for a waiter, `waitQueueTimeoutMS` no longer applies.
            if deadline.name == WAIT_QUEUE_TIMEOUT && self.waiters.is_among_first(waiter, served) {
                self.waiters.wait_on(waiter);
                continue;
            }
            let error = self.waited_too_long(deadline, now);
            self.refuse(waiter, error, CheckOutFailure::Timeout, now);
        }
        if let Some(limit) = self.config.max_idle_time {
            while self.slots.oldest_since().is_some_and(|since| since + limit <= now) {
                if let Some((lease, connection, _)) = self.slots.oldest() {
                    self.close(lease, connection, CloseReason::Idle);
                }
            }
        }
        let is_late = |slot: &Slot<C>| matches!(slot, Slot::Opening { deadline: Some(deadline), .. } if *deadline <= now);
        let dials = self.abort(CloseReason::Error, is_late);
        let limit = self.config.open_timeout.unwrap_or_default();
        self.actions.extend(dials.into_iter().map(|lease| PoolAction::Interrupt(lease, opened_too_late(limit))));
        self.end_late_drains(now);
        self.actions.extend(self.slots.find_unanswered(now));
        self.fill(now);
    }

    /// Takes the next action.
    pub fn poll_action(&mut self) -> Option<PoolAction<C>> {
        self.actions.pop_front()
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<PoolEvent> {
        self.events.pop_front()
    }

    /// Takes the next line for the log.
    pub(crate) fn poll_note(&mut self) -> Option<Note> {
        self.notes.pop()
    }

    /// Returns the number of connections in use and waiters.
    pub fn load(&self) -> u32 {
        u32::try_from(self.slots.in_use + self.waiters.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, PoolMode::Closed { .. })
    }

    /// Returns the limits of the pool.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Returns the counters.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            opening: self.slots.opening,
            idle: self.slots.idle_count(),
            in_use: self.slots.in_use,
            pinned: self.pinned(),
            draining: self.slots.draining,
            waiting: self.waiters.len(),
            generation: self.generation,
            created: self.created,
            closed: self.closed,
            ready: matches!(self.state, PoolMode::Ready),
        }
    }

    /// Delivers a good connection to the first waiter, or keeps it as idle.
    #[inline]
    fn settle(&mut self, lease: Lease, connection: C, now: Instant) {
        let first = self.waiters.first();
        match first.and_then(|id| Some((id, self.waiters.remove(id)?))) {
            Some((id, waiter)) => {
                self.slots.check_out(lease, now);
                let duration = now.saturating_duration_since(waiter.since);
                self.event(|| PoolEvent::CheckedOut { connection_id: lease.id, duration });
                self.actions.push_back(PoolAction::Deliver { waiter: id, lease, connection });
            }
            None => self.slots.put_idle(lease, connection, now),
        }
    }

    /// Checks out the newest idle connection that was not idle for too long.
    #[inline]
    fn check_out_newest(&mut self, now: Instant) -> Option<Checkout<C>> {
        loop {
            let (lease, connection, since) = self.slots.newest()?;
            if self.config.max_idle_time.is_some_and(|limit| since + limit <= now) {
                self.close(lease, connection, CloseReason::Idle);
                continue;
            }
            self.slots.check_out(lease, now);
            let liveness_check = (since + LIVENESS_CHECK_AFTER < now).then(|| self.waiters.next_waiter_id());
            if liveness_check.is_none() {
                self.event(|| PoolEvent::CheckedOut { connection_id: lease.id, duration: Duration::ZERO });
            }
            // Others may have been closed before this one was found.
            if self.below_min() {
                self.fill(now);
            }
            return Some(Checkout::CheckedOut { lease, connection, liveness_check });
        }
    }

    /// Returns the error of a check-out if the pool is paused or closed.
    fn refusal(&mut self) -> Option<Error> {
        let (error, reason) = match &self.state {
            PoolMode::Ready => return None,
            PoolMode::Paused { cause } => (cleared(cause.as_ref()), CheckOutFailure::ConnectionError),
            PoolMode::Closed { why } => (why.clone(), CheckOutFailure::PoolClosed),
        };
        Some(self.checkout_failed(error, reason, Duration::ZERO))
    }

    /// Opens the connections that are missing: for waiters first, then for `minPoolSize`.
    #[inline]
    fn fill(&mut self, now: Instant) {
        self.end_pause(now);
        if !matches!(self.state, PoolMode::Ready) {
            return;
        }
        let max = self.config.max_size.map_or(usize::MAX, |max| max as usize);
        // A stale connection is never delivered.
        let mut coming = self.opening();
        while self.slots.opening < self.config.max_connecting as usize && self.slots.total() < max {
            let for_waiter = coming < self.waiters.len();
            let for_min = self.below_min() && self.refill_at.is_none();
            if !for_waiter && !for_min || self.logins.refusal(now).is_some() {
                break;
            }
            let id = self.next_id;
            self.next_id += 1;
            self.created += 1;
            coming += 1;
            let deadline = self.config.open_timeout.map(|limit| now + limit);
            let lease = self.slots.open(id, self.generation, now, deadline);
            self.event(|| PoolEvent::ConnectionCreated { connection_id: id });
            self.actions.push_back(PoolAction::Open(lease));
        }
        if self.slots.draining > 0 {
            self.make_room(now);
        }
        if self.waiters.has_overdue() {
            self.refuse_passed_over(now);
        }
    }

    pub(super) fn below_min(&self) -> bool {
        matches!(self.state, PoolMode::Ready) && self.slots.total() < self.config.min_size as usize
    }

    /// Returns the number of connections that are being opened and may be delivered.
    fn opening(&self) -> usize {
        self.slots.opening_of(self.services.is_none().then_some(self.generation))
    }

    #[inline]
    fn obsolete(&self, lease: Lease) -> Option<CloseReason> {
        match self.state {
            PoolMode::Closed { .. } => Some(CloseReason::PoolClosed),
            PoolMode::Paused { .. } | PoolMode::Ready if lease.generation < self.current(lease) => Some(CloseReason::Stale),
            PoolMode::Paused { .. } | PoolMode::Ready if !self.slots.trusts(lease) => Some(CloseReason::Idle),
            PoolMode::Paused { .. } | PoolMode::Ready => None,
        }
    }

    fn close_idle(&mut self, reason: CloseReason) {
        while let Some((lease, connection, _)) = self.slots.oldest() {
            self.close(lease, connection, reason);
        }
    }

    fn close(&mut self, lease: Lease, connection: C, reason: CloseReason) {
        self.closed += 1;
        self.slots.vacate(lease);
        self.leave(lease);
        let error = self.cause_of(lease, reason);
        self.event(|| PoolEvent::ConnectionClosed { connection_id: lease.id, reason, error });
        self.actions.push_back(PoolAction::Close(lease, connection));
    }

    fn refuse(&mut self, id: WaiterId, error: Error, reason: CheckOutFailure, now: Instant) {
        if let Some(waiter) = self.waiters.remove(id) {
            let error = self.checkout_failed(error, reason, now.saturating_duration_since(waiter.since));
            self.actions.push_back(PoolAction::Refuse(id, error));
        }
    }

    fn checkout_failed(&mut self, error: Error, reason: CheckOutFailure, duration: Duration) -> Error {
        let cause = error.clone();
        self.event(|| PoolEvent::CheckOutFailed { reason, duration, error: cause });
        error
    }

    /// Checks, in debug builds, that time never goes back.
    #[inline]
    fn check_time(&mut self, now: Instant) {
        #[cfg(debug_assertions)]
        {
            assert!(self.latest.is_none_or(|latest| latest <= now), "time goes back");
            self.latest = Some(now);
        }
        #[cfg(not(debug_assertions))]
        let _: Instant = now;
    }

    fn event(&mut self, make: impl FnOnce() -> PoolEvent) {
        if self.record_events {
            self.events.push_back(make());
        }
    }
}
