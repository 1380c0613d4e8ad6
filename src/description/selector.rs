//! The application's own server selector.
//!
//! The application-provided server selector of server-selection. Does not decide when it runs (`eligible`).

use std::fmt;
use std::sync::Arc;

use super::{ServerDescription, TopologyDescription};

/// A function of the application that chooses among the servers suitable for a call.
#[derive(Clone)]
pub struct ServerSelector(Arc<Keep>);

type Keep = dyn Fn(&TopologyDescription, &mut Vec<&Arc<ServerDescription>>) + Send + Sync;

impl ServerSelector {
    /// Creates a selector from a function that removes servers from the list.
    pub fn new(keep: impl Fn(&TopologyDescription, &mut Vec<&Arc<ServerDescription>>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(keep))
    }

    /// Removes the servers that the application excludes.
    pub(crate) fn filter<'a>(
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
