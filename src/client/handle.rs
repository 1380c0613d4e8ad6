//! The client handle: the shared core, and what it tells of itself.
//!
//! Does not decide how a client is configured (`builder`), used (`database`), watched (`watch`) or ended (`ending`).

use std::sync::Arc;

use super::running::ClientCore;
use crate::error::Result;
use crate::handshake::DriverInfo;
use crate::host::ServerAddress;
use crate::options::{ClientOptions, Warning};
use crate::pool::PoolStats;
use crate::topology::TopologyDescription;

/// A client of one MongoDB deployment. Discovers and monitors its servers, pools connections and runs operations.
///
/// Cheap to clone; all clones share servers, pools and sessions. Creating one performs no I/O, starts no task and needs no
/// runtime. When the last clone is dropped, its tasks and connections end; [`shutdown`](Self::shutdown) does the same, ends the
/// sessions on the servers, and waits.
///
/// ```no_run
/// # async fn example() -> mongolink::Result<()> {
/// use mongolink::{Client, bson::doc};
///
/// let client = Client::new("mongodb://localhost:27017")?;
/// let reply = client.database("admin").run_command(doc! { "ping": 1 }).await?;
/// assert_eq!(reply.get_f64("ok").ok(), Some(1.0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// Ends the tasks when the last client is dropped.
struct Handle(Arc<ClientCore>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    pub(super) fn from_core(core: ClientCore) -> Self {
        Self { handle: Arc::new(Handle(Arc::new(core))) }
    }

    #[inline]
    pub(super) fn core(&self) -> &Arc<ClientCore> {
        &self.handle.0
    }

    /// Returns the options as they were given.
    pub fn options(&self) -> &ClientOptions {
        self.core().options()
    }

    /// Returns the options that have no effect, and those that make connections less secure, such as `tlsInsecure` or a login
    /// without TLS at a host that is not on this machine. They are logged once, when the client is made.
    ///
    /// Servers that become known later, from SRV records or from other servers, are not judged.
    pub fn warnings(&self) -> &[Warning] {
        self.core().warnings()
    }

    /// Adds a library that wraps the client to the metadata that servers receive (mongodb-handshake, `appendMetadata`); new
    /// connections send it, open ones don't.
    ///
    /// A library that is present is not added again.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a text with a `|`.
    pub fn append_metadata(&self, library: DriverInfo) -> Result<()> {
        self.core().append_metadata(library)
    }

    /// Returns the current description of the servers: the state, round-trip time and last error of each.
    ///
    /// Starts nothing; before the first use the description is empty.
    pub fn topology(&self) -> Arc<TopologyDescription> {
        self.core().description()
    }

    /// Returns the statistics of the pools, by server.
    pub fn pool_stats(&self) -> Vec<(ServerAddress, PoolStats)> {
        self.core().pool_stats()
    }

    /// Returns the number of the client's tasks.
    pub fn task_count(&self) -> usize {
        self.core().task_count()
    }

    /// Discovers the servers and opens a connection to one that accepts writes, so that the first command need not wait.
    ///
    /// # Errors
    /// Those of a command that could not be sent.
    pub fn warm_up(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let client = self.clone();
        async move { client.core().warm_up().await }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("hosts", &self.options().hosts).field("srv", &self.options().srv).finish_non_exhaustive()
    }
}
