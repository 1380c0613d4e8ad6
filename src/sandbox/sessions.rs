//! Which sessions are open?
//!
//! One for each `lsid` that a command has named, until endSessions names it, which closes its cursors too; all members know the same. None expires.

use std::collections::BTreeSet;

use super::OPEN_SESSIONS_MAX;
use super::call::{ReceivedCommand, binary};

/// The open sessions of a deployment.
#[derive(Default)]
pub(super) struct Sessions(BTreeSet<Vec<u8>>);

impl Sessions {
    /// Notes the session of a command.
    pub(super) fn note(&mut self, call: &ReceivedCommand) {
        if let Some(session) = call.session()
            && self.0.len() < OPEN_SESSIONS_MAX
            && !self.0.contains(session)
        {
            self.0.insert(session.to_vec());
        }
    }

    /// Ends the sessions that an endSessions command names, and returns their numbers.
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
