//! Functions that several of these tests share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mongolink::bson::{Document, doc};
use mongolink::{Client, PoolStats, Resolve, ResolveFuture};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A bound that only a hang breaks.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Fails a test that hangs.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("hangs")
}

/// Waits until a condition holds; fails if it never does.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn ping(client: &Client) -> mongolink::Result<Document> {
    client.database("admin").run_command(doc! { "ping": 1 }).await
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

/// Waits until no connection is in use, awaited, draining or being opened.
pub(crate) async fn at_rest(client: &Client) {
    until("pools at rest", || {
        let sum = totals(client);
        sum.in_use + sum.draining + sum.waiting + sum.opening == 0
    })
    .await;
}

/// Resolves every name to this host, after a delay, and counts.
#[derive(Clone, Default)]
pub(crate) struct Names {
    pub(crate) delay: Duration,
    pub(crate) asked: Arc<AtomicUsize>,
    pub(crate) at_once: Arc<AtomicUsize>,
    pub(crate) at_once_max: Arc<AtomicUsize>,
}

impl Names {
    pub(crate) fn after(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolve for Names {
    fn resolve(&self, _name: &str) -> ResolveFuture<'_> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.at_once_max.fetch_max(at_once, Ordering::SeqCst);
            tokio::time::sleep(self.delay).await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
        })
    }
}

/// What a proxy does with its n-th connection, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Bytes pass as they are.
    Pass,
    /// Accepted, and then nothing.
    Silence,
    /// Bytes pass one at a time, either way.
    Crumbs,
    /// Once the server has answered this often, its direction is closed; the client may go on writing.
    HalfClosed,
}

/// Stands between client and server; dies with the test.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn new(target: SocketAddr, treat: impl Fn(usize) -> Treatment + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            for number in 0.. {
                let Ok((near, _)) = listener.accept().await else { return };
                links.spawn(link(near, target, treat(number)));
            }
        });
        Self { address, _tasks: tasks }
    }
}

async fn link(near: TcpStream, target: SocketAddr, treatment: Treatment) {
    if treatment == Treatment::Silence {
        std::future::pending::<()>().await;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    near.set_nodelay(true).expect("nodelay");
    far.set_nodelay(true).expect("nodelay");
    let chunk = if treatment == Treatment::Crumbs { 1 } else { 64 * 1024 };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let replies_max = if treatment == Treatment::HalfClosed { 2 } else { usize::MAX };
    tokio::join!(carry(near_read, far_write, chunk, usize::MAX), carry(far_read, near_write, chunk, replies_max));
}

async fn carry(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, chunk: usize, reads_max: usize) {
    let mut buffer = vec![0; chunk];
    for _ in 0..reads_max {
        match from.read(&mut buffer).await {
            Ok(count) if count > 0 => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
            Ok(_) | Err(_) => break,
        }
    }
    // An error only says that the other side is gone already.
    to.shutdown().await.ok();
}
