//! What is known so far of a question that is under way, and when is it enough?
//!
//! One flight per name: both record types are asked at once, and all who ask meanwhile wait for the same flight. What
//! becomes of its outcome afterwards is decided in `cache`.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::action::LookupId;
use super::good::Good;
use super::{AddressFamily, BUDGET, LookupAnswer, LookupFailure, Want};
use crate::error::{Error, ErrorKind, Stage};

/// Names one flight; facts of an earlier flight of the same name are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryId(pub(super) u64);

/// Is a question under way.
///
/// ```text
///  Dns{pending, pending} --answered/failed--> Dns{..} --both known--> landed
///            |                                   |
///            '--------- both: no such name, no server ------> System --> landed
/// ```
#[derive(Debug)]
pub(super) struct Query {
    pub(super) id: QueryId,
    asked_at: Instant,
    pub(super) deadline: Instant,
    /// From here on, those who wait get the last good answer, if there is one.
    pub(super) stale_at: Instant,
    phase: QueryPhase,
    waiters: Vec<(LookupId, Want)>,
}

#[derive(Debug)]
enum QueryPhase {
    Dns { v4: Progress, v6: Progress },
    System(Denial),
}

/// Why the operating system is asked.
#[derive(Clone, Copy, Debug)]
enum Denial {
    NoSuchName,
    NoServer,
}

#[derive(Debug)]
enum Progress {
    Pending,
    Found { addresses: Vec<IpAddr>, ttl: Duration, at: Instant },
    Failed(LookupFailure),
}

/// Says how a flight stands.
#[derive(Debug)]
pub(super) enum QueryStatus {
    /// Answers are still missing.
    Flying,
    /// DNS has nothing; the operating system is asked second.
    AskSystem,
    /// There are addresses.
    Found { addresses: Vec<IpAddr>, ttl: Duration, complete: bool },
    /// Whoever answered is sure that there are none.
    NotThere(Error),
    /// Nobody answered who could be believed.
    Down(Error),
}

impl Query {
    pub(super) fn new(id: QueryId, stale_at: Instant, budget: Duration, now: Instant) -> Self {
        let phase = QueryPhase::Dns { v4: Progress::Pending, v6: Progress::Pending };
        Self { id, asked_at: now, deadline: now + budget, stale_at, phase, waiters: Vec::new() }
    }

    /// Forgets what came in, and goes on under a new id: whoever answered may not be the one to ask any more.
    pub(super) fn restart(&mut self, id: QueryId) {
        self.id = id;
        self.phase = QueryPhase::Dns { v4: Progress::Pending, v6: Progress::Pending };
    }

    pub(super) fn join(&mut self, waiter: LookupId, want: Want) {
        self.waiters.push((waiter, want));
    }

    pub(super) fn leave(&mut self, waiter: LookupId) {
        self.waiters.retain(|(own, _)| *own != waiter);
    }

    /// Takes all who wait.
    pub(super) fn take_all(&mut self) -> Vec<LookupId> {
        self.waiters.drain(..).map(|(waiter, _)| waiter).collect()
    }

    /// Takes those who wait for the first addresses only, with these addresses, if they may go.
    pub(super) fn take_first(&mut self, now: Instant) -> Option<(Vec<LookupId>, Vec<IpAddr>)> {
        let due = self.first_at().is_some_and(|at| at <= now);
        if !due || !self.waiters.iter().any(|(_, want)| *want == Want::First) {
            return None;
        }
        let (first, rest): (Vec<_>, Vec<_>) = self.waiters.drain(..).partition(|(_, want)| *want == Want::First);
        self.waiters = rest;
        Some((first.into_iter().map(|(waiter, _)| waiter).collect(), self.found().0))
    }

    /// Returns what has been found so far if the last good answer is past its time, and else that answer.
    pub(super) fn instead_of(&self, last: LookupAnswer) -> LookupAnswer {
        match self.found() {
            (addresses, Some(_)) if last.stale => LookupAnswer { addresses, complete: false, stale: false },
            (_, Some(_) | None) => last,
        }
    }

    /// Returns what has been found so far, and of the last good answer what a family has that is still awaited.
    pub(super) fn so_far(&self, last: Option<&Good>, now: Instant) -> Option<LookupAnswer> {
        let last = last.map(|good| good.answer(now));
        let (mut addresses, Some(_)) = self.found() else { return last };
        let is_found = |family: &IpAddr| addresses.iter().any(|found| found.is_ipv4() == family.is_ipv4());
        let awaited: Vec<IpAddr> = last.into_iter().flat_map(|last| last.addresses).filter(|old| !is_found(old)).collect();
        addresses.extend(awaited);
        Some(LookupAnswer { addresses, complete: false, stale: false })
    }

    /// Records what DNS said for one family. Only the first word counts.
    pub(super) fn record(
        &mut self,
        family: AddressFamily,
        outcome: Result<(Vec<IpAddr>, Duration), LookupFailure>,
        name: &str,
        now: Instant,
    ) -> QueryStatus {
        let QueryPhase::Dns { v4, v6 } = &mut self.phase else { return QueryStatus::Flying };
        let slot = match family {
            AddressFamily::V4 => v4,
            AddressFamily::V6 => v6,
        };
        if matches!(slot, Progress::Pending) {
            *slot = match outcome {
                Ok((addresses, _)) if addresses.is_empty() => Progress::Failed(LookupFailure::NoAddresses),
                Ok((addresses, ttl)) => Progress::Found { addresses, ttl, at: now },
                Err(failure) => Progress::Failed(failure),
            };
        }
        self.judge(name, now)
    }

    /// Records an answer for both families at once.
    pub(super) fn record_system(&self, outcome: Result<Vec<IpAddr>, Error>, ttl: Duration, name: &str, now: Instant) -> QueryStatus {
        match (outcome, &self.phase) {
            (Ok(addresses), _) if addresses.is_empty() => QueryStatus::NotThere(self.no_addresses(name, now)),
            (Ok(addresses), _) => QueryStatus::Found { addresses, ttl, complete: true },
            (Err(error), QueryPhase::System(Denial::NoSuchName)) => {
                QueryStatus::NotThere(self.no_such_name(name, now).with_causes(vec![error]))
            }
            (Err(error), QueryPhase::System(Denial::NoServer) | QueryPhase::Dns { .. }) => {
                QueryStatus::Down(error.at(Stage::Dns).after(self.elapsed(now)))
            }
        }
    }

    /// Says what is made of the flight at its deadline.
    pub(super) fn time_out(&self, budget: Duration, now: Instant) -> QueryStatus {
        self.half().unwrap_or_else(|| QueryStatus::Down(Error::timeout(Stage::Dns, BUDGET, budget, self.elapsed(now))))
    }

    /// Says what is made of a flight that ends before both families are known, if one of them is.
    pub(super) fn half(&self) -> Option<QueryStatus> {
        match self.found() {
            // The other family may have addresses: this answer is not for long.
            (addresses, Some(_)) => Some(QueryStatus::Found { addresses, ttl: Duration::ZERO, complete: false }),
            (_, None) => None,
        }
    }

    /// Returns the timers that run; those that nobody waits for do not.
    pub(super) fn timers(&self, has_last: bool) -> impl Iterator<Item = (Instant, &'static str)> {
        let hasty = self.waiters.iter().any(|(_, want)| *want == Want::First);
        let first = self.first_at().filter(|_| hasty).map(|at| (at, "resolution delay"));
        let stale = (has_last && !self.waiters.is_empty()).then_some((self.stale_at, "stale answer"));
        [Some((self.deadline, BUDGET)), first, stale].into_iter().flatten()
    }

    fn judge(&mut self, name: &str, now: Instant) -> QueryStatus {
        let QueryPhase::Dns { v4, v6 } = &self.phase else { return QueryStatus::Flying };
        let denial = match (v4, v6) {
            (Progress::Pending, _) | (_, Progress::Pending) => return QueryStatus::Flying,
            (Progress::Found { .. }, _) | (_, Progress::Found { .. }) => {
                let (addresses, ttl) = self.found();
                return QueryStatus::Found { addresses, ttl: ttl.unwrap_or_default(), complete: true };
            }
            (Progress::Failed(LookupFailure::Other(error)), _) | (_, Progress::Failed(LookupFailure::Other(error))) => {
                return QueryStatus::Down(error.clone().at(Stage::Dns).after(self.elapsed(now)));
            }
            (Progress::Failed(LookupFailure::NoAddresses), _) | (_, Progress::Failed(LookupFailure::NoAddresses)) => {
                return QueryStatus::NotThere(self.no_addresses(name, now));
            }
            (Progress::Failed(LookupFailure::NoServer), _) | (_, Progress::Failed(LookupFailure::NoServer)) => Denial::NoServer,
            (Progress::Failed(LookupFailure::NoSuchName), Progress::Failed(LookupFailure::NoSuchName)) => Denial::NoSuchName,
        };
        self.phase = QueryPhase::System(denial);
        QueryStatus::AskSystem
    }

    /// Returns what DNS has found so far, IPv6 first, and the shorter lifetime.
    fn found(&self) -> (Vec<IpAddr>, Option<Duration>) {
        let mut all = Vec::new();
        let mut shortest: Option<Duration> = None;
        if let QueryPhase::Dns { v4, v6 } = &self.phase {
            for progress in [v6, v4] {
                if let Progress::Found { addresses, ttl, .. } = progress {
                    all.extend(addresses.iter().copied());
                    shortest = Some(shortest.map_or(*ttl, |known| known.min(*ttl)));
                }
            }
        }
        (all, shortest)
    }

    /// Returns when those who want the first addresses get them (RFC 8305 section 3).
    fn first_at(&self) -> Option<Instant> {
        match &self.phase {
            QueryPhase::Dns { v6: Progress::Found { at, .. }, .. } => Some(*at),
            QueryPhase::Dns { v4: Progress::Found { at, .. }, v6: Progress::Pending } => Some(*at + RESOLUTION_DELAY),
            QueryPhase::Dns { .. } | QueryPhase::System(_) => None,
        }
    }

    fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.asked_at)
    }

    fn no_such_name(&self, name: &str, now: Instant) -> Error {
        Error::new(ErrorKind::NoSuchName, format!("the name {name:?} does not exist")).at(Stage::Dns).after(self.elapsed(now))
    }

    fn no_addresses(&self, name: &str, now: Instant) -> Error {
        Error::new(ErrorKind::NoAddresses, format!("the name {name:?} has no addresses")).at(Stage::Dns).after(self.elapsed(now))
    }
}

/// How long an IPv4 answer waits for the IPv6 answer (RFC 8305 section 3, "Resolution Delay").
pub(super) const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
