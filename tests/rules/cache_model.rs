//! A model of the address cache: one query per name, and for each caller one answer, the best that is known.
//!
//! Names are resolved by DNS, one family after the other, or as a whole by the operating system; both answer, fail, hang or
//! forget. The model keeps the last result and the running query of each name, and checks each answer against them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mongolink::dns::{AddressFamily, Cache, CacheAction, LookupAnswer, LookupFailure, LookupId, LookupMode, QueryId};
use mongolink::{Error, ErrorKind};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::support::{for_seeds, ms};

const SEEDS: u64 = 3_000;
const STEPS: usize = 80;
const NAMES: [&str; 3] = ["a.example", "b.example", "c.example"];
const BUDGET: Duration = Duration::from_secs(5);

const TTL_MIN: Duration = Duration::from_secs(5);
const TTL_MAX: Duration = Duration::from_secs(3600);
const UNTIMED_TTL: Duration = Duration::from_secs(30);
const STALE_KEPT: Duration = Duration::from_secs(24 * 3600);
const STALE_RETRY: Duration = Duration::from_secs(5);
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Addresses and their time to live.
type Found = (Vec<IpAddr>, Duration);

/// A running query.
#[derive(Clone, Debug)]
struct Running {
    id: QueryId,
    started_at: Instant,
    /// The result of each family: IPv4, IPv6.
    families: [Option<Result<Found, ()>>; 2],
    /// When IPv4 addresses arrived.
    v4_at: Option<Instant>,
    /// Whether the operating system resolves the name, not DNS.
    is_whole: bool,
}

/// The last good answer for a name.
#[derive(Clone, Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    dead: Vec<IpAddr>,
    valid_until: Instant,
    kept_until: Instant,
}

/// The model of a name.
#[derive(Clone, Debug, Default)]
struct Name {
    query: Option<Running>,
    /// When the latest query began.
    started_at: Option<Instant>,
    /// When a query ended without an address.
    failed_at: Option<Instant>,
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: LookupId,
    name: usize,
    mode: LookupMode,
    since: Instant,
}

struct Scene {
    cache: Cache,
    now: Instant,
    names: [Name; 3],
    waiting: Vec<Waiting>,
    next_waiter: u64,
    next_address: u32,
    /// Whether the operating system resolves the next name, not DNS.
    next_query_is_whole: bool,
}

/// The kind of a step; it decides whether a query may start while another one runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Resumed,
    Ask(usize),
    /// The query for this name ended without an answer.
    Down(usize),
    Other,
}

#[test]
fn each_caller_gets_one_answer_the_best_that_is_known() {
    let began = Instant::now();
    for_seeds(SEEDS, |rng| {
        let mut scene = Scene::new(began);
        for _ in 0..STEPS {
            scene.step(rng);
        }
        scene.finish();
    });
}

impl Scene {
    fn new(now: Instant) -> Self {
        let names = std::array::from_fn(|_| Name::default());
        Self { cache: Cache::new(BUDGET), now, names, waiting: Vec::new(), next_waiter: 1, next_address: 1, next_query_is_whole: false }
    }

    fn step(&mut self, rng: &mut SmallRng) {
        let name = rng.random_range(0..NAMES.len());
        self.next_query_is_whole = rng.random_bool(0.3);
        match rng.random_range(0..20) {
            0..=5 => self.ask(name, if rng.random_bool(0.5) { LookupMode::First } else { LookupMode::All }),
            6 if !self.waiting.is_empty() => {
                let gone = self.waiting.remove(rng.random_range(0..self.waiting.len()));
                self.cache.handle_cancel(gone.id);
                self.look(Step::Other);
            }
            7..=11 => self.answer(name, rng),
            12 => self.dead(name, rng),
            13 if rng.random_bool(0.3) => self.resumed(),
            14 => self.abandon(name, rng),
            15 => self.pass(self.cache.poll_timeout().map_or(ms(0), |(at, _)| at.saturating_duration_since(self.now))),
            16 => self.pass(Duration::from_secs([1, 5, 30, 60, 3600, 24 * 3600][rng.random_range(0..6)])),
            17 => self.now += ms(rng.random_range(0..8_000)),
            _ => self.pass(ms(rng.random_range(0..3_000))),
        }
    }

    fn ask(&mut self, name: usize, mode: LookupMode) {
        let id = LookupId(self.next_waiter);
        self.next_waiter += 1;
        self.end_late_queries();
        let now = self.now;
        let fresh = self.names[name].known.as_ref().filter(|known| known.is_fresh(now) && known.dead.is_empty());
        let settled = fresh.is_some() && self.names[name].query.is_none();
        self.waiting.push(Waiting { id, name, mode, since: now });
        self.cache.handle_ask(id, NAMES[name], mode, now);
        self.look(Step::Ask(name));
        let waits = self.waiting.iter().any(|waiting| waiting.id == id);
        assert!(!(settled && waits), "a fresh answer is not given at once");
        assert!(!waits || self.names[name].query.is_some(), "a caller waits without a query");
    }

    /// DNS or the operating system answers, well or not.
    fn answer(&mut self, name: usize, rng: &mut SmallRng) {
        let Some(query) = self.names[name].query.clone() else { return };
        if self.now >= query.started_at + BUDGET {
            return self.pass(ms(0));
        }
        let id = query.id;
        let addresses = self.addresses(rng);
        if query.is_whole {
            let kind = if rng.random_bool(0.5) { ErrorKind::NoSuchName } else { ErrorKind::DnsFailed };
            let outcome = if rng.random_bool(0.5) { Ok(addresses.clone()) } else { Err(Error::new(kind, "the system's text")) };
            let found = outcome.is_ok() && !addresses.is_empty();
            self.names[name].query = None;
            if found {
                self.names[name].learn(addresses, UNTIMED_TTL, self.now);
            }
            self.cache.handle_whole(NAMES[name], id, outcome, self.now);
            return self.look(if found { Step::Other } else { Step::Down(name) });
        }
        let v6 = addresses.first().map_or(rng.random_bool(0.5), IpAddr::is_ipv6);
        let family = if v6 { AddressFamily::V6 } else { AddressFamily::V4 };
        let ttl = Duration::from_secs([0, 3, 20, 100, 10_000][rng.random_range(0..5)]);
        let failure = match rng.random_range(0..3) {
            0 => LookupFailure::NoSuchName,
            1 => LookupFailure::NoAddresses,
            _ => LookupFailure::Other(Error::new(ErrorKind::DnsFailed, "server failure")),
        };
        let found = rng.random_bool(0.7);
        let settled = self.record(name, usize::from(v6), found.then(|| (addresses.clone(), ttl)));
        if found {
            self.cache.handle_answered(NAMES[name], id, family, addresses, ttl, self.now);
        } else {
            self.cache.handle_failed(NAMES[name], id, family, failure, self.now);
        }
        self.look(if settled { Step::Down(name) } else { Step::Other });
    }

    /// Records the result of a family; the first one counts. Returns whether the query ended without any address.
    fn record(&mut self, name: usize, family: usize, found: Option<(Vec<IpAddr>, Duration)>) -> bool {
        let now = self.now;
        let own = &mut self.names[name];
        let Some(query) = &mut own.query else { return false };
        let result = found.filter(|(addresses, _)| !addresses.is_empty()).ok_or(());
        if family == 0 && query.families[0].is_none() && result.is_ok() {
            query.v4_at = Some(now);
        }
        query.families[family].get_or_insert(result);
        let [Some(v4), Some(v6)] = query.families.clone() else { return false };
        let both: Vec<(Vec<IpAddr>, Duration)> = [v6, v4].into_iter().flatten().collect();
        own.query = None;
        let Some(ttl) = both.iter().map(|(_, ttl)| *ttl).min() else { return true };
        own.learn(both.into_iter().flat_map(|(addresses, _)| addresses).collect(), ttl, now);
        false
    }

    fn dead(&mut self, name: usize, rng: &mut SmallRng) {
        let now = self.now;
        let Some(known) = self.names[name].known.as_mut().filter(|known| now < known.kept_until) else { return };
        let address = known.addresses[rng.random_range(0..known.addresses.len())];
        if !known.dead.contains(&address) {
            known.dead.push(address);
        }
        if known.is_dead() {
            known.valid_until = known.valid_until.min(now);
        }
        self.cache.handle_dead(NAMES[name], address, now);
        self.look(Step::Other);
    }

    fn resumed(&mut self) {
        for name in &mut self.names {
            if let Some(known) = &mut name.known {
                known.valid_until = known.valid_until.min(self.now);
            }
        }
        self.cache.handle_resumed(self.now);
        self.look(Step::Resumed);
    }

    /// The task of the query ends without a result, or that of an earlier query.
    fn abandon(&mut self, name: usize, rng: &mut SmallRng) {
        let Some(query) = self.names[name].query.clone() else { return };
        if rng.random_bool(0.5) {
            self.names[name].query = None;
            // An answer that is still good is worth more.
            let is_known = self.names[name].known.as_ref().is_some_and(|known| known.is_fresh(self.now));
            let step = if !is_known && self.names[name].keep_partial(&query, self.now) { Step::Other } else { Step::Down(name) };
            self.cache.handle_abandoned(NAMES[name], query.id, self.now);
            self.look(step);
        }
        self.stale_facts(name, &query);
    }

    /// Facts about an earlier query change nothing.
    fn stale_facts(&mut self, name: usize, query: &Running) {
        if self.names[name].query.as_ref().is_some_and(|own| own.id == query.id) {
            return;
        }
        let address = vec![IpAddr::from([203, 0, 113, 1])];
        self.cache.handle_answered(NAMES[name], query.id, AddressFamily::V4, address.clone(), UNTIMED_TTL, self.now);
        self.cache.handle_failed(NAMES[name], query.id, AddressFamily::V6, LookupFailure::NoAddresses, self.now);
        self.cache.handle_whole(NAMES[name], query.id, Ok(address), self.now);
        self.cache.handle_abandoned(NAMES[name], query.id, self.now);
        assert!(self.cache.poll_action().is_none(), "a stale fact has an effect");
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.end_late_queries();
        self.cache.handle_timeout(self.now);
        self.look(Step::Other);
        let timer = self.cache.poll_timeout().map(|(at, _)| at);
        assert!(timer.is_none_or(|at| at > self.now), "a timer is due after time was looked at");
        assert!(self.waiting.iter().all(|waiting| self.now < waiting.since + BUDGET), "a caller waits too long");
        assert!(self.waiting.is_empty() || timer.is_some(), "a caller waits without a timer");
        for waiting in &self.waiting {
            let Some(query) = &self.names[waiting.name].query else { panic!("a caller waits without a query") };
            let v6 = query.families[1].as_ref().is_some_and(Result::is_ok);
            let v4 = query.v4_at.is_some_and(|at| at + RESOLUTION_DELAY <= self.now);
            let dialable = v6 || v4;
            assert!(!(dialable && waiting.mode == LookupMode::First), "a caller waits for the first addresses although there are some");
        }
    }

    /// Ends the questions whose time is over.
    fn end_late_queries(&mut self) {
        for own in &mut self.names {
            let Some(query) = own.query.take_if(|query| query.started_at + BUDGET <= self.now) else { continue };
            if !own.keep_partial(&query, self.now) {
                own.failed_at = Some(self.now);
            }
        }
    }

    fn look(&mut self, step: Step) {
        if let Step::Down(name) = step {
            self.names[name].failed_at = Some(self.now);
        }
        while let Some(action) = self.cache.poll_action() {
            match action {
                CacheAction::Query(name, id) => {
                    let name = place(&name);
                    let query = &mut self.names[name].query;
                    let started_at = match (&query, step) {
                        (Some(under_way), Step::Resumed) => under_way.started_at,
                        (Some(_), _) => panic!("{} has two queries at once", NAMES[name]),
                        (None, _) => {
                            assert_eq!(step, Step::Ask(name), "a query without a caller");
                            self.now
                        }
                    };
                    *query = Some(Running { id, started_at, families: [None, None], v4_at: None, is_whole: self.next_query_is_whole });
                    self.names[name].started_at = Some(started_at);
                }
                CacheAction::Answer(waiters, answer) => {
                    let (name, since) = self.take(&waiters);
                    self.judge(name, since, &answer, step);
                }
                CacheAction::Refuse(waiters, _) => {
                    let (name, _) = self.take(&waiters);
                    let known = self.names[name].known.as_ref().filter(|known| known.is_fresh(self.now) && known.dead.is_empty());
                    assert!(known.is_none() || self.names[name].query.is_some(), "a caller is refused although there is a fresh answer");
                }
            }
        }
    }

    /// Removes the answered callers. Returns their name, and since when the first of them waited.
    fn take(&mut self, waiters: &[LookupId]) -> (usize, Instant) {
        let (mut name, mut since) = (None, self.now);
        for waiter in waiters {
            let at = self.waiting.iter().position(|waiting| waiting.id == *waiter).expect("an answered caller has waited");
            let waiting = self.waiting.remove(at);
            assert!(name.is_none_or(|name| name == waiting.name), "an answer for another name");
            name = Some(waiting.name);
            since = since.min(waiting.since);
        }
        (name.expect("an answer has callers"), since)
    }

    fn judge(&self, name: usize, since: Instant, answer: &LookupAnswer, step: Step) {
        let Name { query, known, started_at, failed_at } = &self.names[name];
        assert!(!answer.addresses.is_empty());
        if !answer.complete && !answer.stale && query.is_some() {
            let query = query.as_ref().expect("a query");
            let [v4, v6] = &query.families;
            let results = [v6, v4].into_iter().flatten().flatten();
            let found: Vec<IpAddr> = results.flat_map(|(addresses, _)| addresses.clone()).collect();
            assert_eq!(answer.addresses, found, "the first addresses are those of the running query");
            let last_resort = known.as_ref().is_some_and(|known| !known.is_fresh(self.now));
            let too_early = !last_resort && v6.is_none() && query.v4_at.is_none_or(|at| self.now < at + RESOLUTION_DELAY);
            assert!(!too_early, "IPv4 does not wait for IPv6");
            return;
        }
        let known = known.as_ref().expect("an answer comes from somewhere");
        assert!(
            answer.addresses.iter().all(|address| known.addresses.contains(address)),
            "addresses of an answer that was replaced: {answer:?} of {:?}",
            self.names[name]
        );
        let kept = started_at.is_some_and(|at| at < known.kept_until) && (since < self.now || self.now < known.kept_until + BUDGET);
        assert!(kept, "an answer is kept too long");
        let without_query = step == Step::Ask(name) && query.is_none() && !known.is_fresh(self.now);
        let failed = failed_at.is_some_and(|at| self.now < at + STALE_RETRY);
        assert!(!without_query || failed, "an expired answer is given without a query for a newer one");
        let found = |query: &Running| query.families.iter().flatten().any(Result::is_ok);
        let newer = query.as_ref().is_some_and(found);
        assert!(known.is_fresh(self.now) || !newer, "an expired answer is given while there is a fresh one");
        let alive = known.addresses.iter().any(|address| !known.dead.contains(address));
        let has_dead = answer.addresses.iter().any(|address| known.dead.contains(address));
        assert!(!(alive && has_dead), "a dead address is given while another lives");
        assert!(known.is_fresh(self.now) || answer.stale, "an expired answer is given as a fresh one");
        assert!(!(answer.stale && known.is_fresh(self.now) && known.dead.is_empty()), "a fresh answer is called stale");
    }

    /// Lets time pass until no caller waits and no timer runs.
    fn finish(&mut self) {
        for _ in 0..100 {
            let Some((at, _)) = self.cache.poll_timeout() else { break };
            self.pass(at - self.now);
        }
        assert!(self.waiting.is_empty() && self.cache.poll_timeout().is_none(), "the cache comes to rest");
    }

    fn addresses(&mut self, rng: &mut SmallRng) -> Vec<IpAddr> {
        let v6 = rng.random_bool(0.5);
        let one = |scene: &mut Self| {
            scene.next_address += 1;
            let bits = scene.next_address;
            match v6 {
                true => IpAddr::V6(((0xfd00_u128 << 112) + u128::from(bits)).into()),
                false => IpAddr::V4((0x0a00_0000 + bits).into()),
            }
        };
        (0..rng.random_range(0..4)).map(|_| one(self)).collect()
    }
}

impl Name {
    /// Keeps the addresses of one family of an ended query for a short time. Returns whether there are any.
    fn keep_partial(&mut self, query: &Running, now: Instant) -> bool {
        let [v4, v6] = query.families.clone();
        let found: Vec<IpAddr> = [v6, v4].into_iter().flatten().flatten().flat_map(|(addresses, _)| addresses).collect();
        let is_kept = !found.is_empty() && !query.is_whole;
        if is_kept {
            self.learn(found, Duration::ZERO, now);
        }
        is_kept
    }

    fn learn(&mut self, addresses: Vec<IpAddr>, ttl: Duration, now: Instant) {
        let valid_until = now + ttl.clamp(TTL_MIN, TTL_MAX);
        self.known = Some(Known { addresses, dead: Vec::new(), valid_until, kept_until: valid_until + STALE_KEPT });
    }
}

impl Known {
    fn is_fresh(&self, now: Instant) -> bool {
        now < self.valid_until
    }

    fn is_dead(&self) -> bool {
        self.addresses.iter().all(|address| self.dead.contains(address))
    }
}

fn place(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).expect("a name")
}
