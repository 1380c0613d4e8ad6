//! Which server does a command go to?
//!
//! The rules of server-selection and max-staleness, as functions of a description and what the caller asks for. Who
//! waits if none suits is decided in `topology`. The steps are `eligible` (type, staleness, tags, the application's own
//! `selector`), then `window` (latency, two random picks, fewer operations).
//!
//! A write, a read from the primary and a command for any router allocate nothing, and cost the same however many servers
//! there are.

mod criteria;
mod eligible;
mod read_preference;
mod reason;
mod selector;
mod staleness;
mod window;

use std::sync::Arc;

use rand::rngs::SmallRng;

pub use criteria::{Criteria, Target, read_preference_to_send};
pub use eligible::suitable_servers;
pub use read_preference::{ReadPreference, ReadPreferenceMode, TagSet};
pub use reason::{reasons, reasons_without_selector};
pub use selector::ServerSelector;
pub use window::{in_latency_window, pick};

use crate::error::{Error, ServerReason};
use crate::host::ServerAddress;
use crate::topology::{ServerDescription, TopologyDescription};
use eligible::Shortcut;
pub(crate) use window::Window;
use window::pick_of;

/// Says why a selection gave no server.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// No server suits, now: for each server the reason. Waiting may help.
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "models and the simulation read the reasons"))]
    NoServer(Vec<ServerReason>),
    /// What is asked for contradicts itself, or a server's wire versions don't fit. Waiting does not help.
    Invalid(Error),
}

/// Selects a server; `loads` tells how many operations a server has in hand.
///
/// # Errors
/// [`Refusal::NoServer`] with a reason for every server, or [`Refusal::Invalid`] if none could ever suit.
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

/// Returns whether any server suits by the rules alone: the application's selector is not run.
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

/// Checks what no change of a server can mend.
///
/// # Errors
/// [`ErrorKind::Incompatible`](crate::ErrorKind::Incompatible) if a server's wire versions don't fit;
/// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for a read preference that contradicts itself, or a
/// limit of staleness that is too small for a replica set;
/// [`ErrorKind::ServerSelection`](crate::ErrorKind::ServerSelection) for one server that does not belong to a deployment whose
/// members are all known.
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
