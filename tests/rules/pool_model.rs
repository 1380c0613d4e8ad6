//! The model of a pool.
//!
//! One list of connections and one list of waiters, searched from end to end.

use std::time::{Duration, Instant};

use mongolink::ErrorKind;
use mongolink::pool::{CheckOutFailure, CloseReason, Health, LOGIN_PAUSE_MAX, LOGIN_PAUSE_MIN, PoolConfig, UNANSWERED_AFTER};

use crate::support::ms;

/// The result of a check-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    CheckedOut { id: u64, liveness_check: Option<u64> },
    Waiting(u64),
    Refused(ErrorKind),
}

/// An action; connections and waiters are their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Open(u64),
    Close(u64),
    Deliver(u64, u64),
    Refuse(u64, ErrorKind),
    Drain(u64),
    Unanswered,
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    PoolReady,
    PoolCleared(bool),
    PoolClosed,
    Created(u64),
    Ready(u64, Duration),
    Closed(u64, CloseReason),
    Started,
    Failed(CheckOutFailure, Duration),
    Out(u64, Duration),
    In(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Paused,
    Ready,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Opening { since: Instant, aborted: bool },
    Idle { since: Instant },
    InUse { checked_out: Instant, interrupted: bool },
    Draining { checked_out: Instant, since: Instant, interrupted: bool },
}

impl State {
    pub(crate) fn is_checked_out(self) -> bool {
        matches!(self, Self::InUse { .. } | Self::Draining { .. })
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) generation: u64,
    pub(crate) at: State,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    waiter: u64,
    since: Instant,
    until: Option<WaitLimit>,
}

/// The limit of a waiter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitLimit {
    pub(crate) at: Instant,
    /// Whether it applies in the queue only, and not while a connection is being opened for the waiter.
    pub(crate) in_queue: bool,
    /// Whether it passed while a connection was being opened.
    pub(crate) passed: bool,
}

/// A connection that failed to open, and the waiter that gets the error.
#[derive(Clone, Copy, Debug)]
struct Failure {
    id: u64,
    reason: Option<CloseReason>,
    told: Option<(Waiter, ErrorKind)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    config: PoolConfig,
    pub(crate) phase: Phase,
    pub(crate) generation: u64,
    /// In the order of their last change, so that idle ones are sorted by when they became idle.
    pub(crate) connections: Vec<Connection>,
    waiters: Vec<Waiter>,
    failures: Vec<Failure>,
    waiter_ids: u64,
    pub(crate) created: u64,
    pub(crate) closed: u64,
    refill_at: Option<Instant>,
    /// The pause after the last refused login: its length and its end.
    pause: Option<(Duration, Instant)>,
    /// The last connection from before the latest suspension.
    suspended: u64,
    /// When to look for unanswered commands, while there are commands in flight.
    look_at: Option<Instant>,
    round_trip: Duration,
    pub(crate) actions: Vec<Action>,
    pub(crate) interrupted: Vec<u64>,
    pub(crate) events: Vec<Event>,
}

/// The least time for a late reply before its connection makes room for a waiter.
const DRAIN_TIME_MIN: Duration = Duration::from_millis(50);
const REFILL_PAUSE: Duration = Duration::from_secs(1);
const LOOK_AFTER: Duration = Duration::from_secs(1);

impl Model {
    pub(crate) fn new(config: PoolConfig, generation: u64) -> Self {
        Self {
            config,
            phase: Phase::Paused,
            generation,
            connections: Vec::new(),
            waiters: Vec::new(),
            failures: Vec::new(),
            waiter_ids: 0,
            created: 0,
            closed: 0,
            refill_at: None,
            pause: None,
            suspended: 0,
            look_at: None,
            round_trip: Duration::ZERO,
            actions: Vec::new(),
            interrupted: Vec::new(),
            events: Vec::new(),
        }
    }

    pub(crate) fn check_out(&mut self, until: Option<WaitLimit>, now: Instant) -> Outcome {
        self.events.push(Event::Started);
        if let Some(kind) = self.refusal() {
            return Outcome::Refused(kind);
        }
        if self.waiters.is_empty()
            && let Some((id, idle)) = self.take_idle(now)
        {
            return self.lend(id, idle, now);
        }
        if self.is_paused(now) {
            self.events.push(Event::Failed(CheckOutFailure::ConnectionError, Duration::ZERO));
            return Outcome::Refused(ErrorKind::Auth);
        }
        let waiter = self.next_waiter_id();
        self.waiters.push(Waiter { waiter, since: now, until });
        self.fill(now);
        Outcome::Waiting(waiter)
    }

    pub(crate) fn alive(&mut self, id: u64, requested_at: Instant, now: Instant) {
        self.events.push(Event::Out(id, now - requested_at));
    }

    pub(crate) fn dead_on_look(&mut self, id: u64, waiter: u64, requested_at: Instant, until: Option<WaitLimit>, now: Instant) -> Outcome {
        self.close(id, CloseReason::Error);
        if let Some(kind) = self.refusal() {
            return Outcome::Refused(kind);
        }
        if let Some((id, idle)) = self.take_idle(now) {
            return self.lend(id, idle, now);
        }
        if self.is_paused(now) {
            self.events.push(Event::Failed(CheckOutFailure::ConnectionError, Duration::ZERO));
            return Outcome::Refused(ErrorKind::Auth);
        }
        self.waiters.push(Waiter { waiter, since: requested_at, until });
        self.fill(now);
        Outcome::Waiting(waiter)
    }

    pub(crate) fn cancel(&mut self, waiter: u64, now: Instant) {
        if let Some(at) = self.waiters.iter().position(|waiting| waiting.waiter == waiter) {
            let waiting = self.waiters.remove(at);
            self.events.push(Event::Failed(CheckOutFailure::Timeout, now - waiting.since));
        }
    }

    pub(crate) fn opened(&mut self, id: u64, now: Instant) {
        let connection = self.connection(id);
        let State::Opening { since, aborted } = connection.at else { panic!("{connection:?} was not being opened") };
        self.pause = None;
        match self.obsolete(connection) {
            // Its closed event came when it was aborted.
            _ if aborted => {
                self.leave(id);
                self.closed += 1;
                self.actions.push(Action::Close(id));
            }
            Some(reason) => self.close(id, reason),
            None => {
                self.events.push(Event::Ready(id, now - since));
                self.settle(id, now);
            }
        }
        self.fill(now);
    }

    /// Returns the waiter that leaves the queue and gets the error.
    pub(crate) fn open_failed(&mut self, id: u64, kind: ErrorKind, now: Instant) -> Option<u64> {
        let connection = self.connection(id);
        let State::Opening { since, aborted } = connection.at else { panic!("{connection:?} was not being opened") };
        if kind == ErrorKind::Auth && self.pause.is_none_or(|(_, until)| until <= since) {
            let pause = self.pause.map_or(LOGIN_PAUSE_MIN, |(pause, _)| (pause + pause).min(LOGIN_PAUSE_MAX));
            self.pause = Some((pause, now + pause));
        }
        let obsolete = self.obsolete(connection);
        self.leave(id);
        self.refill_at = self.refill_at.filter(|at| *at > now);
        let mut told = None;
        if obsolete.is_none() {
            self.refill_at = self.paused_until(now).max(Some(now + REFILL_PAUSE));
            told = self.first().map(|first| (self.take_waiter(first), kind));
        }
        let reason = (!aborted).then_some(obsolete.unwrap_or(CloseReason::Error));
        self.failures.push(Failure { id, reason, told });
        told.map(|(waiting, _)| waiting.waiter)
    }

    pub(crate) fn refill(&mut self, now: Instant) {
        for Failure { id, reason, told } in std::mem::take(&mut self.failures) {
            self.closed += 1;
            self.events.extend(reason.map(|reason| Event::Closed(id, reason)));
            if let Some((waiting, kind)) = told {
                self.events.push(Event::Failed(CheckOutFailure::ConnectionError, now - waiting.since));
                self.actions.push(Action::Refuse(waiting.waiter, kind));
            }
        }
        if self.is_paused(now) {
            self.refuse_all(ErrorKind::Auth, CheckOutFailure::ConnectionError, now);
        }
        self.fill(now);
    }

    fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.pause.map(|(_, until)| until).filter(|until| *until > now)
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until(now).is_some()
    }

    pub(crate) fn check_in(&mut self, id: u64, health: Health, now: Instant) {
        let connection = self.connection(id);
        let (checked_out, interrupted) = match connection.at {
            State::InUse { checked_out, interrupted } => {
                self.events.push(Event::In(id));
                (checked_out, interrupted)
            }
            State::Draining { checked_out, interrupted, .. } => (checked_out, interrupted),
            State::Opening { .. } | State::Idle { .. } => panic!("{connection:?} was not checked out"),
        };
        match (self.obsolete(connection), health) {
            (Some(reason), _) => self.close(id, reason),
            (None, Health::Broken) => self.close(id, CloseReason::Error),
            (None, Health::Good | Health::ReplyOutstanding) if interrupted => self.close(id, CloseReason::Error),
            (None, Health::Good) => self.settle(id, now),
            (None, Health::ReplyOutstanding) => {
                self.put(id, State::Draining { checked_out, since: now, interrupted: false });
                self.actions.push(Action::Drain(id));
            }
        }
        self.fill(now);
    }

    pub(crate) fn ready(&mut self, now: Instant) {
        if self.phase == Phase::Paused {
            self.phase = Phase::Ready;
            self.refill_at = self.paused_until(now);
            self.events.push(Event::PoolReady);
            self.fill(now);
        }
    }

    pub(crate) fn clear(&mut self, interrupt: bool, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        if self.phase == Phase::Ready {
            self.events.push(Event::PoolCleared(interrupt));
        }
        self.phase = Phase::Paused;
        self.generation += 1;
        self.abort(CloseReason::Stale, |_| true);
        self.refuse_all(ErrorKind::PoolCleared, CheckOutFailure::ConnectionError, now);
        self.close_idle(CloseReason::Stale);
        self.interrupt(|_| interrupt);
    }

    pub(crate) fn resumed(&mut self, now: Instant) {
        self.close_idle(CloseReason::Idle);
        self.suspended = self.created;
        self.abort(CloseReason::Idle, |_| true);
        self.interrupt(|connection| matches!(connection.at, State::Draining { .. }));
        self.fill(now);
    }

    pub(crate) fn end(&mut self, kind: ErrorKind, interrupt: bool, now: Instant) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.abort(CloseReason::PoolClosed, |_| true);
            self.refuse_all(kind, CheckOutFailure::PoolClosed, now);
            self.close_idle(CloseReason::PoolClosed);
            self.events.push(Event::PoolClosed);
        }
        // A second close may interrupt what the first left in use.
        self.interrupt(|connection| !matches!(connection.at, State::InUse { .. }) || interrupt);
    }

    pub(crate) fn round_trip(&mut self, average: Duration, now: Instant) {
        self.round_trip = average;
        if self.count(|at| matches!(at, State::Draining { .. })) > 0 {
            self.fill(now);
        }
    }

    pub(crate) fn time(&mut self, now: Instant) {
        let coming = self.coming();
        loop {
            let is_late = |until: &WaitLimit| until.at <= now && !until.passed;
            let late = self.waiters.iter().filter_map(|waiting| Some((waiting.until.filter(is_late)?, waiting.waiter)));
            let Some((until, waiter)) = late.min_by_key(|(until, waiter)| (until.at, *waiter)) else { break };
            if until.in_queue && self.waiters.iter().filter(|waiting| waiting.waiter < waiter).count() < coming {
                let passed = Some(WaitLimit { passed: true, ..until });
                self.waiters.iter_mut().filter(|waiting| waiting.waiter == waiter).for_each(|waiting| waiting.until = passed);
            } else {
                self.refuse(waiter, ErrorKind::Timeout, CheckOutFailure::Timeout, now);
            }
        }
        let perished = |connection: &&Connection| self.perished(connection, now);
        let perished: Vec<u64> = self.connections.iter().filter(perished).map(|connection| connection.id).collect();
        for id in perished {
            self.close(id, CloseReason::Idle);
        }
        let open_timeout = self.config.open_timeout;
        self.abort(CloseReason::Error, |since| open_timeout.is_some_and(|limit| since + limit <= now));
        let limit = self.config.drain_limit;
        self.interrupt(|connection| matches!(connection.at, State::Draining { since, .. } if since + limit <= now));
        self.refill_at = self.refill_at.filter(|at| *at > now);
        self.look_for_unanswered(now);
        self.fill(now);
    }

    /// Returns when the timer is due.
    pub(crate) fn timer(&self) -> Option<Instant> {
        let waits = self.waiters.iter().filter_map(|waiting| waiting.until).filter(|until| !until.passed).map(|until| until.at);
        let connections = self.connections.iter().filter_map(|connection| match connection.at {
            State::Idle { since } => self.config.max_idle_time.map(|limit| since + limit),
            State::Opening { since, aborted: false } => self.config.open_timeout.map(|limit| since + limit),
            State::Draining { since, interrupted: false, .. } => Some(since + self.config.drain_limit),
            State::Opening { .. } | State::Draining { .. } | State::InUse { .. } => None,
        });
        let below = self.phase == Phase::Ready && self.connections.len() < self.config.min_size as usize;
        let unanswered_look = self.look_at.filter(|_| self.count(State::is_checked_out) > 0);
        let room = self.makes_room().map(|(_, at)| at);
        waits.chain(connections).chain(self.refill_at.filter(|_| below)).chain(unanswered_look).chain(room).min()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn count(&self, wanted: impl Fn(State) -> bool) -> usize {
        self.connections.iter().filter(|connection| wanted(connection.at)).count()
    }

    pub(crate) fn connection(&self, id: u64) -> Connection {
        *self.connections.iter().find(|connection| connection.id == id).expect("a connection")
    }

    fn next_waiter_id(&mut self) -> u64 {
        self.waiter_ids += 1;
        self.waiter_ids - 1
    }

    fn first(&self) -> Option<u64> {
        self.waiters.iter().map(|waiting| waiting.waiter).min()
    }

    fn refusal(&mut self) -> Option<ErrorKind> {
        let (kind, reason) = match self.phase {
            Phase::Ready => return None,
            Phase::Paused => (ErrorKind::PoolCleared, CheckOutFailure::ConnectionError),
            Phase::Closed => (ErrorKind::PoolClosed, CheckOutFailure::PoolClosed),
        };
        self.events.push(Event::Failed(reason, Duration::ZERO));
        Some(kind)
    }

    fn perished(&self, connection: &Connection, now: Instant) -> bool {
        match (connection.at, self.config.max_idle_time) {
            (State::Idle { since }, Some(limit)) => since + limit <= now,
            (State::Idle { .. } | State::Opening { .. } | State::InUse { .. } | State::Draining { .. }, _) => false,
        }
    }

    fn take_idle(&mut self, now: Instant) -> Option<(u64, Duration)> {
        loop {
            let newest = *self.connections.iter().rev().find(|connection| matches!(connection.at, State::Idle { .. }))?;
            match newest.at {
                State::Idle { since } if !self.perished(&newest, now) => return Some((newest.id, now - since)),
                State::Idle { .. } | State::Opening { .. } | State::InUse { .. } | State::Draining { .. } => {
                    self.close(newest.id, CloseReason::Idle)
                }
            }
        }
    }

    fn lend(&mut self, id: u64, idle: Duration, now: Instant) -> Outcome {
        self.check_out_connection(id, now);
        let liveness_check = (idle > LOOK_AFTER).then(|| self.next_waiter_id());
        if liveness_check.is_none() {
            self.events.push(Event::Out(id, ms(0)));
        }
        if self.connections.len() < self.config.min_size as usize {
            self.fill(now);
        }
        Outcome::CheckedOut { id, liveness_check }
    }

    fn settle(&mut self, id: u64, now: Instant) {
        let Some(first) = self.first() else { return self.put(id, State::Idle { since: now }) };
        let waiting = self.take_waiter(first);
        self.check_out_connection(id, now);
        self.events.push(Event::Out(id, now - waiting.since));
        self.actions.push(Action::Deliver(waiting.waiter, id));
    }

    fn fill(&mut self, now: Instant) {
        // A pause that is over leaves no timer behind.
        self.refill_at = self.refill_at.filter(|at| *at > now);
        while self.phase == Phase::Ready {
            let opening = self.count(|at| matches!(at, State::Opening { .. }));
            let total = self.connections.len();
            let room = opening < self.config.max_connecting as usize && self.config.max_size.is_none_or(|max| total < max as usize);
            let wanted = self.coming() < self.waiters.len();
            let below = total < self.config.min_size as usize && self.refill_at.is_none();
            if !room || !(wanted || below) || self.is_paused(now) {
                break;
            }
            self.created += 1;
            let at = State::Opening { since: now, aborted: false };
            self.connections.push(Connection { id: self.created, generation: self.generation, at });
            self.events.push(Event::Created(self.created));
            self.actions.push(Action::Open(self.created));
        }
        while self.phase == Phase::Ready
            && let Some((id, _)) = self.makes_room().filter(|(_, at)| *at <= now)
        {
            self.interrupt(|connection| connection.id == id);
        }
        // Waiters past their limit for which nothing is being opened any more are refused, the last first.
        while let Some(waiter) = self.waiters.iter().filter(|waiting| self.is_passed_over(waiting)).map(|waiting| waiting.waiter).max() {
            self.refuse(waiter, ErrorKind::Timeout, CheckOutFailure::Timeout, now);
        }
    }

    /// Returns the draining connection that makes room for a waiter, and when: the one that has drained longest, if the pool
    /// is full, nothing is being opened for a waiter, and a connection could be opened.
    fn makes_room(&self) -> Option<(u64, Instant)> {
        let is_full = self.config.max_size.is_some_and(|max| self.connections.len() >= max as usize);
        let leaving = self.count(|at| matches!(at, State::Draining { interrupted: true, .. }));
        let opening = self.count(|at| matches!(at, State::Opening { .. }));
        let in_vain = self.coming() + leaving < self.waiters.len();
        if !is_full || !in_vain || opening + leaving >= self.config.max_connecting as usize {
            return None;
        }
        let late = self.connections.iter().filter_map(|connection| match connection.at {
            State::Draining { since, interrupted: false, .. } => Some((since, connection.id)),
            State::Opening { .. } | State::Idle { .. } | State::InUse { .. } | State::Draining { .. } => None,
        });
        let (since, id) = late.min()?;
        Some((id, since + (4 * self.round_trip).max(DRAIN_TIME_MIN).min(self.config.drain_limit)))
    }

    fn is_passed_over(&self, waiting: &Waiter) -> bool {
        let before = self.waiters.iter().filter(|other| other.waiter < waiting.waiter).count();
        waiting.until.is_some_and(|until| until.passed) && before >= self.coming()
    }

    /// Counts the connections being opened for waiters. One that was aborted for its time limit or a suspension counts until
    /// its failure is reported.
    fn coming(&self) -> usize {
        let current = |connection: &&Connection| connection.generation == self.generation;
        self.connections.iter().filter(current).filter(|connection| matches!(connection.at, State::Opening { .. })).count()
    }

    fn look_for_unanswered(&mut self, now: Instant) {
        if self.count(State::is_checked_out) == 0 || self.look_at.is_none_or(|at| at > now) {
            return;
        }
        let checked_out = self.connections.iter().filter_map(|connection| match connection.at {
            State::InUse { checked_out, interrupted: false } | State::Draining { checked_out, interrupted: false, .. } => Some(checked_out),
            State::Opening { .. } | State::Idle { .. } | State::InUse { .. } | State::Draining { .. } => None,
        });
        let Some(late_at) = checked_out.min().map(|checked_out| checked_out + UNANSWERED_AFTER) else { return self.look_at = None };
        if late_at <= now {
            self.actions.push(Action::Unanswered);
        }
        self.look_at = Some(if late_at <= now { now + UNANSWERED_AFTER } else { late_at });
    }

    /// Checks a connection out.
    fn check_out_connection(&mut self, id: u64, now: Instant) {
        let others = self.connections.iter().any(|connection| connection.id != id && connection.at.is_checked_out());
        if !others || self.look_at.is_none() {
            self.look_at = Some(now + UNANSWERED_AFTER);
        }
        self.put(id, State::InUse { checked_out: now, interrupted: false });
    }

    fn obsolete(&self, connection: Connection) -> Option<CloseReason> {
        match self.phase {
            Phase::Closed => Some(CloseReason::PoolClosed),
            Phase::Paused | Phase::Ready if connection.generation < self.generation => Some(CloseReason::Stale),
            Phase::Paused | Phase::Ready => (connection.id <= self.suspended).then_some(CloseReason::Idle),
        }
    }

    /// Changes the state of a connection and moves it to the end of the list.
    fn put(&mut self, id: u64, at: State) {
        let connection = self.connection(id);
        self.connections.retain(|other| other.id != id);
        self.connections.push(Connection { at, ..connection });
    }

    /// Interrupts connections that are in use or drain.
    fn interrupt(&mut self, wanted: impl Fn(&Connection) -> bool) {
        for connection in &mut self.connections {
            if !wanted(connection) {
                continue;
            }
            match &mut connection.at {
                State::InUse { interrupted: done, .. } | State::Draining { interrupted: done, .. } if !*done => {
                    *done = true;
                    self.interrupted.push(connection.id);
                }
                State::Opening { .. } | State::InUse { .. } | State::Draining { .. } | State::Idle { .. } => {}
            }
        }
    }

    /// Aborts connections that are being opened; their closed events come at once.
    fn abort(&mut self, reason: CloseReason, wanted: impl Fn(Instant) -> bool) {
        for connection in &mut self.connections {
            match &mut connection.at {
                State::Opening { since, aborted } if !*aborted && wanted(*since) => {
                    *aborted = true;
                    self.interrupted.push(connection.id);
                    self.events.push(Event::Closed(connection.id, reason));
                }
                State::Opening { .. } | State::InUse { .. } | State::Draining { .. } | State::Idle { .. } => {}
            }
        }
    }

    fn close_idle(&mut self, reason: CloseReason) {
        let idle = self.connections.iter().filter(|connection| matches!(connection.at, State::Idle { .. }));
        let idle: Vec<u64> = idle.map(|connection| connection.id).collect();
        for id in idle {
            self.close(id, reason);
        }
    }

    fn close(&mut self, id: u64, reason: CloseReason) {
        self.leave(id);
        self.closed += 1;
        self.events.push(Event::Closed(id, reason));
        self.actions.push(Action::Close(id));
    }

    fn leave(&mut self, id: u64) {
        self.connections.retain(|connection| connection.id != id);
    }

    fn refuse_all(&mut self, kind: ErrorKind, reason: CheckOutFailure, now: Instant) {
        while let Some(first) = self.first() {
            self.refuse(first, kind, reason, now);
        }
    }

    fn refuse(&mut self, waiter: u64, kind: ErrorKind, reason: CheckOutFailure, now: Instant) {
        let waiting = self.take_waiter(waiter);
        self.events.push(Event::Failed(reason, now - waiting.since));
        self.actions.push(Action::Refuse(waiter, kind));
    }

    fn take_waiter(&mut self, waiter: u64) -> Waiter {
        let at = self.waiters.iter().position(|waiting| waiting.waiter == waiter).expect("an waiting");
        self.waiters.remove(at)
    }
}
