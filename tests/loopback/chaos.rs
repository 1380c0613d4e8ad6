//! Errors: wrong input, failing servers, failing networks.
//!
//! Each fault tells its stage, place, time and limit, as data and as text, and keeps its cause; nothing hangs, and
//! nothing is left behind.

mod cancel;
mod deployment;
mod input;
mod login;
mod names;
mod pool;
mod public;
mod replies;
mod secrets;
mod sockets;
mod tls;

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mongolink::bson::Document;
use mongolink::{Address, Client, ClientBuilder, Error, ErrorKind, Ineligible, LimitValue, Probe, Result, ServerAddress, Stage};
use tokio::runtime::Handle;

use crate::support::{at_rest, ping, until};

/// A bound that only a hang breaks.
const BOUND: Duration = Duration::from_secs(20);

/// How much later than its limit a wait may end on a busy machine.
const GRACE: Duration = Duration::from_secs(5);

/// The limits of a client, in milliseconds.
#[derive(Clone, Copy)]
struct Limits {
    connect: u64,
    select: u64,
}

/// For faults that are a time-out of the connection.
const IMPATIENT: Limits = Limits { connect: 300, select: 900 };

/// For faults that no limit is to come before.
const CALM: Limits = Limits { connect: 5000, select: 900 };

/// For what works up to a point.
const PATIENT: Limits = Limits { connect: 10_000, select: 10_000 };

/// Starts a client of some hosts, perhaps with a user before them.
fn builder(hosts: impl Display, limits: Limits, options: &str) -> ClientBuilder {
    let Limits { connect, select } = limits;
    let uri = format!("mongodb://{hosts}/?connectTimeoutMS={connect}&serverSelectionTimeoutMS={select}&{options}");
    Client::builder(uri).expect("a connection string")
}

/// Fails a test that hangs.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.unwrap_or_else(|_| panic!("hangs: {what}"))
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A client that is seen to leave nothing behind.
struct Guest {
    client: Client,
    tasks_before: usize,
}

impl Guest {
    fn new(hosts: impl Display, limits: Limits, options: &str) -> Self {
        Self::of(builder(hosts, limits, options))
    }

    fn of(builder: ClientBuilder) -> Self {
        Self { client: builder.build().expect("a client"), tasks_before: alive_tasks() }
    }

    async fn ping(&self) -> Result<Document> {
        soon("a ping", ping(&self.client)).await
    }

    async fn probe(&self, host: &ServerAddress) -> Probe {
        soon("a probe", self.client.probe(host)).await.expect("started")
    }

    /// Returns what a connection of its own meets, which its last stage has reported.
    async fn probe_fault(&self, host: &ServerAddress) -> Error {
        let probe = self.probe(host).await;
        let error = probe.error.expect("a fault");
        let told = |at: Stage| probe.stages.iter().any(|report| report.stage == at && report.error.is_some());
        assert!(error.stage().is_some_and(told), "{error}: {:?}", probe.stages);
        error
    }

    /// Returns the error of a selection that fails, at its limit.
    async fn unselected(&self) -> Error {
        let limit = self.client.options().server_selection_timeout_or_default();
        let began = Instant::now();
        let error = self.ping().await.expect_err("no server suits");
        assert!(began.elapsed() < limit + GRACE, "{error}");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::ServerSelection, Some(Stage::Selection)), "{error}");
        assert_limit(&error, "serverSelectionTimeoutMS", LimitValue::Time(limit));
        assert!(error.elapsed().is_some() && error.to_string().contains(", after "), "{error}");
        error
    }

    /// Returns the fault of the only server twice: as a connection of its own meets it, and as the reason of a selection
    /// that fails.
    async fn faults(&self, host: &ServerAddress) -> [Error; 2] {
        let own = self.probe_fault(host).await;
        let selection = self.unselected().await;
        let [server] = selection.servers() else { panic!("not one server: {selection}") };
        assert_eq!((&server.host, &server.reason), (host, &Ineligible::Unknown), "{selection}");
        let seen = server.error.clone().unwrap_or_else(|| panic!("no reason: {selection}"));
        assert!(selection.to_string().contains(&seen.to_string()), "{selection}");
        [own, seen]
    }

    /// Ends the client, and checks that no caller waits, no connection is in use, and no task is left.
    async fn end(self) {
        at_rest(&self.client).await;
        soon("shutdown", self.client.shutdown()).await;
        assert_eq!((self.client.task_count(), self.client.pool_stats().len()), (0, 0));
        until("no task is left", || alive_tasks() <= self.tasks_before).await;
    }
}

/// Sees that an error tells what happened, where, and after how long, as data and as text.
fn assert_told(error: &Error, kind: ErrorKind, stage: Stage, host: &ServerAddress, words: &str) {
    let text = error.to_string();
    assert_eq!((error.kind(), error.stage(), error.host()), (kind, Some(stage), Some(host)), "{text}");
    assert!(text.starts_with(&format!("{stage}: {host}")), "{text}");
    assert!(text.contains(words), "{words:?} is not in: {text}");
    assert!(error.elapsed().is_some_and(|elapsed| elapsed < BOUND), "no time: {text}");
    assert!(text.contains("after "), "no time: {text}");
}

/// Sees that an error names the address.
fn assert_placed(error: &Error, address: SocketAddr) {
    assert_eq!(error.address(), Some(&Address::Ip(address)), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

/// Sees that an error names the limit, with its value.
fn assert_limit(error: &Error, name: &'static str, value: LimitValue) {
    let limit = error.limit().unwrap_or_else(|| panic!("no limit: {error}"));
    assert_eq!((limit.name, limit.value), (name, value), "{error}");
    assert!(error.to_string().contains(&format!("({limit})")), "{error}");
}

/// Sees that an error is a time-out of the connection, at its limit.
fn assert_timed_out(error: &Error, stage: Stage, address: SocketAddr, limits: Limits) {
    let limit = Duration::from_millis(limits.connect);
    assert_told(error, ErrorKind::Timeout, stage, &crate::peers::host_of(address), "timed out after ");
    assert_placed(error, address);
    assert_limit(error, "connectTimeoutMS", LimitValue::Time(limit));
    assert!(error.is_timeout() && error.is_network(), "{error}");
    assert!(error.elapsed().is_some_and(|elapsed| elapsed >= limit && elapsed < limit + GRACE), "{error}");
}
