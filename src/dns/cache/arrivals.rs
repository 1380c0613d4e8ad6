//! Arrivals of addresses: whether an answer in use has been overtaken by a newer one.
//!
//! Does not decide when DNS is queried, nor which waiters are answered (`cache`).

use std::time::Instant;

use super::{Cache, LookupAnswer, NameState, QueryStatus};

impl Cache {
    /// Returns whether a query for the name is running and there is no earlier answer.
    pub fn awaits_first(&self, name: &str) -> bool {
        matches!(self.entries.get(name).map(|entry| &entry.state), Some(NameState::Querying { last: None, .. }))
    }

    /// Returns a name's addresses if some arrived after the arrival `than`, and the number of the last arrival; 0 is before
    /// the first. Expired addresses are not returned.
    pub fn newer(&self, name: &str, than: u64, now: Instant) -> Option<(u64, LookupAnswer)> {
        let entry = self.entries.get(name).filter(|entry| entry.arrived > than)?;
        let answer = match &entry.state {
            NameState::Querying { query, last } => query.so_far(last.as_ref().filter(|known| now < known.valid_until), now)?,
            NameState::Fresh(known) | NameState::Stale { known, .. } if now < known.valid_until => known.answer(now),
            NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. } => return None,
        };
        Some((entry.arrived, answer))
    }

    /// Returns the deadline of a name's running query.
    pub fn deadline(&self, name: &str) -> Option<Instant> {
        if let NameState::Querying { query, .. } = &self.entries.get(name)?.state { Some(query.deadline) } else { None }
    }

    /// Returns the outcome of a query that is given up after one family has answered. It replaces a stale answer, but not a
    /// fresh one.
    pub(super) fn partial(&self, name: &str, now: Instant) -> Option<QueryStatus> {
        match &self.entries.get(name)?.state {
            NameState::Querying { query, last } if last.as_ref().is_none_or(|known| known.answer(now).stale) => query.partial(),
            NameState::Querying { .. } | NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. } => None,
        }
    }

    /// Records that addresses have arrived.
    pub(super) fn record_arrival(&mut self, name: &str) {
        self.arrivals += 1;
        if let Some(entry) = self.entries.get_mut(name) {
            entry.arrived = self.arrivals;
        }
    }
}
