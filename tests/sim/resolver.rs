//! The resolver of the simulation: the counterpart of `io/resolver`.
//!
//! Carries out the actions of the DNS cache against a zone whose records change and whose servers fail, hang or know
//! nothing. Names are resolved by two DNS queries, or as a whole by the operating system.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mongolink::dns::{AddressFamily, Cache, CacheAction, LookupAnswer, LookupFailure, LookupId, LookupMode, QueryId};
use mongolink::machine::{Driven, Machine};
use mongolink::{Error, ErrorKind, Stage};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::invariants::{dialled_is_fresh, expired_is_asked_again, one_query_for_a_name, timer_lies_ahead, waiting_has_a_timer};
use super::plan::Fault;
use super::queue::{Event, Timer};
use super::shell::Place;
use super::world::{NOT_THERE, World};

/// A client's resolver.
pub(crate) struct Resolver {
    pub(crate) cache: Driven<Cache>,
    /// The waiting callers, and the opening of each.
    pub(crate) waiting: BTreeMap<LookupId, u64>,
    pub(crate) answers: BTreeMap<u64, Result<LookupAnswer, Error>>,
    next: u64,
    /// The running query of each name, and the families that have answered.
    queries: BTreeMap<String, (QueryId, BTreeSet<u8>)>,
    /// The addresses delivered for each name, and how long they are fresh.
    delivered: BTreeMap<String, BTreeMap<IpAddr, Delivered>>,
    /// When each name was last queried.
    queried_at: BTreeMap<String, Instant>,
    resumed_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Delivered {
    good_until: Instant,
    query: QueryId,
    dead: bool,
}

/// The records of DNS, and its faults.
#[derive(Default)]
pub(crate) struct Zone {
    pub(crate) records: BTreeMap<String, Vec<IpAddr>>,
    pub(crate) fails_until: Option<Instant>,
    pub(crate) hangs_until: Option<Instant>,
    pub(crate) forgets_until: Option<Instant>,
    /// The delay of answers, and its end.
    pub(crate) slow: Option<(Duration, Instant)>,
}

/// Minimum time an answer is used, whatever its records say.
const TTL_MIN: Duration = Duration::from_secs(5);

/// How long an answer of the operating system is used.
const UNTIMED_TTL: Duration = Duration::from_secs(30);

/// The share of seeds whose names are resolved by the operating system.
const SYSTEM_SHARE: f64 = 0.15;

/// Draws whether names are resolved by the operating system, from a sequence of its own.
pub(crate) fn draws_system(seed: u64) -> bool {
    SmallRng::seed_from_u64(seed ^ 0x6e55_1e1f_u64).random_bool(SYSTEM_SHARE)
}

/// The share of seeds with late answers.
const SHARE: f64 = 0.08;

/// Draws late answers, and members that move meanwhile, from a sequence of their own: the other seeds stay what they are.
pub(crate) fn draw_faults(seed: u64, members: usize, moment: impl Fn(f64) -> Duration, faults: &mut Vec<(Duration, Fault)>) {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x0d25_510e_u64);
    if !random.random_bool(SHARE) {
        return;
    }
    for _ in 0..random.random_range(1..3) {
        let at = moment(random.random_range(0.0..1.0));
        let lasts = Duration::from_millis(random.random_range(3_000..9_000));
        // Mostly a little later than the last good answer is served.
        let delay = Duration::from_millis(if random.random_bool(0.7) {
            random.random_range(1_800..2_100)
        } else {
            random.random_range(100..3_000)
        });
        faults.push((at, Fault::DnsSlow { delay, lasts }));
        for member in 0..members {
            let silent = random.random_bool(0.7);
            let moved = at + lasts.mul_f64(random.random_range(0.0..1.0));
            faults.push((moved, Fault::Move { member, silent }));
            // All have to dial anew.
            faults.push((moved, Fault::Crash { member, lasts: Duration::from_millis(random.random_range(1..300)) }));
        }
    }
}

impl Resolver {
    pub(crate) fn new(budget: Duration, now: Instant) -> Self {
        Self {
            cache: Driven::new(Cache::new(budget), now),
            waiting: BTreeMap::new(),
            answers: BTreeMap::new(),
            next: 0,
            queries: BTreeMap::new(),
            delivered: BTreeMap::new(),
            queried_at: BTreeMap::new(),
            resumed_at: None,
        }
    }

    pub(crate) fn questions(&self) -> usize {
        self.queries.len()
    }
}

/// Names the address cache of a client.
#[derive(Clone, Copy)]
struct CachePlace(usize);

impl Place for CachePlace {
    type Machine = Cache;

    fn client(self) -> usize {
        self.0
    }

    fn timer(self) -> Timer {
        Timer::Cache(self.0)
    }

    fn driven(self, world: &mut World) -> Option<&mut Driven<Cache>> {
        world.clients.get_mut(self.0).map(|client| &mut client.resolver.cache)
    }

    fn event(self, world: &mut World, _arrived: <Cache as Machine>::Event, _now: Instant) {
        world.tell_races(self.0);
    }

    fn collect(self, world: &mut World, action: CacheAction, now: Instant) -> Option<CacheAction> {
        match action {
            CacheAction::Query(name, query) => world.start_query(self.0, name, query, now),
            CacheAction::Answer(waiters, answer) => world.give(self.0, &waiters, &Ok(answer)),
            CacheAction::Refuse(waiters, error) => world.give(self.0, &waiters, &Err(error)),
        }
        None
    }
}

impl World {
    /// Looks up a name's addresses; the answer is an event.
    pub(crate) fn look_up(&mut self, c: usize, name: &str, mode: LookupMode, opening: u64) -> LookupId {
        let resolver = &mut self.clients[c].resolver;
        resolver.next += 1;
        let waiter = LookupId(resolver.next);
        resolver.waiting.insert(waiter, opening);
        self.cache_act(c, false, |cache, now| cache.handle_ask(waiter, name, mode, now));
        waiter
    }

    pub(crate) fn cancel_look_up(&mut self, c: usize, waiter: LookupId) {
        self.clients[c].resolver.waiting.remove(&waiter);
        self.clients[c].resolver.answers.remove(&waiter.0);
        self.cache_act(c, false, |cache, _| cache.handle_cancel(waiter));
    }

    pub(crate) fn report_dead(&mut self, c: usize, name: &str, address: IpAddr) {
        if let Some(known) = self.clients[c].resolver.delivered.get_mut(name).and_then(|known| known.get_mut(&address)) {
            known.dead = true;
        }
        self.cache_act(c, false, |cache, now| cache.handle_dead(name, address, now));
    }

    pub(crate) fn resolver_resumed(&mut self, c: usize) {
        let now = self.local(c);
        let resolver = &mut self.clients[c].resolver;
        resolver.resumed_at = Some(now);
        for known in resolver.delivered.values_mut().flat_map(BTreeMap::values_mut) {
            known.good_until = known.good_until.min(now);
        }
        self.cache_act(c, false, |cache, now| cache.handle_resumed(now));
    }

    /// Applies a fact to the cache, and carries out its actions.
    pub(crate) fn cache_act(&mut self, c: usize, after_timeout: bool, step: impl FnOnce(&mut Driven<Cache>, Instant)) {
        let now = self.local(c);
        self.hand(CachePlace(c), step);
        self.drain(CachePlace(c));
        let resolver = &self.clients[c].resolver;
        let timer = resolver.cache.poll_timeout();
        timer_lies_ahead("dns", timer, now, after_timeout);
        waiting_has_a_timer("dns", !resolver.waiting.is_empty(), timer);
    }

    fn start_query(&mut self, c: usize, name: String, query: QueryId, now: Instant) {
        let resolver = &mut self.clients[c].resolver;
        one_query_for_a_name(&name, resolver.queries.contains_key(&name), resolver.resumed_at == Some(now));
        resolver.queries.insert(name.clone(), (query, BTreeSet::new()));
        resolver.queried_at.insert(name.clone(), now);
        self.trace.note(self.now, || format!("client {c}: queries {name}"));
        let left = self.clients[c].resolver.cache.deadline(&name).map_or(Duration::ZERO, |by| by.saturating_duration_since(now));
        for family in [AddressFamily::V6, AddressFamily::V4] {
            let slow = self.zone.slow.filter(|(_, until)| *until > self.now).map_or(Duration::ZERO, |(delay, _)| delay);
            let delay = slow + self.plan.dns_delay.mul_f64(self.random.random_range(0.5..2.0));
            if self.plan.names_by_system {
                self.queue.push(self.now + delay, Event::SystemAnswer { client: c, name: name.clone(), query });
                break;
            }
            self.queue.push(self.now + delay, Event::DnsAnswer { client: c, name: name.clone(), query, family });
        }
        self.queue.push(self.now + left, Event::QueryEnds { client: c, name, query });
    }

    fn give(&mut self, c: usize, waiters: &[LookupId], outcome: &Result<LookupAnswer, Error>) {
        for waiter in waiters {
            let at = self.soon(c);
            let now = self.local(c);
            let resolver = &mut self.clients[c].resolver;
            let Some(opening) = resolver.waiting.remove(waiter) else {
                super::invariants::violated("waiter_still_waits", format!("look-up {} is answered, and does not wait", waiter.0));
            };
            if self.clients[c].is_shut_down {
                // A client that is shut down dials nothing.
            } else if let (Ok(answer), Some(name)) =
                (outcome, self.clients[c].openings.get(&opening).and_then(|opening| opening.host.name()))
            {
                let known = self.clients[c].resolver.delivered.get(name);
                let good: Vec<_> = known.into_iter().flatten().filter(|(_, known)| known.good_until > now).collect();
                // An answer whose addresses are all dead counts as none.
                let asked = self.clients[c].resolver.queried_at.get(name).map(|asked| now - *asked);
                let expired =
                    known.is_some_and(|known| answer.addresses.iter().any(|ip| known.get(ip).is_some_and(|known| known.good_until < now)));
                if expired {
                    expired_is_asked_again(name, asked, self.clients[c].settings.dns_timeout + NOT_THERE);
                }
                if good.iter().any(|(_, known)| !known.dead) {
                    dialled_is_fresh(name, &answer.addresses, &good.iter().map(|(ip, _)| **ip).collect());
                }
            }
            self.clients[c].resolver.answers.insert(waiter.0, outcome.clone());
            self.queue.push(at, Event::Resolved { client: c, opening, waiter: waiter.0 });
        }
    }

    /// Checks that an address may be dialled: none of an expired answer while there is a fresh one.
    pub(crate) fn look_at_dialled(&self, c: usize, name: &str, address: IpAddr) {
        if self.clients[c].is_shut_down {
            // A client that is shut down dials nothing.
            return;
        }
        let now = self.local(c);
        let known = self.clients[c].resolver.delivered.get(name);
        let good: Vec<_> = known.into_iter().flatten().filter(|(_, known)| known.good_until > now).collect();
        if good.iter().any(|(_, known)| !known.dead) {
            dialled_is_fresh(name, &[address], &good.iter().map(|(ip, _)| **ip).collect());
        }
    }

    /// Returns all addresses of a name, as the faults of DNS allow; `None` if there is no answer.
    fn zone_answer(&self, name: &str) -> Option<Result<Vec<IpAddr>, LookupFailure>> {
        let is_on = |until: Option<Instant>| until.is_some_and(|until| until > self.now);
        if is_on(self.zone.hangs_until) {
            return None;
        }
        if is_on(self.zone.fails_until) {
            return Some(Err(LookupFailure::Other(Error::new(ErrorKind::DnsFailed, "SERVFAIL").at(Stage::Dns))));
        }
        match self.zone.records.get(name).filter(|_| !is_on(self.zone.forgets_until)) {
            Some(all) => Some(Ok(all.clone())),
            None => Some(Err(LookupFailure::NoSuchName)),
        }
    }

    /// DNS answers for one family.
    pub(crate) fn dns_answers(&mut self, c: usize, name: String, query: QueryId, family: AddressFamily) {
        let Some(outcome) = self.zone_answer(&name) else { return };
        let outcome = outcome.and_then(|all| {
            let found: Vec<IpAddr> = all.into_iter().filter(|ip| ip.is_ipv4() == (family == AddressFamily::V4)).collect();
            if found.is_empty() { Err(LookupFailure::NoAddresses) } else { Ok(found) }
        });
        self.note(|_| format!("client {c}: DNS says of {name}, {family:?}: {outcome:?}"));
        let time_to_live = self.plan.time_to_live;
        self.learn(c, &name, query, &[family], outcome.as_ref().map(Vec::as_slice).unwrap_or_default(), time_to_live);
        self.cache_act(c, false, |cache, now| match outcome {
            Ok(found) => cache.handle_answered(&name, query, family, found, time_to_live, now),
            Err(failure) => cache.handle_failed(&name, query, family, failure, now),
        });
    }

    /// The operating system answers for both families.
    pub(crate) fn system_answers(&mut self, c: usize, name: String, query: QueryId) {
        let Some(outcome) = self.zone_answer(&name) else { return };
        self.note(|_| format!("client {c}: the operating system says of {name}: {outcome:?}"));
        let families = [AddressFamily::V4, AddressFamily::V6];
        self.learn(c, &name, query, &families, outcome.as_ref().map(Vec::as_slice).unwrap_or_default(), UNTIMED_TTL);
        let outcome = outcome.map_err(|failure| match failure {
            LookupFailure::NoSuchName => Error::new(ErrorKind::NoSuchName, "the operating system knows no such name").at(Stage::Dns),
            LookupFailure::NoAddresses => Error::new(ErrorKind::NoAddresses, "the name has no addresses").at(Stage::Dns),
            LookupFailure::Other(error) => error,
        });
        self.cache_act(c, false, |cache, now| cache.handle_whole(&name, query, outcome, now));
    }

    /// Records the addresses of an answer. An answer for both families replaces all addresses from before.
    fn learn(&mut self, c: usize, name: &str, query: QueryId, answering: &[AddressFamily], found: &[IpAddr], ttl: Duration) {
        let now = self.local(c);
        let good_until = now + ttl.max(TTL_MIN);
        let resolver = &mut self.clients[c].resolver;
        let Some((_, families)) = resolver.queries.get_mut(name).filter(|(current, _)| *current == query) else { return };
        families.extend(answering.iter().map(|family| u8::from(*family == AddressFamily::V4)));
        let whole = families.len() == 2;
        let known = resolver.delivered.entry(name.to_owned()).or_default();
        for ip in found {
            known.insert(*ip, Delivered { good_until, query, dead: false });
        }
        if whole {
            // After a failure the last good answer is served on for a while.
            if known.values().any(|known| known.query == query) {
                known.retain(|_, known| known.query == query);
                known.values_mut().for_each(|known| known.good_until = good_until);
            }
            resolver.queries.remove(name);
        }
    }

    /// The task of a query ends without a result.
    pub(crate) fn query_ends(&mut self, c: usize, name: String, query: QueryId) {
        self.finish_query(c, &name, query);
        self.cache_act(c, false, |cache, now| cache.handle_timeout(now));
        self.cache_act(c, false, |cache, now| cache.handle_abandoned(&name, query, now));
    }

    fn finish_query(&mut self, c: usize, name: &str, query: QueryId) {
        let queries = &mut self.clients[c].resolver.queries;
        if queries.get(name).is_some_and(|(current, _)| *current == query) {
            queries.remove(name);
        }
    }

    /// The resolver stops: all queries are abandoned.
    pub(crate) fn stop_resolver(&mut self, c: usize) {
        let queries = std::mem::take(&mut self.clients[c].resolver.queries);
        for (name, (query, _)) in queries {
            self.cache_act(c, false, |cache, now| cache.handle_abandoned(&name, query, now));
        }
        // The callers' timers end with them.
        self.drain(CachePlace(c));
    }
}
