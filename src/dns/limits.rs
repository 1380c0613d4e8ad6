//! How long answers are used, and how many are kept.

use std::time::Duration;

/// Minimum time an answer is used: simultaneous dials share it even if its records have a time to live of 0.
pub(super) const TTL_MIN: Duration = Duration::from_secs(5);

/// Maximum time an answer is used: a server that moves is found within an hour.
pub(super) const TTL_MAX: Duration = Duration::from_secs(3600);

/// Time to live of answers that come without one: operating system, hosts file, own resolver. The system may cache as well.
pub(super) const UNTIMED_TTL: Duration = Duration::from_secs(30);

/// How long an expired answer is kept for the case that DNS is down (RFC 8767 suggests one to three days).
pub(super) const STALE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// How long a caller waits for a newer answer before it gets the last good one (RFC 8767, client response timer).
pub(super) const STALE_ANSWER_DELAY: Duration = Duration::from_millis(1800);

/// How long the last good answer is served after DNS failed, before DNS is queried again.
pub(super) const STALE_RETRY: Duration = Duration::from_secs(5);

/// How long "no such name" and "no addresses" are believed: names of containers appear at any moment.
pub(super) const NOT_THERE_TTL: Duration = Duration::from_secs(5);

/// How long a failed query is not repeated.
pub(super) const DOWN_TTL: Duration = Duration::from_secs(1);

/// Maximum number of names kept; the least recently used one is forgotten first.
pub(super) const NAMES_MAX: usize = 1024;

/// Maximum number of callers waiting at once.
pub(super) const WAITERS_MAX: usize = 65_536;

/// Longer budgets are cut to a year, so that no sum of times overflows.
pub(super) const BUDGET_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
