//! The description of one server.
//!
//! The ServerDescription of server-discovery-and-monitoring: its type, hello reply, last error and round-trip times. Does not
//! decide the effect of a new description on the topology (`update`).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::oid::ObjectId;

use crate::error::{Error, Nested, Span};
use crate::handshake::{HelloReply, TopologyVersion};
use crate::host::ServerAddress;

/// The type of a server.
///
/// The specification's PossiblePrimary is for clients that check one server at a time; here it is `Unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerType {
    /// Not checked yet, or its last check failed.
    #[default]
    Unknown,
    /// A mongod that does not belong to a replica set.
    Standalone,
    /// A router of a sharded cluster.
    Mongos,
    /// The primary of a replica set.
    RsPrimary,
    /// A secondary of a replica set.
    RsSecondary,
    /// A member that votes and holds no data.
    RsArbiter,
    /// A member in another state: hidden, starting, recovering.
    RsOther,
    /// A member without a configuration.
    RsGhost,
    /// A load balancer.
    LoadBalancer,
}

/// The description of one server.
///
/// A description of type [`Unknown`](ServerType::Unknown) has no hello reply and no round-trip time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerDescription {
    /// Its address.
    pub host: ServerAddress,
    /// Its type.
    pub kind: ServerType,
    /// The hello reply that determines the type; `None` for unknown servers and load balancers.
    pub hello: Option<Arc<HelloReply>>,
    /// The error that made it unknown, if there was one.
    pub error: Option<Error>,
    /// Its average round-trip time; `None` until one has been measured.
    pub round_trip_time: Option<Duration>,
    /// The shortest of its latest round-trip times; zero until enough have been measured.
    pub min_round_trip_time: Duration,
    /// When the description was last confirmed or changed; `None` if it never was.
    pub last_update: Option<Instant>,
    /// The version of its state, from its hello reply or from the error that made it unknown.
    pub topology_version: Option<TopologyVersion>,
}

impl ServerType {
    /// Returns the specification's name, such as `RSPrimary`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Standalone => "Standalone",
            Self::Mongos => "Mongos",
            Self::RsPrimary => "RSPrimary",
            Self::RsSecondary => "RSSecondary",
            Self::RsArbiter => "RSArbiter",
            Self::RsOther => "RSOther",
            Self::RsGhost => "RSGhost",
            Self::LoadBalancer => "LoadBalancer",
        }
    }

    /// Returns whether it holds data, or represents servers that do.
    pub fn is_data_bearing(self) -> bool {
        matches!(self, Self::Standalone | Self::Mongos | Self::RsPrimary | Self::RsSecondary | Self::LoadBalancer)
    }

    /// Returns the type of a hello reply's server.
    pub fn of_hello(reply: &HelloReply) -> Self {
        if reply.is_mongos {
            Self::Mongos
        } else if reply.is_replica_set {
            Self::RsGhost
        } else if reply.set_name.is_none() {
            Self::Standalone
        } else if reply.hidden {
            Self::RsOther
        } else if reply.is_writable_primary {
            Self::RsPrimary
        } else if reply.secondary {
            Self::RsSecondary
        } else if reply.arbiter_only {
            Self::RsArbiter
        } else {
            Self::RsOther
        }
    }
}

impl ServerDescription {
    /// Creates the description of a server about which nothing is known.
    pub fn unknown(host: &ServerAddress) -> Self {
        Self {
            host: host.clone(),
            kind: ServerType::Unknown,
            hello: None,
            error: None,
            round_trip_time: None,
            min_round_trip_time: Duration::ZERO,
            last_update: None,
            topology_version: None,
        }
    }

    /// Creates the description of a failed server.
    pub fn failed(host: &ServerAddress, error: Error, now: Instant) -> Self {
        Self { error: Some(error), last_update: Some(now), ..Self::unknown(host) }
    }

    /// Creates the description of a load balancer, which is never checked.
    pub fn load_balancer(host: &ServerAddress) -> Self {
        Self { kind: ServerType::LoadBalancer, ..Self::unknown(host) }
    }

    /// Creates the description of a hello reply's server, without round-trip times.
    pub fn of_hello(host: &ServerAddress, reply: HelloReply, now: Instant) -> Self {
        Self {
            kind: ServerType::of_hello(&reply),
            topology_version: reply.topology_version,
            hello: Some(Arc::new(reply)),
            last_update: Some(now),
            ..Self::unknown(host)
        }
    }

    /// Sets the average round-trip time.
    #[must_use]
    pub fn with_round_trip_time(mut self, average: Duration) -> Self {
        self.round_trip_time = Some(average);
        self
    }

    /// Returns whether the server's type is known.
    pub fn is_known(&self) -> bool {
        self.kind != ServerType::Unknown
    }

    /// Returns the name of its replica set.
    pub fn set_name(&self) -> Option<&str> {
        self.hello.as_ref().and_then(|hello| hello.set_name.as_deref())
    }

    /// Returns the version of its replica set's configuration.
    pub fn set_version(&self) -> Option<i64> {
        self.hello.as_ref().and_then(|hello| hello.set_version)
    }

    /// Returns the election that made it primary.
    pub fn election_id(&self) -> Option<ObjectId> {
        self.hello.as_ref().and_then(|hello| hello.election_id)
    }

    /// Returns its own name in the replica set's configuration.
    pub fn me(&self) -> Option<&ServerAddress> {
        self.hello.as_ref().and_then(|hello| hello.me.as_ref())
    }

    /// Returns the members in its reply: hosts, passives and arbiters.
    pub fn members(&self) -> impl Iterator<Item = &ServerAddress> {
        self.hello.iter().flat_map(|hello| hello.hosts.iter().chain(&hello.passives).chain(&hello.arbiters))
    }

    /// Returns its tags, sorted by name.
    pub fn tags(&self) -> &[(String, String)] {
        match &self.hello {
            Some(hello) => &hello.tags,
            None => &[],
        }
    }

    /// Returns the time of its last write, in milliseconds since 1970, by its own clock.
    pub fn last_write_date_millis(&self) -> Option<i64> {
        self.hello.as_ref().and_then(|hello| hello.last_write_date_millis)
    }

    /// Returns the lifetime of its sessions; `None` if it has none.
    pub fn logical_session_timeout(&self) -> Option<Duration> {
        self.hello.as_ref().and_then(|hello| hello.logical_session_timeout)
    }

    /// Returns the oldest and the newest wire version it supports.
    pub fn wire_versions(&self) -> Option<(i32, i32)> {
        self.hello.as_ref().map(|hello| (hello.min_wire_version, hello.max_wire_version))
    }

    /// Returns whether two descriptions of one server are equal (SDAM, "ServerDescription equality").
    ///
    /// Round-trip times, the time of the update, the last write date and values of one connection don't count.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.host == other.host
            && self.kind == other.kind
            && self.topology_version == other.topology_version
            && match (&self.error, &other.error) {
                (None, None) => true,
                (Some(own), Some(theirs)) => same_error(own, theirs),
                (None, Some(_)) | (Some(_), None) => false,
            }
            && match (&self.hello, &other.hello) {
                (None, None) => true,
                (Some(own), Some(theirs)) => Arc::ptr_eq(own, theirs) || same_hello(own, theirs),
                (None, Some(_)) | (Some(_), None) => false,
            }
    }
}

impl fmt::Display for ServerDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.kind.name())?;
        if let Some(average) = self.round_trip_time {
            write!(f, " {}", Span(average))?;
        }
        match &self.error {
            Some(error) => Nested(error).fmt(f),
            None => Ok(()),
        }
    }
}

/// Time-outs whose durations differ by a few milliseconds are the same fault.
fn same_error(own: &Error, theirs: &Error) -> bool {
    own.kind() == theirs.kind()
        && own.stage() == theirs.stage()
        && own.code() == theirs.code()
        && (own.is_timeout() || own.message() == theirs.message())
}

fn same_hello(own: &HelloReply, theirs: &HelloReply) -> bool {
    own.set_name == theirs.set_name
        && own.set_version == theirs.set_version
        && own.election_id == theirs.election_id
        && own.me == theirs.me
        && own.primary == theirs.primary
        && own.hosts == theirs.hosts
        && own.passives == theirs.passives
        && own.arbiters == theirs.arbiters
        && own.tags == theirs.tags
        && own.min_wire_version == theirs.min_wire_version
        && own.max_wire_version == theirs.max_wire_version
        && own.logical_session_timeout == theirs.logical_session_timeout
        && own.topology_version == theirs.topology_version
}
