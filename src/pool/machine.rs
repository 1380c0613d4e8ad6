//! What does the pool do on each fact?

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::action::{Action, Checkout, Health, PoolConfig};
use super::event::{CheckOutFailure, CloseReason, PoolEvent, PoolStats};
use super::refusal::{cleared, drained_too_late, interrupted, opened_too_late, too_many, waited_too_long};
use super::slots::{Lease, Lent, Opening, Slot, Slots};
use super::waiters::{Place, Waiter, WaiterId, Waiters};
use crate::error::{Error, ErrorKind, Stage};
use crate::op::deadline::Deadline;

/// Holds the rules of one server's pool; `C` is the connection itself.
///
/// ```text
///            ready                    close
/// Paused <-----------> Ready   any ---------> Closed
///            clear
/// ```
#[derive(Debug)]
pub struct Pool<C> {
    config: PoolConfig,
    state: State,
    generation: u64,
    next_id: u64,
    slots: Slots<C>,
    waiters: Waiters,
    /// No connection is opened for `minPoolSize` before this moment, after one has failed.
    refill_at: Option<Instant>,
    actions: VecDeque<Action<C>>,
    events: VecDeque<PoolEvent>,
    record_events: bool,
    created: u64,
    closed: u64,
}

#[derive(Debug)]
enum State {
    Paused { cause: Option<Error> },
    Ready,
    Closed { why: Error },
}

/// A connection that was idle longer than this is looked at before it is lent.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How long a late reply is waited for before its connection is given up.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long nothing is opened for `minPoolSize` alone after an attempt failed.
const REFILL_PAUSE: Duration = Duration::from_secs(1);

/// How many callers may wait for one pool's connections.
pub(super) const WAITERS_MAX: usize = 100_000;

impl<C> Pool<C> {
    /// Makes a pool that is paused; its generations go on from a number above those of any earlier pool of its server.
    pub fn new(config: PoolConfig, generation: u64) -> Self {
        Self {
            config,
            state: State::Paused { cause: None },
            generation,
            next_id: 1,
            slots: Slots::new(),
            waiters: Waiters::default(),
            refill_at: None,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            record_events: false,
            created: 0,
            closed: 0,
        }
    }

    /// Says whether events are wanted; without, none are made.
    pub fn record_events(&mut self, wanted: bool) {
        self.record_events = wanted;
    }

    /// Somebody asks for a connection.
    pub fn handle_checkout(&mut self, deadline: Option<Deadline>, now: Instant) -> Checkout<C> {
        self.event(|| PoolEvent::CheckOutStarted);
        if let Some(refusal) = self.refusal() {
            return Checkout::Refused(refusal);
        }
        if self.waiters.is_empty()
            && let Some((lease, connection, since)) = self.take_usable(now)
        {
            return self.lend(lease, connection, now.saturating_duration_since(since));
        }
        if self.waiters.len() >= WAITERS_MAX {
            let error = too_many(WAITERS_MAX);
            return Checkout::Refused(self.checkout_failed(error, CheckOutFailure::ConnectionError, Duration::ZERO));
        }
        let waiter = self.waiters.ticket();
        self.waiters.insert(waiter, Waiter { since: now, deadline });
        self.fill(now);
        Checkout::Waiting(waiter)
    }

    /// A connection that was lent to be looked at is alive: it is lent for good. `asked_at` is when its caller came.
    pub fn handle_alive(&mut self, lease: Lease, asked_at: Instant, now: Instant) {
        let duration = now.saturating_duration_since(asked_at);
        self.event(|| PoolEvent::CheckedOut { connection_id: lease.id, duration });
    }

    /// A connection that was lent to be looked at is dead: its caller goes on asking, in the place it had.
    ///
    /// Returns what [`handle_checkout`](Self::handle_checkout) would.
    pub fn handle_dead_on_look(&mut self, lease: Lease, connection: C, place: Place, now: Instant) -> Checkout<C> {
        self.release(lease);
        self.close(lease, connection, CloseReason::Error);
        if let Some(refusal) = self.refusal() {
            return Checkout::Refused(refusal);
        }
        if let Some((lease, connection, since)) = self.take_usable(now) {
            return self.lend(lease, connection, now.saturating_duration_since(since));
        }
        self.waiters.insert(place.ticket, Waiter { since: place.asked_at, deadline: place.deadline });
        self.fill(now);
        Checkout::Waiting(place.ticket)
    }

    /// A waiter went away.
    pub fn handle_cancel(&mut self, waiter: WaiterId, now: Instant) {
        if let Some(gone) = self.waiters.remove(waiter) {
            let error = Error::new(ErrorKind::Timeout, "the caller went away").at(Stage::Checkout);
            self.checkout_failed(error, CheckOutFailure::Timeout, now.saturating_duration_since(gone.since));
        }
    }

    /// A connection is open, greeted and authenticated.
    pub fn handle_opened(&mut self, lease: Lease, connection: C, now: Instant) {
        let Some(Opening { since, aborted }) = self.slots.take_opening(lease) else {
            tracing::error!(id = lease.id, "a connection is open that was not being opened");
            return self.actions.push_back(Action::Close(lease, connection));
        };
        match self.obsolete(lease) {
            Some(reason) => self.close(lease, connection, reason),
            None if aborted => self.close(lease, connection, CloseReason::Error),
            None => {
                let duration = now.saturating_duration_since(since);
                self.event(|| PoolEvent::ConnectionReady { connection_id: lease.id, duration });
                self.settle(lease, connection, now);
            }
        }
        self.fill(now);
    }

    /// A connection could not be opened: whoever has waited longest is told why.
    ///
    /// Opens nothing itself, so that the error can first do its work on the server's state; `handle_refill` follows.
    pub fn handle_open_failed(&mut self, lease: Lease, error: &Error, now: Instant) {
        if self.slots.take_opening(lease).is_none() {
            return tracing::error!(id = lease.id, "a connection failed to open that was not being opened");
        }
        let stale = self.obsolete(lease);
        self.closed(lease, stale.unwrap_or(CloseReason::Error));
        if stale.is_some() {
            return;
        }
        self.refill_at = Some(now + REFILL_PAUSE);
        if let Some(waiter) = self.waiters.first() {
            self.refuse(waiter, error.clone(), CheckOutFailure::ConnectionError, now);
        }
    }

    /// Whatever should be opened may be opened now.
    pub fn handle_refill(&mut self, now: Instant) {
        self.fill(now);
    }

    /// A connection comes back, from a caller or from the draining of a late reply.
    pub fn handle_checkin(&mut self, lease: Lease, connection: C, health: Health, now: Instant) {
        let Some(Lent { interrupted, in_use }) = self.slots.take_lent(lease) else {
            tracing::error!(id = lease.id, "a connection comes back that was not lent");
            return self.actions.push_back(Action::Close(lease, connection));
        };
        if in_use {
            self.event(|| PoolEvent::CheckedIn { connection_id: lease.id });
        }
        let obsolete = self.obsolete(lease);
        match (health, obsolete) {
            (_, Some(reason)) => self.close(lease, connection, reason),
            (Health::Broken, None) => self.close(lease, connection, CloseReason::Error),
            (Health::Good | Health::ReplyOutstanding, None) if interrupted => self.close(lease, connection, CloseReason::Error),
            (Health::ReplyOutstanding, None) => {
                self.slots.drain(lease, now + DRAIN_LIMIT);
                self.actions.push_back(Action::Drain(lease, connection));
            }
            (Health::Good, None) => self.settle(lease, connection, now),
        }
        self.fill(now);
    }

    /// The server has answered a check: connections may be opened and lent.
    pub fn handle_ready(&mut self, now: Instant) {
        match self.state {
            State::Paused { .. } => {
                self.state = State::Ready;
                self.refill_at = None;
                self.event(|| PoolEvent::PoolReady);
                self.fill(now);
            }
            State::Ready | State::Closed { .. } => {}
        }
    }

    /// All connections up to now are obsolete; nobody gets one before the next `handle_ready`.
    pub fn handle_clear(&mut self, cause: &Error, interrupt_in_use: bool, now: Instant) {
        let was_ready = match self.state {
            State::Closed { .. } => return,
            State::Ready => true,
            State::Paused { .. } => false,
        };
        self.generation += 1;
        self.state = State::Paused { cause: Some(cause.clone()) };
        if was_ready {
            let cause = cause.clone();
            self.event(|| PoolEvent::PoolCleared { interrupt_in_use, cause });
        }
        let error = cleared(Some(cause));
        for waiter in self.waiters.all() {
            self.refuse(waiter, error.clone(), CheckOutFailure::ConnectionError, now);
        }
        self.close_idle(CloseReason::Stale);
        // What is being opened would be stale, and must not hold `maxConnecting` meanwhile.
        let current = self.generation;
        let interrupted = interrupted(cause);
        let leases = self.slots.interrupt(|slot| match slot {
            Slot::Opening { generation, .. } => *generation < current,
            Slot::InUse { lease, .. } | Slot::Draining { lease, .. } => interrupt_in_use && lease.generation < current,
            Slot::Free | Slot::Idle { .. } => false,
        });
        self.actions.extend(leases.into_iter().map(|lease| Action::Interrupt(lease, interrupted.clone())));
    }

    /// The machine was suspended: connections that were idle meanwhile are not trusted.
    pub fn handle_resumed(&mut self, now: Instant) {
        self.close_idle(CloseReason::Idle);
        self.fill(now);
    }

    /// The pool ends: waiters are refused, idle connections closed, and lent ones when they come back, or at once.
    ///
    /// What is still lent by a pool that has ended can be interrupted later.
    pub fn handle_close(&mut self, why: &Error, interrupt_in_use: bool, now: Instant) {
        if !matches!(self.state, State::Closed { .. }) {
            self.state = State::Closed { why: why.clone() };
            for waiter in self.waiters.all() {
                self.refuse(waiter, why.clone(), CheckOutFailure::PoolClosed, now);
            }
            self.close_idle(CloseReason::PoolClosed);
            self.event(|| PoolEvent::PoolClosed);
        }
        let leases = self.slots.interrupt(|slot| match slot {
            Slot::Opening { .. } | Slot::Draining { .. } => true,
            Slot::InUse { .. } => interrupt_in_use,
            Slot::Free | Slot::Idle { .. } => false,
        });
        self.actions.extend(leases.into_iter().map(|lease| Action::Interrupt(lease, why.clone())));
    }

    /// Does what time asks for.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((waiter, deadline)) = self.waiters.late(now) {
            let error = waited_too_long(deadline, self.stats(), now);
            self.refuse(waiter, error, CheckOutFailure::Timeout, now);
        }
        if let Some(limit) = self.config.max_idle_time {
            while self.slots.oldest_since().is_some_and(|since| since + limit <= now) {
                if let Some((lease, connection, _)) = self.slots.oldest() {
                    self.close(lease, connection, CloseReason::Idle);
                }
            }
        }
        let dials = self.slots.interrupt(|slot| matches!(slot, Slot::Opening { deadline: Some(deadline), .. } if *deadline <= now));
        let limit = self.config.open_timeout.unwrap_or_default();
        self.actions.extend(dials.into_iter().map(|lease| Action::Interrupt(lease, opened_too_late(limit))));
        let drains = self.slots.interrupt(|slot| matches!(slot, Slot::Draining { deadline, .. } if *deadline <= now));
        self.actions.extend(drains.into_iter().map(|lease| Action::Interrupt(lease, drained_too_late(DRAIN_LIMIT))));
        self.fill(now);
    }

    /// Takes the next wish.
    pub fn poll_action(&mut self) -> Option<Action<C>> {
        self.actions.pop_front()
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<PoolEvent> {
        self.events.pop_front()
    }

    /// Says when `handle_timeout` is due, and for what.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let waiter = self.waiters.next_deadline().map(|at| (at, "waitQueueTimeoutMS"));
        let idle = self.config.max_idle_time.and_then(|limit| Some((self.slots.oldest_since()? + limit, "maxIdleTimeMS")));
        let refill = self.refill_at.filter(|_| self.below_min()).map(|at| (at, "minPoolSize"));
        let slots = self.slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Opening { deadline: Some(deadline), aborted: false, .. } => Some((*deadline, "opening")),
            Slot::Draining { deadline, interrupted: false, .. } => Some((*deadline, "draining")),
            Slot::Free | Slot::Opening { .. } | Slot::Idle { .. } | Slot::InUse { .. } | Slot::Draining { .. } => None,
        });
        let busy = if self.slots.opening + self.slots.draining > 0 { slots.min() } else { None };
        [waiter, idle, refill, busy].into_iter().flatten().min()
    }

    /// Counts what the pool holds.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            opening: self.slots.opening,
            idle: self.slots.idle_count(),
            in_use: self.slots.in_use,
            draining: self.slots.draining,
            waiting: self.waiters.len(),
            generation: self.generation,
            created: self.created,
            closed: self.closed,
            ready: matches!(self.state, State::Ready),
        }
    }

    /// Gives a connection that is good to the first waiter, or lets it rest.
    fn settle(&mut self, lease: Lease, connection: C, now: Instant) {
        let first = self.waiters.first();
        match first.and_then(|waiter| Some((waiter, self.waiters.remove(waiter)?))) {
            Some((waiter, asked)) => {
                self.slots.lend(lease);
                let duration = now.saturating_duration_since(asked.since);
                self.event(|| PoolEvent::CheckedOut { connection_id: lease.id, duration });
                self.actions.push_back(Action::Deliver { waiter, lease, connection });
            }
            None => self.slots.rest(lease, connection, now),
        }
    }

    fn lend(&mut self, lease: Lease, connection: C, idle: Duration) -> Checkout<C> {
        self.slots.lend(lease);
        if idle > LOOK_AFTER {
            let look = Some(self.waiters.ticket());
            return Checkout::Lent { lease, connection, look };
        }
        self.event(|| PoolEvent::CheckedOut { connection_id: lease.id, duration: Duration::ZERO });
        Checkout::Lent { lease, connection, look: None }
    }

    /// Refuses whoever asks a pool that lends nothing.
    fn refusal(&mut self) -> Option<Error> {
        let (error, reason) = match &self.state {
            State::Ready => return None,
            State::Paused { cause } => (cleared(cause.as_ref()), CheckOutFailure::ConnectionError),
            State::Closed { why } => (why.clone(), CheckOutFailure::PoolClosed),
        };
        Some(self.checkout_failed(error, reason, Duration::ZERO))
    }

    fn release(&mut self, lease: Lease) {
        let lent = self.slots.take_lent(lease);
        debug_assert!(lent.is_some(), "connection {} was not lent", lease.id);
    }

    /// Takes the newest idle connection that has not been idle for too long.
    fn take_usable(&mut self, now: Instant) -> Option<(Lease, C, Instant)> {
        loop {
            let (lease, connection, since) = self.slots.newest()?;
            let perished = self.config.max_idle_time.is_some_and(|limit| since + limit <= now);
            if !perished {
                return Some((lease, connection, since));
            }
            self.close(lease, connection, CloseReason::Idle);
        }
    }

    /// Opens what is missing: for those who wait first, then for `minPoolSize`.
    fn fill(&mut self, now: Instant) {
        if self.refill_at.is_some_and(|at| at <= now) {
            self.refill_at = None;
        }
        if !matches!(self.state, State::Ready) {
            return;
        }
        let max = self.config.max_size.map_or(usize::MAX, |max| max as usize);
        while self.slots.opening < self.config.max_connecting as usize && self.slots.total() < max {
            let for_waiter = self.slots.opening < self.waiters.len();
            let for_min = self.below_min() && self.refill_at.is_none();
            if !for_waiter && !for_min {
                break;
            }
            let id = self.next_id;
            self.next_id += 1;
            self.created += 1;
            let deadline = self.config.open_timeout.map(|limit| now + limit);
            let lease = self.slots.open(id, self.generation, now, deadline);
            self.event(|| PoolEvent::ConnectionCreated { connection_id: id });
            self.actions.push_back(Action::Open(lease));
        }
    }

    fn below_min(&self) -> bool {
        matches!(self.state, State::Ready) && self.slots.total() < self.config.min_size as usize
    }

    fn obsolete(&self, lease: Lease) -> Option<CloseReason> {
        match self.state {
            State::Closed { .. } => Some(CloseReason::PoolClosed),
            State::Paused { .. } | State::Ready if lease.generation < self.generation => Some(CloseReason::Stale),
            State::Paused { .. } | State::Ready => None,
        }
    }

    fn close_idle(&mut self, reason: CloseReason) {
        while let Some((lease, connection, _)) = self.slots.oldest() {
            self.close(lease, connection, reason);
        }
    }

    fn close(&mut self, lease: Lease, connection: C, reason: CloseReason) {
        self.closed(lease, reason);
        self.actions.push_back(Action::Close(lease, connection));
    }

    fn closed(&mut self, lease: Lease, reason: CloseReason) {
        self.closed += 1;
        self.event(|| PoolEvent::ConnectionClosed { connection_id: lease.id, reason });
    }

    fn refuse(&mut self, id: WaiterId, error: Error, reason: CheckOutFailure, now: Instant) {
        if let Some(waiter) = self.waiters.remove(id) {
            let error = self.checkout_failed(error, reason, now.saturating_duration_since(waiter.since));
            self.actions.push_back(Action::Refuse(id, error));
        }
    }

    fn checkout_failed(&mut self, error: Error, reason: CheckOutFailure, duration: Duration) -> Error {
        let told = error.clone();
        self.event(|| PoolEvent::CheckOutFailed { reason, duration, error: told });
        error
    }

    fn event(&mut self, make: impl FnOnce() -> PoolEvent) {
        if self.record_events {
            self.events.push_back(make());
        }
    }
}
