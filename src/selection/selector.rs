//! What does the application say to a choice of servers?
//!
//! The application-provided server selector of server-selection. When it is asked is decided in `eligible`.

use std::fmt;
use std::sync::Arc;

use crate::topology::{ServerDescription, TopologyDescription};

/// Keeps, of the servers that suit a call, those that the application wants to have it.
#[derive(Clone)]
pub struct ServerSelector(Arc<Keep>);

type Keep = dyn Fn(&TopologyDescription, &mut Vec<&Arc<ServerDescription>>) + Send + Sync;

impl ServerSelector {
    /// Makes a selector of a function that takes servers out.
    pub fn new(keep: impl Fn(&TopologyDescription, &mut Vec<&Arc<ServerDescription>>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(keep))
    }

    /// Takes out the servers that the application does not want.
    pub(super) fn filter<'a>(
        &self,
        topology: &TopologyDescription,
        mut servers: Vec<&'a Arc<ServerDescription>>,
    ) -> Vec<&'a Arc<ServerDescription>> {
        if !servers.is_empty() {
            (self.0)(topology, &mut servers);
        }
        servers
    }
}

impl fmt::Debug for ServerSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSelector")
    }
}
