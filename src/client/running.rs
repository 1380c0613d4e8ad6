//! The shared core of a client: what runs behind it, from the first use to the end.
//!
//! Nothing runs before the first use. If the runtime of the tasks ends and the client is used on another, everything starts
//! again there; sessions and cluster time are kept.
//! Does not decide how an operation runs (`executor`), nor in which order a client ends (`ending`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::checkout::{check_out, selected_at};
use super::config::ClientConfig;
use super::errors::{no_runtime, shut_down, shutting_down};
use super::sessions::Sessions;
use super::time_limits::{Time, TimeLimits, within};
use crate::deadline::Deadline;
use crate::dns::{Rescan, RescanConfig};
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::handshake::{ClientMetadata, DriverInfo};
use crate::host::ServerAddress;
use crate::io::clock;
use crate::io::dial::Dialer;
use crate::io::entropy::entropy;
use crate::io::environment::environment;
use crate::io::open::{Introduction, Opener};
use crate::io::resolver::{Resolver, SeedList, resolve_seeds};
use crate::io::srv_poll::SrvPoll;
use crate::io::tasks::Tasks;
use crate::io::tls::TlsConnector;
use crate::io::topology::select::SelectedServer;
use crate::io::topology::{DriverParts, TopologyDriver};
use crate::observe::events::EventHub;
use crate::observe::log::LogSubject;
use crate::operation::RetryPolicy;
use crate::options::{ClientOptions, ServerMonitoringMode, Warning};
use crate::pool::PoolStats;
use crate::selection::{Criteria, ReadPreference};
use crate::topology::{TopologyDescription, TopologyType};
use crate::uri;

/// The state that all clones of a client share.
pub(super) struct ClientCore {
    config: ClientConfig,
    limits: TimeLimits,
    events: EventHub,
    state: RwLock<ClientState>,
    pub(super) sessions: Arc<Sessions>,
    /// Cloned by each operation that waits for the start, a server or a connection.
    waits: Arc<()>,
    /// The target of most operations.
    primary: Arc<Criteria>,
}

enum ClientState {
    /// Not used yet.
    Resting,
    /// A task starts it; calls that come meanwhile wait for the same start, and go on when one of them is given up. If it is
    /// closing, new calls are refused, and the start leads to `Closing`.
    Starting { done: watch::Receiver<Started>, tasks: Arc<Tasks>, is_closing: bool },
    /// In use.
    Running(Arc<TopologyDriver>),
    /// Shutting down: calls under way and open cursors go on, new calls are refused.
    Closing(Arc<TopologyDriver>),
    /// Shut down for good; what is left of it may still be ending.
    Ended(Option<Arc<TopologyDriver>>),
}

/// Whether an operation may use a client that is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallOrigin {
    /// It is a new call.
    New,
    /// It belongs to an open cursor, or to the shutdown itself.
    Continued,
}

/// The outcome of a start, once there is one.
type Started = Option<Result<Arc<TopologyDriver>>>;

impl ClientCore {
    pub(super) fn new(config: ClientConfig) -> Self {
        Self {
            limits: TimeLimits::new(&config.options),
            config,
            events: EventHub::new(),
            state: RwLock::new(ClientState::Resting),
            sessions: Arc::new(Sessions::new()),
            waits: Arc::default(),
            primary: Arc::new(Criteria::read(ReadPreference::primary())),
        }
    }

    pub(super) fn options(&self) -> &ClientOptions {
        &self.config.options
    }

    pub(super) fn warnings(&self) -> &[Warning] {
        &self.config.warnings
    }

    #[inline]
    pub(super) fn limits(&self) -> &TimeLimits {
        &self.limits
    }

    /// Returns the target of operations that name none.
    #[inline]
    pub(super) fn primary(&self) -> &Arc<Criteria> {
        &self.primary
    }

    pub(super) fn retry_policy(&self) -> RetryPolicy {
        self.config.non_uri.retry
    }

    pub(super) fn events(&self) -> &EventHub {
        &self.events
    }

    /// Selects a server, if the client runs and a server suits now.
    #[inline]
    pub(super) fn select_now(&self, criteria: &Criteria, now: Instant) -> Result<Option<SelectedServer>> {
        self.sessions.thread_caches.select_now(criteria, now, || self.open())
    }

    /// Waits until the client runs and a server suits.
    pub(super) async fn select_later(
        self: &Arc<Self>,
        operation: &str,
        criteria: &Arc<Criteria>,
        deadline: Option<Deadline>,
        origin: CallOrigin,
    ) -> Result<SelectedServer> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(no_runtime());
        }
        let started = within(deadline, Stage::Selection, self.driver_for(origin)).await;
        let driver = started.map_err(|error| match &self.config.options.srv {
            // Starting waits for nothing else as long.
            Some(name) if error.kind() == ErrorKind::Timeout && error.stage() == Some(Stage::Selection) => {
                error.restage(Stage::Srv).adding(&format!("DNS is still being asked for the SRV and TXT records of {name:?}"))
            }
            Some(_) | None => error,
        })?;
        driver.select(operation, criteria, self.limits.selection(deadline, clock::now())).await
    }

    pub(super) fn append_metadata(&self, library: DriverInfo) -> Result<()> {
        let is_new = self.config.libraries.lock().unwrap_or_else(PoisonError::into_inner).append(library.clone())?;
        tracing::debug!(?library, is_new, "client metadata appended");
        Ok(())
    }

    /// Returns what runs, starting it if need be.
    ///
    /// # Errors
    /// Those of starting; the next call tries again.
    pub(super) async fn driver(self: &Arc<Self>) -> Result<Arc<TopologyDriver>> {
        self.driver_for(CallOrigin::New).await
    }

    async fn driver_for(self: &Arc<Self>, origin: CallOrigin) -> Result<Arc<TopologyDriver>> {
        let _waits = self.wait();
        let (mut done, lost) = {
            let mut state = self.state_mut();
            match &*state {
                ClientState::Ended(_) => return Err(shut_down()),
                ClientState::Closing(driver) if origin == CallOrigin::Continued => return Ok(Arc::clone(driver)),
                ClientState::Closing(_) => return Err(shutting_down()),
                ClientState::Starting { is_closing: true, .. } if origin == CallOrigin::New => return Err(shutting_down()),
                ClientState::Running(driver) if driver.tasks().is_alive() => return Ok(Arc::clone(driver)),
                ClientState::Starting { done, tasks, .. } if tasks.is_alive() => (done.clone(), None),
                ClientState::Running(_) | ClientState::Starting { .. } | ClientState::Resting => {
                    let (tasks, done) = self.begin()?;
                    let before = std::mem::replace(&mut *state, ClientState::Starting { done: done.clone(), tasks, is_closing: false });
                    (done, Some(before))
                }
            }
        };
        if let Some(ClientState::Running(lost)) = lost {
            // Its sockets belong to a runtime that has ended.
            self.sessions.thread_caches.clear();
            lost.abandon();
        }
        let started = done.wait_for(Option::is_some).await.map(|started| started.clone());
        match started {
            Ok(Some(started)) => started,
            Ok(None) | Err(_) if matches!(&*self.state(), ClientState::Ended(_)) => Err(shut_down()),
            Ok(None) | Err(_) => {
                let text = "the client's start was ended: its runtime has ended, or its task has panicked";
                Err(Error::new(ErrorKind::Shutdown, text).at(Stage::Selection))
            }
        }
    }

    pub(super) fn description(&self) -> Arc<TopologyDescription> {
        match self.running() {
            Some(driver) => Arc::clone(&driver.snapshot().description),
            None => Arc::new(TopologyDescription::new(TopologyType::Unknown, [])),
        }
    }

    pub(super) fn pool_stats(&self) -> Vec<(ServerAddress, PoolStats)> {
        let snapshot = self.running().map(|driver| driver.snapshot());
        snapshot.map_or_else(Vec::new, |snapshot| snapshot.pools().map(|pool| (pool.host().clone(), pool.stats())).collect())
    }

    pub(super) fn task_count(&self) -> usize {
        self.running().map_or(0, |driver| driver.task_count())
    }

    pub(super) async fn warm_up(self: &Arc<Self>) -> Result<()> {
        let now = clock::now();
        let deadline = self.limits.operation(&Time::Default, now);
        let _waits = self.wait();
        let (now, selected) = match self.select_now(&self.primary, now)? {
            Some(selected) => (selected_at(&selected, false, now), selected),
            None => {
                let selected = Box::pin(self.select_later("warm_up", &self.primary, deadline, CallOrigin::New)).await?;
                (clock::now(), selected)
            }
        };
        match check_out(&self.limits, selected, deadline, now) {
            Ok(_) => Ok(()),
            Err(later) => later.await.map(drop),
        }
    }

    /// Ends all tasks at once, without a word to the servers.
    pub(super) fn abort(&self) {
        if let Some(driver) = self.end() {
            driver.abort();
        }
        self.events.close();
    }

    /// Refuses new calls from now on; tells whether anything runs or starts.
    ///
    /// What a runtime that has ended ran does not: then there is nothing to wait for.
    pub(super) fn close(&self) -> bool {
        {
            let mut state = self.state_mut();
            match &mut *state {
                ClientState::Running(driver) | ClientState::Closing(driver) if driver.tasks().is_alive() => {
                    *state = ClientState::Closing(Arc::clone(driver));
                }
                ClientState::Starting { tasks, is_closing, .. } if tasks.is_alive() => *is_closing = true,
                ClientState::Running(_)
                | ClientState::Closing(_)
                | ClientState::Resting
                | ClientState::Starting { .. }
                | ClientState::Ended(_) => return false,
            }
        }
        self.sessions.thread_caches.clear();
        true
    }

    /// Returns the token of a waiting operation.
    pub(super) fn wait(&self) -> Arc<()> {
        Arc::clone(&self.waits)
    }

    /// Returns whether an operation waits.
    pub(super) fn is_waited_for(&self) -> bool {
        Arc::strong_count(&self.waits) > 1
    }

    /// Notes that all tasks are gone after a shutdown.
    pub(super) fn ended(&self) {
        *self.state_mut() = ClientState::Ended(None);
    }

    /// Refuses new operations, and returns the driver to end.
    pub(super) fn end(&self) -> Option<Arc<TopologyDriver>> {
        let mut state = self.state_mut();
        let driver = match &*state {
            ClientState::Resting => None,
            ClientState::Starting { tasks, .. } => {
                tasks.abort();
                None
            }
            ClientState::Running(driver) | ClientState::Closing(driver) => Some(Arc::clone(driver)),
            ClientState::Ended(driver) => driver.clone(),
        };
        *state = ClientState::Ended(driver.clone());
        drop(state);
        self.sessions.thread_caches.clear();
        driver
    }

    /// Starts a task that shutting down waits for a while, because it tells a server something; does nothing if none run.
    pub(super) fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        if let Some(driver) = self.running() {
            driver.cleanup_tasks().spawn(name, future);
        }
    }

    /// Returns what runs, if new calls may use it.
    pub(super) fn open(&self) -> Option<Arc<TopologyDriver>> {
        match &*self.state() {
            ClientState::Running(driver) => Some(Arc::clone(driver)),
            ClientState::Closing(_) | ClientState::Resting | ClientState::Starting { .. } | ClientState::Ended(_) => None,
        }
    }

    /// Returns what runs.
    pub(super) fn running(&self) -> Option<Arc<TopologyDriver>> {
        match &*self.state() {
            ClientState::Running(driver) | ClientState::Closing(driver) => Some(Arc::clone(driver)),
            ClientState::Resting | ClientState::Starting { .. } | ClientState::Ended(_) => None,
        }
    }

    /// Starts the task that starts everything.
    fn begin(self: &Arc<Self>) -> Result<(Arc<Tasks>, watch::Receiver<Started>)> {
        let tasks = Arc::new(Tasks::new().ok_or_else(no_runtime)?);
        let (tell, done) = watch::channel(None);
        let (core, own) = (Arc::clone(self), Arc::clone(&tasks));
        tasks.spawn("start", async move {
            let started = core.start(own).await;
            // Fails only if all callers have gone.
            drop(tell.send(Some(core.settle(started).await)));
        });
        Ok((tasks, done))
    }

    /// Publishes the result of a start, unless the client was shut down in the meantime.
    async fn settle(&self, started: Result<Arc<TopologyDriver>>) -> Result<Arc<TopologyDriver>> {
        let ended = {
            let mut state = self.state_mut();
            let (ended, is_closing) = match &*state {
                ClientState::Ended(_) => (true, false),
                ClientState::Starting { is_closing, .. } => (false, *is_closing),
                ClientState::Resting | ClientState::Running(_) | ClientState::Closing(_) => (false, false),
            };
            if !ended {
                *state = match &started {
                    Ok(driver) if is_closing => ClientState::Closing(Arc::clone(driver)),
                    Ok(driver) => ClientState::Running(Arc::clone(driver)),
                    Err(_) if is_closing => ClientState::Ended(None),
                    Err(_) => ClientState::Resting,
                };
            }
            ended
        };
        self.sessions.thread_caches.epoch().fetch_add(1, Ordering::Release);
        match started {
            Ok(driver) if ended => {
                driver.shutdown().await;
                Err(shut_down())
            }
            started => started,
        }
    }

    async fn start(&self, tasks: Arc<Tasks>) -> Result<Arc<TopologyDriver>> {
        let monitors = Arc::new(tasks.sibling().ok_or_else(no_runtime)?);
        let cleanup_tasks = Arc::new(tasks.sibling().ok_or_else(no_runtime)?);
        let resolver = Resolver::new(
            self.config.non_uri.dns.clone(),
            self.config.options.dns_timeout_or_default(),
            self.config.non_uri.resolve.clone(),
        );
        let seed = random_seed()?;
        let SeedList { options, warnings, ttl, .. } = resolve_seeds((*self.config.options).clone(), &resolver, seed).await?;
        let srv_poll = self.srv_poll(&resolver, ttl);
        // What a TXT record asks for must be served like everything else.
        uri::option_warnings(&options)?;
        for warning in &warnings {
            tracing::warn!(%warning, "TXT record");
        }
        let options = Arc::new(options);
        let tls = if options.tls_or_default() { Some(load_tls(&options).await?) } else { None };
        let credential = options.credential()?;
        let environment = environment();
        let metadata = ClientMetadata::new(options.app_name.as_deref(), &environment)?;
        let streaming = match options.server_monitoring_mode.unwrap_or_default() {
            ServerMonitoringMode::Auto => !metadata.is_faas(),
            ServerMonitoringMode::Stream => true,
            ServerMonitoringMode::Poll => false,
        };
        let dialer = Dialer::new(Arc::clone(&options), resolver.clone(), tls);
        let introduction = Introduction { metadata, libraries: Arc::clone(&self.config.libraries) };
        let opener = Opener::new(dialer, Arc::clone(&options), introduction, credential);
        let driver = TopologyDriver::start(DriverParts {
            options,
            opener: Arc::new(opener),
            resolver,
            tasks,
            monitors,
            cleanup_tasks,
            events: self.events.about(LogSubject::new(seed, &self.config.options, &environment)),
            boot_clock: Arc::clone(&self.config.non_uri.boot_clock),
            epoch: Arc::clone(self.sessions.thread_caches.epoch()),
            streaming,
            seed,
            server_selector: self.config.non_uri.server_selector.clone(),
        });
        if let Some(srv_poll) = srv_poll {
            srv_poll.start(&driver);
        }
        Ok(driver)
    }

    /// Returns the poll of the SRV records, if the servers come from SRV records; `ttl` is their time to live.
    fn srv_poll(&self, resolver: &Resolver, ttl: Option<Duration>) -> Option<SrvPoll> {
        let options = &self.config.options;
        let host = options.srv.clone()?;
        let config = RescanConfig {
            host: host.clone(),
            floor: self.config.non_uri.srv_rescan_floor,
            heartbeat_frequency: options.heartbeat_frequency_or_default(),
            look_up_limit: options.dns_timeout_or_default(),
        };
        let rescan = Rescan::new(config, ttl, clock::now());
        Some(SrvPoll { resolver: resolver.clone(), service: options.srv_service_name_or_default().to_owned(), host, rescan })
    }

    fn state(&self) -> RwLockReadGuard<'_, ClientState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, ClientState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
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
