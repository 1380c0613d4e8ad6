//! Name resolution rules: the address cache, the choice between DNS queries and the operating system, and SRV seed lists.
//!
//! `Cache` decides when a name is resolved and who gets which answer, `system_config` which source resolves it, `names`
//! knows search lists, `localhost` and the hosts file, `srv` is the seed-list specification
//! (initial-dns-seedlist-discovery), `rescan` its repetition (polling-srv-records). Does not decide how queries are sent
//! (`io::resolver`), nor the order in which addresses are tried (`race`).

mod action;
mod cache;
mod known_answer;
mod limits;
pub mod names;
mod query;
mod rescan;
pub mod srv;
pub mod system_config;

use std::net::IpAddr;

use crate::error::Error;

pub use action::{CacheAction, LookupId};
pub use cache::Cache;
pub use query::QueryId;
#[cfg(feature = "internals")]
pub use rescan::FLOOR_MIN;
pub use rescan::{RESCAN_FLOOR, Rescan, RescanAction, RescanConfig};
pub use srv::{SrvRecord, TxtRecord};

/// How much of an answer a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupMode {
    /// The first addresses that may be dialled: IPv6 at once, IPv4 after a short wait for IPv6 (RFC 8305 section 3).
    First,
    /// The addresses of both families.
    All,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// The addresses, IPv6 before IPv4, otherwise in the order of their source; never empty.
    pub addresses: Vec<IpAddr>,
    /// Whether both families have answered; if not, a look-up with [`LookupMode::All`] returns the rest.
    pub complete: bool,
    /// Whether this is the last good answer, expired or with dead addresses only, because there is no newer one.
    pub stale: bool,
}

/// An address family, and with it a record type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4, A records.
    V4,
    /// IPv6, AAAA records.
    V6,
}

/// The reason why a family has no addresses.
#[derive(Clone, Debug)]
pub enum LookupFailure {
    /// The name does not exist.
    NoSuchName,
    /// The name exists, without records of this type.
    NoAddresses,
    /// No server answered, or all refused.
    Other(Error),
}

/// The option that limits a look-up.
pub(crate) const BUDGET: &str = "dnsTimeoutMS";
