//! The shell of the topology: the tasks and the state of a running client's servers.
//!
//! A new description and its actions on pools and monitors take effect under one lock, in order (`orders`). Readers of the
//! description hold a snapshot and take no lock. Foreign code and slow work follow after the lock was released (`effects`).
//! Does not decide the state of the servers (`topology`).

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
use crate::description::ServerSelector;
use crate::error::{Error, ErrorKind, Stage};
use crate::host::ServerAddress;
use crate::machine::Driven;
use crate::observe::events::EventHub;
use crate::observe::log;
use crate::options::ClientOptions;
use crate::topology::{SelectId, Suspension, Topology, TopologyConfig, TopologyDescription};

/// The driver of the topology: carries out its actions, and owns every server's pool and monitor.
pub(crate) struct TopologyDriver {
    shell: Shell<DriverState>,
    snapshot: RwLock<Arc<Snapshot>>,
    /// The description for the public watchers. It holds no pools: a watcher that is never read must not keep them.
    descriptions: watch::Sender<Arc<TopologyDescription>>,
    next_select: AtomicU64,
    draws: AtomicU64,
    lifeline: Lifeline,
    /// Counts the selection sources in use: each holds a clone.
    sources: Arc<()>,
    suspension: Mutex<Suspension>,
    /// The total length of the noticed suspensions.
    slept: watch::Sender<Duration>,
    /// Limits how many connections monitors open at once.
    monitor_dials: Arc<Semaphore>,
    parts: DriverParts,
}

/// The parts of a driver.
pub(crate) struct DriverParts {
    pub(crate) options: Arc<ClientOptions>,
    pub(crate) server_selector: Option<ServerSelector>,
    pub(crate) opener: Arc<Opener>,
    pub(crate) resolver: Resolver,
    pub(crate) tasks: Arc<Tasks>,
    /// The monitors' tasks, separate so that they can end first, and by themselves.
    pub(crate) monitors: Arc<Tasks>,
    /// The tasks that end sessions and cursors on servers, so that shutting down can wait for them.
    pub(crate) cleanup_tasks: Arc<Tasks>,
    pub(crate) events: EventHub,
    pub(crate) boot_clock: Arc<dyn BootClock>,
    /// A counter of the changes that invalidate the callers' caches of the topology.
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

/// How long shutting down waits for the monitors to end by themselves; they do not wait for anything.
const MONITORS_LIMIT: Duration = Duration::from_secs(1);

impl TopologyDriver {
    /// Opens the topology and starts the tasks that monitor its servers.
    pub(crate) fn start(parts: DriverParts) -> Arc<Self> {
        let now = clock::now();
        let config = TopologyConfig { server_selector: parts.server_selector.clone(), ..TopologyConfig::from_options(&parts.options) };
        let topology = Topology::new(config, parts.seed, now);
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

    /// Returns the total length of the noticed suspensions, to be watched.
    pub(crate) fn slept(&self) -> watch::Receiver<Duration> {
        self.slept.subscribe()
    }

    pub(crate) fn tasks(&self) -> &Arc<Tasks> {
        &self.parts.tasks
    }

    /// Returns the tasks that end sessions and cursors on servers.
    pub(crate) fn cleanup_tasks(&self) -> &Arc<Tasks> {
        &self.parts.cleanup_tasks
    }

    /// Returns a signal for the end of the tasks.
    pub(crate) fn lifeline(&self) -> Lifeline {
        self.lifeline.clone()
    }

    /// Returns the number of running tasks.
    pub(crate) fn task_count(&self) -> usize {
        self.parts.tasks.count() + self.parts.monitors.count() + self.parts.cleanup_tasks.count() + self.parts.resolver.task_count()
    }

    /// Ends all tasks without waiting for them.
    pub(crate) fn abort(&self) {
        self.parts.monitors.abort();
        self.parts.cleanup_tasks.abort();
        self.parts.tasks.abort();
    }

    pub(crate) fn opener(&self) -> &Arc<Opener> {
        &self.parts.opener
    }

    /// Checks whether the machine was suspended; if so, servers are checked at once and idle connections are not trusted.
    pub(crate) fn check_clocks(&self) {
        // The application's clock is read without a lock.
        let reading = (clock::now(), self.parts.boot_clock.now());
        // A caller that finds another one checking need not check as well.
        let Ok(mut suspension) = self.suspension.try_lock() else { return };
        let gap = suspension.handle_reading(reading.0, reading.1);
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

    /// Ends everything: monitors stop, pools close, callers are refused, tasks end.
    pub(crate) async fn shutdown(self: &Arc<Self>) {
        let monitors: Vec<_> = self.lock().monitors.values().cloned().collect();
        for monitor in monitors {
            monitor.stop();
        }
        self.parts.monitors.finish(MONITORS_LIMIT).await;
        self.parts.cleanup_tasks.stop().await;
        let over = ended();
        let retired_pools: Vec<_> = self.lock().retired_pools.take().collect();
        for pool in self.snapshot().pools().cloned().chain(retired_pools) {
            pool.close_now(&over);
        }
        self.act(|state, now| state.topology.handle_shutdown(now));
        self.parts.tasks.stop().await;
        self.parts.resolver.stop().await;
    }

    /// Releases everything at once, because the tasks have ended without a shutdown: sockets close, callers are refused.
    pub(crate) fn abandon(&self) {
        let lost = self.lost();
        self.abort();
        let retired_pools: Vec<_> = self.lock().retired_pools.take().collect();
        for pool in self.snapshot().pools().cloned().chain(retired_pools) {
            pool.close_now(&lost);
        }
    }

    /// Returns whether a call has selected a server, or has or waits for a connection; the client's thread caches must be
    /// empty.
    pub(crate) fn is_busy(&self) -> bool {
        if Arc::strong_count(&self.sources) > 1 {
            return true;
        }
        let state = self.lock();
        state.topology.waiting() > 0
            || state.pools.values().any(|pool| pool.load() > 0)
            || state.retired_pools.all().any(|pool| pool.load() > 0)
    }

    /// Returns the error of a caller whose client has lost its tasks.
    fn lost(&self) -> Error {
        self.parts.tasks.lost().at(Stage::Selection)
    }

    /// Returns a random seed for a caller that selects servers.
    pub(crate) fn draw(&self) -> u64 {
        self.draws.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, DriverState> {
        self.shell.lock()
    }
}

impl DriverState {
    /// Returns the current and the earlier pools of a host.
    fn pools_of<'a>(&'a self, host: &'a ServerAddress) -> impl Iterator<Item = Arc<ServerPool>> + 'a {
        self.pools.get(host).cloned().into_iter().chain(self.retired_pools.of(host))
    }
}

/// Returns the number of servers whose last check, or last command, succeeded.
fn known_servers(description: &TopologyDescription) -> usize {
    description.servers().iter().filter(|server| server.is_known()).count()
}

fn ended() -> Error {
    Error::new(ErrorKind::Shutdown, "the client has been shut down").at(Stage::Selection)
}
