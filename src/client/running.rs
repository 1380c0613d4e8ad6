//! What runs behind a client, and since when?
//!
//! Nothing until the first use. If the runtime that the tasks were started on ends and the client is used on another,
//! everything starts again there; sessions and cluster time are kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::OnceCell;

use super::builder::Extras;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::handshake::ClientMetadata;
use crate::host::HostKey;
use crate::io::clock;
use crate::io::dial::Dialer;
use crate::io::entropy::entropy;
use crate::io::environment::environment;
use crate::io::events::EventHub;
use crate::io::open::Opener;
use crate::io::resolver::{Resolver, resolve_seeds};
use crate::io::tasks::Tasks;
use crate::io::tls::TlsConnector;
use crate::io::topology::{Cluster, Parts};
use crate::op::cluster_time::ClusterTime;
use crate::op::deadline::Deadline;
use crate::op::session::SessionPool;
use crate::options::{ClientOptions, ServerMonitoringMode, Warning};
use crate::pool::PoolStats;
use crate::selection::Criteria;
use crate::topology::{TopologyDescription, TopologyType};

/// Is what all clones of a client share.
pub(super) struct Inner {
    options: Arc<ClientOptions>,
    warnings: Vec<Warning>,
    extras: Extras,
    events: EventHub,
    state: Mutex<State>,
    pub(super) sessions: Mutex<SessionPool>,
    cluster_time: RwLock<Option<Arc<ClusterTime>>>,
}

enum State {
    /// Not used yet.
    Resting,
    /// In use since a first call; whoever comes while it starts waits for the same start.
    Running(Arc<OnceCell<Arc<Cluster>>>),
    /// Shut down for good.
    Ended,
}

impl Inner {
    pub(super) fn new(options: ClientOptions, warnings: Vec<Warning>, extras: Extras) -> Self {
        Self {
            options: Arc::new(options),
            warnings,
            extras,
            events: EventHub::new(),
            state: Mutex::new(State::Resting),
            sessions: Mutex::default(),
            cluster_time: RwLock::default(),
        }
    }

    pub(super) fn options(&self) -> &ClientOptions {
        &self.options
    }

    pub(super) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(super) fn events(&self) -> &EventHub {
        &self.events
    }

    /// Returns what runs, starting it if need be.
    ///
    /// # Errors
    /// Those of starting; the next call tries again.
    pub(super) async fn cluster(&self) -> Result<Arc<Cluster>> {
        let cell = self.cell()?;
        if let Some(cluster) = cell.get() {
            return Ok(Arc::clone(cluster));
        }
        cell.get_or_try_init(|| self.start()).await.cloned()
    }

    pub(super) fn description(&self) -> Arc<TopologyDescription> {
        match self.running() {
            Some(cluster) => Arc::clone(&cluster.snapshot().description),
            None => Arc::new(TopologyDescription::new(TopologyType::Unknown, [])),
        }
    }

    pub(super) fn pool_stats(&self) -> Vec<(HostKey, PoolStats)> {
        let snapshot = self.running().map(|cluster| cluster.snapshot());
        snapshot.map_or_else(Vec::new, |snapshot| snapshot.pools().map(|pool| (pool.host().clone(), pool.stats())).collect())
    }

    pub(super) fn task_count(&self) -> usize {
        self.running().map_or(0, |cluster| cluster.task_count())
    }

    pub(super) async fn warm_up(&self) -> Result<()> {
        let cluster = self.cluster().await?;
        let limit = self.options.server_selection_timeout_or_default();
        let deadline = Deadline::new("serverSelectionTimeoutMS", limit, clock::now());
        let selected = cluster.select(&Arc::new(Criteria::write()), deadline).await?;
        selected.pool.checkout(Some(deadline)).await.map(drop)
    }

    pub(super) async fn shutdown(self: &Arc<Self>) {
        self.end_sessions().await;
        let ended = std::mem::replace(&mut *self.lock(), State::Ended);
        if let State::Running(cell) = ended
            && let Some(cluster) = cell.get()
        {
            cluster.shutdown().await;
        }
    }

    /// Ends all tasks at once, without a word to the servers.
    pub(super) fn abort(&self) {
        let ended = std::mem::replace(&mut *self.lock(), State::Ended);
        if let State::Running(cell) = ended
            && let Some(cluster) = cell.get()
        {
            cluster.abort();
        }
    }

    /// Starts a task beside the client's others; does nothing if none run.
    pub(super) fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        if let Some(cluster) = self.running() {
            cluster.tasks().spawn(name, future);
        }
    }

    pub(super) fn cluster_time(&self) -> Option<Arc<ClusterTime>> {
        self.cluster_time.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the cluster time of a reply, if it is newer.
    pub(super) fn gossip(&self, reply: &bson::RawDocument) {
        let known = self.cluster_time();
        if ClusterTime::newer(reply, known.as_deref()).is_none() {
            return;
        }
        let mut place = self.cluster_time.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(newer) = ClusterTime::newer(reply, place.as_deref()) {
            *place = Some(Arc::new(newer));
        }
    }

    fn running(&self) -> Option<Arc<Cluster>> {
        match &*self.lock() {
            State::Running(cell) => cell.get().cloned(),
            State::Resting | State::Ended => None,
        }
    }

    /// Returns the place of what runs, a new one if the runtime of the old one has ended.
    fn cell(&self) -> Result<Arc<OnceCell<Arc<Cluster>>>> {
        let mut state = self.lock();
        match &*state {
            State::Ended => Err(Error::new(ErrorKind::Shutdown, "the client has been shut down").at(Stage::Selection)),
            State::Running(cell) if cell.get().is_none_or(|cluster| cluster.tasks().is_alive()) => Ok(Arc::clone(cell)),
            State::Running(_) | State::Resting => {
                let cell = Arc::<OnceCell<Arc<Cluster>>>::default();
                *state = State::Running(Arc::clone(&cell));
                Ok(cell)
            }
        }
    }

    async fn start(&self) -> Result<Arc<Cluster>> {
        let (Some(tasks), Some(monitors)) = (Tasks::new(), Tasks::new()) else {
            return Err(Error::new(ErrorKind::Shutdown, "no tokio runtime is running").at(Stage::Selection));
        };
        let resolver = Resolver::new(self.extras.dns.clone(), self.options.dns_timeout_or_default(), self.extras.resolve.clone());
        let seed = random_seed()?;
        let (options, warnings) = resolve_seeds((*self.options).clone(), &resolver, seed).await?;
        for warning in &warnings {
            tracing::warn!(%warning, "TXT record");
        }
        let options = Arc::new(options);
        let tls = if options.tls_or_default() { Some(load_tls(&options).await?) } else { None };
        let credential = options.credential()?;
        let metadata = ClientMetadata::new(options.app_name.as_deref(), &environment())?;
        let streaming = match options.server_monitoring_mode.unwrap_or_default() {
            ServerMonitoringMode::Auto => !metadata.is_faas(),
            ServerMonitoringMode::Stream => true,
            ServerMonitoringMode::Poll => false,
        };
        let dialer = Dialer::new(Arc::clone(&options), resolver.clone(), tls);
        let opener = Opener::new(dialer, Arc::clone(&options), Arc::clone(metadata.document()), credential);
        Ok(Cluster::start(Parts {
            options,
            opener: Arc::new(opener),
            resolver,
            tasks: Arc::new(tasks),
            monitors: Arc::new(monitors),
            events: self.events.clone(),
            boot_clock: Arc::clone(&self.extras.boot_clock),
            streaming,
            seed,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads certificates off the async threads.
async fn load_tls(options: &Arc<ClientOptions>) -> Result<TlsConnector> {
    let options = Arc::clone(options);
    #[allow(clippy::disallowed_methods, reason = "ends by itself, and is awaited here")]
    let loaded = tokio::task::spawn_blocking(move || TlsConnector::load(&options)).await;
    loaded.map_err(|error| Error::new(ErrorKind::Shutdown, "the runtime ends").at(Stage::Tls).because(error))?
}

fn random_seed() -> Result<u64> {
    Ok(u64::from_le_bytes(entropy()?))
}
