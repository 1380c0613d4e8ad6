//! Which names stay in the cache: expiry and the least recently used names.
//!
//! Does not decide when DNS is asked (`cache`), nor which addresses of an answer are served (`known_answer`).

use std::time::Instant;

use super::{Cache, NameState};

impl Cache {
    /// Applies the time to live, and forgets what is kept no longer.
    pub(super) fn expire(&mut self, name: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        match &mut entry.state {
            NameState::Fresh(known) if known.valid_until <= now => {
                let known = known.take();
                entry.state = NameState::Stale { known, retry_at: now };
            }
            NameState::Querying { .. } | NameState::Fresh(_) | NameState::Stale { .. } | NameState::Failed { .. } => {}
        }
        let over = match &entry.state {
            NameState::Stale { known, .. } => known.kept_until <= now,
            NameState::Failed { until, .. } => *until <= now,
            NameState::Querying { .. } | NameState::Fresh(_) => false,
        };
        if over {
            self.forget(name);
        }
    }

    pub(super) fn touch(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            self.recency.remove(&entry.used);
            self.uses += 1;
            entry.used = self.uses;
            self.recency.insert(self.uses, name.to_owned());
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some(entry) = self.entries.remove(name) {
            self.recency.remove(&entry.used);
        }
    }

    /// Forgets the least recently used name; returns `false` if all names are being looked up.
    pub(super) fn evict(&mut self) -> bool {
        let Some(name) = self.recency.values().find(|name| !self.querying.contains(*name)).cloned() else { return false };
        self.forget(&name);
        true
    }
}
