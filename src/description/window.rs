//! The latency window: the upper limit of the round-trip times of selected servers.
//!
//! The window of server-selection, "Selecting servers within the latency window". Does not decide which of the servers within it is
//! selected (`selection`).

use std::sync::Arc;
use std::time::Duration;

use super::ServerDescription;

/// The upper limit of round-trip times.
#[derive(Clone, Copy)]
pub(crate) struct Window(Option<Duration>);

impl Window {
    pub(crate) fn of<'a>(servers: impl Iterator<Item = &'a Arc<ServerDescription>>, threshold: Duration) -> Self {
        Self(servers.filter_map(|server| server.round_trip_time).min().map(|nearest| nearest.saturating_add(threshold)))
    }

    pub(crate) fn admits(self, server: &ServerDescription) -> bool {
        match (self.0, server.round_trip_time) {
            (Some(limit), Some(average)) => average <= limit,
            (Some(_) | None, _) => true,
        }
    }
}
