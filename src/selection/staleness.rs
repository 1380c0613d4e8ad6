//! The staleness of secondaries.
//!
//! The estimate of max-staleness, from each server's last write date and the time of its last update.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::description::{ServerDescription, ServerType, TopologyDescription};
use crate::error::{Error, ErrorKind, LimitValue, Stage};

/// The smallest staleness limit: "smallestMaxStalenessSeconds".
const MAX_STALENESS_MIN: Duration = Duration::from_secs(90);

/// The interval between writes of an idle primary: "idleWritePeriodMS".
const IDLE_WRITE_PERIOD: Duration = Duration::from_secs(10);

/// The estimate of staleness against one limit.
pub(super) enum Staleness {
    /// There is no limit.
    Unlimited,
    /// Estimates by the primary's last write date, and when it was received.
    FromPrimary { limit_millis: i128, heartbeat_millis: i128, updated: Instant, written_millis: i64 },
    /// Estimates by the last write date of the most advanced secondary.
    FromSecondaries { limit_millis: i128, heartbeat_millis: i128, written_millis: i64 },
    /// No server has reported a last write date.
    NotKnown,
}

/// Checks a staleness limit, which has a minimum in replica sets only.
#[inline]
pub(super) fn check_limit(topology: &TopologyDescription, limit: Option<Duration>) -> Result<(), Error> {
    let Some(limit) = limit.filter(|_| topology.kind().is_replica_set()) else { return Ok(()) };
    let least = MAX_STALENESS_MIN.max(topology.heartbeat_frequency() + IDLE_WRITE_PERIOD);
    if limit >= least {
        return Ok(());
    }
    let text =
        format!("maxStalenessSeconds of {} is below the minimum, the larger of 90 s and heartbeatFrequencyMS plus 10 s", limit.as_secs());
    Err(Error::new(ErrorKind::InvalidOption, text).at(Stage::Selection).against("minimum of maxStalenessSeconds", LimitValue::Time(least)))
}

impl Staleness {
    /// Returns the estimate for the servers of a topology.
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

    /// Returns whether a server is within the limit; only secondaries can be stale.
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

/// Returns the milliseconds from one instant to a later one.
fn span_millis(earlier: Instant, later: Instant) -> i128 {
    millis(later.saturating_duration_since(earlier)) - millis(earlier.saturating_duration_since(later))
}

fn millis(span: Duration) -> i128 {
    i128::from(span.as_secs()) * 1000 + i128::from(span.subsec_millis())
}
