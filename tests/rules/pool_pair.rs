//! The pool beside its model: one step at a time, compared after each.
//!
//! Pool and model take the same steps. After each, actions, events, counts and timer must be equal, and the pool must keep
//! the rules that hold for its callers, whatever the model does. `pool_random` and `pool_exhaustive` choose the steps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mongolink::deadline::Deadline;
use mongolink::pool::{
    self, Checkout, Health, Lease, Pool, PoolAction, PoolConfig, PoolEvent, PoolStats, QueuePosition, UNANSWERED_AFTER, WaiterId,
};
use mongolink::{Error, ErrorKind, LimitValue, Stage};

use crate::pool_model::{Action, Event, Model, Outcome, Phase, State, WaitLimit};

/// A step; the number picks one of the connections or waiters that it applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A check-out with `waitQueueTimeoutMS`.
    CheckOut(Option<Duration>),
    /// A check-out with a time-out of the whole operation.
    CheckOutWithin(Duration),
    Cancel(usize),
    Alive(usize),
    DeadOnLook(usize),
    Opened(usize),
    /// A connection fails to open; `clear` clears the pool before the refill.
    OpenFailed {
        which: usize,
        clear: bool,
    },
    /// A connection fails to open; the refill comes later.
    FailsToOpen(usize),
    /// The topology has handled the errors of the connections that failed to open.
    Refill,
    CheckIn(usize, Health),
    DrainEnds(usize, Health),
    Ready,
    Clear {
        interrupt: bool,
    },
    Resumed,
    Close {
        interrupt: bool,
    },
    /// Time passes, and the timer runs.
    Pass(Duration),
    /// Time passes, and the timer is late.
    Late(Duration),
    /// The server's average round-trip time changes.
    RoundTrip(Duration),
    /// Reports about a connection and a waiter that the pool does not have.
    Unknown,
}

type InUse = (Lease, u32);

/// The pool, the model, and what the callers hold and wait for.
pub(crate) struct Pair {
    pool: Pool<u32>,
    model: Model,
    config: PoolConfig,
    pub(crate) now: Instant,
    opening: Vec<Lease>,
    pub(crate) in_use: Vec<InUse>,
    looking: Vec<(InUse, QueuePosition)>,
    draining: Vec<InUse>,
    pub(crate) waiting: Vec<QueuePosition>,
    /// Waiters that have left the queue and will be refused with the error of a connection.
    failing: Vec<QueuePosition>,
    /// Connections that could not be opened, before the refill.
    failed: usize,
    answered: Vec<WaiterId>,
    /// The number of connections being opened before the step: `waitQueueTimeoutMS` does not apply to as many waiters.
    opening_before: usize,
    /// Waiters whose `waitQueueTimeoutMS` passed while a connection was being opened for them.
    past_limit: Vec<WaiterId>,
    /// When each connection was checked out, until it is returned or interrupted.
    checked_out_at: BTreeMap<u64, Instant>,
    unanswered_at: Option<Instant>,
}

impl Pair {
    pub(crate) fn new(config: PoolConfig, now: Instant) -> Self {
        let generation = 7;
        let mut pool = Pool::new(config.clone(), generation);
        pool.record_events(true);
        Self {
            pool,
            model: Model::new(config.clone(), generation),
            config,
            now,
            opening: Vec::new(),
            in_use: Vec::new(),
            looking: Vec::new(),
            draining: Vec::new(),
            waiting: Vec::new(),
            failing: Vec::new(),
            failed: 0,
            answered: Vec::new(),
            opening_before: 0,
            past_limit: Vec::new(),
            checked_out_at: BTreeMap::new(),
            unanswered_at: None,
        }
    }

    /// Tells whether a step is possible.
    pub(crate) fn applies(&self, step: Step) -> bool {
        let phase = self.model.phase;
        match step {
            Step::CheckOut(_) | Step::CheckOutWithin(_) | Step::Pass(_) | Step::Late(_) | Step::RoundTrip(_) | Step::Unknown => true,
            Step::Cancel(which) => which < self.waiting.len(),
            Step::Alive(which) | Step::DeadOnLook(which) => which < self.looking.len(),
            Step::Opened(which) | Step::OpenFailed { which, .. } | Step::FailsToOpen(which) => which < self.opening.len(),
            Step::Refill => self.failed > 0,
            Step::CheckIn(which, _) => which < self.in_use.len(),
            Step::DrainEnds(which, _) => which < self.draining.len(),
            // A second close may interrupt the connections that the first left in use.
            Step::Close { .. } => true,
            Step::Ready | Step::Clear { .. } | Step::Resumed => phase != Phase::Closed,
        }
    }

    /// Takes a step and checks everything.
    pub(crate) fn step(&mut self, step: Step) {
        let coming = self.coming();
        self.opening_before = coming;
        self.take(step);
        self.compare();
        self.check();
        if let Step::Pass(_) = step {
            assert!(self.pool.poll_timeout().is_none_or(|(at, _)| at > self.now), "the timer is still due after it ran");
            self.check_waits(coming);
            self.check_unanswered();
        }
    }

    /// Counts the connections being opened for waiters: those of the current generation.
    fn coming(&self) -> usize {
        self.opening.iter().filter(|lease| lease.generation == self.pool.stats().generation).count()
    }

    /// Checks that no waiter exceeds its limit; `coming` connections were being opened when the timer ran.
    fn check_waits(&mut self, coming: usize) {
        for (at, place) in self.waiting.iter().enumerate() {
            let Some(deadline) = place.deadline.filter(|deadline| deadline.at <= self.now) else { continue };
            if deadline.name == IN_QUEUE && at < coming && !self.past_limit.contains(&place.waiter) {
                self.past_limit.push(place.waiter);
            }
            assert!(self.past_limit.contains(&place.waiter), "{place:?} waits too long");
        }
    }

    /// Checks that a command without reply is reported every [`UNANSWERED_AFTER`].
    fn check_unanswered(&self) {
        let oldest = self.checked_out_at.values().min();
        let late = oldest.is_some_and(|checked_out| *checked_out + UNANSWERED_AFTER <= self.now);
        let told = self.unanswered_at.is_some_and(|told| told + UNANSWERED_AFTER > self.now);
        assert!(!late || told, "an unanswered command is not reported");
    }

    /// Takes a step without checks.
    pub(crate) fn replay(&mut self, step: Step) {
        let coming = self.coming();
        self.take(step);
        self.model.actions.clear();
        self.model.interrupted.clear();
        self.model.events.clear();
        while self.pool.poll_event().is_some() {}
        while let Some(action) = self.pool.poll_action() {
            self.apply(action);
        }
        if let Step::Pass(_) = step {
            self.check_waits(coming);
        }
    }

    /// Returns when the timer is due.
    pub(crate) fn timer(&self) -> Option<Instant> {
        self.pool.poll_timeout().map(|(at, _)| at)
    }

    /// Tells whether the pool has no connection and no waiter.
    pub(crate) fn is_empty(&self) -> bool {
        let stats = self.pool.stats();
        stats.total() == 0 && stats.waiting == 0
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::CheckOut(limit) => self.check_out(Deadline::maybe(IN_QUEUE, limit, now)),
            Step::CheckOutWithin(limit) => self.check_out(Deadline::maybe("timeoutMS", Some(limit), now)),
            Step::Cancel(which) => {
                let place = self.waiting.remove(which);
                self.pool.handle_cancel(place.waiter, now);
                self.model.cancel(place.waiter.0, now);
            }
            Step::Alive(which) => {
                let (held, place) = self.looking.remove(which);
                self.pool.handle_alive(held.0, place.requested_at, now);
                self.model.alive(held.0.id, place.requested_at, now);
                self.in_use.push(held);
            }
            Step::DeadOnLook(which) => {
                let ((lease, connection), place) = self.looking.remove(which);
                let checkout = self.pool.handle_liveness_check_failed(lease, connection, place, now);
                self.checked_out_at.remove(&lease.id);
                let expected = self.model.dead_on_look(lease.id, place.waiter.0, place.requested_at, place.deadline.map(until), now);
                self.receive(checkout, expected, place.requested_at, place.deadline);
            }
            Step::Opened(which) => {
                let lease = self.opening.remove(which);
                self.pool.handle_opened(lease, number(lease), now);
                self.model.opened(lease.id, now);
            }
            Step::OpenFailed { which, clear } => {
                self.fails_to_open(which);
                if clear {
                    self.pool.handle_clear(&failure(), false, now);
                    self.model.clear(false, now);
                }
                self.refill();
            }
            Step::FailsToOpen(which) => self.fails_to_open(which),
            Step::Refill => self.refill(),
            Step::CheckIn(which, health) => {
                let (lease, connection) = self.in_use.remove(which);
                if health != Health::ReplyOutstanding {
                    self.checked_out_at.remove(&lease.id);
                }
                self.pool.handle_checkin(lease, connection, health, now);
                self.model.check_in(lease.id, health, now);
            }
            Step::DrainEnds(which, health) => {
                let (lease, connection) = self.draining.remove(which);
                if health != Health::ReplyOutstanding {
                    self.checked_out_at.remove(&lease.id);
                }
                self.pool.handle_checkin(lease, connection, health, now);
                self.model.check_in(lease.id, health, now);
            }
            Step::Ready => {
                self.pool.handle_ready(now);
                self.model.ready(now);
            }
            Step::Clear { interrupt } => {
                self.pool.handle_clear(&failure(), interrupt, now);
                self.model.clear(interrupt, now);
            }
            Step::Resumed => {
                self.pool.handle_resumed(now);
                self.model.resumed(now);
            }
            Step::Close { interrupt } => {
                self.pool.handle_close(&pool::closed(), interrupt, now);
                self.model.end(ErrorKind::PoolClosed, interrupt, now);
            }
            Step::Pass(span) => {
                self.now += span;
                self.pool.handle_timeout(self.now);
                self.model.time(self.now);
            }
            Step::Late(span) => self.now += span,
            Step::RoundTrip(average) => {
                self.pool.handle_round_trip(Some(average), now);
                self.model.round_trip(average, now);
            }
            Step::Unknown => {
                let lease = Lease { slot: 0, id: u64::from(u32::MAX), generation: 7 };
                self.pool.handle_opened(lease, number(lease), now);
                self.pool.handle_open_failed(lease, &failure(), now);
                self.pool.handle_checkin(lease, number(lease), Health::Good, now);
                self.pool.handle_cancel(WaiterId(u64::MAX), now);
                self.model.actions.extend([Action::Close(lease.id), Action::Close(lease.id)]);
            }
        }
    }

    fn check_out(&mut self, deadline: Option<Deadline>) {
        let checkout = self.pool.handle_checkout(deadline, self.now);
        let expected = self.model.check_out(deadline.map(until), self.now);
        self.receive(checkout, expected, self.now, deadline);
    }

    /// A connection fails to open: the first waiter leaves the queue; it is refused with the refill.
    fn fails_to_open(&mut self, which: usize) {
        let lease = self.opening.remove(which);
        let error = failure_of(lease.id);
        self.pool.handle_open_failed(lease, &error, self.now);
        let told = self.model.open_failed(lease.id, error.kind(), self.now);
        self.failed += 1;
        if let Some(told) = told {
            let first = self.waiting.remove(0);
            assert_eq!(first.waiter.0, told, "the first waiter gets the error");
            self.failing.push(first);
        }
    }

    fn refill(&mut self) {
        self.pool.handle_refill(self.now);
        self.model.refill(self.now);
        self.failed = 0;
    }

    /// Takes the result of a check-out as its caller would.
    fn receive(&mut self, checkout: Checkout<u32>, expected: Outcome, requested_at: Instant, deadline: Option<Deadline>) {
        let answer = match &checkout {
            Checkout::CheckedOut { lease, liveness_check, .. } => {
                Outcome::CheckedOut { id: lease.id, liveness_check: liveness_check.map(|waiter| waiter.0) }
            }
            Checkout::Waiting(waiter) => Outcome::Waiting(waiter.0),
            Checkout::Refused(error) => Outcome::Refused(error.kind()),
        };
        assert_eq!(answer, expected, "the answer to a check-out");
        match checkout {
            Checkout::CheckedOut { lease, connection, liveness_check } => {
                self.check_lease(lease, connection);
                self.checked_out_at.insert(lease.id, self.now);
                let place = |waiter| QueuePosition { waiter, requested_at, deadline };
                match liveness_check {
                    Some(waiter) => self.looking.push(((lease, connection), place(waiter))),
                    None => self.in_use.push((lease, connection)),
                }
            }
            Checkout::Waiting(waiter) => {
                assert!(!self.answered.contains(&waiter), "{waiter:?} waits after it was answered");
                self.waiting.push(QueuePosition { waiter, requested_at, deadline });
                self.waiting.sort_by_key(|place| place.waiter);
            }
            Checkout::Refused(error) => {
                assert_eq!(error.has_label("RetryableError"), error.kind() == ErrorKind::PoolCleared, "{error}");
            }
        }
    }

    /// Compares actions, events, counts and timer.
    fn compare(&mut self) {
        let (mut said, mut interrupted) = (Vec::new(), Vec::new());
        while let Some(action) = self.pool.poll_action() {
            match &action {
                PoolAction::Open(lease) => said.push(Action::Open(lease.id)),
                PoolAction::Close(lease, connection) => {
                    assert_eq!(*connection, number(*lease));
                    said.push(Action::Close(lease.id));
                }
                PoolAction::Deliver { waiter, lease, connection } => {
                    self.check_lease(*lease, *connection);
                    said.push(Action::Deliver(waiter.0, lease.id));
                }
                PoolAction::Refuse(waiter, error) => {
                    self.check_refusal(*waiter, error);
                    said.push(Action::Refuse(waiter.0, error.kind()));
                }
                PoolAction::Interrupt(lease, _) => interrupted.push(lease.id),
                PoolAction::Unanswered => {
                    let waits = |checked_out: &Instant| *checked_out + UNANSWERED_AFTER <= self.now;
                    assert!(self.checked_out_at.values().any(waits), "no command is unanswered");
                    said.push(Action::Unanswered);
                }
                PoolAction::Drain(lease, _) => said.push(Action::Drain(lease.id)),
            }
            self.apply(action);
        }
        // The order of interrupts makes no difference.
        interrupted.sort_unstable();
        self.model.interrupted.sort_unstable();
        assert_eq!(said, self.model.actions, "actions");
        assert_eq!(interrupted, self.model.interrupted, "interrupted");
        let told: Vec<Event> = std::iter::from_fn(|| self.pool.poll_event()).map(|event| summary(&event)).collect();
        assert_eq!(in_order(told), in_order(std::mem::take(&mut self.model.events)), "events");
        self.model.actions.clear();
        self.model.interrupted.clear();

        let stats = self.pool.stats();
        let PoolStats { opening, idle, in_use, draining, waiting, generation, created, closed, ready, .. } = stats;
        assert_eq!(opening, self.model.count(|at| matches!(at, State::Opening { .. })), "opening");
        assert_eq!(idle, self.model.count(|at| matches!(at, State::Idle { .. })), "idle");
        assert_eq!(in_use, self.model.count(|at| matches!(at, State::InUse { .. })), "in use");
        assert_eq!(draining, self.model.count(|at| matches!(at, State::Draining { .. })), "draining");
        assert_eq!((waiting, generation), (self.model.waiting(), self.model.generation), "waiting, generation");
        assert_eq!((created, closed), (self.model.created, self.model.closed), "created, closed");
        assert_eq!(ready, self.model.phase == Phase::Ready);
        assert_eq!(self.timer(), self.model.timer(), "the next timer");
    }

    /// Applies an action of the pool.
    fn apply(&mut self, action: PoolAction<u32>) {
        match action {
            PoolAction::Open(lease) => self.opening.push(lease),
            PoolAction::Deliver { waiter, lease, connection } => {
                let first = self.waiting.first().map(|place| place.waiter);
                assert_eq!(first, Some(waiter), "{waiter:?} passes an earlier one");
                self.waiting.remove(0);
                self.answered.push(waiter);
                self.checked_out_at.insert(lease.id, self.now);
                self.in_use.push((lease, connection));
            }
            PoolAction::Refuse(waiter, _) => {
                let places = if self.failing.iter().any(|place| place.waiter == waiter) { &mut self.failing } else { &mut self.waiting };
                let at = places.iter().position(|place| place.waiter == waiter).expect("only waiters are refused");
                places.remove(at);
                self.answered.push(waiter);
            }
            PoolAction::Drain(lease, connection) => self.draining.push((lease, connection)),
            PoolAction::Interrupt(lease, _) => {
                self.checked_out_at.remove(&lease.id);
            }
            PoolAction::Unanswered => self.unanswered_at = Some(self.now),
            PoolAction::Close(lease, _) => {
                self.checked_out_at.remove(&lease.id);
            }
        }
    }

    /// Checks the rules that hold whatever the model does.
    fn check(&self) {
        let stats = self.pool.stats();
        let held = self.opening.len() + self.in_use.len() + self.looking.len() + self.draining.len();
        assert_eq!(stats.total(), held + stats.idle, "each connection is somewhere");
        assert_eq!(stats.created - stats.closed, (stats.total() + self.failed) as u64, "each connection is closed once");
        assert!(self.failed > 0 || self.failing.is_empty(), "a waiter that left the queue for an error gets it");
        assert!(self.config.max_size.is_none_or(|max| stats.total() <= max as usize), "maxPoolSize");
        assert!(stats.opening <= self.config.max_connecting as usize, "maxConnecting");
        assert_eq!(stats.waiting, self.waiting.len(), "each waiter is answered once");
        let load = self.in_use.len() + self.looking.len() + self.waiting.len();
        assert_eq!(self.pool.load() as usize, load, "operations with a connection, and operations that wait for one");
        assert!(stats.ready || stats.waiting == 0, "no waiters in a pool that is not ready");
        assert!(stats.idle == 0 || stats.waiting == 0, "no waiters beside an idle connection");
        let full = self.config.max_size.is_some_and(|max| stats.total() >= max as usize);
        // After a failure nothing is opened before the refill.
        let stuck = self.failed == 0 && stats.waiting > self.coming() && stats.opening < self.config.max_connecting as usize && !full;
        assert!(!stuck, "a waiter for which nothing is opened");
        let past = |place: &&QueuePosition| self.past_limit.contains(&place.waiter);
        let in_vain = self.failed == 0 && self.waiting.iter().skip(self.coming()).any(|place| past(&place));
        assert!(!in_vain, "a waiter past its limit for which nothing is being opened");
    }

    fn check_lease(&self, lease: Lease, connection: u32) {
        let stats = self.pool.stats();
        assert!(stats.ready, "a check-out from a pool that is not ready");
        assert_eq!(lease.generation, stats.generation, "a check-out of an old generation");
        assert_eq!(connection, number(lease), "a lease of another connection");
        let held = self.in_use.iter().chain(&self.draining).map(|(lease, _)| lease);
        let held = held.chain(self.looking.iter().map(|((lease, _), _)| lease)).chain(&self.opening);
        assert!(held.clone().all(|other| other.id != lease.id && other.slot != lease.slot), "one connection checked out twice");
    }

    fn check_refusal(&self, waiter: WaiterId, error: &Error) {
        let places = self.waiting.iter().chain(&self.failing);
        let place = places.into_iter().find(|place| place.waiter == waiter).expect("only waiters are refused");
        let kind = error.kind();
        if kind == ErrorKind::Timeout {
            let deadline = place.deadline.expect("no time-out without a limit");
            assert!(deadline.at <= self.now, "the time-out is not early");
            let before = self.waiting.iter().take_while(|place| place.waiter < waiter).count();
            let opening_before = deadline.name == IN_QUEUE && before < self.opening_before;
            assert!(!opening_before, "{waiter:?} is timed out in the queue while its connection is being opened");
            let limit = error.limit().map(|limit| (limit.name, limit.value));
            assert_eq!(limit, Some((deadline.name, LimitValue::Time(deadline.limit))));
        } else if kind == ErrorKind::PoolCleared {
            assert!(error.has_label("RetryableError"));
        } else {
            assert!([failure().kind(), ErrorKind::Auth, ErrorKind::PoolClosed].contains(&kind), "{error}");
        }
    }
}

/// The limit that applies in the wait queue only.
const IN_QUEUE: &str = "waitQueueTimeoutMS";

fn until(deadline: Deadline) -> WaitLimit {
    WaitLimit { at: deadline.at, in_queue: deadline.name == IN_QUEUE, passed: false }
}

/// Sorts successive closed events with the same reason by connection: their order makes no difference.
fn in_order(mut told: Vec<Event>) -> Vec<Event> {
    let reason = |told: &Event| match told {
        Event::Closed(_, reason) => Some(*reason),
        _ => None,
    };
    let number = |told: &Event| if let Event::Closed(id, _) = told { *id } else { 0 };
    for run in told.chunk_by_mut(|one, next| reason(one).is_some() && reason(one) == reason(next)) {
        run.sort_by_key(number);
    }
    told
}

/// Returns the connection that belongs to a lease.
fn number(lease: Lease) -> u32 {
    u32::try_from(lease.id).expect("a small number")
}

/// Returns the error of a connection that can't be opened: every third is a refused login.
fn failure_of(id: u64) -> Error {
    if id.is_multiple_of(3) { Error::new(ErrorKind::Auth, "refused").at(Stage::Auth) } else { failure() }
}

fn failure() -> Error {
    Error::new(ErrorKind::Io(std::io::ErrorKind::ConnectionRefused), "refused").at(Stage::Tcp)
}

fn summary(event: &PoolEvent) -> Event {
    match *event {
        PoolEvent::PoolReady => Event::PoolReady,
        PoolEvent::PoolCleared { interrupt_in_use, .. } => Event::PoolCleared(interrupt_in_use),
        PoolEvent::PoolClosed => Event::PoolClosed,
        PoolEvent::ConnectionCreated { connection_id, .. } => Event::Created(connection_id),
        PoolEvent::ConnectionReady { connection_id, duration, .. } => Event::Ready(connection_id, duration),
        PoolEvent::ConnectionClosed { connection_id, reason, .. } => Event::Closed(connection_id, reason),
        PoolEvent::CheckOutStarted => Event::Started,
        PoolEvent::CheckOutFailed { reason, duration, .. } => Event::Failed(reason, duration),
        PoolEvent::CheckedOut { connection_id, duration, .. } => Event::Out(connection_id, duration),
        PoolEvent::CheckedIn { connection_id, .. } => Event::In(connection_id),
        PoolEvent::PoolCreated { .. } | _ => panic!("an event that a pool does not make: {event:?}"),
    }
}
