//! Has anything newer come for a name since somebody last looked?
//!
//! For those who go by an answer for a while, and are to know if it is overtaken. When DNS is asked, and who waits for its
//! answer, is decided in `cache`.

use std::time::Instant;

use super::{Cache, LookupAnswer, NameState, QueryStatus};

impl Cache {
    /// Tells whether a name is being asked for, and has no earlier answer.
    pub fn awaits_first(&self, name: &str) -> bool {
        matches!(self.entries.get(name).map(|entry| &entry.state), Some(NameState::Asking { last: None, .. }))
    }

    /// Counts how many times addresses have arrived, for any name.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// Returns a name's addresses if some arrived after the arrival `than`, with the number of the last one; 0 comes before
    /// all. Nothing that is past its time is among them: none are returned if all are.
    pub fn newer(&self, name: &str, than: u64, now: Instant) -> Option<(u64, LookupAnswer)> {
        let entry = self.entries.get(name).filter(|entry| entry.arrived > than)?;
        let answer = match &entry.state {
            NameState::Asking { flight, last } => flight.so_far(last.as_ref().filter(|good| now < good.valid_until), now)?,
            NameState::Fresh(good) | NameState::Stale { good, .. } if now < good.valid_until => good.answer(now),
            NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. } => return None,
        };
        Some((entry.arrived, answer))
    }

    /// Returns by when the question for a name that is under way is to be answered.
    pub fn deadline(&self, name: &str) -> Option<Instant> {
        if let NameState::Asking { flight, .. } = &self.entries.get(name)?.state { Some(flight.deadline) } else { None }
    }

    /// Returns what is made of a name's question that is given up, if one family has answered: that is worth more than an answer
    /// that is past its time, and less than one that is not.
    pub(super) fn half(&self, name: &str, now: Instant) -> Option<QueryStatus> {
        match &self.entries.get(name)?.state {
            NameState::Asking { flight, last } if last.as_ref().is_none_or(|good| good.answer(now).stale) => flight.half(),
            NameState::Asking { .. } | NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. } => None,
        }
    }

    /// Notes that addresses have arrived.
    pub(super) fn arrive(&mut self, name: &str) {
        self.arrivals += 1;
        if let Some(entry) = self.entries.get_mut(name) {
            entry.arrived = self.arrivals;
        }
    }
}
