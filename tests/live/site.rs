//! A client, a proxy and a server, and the check of what is left of them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use mongolink::{Client, ClientBuilder, PoolStats};

use crate::load::insert_things;
use crate::proxy::Proxy;
use crate::support::{CHANGE, Server, TEST, eventually, mongod, within};

/// How many connections a pool may have: fewer than there are callers.
pub(crate) const POOL: u32 = 20;

/// Runs a scenario while no other runs in this process, so that its descriptors can be counted; skips it without mongod.
pub(crate) fn alone(scenario: impl AsyncFnOnce(&Path)) {
    static TURN: Mutex<()> = Mutex::new(());
    let Some(program) = mongod() else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(within(TEST, scenario(&program)));
}

/// A client of one server behind a proxy.
pub(crate) struct Site {
    pub(crate) client: Client,
    pub(crate) proxy: Proxy,
    /// Goes straight to the server.
    pub(crate) beside: Client,
    pub(crate) server: Server,
    census: Census,
}

impl Site {
    /// Starts a server and a client of it, with options in code.
    pub(crate) async fn start(program: &Path, further: &[String], change: impl Fn(ClientBuilder) -> ClientBuilder) -> Self {
        let server = Server::mongod(program, further).await;
        let proxy = Proxy::new(server.address()).await;
        let descriptors = descriptors(&[&proxy]);
        let client_of = |address: SocketAddr| {
            let builder = Client::builder(format!("mongodb://{address}/")).expect("a connection string");
            change(builder.max_pool_size(POOL)).build().expect("a client")
        };
        let (client, beside) = (client_of(proxy.address()), client_of(server.address()));
        insert_things(&client, 1).await;
        let census = Census::take(&client, descriptors, &[&proxy], Guests::Client).await;
        Self { client, proxy, beside, server, census }
    }

    /// Sees that nothing is left: first of the faults, then of the client.
    pub(crate) async fn end(self) {
        self.beside.shutdown().await;
        self.census.compare(&self.client, &[&self.proxy]).await;
    }
}

/// Selects the clients that go through the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guests {
    /// The client alone: its connections can be counted there.
    Client,
    /// The servers too, to each other.
    Everybody,
}

/// The state before the faults.
pub(crate) struct Census {
    descriptors: usize,
    tasks: usize,
    guests: Guests,
    /// How many links there were beside those of the pools.
    monitors: usize,
}

impl Census {
    /// Counts what there is when all is quiet. `descriptors` is how many there were before the client.
    pub(crate) async fn take(client: &Client, descriptors: usize, proxies: &[&Proxy], guests: Guests) -> Self {
        let mut counts = Vec::new();
        eventually("all is quiet", CHANGE, async || {
            let links = if guests == Guests::Client { links(proxies) } else { 0 };
            counts.push((client.task_count(), links, totals(client).total(), is_at_rest(client)));
            counts.len() > 25 && counts.iter().rev().take(25).all(|count| Some(count) == counts.last() && count.3)
        })
        .await;
        let (tasks, links, pooled, _) = counts.pop().expect("counted");
        Self { descriptors, tasks, guests, monitors: links.saturating_sub(pooled) }
    }

    /// Sees that there is as much as before when all is quiet again, and nothing when the client has ended.
    pub(crate) async fn compare(self, client: &Client, proxies: &[&Proxy]) {
        eventually("pools at rest", CHANGE, async || is_at_rest(client)).await;
        for (host, stats) in client.pool_stats() {
            assert!(stats.ready && stats.total() <= POOL as usize, "{host}: {stats:?}");
        }
        eventually("as many tasks as before", CHANGE, async || client.task_count() == self.tasks).await;
        let alone = self.guests == Guests::Client;
        let none_leaked = async || !alone || links(proxies) == totals(client).total() + self.monitors;
        eventually("no connection but the pools' and the monitors'", CHANGE, none_leaked).await;
        client.shutdown().await;
        assert_eq!((client.task_count(), client.pool_stats().len()), (0, 0), "nothing is left of the client");
        eventually("no connection is left", CHANGE, async || !alone || links(proxies) == 0).await;
        eventually("as many descriptors as before", CHANGE, async || descriptors(proxies) == self.descriptors).await;
    }
}

/// Adds up the counts of all pools.
pub(crate) fn totals(client: &Client) -> PoolStats {
    let mut sum = PoolStats::default();
    for (_, stats) in client.pool_stats() {
        sum.opening += stats.opening;
        sum.idle += stats.idle;
        sum.in_use += stats.in_use;
        sum.draining += stats.draining;
        sum.waiting += stats.waiting;
        sum.created += stats.created;
        sum.closed += stats.closed;
    }
    sum
}

/// Tells whether no connection is in use or awaited.
pub(crate) fn is_at_rest(client: &Client) -> bool {
    let sum = totals(client);
    sum.in_use + sum.draining + sum.waiting + sum.opening == 0
}

/// Counts what this process has open, but for the two ends of the proxies' links.
pub(crate) fn descriptors(proxies: &[&Proxy]) -> usize {
    // Where there is no such folder, nothing is counted.
    std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count().saturating_sub(2 * links(proxies)))
}

fn links(proxies: &[&Proxy]) -> usize {
    proxies.iter().map(|proxy| proxy.open()).sum()
}
