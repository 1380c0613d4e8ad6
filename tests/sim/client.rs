//! How are a client's topology and monitors carried out?
//!
//! Does faithfully what `io/topology.rs` and `io/monitor.rs` do, without tasks: the rules are the shipped ones, and each
//! wake-up of a task is an event of its own, a little later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongolink::handshake::{HelloReply, monitor_hello};
use mongolink::machine::{Driven, Machine, Output};
use mongolink::operation::command_error;
use mongolink::pool::{Pool, PoolConfig, closed};
use mongolink::topology::{
    Fault, Monitor, MonitorAction, MonitorConfig, RoundTrips, SelectId, Suspension, Topology, TopologyAction, TopologyConfig,
    TopologyDescription, TopologyEvent,
};
use mongolink::wire::{Flags, Message, Request, WriteBuffer};
use mongolink::{Address, Error, ServerAddress, Stage};

use super::calls::Call;
use super::excess::ReportCount;
use super::invariants::{
    at_most_one_primary, elections_never_go_back, old_errors_change_nothing, replay_is_the_description, suspension_ends_the_idle,
    time_out_interrupts, timer_lies_ahead, waiting_has_a_timer,
};
use super::net::{Exchange, User};
use super::openings::{Opening, Purpose};
use super::plan::Settings;
use super::pools::ServerPool;
use super::promises::every_near_router_is_had;
use super::queue::{Event, Timer};
use super::replay::{ChecksReplay, TopologyReplay};
use super::resolver::Resolver;
use super::shell::Place;
use super::silence::Deposed;
use super::srv::SrvPoll;
use super::world::{DRAIN, World};

/// One client: the rules, and what the shell keeps for them.
pub(crate) struct Client {
    pub(crate) settings: Settings,
    /// How long its machine has slept so far: its clock is behind by that.
    pub(crate) slept: Duration,
    pub(crate) asleep_until: Option<Instant>,
    pub(crate) is_shut_down: bool,
    pub(crate) topology: Driven<Topology>,
    /// What callers see, and the pools that belong to it.
    pub(crate) published: Arc<TopologyDescription>,
    pub(crate) snapshot: BTreeMap<ServerAddress, u64>,
    pub(crate) places: BTreeMap<ServerAddress, u64>,
    pub(crate) pools: BTreeMap<u64, ServerPool>,
    pub(crate) watches: BTreeMap<u64, Watch>,
    pub(crate) watched: BTreeMap<ServerAddress, u64>,
    pub(crate) openings: BTreeMap<u64, Opening>,
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) selects: BTreeMap<SelectId, (u64, Instant)>,
    pub(crate) resolver: Resolver,
    pub(crate) srv: Option<SrvPoll>,
    pub(crate) winners: BTreeMap<ServerAddress, Address>,
    /// Deposed primaries that are frozen: a newer one was discovered at that moment.
    pub(crate) deposed: BTreeMap<ServerAddress, Deposed>,
    pub(crate) suspension: Suspension,
    pub(crate) replay: TopologyReplay,
    reports: ReportCount,
    /// Keys whose insert was acknowledged.
    pub(crate) acknowledged: Vec<i32>,
    pub(crate) recovered_after: Option<Duration>,
    /// Within what time it is to be usable.
    pub(crate) recovery_bound: Duration,
    /// How many callers were there when the faults were over: they are served first.
    pub(crate) backlog: u32,
    pub(crate) draws: u64,
    next: u64,
}

/// The monitor of one server.
pub(crate) struct Watch {
    pub(crate) host: ServerAddress,
    pub(crate) monitor: Monitor,
    pub(crate) role: Role,
    conn: Option<u64>,
    opening: Option<u64>,
    orders: u8,
    measuring: Option<u64>,
    trips: RoundTrips,
    pub(crate) replay: ChecksReplay,
}

/// Says what a watch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Checks,
    /// Its replies are measured, for the watch named here.
    RoundTrips {
        of: u64,
    },
}

const CHECK_NOW: u8 = 1;
const CANCEL_CHECK: u8 = 2;
const RESUMED: u8 = 4;
const STOP: u8 = 8;

impl Watch {
    /// Tells whether it checks a server that is watched no more, and was not told to stop.
    pub(crate) fn is_stray(&self, id: u64, watched: &BTreeMap<ServerAddress, u64>) -> bool {
        self.role == Role::Checks && self.orders & STOP == 0 && watched.get(&self.host) != Some(&id)
    }
}

impl Client {
    pub(crate) fn new(settings: Settings, config: TopologyConfig, draws: u64, start: Instant) -> Self {
        let topology = Topology::new(config, draws, start);
        Self {
            published: Arc::clone(topology.description()),
            topology: Driven::new(topology, start),
            slept: Duration::ZERO,
            asleep_until: None,
            is_shut_down: false,
            snapshot: BTreeMap::new(),
            places: BTreeMap::new(),
            pools: BTreeMap::new(),
            watches: BTreeMap::new(),
            watched: BTreeMap::new(),
            openings: BTreeMap::new(),
            calls: BTreeMap::new(),
            selects: BTreeMap::new(),
            resolver: Resolver::new(settings.dns_timeout, start),
            srv: None,
            winners: BTreeMap::new(),
            deposed: BTreeMap::new(),
            suspension: Suspension::new(start, Duration::ZERO),
            replay: TopologyReplay::default(),
            reports: ReportCount::default(),
            acknowledged: Vec::new(),
            recovered_after: None,
            recovery_bound: Duration::ZERO,
            backlog: 0,
            draws,
            next: 0,
            settings,
        }
    }

    /// Numbers something of this client.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The sum of all limits of opening a connection, and some.
    pub(crate) fn open_timeout(&self) -> Duration {
        self.settings.dns_timeout + 2 * self.settings.connect_timeout + Duration::from_secs(1)
    }
}

/// Names the topology of a client.
#[derive(Clone, Copy)]
struct TopologyPlace(usize);

impl Place for TopologyPlace {
    type Machine = Topology;

    fn client(self) -> usize {
        self.0
    }

    fn timer(self) -> Timer {
        Timer::Topology(self.0)
    }

    fn driven(self, world: &mut World) -> Option<&mut Driven<Topology>> {
        world.clients.get_mut(self.0).map(|client| &mut client.topology)
    }

    fn event(self, world: &mut World, event: TopologyEvent, now: Instant) {
        world.note(|_| format!("client {}: {}", self.0, super::trace::topology_event(&event)));
        world.clients[self.0].replay.take(&event);
        world.clients[self.0].reports.take(&event, now);
        world.look_for_silence(self.0, &event);
    }

    fn collect(self, world: &mut World, action: TopologyAction, _now: Instant) -> Option<TopologyAction> {
        world.carry_out(self.0, action);
        None
    }
}

impl World {
    /// A client's own time: it stands still while its machine sleeps.
    pub(crate) fn local(&self, c: usize) -> Instant {
        self.now - self.clients[c].slept
    }

    /// The moment when a task of a client goes on that is woken now.
    pub(crate) fn soon(&mut self, c: usize) -> Instant {
        let most = self.clients[c].settings.wake_delay;
        if most.is_zero() {
            return self.now;
        }
        self.now + most.mul_f64(rand::RngExt::random_range(&mut self.random, 0.0..1.0))
    }

    pub(crate) fn arm(&mut self, c: usize, timer: Timer, due: Option<Instant>) {
        let slept = self.clients[c].slept;
        // A caller may bring a deadline that is over: its task was late.
        self.queue.arm(timer, due.map(|due| (due + slept).max(self.now)));
    }

    /// Hands a fact to the topology, and carries out its orders.
    pub(crate) fn topology_act(&mut self, c: usize, after_timeout: bool, step: impl FnOnce(&mut Driven<Topology>, Instant)) {
        let now = self.local(c);
        let previous = Arc::clone(&self.clients[c].published);
        self.hand(TopologyPlace(c), step);
        self.drain(TopologyPlace(c));
        self.note_deposed(c, &previous);
        self.note_left(c, &previous);
        let client = &self.clients[c];
        if !Arc::ptr_eq(&previous, &client.published) {
            at_most_one_primary(&client.published);
            every_near_router_is_had(&client.published);
            elections_never_go_back(&previous, &client.published);
            replay_is_the_description(&client.published, client.replay.kind, &client.replay.servers);
        }
        let timer = client.topology.poll_timeout();
        timer_lies_ahead("topology", timer, now, after_timeout);
        waiting_has_a_timer("topology", client.topology.waiting() > 0, timer);
    }

    /// The one place where the topology's orders are carried out.
    #[allow(clippy::wildcard_enum_match_arm, reason = "an order that is not named ends the run")]
    fn carry_out(&mut self, c: usize, action: TopologyAction) {
        self.look_at_order(&action);
        match action {
            TopologyAction::CreatePool { host, generation } => {
                let now = self.local(c);
                let client = &mut self.clients[c];
                let settings = &client.settings;
                let config = PoolConfig {
                    max_size: Some(settings.max_pool_size),
                    min_size: settings.min_pool_size,
                    max_connecting: settings.max_connecting,
                    max_idle_time: settings.max_idle_time,
                    open_timeout: Some(client.open_timeout()),
                    drain_limit: DRAIN,
                };
                let id = client.number();
                let pool = Pool::new(config, generation);
                let pool = if self.plan.is_balanced() { pool.behind_load_balancer() } else { pool };
                client.pools.insert(id, ServerPool::new(host.clone(), pool, self.plan.is_balanced(), now));
                client.places.insert(host, id);
            }
            TopologyAction::ReadyPool(host) => self.on_pool(c, &host, |pool, now| pool.handle_ready(now)),
            TopologyAction::ClearPool { host, cause, interrupt } => {
                self.note(|_| format!("client {c}: pool of {host} is cleared, interrupt {interrupt}: {cause}"));
                self.on_pool(c, &host, |pool, now| pool.handle_clear(&cause, interrupt, now));
            }
            TopologyAction::ClearService { host, service_id, generation, cause } => {
                self.clear_service(c, &host, service_id, generation, &cause);
            }
            TopologyAction::ClosePool(host) => {
                self.on_pool(c, &host, |pool, now| pool.handle_close(&closed(), false, now));
                let place = self.clients[c].places.remove(&host);
                let in_use = place.and_then(|id| self.clients[c].pools.get(&id)).is_some_and(|server| server.pool.load() > 0);
                let now = self.local(c);
                self.clients[c].topology.handle_pool_closed(&host, in_use, now);
            }
            TopologyAction::InterruptRetired { host, why } => {
                for id in self.pools_of(c, &host) {
                    if self.clients[c].places.get(&host) != Some(&id) {
                        self.pool_act(c, id, false, |pool, now| pool.handle_close(&why, true, now));
                    }
                }
            }
            TopologyAction::StartMonitor(host) => {
                let watch = self.start_watch(c, &host, Role::Checks);
                self.clients[c].watched.insert(host, watch);
            }
            TopologyAction::StopMonitor(host) => {
                if let Some(watch) = self.clients[c].watched.remove(&host) {
                    self.order(c, watch, STOP);
                }
            }
            TopologyAction::CheckNow(host) => self.order_of(c, &host, CHECK_NOW),
            TopologyAction::CancelCheck(host) => self.order_of(c, &host, CANCEL_CHECK),
            TopologyAction::Probe { host, id, again } => self.probe(c, &host, id, again),
            TopologyAction::CheckTraffic { host, id } => self.check_traffic(c, &host, id),
            TopologyAction::EndProbe(host) => self.end_probe(c, &host),
            TopologyAction::Publish(description) => {
                let client = &mut self.clients[c];
                client.published = description;
                client.snapshot = client.places.clone();
                self.tell_round_trips(c);
                self.srv_sees(c);
            }
            TopologyAction::Selected(id) => self.answer_select(c, id, Ok(())),
            TopologyAction::NotSelected(id, error) => self.answer_select(c, id, Err(error)),
            other => unreachable!("an order that nobody carries out: {other:?}"),
        }
    }

    /// Tells each pool the average round-trip time of its server.
    fn tell_round_trips(&mut self, c: usize) {
        let published = Arc::clone(&self.clients[c].published);
        for server in published.servers() {
            if let (Some(pool), Some(average)) = (self.clients[c].places.get(&server.host).copied(), server.round_trip_time) {
                self.tell_round_trip(c, pool, average);
            }
        }
    }

    fn on_pool(&mut self, c: usize, host: &ServerAddress, step: impl FnOnce(&mut Driven<Pool<u64>>, Instant)) {
        if let Some(pool) = self.clients[c].places.get(host).copied() {
            self.pool_act(c, pool, false, step);
        }
    }

    fn answer_select(&mut self, c: usize, id: SelectId, outcome: Result<(), Error>) {
        let Some((call, _)) = self.clients[c].selects.remove(&id) else {
            super::invariants::violated("waiter_still_waits", format!("selection {} is answered, and does not wait", id.0));
        };
        let at = self.soon(c);
        self.queue.push(at, Event::Selected { client: c, call, select: id.0, outcome });
    }

    pub(crate) fn fault(&mut self, c: usize, host: &ServerAddress, fault: Fault) {
        let state = |client: &Client| (Arc::as_ptr(&client.published), client.topology.generation(host));
        let before = state(&self.clients[c]);
        let is_old = before.1.is_some_and(|generation| fault.generation < generation);
        self.topology_act(c, false, |topology, now| topology.handle_fault(host, fault, now));
        old_errors_change_nothing(host, is_old, before != state(&self.clients[c]));
    }

    fn start_watch(&mut self, c: usize, host: &ServerAddress, role: Role) -> u64 {
        let now = self.local(c);
        let client = &mut self.clients[c];
        let config = MonitorConfig {
            heartbeat_frequency: client.settings.heartbeat_frequency,
            connect_timeout: Some(client.settings.connect_timeout),
            open_timeout: Some(client.open_timeout()),
            streaming: client.settings.streaming && role == Role::Checks,
        };
        let id = client.number();
        let watch = Watch {
            host: host.clone(),
            monitor: Monitor::new(config, now),
            role,
            conn: None,
            opening: None,
            orders: 0,
            measuring: None,
            trips: RoundTrips::default(),
            replay: ChecksReplay::since(now),
        };
        client.watches.insert(id, watch);
        // Its task begins when it is first polled.
        self.order(c, id, 0);
        id
    }

    fn order_of(&mut self, c: usize, host: &ServerAddress, order: u8) {
        if let Some(watch) = self.clients[c].watched.get(host).copied() {
            self.order(c, watch, order);
        }
    }

    fn order(&mut self, c: usize, id: u64, order: u8) {
        let at = self.soon(c);
        if let Some(watch) = self.clients[c].watches.get_mut(&id) {
            watch.orders |= order;
            self.queue.push(at, Event::Orders { client: c, watch: id });
        }
    }

    /// A monitor's task wakes up and takes its orders.
    pub(crate) fn obey(&mut self, c: usize, id: u64) {
        let Some(watch) = self.clients[c].watches.get_mut(&id) else { return };
        let orders = std::mem::take(&mut watch.orders);
        if orders & STOP != 0 {
            return self.end_watch(c, id);
        }
        let now = self.local(c);
        self.monitor_act(c, id, false, |watch, monitor| {
            if orders & RESUMED != 0 {
                watch.trips.reset();
                watch.replay.resumed_at = Some(now);
                monitor.handle_resumed(now);
            }
            if orders & CANCEL_CHECK != 0 {
                monitor.handle_cancel_check(now);
            }
            if orders & CHECK_NOW != 0 {
                monitor.handle_check_now(now);
            }
        });
    }

    pub(crate) fn end_watch(&mut self, c: usize, id: u64) {
        let now = self.local(c);
        let Some(mut watch) = self.clients[c].watches.remove(&id) else { return };
        watch.monitor.handle_stop(now);
        while let Some(event) = watch.monitor.poll_event() {
            watch.replay.take(&watch.host, &event, now);
        }
        super::invariants::in_order(!watch.replay.is_running(), || format!("{}: the last check has no end", watch.host));
        timer_lies_ahead("a stopped monitor", watch.monitor.poll_timeout(), now, true);
        self.arm(c, Timer::Monitor(c, id), None);
        self.drop_connection_of(c, watch.conn, watch.opening);
        if let Some(measuring) = watch.measuring {
            self.order(c, measuring, STOP);
        }
    }

    /// Hands a fact to a monitor, and carries out its wishes.
    pub(crate) fn monitor_act(&mut self, c: usize, id: u64, after_timeout: bool, step: impl FnOnce(&mut WatchParts<'_>, &mut Monitor)) {
        let now = self.local(c);
        let Some(Watch { monitor, trips, replay, .. }) = self.clients[c].watches.get_mut(&id) else { return };
        step(&mut WatchParts { trips, replay }, monitor);
        while let Some(Watch { host, monitor, role, replay, .. }) = self.clients[c].watches.get_mut(&id) {
            match monitor.next_output() {
                Some(Output::Event(event)) => {
                    replay.take(host, &event, now);
                    if *role == Role::Checks {
                        self.trace.note(self.now, || format!("client {c}: {}", super::trace::monitor_event(host, &event)));
                    }
                }
                Some(Output::Action(action)) => self.carry_out_of_monitor(c, id, action),
                Some(Output::Note(_)) => {}
                None => break,
            }
        }
        if let Some(watch) = self.clients[c].watches.get(&id) {
            let timer = watch.monitor.poll_timeout();
            timer_lies_ahead("monitor", timer, now, after_timeout);
            waiting_has_a_timer("monitor", true, timer);
            self.arm(c, Timer::Monitor(c, id), timer.map(|(at, _)| at));
        }
        self.look_at_clocks(c);
    }

    fn carry_out_of_monitor(&mut self, c: usize, id: u64, action: MonitorAction) {
        let Some(watch) = self.clients[c].watches.get_mut(&id) else { return };
        let (host, role, conn) = (watch.host.clone(), watch.role, watch.conn);
        match action {
            MonitorAction::Open => {
                let opening = self.start_opening(c, &host, Purpose::Watch { watch: id });
                if let Some(watch) = self.clients[c].watches.get_mut(&id) {
                    watch.opening = Some(opening);
                }
            }
            MonitorAction::Send { hello_ok, awaited } => {
                let flags = if awaited.is_some() { Flags::EXHAUST_ALLOWED } else { Flags::default() };
                if let Some(conn) = conn {
                    self.send_command(conn, "admin", flags, &Request::from(monitor_hello(hello_ok, awaited)), None);
                }
            }
            MonitorAction::Read => {
                if let Some(conn) = conn {
                    let at = self.soon(c);
                    self.queue.push(at, Event::Exchange { client: c, conn });
                }
            }
            MonitorAction::Close => {
                let opening = watch.opening.take();
                let conn = watch.conn.take();
                self.drop_connection_of(c, conn, opening);
            }
            MonitorAction::Answered { reply, round_trip } => self.answered(c, id, *reply, round_trip),
            MonitorAction::Failed(error) => {
                let error = error.on(&host);
                if role == Role::Checks {
                    watch.trips.reset();
                    let timed_out = error.is_timeout() && error.is_network();
                    self.topology_act(c, false, |topology, now| topology.handle_check_failed(&host, error, now));
                    let pool = self.clients[c].places.get(&host).and_then(|pool| self.clients[c].pools.get(pool));
                    if let Some(pool) = pool.filter(|_| timed_out) {
                        time_out_interrupts(&host, &pool.ledger);
                    }
                }
            }
            MonitorAction::WarnOfFlood => self.note(|_| format!("client {c}: {host} streams without pause")),
            MonitorAction::MeasureRoundTrips(wanted) => {
                if let Some(measuring) = watch.measuring.take() {
                    self.order(c, measuring, STOP);
                }
                if wanted && role == Role::Checks {
                    let measuring = self.start_watch(c, &host, Role::RoundTrips { of: id });
                    if let Some(watch) = self.clients[c].watches.get_mut(&id) {
                        watch.measuring = Some(measuring);
                    }
                }
            }
        }
    }

    fn answered(&mut self, c: usize, id: u64, reply: HelloReply, round_trip: Option<Duration>) {
        let client = &mut self.clients[c];
        let Some((host, role)) = client.watches.get(&id).map(|watch| (watch.host.clone(), watch.role)) else { return };
        let keeper = match role {
            Role::Checks => id,
            Role::RoundTrips { of } => of,
        };
        let knows = client.published.server(&host).is_some_and(|server| server.is_known());
        let Some(trips) = client.watches.get_mut(&keeper).map(|watch| &mut watch.trips) else { return };
        if role == Role::Checks && !knows {
            trips.reset();
        }
        if let Some(sample) = round_trip {
            trips.handle_sample(sample);
        }
        let (average, minimum) = (trips.average(), trips.minimum());
        if role == Role::Checks {
            self.topology_act(c, false, |topology, now| topology.handle_hello(&host, reply, average, now));
        }
        if let (Some(average), Some(_)) = (average, round_trip) {
            self.topology_act(c, false, |topology, now| topology.handle_rtt(&host, average, minimum, now));
        }
    }

    /// A monitor's connection is open and greeted, or could not be.
    pub(crate) fn watch_opened(&mut self, c: usize, id: u64, outcome: Result<(u64, Box<HelloReply>, Duration), Error>) {
        let now = self.local(c);
        let Some(watch) = self.clients[c].watches.get_mut(&id) else {
            if let Ok((conn, ..)) = outcome {
                self.close(conn);
            }
            return;
        };
        watch.opening = None;
        match outcome {
            Ok((conn, hello, round_trip)) => {
                watch.conn = Some(conn);
                if let Some(conn) = self.net.conns.get_mut(&conn) {
                    conn.user = User::Monitor { watch: id };
                }
                self.monitor_act(c, id, false, |_, monitor| monitor.handle_opened(*hello, round_trip, now));
            }
            Err(error) => self.monitor_act(c, id, false, |_, monitor| monitor.handle_failed(error, now)),
        }
    }

    /// Something came, or failed to come, on a monitor's connection.
    pub(crate) fn watch_read(&mut self, c: usize, id: u64, outcome: Result<Message, Error>) {
        let now = self.local(c);
        let Some(host) = self.clients[c].watches.get(&id).map(|watch| watch.host.clone()) else { return };
        let place = |error: Error| error.on(&host);
        let outcome = outcome.and_then(|message| match command_error(message.body()) {
            Some(error) => Err(error),
            None => Ok((HelloReply::parse(message.body())?, message.flags.has(Flags::MORE_TO_COME))),
        });
        match outcome.map_err(place) {
            Ok((reply, more)) => self.monitor_act(c, id, false, |_, monitor| monitor.handle_reply(reply, more, now)),
            Err(error) => self.monitor_act(c, id, false, |_, monitor| monitor.handle_failed(error, now)),
        }
    }

    fn drop_connection_of(&mut self, c: usize, conn: Option<u64>, opening: Option<u64>) {
        if let Some(conn) = conn {
            self.close(conn);
        }
        if let Some(opening) = opening {
            self.drop_opening(c, opening);
        }
    }

    /// Sees whether the machine was suspended; if so, all that depends on the time before is told.
    pub(crate) fn look_at_clocks(&mut self, c: usize) {
        let (now, boot) = (self.local(c), self.now - self.start);
        let Some(gap) = self.clients[c].suspension.handle_reading(now, boot) else { return };
        self.note(|_| format!("client {c}: notices that it slept {gap:?}"));
        self.resolver_resumed(c);
        self.srv_slept(c, gap);
        let watches: Vec<u64> = self.clients[c].watched.values().copied().collect();
        for watch in watches {
            self.order(c, watch, RESUMED);
        }
        let pools: Vec<u64> = self.clients[c].places.values().copied().collect();
        for pool in pools {
            self.pool_act(c, pool, false, |pool, now| pool.handle_resumed(now));
            if let Some(server) = self.clients[c].pools.get(&pool) {
                suspension_ends_the_idle(&server.host, &server.pool.stats());
            }
        }
    }

    /// Puts a command on a connection; its reply is waited for.
    pub(crate) fn send_command(
        &mut self,
        id: u64,
        database: &str,
        flags: Flags,
        request: &Request,
        preference: Option<&bson::RawDocument>,
    ) -> i32 {
        let Some(conn) = self.net.conns.get_mut(&id) else { return 0 };
        super::invariants::in_order(conn.exchange == Exchange::Idle, || format!("conn {id}: a command in state {:?}", conn.exchange));
        conn.last_request += 1;
        conn.exchange = Exchange::Awaiting(conn.last_request);
        let number = conn.last_request;
        let client = conn.client;
        let mut bytes = WriteBuffer::default();
        let fields = mongolink::operation::DriverFields { database, read_preference: preference, ..Default::default() };
        mongolink::wire::encode_message(&mut bytes, number, 0, flags, request, |body| fields.write(body));
        self.send_request(id, bytes.to_bytes());
        // What lies there already is read first.
        let at = self.soon(client);
        self.queue.push(at, Event::Exchange { client, conn: id });
        number
    }
}

/// The state that a step of a monitor may change, beside the rules.
pub(crate) struct WatchParts<'a> {
    trips: &'a mut RoundTrips,
    replay: &'a mut ChecksReplay,
}

/// The error of a socket, as the operating system would put it.
pub(crate) fn socket_error(stage: Stage, kind: std::io::ErrorKind) -> Error {
    Error::io(stage, std::io::Error::from(kind))
}
