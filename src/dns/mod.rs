//! Which addresses does a name have, and which seeds does an SRV name stand for?
//!
//! The rules only: `Cache` decides when DNS is asked and who gets which answer, `srv` is the seed-list specification
//! (initial-dns-seedlist-discovery), `rescan` says when it is looked at again (polling-srv-records), `names` knows search lists, `localhost` and the hosts file. How questions travel is
//! `io::resolver`'s business; the order in which addresses are tried is `race`'s.

mod action;
mod cache;
mod flight;
mod good;
mod limits;
pub mod names;
mod rescan;
pub mod srv;

use std::net::IpAddr;

use crate::error::Error;

pub use action::{CacheAction, LookupId};
pub use cache::Cache;
pub use flight::QueryId;
#[cfg(feature = "internals")]
pub use rescan::FLOOR_MIN;
pub use rescan::{RESCAN_FLOOR, Rescan, RescanAction, RescanConfig};
pub use srv::{SrvRecord, TxtRecord};

/// Says how much of an answer a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The first addresses that may be dialled: IPv6 at once, IPv4 after a short wait for IPv6 (RFC 8305 section 3).
    First,
    /// The addresses of both families.
    All,
}

/// Is the answer to a question for a name's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// The addresses, IPv6 before IPv4, otherwise in the order given by their source; never empty.
    pub addresses: Vec<IpAddr>,
    /// Whether both families have answered; if not, a question with [`Want::All`] brings the rest.
    pub complete: bool,
    /// Whether this is the last good answer, past its time or given up by its servers, for want of a newer one.
    pub stale: bool,
}

/// Is an address family, and with it a record type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4, A records.
    V4,
    /// IPv6, AAAA records.
    V6,
}

/// Says why a family has no addresses.
#[derive(Clone, Debug)]
pub enum LookupFailure {
    /// The name does not exist.
    NoSuchName,
    /// The name exists, without records of this type.
    NoAddresses,
    /// No DNS server is known.
    NoServer,
    /// The servers could not be reached, or refused.
    Other(Error),
}

/// The option that limits a look-up.
pub(crate) const BUDGET: &str = "dnsTimeoutMS";
