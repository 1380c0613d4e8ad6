//! The description of the whole deployment.
//!
//! The TopologyDescription of server-discovery-and-monitoring: an immutable snapshot, shared by `Arc`, that selection reads
//! while the next one is built. Does not decide how one snapshot follows from another (`update`).

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;

use super::server::{ServerDescription, ServerType};
use super::{MAX_WIRE_VERSION, MIN_SERVER_VERSION, MIN_WIRE_VERSION, SERVERS_MAX, ServerSelector, Window};
use crate::error::{Bounded, ERROR_TEXT_SIZE_MAX, Error, ErrorKind, Ineligible, ServerReason, Stage};
use crate::host::ServerAddress;

/// The maximum number of excluded servers that are remembered for the error of a failed selection.
const LEFT_OUT_MAX: usize = 16;

/// The type of a deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TopologyType {
    /// Not known yet.
    #[default]
    Unknown,
    /// One server, connected directly or standalone.
    Single,
    /// A replica set without a known primary.
    ReplicaSetNoPrimary,
    /// A replica set with a primary.
    ReplicaSetWithPrimary,
    /// The routers of a sharded cluster.
    Sharded,
    /// A load balancer.
    LoadBalanced,
}

/// An immutable snapshot of the topology.
#[derive(Clone, Debug)]
pub struct TopologyDescription {
    pub(crate) kind: TopologyType,
    pub(crate) set_name: Option<String>,
    pub(crate) max_set_version: Option<i64>,
    pub(crate) max_election_id: Option<ObjectId>,
    /// Sorted by host.
    servers: Vec<Arc<ServerDescription>>,
    /// The primary's index in `servers`.
    primary: Option<usize>,
    /// The indexes in `servers` of a sharded cluster's routers within the latency window.
    near_routers: Vec<usize>,
    left_out: Vec<ServerReason>,
    compatibility_error: Option<Error>,
    logical_session_timeout: Option<Duration>,
    heartbeat_frequency: Duration,
    local_threshold: Duration,
    server_selector: Option<ServerSelector>,
}

impl TopologyType {
    /// Returns the specification's name, such as `ReplicaSetWithPrimary`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Single => "Single",
            Self::ReplicaSetNoPrimary => "ReplicaSetNoPrimary",
            Self::ReplicaSetWithPrimary => "ReplicaSetWithPrimary",
            Self::Sharded => "Sharded",
            Self::LoadBalanced => "LoadBalanced",
        }
    }

    /// Returns whether it is a replica set, with or without a primary.
    pub fn is_replica_set(self) -> bool {
        matches!(self, Self::ReplicaSetNoPrimary | Self::ReplicaSetWithPrimary)
    }

    /// Returns whether the servers follow the SRV records that they come from (polling-srv-records).
    pub fn follows_srv(self) -> bool {
        matches!(self, Self::Unknown | Self::Sharded)
    }
}

impl TopologyDescription {
    /// Creates a description of servers, with the default heartbeat frequency (10 s) and latency window (15 ms).
    ///
    /// Of two servers with one host the later one counts.
    pub fn new(kind: TopologyType, servers: impl IntoIterator<Item = ServerDescription>) -> Self {
        let mut topology = Self {
            kind,
            set_name: None,
            max_set_version: None,
            max_election_id: None,
            servers: Vec::new(),
            primary: None,
            near_routers: Vec::new(),
            left_out: Vec::new(),
            compatibility_error: None,
            logical_session_timeout: None,
            heartbeat_frequency: Duration::from_secs(10),
            local_threshold: Duration::from_millis(15),
            server_selector: None,
        };
        for server in servers {
            topology.put(Arc::new(server));
        }
        topology.settle();
        topology
    }

    /// Sets the heartbeat frequency, on which the estimate of staleness is based.
    #[must_use]
    pub fn with_heartbeat_frequency(mut self, frequency: Duration) -> Self {
        self.heartbeat_frequency = frequency;
        self
    }

    /// Sets the width of the latency window.
    #[must_use]
    pub fn with_local_threshold(mut self, threshold: Duration) -> Self {
        self.local_threshold = threshold;
        self.settle();
        self
    }

    /// Sets the application's own selector.
    #[must_use]
    pub fn with_server_selector(mut self, selector: Option<ServerSelector>) -> Self {
        self.server_selector = selector;
        self
    }

    /// Sets the name of the replica set.
    #[must_use]
    pub fn with_set_name(mut self, name: Option<String>) -> Self {
        self.set_name = name;
        self
    }

    /// Returns the type.
    pub fn kind(&self) -> TopologyType {
        self.kind
    }

    /// Returns the name of the replica set, configured or discovered.
    pub fn set_name(&self) -> Option<&str> {
        self.set_name.as_deref()
    }

    /// Returns the newest configuration version of the replica set that a primary has reported.
    pub fn max_set_version(&self) -> Option<i64> {
        self.max_set_version
    }

    /// Returns the newest election that a primary has reported.
    pub fn max_election_id(&self) -> Option<ObjectId> {
        self.max_election_id
    }

    /// Returns all servers, sorted by host.
    pub fn servers(&self) -> &[Arc<ServerDescription>] {
        &self.servers
    }

    /// Returns the server of a host.
    pub fn server(&self, host: &ServerAddress) -> Option<&Arc<ServerDescription>> {
        self.place(host).ok().and_then(|at| self.servers.get(at))
    }

    /// Returns the primary of the replica set; its cost does not grow with the number of servers.
    pub fn primary(&self) -> Option<&Arc<ServerDescription>> {
        self.primary.and_then(|at| self.servers.get(at))
    }

    /// Returns a server's index in [`servers`](Self::servers).
    #[inline]
    pub(crate) fn place_of(&self, server: &Arc<ServerDescription>) -> Option<usize> {
        match self.primary {
            Some(at) if self.servers.get(at).is_some_and(|primary| Arc::ptr_eq(primary, server)) => Some(at),
            Some(_) | None => self.place(&server.host).ok(),
        }
    }

    /// Returns the number of a sharded cluster's routers within the latency window.
    pub(crate) fn near_routers(&self) -> usize {
        self.near_routers.len()
    }

    /// Returns one of them.
    pub(crate) fn near_router(&self, number: usize) -> Option<&Arc<ServerDescription>> {
        self.near_routers.get(number).and_then(|at| self.servers.get(*at))
    }

    /// Returns the last sixteen servers that were discovered and excluded, each with the reason.
    pub fn left_out(&self) -> &[ServerReason] {
        &self.left_out
    }

    /// Returns whether all servers support a wire version that mongolink supports.
    pub fn is_compatible(&self) -> bool {
        self.compatibility_error.is_none()
    }

    /// Returns the error of a server with incompatible wire versions, if there is one.
    pub fn compatibility_error(&self) -> Option<&Error> {
        self.compatibility_error.as_ref()
    }

    /// Returns the lifetime of sessions: the minimum over all data-bearing servers, `None` if one of them has no sessions.
    pub fn logical_session_timeout(&self) -> Option<Duration> {
        self.logical_session_timeout
    }

    /// Returns the lifetime of a session; `None` without session support.
    ///
    /// Behind a load balancer sessions are always supported, and do not expire (load-balancers, "Driver Sessions").
    pub fn session_timeout(&self) -> Option<Duration> {
        if self.kind == TopologyType::LoadBalanced { Some(Duration::MAX) } else { self.logical_session_timeout }
    }

    /// Returns the interval between two checks of a server.
    pub fn heartbeat_frequency(&self) -> Duration {
        self.heartbeat_frequency
    }

    /// Returns the width of the latency window.
    pub fn local_threshold(&self) -> Duration {
        self.local_threshold
    }

    /// Returns the application's own selector.
    pub fn server_selector(&self) -> Option<&ServerSelector> {
        self.server_selector.as_ref()
    }

    /// Adds a server, or replaces the description of its host.
    pub(crate) fn put(&mut self, server: Arc<ServerDescription>) {
        self.left_out.retain(|reason| reason.host != server.host);
        match self.place(&server.host) {
            Ok(at) => {
                if let Some(slot) = self.servers.get_mut(at) {
                    *slot = server;
                }
            }
            Err(at) => self.servers.insert(at, server),
        }
    }

    /// Adds each missing host, as long as there is room.
    pub(crate) fn add_missing<'h>(&mut self, hosts: impl Iterator<Item = &'h ServerAddress>) {
        for host in hosts {
            if self.place(host).is_err() {
                if self.servers.len() >= SERVERS_MAX {
                    return;
                }
                self.put(Arc::new(ServerDescription::unknown(host)));
            }
        }
    }

    /// Removes a server.
    pub(crate) fn remove(&mut self, host: &ServerAddress) {
        if let Ok(at) = self.place(host) {
            self.servers.remove(at);
        }
    }

    /// Removes a server that does not belong to the deployment, and remembers the reason.
    pub(crate) fn leave_out(&mut self, server: &ServerDescription, error: Error) {
        self.remove(&server.host);
        if self.left_out.len() >= LEFT_OUT_MAX {
            self.left_out.remove(0);
        }
        let reason = Ineligible::Type(server.kind.name());
        self.left_out.push(ServerReason { host: server.host.clone(), reason, error: Some(error.on(&server.host)) });
    }

    /// Keeps only the servers that a predicate admits.
    pub(crate) fn retain(&mut self, admit: impl Fn(&ServerAddress) -> bool) {
        self.servers.retain(|server| admit(&server.host));
    }

    /// Derives the values that depend on all servers: the primary's index, the near routers, compatibility, the sessions'
    /// lifetime.
    pub(crate) fn settle(&mut self) {
        let is_sharded = self.kind == TopologyType::Sharded;
        let routers = || self.servers.iter().enumerate().filter(|(_, server)| is_sharded && server.kind == ServerType::Mongos);
        let window = Window::of(routers().map(|(_, router)| router), self.local_threshold);
        self.near_routers = routers().filter(|(_, router)| window.admits(router)).map(|(at, _)| at).collect();
        self.primary = self.servers.iter().position(|server| server.kind == ServerType::RsPrimary);
        self.compatibility_error = self.servers.iter().find_map(|server| incompatibility(server));
        let mut data_bearing = self.servers.iter().filter(|server| server.kind.is_data_bearing());
        self.logical_session_timeout = data_bearing.next().and_then(|first| {
            data_bearing.try_fold(first.logical_session_timeout()?, |least, server| Some(least.min(server.logical_session_timeout()?)))
        });
    }

    fn place(&self, host: &ServerAddress) -> Result<usize, usize> {
        self.servers.binary_search_by(|server| server.host.cmp(host))
    }
}

impl fmt::Display for TopologyDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bounded::new(f, ERROR_TEXT_SIZE_MAX).print(|out| self.print(out))
    }
}

impl TopologyDescription {
    fn print(&self, f: &mut Bounded<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(name) = &self.set_name {
            write!(f, " {name:?}")?;
        }
        for (index, server) in self.servers.iter().enumerate() {
            write!(f, "{}{server}", if index == 0 { ": " } else { ", " })?;
        }
        match &self.compatibility_error {
            Some(error) => write!(f, "; {error}"),
            None => Ok(()),
        }
    }
}

/// Returns the error if the wire versions of a known server and mongolink's don't overlap; the texts are the specification's.
fn incompatibility(server: &ServerDescription) -> Option<Error> {
    // An unknown server does not count, whatever its last reply.
    let (oldest, newest) = server.wire_versions().filter(|_| server.is_known())?;
    let host = &server.host;
    let text = if oldest > MAX_WIRE_VERSION {
        format!("server at {host} requires wire version {oldest}, but this version of mongolink only supports up to {MAX_WIRE_VERSION}")
    } else if newest < MIN_WIRE_VERSION {
        format!(
            "server at {host} reports wire version {newest}, but this version of mongolink requires at least {MIN_WIRE_VERSION} \
             (MongoDB {MIN_SERVER_VERSION})"
        )
    } else {
        return None;
    };
    Some(Error::new(ErrorKind::Incompatible, text).at(Stage::Hello).on(host))
}
