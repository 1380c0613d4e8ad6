//! The difference of two topology descriptions.
//!
//! Does not decide the actions and events that follow (`machine`).

use std::sync::Arc;

use crate::description::ServerDescription;
use crate::description::TopologyDescription;
use crate::host::ServerAddress;

/// The difference of two descriptions.
pub(super) struct Change {
    /// The previous and new description of each changed server.
    pub(super) servers: Vec<(Arc<ServerDescription>, Arc<ServerDescription>)>,
    /// The added servers.
    pub(super) added: Vec<ServerAddress>,
    /// The removed servers.
    pub(super) removed: Vec<ServerAddress>,
}

impl Change {
    /// Compares two descriptions. The subject's change comes first, even if it led to the subject's removal.
    pub(super) fn between(previous: &TopologyDescription, new: &TopologyDescription, subject: Option<&Arc<ServerDescription>>) -> Self {
        let mut change = Self { servers: Vec::new(), added: Vec::new(), removed: Vec::new() };
        if let Some(subject) = subject
            && let Some(known) = previous.server(&subject.host)
        {
            let outcome = new.server(&subject.host).unwrap_or(subject);
            if !known.is_same_as(outcome) {
                change.servers.push((Arc::clone(known), Arc::clone(outcome)));
            }
        }
        for server in new.servers() {
            match previous.server(&server.host) {
                None => change.added.push(server.host.clone()),
                Some(known) if Arc::ptr_eq(known, server) || known.is_same_as(server) => {}
                Some(_) if subject.is_some_and(|subject| subject.host == server.host) => {}
                Some(known) => change.servers.push((Arc::clone(known), Arc::clone(server))),
            }
        }
        let gone = previous.servers().iter().filter(|server| new.server(&server.host).is_none());
        change.removed.extend(gone.map(|server| server.host.clone()));
        change
    }

    pub(super) fn is_some(&self) -> bool {
        !(self.servers.is_empty() && self.added.is_empty() && self.removed.is_empty())
    }
}
