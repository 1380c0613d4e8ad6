//! A fake deployment on the network.
//!
//! Serves a [`FakeDeployment`] over TCP and TLS: bytes in, bytes out, timers. Does not decide what is answered, when, and which
//! connection is closed ([`sandbox`](crate::sandbox)).

mod serve;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bson::Document;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use self::serve::{Gate, SandboxShared, listen, run_timer, serve};
use super::clock;
use super::tasks::Tasks;
use crate::error::Error;
use crate::sandbox::{Config, FakeDeployment, MemberConfig};

/// A fake deployment on loopback; it ends when it is dropped.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// let sandbox = mongolink::Sandbox::builder().members(3).set_name("rs0").start().await?;
/// println!("{}", sandbox.uri());
/// sandbox.step_down().expect("two others can follow");
/// sandbox.shutdown().await;
/// # Ok(())
/// # }
/// ```
pub struct Sandbox {
    shared: Arc<SandboxShared>,
    addresses: Vec<SocketAddr>,
    /// One gate per member, or the load balancer's only one, which stays open when a member stops.
    gates: Vec<watch::Sender<Gate>>,
    balanced: bool,
    uri: UriParts,
}

/// The configuration of a [`Sandbox`].
#[must_use]
pub struct SandboxBuilder {
    members: usize,
    balanced: bool,
    set_name: Option<String>,
    base_port: u16,
    ip: IpAddr,
    users: Vec<(String, String)>,
    tls: Option<Arc<ServerConfig>>,
    hosts: Vec<String>,
    election_timeout: Option<Duration>,
    mongos: bool,
    seed: u64,
}

struct UriParts {
    set_name: Option<String>,
    user: Option<(String, String)>,
    tls: bool,
}

impl fmt::Debug for SandboxBuilder {
    /// Prints the names of users without their passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxBuilder")
            .field("members", &self.members)
            .field("set_name", &self.set_name)
            .field("hosts", &self.hosts)
            .field("users", &self.users.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl SandboxBuilder {
    /// Sets the number of members of the replica set.
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// Sets the replica set's name.
    pub fn set_name(mut self, name: impl Into<String>) -> Self {
        self.set_name = Some(name.into());
        self
    }

    /// Makes it a single server that belongs to no set.
    pub fn standalone(mut self) -> Self {
        self.members = 1;
        self.set_name = None;
        self
    }

    /// Makes it a load balancer with a number of services behind it, which serve its connections in turn.
    ///
    /// Each service is a member here: it has its own fail points, cursors and counts.
    pub fn load_balancer(mut self, services: usize) -> Self {
        self.members = services;
        self.balanced = true;
        self.set_name = None;
        self
    }

    /// Makes it a single router of a sharded cluster; several sandboxes make a cluster of several.
    pub fn mongos(mut self) -> Self {
        self.mongos = true;
        self.standalone()
    }

    /// Sets the first member's port, the others follow; 0 for free ports.
    pub fn ports(mut self, base: u16) -> Self {
        self.base_port = base;
        self
    }

    /// Sets the address on which to listen.
    pub fn bind(mut self, ip: IpAddr) -> Self {
        self.ip = ip;
        self
    }

    /// Adds a user; from then on all connections must authenticate.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// Requires TLS.
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Sets the names that the members announce, in order; a name without port gets the member's port.
    pub fn hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how long a set without primary waits for an election.
    pub fn election_timeout(mut self, timeout: Duration) -> Self {
        self.election_timeout = Some(timeout);
        self
    }

    /// Sets the seed of all randomness in it.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Opens the ports and starts to serve, on the current runtime.
    ///
    /// # Errors
    /// If a port can't be opened, the configuration contradicts itself, or there is no runtime.
    #[allow(clippy::unused_async, reason = "it needs a runtime, and may come to wait")]
    pub async fn start(self) -> io::Result<Sandbox> {
        let tasks = Tasks::new().ok_or_else(|| io::Error::other("a sandbox requires a tokio runtime"))?;
        let listening = if self.balanced { 1 } else { self.members };
        let mut listeners = Vec::with_capacity(listening);
        for member in 0..listening {
            let offset = u16::try_from(member).unwrap_or(u16::MAX);
            let port = if self.base_port == 0 { Some(0) } else { self.base_port.checked_add(offset) };
            let port = port.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "ports above 65535"))?;
            listeners.push(listen(SocketAddr::new(self.ip, port))?);
        }
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let balanced = self.balanced;
        let uri = UriParts { set_name: self.set_name.clone(), user: self.users.first().cloned(), tls: self.tls.is_some() };
        let acceptor = self.tls.clone().map(TlsAcceptor::from);
        let seed = self.seed;
        let cluster = FakeDeployment::new(self.describe(&addresses), seed, clock::now()).map_err(io::Error::other)?;
        let shared = Arc::new(SandboxShared::new(cluster, tasks, acceptor));
        shared.tasks.spawn("sandbox timer", run_timer(Arc::clone(&shared)));
        let mut gates = Vec::with_capacity(listeners.len());
        for (member, listener) in listeners.into_iter().enumerate() {
            let (gate, view) = watch::channel(Gate::Open);
            gates.push(gate);
            shared.tasks.spawn("sandbox listener", serve(Arc::clone(&shared), member, listener, view));
        }
        Ok(Sandbox { shared, addresses, gates, balanced, uri })
    }

    fn describe(self, addresses: &[SocketAddr]) -> Config {
        let mut given = self.hosts.into_iter();
        let hosts = addresses.iter().map(|address| match given.next() {
            Some(name) if name.contains(':') => name,
            Some(name) => format!("{name}:{}", address.port()),
            None => address.to_string(),
        });
        let mut config = Config::standalone(String::new());
        config.members = hosts.map(MemberConfig::new).collect();
        if self.balanced
            && let Some(balancer) = config.members.first()
        {
            config = Config::load_balanced(balancer.host.clone(), self.members);
        }
        config.set_name = self.set_name;
        config.mongos = self.mongos;
        for (name, password) in self.users {
            config = config.with_user(name, password);
        }
        if let Some(timeout) = self.election_timeout {
            config.election_timeout = timeout;
        }
        config
    }
}

impl Sandbox {
    /// Returns a builder whose defaults are a replica set of three members, `rs0`, on free ports of 127.0.0.1.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder {
            members: 3,
            balanced: false,
            set_name: Some("rs0".to_owned()),
            base_port: 0,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            users: Vec::new(),
            tls: None,
            hosts: Vec::new(),
            election_timeout: None,
            mongos: false,
            seed: 0,
        }
    }

    /// Returns a connection string for it: announced names, first user, set name.
    pub fn uri(&self) -> String {
        let mut options = Vec::new();
        if self.balanced {
            options.push("loadBalanced=true".to_owned());
        }
        if let Some(name) = &self.uri.set_name {
            options.push(format!("replicaSet={}", encoded(name)));
        }
        if self.uri.user.is_some() {
            options.push("authSource=admin".to_owned());
        }
        if self.uri.tls {
            options.push("tls=true".to_owned());
        }
        let user = self.uri.user.as_ref().map(|(name, password)| format!("{}:{}@", encoded(name), encoded(password)));
        let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        format!(
            "mongodb://{}{}/{query}",
            user.unwrap_or_default(),
            self.hosts().into_iter().take(self.addresses.len()).collect::<Vec<_>>().join(",")
        )
    }

    /// Returns the names that the members announce.
    pub fn hosts(&self) -> Vec<String> {
        self.shared.lock().cluster.hosts().to_vec()
    }

    /// Returns the addresses on which the members listen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the primary, if the set has one.
    pub fn primary(&self) -> Option<usize> {
        self.shared.lock().cluster.primary()
    }

    /// Ends a member's process: its listener closes, its connections are reset.
    pub async fn stop(&self, member: usize) {
        self.shared.act(|cluster, now| cluster.stop(member, now));
        if let Some(gate) = self.gate(member) {
            gate.send_replace(Gate::Shut);
            gate.closed().await;
        }
    }

    /// Restarts a stopped member, as a new process on the same port; does nothing if it is not stopped.
    ///
    /// # Errors
    /// If the port can't be opened any more.
    #[allow(clippy::unused_async, reason = "the counterpart of `stop`; it needs the runtime")]
    pub async fn start(&self, member: usize) -> io::Result<()> {
        if self.balanced {
            self.shared.act(|cluster, now| cluster.start(member, now));
            return Ok(());
        }
        let Some((gate, address)) = self.gates.get(member).zip(self.addresses.get(member)) else { return Ok(()) };
        if !self.shared.lock().cluster.is_stopped(member) {
            return Ok(());
        }
        let listener = listen(*address)?;
        gate.send_replace(Gate::Open);
        self.shared.act(|cluster, now| cluster.start(member, now));
        self.shared.tasks.spawn("sandbox listener", serve(Arc::clone(&self.shared), member, listener, gate.subscribe()));
        Ok(())
    }

    /// Freezes a member, as SIGSTOP does: the kernel establishes connections, nothing is read or answered.
    pub fn freeze(&self, member: usize) {
        self.hold(member, true);
    }

    /// Thaws a frozen member.
    pub fn thaw(&self, member: usize) {
        self.hold(member, false);
    }

    /// Makes the primary step down.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) without a running primary, or without a member that could follow it.
    pub fn step_down(&self) -> Result<(), Error> {
        self.shared.act(FakeDeployment::step_down)
    }

    /// Makes a member primary at once.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the member is not electable, or no majority runs.
    pub fn elect(&self, member: usize) -> Result<(), Error> {
        self.shared.act(|cluster, now| cluster.elect(member, now))
    }

    /// Renames a member in the set's configuration; it listens on the same address.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the set has no such member.
    pub fn rename(&self, member: usize, host: impl Into<String>) -> Result<(), Error> {
        self.shared.act(|cluster, now| cluster.rename(member, host, now))
    }

    /// Removes a member that is not primary from the set's configuration; its process continues.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the set has no such member, if it is primary, or if it is the last one.
    pub fn remove(&self, member: usize) -> Result<(), Error> {
        self.shared.act(|cluster, now| cluster.remove(member, now))
    }

    /// Sets or clears a member's fail point; the command is that of `configureFailPoint`.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if there is no such member, or the command is not supported.
    pub fn fail_point(&self, member: usize, command: &Document) -> Result<(), Error> {
        self.shared.act(|cluster, _| cluster.set_fail_point(member, command))
    }

    /// Sets the wire versions that a member announces.
    pub fn wire_versions(&self, member: usize, oldest: i32, newest: i32) {
        self.shared.act(|cluster, now| cluster.set_wire_versions(member, oldest, newest, now));
    }

    /// Returns the number of a member's open connections.
    pub fn connections(&self, member: usize) -> usize {
        self.shared.lock().cluster.connections(member)
    }

    /// Returns the number of a member's open cursors.
    pub fn cursors(&self, member: usize) -> usize {
        self.shared.lock().cluster.cursors(member)
    }

    /// Returns the number of open sessions in the deployment: all that commands have named, and that were not ended.
    pub fn sessions(&self) -> usize {
        self.shared.lock().cluster.sessions()
    }

    /// Returns for each member how many commands of an exact name it has received.
    pub fn commands_seen(&self, name: &str) -> Vec<u64> {
        let core = self.shared.lock();
        (0..core.cluster.hosts().len()).map(|member| core.cluster.commands_seen(member, name)).collect()
    }

    /// Stops the deployment, and waits until its tasks have ended.
    pub async fn shutdown(self) {
        self.shared.tasks.stop().await;
    }

    /// Returns the gate of a member that has one of its own.
    fn gate(&self, member: usize) -> Option<&watch::Sender<Gate>> {
        self.gates.get(member).filter(|_| !self.balanced)
    }

    fn hold(&self, member: usize, frozen: bool) {
        self.shared.act(|cluster, now| if frozen { cluster.freeze(member, now) } else { cluster.thaw(member, now) });
        if let Some(gate) = self.gate(member) {
            let held = self.shared.lock().cluster.is_frozen(member);
            gate.send_if_modified(|gate| {
                let wanted = if held { Gate::Held } else { Gate::Open };
                let changes = *gate != Gate::Shut && *gate != wanted;
                if changes {
                    *gate = wanted;
                }
                changes
            });
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.tasks.abort();
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
