//! Which sessions are open?
//!
//! One for each `lsid` that a command has named, until endSessions names it; all members know the same. None expires.

use std::collections::BTreeSet;

use super::OPEN_SESSIONS_MAX;
use super::call::{Call, binary};

/// The open sessions of a deployment.
#[derive(Default)]
pub(super) struct Sessions(BTreeSet<Vec<u8>>);

impl Sessions {
    /// Notes the session of a command, and those that the command ends.
    pub(super) fn note(&mut self, call: &Call) {
        if let Some(session) = call.session()
            && self.0.len() < OPEN_SESSIONS_MAX
            && !self.0.contains(session)
        {
            self.0.insert(session.to_vec());
        }
        if call.name == "endSessions"
            && let Ok(ended) = call.body.get_array("endSessions")
        {
            for id in ended.iter().filter_map(|session| session.as_document()?.get("id").and_then(binary)) {
                self.0.remove(id);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
