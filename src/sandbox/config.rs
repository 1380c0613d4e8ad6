//! What does a fake deployment consist of?
//!
//! Members, users and delays; what they lead to is decided in the other files.

use std::sync::Arc;
use std::time::Duration;

use super::MEMBERS_MAX;
use super::scram_server::StoredKeys;
use crate::auth::Secret;
use crate::error::{Error, ErrorKind};

/// Describes a fake deployment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The set's name; `None` for a standalone, which has one member, and for routers.
    pub set_name: Option<String>,
    /// The members; the first voter is primary at the start.
    pub members: Vec<MemberConfig>,
    /// Whether the members are routers behind one load balancer: they share the data, and nothing else.
    pub load_balanced: bool,
    /// Who may log in; while it is empty, nobody has to.
    pub users: Vec<User>,
    /// How long a set is without primary before it elects one, and how long a primary lasts without a majority.
    pub election_timeout: Duration,
    /// How long after a step-down the next primary is elected.
    pub step_down_delay: Duration,
    /// How long after a thaw a member learns what it has missed.
    pub notice_delay: Duration,
    /// The oldest and newest wire version of every member.
    pub wire_versions: (i32, i32),
    /// Whether the members are routers of a sharded cluster: they share the data, and nothing else.
    pub mongos: bool,
    /// What the wall clocks show at the start, in milliseconds since 1970.
    pub epoch_millis: i64,
}

/// Describes one member.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberConfig {
    /// Its name in the set's configuration, `host:port`, in any spelling.
    pub host: String,
    /// What it is for.
    pub kind: MemberKind,
    /// Its tags.
    pub tags: Vec<(String, String)>,
}

/// Names what a member of a set is for.
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

/// Is somebody who may log in, defined in `admin`.
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
    /// Describes a replica set of voters.
    #[cfg(any(test, feature = "internals"))]
    pub fn replica_set<H: Into<String>>(name: impl Into<String>, hosts: impl IntoIterator<Item = H>) -> Self {
        Self { set_name: Some(name.into()), members: hosts.into_iter().map(MemberConfig::new).collect(), ..Self::empty() }
    }

    /// Describes a single server that belongs to no set.
    pub fn standalone(host: impl Into<String>) -> Self {
        Self { members: vec![MemberConfig::new(host)], ..Self::empty() }
    }

    /// Describes the routers of a sharded cluster.
    #[cfg(any(test, feature = "internals"))]
    pub fn sharded<H: Into<String>>(hosts: impl IntoIterator<Item = H>) -> Self {
        Self { members: hosts.into_iter().map(MemberConfig::new).collect(), mongos: true, ..Self::empty() }
    }

    /// Describes routers behind a load balancer, each a service of its own, all at one address.
    pub fn load_balanced(host: impl Into<String>, services: usize) -> Self {
        let host = host.into();
        let members = (0..services).map(|_| MemberConfig::new(host.as_str())).collect();
        Self { members, load_balanced: true, ..Self::empty() }
    }

    /// Adds somebody who may log in.
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

    /// Checks what a deployment needs: members within limits, a voter, one member alone without a name.
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
    /// Describes somebody whose keys are derived when the deployment is made.
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self { name: name.into(), password: Secret::new(password), keys: None }
    }

    /// Derives the keys now, so that many deployments can share them; that takes some milliseconds. The salts are drawn
    /// from `seed`.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn with_keys(mut self, seed: u64) -> Self {
        self.keys = Some(StoredKeys::of(&self, &mut <rand::rngs::SmallRng as rand::SeedableRng>::seed_from_u64(seed)));
        self
    }
}

impl MemberConfig {
    /// Describes a voter without tags.
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
