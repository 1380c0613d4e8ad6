//! What would the plainest pool do?
//!
//! One list of connections, one list of askers, searched from end to end.

use std::time::{Duration, Instant};

use mongolink::ErrorKind;
use mongolink::pool::{CheckOutFailure, CloseReason, Health, LOGIN_PAUSE_MAX, LOGIN_PAUSE_MIN, PoolConfig, UNANSWERED_AFTER};

use crate::support::ms;

/// The answer to a check-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Lent { id: u64, liveness_check: Option<u64> },
    Waiting(u64),
    Refused(ErrorKind),
}

/// A wish; connections and waiters are their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Open(u64),
    Close(u64),
    Deliver(u64, u64),
    Refuse(u64, ErrorKind),
    Drain(u64),
    Unanswered,
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
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
pub(crate) enum At {
    Opening { since: Instant, aborted: bool },
    Idle { since: Instant },
    InUse { lent: Instant, interrupted: bool },
    Draining { lent: Instant, since: Instant, interrupted: bool },
}

impl At {
    pub(crate) fn is_lent(self) -> bool {
        matches!(self, Self::InUse { .. } | Self::Draining { .. })
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) generation: u64,
    pub(crate) at: At,
}

#[derive(Clone, Copy, Debug)]
struct Asker {
    waiter: u64,
    since: Instant,
    until: Option<Until>,
}

/// Until when somebody waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    pub(crate) at: Instant,
    /// Whether that is a limit of waiting in the queue only: while a connection is being opened for him, it does not count.
    pub(crate) in_queue: bool,
    /// Whether it has passed meanwhile.
    pub(crate) passed: bool,
}

/// A connection that failed to open, and who is told so.
#[derive(Clone, Copy, Debug)]
struct Failure {
    id: u64,
    reason: Option<CloseReason>,
    told: Option<(Asker, ErrorKind)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    config: PoolConfig,
    pub(crate) phase: Phase,
    pub(crate) generation: u64,
    /// Idle ones in the order in which they came to rest.
    pub(crate) connections: Vec<Connection>,
    askers: Vec<Asker>,
    failures: Vec<Failure>,
    tickets: u64,
    pub(crate) created: u64,
    pub(crate) closed: u64,
    refill_at: Option<Instant>,
    /// How long no connection is opened after the last refused login, and until when.
    pause: Option<(Duration, Instant)>,
    /// Connections up to this one were there when the machine was suspended.
    suspended: u64,
    /// When to look for commands without a reply, as long as any is under way.
    look_at: Option<Instant>,
    round_trip: Duration,
    pub(crate) said: Vec<Said>,
    pub(crate) interrupted: Vec<u64>,
    pub(crate) told: Vec<Told>,
}

/// How long a late reply has before it makes room for somebody, whatever the round trip.
const PATIENCE: Duration = Duration::from_millis(50);
const REFILL_PAUSE: Duration = Duration::from_secs(1);
const LOOK_AFTER: Duration = Duration::from_secs(1);

impl Model {
    pub(crate) fn new(config: PoolConfig, generation: u64) -> Self {
        Self {
            config,
            phase: Phase::Paused,
            generation,
            connections: Vec::new(),
            askers: Vec::new(),
            failures: Vec::new(),
            tickets: 0,
            created: 0,
            closed: 0,
            refill_at: None,
            pause: None,
            suspended: 0,
            look_at: None,
            round_trip: Duration::ZERO,
            said: Vec::new(),
            interrupted: Vec::new(),
            told: Vec::new(),
        }
    }

    pub(crate) fn check_out(&mut self, until: Option<Until>, now: Instant) -> Answer {
        self.told.push(Told::Started);
        if let Some(kind) = self.refusal() {
            return Answer::Refused(kind);
        }
        if self.askers.is_empty()
            && let Some((id, idle)) = self.take_idle(now)
        {
            return self.lend(id, idle, now);
        }
        if self.is_paused(now) {
            self.told.push(Told::Failed(CheckOutFailure::ConnectionError, Duration::ZERO));
            return Answer::Refused(ErrorKind::Auth);
        }
        let waiter = self.next_waiter_id();
        self.askers.push(Asker { waiter, since: now, until });
        self.fill(now);
        Answer::Waiting(waiter)
    }

    pub(crate) fn alive(&mut self, id: u64, requested_at: Instant, now: Instant) {
        self.told.push(Told::Out(id, now - requested_at));
    }

    pub(crate) fn dead_on_look(&mut self, id: u64, waiter: u64, requested_at: Instant, until: Option<Until>, now: Instant) -> Answer {
        self.shut(id, CloseReason::Error);
        if let Some(kind) = self.refusal() {
            return Answer::Refused(kind);
        }
        if let Some((id, idle)) = self.take_idle(now) {
            return self.lend(id, idle, now);
        }
        if self.is_paused(now) {
            self.told.push(Told::Failed(CheckOutFailure::ConnectionError, Duration::ZERO));
            return Answer::Refused(ErrorKind::Auth);
        }
        self.askers.push(Asker { waiter, since: requested_at, until });
        self.fill(now);
        Answer::Waiting(waiter)
    }

    pub(crate) fn cancel(&mut self, waiter: u64, now: Instant) {
        if let Some(at) = self.askers.iter().position(|asker| asker.waiter == waiter) {
            let asker = self.askers.remove(at);
            self.told.push(Told::Failed(CheckOutFailure::Timeout, now - asker.since));
        }
    }

    pub(crate) fn opened(&mut self, id: u64, now: Instant) {
        let connection = self.connection(id);
        let At::Opening { since, aborted } = connection.at else { panic!("{connection:?} was not being opened") };
        self.pause = None;
        match self.obsolete(connection) {
            // It was told as closed when it was given up.
            _ if aborted => {
                self.leave(id);
                self.closed += 1;
                self.said.push(Said::Close(id));
            }
            Some(reason) => self.shut(id, reason),
            None => {
                self.told.push(Told::Ready(id, now - since));
                self.settle(id, now);
            }
        }
        self.fill(now);
    }

    /// Returns who leaves the queue to be told why.
    pub(crate) fn open_failed(&mut self, id: u64, kind: ErrorKind, now: Instant) -> Option<u64> {
        let connection = self.connection(id);
        let At::Opening { since, aborted } = connection.at else { panic!("{connection:?} was not being opened") };
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
            told = self.first().map(|first| (self.take_asker(first), kind));
        }
        let reason = (!aborted).then_some(obsolete.unwrap_or(CloseReason::Error));
        self.failures.push(Failure { id, reason, told });
        told.map(|(asker, _)| asker.waiter)
    }

    pub(crate) fn refill(&mut self, now: Instant) {
        for Failure { id, reason, told } in std::mem::take(&mut self.failures) {
            self.closed += 1;
            self.told.extend(reason.map(|reason| Told::Closed(id, reason)));
            if let Some((asker, kind)) = told {
                self.told.push(Told::Failed(CheckOutFailure::ConnectionError, now - asker.since));
                self.said.push(Said::Refuse(asker.waiter, kind));
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
        let (lent, interrupted) = match connection.at {
            At::InUse { lent, interrupted } => {
                self.told.push(Told::In(id));
                (lent, interrupted)
            }
            At::Draining { lent, interrupted, .. } => (lent, interrupted),
            At::Opening { .. } | At::Idle { .. } => panic!("{connection:?} was not lent"),
        };
        match (self.obsolete(connection), health) {
            (Some(reason), _) => self.shut(id, reason),
            (None, Health::Broken) => self.shut(id, CloseReason::Error),
            (None, Health::Good | Health::ReplyOutstanding) if interrupted => self.shut(id, CloseReason::Error),
            (None, Health::Good) => self.settle(id, now),
            (None, Health::ReplyOutstanding) => {
                self.put(id, At::Draining { lent, since: now, interrupted: false });
                self.said.push(Said::Drain(id));
            }
        }
        self.fill(now);
    }

    pub(crate) fn ready(&mut self, now: Instant) {
        if self.phase == Phase::Paused {
            self.phase = Phase::Ready;
            self.refill_at = self.paused_until(now);
            self.told.push(Told::PoolReady);
            self.fill(now);
        }
    }

    pub(crate) fn clear(&mut self, interrupt: bool, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        if self.phase == Phase::Ready {
            self.told.push(Told::PoolCleared(interrupt));
        }
        self.phase = Phase::Paused;
        self.generation += 1;
        self.give_up(CloseReason::Stale, |_| true);
        self.refuse_all(ErrorKind::PoolCleared, CheckOutFailure::ConnectionError, now);
        self.close_idle(CloseReason::Stale);
        self.interrupt(|_| interrupt);
    }

    pub(crate) fn resumed(&mut self, now: Instant) {
        self.close_idle(CloseReason::Idle);
        self.suspended = self.created;
        self.give_up(CloseReason::Idle, |_| true);
        self.interrupt(|connection| matches!(connection.at, At::Draining { .. }));
        self.fill(now);
    }

    pub(crate) fn end(&mut self, kind: ErrorKind, interrupt: bool, now: Instant) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.give_up(CloseReason::PoolClosed, |_| true);
            self.refuse_all(kind, CheckOutFailure::PoolClosed, now);
            self.close_idle(CloseReason::PoolClosed);
            self.told.push(Told::PoolClosed);
        }
        // What was not interrupted when it was closed can be later.
        self.interrupt(|connection| !matches!(connection.at, At::InUse { .. }) || interrupt);
    }

    pub(crate) fn round_trip(&mut self, average: Duration, now: Instant) {
        self.round_trip = average;
        if self.count(|at| matches!(at, At::Draining { .. })) > 0 {
            self.fill(now);
        }
    }

    pub(crate) fn time(&mut self, now: Instant) {
        let coming = self.coming();
        loop {
            let is_late = |until: &Until| until.at <= now && !until.passed;
            let late = self.askers.iter().filter_map(|asker| Some((asker.until.filter(is_late)?, asker.waiter)));
            let Some((until, waiter)) = late.min_by_key(|(until, waiter)| (until.at, *waiter)) else { break };
            if until.in_queue && self.askers.iter().filter(|asker| asker.waiter < waiter).count() < coming {
                let passed = Some(Until { passed: true, ..until });
                self.askers.iter_mut().filter(|asker| asker.waiter == waiter).for_each(|asker| asker.until = passed);
            } else {
                self.refuse(waiter, ErrorKind::Timeout, CheckOutFailure::Timeout, now);
            }
        }
        let perished = |connection: &&Connection| self.perished(connection, now);
        let perished: Vec<u64> = self.connections.iter().filter(perished).map(|connection| connection.id).collect();
        for id in perished {
            self.shut(id, CloseReason::Idle);
        }
        let open_timeout = self.config.open_timeout;
        self.give_up(CloseReason::Error, |since| open_timeout.is_some_and(|limit| since + limit <= now));
        let limit = self.config.drain_limit;
        self.interrupt(|connection| matches!(connection.at, At::Draining { since, .. } if since + limit <= now));
        self.refill_at = self.refill_at.filter(|at| *at > now);
        self.look_for_unanswered(now);
        self.fill(now);
    }

    /// When time must be looked at next.
    pub(crate) fn timer(&self) -> Option<Instant> {
        let waits = self.askers.iter().filter_map(|asker| asker.until).filter(|until| !until.passed).map(|until| until.at);
        let connections = self.connections.iter().filter_map(|connection| match connection.at {
            At::Idle { since } => self.config.max_idle_time.map(|limit| since + limit),
            At::Opening { since, aborted: false } => self.config.open_timeout.map(|limit| since + limit),
            At::Draining { since, interrupted: false, .. } => Some(since + self.config.drain_limit),
            At::Opening { .. } | At::Draining { .. } | At::InUse { .. } => None,
        });
        let below = self.phase == Phase::Ready && self.connections.len() < self.config.min_size as usize;
        let unanswered_look = self.look_at.filter(|_| self.count(At::is_lent) > 0);
        let room = self.makes_room().map(|(_, at)| at);
        waits.chain(connections).chain(self.refill_at.filter(|_| below)).chain(unanswered_look).chain(room).min()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.askers.len()
    }

    pub(crate) fn count(&self, wanted: impl Fn(At) -> bool) -> usize {
        self.connections.iter().filter(|connection| wanted(connection.at)).count()
    }

    pub(crate) fn connection(&self, id: u64) -> Connection {
        *self.connections.iter().find(|connection| connection.id == id).expect("a connection")
    }

    fn next_waiter_id(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets - 1
    }

    fn first(&self) -> Option<u64> {
        self.askers.iter().map(|asker| asker.waiter).min()
    }

    fn refusal(&mut self) -> Option<ErrorKind> {
        let (kind, reason) = match self.phase {
            Phase::Ready => return None,
            Phase::Paused => (ErrorKind::PoolCleared, CheckOutFailure::ConnectionError),
            Phase::Closed => (ErrorKind::PoolClosed, CheckOutFailure::PoolClosed),
        };
        self.told.push(Told::Failed(reason, Duration::ZERO));
        Some(kind)
    }

    fn perished(&self, connection: &Connection, now: Instant) -> bool {
        match (connection.at, self.config.max_idle_time) {
            (At::Idle { since }, Some(limit)) => since + limit <= now,
            (At::Idle { .. } | At::Opening { .. } | At::InUse { .. } | At::Draining { .. }, _) => false,
        }
    }

    fn take_idle(&mut self, now: Instant) -> Option<(u64, Duration)> {
        loop {
            let newest = *self.connections.iter().rev().find(|connection| matches!(connection.at, At::Idle { .. }))?;
            match newest.at {
                At::Idle { since } if !self.perished(&newest, now) => return Some((newest.id, now - since)),
                At::Idle { .. } | At::Opening { .. } | At::InUse { .. } | At::Draining { .. } => self.shut(newest.id, CloseReason::Idle),
            }
        }
    }

    fn lend(&mut self, id: u64, idle: Duration, now: Instant) -> Answer {
        self.hand_out(id, now);
        let liveness_check = (idle > LOOK_AFTER).then(|| self.next_waiter_id());
        if liveness_check.is_none() {
            self.told.push(Told::Out(id, ms(0)));
        }
        if self.connections.len() < self.config.min_size as usize {
            self.fill(now);
        }
        Answer::Lent { id, liveness_check }
    }

    fn settle(&mut self, id: u64, now: Instant) {
        let Some(first) = self.first() else { return self.put(id, At::Idle { since: now }) };
        let asker = self.take_asker(first);
        self.hand_out(id, now);
        self.told.push(Told::Out(id, now - asker.since));
        self.said.push(Said::Deliver(asker.waiter, id));
    }

    fn fill(&mut self, now: Instant) {
        // A pause that is over leaves no timer behind.
        self.refill_at = self.refill_at.filter(|at| *at > now);
        while self.phase == Phase::Ready {
            let opening = self.count(|at| matches!(at, At::Opening { .. }));
            let total = self.connections.len();
            let room = opening < self.config.max_connecting as usize && self.config.max_size.is_none_or(|max| total < max as usize);
            let wanted = self.coming() < self.askers.len();
            let below = total < self.config.min_size as usize && self.refill_at.is_none();
            if !room || !(wanted || below) || self.is_paused(now) {
                break;
            }
            self.created += 1;
            let at = At::Opening { since: now, aborted: false };
            self.connections.push(Connection { id: self.created, generation: self.generation, at });
            self.told.push(Told::Created(self.created));
            self.said.push(Said::Open(self.created));
        }
        while self.phase == Phase::Ready
            && let Some((id, _)) = self.makes_room().filter(|(_, at)| *at <= now)
        {
            self.interrupt(|connection| connection.id == id);
        }
        // Whose time has passed, and who has no connection on its way any more, is refused; the last one first.
        while let Some(waiter) = self.askers.iter().filter(|asker| self.is_passed_over(asker)).map(|asker| asker.waiter).max() {
            self.refuse(waiter, ErrorKind::Timeout, CheckOutFailure::Timeout, now);
        }
    }

    /// Whose late reply is waited for no longer, and from when on: the one that has been late for longest, if the pool is
    /// full, and somebody waits for whom nothing is on its way, and a connection could be opened.
    fn makes_room(&self) -> Option<(u64, Instant)> {
        let is_full = self.config.max_size.is_some_and(|max| self.connections.len() >= max as usize);
        let leaving = self.count(|at| matches!(at, At::Draining { interrupted: true, .. }));
        let opening = self.count(|at| matches!(at, At::Opening { .. }));
        let in_vain = self.coming() + leaving < self.askers.len();
        if !is_full || !in_vain || opening + leaving >= self.config.max_connecting as usize {
            return None;
        }
        let late = self.connections.iter().filter_map(|connection| match connection.at {
            At::Draining { since, interrupted: false, .. } => Some((since, connection.id)),
            At::Opening { .. } | At::Idle { .. } | At::InUse { .. } | At::Draining { .. } => None,
        });
        let (since, id) = late.min()?;
        Some((id, since + (4 * self.round_trip).max(PATIENCE).min(self.config.drain_limit)))
    }

    fn is_passed_over(&self, asker: &Asker) -> bool {
        let before = self.askers.iter().filter(|other| other.waiter < asker.waiter).count();
        asker.until.is_some_and(|until| until.passed) && before >= self.coming()
    }

    /// Counts the connections that are on their way to those who wait. One that was given up for its time, or after a
    /// suspension, is among them until that is reported: it is then either told to who has waited longest, or replaced.
    fn coming(&self) -> usize {
        let current = |connection: &&Connection| connection.generation == self.generation;
        self.connections.iter().filter(current).filter(|connection| matches!(connection.at, At::Opening { .. })).count()
    }

    fn look_for_unanswered(&mut self, now: Instant) {
        if self.count(At::is_lent) == 0 || self.look_at.is_none_or(|at| at > now) {
            return;
        }
        let lent = self.connections.iter().filter_map(|connection| match connection.at {
            At::InUse { lent, interrupted: false } | At::Draining { lent, interrupted: false, .. } => Some(lent),
            At::Opening { .. } | At::Idle { .. } | At::InUse { .. } | At::Draining { .. } => None,
        });
        let Some(late_at) = lent.min().map(|lent| lent + UNANSWERED_AFTER) else { return self.look_at = None };
        if late_at <= now {
            self.said.push(Said::Unanswered);
        }
        self.look_at = Some(if late_at <= now { now + UNANSWERED_AFTER } else { late_at });
    }

    /// Lends a connection.
    fn hand_out(&mut self, id: u64, now: Instant) {
        let others = self.connections.iter().any(|connection| connection.id != id && connection.at.is_lent());
        if !others || self.look_at.is_none() {
            self.look_at = Some(now + UNANSWERED_AFTER);
        }
        self.put(id, At::InUse { lent: now, interrupted: false });
    }

    fn obsolete(&self, connection: Connection) -> Option<CloseReason> {
        match self.phase {
            Phase::Closed => Some(CloseReason::PoolClosed),
            Phase::Paused | Phase::Ready if connection.generation < self.generation => Some(CloseReason::Stale),
            Phase::Paused | Phase::Ready => (connection.id <= self.suspended).then_some(CloseReason::Idle),
        }
    }

    /// Puts a connection into another state, behind all others.
    fn put(&mut self, id: u64, at: At) {
        let connection = self.connection(id);
        self.connections.retain(|other| other.id != id);
        self.connections.push(Connection { at, ..connection });
    }

    /// Stops what uses or drains connections.
    fn interrupt(&mut self, wanted: impl Fn(&Connection) -> bool) {
        for connection in &mut self.connections {
            if !wanted(connection) {
                continue;
            }
            match &mut connection.at {
                At::InUse { interrupted: done, .. } | At::Draining { interrupted: done, .. } if !*done => {
                    *done = true;
                    self.interrupted.push(connection.id);
                }
                At::Opening { .. } | At::InUse { .. } | At::Draining { .. } | At::Idle { .. } => {}
            }
        }
    }

    /// Stops what opens connections since a moment; they are told as closed at once.
    fn give_up(&mut self, reason: CloseReason, wanted: impl Fn(Instant) -> bool) {
        for connection in &mut self.connections {
            match &mut connection.at {
                At::Opening { since, aborted } if !*aborted && wanted(*since) => {
                    *aborted = true;
                    self.interrupted.push(connection.id);
                    self.told.push(Told::Closed(connection.id, reason));
                }
                At::Opening { .. } | At::InUse { .. } | At::Draining { .. } | At::Idle { .. } => {}
            }
        }
    }

    fn close_idle(&mut self, reason: CloseReason) {
        let idle = self.connections.iter().filter(|connection| matches!(connection.at, At::Idle { .. }));
        let idle: Vec<u64> = idle.map(|connection| connection.id).collect();
        for id in idle {
            self.shut(id, reason);
        }
    }

    fn shut(&mut self, id: u64, reason: CloseReason) {
        self.leave(id);
        self.closed += 1;
        self.told.push(Told::Closed(id, reason));
        self.said.push(Said::Close(id));
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
        let asker = self.take_asker(waiter);
        self.told.push(Told::Failed(reason, now - asker.since));
        self.said.push(Said::Refuse(waiter, kind));
    }

    fn take_asker(&mut self, waiter: u64) -> Asker {
        let at = self.askers.iter().position(|asker| asker.waiter == waiter).expect("an asker");
        self.askers.remove(at)
    }
}
