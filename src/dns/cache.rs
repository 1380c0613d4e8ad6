//! The address cache: when a name is resolved, and which caller gets which answer.
//!
//! One query per name runs at a time. Answers are used for their time to live and served stale while DNS is down
//! (RFC 8767); names that do not exist are remembered for a short time. An address that stopped answering is left out, and
//! the next look-up queries again. Does not decide what suffices for a waiting caller (`query`), nor how queries are sent
//! (`io::resolver`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::action::{CacheAction, LookupId};
use super::known_answer::KnownAnswer;
use super::limits::{
    BUDGET_MAX, DOWN_TTL, NAMES_MAX, NOT_THERE_TTL, STALE_ANSWER_DELAY, STALE_KEPT, STALE_RETRY, TTL_MAX, TTL_MIN, WAITERS_MAX,
};
use super::query::{Query, QueryId, QueryStatus};
use super::{AddressFamily, LookupAnswer, LookupFailure, LookupMode};
use crate::error::{Error, ErrorKind, LimitValue, Stage};

mod arrivals;
mod outputs;
mod retention;

/// The addresses of names, and the callers that wait for them.
///
/// ```text
///  Absent --ask--> Querying{deadline} --answered--> Fresh --expired, address dead, resumed--> Stale
///    ^                |   ^     '--failed, nothing kept--> Failed                              |
///    |                |   '------------------------ask--------------------------------------'
///    |                '--failed, last answer kept--> Stale
///    '-- Stale after a day, Failed after seconds or when resumed, the least recently used name
/// ```
/// Expiry is applied when a name is asked for; only Querying has timers. The deadline belongs to the query: a caller that
/// joins late is answered by the same deadline.
#[derive(Debug)]
pub struct Cache {
    budget: Duration,
    entries: BTreeMap<String, CacheEntry>,
    /// The names in state Querying.
    querying: BTreeSet<String>,
    /// The names by their last use.
    recency: BTreeMap<u64, String>,
    /// The name each waiting caller asked for.
    waiters: BTreeMap<LookupId, String>,
    actions: VecDeque<CacheAction>,
    uses: u64,
    queries_made: u64,
    arrivals: u64,
    /// How many of the arrivals were taken as events.
    arrivals_taken: u64,
}

#[derive(Debug)]
struct CacheEntry {
    state: NameState,
    used: u64,
    /// The number of the last arrival of addresses; 0 before the first.
    arrived: u64,
}

#[derive(Debug)]
enum NameState {
    /// A query is running; `last` is the last good answer.
    Querying {
        query: Query,
        last: Option<KnownAnswer>,
    },
    Fresh(KnownAnswer),
    /// The answer is expired, or has a dead address. It is served until `retry_at`; after that the next caller starts a query.
    Stale {
        known: KnownAnswer,
        retry_at: Instant,
    },
    Failed {
        error: Error,
        until: Instant,
    },
}

impl Cache {
    /// Creates an empty cache; `budget` limits each query.
    pub fn new(budget: Duration) -> Self {
        Self {
            budget: budget.min(BUDGET_MAX),
            entries: BTreeMap::new(),
            querying: BTreeSet::new(),
            recency: BTreeMap::new(),
            waiters: BTreeMap::new(),
            actions: VecDeque::new(),
            uses: 0,
            queries_made: 0,
            arrivals: 0,
            arrivals_taken: 0,
        }
    }

    /// A caller asks for a name in normal form.
    pub fn handle_ask(&mut self, waiter: LookupId, name: &str, mode: LookupMode, now: Instant) {
        // Without waiters the timer of an overdue query was not kept.
        self.handle_timeout(now);
        self.expire(name, now);
        self.touch(name);
        match self.entries.get(name).map(|entry| &entry.state) {
            Some(NameState::Fresh(known)) => self.actions.push_back(CacheAction::Answer(vec![waiter], known.answer(now))),
            Some(NameState::Stale { known, retry_at }) if now < *retry_at => {
                self.actions.push_back(CacheAction::Answer(vec![waiter], known.answer(now)));
            }
            Some(NameState::Failed { error, .. }) => self.actions.push_back(CacheAction::Refuse(vec![waiter], error.clone())),
            Some(NameState::Querying { .. } | NameState::Stale { .. }) | None => self.wait(waiter, name, mode, now),
        }
    }

    /// A caller has gone. Its query continues, for the next caller.
    pub fn handle_cancel(&mut self, waiter: LookupId) {
        if let Some(name) = self.waiters.remove(&waiter)
            && let Some(NameState::Querying { query, .. }) = self.entries.get_mut(&name).map(|entry| &mut entry.state)
        {
            query.remove_waiter(waiter);
        }
    }

    /// DNS answered for one family; `ttl` is the shortest of the records' times to live.
    pub fn handle_answered(
        &mut self,
        name: &str,
        query: QueryId,
        family: AddressFamily,
        addresses: Vec<IpAddr>,
        ttl: Duration,
        now: Instant,
    ) {
        self.record(name, query, family, Ok((addresses, ttl)), now);
    }

    /// DNS has no addresses of one family, or did not answer.
    pub fn handle_failed(&mut self, name: &str, query: QueryId, family: AddressFamily, failure: LookupFailure, now: Instant) {
        self.record(name, query, family, Err(failure), now);
    }

    /// A source that answers as a whole has the result: the operating system, the hosts file or a user's own resolver. An
    /// error of kind `NoSuchName` or `NoAddresses` says that the name is not there; any other one is a failure.
    pub fn handle_whole(&mut self, name: &str, query: QueryId, outcome: Result<Vec<IpAddr>, Error>, now: Instant) {
        if let Some(own) = self.query(name, query) {
            let status = own.status_of_whole(outcome, name, now);
            self.apply_status(name, status, now);
        }
    }

    /// A query waits for something of this machine; the text of its time-out says so.
    pub fn handle_waiting(&mut self, name: &str, query: QueryId, what: String) {
        if let Some(own) = self.query(name, query) {
            own.set_waiting_for(what);
        }
    }

    /// The task of a query ended without a result.
    pub fn handle_abandoned(&mut self, name: &str, query: QueryId, now: Instant) {
        if self.query(name, query).is_none() {
            return;
        }
        if let Some(status) = self.partial(name, now) {
            return self.apply_status(name, status, now);
        }
        let Some((waiters, last)) = self.finish_query(name) else { return };
        match last {
            Some(known) => {
                self.answer(waiters, known.answer(now));
                self.set_state(name, NameState::Stale { known, retry_at: now });
            }
            None => {
                self.forget(name);
                self.refuse(waiters, Error::new(ErrorKind::Shutdown, format!("the look-up of {name:?} was ended")).at(Stage::Dns));
            }
        }
    }

    /// An address stopped answering. The others are served while a query runs; if none is left, callers wait for the query,
    /// and get the dead ones only if it fails.
    pub fn handle_dead(&mut self, name: &str, address: IpAddr, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        match &mut entry.state {
            NameState::Querying { last: Some(known), query } => {
                known.mark_dead(address);
                if known.is_dead() {
                    query.stale_at = query.deadline;
                }
            }
            NameState::Stale { known, retry_at } => {
                if known.mark_dead(address) {
                    *retry_at = now;
                }
            }
            NameState::Fresh(known) => {
                if known.mark_dead(address) {
                    let known = known.take();
                    entry.state = NameState::Stale { known, retry_at: now };
                }
            }
            NameState::Querying { last: None, .. } | NameState::Failed { .. } => {}
        }
    }

    /// The machine was suspended, or its network changed: answers and failures expire, and running queries start again,
    /// because their servers may be out of reach.
    pub fn handle_resumed(&mut self, now: Instant) {
        let names: Vec<String> = self.entries.keys().cloned().collect();
        for name in names {
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            match &mut entry.state {
                NameState::Querying { query, last } => {
                    self.queries_made += 1;
                    query.restart(QueryId(self.queries_made));
                    if let Some(known) = last {
                        known.valid_until = known.valid_until.min(now);
                    }
                    self.actions.push_back(CacheAction::Query(name, QueryId(self.queries_made)));
                }
                NameState::Fresh(known) => {
                    known.valid_until = known.valid_until.min(now);
                    let known = known.take();
                    entry.state = NameState::Stale { known, retry_at: now };
                }
                NameState::Stale { known, retry_at } => {
                    known.valid_until = known.valid_until.min(now);
                    *retry_at = (*retry_at).min(now);
                }
                NameState::Failed { .. } => self.forget(&name),
            }
        }
    }

    /// A timer may have expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        let querying: Vec<String> = self.querying.iter().cloned().collect();
        for name in querying {
            self.serve(&name, now);
            let status = match self.entries.get(&name).map(|entry| &entry.state) {
                Some(NameState::Querying { query, .. }) if query.deadline <= now => query.time_out(self.budget, now),
                Some(NameState::Querying { .. } | NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. }) | None => {
                    continue;
                }
            };
            self.apply_status(&name, status, now);
        }
    }

    /// Returns the next action.
    pub fn poll_action(&mut self) -> Option<CacheAction> {
        self.actions.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due, and the timer's name.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let queries = self.querying.iter().filter_map(|name| self.entries.get(name));
        let timers = queries.filter_map(|entry| match &entry.state {
            NameState::Querying { query, last } => query.timers(last.is_some()).min_by_key(|(at, _)| *at),
            NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. } => None,
        });
        timers.min_by_key(|(at, _)| *at)
    }

    fn wait(&mut self, waiter: LookupId, name: &str, mode: LookupMode, now: Instant) {
        if self.waiters.len() >= WAITERS_MAX {
            let error = Error::new(ErrorKind::TooManyWaiters, "too many callers are waiting for addresses");
            self.refuse(vec![waiter], error.at(Stage::Dns).against("WAITERS_MAX", LimitValue::Count(WAITERS_MAX as u64)));
            return;
        }
        if !self.querying.contains(name) && !self.start_query(name, now) {
            let error = Error::new(ErrorKind::DnsFailed, "too many names are being resolved at once");
            self.refuse(vec![waiter], error.at(Stage::Dns).against("NAMES_MAX", LimitValue::Count(NAMES_MAX as u64)));
            return;
        }
        if let Some(NameState::Querying { query, .. }) = self.entries.get_mut(name).map(|entry| &mut entry.state) {
            query.add_waiter(waiter, mode);
            self.waiters.insert(waiter, name.to_owned());
        }
        self.serve(name, now);
    }

    /// Starts a query. Returns `false` if there is no room for another name.
    fn start_query(&mut self, name: &str, now: Instant) -> bool {
        let entry = self.entries.remove(name);
        let arrived = entry.as_ref().map_or(0, |entry| entry.arrived);
        let last = match entry {
            Some(CacheEntry { used, state, .. }) => {
                self.recency.remove(&used);
                match state {
                    NameState::Querying { last, .. } => last,
                    NameState::Fresh(known) | NameState::Stale { known, .. } => Some(known),
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
            Some(known) if known.is_dead() => deadline,
            Some(known) if now < known.valid_until => now,
            Some(_) | None => deadline.min(now + STALE_ANSWER_DELAY),
        };
        self.queries_made += 1;
        let query = Query::new(QueryId(self.queries_made), stale_at, self.budget, now);
        self.actions.push_back(CacheAction::Query(name.to_owned(), query.id));
        self.entries.insert(name.to_owned(), CacheEntry { state: NameState::Querying { query, last }, used: 0, arrived });
        self.querying.insert(name.to_owned());
        self.touch(name);
        true
    }

    fn record(
        &mut self,
        name: &str,
        query: QueryId,
        family: AddressFamily,
        outcome: Result<(Vec<IpAddr>, Duration), LookupFailure>,
        now: Instant,
    ) {
        let is_arrival = outcome.as_ref().is_ok_and(|(addresses, _)| !addresses.is_empty());
        if let Some(own) = self.query(name, query) {
            let status = own.record(family, outcome, name, now);
            if is_arrival {
                self.record_arrival(name);
            }
            self.apply_status(name, status, now);
        }
    }

    fn apply_status(&mut self, name: &str, status: QueryStatus, now: Instant) {
        match status {
            QueryStatus::Pending => self.serve(name, now),
            QueryStatus::Found { addresses, ttl, complete } => {
                let Some((waiters, _)) = self.finish_query(name) else { return };
                let valid_until = now + ttl.clamp(TTL_MIN, TTL_MAX);
                let known = KnownAnswer::new(addresses, valid_until, valid_until + STALE_KEPT);
                self.answer(waiters, LookupAnswer { complete, ..known.answer(now) });
                self.set_state(name, NameState::Fresh(known));
                self.record_arrival(name);
            }
            QueryStatus::NotThere(error) => {
                let Some((waiters, _)) = self.finish_query(name) else { return };
                self.refuse(waiters, error.clone());
                self.set_state(name, NameState::Failed { error, until: now + NOT_THERE_TTL });
            }
            QueryStatus::Failed(error) => {
                let Some((waiters, last)) = self.finish_query(name) else { return };
                match last.filter(|known| now < known.kept_until) {
                    Some(known) => {
                        self.answer(waiters, known.answer(now));
                        self.set_state(name, NameState::Stale { known, retry_at: now + STALE_RETRY });
                    }
                    None => {
                        self.refuse(waiters, error.clone());
                        self.set_state(name, NameState::Failed { error, until: now + DOWN_TTL });
                    }
                }
            }
        }
    }

    /// Answers the waiters that can be answered by now.
    fn serve(&mut self, name: &str, now: Instant) {
        let Some(NameState::Querying { query, last }) = self.entries.get_mut(name).map(|entry| &mut entry.state) else { return };
        let first = query.take_first(now);
        let stale = match last {
            Some(known) if query.stale_at <= now => Some((query.take_all(), query.instead_of(known.answer(now)))),
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

    /// Returns the running query of a name if it has this id.
    fn query(&mut self, name: &str, id: QueryId) -> Option<&mut Query> {
        match self.entries.get_mut(name).map(|entry| &mut entry.state) {
            Some(NameState::Querying { query, .. }) if query.id == id => Some(query),
            Some(NameState::Querying { .. } | NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. }) | None => None,
        }
    }

    /// Ends the query of a name. Returns its waiters and the last good answer; the caller sets the next state or forgets the name.
    fn finish_query(&mut self, name: &str) -> Option<(Vec<LookupId>, Option<KnownAnswer>)> {
        match self.entries.get_mut(name).map(|entry| &mut entry.state) {
            Some(NameState::Querying { query, last }) => {
                self.querying.remove(name);
                Some((query.take_all(), last.take()))
            }
            Some(NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. }) | None => None,
        }
    }

    fn set_state(&mut self, name: &str, state: NameState) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.state = state;
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
