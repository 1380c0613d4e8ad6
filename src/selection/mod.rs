//! Server selection: the server for a command.
//!
//! The rules of server-selection and max-staleness, as functions of a description and a call's criteria: `eligible` (type,
//! staleness, tags, the application's own `selector`), then `window` (latency, two random picks, fewer operations). Does not
//! decide how long a caller waits for a suitable server (`topology`).
//!
//! A write, a read from the primary and a command for any router allocate nothing, and cost the same for any number of servers.

mod criteria;
mod eligible;
mod reason;
mod staleness;
mod window;

use std::sync::Arc;

use rand::rngs::SmallRng;

pub use crate::description::ServerSelector;
pub use crate::options::{ReadPreference, ReadPreferenceMode, TagSet};
pub use criteria::{Criteria, Target, read_preference_to_send};
pub use eligible::suitable_servers;
pub use reason::{reasons, reasons_without_selector};
pub use window::{in_latency_window, pick};

use crate::description::{ServerDescription, TopologyDescription};
use crate::error::{Error, ServerReason};
use crate::host::ServerAddress;
use eligible::Shortcut;
use window::pick_of;

/// Why a selection returned no server.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// No server is suitable now: the reason per server. Waiting may help.
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "models and the simulation read the reasons"))]
    NoServer(Vec<ServerReason>),
    /// The criteria are invalid, or a server's wire versions are incompatible. Waiting does not help.
    Invalid(Error),
}

/// Selects a server; `loads` returns the number of operations in progress on a server.
///
/// # Errors
/// [`Refusal::NoServer`] with a reason for every server, or [`Refusal::Invalid`] if none could ever be suitable.
#[inline]
pub fn select<'a>(
    topology: &'a TopologyDescription,
    criteria: &Criteria,
    loads: &dyn Fn(&ServerAddress) -> u32,
    rng: &mut SmallRng,
) -> Result<&'a Arc<ServerDescription>, Refusal> {
    check(topology, criteria).map_err(Refusal::Invalid)?;
    let selected = match eligible::shortcut(topology, criteria) {
        Shortcut::Settled(server) => server,
        Shortcut::NearRouter => pick_of(topology.near_routers(), |at| topology.near_router(at), loads, rng),
        Shortcut::Open => {
            let suitable = suitable_servers(topology, criteria);
            pick(&in_latency_window(suitable, topology.local_threshold()), loads, rng)
        }
    };
    selected.ok_or_else(|| Refusal::NoServer(reasons(topology, criteria)))
}

/// Returns whether any server is suitable by the rules alone, without running the application's selector.
///
/// # Errors
/// Those of [`check`].
pub fn is_served(topology: &TopologyDescription, criteria: &Criteria) -> Result<bool, Error> {
    check(topology, criteria)?;
    Ok(match eligible::shortcut(topology, criteria) {
        Shortcut::Settled(server) => server.is_some(),
        Shortcut::NearRouter => topology.near_routers() > 0,
        Shortcut::Open => eligible::any_by_rules(topology, criteria),
    })
}

/// Checks for errors that no change of a server can resolve.
///
/// # Errors
/// [`ErrorKind::Incompatible`](crate::ErrorKind::Incompatible) if a server's wire versions are incompatible;
/// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for a read preference that contradicts itself, or a staleness
/// limit that is too small for a replica set; [`ErrorKind::ServerSelection`](crate::ErrorKind::ServerSelection) for a server
/// that does not belong to a deployment whose members are all known.
#[inline]
pub fn check(topology: &TopologyDescription, criteria: &Criteria) -> Result<(), Error> {
    if let Some(error) = topology.compatibility_error() {
        return Err(error.clone());
    }
    match &criteria.target {
        Target::Write | Target::AnyReadable => Ok(()),
        Target::Server(host) => reason::check_member(topology, host),
        Target::Read(preference) => {
            preference.validate()?;
            staleness::check_limit(topology, preference.max_staleness)
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests;
