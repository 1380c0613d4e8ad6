//! The tasks of a sandbox: one per listener, one per connection, one for the timers.
//!
//! A connection's task ends when the deployment or the peer closes it, or the member's gate is shut.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::io::clock;
use crate::io::tasks::Tasks;
use crate::sandbox::{FakeDeployment, SandboxAction, SandboxEvent};

/// The state shared by all tasks of a sandbox.
pub(super) struct SandboxShared {
    core: Mutex<SandboxCore>,
    alarm: Notify,
    pub(super) tasks: Tasks,
    tls: Option<TlsAcceptor>,
}

pub(super) struct SandboxCore {
    pub(super) cluster: FakeDeployment,
    wires: BTreeMap<(usize, u64), Wire>,
    next_conn: u64,
    /// The instant of the armed timer.
    armed: Option<Instant>,
}

/// The channels to the task of one connection; dropping `replies` makes it send the rest and close.
struct Wire {
    replies: mpsc::Sender<Vec<u8>>,
    reset: watch::Sender<bool>,
}

/// What a member's listener and connections may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Accept and read.
    Open,
    /// Read nothing, and leave new connections in the kernel's backlog.
    Held,
    /// End.
    Shut,
}

/// The maximum number of unread replies; a peer with more is disconnected.
const REPLIES_MAX: usize = 1024;

/// The time limit of a TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(30);

/// The size of a read, in bytes.
const READ_SIZE: usize = 16 * 1024;

/// The maximum number of connections in the kernel's backlog.
const BACKLOG: u32 = 1024;

/// How long a listener pauses after a failed accept, such as one without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

impl SandboxShared {
    pub(super) fn new(cluster: FakeDeployment, tasks: Tasks, tls: Option<TlsAcceptor>) -> Self {
        let core = SandboxCore { cluster, wires: BTreeMap::new(), next_conn: 0, armed: None };
        Self { core: Mutex::new(core), alarm: Notify::new(), tasks, tls }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SandboxCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a step of the deployment, passes its actions to the connections' tasks, and re-arms the timer.
    pub(super) fn act<R>(&self, decide: impl FnOnce(&mut FakeDeployment, Instant) -> R) -> R {
        let mut core = self.lock();
        let outcome = decide(&mut core.cluster, clock::now());
        core.deliver();
        let due = core.cluster.poll_timeout().map(|(due, _)| due);
        let earlier = due.is_some_and(|due| core.armed.is_none_or(|armed| due < armed));
        let events: Vec<SandboxEvent> = std::iter::from_fn(|| core.cluster.poll_event()).collect();
        drop(core);
        if earlier {
            self.alarm.notify_one();
        }
        // A subscriber may call the sandbox, so it runs without the lock.
        events.into_iter().for_each(log);
        outcome
    }

    /// Registers a connection; returns its number and the receivers for its task.
    fn admit(&self, member: usize) -> (u64, mpsc::Receiver<Vec<u8>>, watch::Receiver<bool>) {
        let (replies, queue) = mpsc::channel(REPLIES_MAX);
        let (reset, resets) = watch::channel(false);
        let mut core = self.lock();
        core.next_conn += 1;
        let conn = core.next_conn;
        core.wires.insert((member, conn), Wire { replies, reset });
        core.cluster.handle_connected(member, conn, clock::now());
        core.deliver();
        (conn, queue, resets)
    }

    fn forget(&self, member: usize, conn: u64) {
        self.lock().wires.remove(&(member, conn));
        self.act(|cluster, now| cluster.handle_closed(member, conn, now));
    }
}

impl SandboxCore {
    fn deliver(&mut self) {
        while let Some(action) = self.cluster.poll_action() {
            match action {
                SandboxAction::Reply { member, conn, bytes } => {
                    let Some(wire) = self.wires.get(&(member, conn)) else { continue };
                    if wire.replies.try_send(bytes).is_err() {
                        wire.reset.send_replace(true);
                    }
                }
                SandboxAction::Close { member, conn, reset } => {
                    if let Some(wire) = self.wires.remove(&(member, conn)) {
                        wire.reset.send_replace(reset);
                    }
                }
            }
        }
    }
}

fn log(event: SandboxEvent) {
    match event {
        SandboxEvent::Elected { member, term } => tracing::info!(member, term, "sandbox: elected"),
        SandboxEvent::SteppedDown { member } => tracing::info!(member, "sandbox: stepped down"),
    }
}

/// Calls the deployment when its timers are due.
pub(super) async fn run_timer(shared: Arc<SandboxShared>) {
    loop {
        let due = {
            let mut core = shared.lock();
            core.armed = core.cluster.poll_timeout().map(|(due, _)| due);
            core.armed
        };
        tokio::select! {
            () = clock::sleep_until(due) => shared.act(FakeDeployment::handle_timeout),
            () = shared.alarm.notified() => {}
        }
    }
}

/// Accepts one member's connections until its gate is shut.
pub(super) async fn serve(shared: Arc<SandboxShared>, member: usize, listener: TcpListener, mut gate: watch::Receiver<Gate>) {
    loop {
        if !is_open(&mut gate).await {
            return;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let member = shared.lock().cluster.route(member);
                    let task = accept(Arc::clone(&shared), member, stream, gate.clone());
                    shared.tasks.spawn("sandbox connection", task);
                }
                Err(error) => {
                    tracing::warn!(member, %error, "sandbox: accept failed");
                    clock::sleep_until(Some(clock::now() + ACCEPT_PAUSE)).await;
                }
            },
            changed = gate.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Waits while a gate is held; returns whether it is open then.
async fn is_open(gate: &mut watch::Receiver<Gate>) -> bool {
    gate.wait_for(|gate| *gate != Gate::Held).await.is_ok_and(|gate| *gate == Gate::Open)
}

/// Waits until a gate is shut.
async fn is_shut(gate: &mut watch::Receiver<Gate>) {
    // An error means that the sandbox has been dropped.
    drop(gate.wait_for(|gate| *gate == Gate::Shut).await);
}

/// Completes TLS if required, then carries bytes.
async fn accept(shared: Arc<SandboxShared>, member: usize, stream: TcpStream, mut gate: watch::Receiver<Gate>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(member, %error, "sandbox: TCP_NODELAY can't be set");
    }
    let Some(acceptor) = shared.tls.clone() else { return carry(shared, member, stream, gate).await };
    if !is_open(&mut gate).await {
        return;
    }
    let secured = tokio::select! {
        secured = tokio::time::timeout(TLS_TIMEOUT, acceptor.accept(stream)) => secured,
        () = is_shut(&mut gate) => return,
    };
    match secured {
        Ok(Ok(stream)) => carry(shared, member, stream, gate).await,
        Ok(Err(error)) => tracing::debug!(member, %error, "sandbox: TLS failed"),
        Err(_) => tracing::debug!(member, limit = ?TLS_TIMEOUT, "sandbox: TLS timed out"),
    }
}

/// Carries bytes between a connection and the deployment until one of them ends it.
async fn carry<S: Peer>(shared: Arc<SandboxShared>, member: usize, stream: S, mut gate: watch::Receiver<Gate>) {
    let (conn, queue, mut resets) = shared.admit(member);
    let mut own_gate = gate.clone();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let reset = tokio::select! {
        () = read_all(&shared, member, conn, &mut reading, &mut gate) => false,
        () = write_all(queue, &mut writing) => *resets.borrow(),
        () = is_reset(&mut resets) => true,
        // A process that ends resets its connections, including those that are being closed.
        () = is_shut(&mut own_gate) => true,
    };
    let stream = reading.unsplit(writing);
    if reset && let Err(error) = stream.tcp().set_zero_linger() {
        tracing::debug!(member, %error, "sandbox: closed without a reset");
    }
    drop(stream);
    shared.forget(member, conn);
}

/// Waits until a connection is to be reset.
async fn is_reset(resets: &mut watch::Receiver<bool>) {
    if resets.wait_for(|reset| *reset).await.is_err() {
        // Closed without a reset: the rest is written first, and another branch ends it.
        std::future::pending::<()>().await;
    }
}

/// Passes received bytes to the deployment, until the peer closes or the member's process ends.
async fn read_all<S: Peer>(shared: &SandboxShared, member: usize, conn: u64, stream: &mut ReadHalf<S>, gate: &mut watch::Receiver<Gate>) {
    let mut buffer = vec![0; READ_SIZE];
    while is_open(gate).await {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(size) => {
                let bytes = buffer.get(..size).unwrap_or_default();
                shared.act(|cluster, now| cluster.handle_bytes(member, conn, bytes, now));
            }
        }
    }
    // The end of a process is a reset, for which another branch waits.
    std::future::pending().await
}

/// Sends replies until no more can come, then shuts the write side down.
async fn write_all<S: Peer>(mut queue: mpsc::Receiver<Vec<u8>>, stream: &mut WriteHalf<S>) {
    while let Some(bytes) = queue.recv().await {
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
    if let Err(error) = stream.shutdown().await {
        tracing::trace!(%error, "sandbox: the peer has closed the connection");
    }
}

/// Opens a port.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // On Windows the option would let two processes share the port.
    if cfg!(unix) {
        socket.set_reuseaddr(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A stream whose socket can be set to reset on close.
trait Peer: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Peer for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Peer for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}
