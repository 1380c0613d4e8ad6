//! How do names get their addresses, and SRV names their seeds?
//!
//! Carries out the wishes of `dns::Cache`: lock, decide, unlock, act. Questions run as tasks of the resolver's own, callers
//! wait for the cache's word and keep its timers, so that a caller is served even if the runtime that carries the question
//! stands still. Which question is asked when, and who gets which answer, is decided in `dns`.

mod flight;
mod servers;
mod settings;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, oneshot};

use flight::{QuerySource, RunningQuery, fly};
pub use servers::DnsConfig;
use servers::Servers;
use settings::{News, Settings};

use crate::dns::{BUDGET, Cache, CacheAction, LookupAnswer, LookupId, SrvRecord, TxtRecord, Want, srv};
use crate::error::{Error, ErrorKind, Ineligible, Stage};
use crate::host::ServerAddress;
use crate::io::clock;
use crate::io::os_lookup::OsLookup;
use crate::io::tasks::Tasks;
use crate::options::{ClientOptions, Warning};
use crate::uri;

/// Looks up addresses in a user's own way, instead of DNS, the hosts file and the operating system.
///
/// It is asked once for all who want a name at the same time, and its answers are kept for 30 s. The name is in normal
/// form: A-labels, lower case, no trailing dot. Numeric hosts are not asked for. SRV and TXT records still come from DNS.
pub trait Resolve: Send + Sync + 'static {
    /// Returns the addresses of a name, none if it has none; `dnsTimeoutMS` limits it.
    fn resolve(&self, name: &str) -> ResolveFuture<'_>;
}

/// Is what [`Resolve::resolve`] returns.
pub type ResolveFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// Looks up names; clones share one cache.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<ResolverShared>,
}

struct ResolverShared {
    budget: Duration,
    own: Option<Arc<dyn Resolve>>,
    os: OsLookup,
    state: Mutex<ResolverState>,
    settings: Mutex<Settings>,
    tasks: Mutex<Option<Arc<Tasks>>>,
    /// One permit for each name that may be asked for at once.
    questions: Arc<Semaphore>,
    /// Tells those who wait that a timer has become due earlier.
    sooner: Notify,
    /// Tells those who dial that addresses have arrived.
    arrived: Notify,
}

struct ResolverState {
    cache: Cache,
    waiters: BTreeMap<LookupId, oneshot::Sender<Result<LookupAnswer, Error>>>,
    waiters_made: u64,
}

impl Resolver {
    /// Makes a resolver; it does nothing until it is asked. `budget` limits each look-up (`dnsTimeoutMS`).
    pub fn new(config: DnsConfig, budget: Duration, own: Option<Arc<dyn Resolve>>) -> Self {
        let shared = ResolverShared {
            budget,
            own,
            os: OsLookup::new(),
            state: Mutex::new(ResolverState { cache: Cache::new(budget), waiters: BTreeMap::new(), waiters_made: 0 }),
            settings: Mutex::new(Settings::new(config)),
            tasks: Mutex::new(None),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            sooner: Notify::new(),
            arrived: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the addresses of a name in normal form ([`ServerAddress::name`](crate::ServerAddress::name)).
    ///
    /// Dropping the future gives up the answer; the question goes on for others.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchName`], [`ErrorKind::NoAddresses`], [`ErrorKind::DnsFailed`], or [`ErrorKind::Timeout`] with the
    /// limit `dnsTimeoutMS`; stage `dns`.
    pub async fn lookup(&self, name: &str, want: Want) -> Result<LookupAnswer, Error> {
        self.notice_changes();
        let (waiter, mut receiver) = self.shared.enlist();
        let _ticket = LookupGuard { shared: &self.shared, waiter };
        self.shared.act(|cache, now| cache.handle_ask(waiter, name, want, now));
        let mut look_at = clock::now() + LOOK_WHILE_WAITING;
        loop {
            let sooner = self.shared.sooner.notified();
            tokio::pin!(sooner);
            sooner.as_mut().enable();
            let due = self.shared.state().cache.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                biased;
                outcome = &mut receiver => return outcome.unwrap_or_else(|_| Err(ended(name))),
                () = &mut sooner => {}
                () = clock::sleep_until(due) => self.shared.act(Cache::handle_timeout),
                () = clock::sleep_until(Some(look_at)) => {
                    self.notice_changes();
                    look_at = clock::now() + LOOK_WHILE_WAITING;
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

    /// Returns the error of a host whose name DNS is still being asked for, with no earlier answer to use.
    pub(crate) fn still_asked(&self, host: &ServerAddress) -> Option<Error> {
        let name = host.name()?;
        let text = || format!("DNS is still being asked for the addresses of {name:?}");
        self.shared.state().cache.awaits_first(name).then(|| Error::new(ErrorKind::Timeout, text()).at(Stage::Dns).on(host))
    }

    /// Returns the error of a failed selection, in which servers whose names are still being looked up say so.
    pub(crate) fn naming_look_ups(&self, error: &Error) -> Error {
        let mut servers = error.servers().to_vec();
        for server in servers.iter_mut().filter(|server| server.reason == Ineligible::Unknown && server.error.is_none()) {
            server.error = self.still_asked(&server.host);
        }
        error.clone().with_servers(servers)
    }

    /// Says that an address of a name stopped answering.
    pub fn dead(&self, name: &str, address: IpAddr) {
        self.shared.act(|cache, now| cache.handle_dead(name, address, now));
    }

    /// Says that the machine slept, or that its network changed.
    pub fn resumed(&self) {
        self.shared.act(Cache::handle_resumed);
    }

    /// Returns the SRV records of a service at a host, and the host's TXT records, asked for at once.
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

    /// Returns the SRV records of a service at a host, without its TXT records. Whoever asks keeps the time.
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

    /// Ends all look-ups under way; those who wait are refused. Later ones start again.
    pub async fn stop(&self) {
        let tasks = self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tasks) = tasks {
            tasks.stop().await;
        }
    }

    /// Returns how many look-ups are under way.
    pub fn task_count(&self) -> usize {
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |tasks| tasks.count())
    }

    fn servers(&self) -> Result<Arc<Servers>, Error> {
        let known = self.shared.settings().servers();
        known.map_err(|why| Error::new(ErrorKind::DnsFailed, format!("no DNS server can be asked: {why}")).at(Stage::Srv))
    }

    fn notice_changes(&self) {
        let News { changed, unusable } = self.shared.settings().look(clock::now());
        if let Some(why) = unusable {
            tracing::warn!(why, "the DNS settings can't be used, the operating system is asked instead");
        }
        if changed {
            tracing::info!("the system's DNS settings changed");
            self.resumed();
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("budget", &self.shared.budget).finish_non_exhaustive()
    }
}

/// Is what a client starts with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SeedList {
    /// The options, with the seeds.
    pub options: ClientOptions,
    /// What was odd in the TXT record.
    pub warnings: Vec<Warning>,
    /// How long the SRV records live at least; `None` without SRV name.
    pub ttl: Option<Duration>,
}

/// Completes the options of an SRV connection string: seeds and TXT options from DNS, then validated as a whole. Options
/// without SRV name are only validated.
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enlist(&self) -> (LookupId, oneshot::Receiver<Result<LookupAnswer, Error>>) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        state.waiters_made += 1;
        let waiter = LookupId(state.waiters_made);
        state.waiters.insert(waiter, sender);
        (waiter, receiver)
    }

    /// Hands a fact to the cache and carries out its wishes.
    fn act(self: &Arc<Self>, fact: impl FnOnce(&mut Cache, Instant)) {
        let mut deliveries = Vec::new();
        let mut questions = Vec::new();
        let (sooner, arrived) = {
            let mut guard = self.state();
            let state = &mut *guard;
            let due_before = state.cache.poll_timeout();
            let arrivals_before = state.cache.arrivals();
            fact(&mut state.cache, clock::now());
            while let Some(action) = state.cache.poll_action() {
                let (waiters, outcome) = match action {
                    CacheAction::Query(name, id) => {
                        questions.push((state.cache.deadline(&name), RunningQuery::new(self, name, id), QuerySource::Dns));
                        continue;
                    }
                    CacheAction::QuerySystem(name, id) => {
                        questions.push((state.cache.deadline(&name), RunningQuery::new(self, name, id), QuerySource::System));
                        continue;
                    }
                    CacheAction::Answer(waiters, answer) => (waiters, Ok(answer)),
                    CacheAction::Refuse(waiters, error) => (waiters, Err(error)),
                };
                let senders = waiters.iter().filter_map(|waiter| state.waiters.remove(waiter));
                deliveries.extend(senders.map(|sender| (sender, outcome.clone())));
            }
            let due = state.cache.poll_timeout();
            let sooner = due.is_some_and(|(due, _)| due_before.is_none_or(|(before, _)| due < before));
            (sooner, state.cache.arrivals() != arrivals_before)
        };
        if arrived {
            self.arrived.notify_waiters();
        }
        for (sender, outcome) in deliveries {
            // Whoever asked may be gone.
            drop(sender.send(outcome));
        }
        for (by, flight, source) in questions {
            self.start(flight, source, by);
        }
        if sooner {
            self.sooner.notify_waiters();
        }
    }

    fn start(&self, flight: RunningQuery, source: QuerySource, by: Option<Instant>) {
        let tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            if !tasks.as_ref().is_some_and(|tasks| tasks.is_alive()) {
                *tasks = Tasks::new().map(Arc::new);
            }
            tasks.clone()
        };
        // Without tasks the flight is dropped, and with that abandoned.
        if let Some(tasks) = tasks {
            tasks.spawn("dns", fly(flight, source, by, self.budget));
        }
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

/// Is one caller's turn; dropped, the caller is gone.
struct LookupGuard<'a> {
    shared: &'a Arc<ResolverShared>,
    waiter: LookupId,
}

impl Drop for LookupGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.waiters.remove(&self.waiter);
        state.cache.handle_cancel(self.waiter);
    }
}

/// How often a caller that waits for an answer looks whether the settings name other servers.
const LOOK_WHILE_WAITING: Duration = Duration::from_millis(250);

/// How many names DNS is asked for at once; each takes two sockets for the time.
const QUESTIONS_MAX: usize = 256;

#[cfg(test)]
mod tests;
