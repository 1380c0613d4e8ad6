//! The configuration of a client: its options, and what a connection string can't say.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::description::ServerSelector;
use crate::dns::RESCAN_FLOOR;
use crate::handshake::DriverInfos;
use crate::io::clock::{BootClock, SystemBootClock};
use crate::io::resolver::{DnsConfig, Resolve};
use crate::operation::RetryPolicy;
use crate::options::{ClientOptions, Warning};

/// The configuration that all clones of a client share.
pub(super) struct ClientConfig {
    pub(super) options: Arc<ClientOptions>,
    pub(super) warnings: Vec<Warning>,
    pub(super) non_uri: NonUriOptions,
    /// The libraries that new connections name.
    pub(super) libraries: Arc<Mutex<DriverInfos>>,
}

/// The options that have no place in a connection string.
pub(super) struct NonUriOptions {
    pub(super) dns: DnsConfig,
    pub(super) resolve: Option<Arc<dyn Resolve>>,
    pub(super) boot_clock: Arc<dyn BootClock>,
    pub(super) srv_rescan_floor: Duration,
    pub(super) server_selector: Option<ServerSelector>,
    /// Which failed attempts are repeated.
    pub(super) retry: RetryPolicy,
}

impl Default for NonUriOptions {
    fn default() -> Self {
        Self {
            dns: DnsConfig::System,
            resolve: None,
            boot_clock: Arc::new(SystemBootClock::new()),
            srv_rescan_floor: RESCAN_FLOOR,
            server_selector: None,
            retry: RetryPolicy::NEVER,
        }
    }
}
