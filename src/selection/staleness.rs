//! How far behind is a secondary?
//!
//! The estimate of max-staleness, from what each server said of its last write and when it was heard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::topology::{ServerDescription, ServerType, TopologyDescription};

/// The smallest limit of staleness: "smallestMaxStalenessSeconds".
const MAX_STALENESS_MIN: Duration = Duration::from_secs(90);

/// How often an idle primary writes: "idleWritePeriodMS".
const IDLE_WRITE_PERIOD: Duration = Duration::from_secs(10);

/// Judges the staleness of servers against one limit.
pub(super) enum Staleness {
    /// There is no limit.
    Unlimited,
    /// Estimates by what the primary last wrote, and when that was heard.
    FromPrimary { limit_millis: i128, heartbeat_millis: i128, updated: Instant, written_millis: i64 },
    /// Estimates by what the most advanced secondary last wrote.
    FromSecondaries { limit_millis: i128, heartbeat_millis: i128, written_millis: i64 },
    /// No server has told when it last wrote.
    NotKnown,
}

/// Checks a limit of staleness, which has a minimum in replica sets only.
#[inline]
pub(super) fn check_limit(topology: &TopologyDescription, limit: Option<Duration>) -> Result<(), Error> {
    let Some(limit) = limit.filter(|_| topology.kind().is_replica_set()) else { return Ok(()) };
    let least = MAX_STALENESS_MIN.max(topology.heartbeat_frequency() + IDLE_WRITE_PERIOD);
    if limit >= least {
        return Ok(());
    }
    let text = format!("maxStalenessSeconds of {} is below the minimum: 90 s, and heartbeatFrequencyMS plus 10 s", limit.as_secs());
    Err(Error::new(ErrorKind::InvalidOption, text).at(Stage::Selection).against("minimum of maxStalenessSeconds", LimitValue::Time(least)))
}

impl Staleness {
    /// Finds what the servers of a topology are to be measured by.
    pub(super) fn of(topology: &TopologyDescription, limit: Option<Duration>) -> Self {
        let Some(limit) = limit else { return Self::Unlimited };
        let (limit_millis, heartbeat_millis) = (millis(limit), millis(topology.heartbeat_frequency()));
        let primary = topology.primary().and_then(|primary| primary.last_update.zip(primary.last_write_date_millis()));
        if let Some((updated, written_millis)) = primary {
            return Self::FromPrimary { limit_millis, heartbeat_millis, updated, written_millis };
        }
        let secondary = |server: &&Arc<ServerDescription>| server.kind == ServerType::RsSecondary;
        match topology.servers().iter().filter(secondary).filter_map(|server| server.last_write_date_millis()).max() {
            Some(written_millis) => Self::FromSecondaries { limit_millis, heartbeat_millis, written_millis },
            None => Self::NotKnown,
        }
    }

    /// Returns whether a server is within the limit; only secondaries can be behind.
    pub(super) fn admits(&self, server: &ServerDescription) -> bool {
        if server.kind != ServerType::RsSecondary {
            return true;
        }
        match (self, server.last_update.zip(server.last_write_date_millis())) {
            (Self::Unlimited, _) => true,
            (Self::NotKnown, _) | (_, None) => false,
            (Self::FromPrimary { limit_millis, heartbeat_millis, updated, written_millis }, Some((own_update, own_write))) => {
                let behind = span_millis(*updated, own_update) - (i128::from(own_write) - i128::from(*written_millis));
                behind + heartbeat_millis <= *limit_millis
            }
            (Self::FromSecondaries { limit_millis, heartbeat_millis, written_millis }, Some((_, own_write))) => {
                i128::from(*written_millis) - i128::from(own_write) + heartbeat_millis <= *limit_millis
            }
        }
    }
}

/// Returns how much later one moment is than another.
fn span_millis(earlier: Instant, later: Instant) -> i128 {
    millis(later.saturating_duration_since(earlier)) - millis(earlier.saturating_duration_since(later))
}

fn millis(span: Duration) -> i128 {
    i128::from(span.as_secs()) * 1000 + i128::from(span.subsec_millis())
}
