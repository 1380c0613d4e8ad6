//! A proxy that harms the traffic between a client and a server.
//!
//! A TCP proxy that does to all its links, old and new, what its rules say at the moment. It counts the links that are open
//! and those on which the server has not answered yet.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Says what happens to bytes that go one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They pass as they are.
    Pass,
    /// They are kept, and pass when this is over.
    Frozen,
    /// Each piece passes after a while, or when this is over.
    Delayed(Duration),
    /// They pass one at a time.
    Crumbs,
    /// This direction is closed, for good; the other goes on.
    HalfClosed,
    /// So many bytes pass on each link; then the link is reset.
    ResetAfter(usize),
}

/// Says what happens to a new link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    /// It is carried on to the server.
    Pass,
    /// It is accepted, and then nothing, for good.
    Silent,
    /// It is carried on after a while.
    Slow(Duration),
}

/// Says what becomes of links as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// They live.
    Live,
    /// They end with a reset on either side.
    Reset,
    /// They end with an orderly close on either side.
    Closed,
}

/// The current rules of the proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) welcome: Welcome,
    pub(crate) links: Links,
    pub(crate) up: Flow,
    pub(crate) down: Flow,
}

impl Default for Rules {
    fn default() -> Self {
        Self { welcome: Welcome::Pass, links: Links::Live, up: Flow::Pass, down: Flow::Pass }
    }
}

impl Rules {
    /// Does the same either way.
    pub(crate) fn both(flow: Flow) -> Self {
        Self { up: flow, down: flow, ..Self::default() }
    }

    pub(crate) fn up(flow: Flow) -> Self {
        Self { up: flow, ..Self::default() }
    }

    pub(crate) fn down(flow: Flow) -> Self {
        Self { down: flow, ..Self::default() }
    }

    pub(crate) fn links(links: Links) -> Self {
        Self { links, ..Self::default() }
    }

    pub(crate) fn welcome(welcome: Welcome) -> Self {
        Self { welcome, ..Self::default() }
    }

    fn flow(&self, way: Way) -> Flow {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }
}

/// The rules, and which links are past all rules.
#[derive(Clone, Copy, Debug, Default)]
struct Now {
    rules: Rules,
    /// Links with lower numbers are dead for good: nothing passes, and neither side is closed.
    stranded_below: u64,
}

/// Stands between clients and a server; dies with the test.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    now: watch::Sender<Now>,
    accepted: AtomicU64,
    open: AtomicUsize,
    dials: AtomicUsize,
    dials_max: AtomicUsize,
}

impl Proxy {
    /// Listens on a free port.
    pub(crate) async fn new(target: SocketAddr) -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"), target).await.expect("a port")
    }

    /// Listens at an address.
    pub(crate) async fn at(address: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            now: watch::Sender::new(Now::default()),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            dials: AtomicUsize::new(0),
            dials_max: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, Arc::clone(&shared)));
        Ok(Self { address, shared, _tasks: tasks })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets other rules hold from now on.
    pub(crate) fn set(&self, rules: Rules) {
        self.shared.now.send_modify(|now| now.rules = rules);
    }

    /// Leaves the links there are without any answer for good; new ones are well.
    pub(crate) fn strand(&self) {
        let below = self.accepted();
        self.shared.now.send_modify(|now| now.stranded_below = below);
    }

    /// Counts the links so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Counts the links whose ends have not both been closed.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Counts the most links at once, since the last time this was asked, that had no answer yet.
    pub(crate) fn dials_max(&self) -> usize {
        self.shared.dials_max.swap(0, Ordering::SeqCst)
    }
}

/// Counts something for as long as it lives.
struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    fn new(counter: &'a AtomicUsize, max: Option<&AtomicUsize>) -> Self {
        let now = counter.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(max) = max {
            max.fetch_max(now, Ordering::SeqCst);
        }
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while links.try_join_next().is_some() {}
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(&shared);
        links.spawn(async move {
            let _open = Count::new(&shared.open, None);
            Link { number, shared: &shared }.live(near, target).await;
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Says how a link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Reset,
    Close,
    /// The client hears nothing more, not even of the end.
    Silence,
}

#[derive(Clone, Copy)]
struct Link<'a> {
    number: u64,
    shared: &'a Shared,
}

impl Link<'_> {
    async fn live(self, mut near: TcpStream, target: SocketAddr) {
        let dial = Count::new(&self.shared.dials, Some(&self.shared.dials_max));
        near.set_nodelay(true).expect("nodelay");
        let mut far = None;
        let welcome = self.shared.now.borrow().rules.welcome;
        let end = tokio::select! {
            biased;
            end = self.whole() => end,
            end = async {
                match welcome {
                    Welcome::Pass => {}
                    Welcome::Silent => return swallow(&mut near).await,
                    Welcome::Slow(delay) => tokio::time::sleep(delay).await,
                }
                let Ok(server) = TcpStream::connect(target).await else { return End::Reset };
                server.set_nodelay(true).expect("nodelay");
                self.carry_both(&mut near, far.insert(server), dial).await
            } => end,
        };
        if end == End::Silence {
            swallow(&mut near).await;
        }
        if end == End::Reset {
            for stream in [Some(&near), far.as_ref()].into_iter().flatten() {
                SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("linger");
            }
        }
    }

    /// Waits until the rules end the link as a whole.
    async fn whole(self) -> End {
        let mut now = self.shared.now.subscribe();
        loop {
            let Now { rules, stranded_below } = *now.borrow_and_update();
            match rules.links {
                _ if self.number < stranded_below => return End::Silence,
                Links::Live => {}
                Links::Reset => return End::Reset,
                Links::Closed => return End::Close,
            }
            changed(&mut now).await;
        }
    }

    async fn carry_both(self, near: &mut TcpStream, far: &mut TcpStream, dial: Count<'_>) -> End {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let both = async {
            tokio::try_join!(self.carry(Way::Up, near_read, far_write, None), self.carry(Way::Down, far_read, near_write, Some(dial)))
        };
        both.await.err().unwrap_or(End::Close)
    }

    /// Carries one way until its source ends; the error is how the link ends before that.
    async fn carry(self, way: Way, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut dial: Option<Count<'_>>) -> Result<(), End> {
        let mut now = self.shared.now.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        let mut budget = None;
        loop {
            let flow = now.borrow_and_update().rules.flow(way);
            if flow == Flow::HalfClosed {
                return half_close(&mut from, &mut to).await;
            }
            let count = tokio::select! {
                read = from.read(&mut buffer) => read.map_err(|_| End::Reset)?,
                () = changed(&mut now) => continue,
            };
            if count == 0 {
                // An error only says that the other side is gone already.
                to.shutdown().await.ok();
                return Ok(());
            }
            let mut rest = buffer.get(..count).expect("read");
            while !rest.is_empty() {
                let flow = now.borrow_and_update().rules.flow(way);
                let size = match flow {
                    Flow::Pass => rest.len(),
                    Flow::Frozen => {
                        changed(&mut now).await;
                        continue;
                    }
                    Flow::Delayed(delay) => {
                        tokio::select! {
                            () = tokio::time::sleep(delay) => rest.len(),
                            () = changed(&mut now) => continue,
                        }
                    }
                    Flow::Crumbs => 1,
                    Flow::HalfClosed => return half_close(&mut from, &mut to).await,
                    Flow::ResetAfter(limit) => rest.len().min(*budget.get_or_insert(limit)),
                };
                let (passing, later) = rest.split_at(size);
                // Whoever gets the answer may dial again at once: by then this one must not count.
                drop(dial.take());
                to.write_all(passing).await.map_err(|_| End::Reset)?;
                rest = later;
                if let (Flow::ResetAfter(_), Some(left)) = (flow, &mut budget) {
                    *left -= size;
                    if *left == 0 {
                        to.flush().await.ok();
                        return Err(End::Reset);
                    }
                } else {
                    budget = None;
                }
            }
        }
    }
}

/// Closes one direction, and reads what still comes for it.
async fn half_close(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> Result<(), End> {
    to.shutdown().await.ok();
    let mut buffer = [0; 4096];
    while from.read(&mut buffer).await.map_err(|_| End::Reset)? > 0 {}
    Ok(())
}

/// Reads and says nothing until the other side has gone.
async fn swallow(stream: &mut TcpStream) -> End {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    End::Close
}

/// Waits until the rules are others.
async fn changed(now: &mut watch::Receiver<Now>) {
    now.changed().await.expect("the proxy lives as long as its links");
}
