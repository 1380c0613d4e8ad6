//! What does a user of the crate hold in hand?
//!
//! [`Client`], its [`Database`]s and the calls on them. A client does nothing until it is first used: then its servers
//! are found and watched by tasks of the runtime it is used on.

mod abandoned;
mod builder;
mod call;
mod cursor;
mod database;
mod decode;
mod ending;
mod exchange;
mod newest_cluster_time;
mod pin;
mod probe;
mod run;
mod running;
mod thread_cache;
mod watch;

use std::sync::Arc;
use std::time::Duration;

pub use builder::ClientBuilder;
pub use call::Reply;
pub use cursor::{Cursor, FromReply, TryNext};
pub use database::{CommandFuture, Database, IntoCommand, RunCommand, RunCursorCommand};
pub use probe::Probe;
pub use watch::{Events, TopologyWatch};

use crate::error::Result;
use crate::handshake::DriverInfo;
use crate::host::ServerAddress;
use crate::options::{ClientOptions, Warning};
use crate::pool::PoolStats;
use crate::topology::TopologyDescription;
use running::ClientCore;

/// Is a client of one deployment: finds its servers, keeps watch over them, and runs commands on them.
///
/// Cheap to clone; all clones share servers, pools and sessions. Making one does no I/O, starts no task and needs no
/// runtime. When the last clone is dropped, its tasks and connections end; [`shutdown`](Self::shutdown) does the same,
/// tells the servers, and waits.
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
    /// Makes a client from a connection string.
    ///
    /// # Errors
    /// [`InvalidUri`](crate::ErrorKind::InvalidUri), [`InvalidHost`](crate::ErrorKind::InvalidHost) or
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) if it can't be used, and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if it asks for something whose absence would weaken security.
    pub fn new(uri: impl AsRef<str>) -> Result<Self> {
        Self::builder(uri)?.build()
    }

    /// Starts a client from a connection string, to which every option can be added.
    ///
    /// # Errors
    /// Those of reading the connection string.
    pub fn builder(uri: impl AsRef<str>) -> Result<ClientBuilder> {
        ClientBuilder::new(uri.as_ref())
    }

    /// Creates a client from options, such as those of a [`ConnectionString`](crate::ConnectionString) that the caller has
    /// changed.
    ///
    /// # Errors
    /// Those of [`ClientBuilder::build`].
    pub fn with_options(options: ClientOptions) -> Result<Self> {
        ClientBuilder::from(options).build()
    }

    fn from_core(core: ClientCore) -> Self {
        Self { handle: Arc::new(Handle(Arc::new(core))) }
    }

    fn core(&self) -> &Arc<ClientCore> {
        &self.handle.0
    }

    /// Names a database; nothing is sent.
    pub fn database(&self, name: impl Into<Arc<str>>) -> Database {
        Database::new(self.clone(), name.into())
    }

    /// Names the database of the connection string, if it names one.
    pub fn default_database(&self) -> Option<Database> {
        let name = self.core().options().database.clone()?;
        Some(self.database(name))
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

    /// Tells servers of a library that wraps the client (mongodb-handshake, `appendMetadata`); new connections name it,
    /// those that are open don't.
    ///
    /// A library that is named already is not named twice.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a text with a `|`.
    pub fn append_metadata(&self, library: DriverInfo) -> Result<()> {
        self.core().append_metadata(library)
    }

    /// Returns what is known of the servers now: every one, its state, round-trip time and last error.
    ///
    /// Starts nothing; before the first use the description is empty.
    pub fn topology(&self) -> Arc<TopologyDescription> {
        self.core().description()
    }

    /// Watches what is known of the servers: a stream of descriptions, the newest first, each change replacing the last.
    ///
    /// # Errors
    /// Those of starting: the look-up of an SRV connection string, unreadable certificates.
    pub fn watch_topology(&self) -> impl Future<Output = Result<TopologyWatch>> + Send + use<> {
        let client = self.clone();
        async move {
            let driver = client.core().driver().await?;
            Ok(TopologyWatch::new(&driver))
        }
    }

    /// Returns a stream of the client's events from now on.
    ///
    /// A reader that is too slow is told how many events it missed ([`Event::Missed`](crate::Event::Missed)).
    pub fn events(&self) -> Events {
        Events::new(self.core().events())
    }

    /// Counts what the pools hold, by server.
    pub fn pool_stats(&self) -> Vec<(ServerAddress, PoolStats)> {
        self.core().pool_stats()
    }

    /// Returns how many tasks the client runs.
    pub fn task_count(&self) -> usize {
        self.core().task_count()
    }

    /// Finds the servers and opens a connection to the one that takes writes, so that the first command need not wait.
    ///
    /// # Errors
    /// Those of a command that could not be sent.
    pub fn warm_up(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let client = self.clone();
        async move { client.core().warm_up().await }
    }

    /// Opens one connection to a server beside the pools, through all stages, and says how each went.
    ///
    /// # Errors
    /// Those of starting. That the server can't be reached is part of the answer.
    pub fn probe(&self, host: &ServerAddress) -> impl Future<Output = Result<Probe>> + Send + use<> {
        let (client, host) = (self.clone(), host.clone());
        async move {
            let driver = client.core().driver().await?;
            Ok(probe::probe(&driver, &host).await)
        }
    }

    /// Ends the client: sessions are ended on the server, tasks and connections are gone when it returns.
    ///
    /// Calls that wait for a server or a connection, and later ones, are refused; a command that has been sent may still get
    /// its reply.
    pub fn shutdown(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shutdown_within(Duration::ZERO)
    }

    /// Ends the client gracefully: new calls are refused at once, calls under way get the grace to end, and then everything ends
    /// as with [`shutdown`](Self::shutdown).
    ///
    /// Open cursors may be read on during the grace, and are killed on the server when they are dropped. Returns as soon as no
    /// call is under way.
    pub fn shutdown_within(&self, grace: Duration) -> impl Future<Output = ()> + Send + use<> {
        let client = self.clone();
        async move { client.core().shutdown(grace).await }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("hosts", &self.options().hosts).field("srv", &self.options().srv).finish_non_exhaustive()
    }
}
