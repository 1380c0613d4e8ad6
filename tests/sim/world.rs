//! How does one run go?
//!
//! One clock, one queue: the next event is taken, its step is done, and what must hold is looked at. Then the next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, rawdoc};
use mongolink::options::MIN_HEARTBEAT_FREQUENCY;
use mongolink::pool::LOGIN_PAUSE_MAX;
use mongolink::race::STAGGER;
use mongolink::sandbox::FakeDeployment;
use mongolink::{Error, ErrorKind, ServerAddress};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::balancer::Balancer;
use super::calls::{PROBE_PAUSE, look_at_selections};
use super::client::{Client, Role};
use super::deployments::Deployment;
use super::invariants::{in_order, nobody_waits_past_a_deadline, nothing_is_left, usable_again};
use super::logins::LoginState;
use super::net::{Net, Place};
use super::plan::{Fault, Plan};
use super::queue::{CallKind, Event, Queue, Timer};
use super::requests::RequestHarm;
use super::resolver::Zone;
use super::servers::{Servers, names};
use super::silence::Truth;
use super::srv::SrvZone;
use super::trace::Trace;

/// The state of one run.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) queue: Queue,
    pub(crate) plan: Plan,
    pub(crate) random: SmallRng,
    pub(crate) servers: Servers,
    pub(crate) net: Net,
    pub(crate) zone: Zone,
    pub(crate) srv_zone: SrvZone,
    pub(crate) balancer: Balancer,
    /// By client, then by member.
    pub(crate) truths: Vec<Vec<Truth>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) metadata: Arc<RawDocumentBuf>,
    pub(crate) logins: LoginState,
    pub(crate) trace: Trace,
    pub(crate) figures: Figures,
    over: bool,
}

/// The results of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) simulated: Duration,
    pub(crate) steps: u64,
    pub(crate) calls: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) given_up: u64,
    /// How many times a server was found silent.
    pub(crate) silent: u64,
    /// How many times SRV records were asked for, and followed.
    pub(crate) polls: u64,
    pub(crate) followed: u64,
    /// How many times a service behind a load balancer was cleared, and cursors went on there.
    pub(crate) services_cleared: u64,
    pub(crate) batches: u64,
    /// How many logins were begun, and how many of them failed.
    pub(crate) logins: (u64, u64),
    /// How many times a race was overtaken by a newer answer of DNS.
    pub(crate) overtaken: u64,
    /// The longest that a client took to be usable after the faults, and what it was allowed.
    pub(crate) recovery: Duration,
    pub(crate) recovery_bound: Duration,
}

impl Figures {
    /// Adds what another run has counted; a recovery is not counted, but compared.
    pub(crate) fn count(&mut self, other: &Self) {
        self.simulated += other.simulated;
        self.steps += other.steps;
        self.calls += other.calls;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.given_up += other.given_up;
        self.silent += other.silent;
        self.polls += other.polls;
        self.followed += other.followed;
        self.services_cleared += other.services_cleared;
        self.batches += other.batches;
        self.logins = (self.logins.0 + other.logins.0, self.logins.1 + other.logins.1);
        self.overtaken += other.overtaken;
    }
}

/// More steps than any run needs: one that takes more goes in circles.
const STEPS_MAX: u64 = 400_000;

/// How long a client is used after it has recovered, before it is shut down.
const AFTERWARDS: Duration = Duration::from_millis(500);

impl World {
    pub(crate) fn new(plan: Plan, seed: u64, trace: Trace) -> Self {
        #[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
        let start = Instant::now();
        let hosts: Vec<Vec<String>> = (0..plan.members).map(names).collect();
        let first: Vec<&str> = hosts.iter().filter_map(|names| names.get(2)).map(String::as_str).collect();
        let cluster = FakeDeployment::new(plan.config(&first), seed, start).expect("a deployment");
        let mut random = SmallRng::seed_from_u64(seed ^ 0x5eed_0fa2_u64);
        let seeds: Vec<ServerAddress> = first.iter().map(|name| ServerAddress::parse(name).expect("a name")).collect();
        let clients = plan
            .clients
            .iter()
            .enumerate()
            .map(|(c, client)| {
                // Some are told of one member only, and learn the others' names.
                let known = random.random_range(1..=seeds.len());
                let (settings, draws) = (client.settings.clone(), random.random());
                let config = plan.topology_config(c, &settings, seeds.iter().take(known).cloned().collect(), draws);
                Client::new(settings, config, draws, start)
            })
            .collect();
        let mut trace = trace;
        trace.begin(start);
        let mut world = Self {
            now: start,
            start,
            queue: Queue::default(),
            net: Net::new(plan.clients.len(), plan.members, start),
            servers: Servers { cluster, lies: vec![None; plan.members], excess: vec![None; plan.members], exceeded: 0 },
            zone: Zone::default(),
            srv_zone: SrvZone::default(),
            balancer: Balancer::default(),
            truths: Self::truths(plan.clients.len(), plan.members, start),
            clients,
            metadata: Arc::new(rawdoc! { "driver": { "name": "mongolink", "version": "sim" } }),
            logins: LoginState::new(seed, plan.logins.as_ref()),
            trace,
            figures: Figures::default(),
            random,
            plan,
            over: false,
        };
        world.furnish();
        world
    }

    /// Makes the zone, and puts all that the plan has into the queue.
    fn furnish(&mut self) {
        for member in 0..self.plan.members {
            let addresses = self.new_addresses(member);
            for name in names(member) {
                let key = ServerAddress::parse(&name).expect("a name");
                self.zone.records.insert(key.name().expect("a name").to_owned(), addresses.clone());
            }
        }
        for (index, (at, _)) in self.plan.faults.clone().into_iter().enumerate() {
            self.queue.push(self.start + at, Event::Fault(index));
        }
        for (client, plan) in self.plan.clients.clone().into_iter().enumerate() {
            for (at, kind, patience) in plan.calls {
                self.queue.push(self.start + at, Event::Call { client, kind, patience });
            }
        }
        self.queue.push(self.start + self.plan.quiet_at, Event::Quiet);
    }

    /// One or two addresses that work, and sometimes one that does not.
    pub(crate) fn new_addresses(&mut self, member: usize) -> Vec<std::net::IpAddr> {
        let own = self.plan.place_of(member);
        let mut addresses = vec![self.net.address(false, own)];
        if self.random.random_bool(0.3) {
            addresses.push(self.net.address(true, own));
        }
        if self.random.random_bool(0.15) {
            let place = if self.random.random_bool(0.5) { Place::Nowhere } else { Place::NobodyListens };
            let v6 = self.random.random_bool(0.5);
            addresses.insert(0, self.net.address(v6, place));
        }
        addresses
    }

    /// Runs to the end; a broken invariant breaks it off.
    pub(crate) fn run(&mut self) {
        self.begin();
        while !self.over {
            self.advance();
        }
        self.figures.simulated = self.now - self.start;
    }

    /// Starts the clients.
    pub(crate) fn begin(&mut self) {
        for c in 0..self.clients.len() {
            self.topology_act(c, false, |_, _| ());
        }
        self.begin_polling();
        self.drain_servers();
    }

    /// Runs until a moment, or to the end.
    pub(crate) fn run_until(&mut self, until: Instant) {
        while !self.over && self.queue.next_at().is_some_and(|at| at <= until) {
            self.advance();
        }
    }

    fn advance(&mut self) {
        let (at, event) = self.queue.next().expect("the end is an event");
        in_order(at >= self.now, || format!("{event:?} comes {:?} late", self.now - at));
        self.now = at;
        self.figures.steps += 1;
        in_order(self.figures.steps < STEPS_MAX, || format!("{STEPS_MAX} steps are not enough"));
        let client = event.client();
        if let Some(until) = client.and_then(|c| self.clients[c].asleep_until).filter(|until| *until > at) {
            return self.queue.push(until, event);
        }
        self.step(event);
        if let Some(c) = client {
            self.look(c);
            self.look_at_hosts(c);
            self.look_at_services(c);
            self.look_at_deposed(c);
            self.look_at_sockets(c);
        }
    }

    pub(crate) fn note(&self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_on() {
            self.trace.note(self.now, || line(self));
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Timer(timer) => self.timer(timer),
            Event::Fault(index) => self.strike(index),
            Event::Mend(end) => self.mend(end),
            Event::Knock { conn } => self.knock(conn),
            Event::ToServer { conn, parcel } => self.arrive_at_server(conn, parcel),
            Event::ToClient { client, conn, parcel } => self.arrive_at_client(client, conn, parcel),
            Event::DnsAnswer { client, name, query, family } => self.dns_answers(client, name, query, family),
            Event::SystemAnswer { client, name, query } => self.system_answers(client, name, query),
            Event::QueryEnds { client, name, query } => self.query_ends(client, name, query),
            Event::Orders { client, watch } => self.obey(client, watch),
            Event::Resolved { client, opening, waiter } => self.resolved(client, opening, mongolink::dns::LookupId(waiter)),
            Event::Overtaken { client, opening } => self.race_act(client, opening, false, |_, _| ()),
            Event::Derived { client, opening } => self.derived(client, opening),
            Event::Admit => self.admit(),
            Event::Interrupted { client, conn } | Event::Exchange { client, conn } => self.read(client, conn),
            Event::OpeningInterrupted { client, opening, error } => self.opening_interrupted(client, opening, error),
            Event::Selected { client, call, select, outcome } => self.selected(client, call, select, outcome),
            Event::Delivered { client, pool, call, lease, conn } => self.delivered(client, call, pool, lease, conn),
            Event::Denied { client, call, error } => self.denied(client, call, error),
            Event::Call { client, kind, patience } => self.begin_call(client, kind, patience),
            Event::GiveUp { client, call } => self.give_up(client, call),
            Event::NextBatch { client, call } => self.next_batch(client, call),
            Event::Srv { client, what } => self.srv_event(client, what),
            Event::TcpGivesUp { conn } => self.tcp_gives_up(conn),
            Event::Quiet => self.quiet(),
            Event::Overdue { client } => self.overdue(client),
            Event::Recovering { client } => self.begin_probing(client),
            Event::Probe { client } => self.begin_call(client, CallKind::Probe, None),
            Event::Shutdown { client } => self.shut_down(client),
            Event::Left { client } => self.look_for_rests(client),
            Event::End => self.over = true,
        }
    }

    fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Servers => {
                let now = self.now;
                self.servers.cluster.handle_timeout(now);
                self.drain_servers();
            }
            Timer::Topology(c) => self.topology_act(c, true, |topology, now| topology.handle_timer(now)),
            Timer::Cache(c) => self.cache_act(c, true, |cache, now| cache.handle_timer(now)),
            Timer::Pool(c, id) => drop(self.pool_act(c, id, true, |pool, now| pool.handle_timer(now))),
            Timer::Monitor(c, id) => {
                let now = self.local(c);
                self.monitor_act(c, id, true, |_, monitor| monitor.handle_timeout(now));
            }
            Timer::Race(c, id) => self.race_act(c, id, true, |race, now| race.handle_timeout(now)),
            Timer::Greeting(c, id) => self.greeting_late(c, id),
            Timer::Exchange(c, id) => self.exchange_late(c, id),
            Timer::Rescan(c) => self.srv_act(c, true, |rescan, now| rescan.handle_timeout(now)),
        }
    }

    /// What must hold of a client between two steps.
    fn look(&self, c: usize) {
        let now = self.local(c);
        self.look_at_pools(c);
        nobody_waits_past_a_deadline("selection", self.selecting(c), now);
        look_at_selections(&self.clients[c]);
        for server in self.clients[c].pools.values() {
            let waiting = server.ledger.waiting.iter().map(|(id, deadline)| (*id, *deadline));
            nobody_waits_past_a_deadline("check-out", waiting, now);
        }
    }

    /// From now on the client must become usable.
    pub(crate) fn begin_probing(&mut self, c: usize) {
        self.clients[c].backlog = self.clients[c].calls.len() as u32;
        let bound = self.recovery_bound(c);
        self.clients[c].recovery_bound = bound;
        self.queue.push(self.now, Event::Probe { client: c });
        self.queue.push(self.now + bound, Event::Overdue { client: c });
    }

    /// By when a client can be used again after the last fault, if somebody wants to use it.
    ///
    /// The parts are what the rules allow, one after the other. A server that is back is found by a check, and the check
    /// that runs when it comes back may be of no use: it is given up at `connectTimeoutMS` + `heartbeatFrequencyMS` if the
    /// server was to stream, at `dnsTimeoutMS` and twice `connectTimeoutMS` (TCP with TLS, hello) if it was being connected
    /// to. Because somebody waits, the next one follows after 500 ms at the latest, not after `heartbeatFrequencyMS`. It, the
    /// pool's connection and the command take seven round trips, and a stagger for each address that leads nowhere.
    fn recovery_bound(&self, c: usize) -> Duration {
        let settings = &self.clients[c].settings;
        let (connect, dns) = (settings.connect_timeout, settings.dns_timeout);
        let floor = MIN_HEARTBEAT_FREQUENCY;
        let (election, check) = match self.plan.deployment {
            Deployment::Members => {
                (self.plan.election_timeout + self.plan.notice_delay, (connect + settings.heartbeat_frequency).max(dns + 2 * connect))
            }
            Deployment::Routers => (Duration::ZERO, (connect + settings.heartbeat_frequency).max(dns + 2 * connect)),
            // There is no check: a connection that is being opened is the pool's own.
            Deployment::Balanced => (self.scrolling(c), dns + 2 * connect),
        };
        let trips = 7 * self.plan.round_trip_max() + 4 * self.plan.dns_delay + 4 * STAGGER;
        let trips = trips + self.plan.logins.as_ref().map_or(Duration::ZERO, |logins| logins.extra(self.plan.round_trip_max()));
        let probe = self.plan.probe_limit();
        // Those who came before are served before, at the worst one after the other.
        let served = self.clients[c].backlog * (2 * self.plan.delay_max() + self.plan.jitter);
        // What was held up on purpose at the last moment may have all of a pool's connections.
        let mut bound =
            election + check + floor + trips + probe + served + self.plan.held_up_max() + 8 * settings.wake_delay + self.astray(c);
        if self.plan.logins.is_some() {
            // A login that was refused at the last moment is not tried again for a while.
            bound += LOGIN_PAUSE_MAX;
        }
        if self.plan.has(|fault| matches!(fault, Fault::DnsFails { .. } | Fault::DnsHangs { .. } | Fault::DnsForgets { .. })) {
            // What DNS said last is believed for a while.
            bound += NOT_THERE + floor;
        }
        if self.plan.has(|fault| matches!(fault, Fault::DnsSlow { .. })) {
            // A question of the last moment is answered late, or not in its time, which is believed for a while.
            bound += dns + NOT_THERE + floor;
        }
        if self.plan.has(|fault| matches!(fault, Fault::Move { .. })) {
            // The old address is tried until it is known to be dead, then DNS is asked.
            bound += connect + floor + dns;
        }
        if self.plan.has(|fault| matches!(fault, Fault::Request { harm: RequestHarm::Lengthened, .. })) {
            // A server waits for the rest of a request: whoever awaits its reply waits as long as may be, then the pool.
            let limit = settings.call_timeout.max(settings.socket_timeout).unwrap_or_default();
            bound += limit.max(connect) + DRAIN + floor;
        }
        if self.plan.has(|fault| matches!(fault, Fault::Silence { .. })) {
            // One after the other of a pool's connections is found to be dead by whoever gets it, and given up as late.
            bound += DRAIN + settings.max_pool_size * (probe + PROBE_PAUSE);
            if settings.call_timeout.is_none() && settings.socket_timeout.is_none() {
                // A call without any limit has no other end than TCP's.
                bound += TCP_GIVES_UP;
            }
        }
        bound
    }

    /// A command has succeeded after the faults.
    pub(crate) fn recovered(&mut self, c: usize) {
        let took = (self.now - self.start).saturating_sub(self.plan.quiet_at);
        self.note(|_| format!("client {c} is usable again after {took:?}"));
        self.clients[c].recovered_after = Some(took);
        let bound = self.clients[c].recovery_bound;
        let old = &mut self.figures;
        if took.as_secs_f64() / bound.as_secs_f64() >= old.recovery.as_secs_f64() / old.recovery_bound.as_secs_f64().max(1e-9) {
            (old.recovery, old.recovery_bound) = (took, bound);
        }
        for _ in 0..3 {
            self.queue.push(self.now, Event::Call { client: c, kind: CallKind::Find, patience: None });
        }
        let at = (self.now + AFTERWARDS).max(self.looked_at_until(c));
        self.queue.push(at, Event::Shutdown { client: c });
    }

    fn overdue(&mut self, c: usize) {
        if self.clients[c].recovered_after.is_none() {
            usable_again(c, self.clients[c].recovery_bound);
        }
    }

    /// Ends a client, as `io/topology.rs` does: monitors, pools, the topology, the rest.
    fn shut_down(&mut self, c: usize) {
        self.note(|_| format!("client {c} is shut down"));
        self.end_scrolls(c);
        self.clients[c].is_shut_down = true;
        let watches: Vec<u64> = self.clients[c].watches.keys().copied().collect();
        for watch in watches {
            self.end_watch(c, watch);
        }
        self.clients[c].watched.clear();
        let over = Error::new(ErrorKind::Shutdown, "the client has been shut down");
        // Those of servers that are gone may still have lent connections.
        let pools: Vec<u64> = self.clients[c].pools.keys().copied().collect();
        for pool in pools {
            self.pool_act(c, pool, false, |pool, now| pool.handle_close(&over, true, now));
        }
        self.topology_act(c, false, |topology, now| topology.handle_shutdown(now));
        self.stop_polling(c);
        self.stop_resolver(c);
        let at = self.now + 4 * self.clients[c].settings.wake_delay + Duration::from_micros(1);
        self.queue.push(at, Event::Left { client: c });
    }

    /// Nobody and nothing of a client is left; nor is a run, after its last client.
    fn look_for_rests(&mut self, c: usize) {
        let client = &self.clients[c];
        let mut left = Vec::new();
        let mut find = |what: &str, found: bool| {
            if found {
                left.push(what.to_owned());
            }
        };
        find("a monitor", !client.watches.is_empty());
        find("a round-trip monitor", client.watches.values().any(|watch| matches!(watch.role, Role::RoundTrips { .. })));
        find("a connection being opened", !client.openings.is_empty());
        find("a call", !client.calls.is_empty());
        find("a selection", !client.selects.is_empty() || client.topology.waiting() > 0);
        find("a timer of the topology", client.topology.poll_timeout().is_some());
        find("a look-up", !client.resolver.waiting.is_empty() || client.resolver.questions() > 0);
        find("a timer of the resolver", client.resolver.cache.poll_timeout().is_some());
        find("an event to come", !client.replay.is_closed());
        let open = self.net.conns.values().filter(|conn| conn.client == c && !conn.client_closed).count();
        find("an open connection", open > 0);
        for server in client.pools.values() {
            let stats = server.pool.stats();
            find("a connection in a pool", stats.total() > 0);
            find("a waiter in a pool", stats.waiting > 0);
            find("a timer of a pool", server.pool.poll_timeout().is_some());
        }
        let timers = self.queue.timers_of(c);
        find(&format!("the timers {timers:?}"), !timers.is_empty());
        nothing_is_left(c, &left);
        if self.clients.iter().all(|client| client.is_shut_down) {
            self.queue.push(self.now, Event::End);
        }
    }

    /// The published kind of each server, for whoever prints it.
    pub(crate) fn kinds(&self, c: usize) -> BTreeMap<String, &'static str> {
        self.clients[c].published.servers().iter().map(|server| (server.host.to_string(), server.kind.name())).collect()
    }
}

/// How long the cache believes that a name does not exist, or serves its last good answer while DNS is down.
pub(crate) const NOT_THERE: Duration = Duration::from_secs(5);

/// How long a pool waits for a late reply.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// How long a late reply has at least before it makes room for a caller who waits.
pub(crate) const DRAIN_FLOOR: Duration = Duration::from_millis(50);

/// How long a client's kernel waits for an answer to what it has sent, or to its probes of an idle connection.
pub(crate) const TCP_GIVES_UP: Duration = Duration::from_secs(210);
