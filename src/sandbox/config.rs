//! The configuration of a fake deployment: members, users, delays.
//!
//! Does not decide their effects (the other files).

use std::sync::Arc;
use std::time::Duration;

use super::MEMBERS_MAX;
use super::scram_server::StoredKeys;
use crate::auth::Secret;
use crate::error::{Error, ErrorKind};

/// The configuration of a fake deployment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The set's name; `None` for a standalone, which has one member, and for routers.
    pub set_name: Option<String>,
    /// The members; the first voter is the first primary.
    pub members: Vec<MemberConfig>,
    /// Whether the members are routers behind one load balancer: they share only the data.
    pub load_balanced: bool,
    /// The users; without users, no authentication is required.
    pub users: Vec<User>,
    /// How long a set without primary waits for an election, and how long a primary keeps its role without a majority.
    pub election_timeout: Duration,
    /// The delay between a step-down and the next election.
    pub step_down_delay: Duration,
    /// The delay between a thaw and the moment when the member catches up.
    pub notice_delay: Duration,
    /// The oldest and newest wire version of every member.
    pub wire_versions: (i32, i32),
    /// Whether the members are routers of a sharded cluster: they share only the data.
    pub mongos: bool,
    /// The wall clock at the start, in milliseconds since 1970.
    pub epoch_millis: i64,
}

/// The configuration of a member.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberConfig {
    /// Its name in the set's configuration, `host:port`, in any spelling.
    pub host: String,
    /// Its kind.
    pub kind: MemberKind,
    /// Its tags.
    pub tags: Vec<(String, String)>,
}

/// The kind of a member of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberKind {
    /// It holds data, and may become primary.
    Voter,
    /// It holds data, and never becomes primary.
    Passive,
    /// It holds data, never becomes primary, and is not announced.
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "the simulation has hidden members"))]
    Hidden,
    /// It has a vote and no data.
    Arbiter,
}

/// A user, defined in `admin`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: Secret,
    pub(super) keys: Option<Arc<[StoredKeys; 2]>>,
}

impl Config {
    /// Returns the configuration of a replica set of voters.
    #[cfg(any(test, feature = "internals"))]
    pub fn replica_set<H: Into<String>>(name: impl Into<String>, hosts: impl IntoIterator<Item = H>) -> Self {
        Self { set_name: Some(name.into()), members: hosts.into_iter().map(MemberConfig::new).collect(), ..Self::empty() }
    }

    /// Returns the configuration of a single server that belongs to no set.
    pub fn standalone(host: impl Into<String>) -> Self {
        Self { members: vec![MemberConfig::new(host)], ..Self::empty() }
    }

    /// Returns the configuration of the routers of a sharded cluster.
    #[cfg(any(test, feature = "internals"))]
    pub fn sharded<H: Into<String>>(hosts: impl IntoIterator<Item = H>) -> Self {
        Self { members: hosts.into_iter().map(MemberConfig::new).collect(), mongos: true, ..Self::empty() }
    }

    /// Returns the configuration of routers behind a load balancer, each a service of its own, all at one address.
    pub fn load_balanced(host: impl Into<String>, services: usize) -> Self {
        let host = host.into();
        let members = (0..services).map(|_| MemberConfig::new(host.as_str())).collect();
        Self { members, load_balanced: true, ..Self::empty() }
    }

    /// Adds a user.
    #[must_use]
    pub fn with_user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push(User::new(name, password));
        self
    }

    fn empty() -> Self {
        Self {
            set_name: None,
            members: Vec::new(),
            load_balanced: false,
            users: Vec::new(),
            election_timeout: ELECTION_TIMEOUT,
            step_down_delay: STEP_DOWN_DELAY,
            notice_delay: NOTICE_DELAY,
            wire_versions: WIRE_VERSIONS,
            mongos: false,
            epoch_millis: EPOCH_MILLIS,
        }
    }

    /// Checks the requirements of a deployment: members within limits, a voter, one member alone without a set name.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(ErrorKind::InvalidOption, format!("sandbox: {why}")));
        if self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return refuse(format!("{} members, a deployment has 1 to {MEMBERS_MAX}", self.members.len()));
        }
        if self.set_name.is_some() && self.load_balanced {
            return refuse("a load balancer with a set name".into());
        }
        if self.set_name.is_none() && self.members.len() > 1 && !self.load_balanced && !self.mongos {
            return refuse(format!("{} members without a set name", self.members.len()));
        }
        if self.set_name.is_some() && self.mongos {
            return refuse("a router belongs to no replica set".into());
        }
        if !self.members.iter().any(|member| member.kind == MemberKind::Voter) {
            return refuse("no member can become primary".into());
        }
        Ok(())
    }
}

impl User {
    /// Creates a user whose keys are derived when the deployment is created.
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self { name: name.into(), password: Secret::new(password), keys: None }
    }

    /// Derives the keys now, so that many deployments can share them; that takes some milliseconds. The salts are drawn from
    /// `seed`.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn with_keys(mut self, seed: u64) -> Self {
        self.keys = Some(StoredKeys::of(&self, &mut <rand::rngs::SmallRng as rand::SeedableRng>::seed_from_u64(seed)));
        self
    }
}

impl MemberConfig {
    /// Creates a voter without tags.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), kind: MemberKind::Voter, tags: Vec::new() }
    }
}

const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

const STEP_DOWN_DELAY: Duration = Duration::from_millis(20);

const NOTICE_DELAY: Duration = Duration::from_millis(100);

/// Those of MongoDB 7.0.
const WIRE_VERSIONS: (i32, i32) = (0, 21);

/// 2025-01-01, so that equal seeds give equal bytes.
const EPOCH_MILLIS: i64 = 1_735_689_600_000;
