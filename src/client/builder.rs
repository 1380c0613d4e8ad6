//! The builder of a client: a connection string, then options in code.
//!
//! Does not decide which options contradict each other (`uri::validate`).

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::config::{ClientConfig, NonUriOptions};
use super::handle::Client;
use super::running::ClientCore;
use crate::auth::{Mechanism, Secret};
use crate::error::Result;
use crate::handshake::{DriverInfo, DriverInfos};
use crate::host::{Address, ServerAddress};
use crate::io::clock::BootClock;
use crate::io::resolver::{DnsConfig, Resolve};
use crate::options::{ClientOptions, ServerMonitoringMode, Warning};
use crate::selection::{ReadPreference, ServerSelector};
use crate::topology::{ServerDescription, TopologyDescription};
use crate::uri::{self, ConnectionString};

/// Configures a client: a connection string first, then options in code, which win.
///
/// ```
/// use std::time::Duration;
/// use mongolink::Client;
///
/// let client = Client::builder("mongodb://localhost")?
///     .app_name("example")
///     .connect_timeout(Duration::from_secs(3))
///     .build()?;
/// # Ok::<(), mongolink::Error>(())
/// ```
pub struct ClientBuilder {
    options: ClientOptions,
    warnings: Vec<Warning>,
    non_uri_options: NonUriOptions,
    libraries: Vec<DriverInfo>,
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $kind:ty;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, value: impl Into<$kind>) -> Self {
                self.options.$name = Some(value.into());
                self
            }
        )*
    };
}

impl From<ClientOptions> for ClientBuilder {
    fn from(options: ClientOptions) -> Self {
        Self { options, warnings: Vec::new(), non_uri_options: NonUriOptions::default(), libraries: Vec::new() }
    }
}

impl From<ConnectionString> for ClientBuilder {
    /// Keeps the warnings of the connection string: they become those of the client.
    fn from(given: ConnectionString) -> Self {
        Self { warnings: given.warnings, ..Self::from(given.options) }
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("options", &self.options)
            .field("warnings", &self.warnings)
            .field("libraries", &self.libraries)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    fn new(text: &str) -> Result<Self> {
        ConnectionString::parse(text).map(Self::from)
    }

    options! {
        /// Sets `srvServiceName`.
        srv_service_name: String;
        /// Sets `srvMaxHosts`.
        srv_max_hosts: u32;
        /// Sets the default database.
        database: String;
        /// Sets the user name.
        username: String;
        /// Sets the password.
        password: Secret;
        /// Sets `authSource`.
        auth_source: String;
        /// Sets `authMechanism`.
        auth_mechanism: Mechanism;
        /// Sets `appName`.
        app_name: String;
        /// Sets `connectTimeoutMS`; zero for no limit.
        connect_timeout: Duration;
        /// Sets `socketTimeoutMS`; zero for no limit.
        socket_timeout: Duration;
        /// Sets `serverSelectionTimeoutMS`.
        server_selection_timeout: Duration;
        /// Sets `timeoutMS`; zero for no limit.
        timeout: Duration;
        /// Sets the limit of a look-up.
        dns_timeout: Duration;
        /// Sets `heartbeatFrequencyMS`.
        heartbeat_frequency: Duration;
        /// Sets `localThresholdMS`.
        local_threshold: Duration;
        /// Sets `serverMonitoringMode`.
        server_monitoring_mode: ServerMonitoringMode;
        /// Sets whether a server that seems unresponsive is sent a liveness probe on a separate connection; default true.
        ///
        /// Liveness probes end the commands on a stopped primary soon after another one is elected. Without them they end when
        /// the server's check fails, after `heartbeatFrequencyMS` and `connectTimeoutMS`.
        liveness_probes: bool;
        /// Sets `directConnection`.
        direct_connection: bool;
        /// Sets `loadBalanced`.
        load_balanced: bool;
        /// Sets `replicaSet`.
        replica_set: String;
        /// Sets `maxPoolSize`; zero for no limit.
        max_pool_size: u32;
        /// Sets `minPoolSize`.
        min_pool_size: u32;
        /// Sets `maxConnecting`.
        max_connecting: u32;
        /// Sets `maxIdleTimeMS`; zero for no limit.
        max_idle_time: Duration;
        /// Sets `waitQueueTimeoutMS`; zero for no limit.
        wait_queue_timeout: Duration;
        /// Sets how long to wait for the late reply of an abandoned command before its connection is closed. A full pool in
        /// which callers wait closes it sooner, after four average round trips and at least 50 ms.
        drain_limit: Duration;
        /// Sets the default read preference, which generic commands don't inherit.
        read_preference: ReadPreference;
        /// Sets `tls`.
        tls: bool;
        /// Sets `tlsCAFile`.
        tls_ca_file: std::path::PathBuf;
        /// Sets `tlsCertificateKeyFile`.
        tls_certificate_key_file: std::path::PathBuf;
        /// Sets `tlsCertificateKeyFilePassword`.
        tls_certificate_key_file_password: Secret;
        /// Sets `tlsInsecure`.
        tls_insecure: bool;
        /// Sets `tlsAllowInvalidCertificates`.
        tls_allow_invalid_certificates: bool;
        /// Sets `tlsAllowInvalidHostnames`.
        tls_allow_invalid_hostnames: bool;
    }

    /// Changes any option, also those without a method of their own.
    #[must_use]
    pub fn options(mut self, change: impl FnOnce(&mut ClientOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// Fixes the address of a host: it is not resolved, TLS still verifies the name.
    #[must_use]
    pub fn resolve(mut self, host: ServerAddress, address: Address) -> Self {
        self.options.resolve.push((host, address));
        self
    }

    /// Sets a custom server selector: it chooses among the servers suitable for a call, and the nearest of the chosen ones are
    /// used (server-selection, "Filter suitable servers by calling the server selector").
    ///
    /// It runs for every call except those bound to one server, and not behind a load balancer. It is called often and has to
    /// be fast. It runs in the calls themselves, without a lock of the client held. A call for which it excludes every server
    /// runs it again when the description of the servers has changed.
    ///
    /// ```
    /// # fn example() -> mongolink::Result<()> {
    /// let client = mongolink::Client::builder("mongodb://localhost")?
    ///     .server_selector(|_, servers| servers.retain(|server| server.host.port() != 27018))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn server_selector(
        mut self,
        keep: impl Fn(&TopologyDescription, &mut Vec<&Arc<ServerDescription>>) + Send + Sync + 'static,
    ) -> Self {
        self.non_uri_options.server_selector = Some(ServerSelector::new(keep));
        self
    }

    /// Adds a library that wraps the client to the metadata that servers receive; [`append_metadata`](Client::append_metadata)
    /// adds further ones.
    #[must_use]
    pub fn driver_info(mut self, library: DriverInfo) -> Self {
        self.libraries.push(library);
        self
    }

    /// Sets the DNS servers; default the system's.
    #[must_use]
    pub fn dns(mut self, config: DnsConfig) -> Self {
        self.non_uri_options.dns = config;
        self
    }

    /// Sets a custom resolver for addresses, instead of DNS and the operating system.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.non_uri_options.resolve = Some(Arc::new(resolver));
        self
    }

    /// Sets a custom boot clock, by which suspensions of the machine are noticed.
    #[must_use]
    pub fn boot_clock(mut self, clock: impl BootClock) -> Self {
        self.non_uri_options.boot_clock = Arc::new(clock);
        self
    }

    /// Sets how many characters of a document are logged, `usize::MAX` for all; three dots stand for the rest.
    ///
    /// Without this, the environment variable `MONGODB_LOG_MAX_DOCUMENT_LENGTH` says so, a number or `unlimited`; without
    /// that, it is 1000.
    #[must_use]
    pub fn log_document_chars_max(mut self, chars: usize) -> Self {
        self.options.log_document_chars_max = Some(chars);
        self
    }

    /// Sets the shortest time between two look-ups of a `mongodb+srv` name; the specification's 60 s by default, at least 10 ms.
    ///
    /// The routers of a sharded cluster follow the name's SRV records, which are asked for again when their time to live is
    /// over, but not sooner than this. While the answer is of no use, they are asked for every `heartbeatFrequencyMS`.
    #[must_use]
    pub fn srv_rescan_floor(mut self, floor: Duration) -> Self {
        self.non_uri_options.srv_rescan_floor = floor;
        self
    }

    /// Creates the client: checks all options together, and does nothing else.
    ///
    /// # Errors
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) if options contradict each other,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for one whose absence would weaken security, and
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for an invalid library.
    pub fn build(mut self) -> Result<Client> {
        uri::validate(&self.options)?;
        self.options.credential()?;
        self.warnings.extend(uri::option_warnings(&self.options)?);
        for warning in &self.warnings {
            tracing::warn!(%warning, "connection string or options");
        }
        let mut libraries = DriverInfos::default();
        for library in self.libraries {
            libraries.append(library)?;
        }
        let config = ClientConfig {
            options: Arc::new(self.options),
            warnings: self.warnings,
            non_uri: self.non_uri_options,
            libraries: Arc::new(Mutex::new(libraries)),
        };
        Ok(Client::from_core(ClientCore::new(config)))
    }
}

impl Client {
    /// Creates a client from a connection string.
    ///
    /// # Errors
    /// [`InvalidUri`](crate::ErrorKind::InvalidUri), [`InvalidHost`](crate::ErrorKind::InvalidHost) or
    /// [`InvalidOption`](crate::ErrorKind::InvalidOption) if it is unusable, and [`Unsupported`](crate::ErrorKind::Unsupported)
    /// if it requires a feature whose absence would weaken security.
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
}
