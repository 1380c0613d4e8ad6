//! How long is what is known of a name believed, and how much of it is kept?

use std::time::Duration;

/// The shortest time an answer is used: many dials of one moment share it, even if its records say 0.
pub(super) const TTL_MIN: Duration = Duration::from_secs(5);

/// The longest time an answer is used: whoever moves a server should not have to wait for a whole day.
pub(super) const TTL_MAX: Duration = Duration::from_secs(3600);

/// How long an answer without a lifetime is used (operating system, hosts file, own resolver).
pub(super) const UNTIMED_TTL: Duration = Duration::from_secs(30);

/// How long an answer is kept after its time for the case that DNS is down (RFC 8767 suggests one to three days).
pub(super) const STALE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// How long a caller waits for a newer answer before it gets the last good one (RFC 8767, client response timer).
pub(super) const STALE_ANSWER_DELAY: Duration = Duration::from_millis(1800);

/// How long the last good answer is served after DNS failed, before DNS is asked again.
pub(super) const STALE_RETRY: Duration = Duration::from_secs(5);

/// How long it is believed that a name does not exist, or has no addresses: names of containers appear at any moment.
pub(super) const NOT_THERE_TTL: Duration = Duration::from_secs(5);

/// How long it is believed that DNS is down.
pub(super) const DOWN_TTL: Duration = Duration::from_secs(1);

/// How many names are kept; the one asked for longest ago is forgotten first.
pub(super) const NAMES_MAX: usize = 1024;

/// How many callers may wait at once.
pub(super) const WAITERS_MAX: usize = 65_536;

/// Longer budgets are cut to this, so that no sum of times overflows: a year.
pub(super) const BUDGET_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
