//! How are the DNS cache's wishes carried out?
//!
//! Does what `io/resolver` does, against a zone whose records change, whose servers fail, hang or know nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mongolink::dns::{AddressFamily, Cache, CacheAction, LookupAnswer, LookupFailure, LookupId, QueryId, Want};
use mongolink::{Error, ErrorKind, Stage};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::invariants::{dialled_is_fresh, expired_is_asked_again, one_query_for_a_name, timer_lies_ahead, waiting_has_a_timer};
use super::plan::Fault;
use super::queue::{Event, Timer};
use super::world::{NOT_THERE, World};

/// Is a client's resolver.
pub(crate) struct Resolver {
    pub(crate) cache: Cache,
    /// Who waits: the opening that asked.
    pub(crate) waiting: BTreeMap<LookupId, u64>,
    pub(crate) answers: BTreeMap<u64, Result<LookupAnswer, Error>>,
    next: u64,
    /// The question under way for each name, and how many families it has been told.
    flights: BTreeMap<String, (QueryId, BTreeSet<u8>)>,
    /// What was told of each name, and how long it is good.
    told: BTreeMap<String, BTreeMap<IpAddr, Told>>,
    /// When DNS was last asked for each name.
    asked: BTreeMap<String, Instant>,
    resumed_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    good_until: Instant,
    flight: QueryId,
    dead: bool,
}

/// Is what DNS knows, and how it is.
#[derive(Default)]
pub(crate) struct Zone {
    pub(crate) records: BTreeMap<String, Vec<IpAddr>>,
    pub(crate) fails_until: Option<Instant>,
    pub(crate) hangs_until: Option<Instant>,
    pub(crate) forgets_until: Option<Instant>,
    /// By how much answers are late, and until when.
    pub(crate) slow: Option<(Duration, Instant)>,
}

/// No answer is used for a shorter time than this, whatever its records say.
const TTL_MIN: Duration = Duration::from_secs(5);

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
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            cache: Cache::new(budget),
            waiting: BTreeMap::new(),
            answers: BTreeMap::new(),
            next: 0,
            flights: BTreeMap::new(),
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            resumed_at: None,
        }
    }

    pub(crate) fn questions(&self) -> usize {
        self.flights.len()
    }
}

impl World {
    /// Asks for a name's addresses; the answer is an event.
    pub(crate) fn look_up(&mut self, c: usize, name: &str, want: Want, opening: u64) -> LookupId {
        let resolver = &mut self.clients[c].resolver;
        resolver.next += 1;
        let waiter = LookupId(resolver.next);
        resolver.waiting.insert(waiter, opening);
        self.cache_act(c, false, |cache, now| cache.handle_ask(waiter, name, want, now));
        waiter
    }

    pub(crate) fn cancel_look_up(&mut self, c: usize, waiter: LookupId) {
        self.clients[c].resolver.waiting.remove(&waiter);
        self.clients[c].resolver.answers.remove(&waiter.0);
        self.cache_act(c, false, |cache, _| cache.handle_cancel(waiter));
    }

    pub(crate) fn report_dead(&mut self, c: usize, name: &str, address: IpAddr) {
        if let Some(told) = self.clients[c].resolver.told.get_mut(name).and_then(|told| told.get_mut(&address)) {
            told.dead = true;
        }
        self.cache_act(c, false, |cache, now| cache.handle_dead(name, address, now));
    }

    pub(crate) fn resolver_resumed(&mut self, c: usize) {
        let now = self.local(c);
        let resolver = &mut self.clients[c].resolver;
        resolver.resumed_at = Some(now);
        for told in resolver.told.values_mut().flat_map(BTreeMap::values_mut) {
            told.good_until = told.good_until.min(now);
        }
        self.cache_act(c, false, |cache, now| cache.handle_resumed(now));
    }

    /// Hands a fact to the cache, and carries out its wishes.
    pub(crate) fn cache_act(&mut self, c: usize, after_timeout: bool, step: impl FnOnce(&mut Cache, Instant)) {
        let now = self.local(c);
        let arrivals = self.clients[c].resolver.cache.arrivals();
        step(&mut self.clients[c].resolver.cache, now);
        if self.clients[c].resolver.cache.arrivals() != arrivals {
            self.tell_races(c);
        }
        while let Some(action) = self.clients[c].resolver.cache.poll_action() {
            match action {
                CacheAction::Query(name, flight) => self.query(c, name, flight, now),
                CacheAction::QuerySystem(name, flight) => {
                    self.clients[c].resolver.flights.insert(name.clone(), (flight, BTreeSet::new()));
                    self.queue.push(self.now + Duration::from_millis(3), Event::SystemAnswer { client: c, name, flight });
                }
                CacheAction::Answer(waiters, answer) => self.give(c, &waiters, &Ok(answer)),
                CacheAction::Refuse(waiters, error) => self.give(c, &waiters, &Err(error)),
            }
        }
        let resolver = &self.clients[c].resolver;
        let timer = resolver.cache.poll_timeout();
        timer_lies_ahead("dns", timer, now, after_timeout);
        waiting_has_a_timer("dns", !resolver.waiting.is_empty(), timer);
        self.arm(c, Timer::Cache(c), timer.map(|(at, _)| at));
    }

    fn query(&mut self, c: usize, name: String, flight: QueryId, now: Instant) {
        let resolver = &mut self.clients[c].resolver;
        one_query_for_a_name(&name, resolver.flights.contains_key(&name), resolver.resumed_at == Some(now));
        resolver.flights.insert(name.clone(), (flight, BTreeSet::new()));
        resolver.asked.insert(name.clone(), now);
        self.trace.note(self.now, || format!("client {c}: asks DNS for {name}"));
        let left = self.clients[c].resolver.cache.deadline(&name).map_or(Duration::ZERO, |by| by.saturating_duration_since(now));
        for family in [AddressFamily::V6, AddressFamily::V4] {
            let slow = self.zone.slow.filter(|(_, until)| *until > self.now).map_or(Duration::ZERO, |(delay, _)| delay);
            let delay = slow + self.plan.dns_delay.mul_f64(self.random.random_range(0.5..2.0));
            self.queue.push(self.now + delay, Event::DnsAnswer { client: c, name: name.clone(), flight, family });
        }
        self.queue.push(self.now + left, Event::FlightEnds { client: c, name, flight });
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
                // Nobody dials any more; those who still wait are told the last that was known.
            } else if let (Ok(answer), Some(name)) =
                (outcome, self.clients[c].openings.get(&opening).and_then(|opening| opening.host.name()))
            {
                let told = self.clients[c].resolver.told.get(name);
                let good: Vec<_> = told.into_iter().flatten().filter(|(_, told)| told.good_until > now).collect();
                // An answer all of whose addresses have stopped answering is as good as none.
                let asked = self.clients[c].resolver.asked.get(name).map(|asked| now - *asked);
                let expired =
                    told.is_some_and(|told| answer.addresses.iter().any(|ip| told.get(ip).is_some_and(|told| told.good_until < now)));
                if expired {
                    expired_is_asked_again(name, asked, self.clients[c].settings.dns_timeout + NOT_THERE);
                }
                if good.iter().any(|(_, told)| !told.dead) {
                    dialled_is_fresh(name, &answer.addresses, &good.iter().map(|(ip, _)| **ip).collect());
                }
            }
            self.clients[c].resolver.answers.insert(waiter.0, outcome.clone());
            self.queue.push(at, Event::Resolved { client: c, opening, waiter: waiter.0 });
        }
    }

    /// Looks whether an address may be dialled: none of an expired answer while there is a fresh one.
    pub(crate) fn look_at_dialled(&self, c: usize, name: &str, address: IpAddr) {
        if self.clients[c].is_shut_down {
            // Whoever still waited was told the last that was known.
            return;
        }
        let now = self.local(c);
        let told = self.clients[c].resolver.told.get(name);
        let good: Vec<_> = told.into_iter().flatten().filter(|(_, told)| told.good_until > now).collect();
        if good.iter().any(|(_, told)| !told.dead) {
            dialled_is_fresh(name, &[address], &good.iter().map(|(ip, _)| **ip).collect());
        }
    }

    /// DNS answers for one family, in whatever way it is able to.
    pub(crate) fn dns_answers(&mut self, c: usize, name: String, flight: QueryId, family: AddressFamily) {
        let is_on = |until: Option<Instant>| until.is_some_and(|until| until > self.now);
        if is_on(self.zone.hangs_until) {
            return;
        }
        let outcome = if is_on(self.zone.fails_until) {
            Err(LookupFailure::Other(Error::new(ErrorKind::DnsFailed, "SERVFAIL").at(Stage::Dns)))
        } else if is_on(self.zone.forgets_until) || !self.zone.records.contains_key(&name) {
            Err(LookupFailure::NoSuchName)
        } else {
            let all = self.zone.records.get(&name).into_iter().flatten();
            let found: Vec<IpAddr> = all.copied().filter(|ip| ip.is_ipv4() == (family == AddressFamily::V4)).collect();
            if found.is_empty() { Err(LookupFailure::NoAddresses) } else { Ok(found) }
        };
        self.note(|_| format!("client {c}: DNS says of {name}, {family:?}: {outcome:?}"));
        let time_to_live = self.plan.time_to_live;
        self.learn(c, &name, flight, family, outcome.as_ref().map(Vec::as_slice).unwrap_or_default());
        self.cache_act(c, false, |cache, now| match outcome {
            Ok(found) => cache.handle_answered(&name, flight, family, found, time_to_live, now),
            Err(failure) => cache.handle_failed(&name, flight, family, failure, now),
        });
    }

    /// Keeps what was told; with both families an answer is whole, and what it has not is gone.
    fn learn(&mut self, c: usize, name: &str, flight: QueryId, family: AddressFamily, found: &[IpAddr]) {
        let now = self.local(c);
        let good_until = now + self.plan.time_to_live.max(TTL_MIN);
        let resolver = &mut self.clients[c].resolver;
        let Some((_, families)) = resolver.flights.get_mut(name).filter(|(current, _)| *current == flight) else { return };
        families.insert(u8::from(family == AddressFamily::V4));
        let whole = families.len() == 2;
        let told = resolver.told.entry(name.to_owned()).or_default();
        for ip in found {
            told.insert(*ip, Told { good_until, flight, dead: false });
        }
        if whole {
            // What DNS has denied altogether is served on for a while, as the last good answer.
            if told.values().any(|told| told.flight == flight) {
                told.retain(|_, told| told.flight == flight);
                told.values_mut().for_each(|told| told.good_until = good_until);
            }
            resolver.flights.remove(name);
        }
    }

    pub(crate) fn system_answers(&mut self, c: usize, name: String, flight: QueryId) {
        self.land(c, &name, flight);
        let error = Error::new(ErrorKind::NoSuchName, "the operating system knows no such name").at(Stage::Dns);
        self.cache_act(c, false, |cache, now| cache.handle_system(&name, flight, Err(error), now));
    }

    /// Whoever carried a question gives up.
    pub(crate) fn flight_ends(&mut self, c: usize, name: String, flight: QueryId) {
        self.land(c, &name, flight);
        self.cache_act(c, false, |cache, now| cache.handle_timeout(now));
        self.cache_act(c, false, |cache, now| cache.handle_abandoned(&name, flight, now));
    }

    fn land(&mut self, c: usize, name: &str, flight: QueryId) {
        let flights = &mut self.clients[c].resolver.flights;
        if flights.get(name).is_some_and(|(current, _)| *current == flight) {
            flights.remove(name);
        }
    }

    /// The resolver stops: all questions are abandoned.
    pub(crate) fn stop_resolver(&mut self, c: usize) {
        let flights = std::mem::take(&mut self.clients[c].resolver.flights);
        for (name, (flight, _)) in flights {
            self.cache_act(c, false, |cache, now| cache.handle_abandoned(&name, flight, now));
        }
    }
}
