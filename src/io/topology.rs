//! How are the topology's orders carried out?
//!
//! Lock, decide, act: a new description and the orders to pools and monitors that belong to it take effect under one
//! lock, in the order in which they were given. Readers of the description take no part in that: they hold a snapshot.
//! What is foreign or may take its time (subscribers, wakers, sockets) comes after that lock was released ([`Later`]).

mod later;
mod orders;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::clock::{self, BootClock};
use super::liveness::RunningProbes;
use super::monitor::{MONITOR_DIALS_MAX, MonitorOrders, Watch};
use super::open::Opener;
use super::pool::ServerPool;
use super::resolver::Resolver;
use super::retired_pools::RetiredPools;
use super::snapshot::{SelectedServer, SelectionSource, Snapshot};
use super::tasks::{Lifeline, Tasks};
use crate::error::{Error, ErrorKind, Stage};
use crate::handshake::HelloReply;
use crate::host::ServerAddress;
use crate::observe::events::EventHub;
use crate::observe::log;
use crate::operation::deadline::Deadline;
use crate::options::ClientOptions;
use crate::pool::{Pool, PoolConfig};
use crate::selection::Criteria;
use crate::topology::{Fault, MonitorConfig, SelectId, Suspension, Topology, TopologyConfig, TopologyDescription};
use later::Later;

/// Carries out what the topology orders, and knows every server's pool and monitor.
pub(crate) struct TopologyDriver {
    state: Mutex<DriverState>,
    snapshot: RwLock<Arc<Snapshot>>,
    /// What users watch. It holds no pools: a watcher that is never read must not keep them.
    descriptions: watch::Sender<Arc<TopologyDescription>>,
    timer: Arc<Notify>,
    next_select: AtomicU64,
    draws: AtomicU64,
    lifeline: Lifeline,
    /// Cloned by each source that is in use.
    sources: Arc<()>,
    suspension: Mutex<Suspension>,
    /// How long the machine has slept, as far as anybody noticed.
    slept: watch::Sender<Duration>,
    /// Limits how many connections monitors open at once.
    monitor_dials: Arc<Semaphore>,
    parts: DriverParts,
}

/// Is what a driver is made of.
pub(crate) struct DriverParts {
    pub(crate) options: Arc<ClientOptions>,
    pub(crate) opener: Arc<Opener>,
    pub(crate) resolver: Resolver,
    pub(crate) tasks: Arc<Tasks>,
    /// The monitors' own, so that they can end first, and by themselves.
    pub(crate) monitors: Arc<Tasks>,
    /// Those that tell servers what has ended, so that shutting down can wait for them.
    pub(crate) farewells: Arc<Tasks>,
    pub(crate) events: EventHub,
    pub(crate) boot_clock: Arc<dyn BootClock>,
    /// Counts the changes that make what callers keep of the topology out of date.
    pub(crate) epoch: Arc<AtomicU64>,
    /// Whether servers may stream their replies to checks.
    pub(crate) streaming: bool,
    pub(crate) seed: u64,
}

struct DriverState {
    topology: Topology,
    pools: BTreeMap<ServerAddress, Arc<ServerPool>>,
    retired_pools: RetiredPools,
    monitors: BTreeMap<ServerAddress, MonitorOrders>,
    selects: BTreeMap<SelectId, oneshot::Sender<Result<(), Error>>>,
    probes: RunningProbes,
    waits: log::Waits,
    armed: Option<Instant>,
}

/// How long shutting down waits for the monitors to end by themselves; they have nothing to wait for.
const MONITORS_LIMIT: Duration = Duration::from_secs(1);

/// Takes a selection back when its caller goes away.
struct Selecting<'a> {
    driver: &'a Arc<TopologyDriver>,
    id: SelectId,
}

impl TopologyDriver {
    /// Opens the topology and starts the tasks that watch its servers.
    pub(crate) fn start(parts: DriverParts) -> Arc<Self> {
        let now = clock::now();
        let topology = Topology::new(TopologyConfig::from_options(&parts.options), parts.seed, now);
        let (pools, monitors, selects, probes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), RunningProbes::default());
        let (first, description) = (Snapshot::new(Arc::clone(topology.description()), &pools), Arc::clone(topology.description()));
        let state = DriverState {
            topology,
            pools,
            retired_pools: RetiredPools::default(),
            monitors,
            selects,
            probes,
            waits: log::Waits::default(),
            armed: None,
        };
        let driver = Arc::new(Self {
            state: Mutex::new(state),
            snapshot: RwLock::new(Arc::new(first)),
            descriptions: watch::Sender::new(description),
            timer: Arc::default(),
            next_select: AtomicU64::new(0),
            draws: AtomicU64::new(parts.seed),
            lifeline: parts.tasks.lifeline(),
            sources: Arc::default(),
            suspension: Mutex::new(Suspension::new(now, parts.boot_clock.now())),
            slept: watch::Sender::new(Duration::ZERO),
            monitor_dials: Arc::new(Semaphore::new(MONITOR_DIALS_MAX)),
            parts,
        });
        driver.parts.tasks.spawn("topology timer", run_timer(Arc::downgrade(&driver), Arc::clone(&driver.timer)));
        driver.act(|_, _| ());
        driver
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<TopologyDescription>> {
        self.descriptions.subscribe()
    }

    /// Returns what tells how long the machine has slept.
    pub(crate) fn slept(&self) -> watch::Receiver<Duration> {
        self.slept.subscribe()
    }

    pub(crate) fn tasks(&self) -> &Arc<Tasks> {
        &self.parts.tasks
    }

    /// Returns the tasks that tell servers what has ended.
    pub(crate) fn farewells(&self) -> &Arc<Tasks> {
        &self.parts.farewells
    }

    /// Returns what ends with the tasks.
    pub(crate) fn lifeline(&self) -> Lifeline {
        self.lifeline.clone()
    }

    /// Returns how many tasks run.
    pub(crate) fn task_count(&self) -> usize {
        self.parts.tasks.count() + self.parts.monitors.count() + self.parts.farewells.count() + self.parts.resolver.task_count()
    }

    /// Ends all tasks without waiting for them.
    pub(crate) fn abort(&self) {
        self.parts.monitors.abort();
        self.parts.farewells.abort();
        self.parts.tasks.abort();
    }

    pub(crate) fn opener(&self) -> &Arc<Opener> {
        &self.parts.opener
    }

    /// Chooses a server, waiting for one if need be. Can be dropped at any moment.
    ///
    /// The caller keeps its own time: it must not depend on the runtime that the client's tasks run on.
    pub(crate) async fn select(self: &Arc<Self>, operation: &str, criteria: &Arc<Criteria>, by: Deadline) -> Result<SelectedServer, Error> {
        let mut told = false;
        loop {
            let snapshot = self.snapshot();
            // The application's selector runs here, without a lock, and never in the rules.
            if let Some(selected) = self.choose(&snapshot, criteria)? {
                return Ok(selected);
            }
            if !told {
                let description = &snapshot.description;
                let is_news = self.lock().waits.begin(known_servers(description));
                log::selection_waits(is_news, operation, criteria, description, by, clock::now());
                told = true;
            }
            let id = SelectId(self.next_select.fetch_add(1, Ordering::Relaxed));
            let (sender, mut answer) = oneshot::channel();
            let _selecting = Selecting { driver: self, id };
            self.lock().selects.insert(id, sender);
            let (criteria, judged) = (Arc::clone(criteria), Arc::clone(&snapshot.description));
            let is_judged = judged.server_selector().is_some();
            self.act(|topology, now| match is_judged {
                true => topology.handle_select_judged(id, criteria, judged, Some(by), now),
                false => topology.handle_select(id, criteria, Some(by), now),
            });
            let mut due = Some(by.at);
            let outcome = loop {
                tokio::select! {
                    biased;
                    outcome = &mut answer => break outcome.unwrap_or_else(|_| Err(self.lost())),
                    () = clock::sleep_until(due) => {
                        due = None;
                        self.act(|topology, now| topology.handle_timeout(now));
                    }
                    () = self.lifeline.ended() => break Err(self.lost()),
                }
            };
            outcome.map_err(|error| self.parts.resolver.naming_look_ups(&error))?;
        }
    }

    /// Tells the topology of an error that an application's connection met.
    pub(crate) fn fault(self: &Arc<Self>, host: &ServerAddress, fault: Fault) {
        self.act(|topology, now| topology.handle_fault(host, fault, now));
    }

    /// Tells the topology that a connection could not be opened.
    ///
    /// `service` is the one behind a load balancer, if it came to that.
    pub(crate) fn opening_failed(self: &Arc<Self>, host: &ServerAddress, generation: u64, service: Option<ObjectId>, error: &Error) {
        self.fault(host, Fault::new(error.clone(), generation).during_handshake().of_service(service));
    }

    /// Tells whether a server's last check, or last command, went well.
    pub(crate) fn knows(&self, host: &ServerAddress) -> bool {
        self.snapshot().description.server(host).is_some_and(|server| server.is_known())
    }

    pub(crate) fn answered(self: &Arc<Self>, host: &ServerAddress, reply: HelloReply, average: Option<Duration>) {
        self.act(|topology, now| topology.handle_hello(host, reply, average, now));
    }

    pub(crate) fn check_failed(self: &Arc<Self>, host: &ServerAddress, error: Error) {
        self.act(|topology, now| topology.handle_check_failed(host, error, now));
    }

    pub(crate) fn measured(self: &Arc<Self>, host: &ServerAddress, average: Duration, minimum: Duration) {
        self.act(|topology, now| topology.handle_rtt(host, average, minimum, now));
    }

    /// Tells the topology of the hosts that the SRV records name now.
    pub(crate) fn srv_hosts(self: &Arc<Self>, hosts: Vec<ServerAddress>) {
        self.act(|topology, now| topology.handle_srv_hosts(hosts, now));
    }

    /// Sees whether the machine was suspended; if so, servers are checked at once and idle connections not trusted.
    pub(crate) fn look_at_clocks(&self) {
        // The application's clock is asked without a lock.
        let look = (clock::now(), self.parts.boot_clock.now());
        // Whoever finds somebody else looking need not look as well.
        let Ok(mut suspension) = self.suspension.try_lock() else { return };
        let gap = suspension.handle_look(look.0, look.1);
        drop(suspension);
        let Some(gap) = gap else { return };
        tracing::info!(seconds = gap.as_secs(), "the machine was suspended: servers are checked, idle connections dropped");
        self.parts.resolver.resumed();
        self.slept.send_modify(|slept| *slept = slept.saturating_add(gap));
        let state = self.lock();
        let (monitors, pools): (Vec<_>, Vec<_>) = (state.monitors.values().cloned().collect(), state.pools.values().cloned().collect());
        drop(state);
        for monitor in monitors {
            monitor.resumed();
        }
        for pool in pools {
            pool.resumed();
        }
    }

    /// Ends everything: servers are watched no more, pools close, callers are refused, tasks end.
    pub(crate) async fn shutdown(self: &Arc<Self>) {
        let monitors: Vec<_> = self.lock().monitors.values().cloned().collect();
        for monitor in monitors {
            monitor.stop();
        }
        self.parts.monitors.finish(MONITORS_LIMIT).await;
        self.parts.farewells.stop().await;
        let over = ended();
        let retired_pools: Vec<_> = self.lock().retired_pools.take().collect();
        for pool in self.snapshot().pools().cloned().chain(retired_pools) {
            pool.close_now(&over);
        }
        self.act(|topology, now| topology.handle_shutdown(now));
        self.parts.tasks.stop().await;
        self.parts.resolver.stop().await;
    }

    /// Lets go of everything at once, because the tasks have ended without a shutdown: sockets close, callers are refused.
    pub(crate) fn abandon(&self) {
        let lost = self.lost();
        self.abort();
        let retired_pools: Vec<_> = self.lock().retired_pools.take().collect();
        for pool in self.snapshot().pools().cloned().chain(retired_pools) {
            pool.close_now(&lost);
        }
    }

    /// Tells whether a call has chosen a server, or has or waits for a connection; the client's desks must be clear.
    pub(crate) fn is_busy(&self) -> bool {
        if Arc::strong_count(&self.sources) > 1 {
            return true;
        }
        let state = self.lock();
        state.topology.waiting() > 0
            || state.pools.values().any(|pool| pool.load() > 0)
            || state.retired_pools.all().any(|pool| pool.load() > 0)
    }

    /// Makes what a call needs to find its server in a snapshot.
    pub(crate) fn source(self: &Arc<Self>, snapshot: Arc<Snapshot>) -> Arc<SelectionSource> {
        Arc::new(SelectionSource { driver: Arc::clone(self), snapshot, _count: Arc::clone(&self.sources) })
    }

    /// Makes the error of a caller whose client has lost its tasks.
    fn lost(&self) -> Error {
        self.parts.tasks.lost().at(Stage::Selection)
    }

    /// Chooses a server of a snapshot, if one suits.
    fn choose(self: &Arc<Self>, snapshot: &Arc<Snapshot>, criteria: &Criteria) -> Result<Option<SelectedServer>, Error> {
        let source = self.source(Arc::clone(snapshot));
        let mut random = SmallRng::seed_from_u64(self.draws.fetch_add(1, Ordering::Relaxed));
        source.choose(criteria, &mut random)
    }

    /// Makes a seed for somebody who selects servers.
    pub(crate) fn draw(&self) -> u64 {
        self.draws.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, DriverState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn act<R>(self: &Arc<Self>, step: impl FnOnce(&mut Topology, Instant) -> R) -> R {
        let mut later = Later::new(&self.parts.events);
        let mut state = self.lock();
        // Read under the lock, so that the rules' time never goes back.
        let now = clock::now();
        let outcome = step(&mut state.topology, now);
        loop {
            while let Some(event) = state.topology.poll_event() {
                self.parts.events.topology(event, later.topology_wanted, &mut later.told);
            }
            let Some(action) = state.topology.poll_action() else { break };
            self.carry_out(&mut state, action, &mut later);
        }
        while let Some(note) = state.topology.poll_note() {
            self.parts.events.note(note, &mut later.told);
        }
        let due = state.topology.poll_timeout().map(|(at, _)| at);
        if due.is_some_and(|due| state.armed.is_none_or(|armed| due < armed)) {
            state.armed = due;
            self.timer.notify_one();
        }
        drop(state);
        later.run(&self.parts.events, &self.descriptions);
        outcome
    }

    fn make_pool(self: &Arc<Self>, host: &ServerAddress, generation: u64) -> Arc<ServerPool> {
        let parts = &self.parts;
        let rules = Pool::new(PoolConfig::from_options(&parts.options), generation);
        ServerPool::new(
            host.clone(),
            if parts.options.load_balanced == Some(true) { rules.behind_load_balancer() } else { rules },
            Arc::clone(&parts.opener),
            &parts.tasks,
            Arc::downgrade(self),
            parts.events.clone(),
        )
    }

    fn make_watch(self: &Arc<Self>, host: &ServerAddress) -> Watch {
        let options = &self.parts.options;
        let config = MonitorConfig {
            heartbeat_frequency: options.heartbeat_frequency_or_default(),
            connect_timeout: options.connect_timeout_or_default(),
            open_timeout: options.open_timeout(),
            streaming: self.parts.streaming,
        };
        Watch {
            host: host.clone(),
            config,
            opener: Arc::clone(&self.parts.opener),
            dials: Arc::clone(&self.monitor_dials),
            driver: Arc::downgrade(self),
            tasks: Arc::downgrade(&self.parts.monitors),
            events: self.parts.events.clone(),
            round_trips: Arc::default(),
        }
    }
}

impl DriverState {
    /// Returns the pool of a host, and those that it had before.
    fn pools_of<'a>(&'a self, host: &'a ServerAddress) -> impl Iterator<Item = Arc<ServerPool>> + 'a {
        self.pools.get(host).cloned().into_iter().chain(self.retired_pools.of(host))
    }
}

/// Ends with the driver, which wakes it a last time.
async fn run_timer(driver: Weak<TopologyDriver>, timer: Arc<Notify>) {
    loop {
        let Some(armed) = driver.upgrade().map(|driver| driver.lock().armed) else { return };
        tokio::select! {
            () = clock::sleep_until(armed) => {
                let Some(driver) = driver.upgrade() else { return };
                driver.lock().armed = None;
                driver.act(|topology, now| topology.handle_timeout(now));
            }
            () = timer.notified() => {}
        }
    }
}

impl Drop for TopologyDriver {
    fn drop(&mut self) {
        self.timer.notify_one();
    }
}

impl Drop for Selecting<'_> {
    fn drop(&mut self) {
        let id = self.id;
        let sender = self.driver.lock().selects.remove(&id);
        // May wake the caller, which is foreign code: not under the lock.
        drop(sender);
        self.driver.act(|topology, _| topology.handle_cancel_select(id));
    }
}

/// Counts the servers whose last check, or last command, went well.
fn known_servers(description: &TopologyDescription) -> usize {
    description.servers().iter().filter(|server| server.is_known()).count()
}

fn ended() -> Error {
    Error::new(ErrorKind::Shutdown, "the client has been shut down").at(Stage::Selection)
}
