//! The choice among suitable servers.
//!
//! The latency window, and within it the less loaded of two random picks (server-selection, "Selecting servers within the
//! latency window").

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::description::{ServerDescription, Window};
use crate::host::ServerAddress;

/// Keeps the servers whose round-trip time is at most that of the nearest plus the threshold.
///
/// A server whose round-trip time has not been measured is kept.
pub fn in_latency_window(mut servers: Vec<&Arc<ServerDescription>>, threshold: Duration) -> Vec<&Arc<ServerDescription>> {
    let window = Window::of(servers.iter().copied(), threshold);
    servers.retain(|server| window.admits(server));
    servers
}

/// Picks two servers at random, and returns the one with fewer operations in progress.
pub fn pick<'a>(
    servers: &[&'a Arc<ServerDescription>],
    loads: &dyn Fn(&ServerAddress) -> u32,
    rng: &mut SmallRng,
) -> Option<&'a Arc<ServerDescription>> {
    pick_of(servers.len(), |at| servers.get(at).copied(), loads, rng)
}

/// Does what [`pick`] does, with servers that are given by index.
pub(super) fn pick_of<'a>(
    count: usize,
    server: impl Fn(usize) -> Option<&'a Arc<ServerDescription>>,
    loads: &dyn Fn(&ServerAddress) -> u32,
    rng: &mut SmallRng,
) -> Option<&'a Arc<ServerDescription>> {
    if count < 2 {
        return server(0);
    }
    let first = rng.random_range(0..count);
    let other = rng.random_range(0..count - 1);
    let second = if other < first { other } else { other + 1 };
    Some(less_loaded(server(first)?, server(second)?, loads))
}

fn less_loaded<'a>(
    first: &'a Arc<ServerDescription>,
    second: &'a Arc<ServerDescription>,
    loads: &dyn Fn(&ServerAddress) -> u32,
) -> &'a Arc<ServerDescription> {
    if loads(&second.host) < loads(&first.host) { second } else { first }
}
