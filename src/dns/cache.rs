//! When is DNS asked for a name's addresses, and who gets which answer?
//!
//! One query per record type is in flight for a name (single flight); answers are kept for their time to live, and after
//! it for as long as nobody can say better (RFC 8767); names that do not exist are remembered shortly. An address that
//! stopped answering is left out, and makes the next question go to DNS. What is enough for whom while a question is
//! under way is `flight`'s business; how it is asked is `io::resolver`'s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::action::{CacheAction, LookupId};
use super::flight::{Query, QueryId, QueryStatus};
use super::good::Good;
use super::limits::{
    BUDGET_MAX, DOWN_TTL, NAMES_MAX, NOT_THERE_TTL, STALE_ANSWER_DELAY, STALE_KEPT, STALE_RETRY, TTL_MAX, TTL_MIN, UNTIMED_TTL, WAITERS_MAX,
};
use super::{AddressFamily, LookupAnswer, LookupFailure, Want};
use crate::error::{Error, ErrorKind, LimitValue, Stage};

mod arrivals;
mod retention;

/// Holds what is known of names.
///
/// ```text
///  Absent --asked--> Asking{deadline} --answered--> Fresh --time to live over, address dead, resumed--> Stale
///    ^                  |   ^     '--failed, nothing kept--> Failed                                       |
///    |                  |   '----------------------asked----------------------------------------------'
///    |                  '--failed, last answer kept--> Stale
///    '-- Stale after a day, Failed after seconds or when resumed, any that was not asked for longest
/// ```
/// Time alone moves nothing that nobody waits for: Fresh, Stale and Failed are looked at when the name is asked for.
/// The deadline belongs to the flight: a caller that joins late may be answered before its own budget is over.
#[derive(Debug)]
pub struct Cache {
    budget: Duration,
    entries: BTreeMap<String, CacheEntry>,
    /// The names that are in state Asking.
    asking: BTreeSet<String>,
    /// The names by their last use.
    recency: BTreeMap<u64, String>,
    /// What each caller that waits has asked for.
    waiters: BTreeMap<LookupId, String>,
    actions: VecDeque<CacheAction>,
    uses: u64,
    flights: u64,
    arrivals: u64,
}

#[derive(Debug)]
struct CacheEntry {
    state: NameState,
    used: u64,
    /// Which arrival of addresses was the last; 0 before the first.
    arrived: u64,
}

#[derive(Debug)]
enum NameState {
    /// A question is under way; `last` is the last good answer.
    Asking {
        flight: Query,
        last: Option<Good>,
    },
    Fresh(Good),
    /// The answer is past its time, or an address of it is dead: it is asked again from `retry_at` on, served until then.
    Stale {
        good: Good,
        retry_at: Instant,
    },
    Failed {
        error: Error,
        until: Instant,
    },
}

impl Cache {
    /// Makes an empty cache; `budget` limits each question.
    pub fn new(budget: Duration) -> Self {
        Self {
            budget: budget.min(BUDGET_MAX),
            entries: BTreeMap::new(),
            asking: BTreeSet::new(),
            recency: BTreeMap::new(),
            waiters: BTreeMap::new(),
            actions: VecDeque::new(),
            uses: 0,
            flights: 0,
            arrivals: 0,
        }
    }

    /// Somebody asks for a name, given in normal form.
    pub fn handle_ask(&mut self, waiter: LookupId, name: &str, want: Want, now: Instant) {
        // Nobody may have been left to tell it that a flight's time is over.
        self.handle_timeout(now);
        self.expire(name, now);
        self.touch(name);
        match self.entries.get(name).map(|entry| &entry.state) {
            Some(NameState::Fresh(good)) => self.actions.push_back(CacheAction::Answer(vec![waiter], good.answer(now))),
            Some(NameState::Stale { good, retry_at }) if now < *retry_at => {
                self.actions.push_back(CacheAction::Answer(vec![waiter], good.answer(now)));
            }
            Some(NameState::Failed { error, .. }) => self.actions.push_back(CacheAction::Refuse(vec![waiter], error.clone())),
            Some(NameState::Asking { .. } | NameState::Stale { .. }) | None => self.wait(waiter, name, want, now),
        }
    }

    /// A caller has gone. Its question goes on: the next one will be glad of the answer.
    pub fn handle_cancel(&mut self, waiter: LookupId) {
        if let Some(name) = self.waiters.remove(&waiter)
            && let Some(NameState::Asking { flight, .. }) = self.entries.get_mut(&name).map(|entry| &mut entry.state)
        {
            flight.leave(waiter);
        }
    }

    /// DNS answered for one family; `ttl` is the shortest of the records'.
    pub fn handle_answered(
        &mut self,
        name: &str,
        flight: QueryId,
        family: AddressFamily,
        addresses: Vec<IpAddr>,
        ttl: Duration,
        now: Instant,
    ) {
        self.record(name, flight, family, Ok((addresses, ttl)), now);
    }

    /// DNS has no addresses of one family, or did not answer.
    pub fn handle_failed(&mut self, name: &str, flight: QueryId, family: AddressFamily, failure: LookupFailure, now: Instant) {
        self.record(name, flight, family, Err(failure), now);
    }

    /// A source without families and lifetimes answered: the operating system, the hosts file or a user's own resolver.
    pub fn handle_system(&mut self, name: &str, flight: QueryId, outcome: Result<Vec<IpAddr>, Error>, now: Instant) {
        if let Some(own) = self.flight(name, flight) {
            let verdict = own.record_system(outcome, UNTIMED_TTL, name, now);
            self.conclude(name, verdict, now);
        }
    }

    /// Whoever carried the question is gone without a word.
    pub fn handle_abandoned(&mut self, name: &str, flight: QueryId, now: Instant) {
        if self.flight(name, flight).is_none() {
            return;
        }
        if let Some(verdict) = self.half(name, now) {
            return self.conclude(name, verdict, now);
        }
        let Some((waiters, last)) = self.land(name) else { return };
        match last {
            Some(good) => {
                self.answer(waiters, good.answer(now));
                self.settle(name, NameState::Stale { good, retry_at: now });
            }
            None => {
                self.forget(name);
                self.refuse(waiters, Error::new(ErrorKind::Shutdown, format!("the look-up of {name:?} was ended")).at(Stage::Dns));
            }
        }
    }

    /// An address stopped answering. The others are served while DNS is asked again; if none is left, DNS must answer
    /// first, and the dead ones are only served if it can't.
    pub fn handle_dead(&mut self, name: &str, address: IpAddr, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        match &mut entry.state {
            NameState::Asking { last: Some(good), flight } => {
                good.bury(address);
                if good.is_dead() {
                    flight.stale_at = flight.deadline;
                }
            }
            NameState::Stale { good, retry_at } => {
                if good.bury(address) {
                    *retry_at = now;
                }
            }
            NameState::Fresh(good) => {
                if good.bury(address) {
                    let good = good.take();
                    entry.state = NameState::Stale { good, retry_at: now };
                }
            }
            NameState::Asking { last: None, .. } | NameState::Failed { .. } => {}
        }
    }

    /// The machine slept, or its network changed: nothing is fresh, and what failed may work now. Questions under way are
    /// asked again, because those who were asked may be out of reach.
    pub fn handle_resumed(&mut self, now: Instant) {
        let names: Vec<String> = self.entries.keys().cloned().collect();
        for name in names {
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            match &mut entry.state {
                NameState::Asking { flight, last } => {
                    self.flights += 1;
                    flight.restart(QueryId(self.flights));
                    if let Some(good) = last {
                        good.valid_until = good.valid_until.min(now);
                    }
                    self.actions.push_back(CacheAction::Query(name, QueryId(self.flights)));
                }
                NameState::Fresh(good) => {
                    good.valid_until = good.valid_until.min(now);
                    let good = good.take();
                    entry.state = NameState::Stale { good, retry_at: now };
                }
                NameState::Stale { good, retry_at } => {
                    good.valid_until = good.valid_until.min(now);
                    *retry_at = (*retry_at).min(now);
                }
                NameState::Failed { .. } => self.forget(&name),
            }
        }
    }

    /// A timer may have run out.
    pub fn handle_timeout(&mut self, now: Instant) {
        let asking: Vec<String> = self.asking.iter().cloned().collect();
        for name in asking {
            self.serve(&name, now);
            let verdict = match self.entries.get(&name).map(|entry| &entry.state) {
                Some(NameState::Asking { flight, .. }) if flight.deadline <= now => flight.time_out(self.budget, now),
                Some(NameState::Asking { .. } | NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. }) | None => {
                    continue;
                }
            };
            self.conclude(&name, verdict, now);
        }
    }

    /// Returns the next wish.
    pub fn poll_action(&mut self) -> Option<CacheAction> {
        self.actions.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let flights = self.asking.iter().filter_map(|name| self.entries.get(name));
        let timers = flights.filter_map(|entry| match &entry.state {
            NameState::Asking { flight, last } => flight.timers(last.is_some()).min_by_key(|(at, _)| *at),
            NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. } => None,
        });
        timers.min_by_key(|(at, _)| *at)
    }

    fn wait(&mut self, waiter: LookupId, name: &str, want: Want, now: Instant) {
        if self.waiters.len() >= WAITERS_MAX {
            let error = Error::new(ErrorKind::TooManyWaiters, "too many callers wait for addresses already");
            self.refuse(vec![waiter], error.at(Stage::Dns).against("WAITERS_MAX", LimitValue::Count(WAITERS_MAX as u64)));
            return;
        }
        if !self.asking.contains(name) && !self.take_off(name, now) {
            let error = Error::new(ErrorKind::DnsFailed, "too many names are asked for at once");
            self.refuse(vec![waiter], error.at(Stage::Dns).against("NAMES_MAX", LimitValue::Count(NAMES_MAX as u64)));
            return;
        }
        if let Some(NameState::Asking { flight, .. }) = self.entries.get_mut(name).map(|entry| &mut entry.state) {
            flight.join(waiter, want);
            self.waiters.insert(waiter, name.to_owned());
        }
        self.serve(name, now);
    }

    /// Starts a flight; `false` if there is no room for another name.
    fn take_off(&mut self, name: &str, now: Instant) -> bool {
        let known = self.entries.remove(name);
        let arrived = known.as_ref().map_or(0, |entry| entry.arrived);
        let last = match known {
            Some(CacheEntry { used, state, .. }) => {
                self.recency.remove(&used);
                match state {
                    NameState::Asking { last, .. } => last,
                    NameState::Fresh(good) | NameState::Stale { good, .. } => Some(good),
                    NameState::Failed { .. } => None,
                }
            }
            None => None,
        };
        if self.entries.len() >= NAMES_MAX && !self.evict() {
            return false;
        }
        let deadline = now + self.budget;
        let stale_at = match &last {
            Some(good) if good.is_dead() => deadline,
            Some(good) if now < good.valid_until => now,
            Some(_) | None => deadline.min(now + STALE_ANSWER_DELAY),
        };
        self.flights += 1;
        let flight = Query::new(QueryId(self.flights), stale_at, self.budget, now);
        self.actions.push_back(CacheAction::Query(name.to_owned(), flight.id));
        self.entries.insert(name.to_owned(), CacheEntry { state: NameState::Asking { flight, last }, used: 0, arrived });
        self.asking.insert(name.to_owned());
        self.touch(name);
        true
    }

    fn record(
        &mut self,
        name: &str,
        flight: QueryId,
        family: AddressFamily,
        outcome: Result<(Vec<IpAddr>, Duration), LookupFailure>,
        now: Instant,
    ) {
        let is_arrival = outcome.as_ref().is_ok_and(|(addresses, _)| !addresses.is_empty());
        if let Some(own) = self.flight(name, flight) {
            let verdict = own.record(family, outcome, name, now);
            if is_arrival {
                self.arrive(name);
            }
            self.conclude(name, verdict, now);
        }
    }

    fn conclude(&mut self, name: &str, verdict: QueryStatus, now: Instant) {
        match verdict {
            QueryStatus::Flying => self.serve(name, now),
            QueryStatus::AskSystem => {
                // A flight of its own: whoever carried the question to DNS is gone now, and must not end this one.
                self.flights += 1;
                let id = QueryId(self.flights);
                if let Some(NameState::Asking { flight, .. }) = self.entries.get_mut(name).map(|entry| &mut entry.state) {
                    flight.id = id;
                    self.actions.push_back(CacheAction::QuerySystem(name.to_owned(), id));
                }
            }
            QueryStatus::Found { addresses, ttl, complete } => {
                let Some((waiters, _)) = self.land(name) else { return };
                let valid_until = now + ttl.clamp(TTL_MIN, TTL_MAX);
                let good = Good::new(addresses, valid_until, valid_until + STALE_KEPT);
                self.answer(waiters, LookupAnswer { complete, ..good.answer(now) });
                self.settle(name, NameState::Fresh(good));
                self.arrive(name);
            }
            QueryStatus::NotThere(error) => {
                let Some((waiters, _)) = self.land(name) else { return };
                self.refuse(waiters, error.clone());
                self.settle(name, NameState::Failed { error, until: now + NOT_THERE_TTL });
            }
            QueryStatus::Down(error) => {
                let Some((waiters, last)) = self.land(name) else { return };
                match last.filter(|good| now < good.kept_until) {
                    Some(good) => {
                        self.answer(waiters, good.answer(now));
                        self.settle(name, NameState::Stale { good, retry_at: now + STALE_RETRY });
                    }
                    None => {
                        self.refuse(waiters, error.clone());
                        self.settle(name, NameState::Failed { error, until: now + DOWN_TTL });
                    }
                }
            }
        }
    }

    /// Gives those who wait what they may have by now.
    fn serve(&mut self, name: &str, now: Instant) {
        let Some(NameState::Asking { flight, last }) = self.entries.get_mut(name).map(|entry| &mut entry.state) else { return };
        let first = flight.take_first(now);
        let stale = match last {
            Some(good) if flight.stale_at <= now => Some((flight.take_all(), flight.instead_of(good.answer(now)))),
            Some(_) | None => None,
        };
        if let Some((waiters, addresses)) = first {
            self.answer(waiters, LookupAnswer { addresses, complete: false, stale: false });
        }
        if let Some((waiters, answer)) = stale {
            self.answer(waiters, answer);
        }
    }

    fn answer(&mut self, waiters: Vec<LookupId>, answer: LookupAnswer) {
        for waiter in &waiters {
            self.waiters.remove(waiter);
        }
        if !waiters.is_empty() {
            self.actions.push_back(CacheAction::Answer(waiters, answer));
        }
    }

    fn refuse(&mut self, waiters: Vec<LookupId>, error: Error) {
        for waiter in &waiters {
            self.waiters.remove(waiter);
        }
        if !waiters.is_empty() {
            self.actions.push_back(CacheAction::Refuse(waiters, error));
        }
    }

    /// Returns the flight of a name, if it is this one.
    fn flight(&mut self, name: &str, id: QueryId) -> Option<&mut Query> {
        match self.entries.get_mut(name).map(|entry| &mut entry.state) {
            Some(NameState::Asking { flight, .. }) if flight.id == id => Some(flight),
            Some(NameState::Asking { .. } | NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. }) | None => None,
        }
    }

    /// Ends the flight of a name: returns who waits for it, and the last good answer. The caller settles or forgets.
    fn land(&mut self, name: &str) -> Option<(Vec<LookupId>, Option<Good>)> {
        match self.entries.get_mut(name).map(|entry| &mut entry.state) {
            Some(NameState::Asking { flight, last }) => {
                self.asking.remove(name);
                Some((flight.take_all(), last.take()))
            }
            Some(NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. }) | None => None,
        }
    }

    fn settle(&mut self, name: &str, state: NameState) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.state = state;
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
