//! Which of several suitable servers is taken?
//!
//! The latency window, and within it the less loaded of two random picks (server-selection, "Selecting servers within
//! the latency window").

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::host::HostKey;
use crate::topology::ServerDescription;

/// Keeps the servers whose round-trip time is at most that of the nearest plus the threshold.
///
/// A server whose round-trip time has not been measured is kept: nothing speaks against it.
pub fn in_latency_window(mut servers: Vec<&Arc<ServerDescription>>, threshold: Duration) -> Vec<&Arc<ServerDescription>> {
    if let Some(nearest) = servers.iter().filter_map(|server| server.round_trip_time).min() {
        let limit = nearest.saturating_add(threshold);
        servers.retain(|server| server.round_trip_time.is_none_or(|average| average <= limit));
    }
    servers
}

/// Picks two at random, and takes the one with fewer operations in hand.
pub fn pick<'a>(
    servers: &[&'a Arc<ServerDescription>],
    loads: &dyn Fn(&HostKey) -> u32,
    rng: &mut SmallRng,
) -> Option<&'a Arc<ServerDescription>> {
    if servers.len() < 2 {
        return servers.first().copied();
    }
    let first = rng.random_range(0..servers.len());
    let other = rng.random_range(0..servers.len() - 1);
    let second = if other < first { other } else { other + 1 };
    let (first, second) = (*servers.get(first)?, *servers.get(second)?);
    Some(if loads(&second.host) < loads(&first.host) { second } else { first })
}
