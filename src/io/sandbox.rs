//! How does a fake deployment come onto the network?
//!
//! Serves a [`FakeDeployment`] over TCP and TLS: bytes in, bytes out, timers. It holds no rule; what is answered, when, and
//! which connection is closed is decided in [`sandbox`](crate::sandbox).

mod serve;

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

use self::serve::{Door, SandboxShared, keep_time, listen, serve};
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
    /// The members', or the load balancer's, which no member's fate shuts.
    doors: Vec<watch::Sender<Door>>,
    balanced: bool,
    uri: UriParts,
}

/// Collects what a [`Sandbox`] is to be.
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

impl SandboxBuilder {
    /// Sets how many members the replica set has.
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

    /// Makes it a load balancer with so many services behind it, which take its connections in turns.
    ///
    /// Each service is a member here: its fail points, cursors and counts are its own.
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

    /// Sets the first member's port, the others' follow; 0 takes free ones.
    pub fn ports(mut self, base: u16) -> Self {
        self.base_port = base;
        self
    }

    /// Sets the address to listen at.
    pub fn bind(mut self, ip: IpAddr) -> Self {
        self.ip = ip;
        self
    }

    /// Adds somebody who may log in; from then on everybody must.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// Requires TLS.
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Sets the names that the members announce, in order; a name without port gets the member's.
    pub fn hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how long a set without primary waits before it elects one.
    pub fn election_timeout(mut self, timeout: Duration) -> Self {
        self.election_timeout = Some(timeout);
        self
    }

    /// Sets the seed of all that is random in it.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Opens the ports and starts to serve, on the current runtime.
    ///
    /// # Errors
    /// If a port can't be opened, the description contradicts itself, or there is no runtime.
    #[allow(clippy::unused_async, reason = "it needs a runtime, and may come to wait")]
    pub async fn start(self) -> io::Result<Sandbox> {
        let tasks = Tasks::new().ok_or_else(|| io::Error::other("a sandbox starts inside of a tokio runtime"))?;
        let listening = if self.balanced { 1 } else { self.members };
        let mut listeners = Vec::with_capacity(listening);
        for member in 0..listening {
            let offset = u16::try_from(member).unwrap_or(u16::MAX);
            let port = if self.base_port == 0 { Some(0) } else { self.base_port.checked_add(offset) };
            let port = port.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "ports beyond 65535"))?;
            listeners.push(listen(SocketAddr::new(self.ip, port))?);
        }
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let balanced = self.balanced;
        let uri = UriParts { set_name: self.set_name.clone(), user: self.users.first().cloned(), tls: self.tls.is_some() };
        let acceptor = self.tls.clone().map(TlsAcceptor::from);
        let seed = self.seed;
        let cluster = FakeDeployment::new(self.describe(&addresses), seed, clock::now()).map_err(io::Error::other)?;
        let shared = Arc::new(SandboxShared::new(cluster, tasks, acceptor));
        shared.tasks.spawn("sandbox timer", keep_time(Arc::clone(&shared)));
        let mut doors = Vec::with_capacity(listeners.len());
        for (member, listener) in listeners.into_iter().enumerate() {
            let (door, view) = watch::channel(Door::Open);
            doors.push(door);
            shared.tasks.spawn("sandbox listener", serve(Arc::clone(&shared), member, listener, view));
        }
        Ok(Sandbox { shared, addresses, doors, balanced, uri })
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
    /// Describes a replica set of three, `rs0`, on free ports of 127.0.0.1, until told otherwise.
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

    /// Returns where the members listen.
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
        if let Some(door) = self.door(member) {
            door.send_replace(Door::Shut);
            door.closed().await;
        }
    }

    /// Starts a stopped member again, as a new process on the same port; does nothing if it is not stopped.
    ///
    /// # Errors
    /// If the port can't be opened any more.
    #[allow(clippy::unused_async, reason = "the counterpart of `stop`; it needs the runtime")]
    pub async fn start(&self, member: usize) -> io::Result<()> {
        if self.balanced {
            self.shared.act(|cluster, now| cluster.start(member, now));
            return Ok(());
        }
        let Some((door, address)) = self.doors.get(member).zip(self.addresses.get(member)) else { return Ok(()) };
        if !self.shared.lock().cluster.is_stopped(member) {
            return Ok(());
        }
        let listener = listen(*address)?;
        door.send_replace(Door::Open);
        self.shared.act(|cluster, now| cluster.start(member, now));
        self.shared.tasks.spawn("sandbox listener", serve(Arc::clone(&self.shared), member, listener, door.subscribe()));
        Ok(())
    }

    /// Freezes a member, as SIGSTOP does: connections are established by the kernel, nothing is read or answered.
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

    /// Gives a member another name in the set's configuration; it listens where it did.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the set has no such member.
    pub fn rename(&self, member: usize, host: impl Into<String>) -> Result<(), Error> {
        self.shared.act(|cluster, now| cluster.rename(member, host, now))
    }

    /// Takes a member that is not primary out of the set's configuration; its process goes on.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the set has no such member, if it is primary, or if it is the last one.
    pub fn remove(&self, member: usize) -> Result<(), Error> {
        self.shared.act(|cluster, now| cluster.remove(member, now))
    }

    /// Sets or clears a member's fail point, with a command as `configureFailPoint` takes it.
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

    /// Returns how many connections a member has open.
    pub fn connections(&self, member: usize) -> usize {
        self.shared.lock().cluster.connections(member)
    }

    /// Returns how many cursors a member has open.
    pub fn cursors(&self, member: usize) -> usize {
        self.shared.lock().cluster.cursors(member)
    }

    /// Returns how many sessions are open in the deployment: all that commands have named, and that were not ended.
    pub fn sessions(&self) -> usize {
        self.shared.lock().cluster.sessions()
    }

    /// Returns how often each member was sent a command, by its exact name.
    pub fn commands_seen(&self, name: &str) -> Vec<u64> {
        let core = self.shared.lock();
        (0..core.cluster.hosts().len()).map(|member| core.cluster.commands_seen(member, name)).collect()
    }

    /// Ends everything and waits until it is gone.
    pub async fn shutdown(self) {
        self.shared.tasks.stop().await;
    }

    /// Returns the door of a member that has one of its own.
    fn door(&self, member: usize) -> Option<&watch::Sender<Door>> {
        self.doors.get(member).filter(|_| !self.balanced)
    }

    fn hold(&self, member: usize, frozen: bool) {
        self.shared.act(|cluster, now| if frozen { cluster.freeze(member, now) } else { cluster.thaw(member, now) });
        if let Some(door) = self.door(member) {
            let held = self.shared.lock().cluster.is_frozen(member);
            door.send_if_modified(|door| {
                let wanted = if held { Door::Held } else { Door::Open };
                let changes = *door != Door::Shut && *door != wanted;
                if changes {
                    *door = wanted;
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
