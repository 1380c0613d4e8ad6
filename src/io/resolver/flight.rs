//! How is one question carried?
//!
//! As a task that asks the sources in their order and tells the cache what each of them said: a user's own resolver, or
//! the hosts file and DNS, or the operating system. What follows from their words is decided in `dns`.

use std::error::Error as StdError;
use std::fmt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RecordType;

use super::ResolverShared;
use super::servers::{Servers, own_addresses};
use crate::dns::{AddressFamily, BUDGET, Cache, LookupFailure, QueryId};
use crate::error::{Error, ErrorKind, Stage};
use crate::io::clock;
use crate::io::local::shortage;

/// Says who is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum QuerySource {
    Dns,
    System,
}

/// Is a question that somebody carries; dropped without outcome, it counts as abandoned.
pub(super) struct RunningQuery {
    shared: Weak<ResolverShared>,
    name: String,
    id: QueryId,
}

impl RunningQuery {
    pub(super) fn new(shared: &Arc<ResolverShared>, name: String, id: QueryId) -> Self {
        Self { shared: Arc::downgrade(shared), name, id }
    }

    fn tell(&self, fact: impl FnOnce(&mut Cache, &str, QueryId, Instant)) {
        if let Some(shared) = self.shared.upgrade() {
            shared.act(|cache, now| fact(cache, &self.name, self.id, now));
        }
    }

    fn tell_both(&self, outcome: Result<Vec<IpAddr>, Error>) {
        self.tell(|cache, name, id, now| cache.handle_system(name, id, outcome, now));
    }

    fn tell_failed(&self, family: AddressFamily, failure: LookupFailure) {
        self.tell(|cache, name, id, now| cache.handle_failed(name, id, family, failure, now));
    }
}

impl Drop for RunningQuery {
    fn drop(&mut self) {
        self.tell(|cache, name, id, now| cache.handle_abandoned(name, id, now));
    }
}

/// Carries a question to its end, or to its deadline; one that is asked again has what is left of its budget.
pub(super) async fn fly(flight: RunningQuery, source: QuerySource, by: Option<Instant>, budget: Duration) {
    tokio::select! {
        biased;
        () = ask(&flight, source, budget) => {}
        // Nobody may be left who would tell it.
        () = clock::sleep_until(by) => flight.tell(|cache, _, _, now| cache.handle_timeout(now)),
    }
}

async fn ask(flight: &RunningQuery, source: QuerySource, budget: Duration) {
    // Only clones are held while waiting: the resolver may go meanwhile.
    let sources = flight.shared.upgrade().map(|shared| (shared.own.clone(), shared.os.clone(), shared.settings().servers()));
    let Some((own, os, servers)) = sources else { return };
    if let Some(own) = own {
        // It is foreign: if it panics, that is its failure and costs this name.
        let outcome = AssertUnwindSafe(async { own.resolve(&flight.name).await }).catch_unwind().await;
        let Ok(outcome) = outcome else {
            let error = Error::new(ErrorKind::DnsFailed, "own resolver: it has panicked").at(Stage::Dns);
            return flight.tell_both(Err(error));
        };
        let failed = |error: Box<dyn StdError + Send + Sync>| {
            Error::new(ErrorKind::DnsFailed, format!("own resolver: {error}")).because(OwnError(error))
        };
        return flight.tell_both(outcome.map_err(failed));
    }
    match source {
        QuerySource::System => {
            tracing::debug!(name = flight.name, "asks the operating system");
            flight.tell_both(os.lookup(flight.name.clone()).await);
        }
        QuerySource::Dns => {
            let known = own_addresses(&flight.name);
            if !known.is_empty() {
                return flight.tell_both(Ok(known));
            }
            match servers {
                Ok(servers) => ask_dns(flight, &servers, budget).await,
                Err(_) => {
                    flight.tell_failed(AddressFamily::V4, LookupFailure::NoServer);
                    flight.tell_failed(AddressFamily::V6, LookupFailure::NoServer);
                }
            }
        }
    }
}

/// Asks for both families of each full name that the name may stand for, until one exists.
async fn ask_dns(flight: &RunningQuery, servers: &Servers, budget: Duration) {
    let Some(questions) = flight.shared.upgrade().map(|shared| Arc::clone(&shared.questions)) else { return };
    let Ok(_place) = questions.acquire_owned().await else { return };
    let mut exists = false;
    for name in servers.search.candidates(&flight.name) {
        let v4 = ask_family(flight, servers, &name, AddressFamily::V4, budget);
        let v6 = ask_family(flight, servers, &name, AddressFamily::V6, budget);
        match tokio::join!(v4, v6) {
            (None, None) => return,
            (Some(v4), None) => return flight.tell_failed(AddressFamily::V4, v4),
            (None, Some(v6)) => return flight.tell_failed(AddressFamily::V6, v6),
            (Some(v4), Some(v6)) => {
                if matches!(v4, LookupFailure::Other(_)) || matches!(v6, LookupFailure::Other(_)) {
                    flight.tell_failed(AddressFamily::V4, v4);
                    return flight.tell_failed(AddressFamily::V6, v6);
                }
                exists |= matches!(v4, LookupFailure::NoAddresses) || matches!(v6, LookupFailure::NoAddresses);
            }
        }
    }
    for family in [AddressFamily::V4, AddressFamily::V6] {
        flight.tell_failed(family, if exists { LookupFailure::NoAddresses } else { LookupFailure::NoSuchName });
    }
}

/// Asks for the addresses of one family and tells them; failures are the caller's to tell.
async fn ask_family(
    flight: &RunningQuery,
    servers: &Servers,
    name: &str,
    family: AddressFamily,
    budget: Duration,
) -> Option<LookupFailure> {
    let asked_at = clock::now();
    let kind = match family {
        AddressFamily::V4 => RecordType::A,
        AddressFamily::V6 => RecordType::AAAA,
    };
    match servers.addresses(name, kind, budget).await {
        Ok((addresses, _)) if addresses.is_empty() => Some(LookupFailure::NoAddresses),
        Ok((addresses, ttl)) => {
            flight.tell(|cache, name, id, now| cache.handle_answered(name, id, family, addresses, ttl, now));
            None
        }
        Err(error) => Some(failure(error, budget, clock::now().saturating_duration_since(asked_at))),
    }
}

fn failure(error: NetError, budget: Duration, elapsed: Duration) -> LookupFailure {
    if error.is_nx_domain() {
        LookupFailure::NoSuchName
    } else if error.is_no_records_found() {
        LookupFailure::NoAddresses
    } else if matches!(error, NetError::Timeout) {
        LookupFailure::Other(Error::timeout(Stage::Dns, BUDGET, budget, elapsed))
    } else if let NetError::Io(cause) = &error
        && let Some(advice) = shortage(cause)
    {
        LookupFailure::Other(Error::new(ErrorKind::LocalResources, format!("DNS could not be asked: {cause}: {advice}")).at(Stage::Dns))
    } else {
        LookupFailure::Other(Error::new(ErrorKind::DnsFailed, format!("no answer from DNS: {error}")).because(error))
    }
}

/// Carries the failure of a user's own resolver.
#[derive(Debug)]
struct OwnError(Box<dyn StdError + Send + Sync>);

impl fmt::Display for OwnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for OwnError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}
