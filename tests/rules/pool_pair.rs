//! Does the pool do what the plainest pool would, and keep what it promises?
//!
//! One pool and one model live through the same; after every step both are compared, and the pool is held to its rules
//! from the point of view of those who use it. Which steps are taken is decided in `pool_random` and `pool_exhaustive`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mongolink::deadline::Deadline;
use mongolink::pool::{
    self, Checkout, Health, Lease, Pool, PoolAction, PoolConfig, PoolEvent, PoolStats, QueuePosition, UNANSWERED_AFTER, WaiterId,
};
use mongolink::{Error, ErrorKind, LimitValue, Stage};

use crate::pool_model::{Answer, At, Model, Phase, Said, Told, Until};

/// Something that happens; a number picks one of those that it can happen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Somebody asks for a connection, with a limit of his time in the queue.
    CheckOut(Option<Duration>),
    /// Somebody asks for a connection, with a limit of everything.
    CheckOutWithin(Duration),
    Cancel(usize),
    Alive(usize),
    DeadOnLook(usize),
    Opened(usize),
    /// The failure may clear the pool before it opens anything else.
    OpenFailed {
        which: usize,
        clear: bool,
    },
    /// A connection fails to open, and the error has yet to do its work on the server's state.
    FailsToOpen(usize),
    /// The error has done its work.
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
    /// Time passes, and timers are looked at.
    Pass(Duration),
    /// Time passes, and nobody looks.
    Late(Duration),
    /// The server's average round-trip time is known.
    RoundTrip(Duration),
    /// A connection is reported that the pool does not have.
    Unknown,
}

type Held = (Lease, u32);

/// The pool, the model, and what the users of the pool hold and wait for.
pub(crate) struct Pair {
    pool: Pool<u32>,
    model: Model,
    config: PoolConfig,
    pub(crate) now: Instant,
    opening: Vec<Lease>,
    pub(crate) lent: Vec<Held>,
    looking: Vec<(Held, QueuePosition)>,
    draining: Vec<Held>,
    pub(crate) waiting: Vec<QueuePosition>,
    /// Those who have left the queue, to be told why a connection could not be opened.
    failing: Vec<QueuePosition>,
    /// Connections that could not be opened, and of which nothing has been told.
    failed: usize,
    answered: Vec<WaiterId>,
    /// How many connections were on their way when the step was taken: to so many no limit of the queue applies.
    spared: usize,
    /// Whose limit of the queue has passed while a connection was on its way to him.
    waits_on: Vec<WaiterId>,
    /// When each connection was lent, as long as it is and nobody has stopped it.
    lent_at: BTreeMap<u64, Instant>,
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
            lent: Vec::new(),
            looking: Vec::new(),
            draining: Vec::new(),
            waiting: Vec::new(),
            failing: Vec::new(),
            failed: 0,
            answered: Vec::new(),
            spared: 0,
            waits_on: Vec::new(),
            lent_at: BTreeMap::new(),
            unanswered_at: None,
        }
    }

    /// Tells whether there is anything that this can happen to.
    pub(crate) fn applies(&self, op: Op) -> bool {
        let phase = self.model.phase;
        match op {
            Op::CheckOut(_) | Op::CheckOutWithin(_) | Op::Pass(_) | Op::Late(_) | Op::RoundTrip(_) | Op::Unknown => true,
            Op::Cancel(which) => which < self.waiting.len(),
            Op::Alive(which) | Op::DeadOnLook(which) => which < self.looking.len(),
            Op::Opened(which) | Op::OpenFailed { which, .. } | Op::FailsToOpen(which) => which < self.opening.len(),
            Op::Refill => self.failed > 0,
            Op::CheckIn(which, _) => which < self.lent.len(),
            Op::DrainEnds(which, _) => which < self.draining.len(),
            Op::Ready | Op::Clear { .. } | Op::Close { .. } | Op::Resumed => phase != Phase::Closed,
        }
    }

    /// Takes a step, and checks all there is to check.
    pub(crate) fn step(&mut self, op: Op) {
        let coming = self.coming();
        self.spared = coming;
        self.take(op);
        self.compare();
        self.check();
        if let Op::Pass(_) = op {
            assert!(self.pool.poll_timeout().is_none_or(|(at, _)| at > self.now), "a timer is due after time was looked at");
            self.check_waits(coming);
            self.check_unanswered();
        }
    }

    /// Counts the connections on their way to those who wait: one of an old generation comes to nobody.
    fn coming(&self) -> usize {
        self.opening.iter().filter(|lease| lease.generation == self.pool.stats().generation).count()
    }

    /// Nobody waits for longer than he may; so many connections were on their way when time was looked at.
    fn check_waits(&mut self, coming: usize) {
        for (at, place) in self.waiting.iter().enumerate() {
            let Some(deadline) = place.deadline.filter(|deadline| deadline.at <= self.now) else { continue };
            if deadline.name == IN_QUEUE && at < coming && !self.waits_on.contains(&place.waiter) {
                self.waits_on.push(place.waiter);
            }
            assert!(self.waits_on.contains(&place.waiter), "{place:?} waits too long");
        }
    }

    /// A command that has had no reply for long is told of, and again as often.
    fn check_unanswered(&self) {
        let oldest = self.lent_at.values().min();
        let late = oldest.is_some_and(|lent| *lent + UNANSWERED_AFTER <= self.now);
        let told = self.unanswered_at.is_some_and(|told| told + UNANSWERED_AFTER > self.now);
        assert!(!late || told, "a command is unanswered, and nobody is told");
    }

    /// Takes a step that has been checked before.
    pub(crate) fn replay(&mut self, op: Op) {
        let coming = self.coming();
        self.take(op);
        self.model.said.clear();
        self.model.interrupted.clear();
        self.model.told.clear();
        while self.pool.poll_event().is_some() {}
        while let Some(action) = self.pool.poll_action() {
            self.obey(action);
        }
        if let Op::Pass(_) = op {
            self.check_waits(coming);
        }
    }

    /// When time must be looked at next.
    pub(crate) fn timer(&self) -> Option<Instant> {
        self.pool.poll_timeout().map(|(at, _)| at)
    }

    /// Tells whether nobody holds or waits for anything, the pool included.
    pub(crate) fn is_empty(&self) -> bool {
        let stats = self.pool.stats();
        stats.total() == 0 && stats.waiting == 0
    }

    fn take(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::CheckOut(limit) => self.check_out(Deadline::maybe(IN_QUEUE, limit, now)),
            Op::CheckOutWithin(limit) => self.check_out(Deadline::maybe("timeoutMS", Some(limit), now)),
            Op::Cancel(which) => {
                let place = self.waiting.remove(which);
                self.pool.handle_cancel(place.waiter, now);
                self.model.cancel(place.waiter.0, now);
            }
            Op::Alive(which) => {
                let (held, place) = self.looking.remove(which);
                self.pool.handle_alive(held.0, place.requested_at, now);
                self.model.alive(held.0.id, place.requested_at, now);
                self.lent.push(held);
            }
            Op::DeadOnLook(which) => {
                let ((lease, connection), place) = self.looking.remove(which);
                let checkout = self.pool.handle_liveness_check_failed(lease, connection, place, now);
                self.lent_at.remove(&lease.id);
                let expected = self.model.dead_on_look(lease.id, place.waiter.0, place.requested_at, place.deadline.map(until), now);
                self.receive(checkout, expected, place.requested_at, place.deadline);
            }
            Op::Opened(which) => {
                let lease = self.opening.remove(which);
                self.pool.handle_opened(lease, number(lease), now);
                self.model.opened(lease.id, now);
            }
            Op::OpenFailed { which, clear } => {
                self.fails_to_open(which);
                if clear {
                    self.pool.handle_clear(&failure(), false, now);
                    self.model.clear(false, now);
                }
                self.refill();
            }
            Op::FailsToOpen(which) => self.fails_to_open(which),
            Op::Refill => self.refill(),
            Op::CheckIn(which, health) => {
                let (lease, connection) = self.lent.remove(which);
                if health != Health::ReplyOutstanding {
                    self.lent_at.remove(&lease.id);
                }
                self.pool.handle_checkin(lease, connection, health, now);
                self.model.check_in(lease.id, health, now);
            }
            Op::DrainEnds(which, health) => {
                let (lease, connection) = self.draining.remove(which);
                if health != Health::ReplyOutstanding {
                    self.lent_at.remove(&lease.id);
                }
                self.pool.handle_checkin(lease, connection, health, now);
                self.model.check_in(lease.id, health, now);
            }
            Op::Ready => {
                self.pool.handle_ready(now);
                self.model.ready(now);
            }
            Op::Clear { interrupt } => {
                self.pool.handle_clear(&failure(), interrupt, now);
                self.model.clear(interrupt, now);
            }
            Op::Resumed => {
                self.pool.handle_resumed(now);
                self.model.resumed(now);
            }
            Op::Close { interrupt } => {
                self.pool.handle_close(&pool::closed(), interrupt, now);
                self.model.end(ErrorKind::PoolClosed, interrupt, now);
            }
            Op::Pass(span) => {
                self.now += span;
                self.pool.handle_timeout(self.now);
                self.model.time(self.now);
            }
            Op::Late(span) => self.now += span,
            Op::RoundTrip(average) => {
                self.pool.handle_round_trip(Some(average), now);
                self.model.round_trip(average, now);
            }
            Op::Unknown => {
                let lease = Lease { slot: 0, id: u64::from(u32::MAX), generation: 7 };
                self.pool.handle_opened(lease, number(lease), now);
                self.pool.handle_open_failed(lease, &failure(), now);
                self.pool.handle_checkin(lease, number(lease), Health::Good, now);
                self.pool.handle_cancel(WaiterId(u64::MAX), now);
                self.model.said.extend([Said::Close(lease.id), Said::Close(lease.id)]);
            }
        }
    }

    fn check_out(&mut self, deadline: Option<Deadline>) {
        let checkout = self.pool.handle_checkout(deadline, self.now);
        let expected = self.model.check_out(deadline.map(until), self.now);
        self.receive(checkout, expected, self.now, deadline);
    }

    /// A connection fails to open: who has waited longest leaves the queue, and nobody is told anything yet.
    fn fails_to_open(&mut self, which: usize) {
        let lease = self.opening.remove(which);
        let error = failure_of(lease.id);
        self.pool.handle_open_failed(lease, &error, self.now);
        let told = self.model.open_failed(lease.id, error.kind(), self.now);
        self.failed += 1;
        if let Some(told) = told {
            let first = self.waiting.remove(0);
            assert_eq!(first.waiter.0, told, "who has waited longest is told");
            self.failing.push(first);
        }
    }

    fn refill(&mut self) {
        self.pool.handle_refill(self.now);
        self.model.refill(self.now);
        self.failed = 0;
    }

    /// Takes the answer to a check-out as its caller would.
    fn receive(&mut self, checkout: Checkout<u32>, expected: Answer, requested_at: Instant, deadline: Option<Deadline>) {
        let answer = match &checkout {
            Checkout::CheckedOut { lease, liveness_check, .. } => {
                Answer::Lent { id: lease.id, liveness_check: liveness_check.map(|waiter| waiter.0) }
            }
            Checkout::Waiting(waiter) => Answer::Waiting(waiter.0),
            Checkout::Refused(error) => Answer::Refused(error.kind()),
        };
        assert_eq!(answer, expected, "the answer to a check-out");
        match checkout {
            Checkout::CheckedOut { lease, connection, liveness_check } => {
                self.check_lent(lease, connection);
                self.lent_at.insert(lease.id, self.now);
                let place = |waiter| QueuePosition { waiter, requested_at, deadline };
                match liveness_check {
                    Some(waiter) => self.looking.push(((lease, connection), place(waiter))),
                    None => self.lent.push((lease, connection)),
                }
            }
            Checkout::Waiting(waiter) => {
                assert!(!self.answered.contains(&waiter), "{waiter:?} waits after it was answered");
                self.waiting.push(QueuePosition { waiter, requested_at, deadline });
                self.waiting.sort_by_key(|place| place.waiter);
            }
            Checkout::Refused(_) => {}
        }
    }

    /// Compares wishes, events, counts and timer.
    fn compare(&mut self) {
        let (mut said, mut interrupted) = (Vec::new(), Vec::new());
        while let Some(action) = self.pool.poll_action() {
            match &action {
                PoolAction::Open(lease) => said.push(Said::Open(lease.id)),
                PoolAction::Close(lease, connection) => {
                    assert_eq!(*connection, number(*lease));
                    said.push(Said::Close(lease.id));
                }
                PoolAction::Deliver { waiter, lease, connection } => {
                    self.check_lent(*lease, *connection);
                    said.push(Said::Deliver(waiter.0, lease.id));
                }
                PoolAction::Refuse(waiter, error) => {
                    self.check_refusal(*waiter, error);
                    said.push(Said::Refuse(waiter.0, error.kind()));
                }
                PoolAction::Interrupt(lease, _) => interrupted.push(lease.id),
                PoolAction::Unanswered => {
                    let waits = |lent: &Instant| *lent + UNANSWERED_AFTER <= self.now;
                    assert!(self.lent_at.values().any(waits), "no command is unanswered for long");
                    said.push(Said::Unanswered);
                }
                PoolAction::Drain(lease, _) => said.push(Said::Drain(lease.id)),
            }
            self.obey(action);
        }
        // Who is interrupted first makes no difference.
        interrupted.sort_unstable();
        self.model.interrupted.sort_unstable();
        assert_eq!(said, self.model.said, "wishes");
        assert_eq!(interrupted, self.model.interrupted, "interrupted");
        let told: Vec<Told> = std::iter::from_fn(|| self.pool.poll_event()).map(|event| in_short(&event)).collect();
        assert_eq!(in_order(told), in_order(std::mem::take(&mut self.model.told)), "events");
        self.model.said.clear();
        self.model.interrupted.clear();

        let stats = self.pool.stats();
        let PoolStats { opening, idle, in_use, draining, waiting, generation, created, closed, ready, .. } = stats;
        assert_eq!(opening, self.model.count(|at| matches!(at, At::Opening { .. })), "opening");
        assert_eq!(idle, self.model.count(|at| matches!(at, At::Idle { .. })), "idle");
        assert_eq!(in_use, self.model.count(|at| matches!(at, At::InUse { .. })), "in use");
        assert_eq!(draining, self.model.count(|at| matches!(at, At::Draining { .. })), "draining");
        assert_eq!((waiting, generation), (self.model.waiting(), self.model.generation), "waiting, generation");
        assert_eq!((created, closed), (self.model.created, self.model.closed), "created, closed");
        assert_eq!(ready, self.model.phase == Phase::Ready);
        assert_eq!(self.timer(), self.model.timer(), "the next timer");
    }

    /// Does what the pool wishes.
    fn obey(&mut self, action: PoolAction<u32>) {
        match action {
            PoolAction::Open(lease) => self.opening.push(lease),
            PoolAction::Deliver { waiter, lease, connection } => {
                let first = self.waiting.first().map(|place| place.waiter);
                assert_eq!(first, Some(waiter), "{waiter:?} passes an earlier one");
                self.waiting.remove(0);
                self.answered.push(waiter);
                self.lent_at.insert(lease.id, self.now);
                self.lent.push((lease, connection));
            }
            PoolAction::Refuse(waiter, _) => {
                let places = if self.failing.iter().any(|place| place.waiter == waiter) { &mut self.failing } else { &mut self.waiting };
                let at = places.iter().position(|place| place.waiter == waiter).expect("who is refused has waited");
                places.remove(at);
                self.answered.push(waiter);
            }
            PoolAction::Drain(lease, connection) => self.draining.push((lease, connection)),
            PoolAction::Interrupt(lease, _) => {
                self.lent_at.remove(&lease.id);
            }
            PoolAction::Unanswered => self.unanswered_at = Some(self.now),
            PoolAction::Close(lease, _) => {
                self.lent_at.remove(&lease.id);
            }
        }
    }

    /// Holds the pool to its rules, whatever the model says.
    fn check(&self) {
        let stats = self.pool.stats();
        let held = self.opening.len() + self.lent.len() + self.looking.len() + self.draining.len();
        assert_eq!(stats.total(), held + stats.idle, "each connection is somewhere");
        assert_eq!(stats.created - stats.closed, (stats.total() + self.failed) as u64, "each connection is closed once");
        assert!(self.failed > 0 || self.failing.is_empty(), "who left the queue for a failure is told of it");
        assert!(self.config.max_size.is_none_or(|max| stats.total() <= max as usize), "maxPoolSize");
        assert!(stats.opening <= self.config.max_connecting as usize, "maxConnecting");
        assert_eq!(stats.waiting, self.waiting.len(), "each waiter is answered once");
        assert!(stats.ready || stats.waiting == 0, "nobody waits for a pool that lends nothing");
        assert!(stats.idle == 0 || stats.waiting == 0, "nobody waits while a connection is idle");
        let full = self.config.max_size.is_some_and(|max| stats.total() >= max as usize);
        // After a failure nothing is opened before its error has done its work.
        let stuck = self.failed == 0 && stats.waiting > self.coming() && stats.opening < self.config.max_connecting as usize && !full;
        assert!(!stuck, "somebody waits, and nothing is opened");
        let past = |place: &&QueuePosition| self.waits_on.contains(&place.waiter);
        let in_vain = self.failed == 0 && self.waiting.iter().skip(self.coming()).any(|place| past(&place));
        assert!(!in_vain, "somebody waits past his limit, and nothing is on its way to him");
    }

    fn check_lent(&self, lease: Lease, connection: u32) {
        let stats = self.pool.stats();
        assert!(stats.ready, "a pool that isn't ready lends");
        assert_eq!(lease.generation, stats.generation, "a connection of an old generation is lent");
        assert_eq!(connection, number(lease), "a connection goes by another's name");
        let held = self.lent.iter().chain(&self.draining).map(|(lease, _)| lease);
        let held = held.chain(self.looking.iter().map(|((lease, _), _)| lease)).chain(&self.opening);
        assert!(held.clone().all(|other| other.id != lease.id && other.slot != lease.slot), "a connection is lent twice");
    }

    fn check_refusal(&self, waiter: WaiterId, error: &Error) {
        let places = self.waiting.iter().chain(&self.failing);
        let place = places.into_iter().find(|place| place.waiter == waiter).expect("who is refused has waited");
        let kind = error.kind();
        if kind == ErrorKind::Timeout {
            let deadline = place.deadline.expect("who waits without limit is not timed out");
            assert!(deadline.at <= self.now, "a waiter is timed out too early");
            let before = self.waiting.iter().take_while(|place| place.waiter < waiter).count();
            let spared = deadline.name == IN_QUEUE && before < self.spared;
            assert!(!spared, "{waiter:?} is timed out in the queue while its connection is being opened");
            let limit = error.limit().map(|limit| (limit.name, limit.value));
            assert_eq!(limit, Some((deadline.name, LimitValue::Time(deadline.limit))));
        } else if kind == ErrorKind::PoolCleared {
            assert!(error.has_label("RetryableError"));
        } else {
            assert!([failure().kind(), ErrorKind::Auth, ErrorKind::PoolClosed].contains(&kind), "{error}");
        }
    }
}

/// The limit of waiting in the queue.
const IN_QUEUE: &str = "waitQueueTimeoutMS";

fn until(deadline: Deadline) -> Until {
    Until { at: deadline.at, in_queue: deadline.name == IN_QUEUE, passed: false }
}

/// Brings the closed connections that are told one after another, for the same reason, into the order of their numbers:
/// which of several is closed first makes no difference.
fn in_order(mut told: Vec<Told>) -> Vec<Told> {
    let reason = |told: &Told| match told {
        Told::Closed(_, reason) => Some(*reason),
        _ => None,
    };
    let number = |told: &Told| if let Told::Closed(id, _) = told { *id } else { 0 };
    for run in told.chunk_by_mut(|one, next| reason(one).is_some() && reason(one) == reason(next)) {
        run.sort_by_key(number);
    }
    told
}

/// The connection itself.
fn number(lease: Lease) -> u32 {
    u32::try_from(lease.id).expect("a small number")
}

/// Why this connection can't be opened: for some, the login is refused.
fn failure_of(id: u64) -> Error {
    if id.is_multiple_of(3) { Error::new(ErrorKind::Auth, "refused").at(Stage::Auth) } else { failure() }
}

fn failure() -> Error {
    Error::new(ErrorKind::Io(std::io::ErrorKind::ConnectionRefused), "refused").at(Stage::Tcp)
}

fn in_short(event: &PoolEvent) -> Told {
    match *event {
        PoolEvent::PoolReady => Told::PoolReady,
        PoolEvent::PoolCleared { interrupt_in_use, .. } => Told::PoolCleared(interrupt_in_use),
        PoolEvent::PoolClosed => Told::PoolClosed,
        PoolEvent::ConnectionCreated { connection_id, .. } => Told::Created(connection_id),
        PoolEvent::ConnectionReady { connection_id, duration, .. } => Told::Ready(connection_id, duration),
        PoolEvent::ConnectionClosed { connection_id, reason, .. } => Told::Closed(connection_id, reason),
        PoolEvent::CheckOutStarted => Told::Started,
        PoolEvent::CheckOutFailed { reason, duration, .. } => Told::Failed(reason, duration),
        PoolEvent::CheckedOut { connection_id, duration, .. } => Told::Out(connection_id, duration),
        PoolEvent::CheckedIn { connection_id, .. } => Told::In(connection_id),
        PoolEvent::PoolCreated { .. } | _ => panic!("an event that a pool does not make: {event:?}"),
    }
}
