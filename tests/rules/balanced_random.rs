//! The model of a pool behind a load balancer, on random sequences of steps.
//!
//! The model keeps the service of each connection, and the connections that existed when their service failed: these are never
//! checked out again. Clearing a service neither pauses the pool nor refuses a waiter, and each connection has one created and
//! one closed event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mongolink::bson::oid::ObjectId;
use mongolink::pool::{self, Checkout, CloseReason, Health, Lease, Pool, PoolAction, PoolConfig, PoolEvent, WaiterId};
use mongolink::{Error, ErrorKind};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::support::{closed_by_peer, for_seeds, ms};

const SEEDS: u64 = 1_500;
const STEPS: usize = 80;

struct Scene {
    pool: Pool<u64>,
    config: PoolConfig,
    now: Instant,
    opening: Vec<Lease>,
    in_use: Vec<Lease>,
    draining: Vec<Lease>,
    waiting: Vec<WaiterId>,
    reached: BTreeMap<u64, ObjectId>,
    /// Connections that existed when their service failed.
    obsolete: BTreeSet<u64>,
    /// Connections that were interrupted.
    interrupted: BTreeSet<u64>,
    pinned: BTreeSet<u64>,
    /// The newest obsolete generation of each service.
    outdated: BTreeMap<ObjectId, u64>,
    created: BTreeSet<u64>,
    closed: BTreeMap<u64, CloseReason>,
    cleared: Vec<Option<ObjectId>>,
    ended: bool,
}

#[test]
fn clearing_a_service_closes_its_connections_only() {
    let began = Instant::now();
    for_seeds(SEEDS, |rng| {
        let mut scene = Scene::new(rng, began);
        for _ in 0..STEPS {
            scene.step(rng);
            scene.drain();
            scene.check();
        }
        scene.finish();
    });
}

impl Scene {
    fn new(rng: &mut SmallRng, now: Instant) -> Self {
        let config = PoolConfig {
            max_size: rng.random_bool(0.9).then(|| rng.random_range(1..6)),
            min_size: rng.random_range(0..2),
            max_connecting: rng.random_range(1..4),
            max_idle_time: None,
            open_timeout: rng.random_bool(0.5).then(|| ms(rng.random_range(1..6_000))),
            drain_limit: Duration::from_secs(10),
        };
        let mut pool = Pool::new(config.clone(), 0).behind_load_balancer();
        pool.record_events(true);
        pool.handle_ready(now);
        let mut scene = Self {
            pool,
            config,
            now,
            opening: Vec::new(),
            in_use: Vec::new(),
            draining: Vec::new(),
            waiting: Vec::new(),
            reached: BTreeMap::new(),
            obsolete: BTreeSet::new(),
            interrupted: BTreeSet::new(),
            pinned: BTreeSet::new(),
            outdated: BTreeMap::new(),
            created: BTreeSet::new(),
            closed: BTreeMap::new(),
            cleared: Vec::new(),
            ended: false,
        };
        scene.drain();
        scene
    }

    fn step(&mut self, rng: &mut SmallRng) {
        match rng.random_range(0..20) {
            0..=4 => self.check_out(),
            5..=7 => self.greet(rng),
            8..=10 => self.opened(rng),
            11 => self.fails_to_open(rng),
            12 => self.pin(rng),
            13..=16 => self.check_in(rng),
            17 | 18 => self.clear(rng),
            _ => {
                self.now += ms(rng.random_range(0..4_000));
                self.pool.handle_timeout(self.now);
            }
        }
    }

    fn check_out(&mut self) {
        match self.pool.handle_checkout(None, self.now) {
            Checkout::CheckedOut { lease, connection, liveness_check } => {
                if liveness_check.is_some() {
                    self.pool.handle_alive(lease, self.now, self.now);
                }
                self.receive(lease, connection);
            }
            Checkout::Waiting(waiter) => self.waiting.push(waiter),
            Checkout::Refused(error) => panic!("a pool that is never paused refuses: {error}"),
        }
    }

    /// The hello reply of a connection being opened names its service.
    fn greet(&mut self, rng: &mut SmallRng) {
        let reached = &self.reached;
        let Some(lease) = self.opening.iter_mut().find(|lease| !reached.contains_key(&lease.id)) else { return };
        let service = ObjectId::from_bytes([rng.random_range(1..4); 12]);
        *lease = self.pool.handle_greeted(*lease, service);
        self.reached.insert(lease.id, service);
        let outdated = self.outdated.get(&service);
        assert!(outdated.is_none_or(|outdated| *outdated < lease.generation), "a new connection has a generation that was cleared");
    }

    fn opened(&mut self, rng: &mut SmallRng) {
        let Some(at) = self.opening.iter().position(|lease| self.reached.contains_key(&lease.id) && rng.random_bool(0.7)) else { return };
        let lease = self.opening.remove(at);
        self.pool.handle_opened(lease, lease.id, self.now);
    }

    /// A connection can't be opened; its service, if it is known, is cleared before the refill.
    fn fails_to_open(&mut self, rng: &mut SmallRng) {
        if self.opening.is_empty() {
            return;
        }
        let lease = self.opening.remove(rng.random_range(0..self.opening.len()));
        let (waiting, replaced) = (self.waiting.len(), self.obsolete.contains(&lease.id));
        self.pool.handle_open_failed(lease, &closed_by_peer(), self.now);
        if self.reached.contains_key(&lease.id) && !self.interrupted.contains(&lease.id) {
            self.clear_service(lease);
        }
        self.pool.handle_refill(self.now);
        self.drain();
        assert!(!replaced || self.waiting.len() == waiting, "a waiter is refused for a connection that is replaced");
    }

    fn pin(&mut self, rng: &mut SmallRng) {
        if !self.in_use.is_empty() {
            let lease = self.in_use[rng.random_range(0..self.in_use.len())];
            self.pool.handle_pinned(lease);
            self.pinned.insert(lease.id);
        }
    }

    fn check_in(&mut self, rng: &mut SmallRng) {
        let held = if rng.random_bool(0.7) { &mut self.in_use } else { &mut self.draining };
        if held.is_empty() {
            return;
        }
        let lease = held.remove(rng.random_range(0..held.len()));
        let health = [Health::Good, Health::Good, Health::ReplyOutstanding, Health::Broken][rng.random_range(0..4)];
        self.pinned.remove(&lease.id);
        self.pool.handle_checkin(lease, lease.id, health, self.now);
        self.drain();
        let expected = match health {
            Health::Broken => Some(CloseReason::Error),
            Health::Good | Health::ReplyOutstanding if self.obsolete.contains(&lease.id) => Some(CloseReason::Stale),
            Health::Good | Health::ReplyOutstanding => self.interrupted.contains(&lease.id).then_some(CloseReason::Error),
        };
        assert_eq!(self.closed.get(&lease.id).copied(), expected, "connection {} comes back {health:?}", lease.id);
    }

    /// The service of a connection in use fails.
    fn clear(&mut self, rng: &mut SmallRng) {
        if !self.in_use.is_empty() {
            self.clear_service(self.in_use[rng.random_range(0..self.in_use.len())]);
        }
    }

    /// Clears a connection's service; the error of an obsolete connection changes nothing.
    fn clear_service(&mut self, failed: Lease) {
        self.drain();
        let service = self.reached[&failed.id];
        let is_news = !self.obsolete.contains(&failed.id);
        let idle = self.pool.stats().idle;
        if is_news {
            let there = self.reached.iter().filter(|(id, own)| **own == service && !self.closed.contains_key(*id));
            self.obsolete.extend(there.map(|(id, _)| *id));
            self.outdated.insert(service, failed.generation);
        }
        self.pool.handle_clear_service(service, failed.generation, &Error::new(ErrorKind::Closed, "closed"), self.now);
        let (waiting, closed, interrupted) = (self.waiting.len(), self.closed.clone(), self.interrupted.clone());
        self.drain();
        let mut dials = self.opening.iter().map(|lease| lease.id).filter(|id| self.interrupted.contains(id) && !interrupted.contains(id));
        assert!(dials.all(|id| self.obsolete.contains(&id)), "a connection of another or an unknown service is interrupted");
        let mut new = self.closed.iter().filter(|(id, _)| !closed.contains_key(*id));
        assert!(
            new.all(|(id, reason)| self.obsolete.contains(id) && *reason == CloseReason::Stale),
            "connections of another service are closed"
        );
        assert_eq!(std::mem::take(&mut self.cleared), Vec::from_iter(is_news.then_some(Some(service))));
        assert_eq!(self.waiting.len(), waiting, "no waiter is answered when a service is cleared");
        assert!(is_news || self.pool.stats().idle == idle, "an old error closes connections");
        let kept = |id: &u64| self.obsolete.contains(id) && !self.closed.contains_key(id);
        let held: BTreeSet<u64> = self.in_use.iter().chain(&self.draining).map(|lease| lease.id).collect();
        assert!(
            self.created.iter().filter(|id| kept(id)).all(|id| held.contains(id) || *id == failed.id),
            "idle connections and those being opened are closed at once"
        );
    }

    /// Takes events and actions.
    fn drain(&mut self) {
        while let Some(event) = self.pool.poll_event() {
            match event {
                PoolEvent::ConnectionCreated { connection_id, .. } => assert!(self.created.insert(connection_id)),
                PoolEvent::ConnectionClosed { connection_id, reason, .. } => {
                    assert!(self.created.contains(&connection_id), "connection {connection_id} is closed before it is created");
                    assert_eq!(self.closed.insert(connection_id, reason), None, "connection {connection_id} has two closed events");
                }
                PoolEvent::PoolCleared { service_id, interrupt_in_use, .. } => {
                    assert!(!interrupt_in_use);
                    self.cleared.push(service_id);
                }
                _ => {}
            }
        }
        while let Some(action) = self.pool.poll_action() {
            match action {
                PoolAction::Open(lease) => self.opening.push(lease),
                PoolAction::Deliver { waiter, lease, connection } => {
                    assert_eq!(self.waiting.remove(0), waiter, "{waiter:?} passes an earlier one");
                    self.receive(lease, connection);
                }
                PoolAction::Refuse(waiter, error) => {
                    assert!(error.kind() == closed_by_peer().kind() || self.ended, "{error}");
                    assert_eq!(self.waiting.remove(0), waiter, "the first waiter gets the error");
                }
                PoolAction::Interrupt(lease, _) => {
                    assert!(self.ended || self.in_use.iter().all(|lent| lent.id != lease.id), "a connection in use is interrupted");
                    let mut own = self.opening.iter().chain(&self.draining);
                    assert!(self.ended || own.any(|own| *own == lease), "{lease:?} is not the lease of its connection");
                    self.interrupted.insert(lease.id);
                }
                PoolAction::Drain(lease, _) => self.draining.push(lease),
                PoolAction::Close(..) | PoolAction::Unanswered => {}
            }
        }
    }

    fn receive(&mut self, lease: Lease, connection: u64) {
        assert_eq!(connection, lease.id);
        assert!(!self.obsolete.contains(&lease.id), "a check-out of an obsolete connection");
        assert!(self.reached.contains_key(&lease.id) && !self.closed.contains_key(&lease.id));
        self.in_use.push(lease);
    }

    fn check(&self) {
        let stats = self.pool.stats();
        assert!(stats.ready, "the pool is never paused");
        assert_eq!(stats.pinned, self.pinned.len(), "cursors hold");
        assert_eq!((stats.in_use, stats.draining, stats.waiting), (self.in_use.len(), self.draining.len(), self.waiting.len()));
        assert_eq!(stats.opening, self.opening.len());
        assert_eq!(stats.created - stats.closed, stats.total() as u64, "each connection is closed once");
        assert!(stats.idle == 0 || stats.waiting == 0, "no waiters beside an idle connection");
        assert!(stats.opening <= self.config.max_connecting as usize, "maxConnecting");
        assert!(self.config.max_size.is_none_or(|max| stats.total() <= max as usize), "maxPoolSize");
        let coming = self.opening.iter().filter(|lease| !self.interrupted.contains(&lease.id)).count();
        let full = self.config.max_size.is_some_and(|max| stats.total() >= max as usize);
        let stuck = stats.waiting > coming && stats.opening < self.config.max_connecting as usize && !full;
        assert!(!stuck, "a waiter for which nothing is opened");
    }

    /// Closes the pool: every created connection is closed.
    fn finish(&mut self) {
        self.ended = true;
        self.pool.handle_close(&pool::closed(), true, self.now);
        self.drain();
        self.now += Duration::from_secs(60);
        self.pool.handle_timeout(self.now);
        for lease in std::mem::take(&mut self.opening) {
            self.pool.handle_opened(lease, lease.id, self.now);
        }
        for lease in self.in_use.drain(..).chain(self.draining.drain(..)) {
            self.pool.handle_checkin(lease, lease.id, Health::Good, self.now);
        }
        self.drain();
        assert!(self.created.iter().eq(self.closed.keys()), "all that was created is closed");
        let stats = self.pool.stats();
        assert_eq!((stats.total(), stats.waiting, stats.pinned), (0, 0, 0), "nothing is left of a closed pool");
    }
}
