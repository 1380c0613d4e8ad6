//! The race between the addresses of a host: which one is tried when, and which one wins.
//!
//! Follows RFC 8305 ("happy eyeballs"), sections 4 and 5: families interleaved with their order kept, one attempt every
//! `STAGGER`, the next one at once after a failure, the last winner first. An attempt is TCP and TLS together. Does not decide
//! the resolution delay of section 3 (`dns::Cache`), nor open and secure connections (`io::tcp`, `io::tls`).
//!
//! ```text
//! address:  Queued ──> Dialling ──> Securing ──> Won
//!              │           └─────────────┴──> Failed | Aborted
//!              └──> Withdrawn
//! race:     Waiting (no address, no timer) ──> Racing { deadline, next_at } ──> Settled
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Stage};
use crate::host::Address;

/// The delay before the next address is tried in parallel (RFC 8305 section 8, "Connection Attempt Delay").
pub const STAGGER: Duration = Duration::from_millis(250);

/// The maximum number of addresses of a host that are tried; further ones are ignored.
pub const ADDRESSES_MAX: usize = 32;

/// The maximum number of addresses of a host that are tried in parallel: each has a socket. After a failure, the next one
/// follows.
pub const ATTEMPTS_MAX: usize = 8;

/// The name of the timer that covers the whole race.
const CONNECT_TIMER: &str = "connectTimeoutMS";

/// The configuration of a [`Race`].
#[derive(Clone, Debug)]
pub struct RaceConfig {
    /// The delay before the next attempt starts in parallel.
    pub stagger: Duration,
    /// `connectTimeoutMS`: the limit of the whole race, from the first known address on.
    pub timeout: Option<Duration>,
}

/// The id of an attempt and its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptId(usize);

/// An action of a [`Race`] for the shell.
#[derive(Clone, Debug)]
pub enum RaceAction {
    /// Open a connection to the address.
    Dial(AttemptId, Address),
    /// Drop the attempt.
    Abort(AttemptId),
    /// Report to the resolver that the address did not answer.
    Dead(Address),
    /// The attempt won: the race is over.
    Won(AttemptId),
    /// No attempt won, and the race is over; the error has the cause of every address.
    Lost(Error),
}

/// The state machine that decides in which order and when the addresses of a host are tried.
pub struct Race {
    config: RaceConfig,
    remembered: Option<Address>,
    candidates: Vec<Candidate>,
    more_to_come: bool,
    phase: AddressPhase,
    actions: VecDeque<RaceAction>,
}

struct Candidate {
    address: Address,
    state: RaceState,
}

enum RaceState {
    /// Waits for `next_at`, or an earlier failure.
    Queued,
    /// Missing in a newer answer before it was tried.
    Withdrawn,
    /// The socket is being opened.
    Dialling {
        since: Instant,
    },
    /// The socket is open, TLS is being negotiated.
    Securing {
        since: Instant,
    },
    Failed(Error),
    Aborted,
    Won,
}

#[derive(Clone, Copy)]
enum AddressPhase {
    /// No address is known; only the resolver's own limit runs.
    Waiting,
    Racing {
        since: Instant,
        deadline: Option<Instant>,
        next_at: Instant,
        last: Option<RaceFamily>,
    },
    Settled,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RaceFamily {
    V4,
    V6,
    Unix,
}

impl Race {
    /// Starts a race over `addresses`; with `more_to_come`, further ones are announced later.
    pub fn new(config: RaceConfig, addresses: Vec<Address>, more_to_come: bool, remembered: Option<Address>, now: Instant) -> Self {
        let (candidates, actions) = (Vec::new(), VecDeque::new());
        let mut race = Self { config, remembered, candidates, more_to_come, phase: AddressPhase::Waiting, actions };
        race.handle_addresses(addresses, more_to_come, now);
        race
    }

    /// Adds further addresses; known ones are skipped.
    pub fn handle_addresses(&mut self, addresses: Vec<Address>, more_to_come: bool, now: Instant) {
        if matches!(self.phase, AddressPhase::Settled) {
            return;
        }
        self.more_to_come = more_to_come;
        for address in addresses {
            if let Some(known) = self.candidates.iter_mut().find(|known| known.address == address) {
                if matches!(known.state, RaceState::Withdrawn) {
                    known.state = RaceState::Queued;
                }
            } else if self.candidates.len() < ADDRESSES_MAX {
                self.candidates.push(Candidate { address, state: RaceState::Queued });
            }
        }
        self.advance(now);
    }

    /// Handles an answer that is newer than the race's addresses (RFC 8305 section 6).
    ///
    /// Running attempts continue. Untried addresses are replaced by the addresses of the answer that were not tried yet.
    pub fn handle_newer(&mut self, addresses: Vec<Address>, more_to_come: bool, now: Instant) {
        if matches!(self.phase, AddressPhase::Settled) {
            return;
        }
        let mut untried: Vec<Address> = Vec::new();
        for address in addresses {
            let tried = |candidate: &Candidate| candidate.address == address && !candidate.is_untried();
            if !untried.contains(&address) && !self.candidates.iter().any(tried) {
                untried.push(address);
            }
        }
        let mut untried = untried.into_iter();
        // These indexes have not been handed out as attempt ids yet.
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.is_untried()) {
            match untried.next() {
                Some(address) => *candidate = Candidate { address, state: RaceState::Queued },
                None => candidate.state = RaceState::Withdrawn,
            }
        }
        self.handle_addresses(untried.collect(), more_to_come, now);
    }

    /// Records that an attempt's socket is open and TLS begins.
    pub fn handle_opened(&mut self, id: AttemptId, now: Instant) {
        if let Some(candidate) = self.candidates.get_mut(id.0)
            && matches!(candidate.state, RaceState::Dialling { .. })
        {
            candidate.state = RaceState::Securing { since: now };
        }
    }

    /// Records that an attempt is complete, TLS included: it wins.
    pub fn handle_connected(&mut self, id: AttemptId, _now: Instant) {
        let Some(candidate) = self.candidates.get_mut(id.0) else { return };
        if candidate.running_since().is_some() {
            candidate.state = RaceState::Won;
            self.abort_running(false);
            self.actions.push_back(RaceAction::Won(id));
            self.phase = AddressPhase::Settled;
        }
    }

    /// Records that an attempt failed: the next address is tried at once.
    pub fn handle_failed(&mut self, id: AttemptId, cause: Error, now: Instant) {
        let Some(candidate) = self.candidates.get_mut(id.0) else { return };
        let Some(since) = candidate.running_since() else { return };
        let cause = cause.with_address(&candidate.address).after(now.saturating_duration_since(since));
        self.actions.push_back(RaceAction::Dead(candidate.address.clone()));
        candidate.state = RaceState::Failed(label_overload(cause));
        if let AddressPhase::Racing { next_at, .. } = &mut self.phase {
            *next_at = now;
        }
        self.advance(now);
    }

    /// Handles the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.phase {
            // Only a look-up was pending: that is no time-out of the failed addresses.
            AddressPhase::Racing { deadline: Some(deadline), .. } if deadline <= now && !self.is_running() && self.upcoming().is_none() => {
                self.lose(now)
            }
            AddressPhase::Racing { since, deadline: Some(deadline), .. } if deadline <= now => {
                self.expire(now.saturating_duration_since(since))
            }
            AddressPhase::Racing { .. } => self.advance(now),
            AddressPhase::Waiting | AddressPhase::Settled => {}
        }
    }

    /// Returns the next action.
    pub fn poll_action(&mut self) -> Option<RaceAction> {
        self.actions.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due, and for which timer.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let AddressPhase::Racing { deadline, next_at, .. } = self.phase else { return None };
        let connect = deadline.map(|at| (at, CONNECT_TIMER));
        let stagger = self.upcoming().filter(|_| self.running() < ATTEMPTS_MAX).map(|_| (next_at, "stagger"));
        connect.into_iter().chain(stagger).min_by_key(|(at, _)| *at)
    }

    /// Starts the attempts that are due, and ends a race that can't be won any more.
    fn advance(&mut self, now: Instant) {
        if matches!(self.phase, AddressPhase::Waiting) && !self.candidates.is_empty() {
            // A limit beyond the clock's range is no limit.
            let deadline = self.config.timeout.and_then(|limit| now.checked_add(limit));
            self.phase = AddressPhase::Racing { since: now, deadline, next_at: now, last: None };
        }
        while let Some(index) = self.upcoming()
            && self.is_due(now)
        {
            self.start(index, now);
        }
        let over = match self.phase {
            AddressPhase::Waiting | AddressPhase::Racing { .. } => !self.more_to_come && self.upcoming().is_none() && !self.is_running(),
            AddressPhase::Settled => false,
        };
        if over {
            self.lose(now);
        }
    }

    /// Returns the next address: the remembered one, else the first of another family than the last one tried, else the first.
    fn upcoming(&self) -> Option<usize> {
        let last = match self.phase {
            AddressPhase::Racing { last, .. } => last,
            AddressPhase::Waiting | AddressPhase::Settled => None,
        };
        let first = |wanted: &dyn Fn(&Address) -> bool| {
            self.candidates.iter().position(|candidate| matches!(candidate.state, RaceState::Queued) && wanted(&candidate.address))
        };
        first(&|address| self.remembered.as_ref() == Some(address))
            .or_else(|| first(&|address| last.is_some() && last != Some(RaceFamily::of(address))))
            .or_else(|| first(&|_| true))
    }

    fn is_due(&self, now: Instant) -> bool {
        match self.phase {
            AddressPhase::Racing { next_at, .. } => !self.is_running() || (next_at <= now && self.running() < ATTEMPTS_MAX),
            AddressPhase::Waiting | AddressPhase::Settled => false,
        }
    }

    fn is_running(&self) -> bool {
        self.running() > 0
    }

    fn running(&self) -> usize {
        self.candidates.iter().filter(|candidate| candidate.running_since().is_some()).count()
    }

    fn start(&mut self, index: usize, now: Instant) {
        let Some(candidate) = self.candidates.get_mut(index) else { return };
        candidate.state = RaceState::Dialling { since: now };
        self.actions.push_back(RaceAction::Dial(AttemptId(index), candidate.address.clone()));
        if let AddressPhase::Racing { next_at, last, .. } = &mut self.phase {
            *next_at = now + self.config.stagger;
            *last = Some(RaceFamily::of(&candidate.address));
        }
    }

    /// Aborts all running attempts; `dead` if their addresses did not answer.
    fn abort_running(&mut self, dead: bool) {
        for (index, candidate) in self.candidates.iter_mut().enumerate() {
            if candidate.running_since().is_some() {
                candidate.state = RaceState::Aborted;
                self.actions.push_back(RaceAction::Abort(AttemptId(index)));
                if dead {
                    self.actions.push_back(RaceAction::Dead(candidate.address.clone()));
                }
            }
        }
    }

    fn expire(&mut self, elapsed: Duration) {
        let limit = self.config.timeout.unwrap_or(elapsed);
        let timeout = |stage| label_overload(Error::timeout(stage, CONNECT_TIMER, limit, elapsed));
        let mut stage = Stage::Tcp;
        let mut causes = Vec::new();
        for candidate in &self.candidates {
            match &candidate.state {
                RaceState::Dialling { .. } => causes.push(timeout(Stage::Tcp).with_address(&candidate.address)),
                RaceState::Securing { .. } => {
                    stage = Stage::Tls;
                    causes.push(timeout(Stage::Tls).with_address(&candidate.address));
                }
                RaceState::Failed(cause) => causes.push(cause.clone()),
                RaceState::Queued | RaceState::Withdrawn | RaceState::Aborted | RaceState::Won => {}
            }
        }
        let error = match causes.as_slice() {
            [only] => only.clone(),
            _ => timeout(stage).with_causes(causes),
        };
        self.abort_running(true);
        self.settle(error);
    }

    fn lose(&mut self, now: Instant) {
        let failed = |candidate: &Candidate| match &candidate.state {
            RaceState::Failed(cause) => Some(cause.clone()),
            RaceState::Queued
            | RaceState::Withdrawn
            | RaceState::Dialling { .. }
            | RaceState::Securing { .. }
            | RaceState::Aborted
            | RaceState::Won => None,
        };
        let causes: Vec<Error> = self.candidates.iter().filter_map(failed).collect();
        // `max_by_key` returns the last of equals; the first address is the preferred one.
        let error = match causes.iter().rev().max_by_key(|cause| informative_rank(cause.kind())) {
            None => Error::new(ErrorKind::NoAddresses, "the name has no address").at(Stage::Dns),
            Some(only) if causes.len() == 1 => only.clone(),
            Some(best) => {
                let elapsed = match self.phase {
                    AddressPhase::Racing { since, .. } => now.saturating_duration_since(since),
                    AddressPhase::Waiting | AddressPhase::Settled => Duration::ZERO,
                };
                let whole = Error::new(best.kind(), format!("no connection to any of {} addresses", causes.len()));
                label_overload(whole.at(best.stage().unwrap_or(Stage::Tcp)).after(elapsed)).with_causes(causes)
            }
        };
        self.settle(error);
    }

    fn settle(&mut self, error: Error) {
        self.actions.push_back(RaceAction::Lost(error));
        self.phase = AddressPhase::Settled;
    }
}

impl Candidate {
    /// Returns since when the attempt's current stage has been running, if it runs.
    fn running_since(&self) -> Option<Instant> {
        match self.state {
            RaceState::Dialling { since } | RaceState::Securing { since } => Some(since),
            RaceState::Queued | RaceState::Withdrawn | RaceState::Failed(_) | RaceState::Aborted | RaceState::Won => None,
        }
    }

    /// Returns whether it has not been tried.
    fn is_untried(&self) -> bool {
        match self.state {
            RaceState::Queued | RaceState::Withdrawn => true,
            RaceState::Dialling { .. } | RaceState::Securing { .. } | RaceState::Failed(_) | RaceState::Aborted | RaceState::Won => false,
        }
    }
}

impl RaceFamily {
    fn of(address: &Address) -> Self {
        match address {
            Address::Ip(ip) if ip.is_ipv4() => Self::V4,
            Address::Ip(_) => Self::V6,
            Address::Unix(_) => Self::Unix,
        }
    }
}

/// Adds the back-pressure labels to network errors and time-outs of TCP, TLS and hello, never to errors of names, certificates
/// and authentication (server-discovery-and-monitoring, "Errors during establishment").
pub fn label_overload(error: Error) -> Error {
    let on_socket = matches!(error.stage(), Some(Stage::Tcp | Stage::Tls | Stage::Hello));
    if on_socket && matches!(error.kind(), ErrorKind::Io(_) | ErrorKind::Closed | ErrorKind::Timeout) {
        error.with_label("SystemOverloadedError").with_label("RetryableError")
    } else {
        error
    }
}

/// Returns how informative an error kind is: the later the stage, the more.
fn informative_rank(kind: ErrorKind) -> u8 {
    use std::io::ErrorKind as Io;
    let certificate = matches!(
        kind,
        ErrorKind::Certificate | ErrorKind::CertificateName | ErrorKind::CertificateExpired | ErrorKind::CertificateUnknownIssuer
    );
    if certificate {
        6
    } else if kind == ErrorKind::Tls {
        5
    } else if matches!(kind, ErrorKind::Closed | ErrorKind::Io(Io::ConnectionReset)) {
        4
    } else if kind == ErrorKind::Io(Io::ConnectionRefused) {
        3
    } else if matches!(kind, ErrorKind::Timeout | ErrorKind::Io(Io::TimedOut)) {
        2
    } else if kind == ErrorKind::LocalResources {
        0
    } else {
        1
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
