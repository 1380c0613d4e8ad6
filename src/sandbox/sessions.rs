//! The open sessions: one for each `lsid` in a command, until endSessions ends it.
//!
//! Ending a session closes its cursors, too. All members share the sessions; none expires.

use std::collections::BTreeSet;

use super::OPEN_SESSIONS_MAX;
use super::call::{ReceivedCommand, binary};

/// The open sessions of a deployment.
#[derive(Default)]
pub(super) struct Sessions(BTreeSet<Vec<u8>>);

impl Sessions {
    /// Records the session of a command.
    pub(super) fn note(&mut self, call: &ReceivedCommand) {
        if let Some(session) = call.session()
            && self.0.len() < OPEN_SESSIONS_MAX
            && !self.0.contains(session)
        {
            self.0.insert(session.to_vec());
        }
    }

    /// Ends the sessions of an endSessions command, and returns their ids.
    pub(super) fn end<'a>(&mut self, call: &'a ReceivedCommand) -> Vec<&'a [u8]> {
        let Ok(named) = call.body.get_array("endSessions") else { return Vec::new() };
        let ended: Vec<_> = named.iter().filter_map(|session| session.as_document()?.get("id").and_then(binary)).collect();
        for id in &ended {
            self.0.remove(*id);
        }
        ended
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
