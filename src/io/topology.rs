//! The shell of the topology: the tasks and the state of a running client's servers.
//!
//! A new description and the orders to pools and monitors that belong to it take effect under one lock, in the order in which they
//! were given (`orders`). Readers of the description hold a snapshot and take no lock. What is foreign or may take its time follows
//! after the lock was released (`effects`). Does not decide what becomes of the servers: `topology` does.

mod effects;
mod facts;
mod orders;
pub(crate) mod select;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};

use super::clock::{self, BootClock};
use super::liveness::RunningProbes;
use super::monitor::{MONITOR_DIALS_MAX, MonitorOrders};
use super::open::Opener;
use super::pool::ServerPool;
use super::resolver::Resolver;
use super::retired_pools::RetiredPools;
use super::shell::{Owner, Shell, run_timer};
use super::snapshot::Snapshot;
use super::tasks::{Lifeline, Tasks};
use crate::error::{Error, ErrorKind, Stage};
use crate::host::ServerAddress;
use crate::machine::Driven;
use crate::observe::events::EventHub;
use crate::observe::log;
use crate::options::ClientOptions;
use crate::topology::{SelectId, Suspension, Topology, TopologyConfig, TopologyDescription};

/// Carries out what the topology orders, and knows every server's pool and monitor.
pub(crate) struct TopologyDriver {
    shell: Shell<DriverState>,
    snapshot: RwLock<Arc<Snapshot>>,
    /// What users watch. It holds no pools: a watcher that is never read must not keep them.
    descriptions: watch::Sender<Arc<TopologyDescription>>,
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

pub(super) struct DriverState {
    topology: Driven<Topology>,
    pools: BTreeMap<ServerAddress, Arc<ServerPool>>,
    retired_pools: RetiredPools,
    monitors: BTreeMap<ServerAddress, MonitorOrders>,
    selects: BTreeMap<SelectId, oneshot::Sender<Result<(), Error>>>,
    probes: RunningProbes,
    selection_waits: log::Waits,
}

/// How long shutting down waits for the monitors to end by themselves; they have nothing to wait for.
const MONITORS_LIMIT: Duration = Duration::from_secs(1);

impl TopologyDriver {
    /// Opens the topology and starts the tasks that watch its servers.
    pub(crate) fn start(parts: DriverParts) -> Arc<Self> {
        let now = clock::now();
        let topology = Topology::new(TopologyConfig::from_options(&parts.options), parts.seed, now);
        let (pools, monitors, selects, probes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), RunningProbes::default());
        let (first, description) = (Snapshot::new(Arc::clone(topology.description()), &pools), Arc::clone(topology.description()));
        let state = DriverState {
            topology: Driven::new(topology, now),
            pools,
            retired_pools: RetiredPools::default(),
            monitors,
            selects,
            probes,
            selection_waits: log::Waits::default(),
        };
        let driver = Arc::new(Self {
            shell: Shell::new(state),
            snapshot: RwLock::new(Arc::new(first)),
            descriptions: watch::Sender::new(description),
            next_select: AtomicU64::new(0),
            draws: AtomicU64::new(parts.seed),
            lifeline: parts.tasks.lifeline(),
            sources: Arc::default(),
            suspension: Mutex::new(Suspension::new(now, parts.boot_clock.now())),
            slept: watch::Sender::new(Duration::ZERO),
            monitor_dials: Arc::new(Semaphore::new(MONITOR_DIALS_MAX)),
            parts,
        });
        driver.parts.tasks.spawn("topology timer", run_timer(&driver));
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

    /// Sees whether the machine was suspended; if so, servers are checked at once and idle connections not trusted.
    pub(crate) fn check_clocks(&self) {
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
        self.act(|state, now| state.topology.handle_shutdown(now));
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

    /// Makes the error of a caller whose client has lost its tasks.
    fn lost(&self) -> Error {
        self.parts.tasks.lost().at(Stage::Selection)
    }

    /// Makes a seed for somebody who selects servers.
    pub(crate) fn draw(&self) -> u64 {
        self.draws.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, DriverState> {
        self.shell.lock()
    }
}

impl DriverState {
    /// Returns the pool of a host, and those that it had before.
    fn pools_of<'a>(&'a self, host: &'a ServerAddress) -> impl Iterator<Item = Arc<ServerPool>> + 'a {
        self.pools.get(host).cloned().into_iter().chain(self.retired_pools.of(host))
    }
}

/// Counts the servers whose last check, or last command, went well.
fn known_servers(description: &TopologyDescription) -> usize {
    description.servers().iter().filter(|server| server.is_known()).count()
}

fn ended() -> Error {
    Error::new(ErrorKind::Shutdown, "the client has been shut down").at(Stage::Selection)
}
