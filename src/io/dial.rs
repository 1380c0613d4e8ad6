//! Dialling: from a host to an open connection.
//!
//! Resolve, then race: the connect timer starts only once an address is known. An attempt is TCP and TLS together. Everything
//! runs inside the one future that [`Dialer::dial`] returns: dropping it drops every attempt. Does not decide which address is
//! tried when, which attempt wins and when time is up (`race`), nor what a name resolves to (`dns`).

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV6};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, Abortable, BoxFuture, FutureExt, OptionFuture, abortable};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::clock;
use super::demand::Demand;
use super::resolver::Resolver;
use super::stream::Stream;
use super::tcp;
use super::tls::TlsConnector;
use crate::dns::{LookupAnswer, LookupMode};
use crate::error::{Error, ErrorKind, Stage};
use crate::host::{Address, Host, ServerAddress};
use crate::options::ClientOptions;
use crate::race::{AttemptId, Race, RaceAction, RaceConfig, STAGGER};

/// The maximum number of hosts whose last working address is remembered.
const WINNERS_MAX: usize = 1024;

/// The dialler of a client, shared by its pools and monitors.
pub(crate) struct Dialer {
    options: Arc<ClientOptions>,
    resolver: Resolver,
    tls: Option<TlsConnector>,
    winners: Mutex<BTreeMap<ServerAddress, Address>>,
}

/// The completed stages of opening a connection, in order.
#[derive(Default)]
#[non_exhaustive]
pub(crate) struct Timeline {
    /// One report per completed stage.
    pub stages: Vec<StageReport>,
    /// Called with the duration whenever a connection is accepted.
    reached: Option<Box<dyn FnMut(Duration) + Send>>,
}

/// The report of one stage.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StageReport {
    /// The stage.
    pub stage: Stage,
    /// The address; `None` for look-ups.
    pub address: Option<Address>,
    /// The duration.
    pub elapsed: Duration,
    /// The error, if it failed.
    pub error: Option<Error>,
}

impl Timeline {
    /// Creates a timeline that calls `reached` with the duration whenever a connection is accepted.
    pub(crate) fn telling(reached: impl FnMut(Duration) + Send + 'static) -> Self {
        Self { stages: Vec::new(), reached: Some(Box::new(reached)) }
    }

    /// Adds the report of a completed stage.
    pub(crate) fn push(&mut self, stage: Stage, address: Option<&Address>, elapsed: Duration, error: Option<&Error>) {
        if let Some(reached) = self.reached.as_mut().filter(|_| stage == Stage::Tcp && error.is_none()) {
            reached(elapsed);
        }
        self.stages.push(StageReport { stage, address: address.cloned(), elapsed, error: error.cloned() });
    }
}

impl Dialer {
    /// Creates a dialler; with `tls`, every connection uses TLS.
    pub(crate) fn new(options: Arc<ClientOptions>, resolver: Resolver, tls: Option<TlsConnector>) -> Self {
        Self { options, resolver, tls, winners: Mutex::default() }
    }

    /// Returns the resolver.
    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Records that a host has answered a hello over TLS, even if its request for a certificate was not met.
    pub(crate) fn greeted(&self, host: &ServerAddress, demand: Demand) {
        if let Some(tls) = &self.tls {
            tls.greeted(host, demand);
        }
    }

    /// Opens a connection to a host, TLS included, and returns it with its address.
    ///
    /// Dropping the future drops every attempt; `timeline` then has the stages completed until then.
    ///
    /// # Errors
    /// The look-up's error, or that of the race: with the host, and every address's cause.
    pub(crate) async fn dial(&self, host: &ServerAddress, timeline: &mut Timeline) -> Result<(Stream, Address), Error> {
        let first = self.first_addresses(host, timeline).await.map_err(|error| error.on(host))?;
        let is_named = matches!(first, First::Found(_));
        let mut seen = 0;
        let (addresses, complete) = match first {
            First::Given(address) => (vec![address], true),
            // A newer answer may have overtaken it on the way.
            First::Found(found) => self
                .newer(host, &mut seen)
                .map_or_else(|| (with_port(&found, host), found.complete), |newer| (newer.addresses, newer.complete)),
        };
        let config = RaceConfig { stagger: STAGGER, timeout: self.options.connect_timeout_or_default() };
        let mut race = Race::new(config, addresses, !complete, self.remembered(host), clock::now());
        let mut attempts = Attempts::new(host, self.tls.as_ref());
        let mut later = (!complete).then(|| self.all_addresses(host).boxed());
        loop {
            let mut arrived = pin!(self.resolver.arrived());
            arrived.as_mut().enable();
            if is_named && let Some(newer) = self.newer(host, &mut seen) {
                if !newer.complete && later.is_none() {
                    later = Some(self.all_addresses(host).boxed());
                }
                race.handle_newer(newer.addresses, later.is_some(), clock::now());
            }
            while let Some(action) = race.poll_action() {
                match action {
                    RaceAction::Dial(id, address) => attempts.open(id, address),
                    RaceAction::Abort(id) => attempts.abort(id),
                    RaceAction::Dead(address) => self.report_dead(host, &address),
                    RaceAction::Won(id) => {
                        let (stream, address) = attempts.finish(id).ok_or_else(|| lost_winner(host))?;
                        tracing::debug!(%host, %address, "connected");
                        self.remember(host, &address);
                        return Ok((stream, address));
                    }
                    RaceAction::Lost(error) => {
                        let error = error.on(host);
                        tracing::debug!(%host, %error, "not connected");
                        report_unfinished(&error, timeline);
                        return Err(error);
                    }
                }
            }
            let timer = race.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                biased;
                // First, so that no overtaken address is dialled.
                () = &mut arrived, if is_named => {}
                Some(step) = attempts.next() => attempts.advance(step, &mut race, timeline),
                Some((found, elapsed)) = OptionFuture::from(later.as_mut()) => {
                    later = None;
                    let addresses = found.unwrap_or_else(|error| {
                        timeline.push(Stage::Dns, None, elapsed, Some(&error.on(host)));
                        Vec::new()
                    });
                    match self.newer(host, &mut 0) {
                        Some(newer) => race.handle_newer(newer.addresses, false, clock::now()),
                        None => race.handle_addresses(addresses, false, clock::now()),
                    }
                }
                () = clock::sleep_until(timer) => race.handle_timeout(clock::now()),
            }
        }
    }

    /// Looks up a host's address.
    ///
    /// # Errors
    /// Those of the look-up.
    pub(crate) async fn name(&self, host: &ServerAddress) -> Result<(), Error> {
        self.first_addresses(host, &mut Timeline::default()).await.map(drop).map_err(|error| error.on(host))
    }

    /// Returns the first known addresses.
    async fn first_addresses(&self, host: &ServerAddress, timeline: &mut Timeline) -> Result<First, Error> {
        if let Some(address) = self.options.resolve_override(host) {
            return Ok(First::Given(address.clone()));
        }
        match host.host() {
            Host::V4(ip) => Ok(First::Given(Address::Ip(SocketAddr::from((*ip, host.port()))))),
            Host::V6(ip, zone) => {
                let scope = zone.as_deref().map_or(Ok(0), tcp::scope_id)?;
                Ok(First::Given(Address::Ip(SocketAddrV6::new(*ip, host.port(), 0, scope).into())))
            }
            Host::Unix(path) => Ok(First::Given(Address::Unix(path.clone()))),
            Host::Name(name) => {
                let began = clock::now();
                let found = self.resolver.lookup(name, LookupMode::First).await.map_err(|error| error.on(host));
                timeline.push(Stage::Dns, None, since(began), found.as_ref().err());
                let found = found?;
                tracing::debug!(%host, addresses = ?found.addresses, stale = found.stale, "resolved");
                Ok(First::Found(found))
            }
        }
    }

    /// Returns the addresses that have arrived since the last call.
    fn newer(&self, host: &ServerAddress, seen: &mut u64) -> Option<Newer> {
        let (number, answer) = self.resolver.newer(host.name()?, *seen)?;
        *seen = number;
        Some(Newer { addresses: with_port(&answer, host), complete: answer.complete })
    }

    /// Returns all addresses of a name, and the duration of the look-up.
    async fn all_addresses(&self, host: &ServerAddress) -> (Result<Vec<Address>, Error>, Duration) {
        let began = clock::now();
        let found = match host.name() {
            Some(name) => self.resolver.lookup(name, LookupMode::All).await.map(|found| with_port(&found, host)),
            None => Ok(Vec::new()),
        };
        (found, since(began))
    }

    fn report_dead(&self, host: &ServerAddress, address: &Address) {
        if let (Some(name), Address::Ip(ip)) = (host.name(), address) {
            self.resolver.dead(name, ip.ip());
        }
    }

    fn remembered(&self, host: &ServerAddress) -> Option<Address> {
        self.winners().get(host).cloned()
    }

    fn remember(&self, host: &ServerAddress, address: &Address) {
        let mut winners = self.winners();
        if winners.get(host) == Some(address) {
            return;
        }
        if winners.len() >= WINNERS_MAX && !winners.contains_key(host) {
            winners.pop_first();
        }
        winners.insert(host.clone(), address.clone());
    }

    fn winners(&self) -> MutexGuard<'_, BTreeMap<ServerAddress, Address>> {
        self.winners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// The first addresses to dial.
enum First {
    /// The host is an address, or has a fixed one.
    Given(Address),
    Found(LookupAnswer),
}

/// An answer that is newer than the current one.
struct Newer {
    addresses: Vec<Address>,
    complete: bool,
}

/// The attempts of one race: the running stages, and the open connections.
struct Attempts<'a> {
    host: &'a ServerAddress,
    tls: Option<&'a TlsConnector>,
    steps: FuturesUnordered<Abortable<BoxFuture<'a, StageEnd>>>,
    running: BTreeMap<AttemptId, RunningAttempt>,
    finished: BTreeMap<AttemptId, Stream>,
}

struct RunningAttempt {
    address: Address,
    abort: AbortHandle,
}

/// The end of one stage of an attempt.
struct StageEnd {
    id: AttemptId,
    stage: Stage,
    elapsed: Duration,
    result: Result<Stream, Error>,
}

impl<'a> Attempts<'a> {
    fn new(host: &'a ServerAddress, tls: Option<&'a TlsConnector>) -> Self {
        Self { host, tls, steps: FuturesUnordered::new(), running: BTreeMap::new(), finished: BTreeMap::new() }
    }

    /// Starts an attempt with its TCP stage.
    fn open(&mut self, id: AttemptId, address: Address) {
        tracing::debug!(host = %self.host, %address, "dialling");
        let (began, target) = (clock::now(), address.clone());
        let step = async move {
            let result = tcp::open(&target).await;
            StageEnd { id, stage: Stage::Tcp, elapsed: since(began), result }
        };
        self.push(id, address, step.boxed());
    }

    /// Starts the TLS stage.
    fn secure(&mut self, id: AttemptId, address: Address, tls: &'a TlsConnector, stream: Stream) {
        let (began, host) = (clock::now(), self.host);
        let step = async move {
            let result = tls.connect(host, stream).await;
            StageEnd { id, stage: Stage::Tls, elapsed: since(began), result }
        };
        self.push(id, address, step.boxed());
    }

    fn push(&mut self, id: AttemptId, address: Address, step: BoxFuture<'a, StageEnd>) {
        let (step, abort) = abortable(step);
        self.steps.push(step);
        self.running.insert(id, RunningAttempt { address, abort });
    }

    fn abort(&mut self, id: AttemptId) {
        self.finished.remove(&id);
        if let Some(running) = self.running.remove(&id) {
            running.abort.abort();
        }
    }

    /// Waits for the next stage to end; `None` if no attempt runs.
    async fn next(&mut self) -> Option<StageEnd> {
        while let Some(ended) = self.steps.next().await {
            if let Ok(step) = ended {
                return Some(step);
            }
        }
        None
    }

    /// Reports the end of a stage to the race, and starts the attempt's next stage if it has one.
    fn advance(&mut self, step: StageEnd, race: &mut Race, timeline: &mut Timeline) {
        let Some(address) = self.running.get(&step.id).map(|running| running.address.clone()) else { return };
        let now = clock::now();
        let result = step.result.map_err(|error| error.on(self.host).with_address(&address).after(step.elapsed));
        timeline.push(step.stage, Some(&address), step.elapsed, result.as_ref().err());
        match (result, self.tls) {
            (Err(error), _) => {
                self.running.remove(&step.id);
                race.handle_failed(step.id, error, now);
            }
            (Ok(stream), Some(tls)) if step.stage == Stage::Tcp => {
                race.handle_opened(step.id, now);
                self.secure(step.id, address, tls, stream);
            }
            (Ok(stream), _) => {
                self.finished.insert(step.id, stream);
                race.handle_connected(step.id, now);
            }
        }
    }

    /// Returns the winner's connection.
    fn finish(&mut self, id: AttemptId) -> Option<(Stream, Address)> {
        let stream = self.finished.remove(&id)?;
        let running = self.running.remove(&id)?;
        Some((stream, running.address))
    }
}

fn with_port(found: &LookupAnswer, host: &ServerAddress) -> Vec<Address> {
    found.addresses.iter().map(|ip| Address::Ip(SocketAddr::new(*ip, host.port()))).collect()
}

/// Reports the stages that the connect timer cut short; the others have reported themselves.
fn report_unfinished(error: &Error, timeline: &mut Timeline) {
    let causes = if error.causes().is_empty() { std::slice::from_ref(error) } else { error.causes() };
    for cause in causes.iter().filter(|cause| cause.kind() == ErrorKind::Timeout) {
        timeline.push(cause.stage().unwrap_or(Stage::Tcp), cause.address(), cause.elapsed().unwrap_or_default(), Some(cause));
    }
}

fn lost_winner(host: &ServerAddress) -> Error {
    Error::new(ErrorKind::Internal, "the attempt that won the race has no connection").at(Stage::Tcp).on(host)
}

fn since(began: Instant) -> Duration {
    clock::now().saturating_duration_since(began)
}
