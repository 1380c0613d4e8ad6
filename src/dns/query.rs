//! One running query for a name: what is known so far, and which callers can be answered with it.
//!
//! Each name has at most one query: both record types are requested at once, and all callers wait for the same query. The
//! resolution delay is that of RFC 8305 section 3. Does not decide what follows from the outcome (`cache`).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::action::LookupId;
use super::known_answer::KnownAnswer;
use super::limits::UNTIMED_TTL;
use super::{AddressFamily, BUDGET, LookupAnswer, LookupFailure, LookupMode};
use crate::error::{Error, ErrorKind, Stage};

/// The number of a query. Facts about an earlier query of the same name are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryId(pub(super) u64);

/// A running query.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) id: QueryId,
    started_at: Instant,
    pub(super) deadline: Instant,
    /// When the callers get the last good answer, if there is one.
    pub(super) stale_at: Instant,
    v4: Progress,
    v6: Progress,
    /// What the query is waiting for, for the text of its time-out.
    waiting_for: Option<String>,
    waiters: Vec<(LookupId, LookupMode)>,
}

#[derive(Debug)]
enum Progress {
    Pending,
    Found { addresses: Vec<IpAddr>, ttl: Duration, at: Instant },
    Failed(LookupFailure),
}

/// The state of a query after a fact.
#[derive(Debug)]
pub(super) enum QueryStatus {
    /// Answers are still missing.
    Pending,
    /// There are addresses.
    Found { addresses: Vec<IpAddr>, ttl: Duration, complete: bool },
    /// The name does not exist, or has no addresses.
    NotThere(Error),
    /// There was no usable answer.
    Failed(Error),
}

impl Query {
    pub(super) fn new(id: QueryId, stale_at: Instant, budget: Duration, now: Instant) -> Self {
        Self {
            id,
            started_at: now,
            deadline: now + budget,
            stale_at,
            v4: Progress::Pending,
            v6: Progress::Pending,
            waiting_for: None,
            waiters: Vec::new(),
        }
    }

    /// Discards partial results and continues under a new id with the same deadline.
    pub(super) fn restart(&mut self, id: QueryId) {
        self.id = id;
        (self.v4, self.v6) = (Progress::Pending, Progress::Pending);
        self.waiting_for = None;
    }

    pub(super) fn add_waiter(&mut self, waiter: LookupId, mode: LookupMode) {
        self.waiters.push((waiter, mode));
    }

    pub(super) fn remove_waiter(&mut self, waiter: LookupId) {
        self.waiters.retain(|(own, _)| *own != waiter);
    }

    /// Removes and returns all waiters.
    pub(super) fn take_all(&mut self) -> Vec<LookupId> {
        self.waiters.drain(..).map(|(waiter, _)| waiter).collect()
    }

    /// Removes and returns the waiters for the first addresses, with these addresses, once they may be used.
    pub(super) fn take_first(&mut self, now: Instant) -> Option<(Vec<LookupId>, Vec<IpAddr>)> {
        let due = self.first_at().is_some_and(|at| at <= now);
        if !due || !self.waiters.iter().any(|(_, mode)| *mode == LookupMode::First) {
            return None;
        }
        let (first, rest): (Vec<_>, Vec<_>) = self.waiters.drain(..).partition(|(_, mode)| *mode == LookupMode::First);
        self.waiters = rest;
        Some((first.into_iter().map(|(waiter, _)| waiter).collect(), self.found().0))
    }

    /// Returns what has been found so far if the last good answer is stale, and else that answer.
    pub(super) fn instead_of(&self, last: LookupAnswer) -> LookupAnswer {
        match self.found() {
            (addresses, Some(_)) if last.stale => LookupAnswer { addresses, complete: false, stale: false },
            (_, Some(_) | None) => last,
        }
    }

    /// Returns what has been found so far, completed with the last good answer's addresses of a family that is pending.
    pub(super) fn so_far(&self, last: Option<&KnownAnswer>, now: Instant) -> Option<LookupAnswer> {
        let last = last.map(|known| known.answer(now));
        let (mut addresses, Some(_)) = self.found() else { return last };
        let is_found = |family: &IpAddr| addresses.iter().any(|found| found.is_ipv4() == family.is_ipv4());
        let pending: Vec<IpAddr> = last.into_iter().flat_map(|last| last.addresses).filter(|old| !is_found(old)).collect();
        addresses.extend(pending);
        Some(LookupAnswer { addresses, complete: false, stale: false })
    }

    /// Records the result of one family. Only the first result counts.
    pub(super) fn record(
        &mut self,
        family: AddressFamily,
        outcome: Result<(Vec<IpAddr>, Duration), LookupFailure>,
        name: &str,
        now: Instant,
    ) -> QueryStatus {
        let slot = match family {
            AddressFamily::V4 => &mut self.v4,
            AddressFamily::V6 => &mut self.v6,
        };
        if matches!(slot, Progress::Pending) {
            *slot = match outcome {
                Ok((addresses, _)) if addresses.is_empty() => Progress::Failed(LookupFailure::NoAddresses),
                Ok((addresses, ttl)) => Progress::Found { addresses, ttl, at: now },
                Err(failure) => Progress::Failed(failure),
            };
        }
        self.status(name, now)
    }

    /// Returns the status that follows from the result of a source without record types and times to live.
    pub(super) fn status_of_whole(&self, outcome: Result<Vec<IpAddr>, Error>, name: &str, now: Instant) -> QueryStatus {
        match outcome {
            Ok(addresses) if addresses.is_empty() => QueryStatus::NotThere(self.no_addresses(name, now)),
            Ok(addresses) => QueryStatus::Found { addresses, ttl: UNTIMED_TTL, complete: true },
            Err(error) if error.kind() == ErrorKind::NoSuchName => {
                QueryStatus::NotThere(self.no_such_name(name, now).with_causes(vec![error]))
            }
            Err(error) if error.kind() == ErrorKind::NoAddresses => {
                QueryStatus::NotThere(self.no_addresses(name, now).with_causes(vec![error]))
            }
            Err(error) => QueryStatus::Failed(error.at(Stage::Dns).after(self.elapsed(now))),
        }
    }

    /// Records what the query is waiting for.
    pub(super) fn set_waiting_for(&mut self, what: String) {
        self.waiting_for = Some(what);
    }

    /// Returns the status at the deadline.
    pub(super) fn time_out(&self, budget: Duration, now: Instant) -> QueryStatus {
        self.partial().unwrap_or_else(|| {
            let error = Error::timeout(Stage::Dns, BUDGET, budget, self.elapsed(now));
            QueryStatus::Failed(match &self.waiting_for {
                Some(what) => error.adding(what),
                None => error,
            })
        })
    }

    /// Returns the status of a query that ends before both families are known, if one of them is.
    pub(super) fn partial(&self) -> Option<QueryStatus> {
        match self.found() {
            // The other family may have addresses, so the answer is used for the shortest time only.
            (addresses, Some(_)) => Some(QueryStatus::Found { addresses, ttl: Duration::ZERO, complete: false }),
            (_, None) => None,
        }
    }

    /// Returns the running timers. Those without a waiter do not run.
    pub(super) fn timers(&self, has_last: bool) -> impl Iterator<Item = (Instant, &'static str)> {
        let waits_for_first = self.waiters.iter().any(|(_, mode)| *mode == LookupMode::First);
        let first = self.first_at().filter(|_| waits_for_first).map(|at| (at, "resolution delay"));
        let stale = (has_last && !self.waiters.is_empty()).then_some((self.stale_at, "stale answer"));
        [Some((self.deadline, BUDGET)), first, stale].into_iter().flatten()
    }

    fn status(&self, name: &str, now: Instant) -> QueryStatus {
        match (&self.v4, &self.v6) {
            (Progress::Pending, _) | (_, Progress::Pending) => QueryStatus::Pending,
            (Progress::Found { .. }, _) | (_, Progress::Found { .. }) => {
                let (addresses, ttl) = self.found();
                QueryStatus::Found { addresses, ttl: ttl.unwrap_or_default(), complete: true }
            }
            (Progress::Failed(LookupFailure::Other(error)), _) | (_, Progress::Failed(LookupFailure::Other(error))) => {
                QueryStatus::Failed(error.clone().at(Stage::Dns).after(self.elapsed(now)))
            }
            (Progress::Failed(LookupFailure::NoAddresses), _) | (_, Progress::Failed(LookupFailure::NoAddresses)) => {
                QueryStatus::NotThere(self.no_addresses(name, now))
            }
            (Progress::Failed(LookupFailure::NoSuchName), Progress::Failed(LookupFailure::NoSuchName)) => {
                QueryStatus::NotThere(self.no_such_name(name, now))
            }
        }
    }

    /// Returns the addresses found so far, IPv6 first, and the shorter time to live.
    fn found(&self) -> (Vec<IpAddr>, Option<Duration>) {
        let mut all = Vec::new();
        let mut shortest: Option<Duration> = None;
        for progress in [&self.v6, &self.v4] {
            if let Progress::Found { addresses, ttl, .. } = progress {
                all.extend(addresses.iter().copied());
                shortest = Some(shortest.map_or(*ttl, |known| known.min(*ttl)));
            }
        }
        (all, shortest)
    }

    /// Returns when the first addresses may be used (RFC 8305 section 3).
    fn first_at(&self) -> Option<Instant> {
        match (&self.v4, &self.v6) {
            (_, Progress::Found { at, .. }) => Some(*at),
            (Progress::Found { at, .. }, Progress::Pending) => Some(*at + RESOLUTION_DELAY),
            _ => None,
        }
    }

    fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started_at)
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
