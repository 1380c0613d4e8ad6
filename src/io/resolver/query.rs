//! The task of one query: it tries the sources in their order and reports each result to the cache.
//!
//! The source is a user's own resolver, or the operating system, or the hosts file and DNS. Does not decide which of them
//! (`dns::system_config`), nor what follows from the results (`dns::cache`).

use std::error::Error as StdError;
use std::fmt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RecordType;

use super::servers::{Servers, hosts_file_addresses};
use super::settings::Resolution;
use super::{Resolve, ResolverShared};
use crate::dns::names::{LOCALHOST, is_localhost};
use crate::dns::system_config::{DirectPath, NamePath, SourceKind};
use crate::dns::{AddressFamily, BUDGET, Cache, LookupFailure, QueryId};
use crate::error::{Error, ErrorKind, Stage};
use crate::io::clock;
use crate::io::local::shortage;
use crate::io::os_lookup::OsLookup;
use crate::io::shell::Owner;

/// A query and the way to report its results. Dropped without a result, it counts as abandoned.
pub(super) struct RunningQuery {
    shared: Weak<ResolverShared>,
    name: String,
    id: QueryId,
}

/// The failures of both families: IPv4, IPv6.
type Failures = (LookupFailure, LookupFailure);

impl RunningQuery {
    pub(super) fn new(shared: &Arc<ResolverShared>, name: String, id: QueryId) -> Self {
        Self { shared: Arc::downgrade(shared), name, id }
    }

    fn report(&self, fact: impl FnOnce(&mut Cache, &str, QueryId, Instant)) {
        if let Some(shared) = self.shared.upgrade() {
            shared.act(|state, now| fact(&mut state.cache, &self.name, self.id, now));
        }
    }

    fn report_whole(&self, outcome: Result<Vec<IpAddr>, Error>) {
        self.report(|cache, name, id, now| cache.handle_whole(name, id, outcome, now));
    }

    fn report_failed(&self, family: AddressFamily, failure: LookupFailure) {
        self.report(|cache, name, id, now| cache.handle_failed(name, id, family, failure, now));
    }

    fn report_failures(&self, (v4, v6): Failures) {
        self.report_failed(AddressFamily::V4, v4);
        self.report_failed(AddressFamily::V6, v6);
    }
}

impl Drop for RunningQuery {
    fn drop(&mut self) {
        self.report(|cache, name, id, now| cache.handle_abandoned(name, id, now));
    }
}

/// Runs a query to its end or to its deadline. A restarted query keeps its deadline.
pub(super) async fn run_query(query: RunningQuery, by: Option<Instant>, budget: Duration) {
    tokio::select! {
        biased;
        () = resolve(&query, budget) => {}
        // Without a waiting caller there is no other timer.
        () = clock::sleep_until(by) => query.report(|cache, _, _, now| cache.handle_timeout(now)),
    }
}

async fn resolve(query: &RunningQuery, budget: Duration) {
    // Only clones are held while waiting, so that the resolver can be dropped meanwhile.
    let sources = query.shared.upgrade().map(|shared| (shared.own.clone(), shared.os.clone(), shared.settings().resolution()));
    let Some((own, os, resolution)) = sources else { return };
    if let Some(own) = own {
        return ask_own_resolver(query, &*own).await;
    }
    let Some(resolution) = resolution else { return };
    let Resolution { path, servers } = &*resolution;
    let reason = match path {
        NamePath::System(reason) => reason.as_str(),
        NamePath::Direct(path) => match path.exception(&query.name) {
            Some(reason) => reason,
            None => return resolve_directly(query, path, servers, budget).await,
        },
    };
    ask_system(query, &os, reason).await;
}

async fn ask_own_resolver(query: &RunningQuery, own: &dyn Resolve) {
    // A panic of the user's code is a failure of this name only.
    let outcome = AssertUnwindSafe(async { own.resolve(&query.name).await }).catch_unwind().await;
    query.report_whole(match outcome {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(Error::new(ErrorKind::DnsFailed, format!("own resolver: {error}")).because(OwnError(error))),
        Err(_) => Err(Error::new(ErrorKind::DnsFailed, "own resolver: it has panicked").at(Stage::Dns)),
    });
}

async fn ask_system(query: &RunningQuery, os: &OsLookup, reason: &str) {
    tracing::debug!(name = query.name, reason, "look-up by the operating system");
    let on_wait = |what: String| query.report(|cache, name, id, _| cache.handle_waiting(name, id, what));
    query.report_whole(os.lookup(query.name.clone(), on_wait).await);
}

/// Tries the hosts file and DNS in their order.
async fn resolve_directly(query: &RunningQuery, path: &DirectPath, servers: &Result<Servers, String>, budget: Duration) {
    if is_localhost(&query.name) {
        let uses_files = path.sources.iter().any(|source| source.kind == SourceKind::Files);
        let found = if uses_files { hosts_file_addresses(&query.name).unwrap_or_default() } else { Vec::new() };
        return query.report_whole(Ok(if found.is_empty() { LOCALHOST.to_vec() } else { found }));
    }
    let mut failures = (LookupFailure::NoSuchName, LookupFailure::NoSuchName);
    for source in &path.sources {
        let is_denied = match source.kind {
            SourceKind::Files => match hosts_file_addresses(&query.name) {
                Some(found) if !found.is_empty() => return query.report_whole(Ok(found)),
                found => found.is_some(),
            },
            SourceKind::Dns => {
                let Some(failed) = ask_dns(query, servers, budget).await else { return };
                failures = failed;
                !matches!(failures, (LookupFailure::Other(_), _) | (_, LookupFailure::Other(_)))
            }
        };
        if is_denied && source.ends_search {
            break;
        }
    }
    query.report_failures(failures);
}

/// Queries both families of each full name that the name may stand for, until one exists. Returns the failures if there are
/// no addresses; otherwise everything has been reported.
async fn ask_dns(query: &RunningQuery, servers: &Result<Servers, String>, budget: Duration) -> Option<Failures> {
    let servers = match servers {
        Ok(servers) => servers,
        Err(why) => {
            let error = Error::new(ErrorKind::DnsFailed, format!("no DNS server can be queried: {why}"));
            return Some((LookupFailure::Other(error.clone()), LookupFailure::Other(error)));
        }
    };
    let queries = query.shared.upgrade().map(|shared| Arc::clone(&shared.queries))?;
    let _permit = queries.acquire_owned().await.ok()?;
    let (mut exists, mut refusal) = (false, None);
    for name in servers.search.candidates(&query.name) {
        let v4 = ask_family(query, servers, &name, AddressFamily::V4, budget);
        let v6 = ask_family(query, servers, &name, AddressFamily::V6, budget);
        match tokio::join!(v4, v6) {
            (None, None) => return None,
            (Some((v4, _)), None) => {
                query.report_failed(AddressFamily::V4, v4);
                return None;
            }
            (None, Some((v6, _))) => {
                query.report_failed(AddressFamily::V6, v6);
                return None;
            }
            (Some((v4, v4_is_final)), Some((v6, v6_is_final))) => {
                let has_failed = matches!(v4, LookupFailure::Other(_)) || matches!(v6, LookupFailure::Other(_));
                exists |= matches!(v4, LookupFailure::NoAddresses) || matches!(v6, LookupFailure::NoAddresses);
                if v4_is_final || v6_is_final {
                    return Some((v4, v6));
                }
                if has_failed {
                    refusal.get_or_insert((v4, v6));
                }
            }
        }
    }
    // As in the C library, another search domain is tried after a server failure, and the failure is the result.
    let denial = if exists { LookupFailure::NoAddresses } else { LookupFailure::NoSuchName };
    Some(refusal.unwrap_or((denial.clone(), denial)))
}

/// Queries the addresses of one family and reports them. Returns the failure, and whether no other name is to be tried.
async fn ask_family(
    query: &RunningQuery,
    servers: &Servers,
    name: &str,
    family: AddressFamily,
    budget: Duration,
) -> Option<(LookupFailure, bool)> {
    let asked_at = clock::now();
    let kind = match family {
        AddressFamily::V4 => RecordType::A,
        AddressFamily::V6 => RecordType::AAAA,
    };
    match servers.addresses(name, kind, budget).await {
        Ok((addresses, _)) if addresses.is_empty() => Some((LookupFailure::NoAddresses, false)),
        Ok((addresses, ttl)) => {
            query.report(|cache, name, id, now| cache.handle_answered(name, id, family, addresses, ttl, now));
            None
        }
        Err(error) => Some(failure(error, budget, clock::now().saturating_duration_since(asked_at))),
    }
}

/// Returns what an error of a query means. After a failure without an answer, other names would fail as well.
fn failure(error: NetError, budget: Duration, elapsed: Duration) -> (LookupFailure, bool) {
    if error.is_nx_domain() {
        return (LookupFailure::NoSuchName, false);
    }
    if error.is_no_records_found() {
        return (LookupFailure::NoAddresses, false);
    }
    let is_final = !matches!(error, NetError::Dns(DnsError::ResponseCode(_)));
    let failed = if matches!(error, NetError::Timeout) {
        Error::timeout(Stage::Dns, BUDGET, budget, elapsed)
    } else if let NetError::Io(cause) = &error
        && let Some(advice) = shortage(cause)
    {
        Error::new(ErrorKind::LocalResources, format!("no DNS query could be sent: {cause}: {advice}")).at(Stage::Dns)
    } else {
        Error::new(ErrorKind::DnsFailed, format!("no answer from DNS: {error}")).because(error)
    };
    (LookupFailure::Other(failed), is_final)
}

/// The failure of a user's own resolver.
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
