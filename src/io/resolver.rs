//! The resolver: addresses of names, and seeds of SRV names.
//!
//! The actions of `dns::Cache` are carried out in `effects`. Queries run as tasks of the resolver. Callers wait
//! for the cache's answer and keep its timer, so that they are answered even if the runtime that runs the query stands
//! still. Does not decide when a name is resolved, by which source, and who gets which answer (`dns`).

mod effects;
mod query;
mod servers;
mod settings;
mod system_files;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, oneshot};

pub use servers::DnsConfig;
use servers::Servers;
use settings::{ReadFacts, Resolution, Settings, SettingsChange};

use crate::dns::system_config::NamePath;
use crate::dns::{BUDGET, Cache, LookupAnswer, LookupId, LookupMode, SrvRecord, TxtRecord, srv};
use crate::error::{Error, ErrorKind, Ineligible, Stage};
use crate::host::ServerAddress;
use crate::io::clock;
use crate::io::os_lookup::OsLookup;
use crate::io::shell::{Owner, Shell};
use crate::io::tasks::Tasks;
use crate::machine::Driven;
use crate::options::{ClientOptions, Warning};
use crate::uri;

/// A resolver of the user's own, used instead of the hosts file, DNS and the operating system.
///
/// Concurrent look-ups of a name share one call, and its answer is used for 30 s. The name is in normal form: A-labels,
/// lower case, no trailing dot. Numeric hosts are not looked up. SRV and TXT records still come from DNS.
pub trait Resolve: Send + Sync + 'static {
    /// Returns the addresses of a name, none if it has none; `dnsTimeoutMS` limits the call.
    fn resolve(&self, name: &str) -> ResolveFuture<'_>;
}

/// The future of [`Resolve::resolve`].
pub type ResolveFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// A resolver; clones share one cache.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<ResolverShared>,
}

struct ResolverShared {
    budget: Duration,
    own: Option<Arc<dyn Resolve>>,
    os: OsLookup,
    shell: Shell<ResolverState>,
    settings: Mutex<Settings>,
    tasks: Mutex<Option<Arc<Tasks>>>,
    /// One permit for each name that is queried in DNS at once.
    queries: Arc<Semaphore>,
    /// Notifies waiting callers that the timer is armed anew.
    sooner: Notify,
    /// Notifies dials that addresses have arrived.
    arrived: Notify,
}

/// What the resolver's lock protects.
pub(super) struct ResolverState {
    cache: Driven<Cache>,
    waiters: BTreeMap<LookupId, oneshot::Sender<Result<LookupAnswer, Error>>>,
    waiters_made: u64,
}

impl Resolver {
    /// Creates a resolver without I/O. `budget` limits each look-up (`dnsTimeoutMS`).
    pub fn new(config: DnsConfig, budget: Duration, own: Option<Arc<dyn Resolve>>) -> Self {
        Self::with_system(config, budget, own, OsLookup::new(), Arc::new(system_files::read_facts))
    }

    /// Creates a resolver with the operating system's look-up and configuration from the caller.
    fn with_system(config: DnsConfig, budget: Duration, own: Option<Arc<dyn Resolve>>, os: OsLookup, read_facts: Arc<ReadFacts>) -> Self {
        let shared = ResolverShared {
            budget,
            own,
            os,
            shell: Shell::new(ResolverState {
                cache: Driven::new(Cache::new(budget), clock::now()),
                waiters: BTreeMap::new(),
                waiters_made: 0,
            }),
            settings: Mutex::new(Settings::new(config, read_facts)),
            tasks: Mutex::new(None),
            queries: Arc::new(Semaphore::new(QUERIES_MAX)),
            sooner: Notify::new(),
            arrived: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the addresses of a name in normal form ([`ServerAddress::name`](crate::ServerAddress::name)).
    ///
    /// If the future is dropped, the query continues for other callers.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchName`], [`ErrorKind::NoAddresses`], [`ErrorKind::DnsFailed`], or [`ErrorKind::Timeout`] with the
    /// limit `dnsTimeoutMS`; stage `dns`.
    pub async fn lookup(&self, name: &str, mode: LookupMode) -> Result<LookupAnswer, Error> {
        self.notice_changes();
        let (sender, mut receiver) = oneshot::channel();
        let waiter = self.shared.act(|state, now| {
            state.waiters_made += 1;
            let waiter = LookupId(state.waiters_made);
            state.waiters.insert(waiter, sender);
            state.cache.handle_ask(waiter, name, mode, now);
            waiter
        });
        let _guard = LookupGuard { shared: &self.shared, waiter };
        let mut refresh_at = clock::now() + REFRESH_WHILE_WAITING;
        loop {
            let sooner = self.shared.sooner.notified();
            tokio::pin!(sooner);
            sooner.as_mut().enable();
            let due = self.shared.state().cache.armed();
            tokio::select! {
                biased;
                outcome = &mut receiver => return outcome.unwrap_or_else(|_| Err(ended(name))),
                () = &mut sooner => {}
                () = clock::sleep_until(due) => self.shared.act(|state, now| state.cache.handle_timer(now)),
                () = clock::sleep_until(Some(refresh_at)) => {
                    self.notice_changes();
                    refresh_at = clock::now() + REFRESH_WHILE_WAITING;
                }
            }
        }
    }

    /// Returns a name's addresses if some arrived after the arrival `than`, and the number of the last arrival.
    pub(crate) fn newer(&self, name: &str, than: u64) -> Option<(u64, LookupAnswer)> {
        self.shared.state().cache.newer(name, than, clock::now())
    }

    /// Waits until addresses arrive, for any name.
    pub(crate) fn arrived(&self) -> Notified<'_> {
        self.shared.arrived.notified()
    }

    /// Returns the error of a host whose name is still being looked up, without an earlier answer.
    pub(crate) fn still_asked(&self, host: &ServerAddress) -> Option<Error> {
        let name = host.name()?;
        let text = || format!("the addresses of {name:?} are still being looked up");
        self.shared.state().cache.awaits_first(name).then(|| Error::new(ErrorKind::Timeout, text()).at(Stage::Dns).on(host))
    }

    /// Returns the error of a failed selection, completed with the servers whose names are still being looked up.
    pub(crate) fn naming_look_ups(&self, error: &Error) -> Error {
        let mut servers = error.servers().to_vec();
        for server in servers.iter_mut().filter(|server| server.reason == Ineligible::Unknown && server.error.is_none()) {
            server.error = self.still_asked(&server.host);
        }
        error.clone().with_servers(servers)
    }

    /// Reports that an address of a name stopped answering.
    pub fn dead(&self, name: &str, address: IpAddr) {
        self.shared.act(|state, now| state.cache.handle_dead(name, address, now));
    }

    /// Reports that the machine was suspended, or that its network changed.
    pub fn resumed(&self) {
        self.shared.act(|state, now| state.cache.handle_resumed(now));
    }

    /// Returns the SRV records of a service at a host, and the host's TXT records, queried at once.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchName`], [`ErrorKind::NoAddresses`], [`ErrorKind::DnsFailed`], or [`ErrorKind::Timeout`] with the
    /// limit `dnsTimeoutMS`; stage `srv`. It is no error if there are no TXT records.
    pub async fn srv(&self, service: &str, host: &str) -> Result<(Vec<SrvRecord>, Vec<TxtRecord>), Error> {
        self.notice_changes();
        let servers = self.servers()?;
        let asked_at = clock::now();
        let budget = self.shared.budget;
        let elapsed = || clock::now().saturating_duration_since(asked_at);
        let open = [(); 2].map(|()| AtomicBool::new(true));
        // What ends with a time-out has not been answered.
        let note = |which: &AtomicBool, is_answered: bool| which.store(!is_answered, Ordering::Relaxed);
        let services = async {
            let found = self.services(service, host).await;
            note(&open[0], !found.as_ref().is_err_and(Error::is_timeout));
            found
        };
        let texts = async {
            let found = match servers.ask(host, RecordType::TXT, budget).await {
                Ok(lookup) => Ok(txt_records(&lookup)),
                Err(error) if error.is_no_records_found() => Ok(Vec::new()),
                Err(error) => Err(record_error("TXT", host, error).after(elapsed())),
            };
            note(&open[1], !found.as_ref().is_err_and(Error::is_timeout));
            found
        };
        let timeout = || {
            let records = [("SRV", srv::srv_query_name(service, host)), ("TXT", host.to_owned())];
            let open = records.iter().zip(&open).filter(|(_, open)| open.load(Ordering::Relaxed));
            let names: Vec<String> = open.map(|((kind, name), _)| format!("the {kind} records of {name:?}")).collect();
            Error::timeout(Stage::Srv, BUDGET, budget, elapsed()).adding(&format!("DNS did not answer for {}", names.join(" and ")))
        };
        let outcome = tokio::select! {
            biased;
            outcome = async { tokio::try_join!(services, texts) } => outcome,
            () = clock::sleep_until(asked_at.checked_add(budget)) => Err(timeout()),
        };
        outcome.map_err(|error| if error.kind() == ErrorKind::Timeout && error.limit().is_none() { timeout() } else { error })
    }

    /// Returns the SRV records of a service at a host, without its TXT records and without a time limit of its own.
    ///
    /// # Errors
    /// Those of [`srv`](Self::srv).
    pub(crate) async fn services(&self, service: &str, host: &str) -> Result<Vec<SrvRecord>, Error> {
        self.notice_changes();
        let servers = self.servers()?;
        let asked_at = clock::now();
        let name = srv::srv_query_name(service, host);
        let asked = servers.ask(&name, RecordType::SRV, self.shared.budget).await;
        let elapsed = || clock::now().saturating_duration_since(asked_at);
        asked.map(|lookup| srv_records(&lookup)).map_err(|error| record_error("SRV", &name, error).after(elapsed()))
    }

    /// Ends all running queries with an error for their callers. Later look-ups start new ones.
    pub async fn stop(&self) {
        let tasks = self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tasks) = tasks {
            tasks.stop().await;
        }
    }

    /// Returns how many queries are running.
    pub fn task_count(&self) -> usize {
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |tasks| tasks.count())
    }

    fn servers(&self) -> Result<Servers, Error> {
        let resolution = self.shared.settings().resolution();
        let servers = resolution.map_or_else(|| Err("the settings have not been read".to_owned()), |known| known.servers.clone());
        servers.map_err(|why| Error::new(ErrorKind::DnsFailed, format!("no DNS server can be queried: {why}")).at(Stage::Srv))
    }

    fn notice_changes(&self) {
        let SettingsChange { changed, new } = self.shared.settings().refresh(clock::now());
        if let Some(resolution) = new {
            log_settings(&resolution);
        }
        if changed {
            tracing::info!("the settings of name resolution changed");
            self.resumed();
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("budget", &self.shared.budget).finish_non_exhaustive()
    }
}

/// The options that a client starts with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SeedList {
    /// The options, with the seeds.
    pub options: ClientOptions,
    /// The unknown or unused options of the TXT record.
    pub warnings: Vec<Warning>,
    /// The shortest time to live of the SRV records; `None` without SRV name.
    pub ttl: Option<Duration>,
}

/// Completes the options of an SRV connection string with seeds and TXT options from DNS, and validates them as a whole.
/// Options without SRV name are only validated.
///
/// # Errors
/// Those of [`Resolver::srv`], [`ErrorKind::DnsRule`] for an answer that breaks a rule, and [`ErrorKind::InvalidOption`]
/// for options that contradict each other.
pub async fn resolve_seeds(mut options: ClientOptions, resolver: &Resolver, seed: u64) -> Result<SeedList, Error> {
    let mut warnings = Vec::new();
    let mut ttl = None;
    if let Some(host) = options.srv.clone() {
        let (services, texts) = resolver.srv(options.srv_service_name_or_default(), &host).await?;
        let seeds = srv::seeds(&host, &services)?;
        ttl = srv::shortest_ttl(&services);
        tracing::debug!(host, seeds = seeds.len(), texts = texts.len(), "SRV name resolved");
        options.hosts = srv::choose(seeds, options.srv_max_hosts.unwrap_or(0), &mut SmallRng::seed_from_u64(seed));
        uri::apply_txt(&mut options, &mut warnings, &texts)?;
    }
    uri::validate(&options)?;
    Ok(SeedList { options, warnings, ttl })
}

impl ResolverShared {
    fn state(&self) -> MutexGuard<'_, ResolverState> {
        self.shell.lock()
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_settings(resolution: &Resolution) {
    match (&resolution.path, &resolution.servers) {
        (NamePath::System(reason), _) => tracing::debug!(reason, "names are resolved by the operating system"),
        (NamePath::Direct(_), Ok(servers)) => tracing::debug!(?servers, "names are resolved by the hosts file and DNS"),
        (NamePath::Direct(_), Err(why)) => tracing::warn!(why, "the settings name no usable DNS server"),
    }
}

fn srv_records(lookup: &Lookup) -> Vec<SrvRecord> {
    let records = lookup.answers().iter().filter_map(|record| {
        let RData::SRV(srv) = &record.data else { return None };
        Some(SrvRecord { target: srv.target.to_ascii(), port: srv.port, ttl: Duration::from_secs(record.ttl.into()) })
    });
    records.collect()
}

fn txt_records(lookup: &Lookup) -> Vec<TxtRecord> {
    let records = lookup.answers().iter().filter_map(|record| {
        let RData::TXT(txt) = &record.data else { return None };
        Some(txt.txt_data.iter().map(|part| part.to_vec()).collect())
    });
    records.collect()
}

fn record_error(kind: &str, name: &str, error: NetError) -> Error {
    let made = if error.is_nx_domain() {
        Error::new(ErrorKind::NoSuchName, format!("no {kind} records: the name {name:?} does not exist"))
    } else if error.is_no_records_found() {
        Error::new(ErrorKind::NoAddresses, format!("no {kind} records for {name:?}"))
    } else if matches!(error, NetError::Timeout) {
        Error::new(ErrorKind::Timeout, format!("no answer from DNS for the {kind} records of {name:?}"))
    } else {
        Error::new(ErrorKind::DnsFailed, format!("no answer from DNS for the {kind} records of {name:?}: {error}"))
    };
    made.at(Stage::Srv).because(error)
}

fn ended(name: &str) -> Error {
    Error::new(ErrorKind::Shutdown, format!("the look-up of {name:?} was ended")).at(Stage::Dns)
}

/// A caller's place in the cache, removed on drop.
struct LookupGuard<'a> {
    shared: &'a Arc<ResolverShared>,
    waiter: LookupId,
}

impl Drop for LookupGuard<'_> {
    fn drop(&mut self) {
        // Dropping the sender may wake the caller, which is foreign code: not under the lock.
        drop(self.shared.act(|state, _| {
            state.cache.handle_cancel(self.waiter);
            state.waiters.remove(&self.waiter)
        }));
    }
}

/// How often a waiting caller reads the settings again.
const REFRESH_WHILE_WAITING: Duration = Duration::from_millis(250);

/// Maximum number of names queried in DNS at once: each takes two sockets meanwhile.
const QUERIES_MAX: usize = 256;

#[cfg(test)]
mod tests;
