//! The client's settings and their defaults.
//!
//! [`ClientOptions`] holds the given values, `None` for values that were not given, so that TXT records, the connection string
//! and code can be merged. The methods below the fields return the effective values: every default is in this file. Does not
//! decide how a connection string is parsed, nor which options contradict each other (`uri`).

mod concern;
mod credential;
mod read_preference;
mod secret;

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::host::{Address, ServerAddress};

pub use concern::{ReadConcern, W, WriteConcern};
pub use credential::{Credential, Mechanism};
pub use read_preference::{ReadPreference, ReadPreferenceMode, TagSet};
pub use secret::{Secret, SecretDocument};

/// The settings of a client; `None` for the default.
///
/// Fields have the names of the URI options in the specifications (uri-options, connection-string). Durations are
/// [`Duration`]s; where the specification says that 0 means "no limit", a zero duration does, too.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The seeds. Empty with `srv` until the SRV look-up is complete.
    pub hosts: Vec<ServerAddress>,
    /// The name of a `mongodb+srv` connection string: normalised, without port.
    pub srv: Option<String>,
    /// The service name of the SRV look-up, `srvServiceName`; default `mongodb`.
    pub srv_service_name: Option<String>,
    /// The maximum number of hosts used from the SRV answer, `srvMaxHosts`; 0, the default, for all.
    pub srv_max_hosts: Option<u32>,
    /// The database that the connection string names.
    pub database: Option<String>,

    /// The user name; `Some("")` if the string has an `@` with nothing before it.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// `authSource`.
    pub auth_source: Option<String>,
    /// `authMechanism`.
    pub auth_mechanism: Option<Mechanism>,
    /// The given `authMechanism`, if mongolink does not know it; creating a client then fails.
    pub auth_mechanism_other: Option<String>,
    /// `authMechanismProperties`: name and value, in the order given, without the session token.
    pub auth_mechanism_properties: Vec<(String, String)>,
    /// `AWS_SESSION_TOKEN` of `authMechanismProperties`.
    pub aws_session_token: Option<Secret>,

    /// `appName`, at most 128 bytes.
    pub app_name: Option<String>,
    /// `compressors`, by name, in order of preference.
    pub compressors: Option<Vec<String>>,
    /// `zlibCompressionLevel`, -1 to 9.
    pub zlib_compression_level: Option<i32>,

    /// `connectTimeoutMS`: limit of TCP and TLS, from the first known address on, and again of hello and authentication;
    /// default 10 s, 0 for none.
    pub connect_timeout: Option<Duration>,
    /// `socketTimeoutMS`: limit of each command's exchange; 0, the default, for none.
    pub socket_timeout: Option<Duration>,
    /// `serverSelectionTimeoutMS`; default 30 s.
    pub server_selection_timeout: Option<Duration>,
    /// `timeoutMS`: limit of each whole call; no default, 0 for none.
    pub timeout: Option<Duration>,
    /// `dnsTimeoutMS` (specific to mongolink): limit of a name look-up, never part of `connectTimeoutMS`; default 15 s.
    pub dns_timeout: Option<Duration>,
    /// `heartbeatFrequencyMS`, at least 500 ms; default 10 s.
    pub heartbeat_frequency: Option<Duration>,
    /// `localThresholdMS`: width of the latency window; default 15 ms.
    pub local_threshold: Option<Duration>,
    /// `serverMonitoringMode`; default auto.
    pub server_monitoring_mode: Option<ServerMonitoringMode>,
    /// Whether a server that seems unresponsive is sent a liveness probe on a separate connection; default true.
    ///
    /// Without liveness probes, a command on an unresponsive server ends when the server's check fails, after
    /// `heartbeatFrequencyMS` and `connectTimeoutMS`, or at the command's own limit.
    pub liveness_probes: Option<bool>,
    /// `serverSelectionTryOnce`: for single-threaded drivers; has no effect here.
    pub server_selection_try_once: Option<bool>,
    /// `socketCheckIntervalMS`: for single-threaded drivers; has no effect here.
    pub socket_check_interval: Option<Duration>,

    /// `directConnection`.
    pub direct_connection: Option<bool>,
    /// `loadBalanced`.
    pub load_balanced: Option<bool>,
    /// `replicaSet`.
    pub replica_set: Option<String>,

    /// `maxPoolSize`; default 100, 0 for no limit.
    pub max_pool_size: Option<u32>,
    /// `minPoolSize`; default 0.
    pub min_pool_size: Option<u32>,
    /// `maxConnecting`; default 2.
    pub max_connecting: Option<u32>,
    /// `maxIdleTimeMS`; 0, the default, for no limit.
    pub max_idle_time: Option<Duration>,
    /// `waitQueueTimeoutMS`: limit of the time in the wait queue; 0, the default, for none.
    pub wait_queue_timeout: Option<Duration>,
    /// How long to wait for the late reply of an abandoned command before its connection is closed; default 10 s, 0 closes it
    /// at once.
    pub drain_limit: Option<Duration>,

    /// `readPreference`, `readPreferenceTags` and `maxStalenessSeconds`.
    pub read_preference: Option<ReadPreference>,
    /// `readConcernLevel`.
    pub read_concern: Option<ReadConcern>,
    /// `w`, `journal` and `wTimeoutMS`.
    pub write_concern: Option<WriteConcern>,
    /// `retryReads`; default true.
    pub retry_reads: Option<bool>,
    /// `retryWrites`; default true.
    pub retry_writes: Option<bool>,
    /// `maxAdaptiveRetries`; default 2.
    pub max_adaptive_retries: Option<u32>,
    /// `enableOverloadRetargeting`; default false.
    pub enable_overload_retargeting: Option<bool>,

    /// `tls` and `ssl`; default false, true with `srv`.
    pub tls: Option<bool>,
    /// `tlsCAFile`: PEM; replaces the platform's trust store.
    pub tls_ca_file: Option<PathBuf>,
    /// `tlsCertificateKeyFile`: PEM of certificate chain and key.
    pub tls_certificate_key_file: Option<PathBuf>,
    /// `tlsCertificateKeyFilePassword`.
    pub tls_certificate_key_file_password: Option<Secret>,
    /// `tlsInsecure`: disables all certificate checks.
    pub tls_insecure: Option<bool>,
    /// `tlsAllowInvalidCertificates`.
    pub tls_allow_invalid_certificates: Option<bool>,
    /// `tlsAllowInvalidHostnames`.
    pub tls_allow_invalid_hostnames: Option<bool>,
    /// `tlsDisableOCSPEndpointCheck`.
    pub tls_disable_ocsp_endpoint_check: Option<bool>,
    /// `tlsDisableCertificateRevocationCheck`.
    pub tls_disable_certificate_revocation_check: Option<bool>,

    /// `proxyHost` (SOCKS5).
    pub proxy_host: Option<String>,
    /// `proxyPort`; default 1080.
    pub proxy_port: Option<u16>,
    /// `proxyUsername`.
    pub proxy_username: Option<String>,
    /// `proxyPassword`.
    pub proxy_password: Option<Secret>,

    /// Fixed addresses of hosts, which are then not resolved; TLS still verifies the name.
    pub resolve: Vec<(ServerAddress, Address)>,

    /// The maximum length of a logged document, in characters, `usize::MAX` for no limit; default 1000, unless the environment
    /// variable `MONGODB_LOG_MAX_DOCUMENT_LENGTH` sets it.
    pub log_document_chars_max: Option<usize>,

    /// The option that prevents the creation of a client although the connection string is readable, and the error that reports
    /// it; kept for `uri::validate`.
    pub(crate) refusal: Option<(&'static str, Error)>,
}

/// How a server is monitored (server-monitoring, `serverMonitoringMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerMonitoringMode {
    /// Streaming if the server supports it, except on function-as-a-service platforms.
    #[default]
    Auto,
    /// Streaming if the server supports it.
    Stream,
    /// Polling only.
    Poll,
}

/// An option without effect, with an unexpected effect, or one that weakens the security of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The option as written; `number 3` for the third of a connection string if its name is unknown, because unknown names are
    /// not shown.
    pub option: String,
    /// What is wrong with the option, and what happens instead.
    pub message: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "option {}: {}", self.option, self.message)
    }
}

/// The shortest interval between two checks of a server (server-monitoring, `minHeartbeatFrequencyMS`).
pub const MIN_HEARTBEAT_FREQUENCY: Duration = Duration::from_millis(500);

/// The environment variable with the maximum length of a logged document in characters: a number, or `unlimited`. Other values
/// are ignored (logging, "Configurable Max Document Length").
pub const LOG_LENGTH_VARIABLE: &str = "MONGODB_LOG_MAX_DOCUMENT_LENGTH";

/// Returns a time limit; zero means no limit.
fn limit(given: Option<Duration>, default: Option<Duration>) -> Option<Duration> {
    given.or(default).filter(|span| !span.is_zero())
}

impl ClientOptions {
    /// Returns the effective `connectTimeoutMS`; `None` for no limit.
    pub fn connect_timeout_or_default(&self) -> Option<Duration> {
        limit(self.connect_timeout, Some(Duration::from_secs(10)))
    }

    /// Returns the effective `socketTimeoutMS`; `None` for no limit.
    pub fn socket_timeout_or_default(&self) -> Option<Duration> {
        limit(self.socket_timeout, None)
    }

    /// Returns the effective `serverSelectionTimeoutMS`.
    pub fn server_selection_timeout_or_default(&self) -> Duration {
        self.server_selection_timeout.unwrap_or(Duration::from_secs(30))
    }

    /// Returns the effective `timeoutMS`; `None` for no limit.
    pub fn timeout_or_default(&self) -> Option<Duration> {
        limit(self.timeout, None)
    }

    /// Returns the effective limit of a look-up.
    pub fn dns_timeout_or_default(&self) -> Duration {
        self.dns_timeout.unwrap_or(Duration::from_secs(15))
    }

    /// Returns the effective `heartbeatFrequencyMS`.
    pub fn heartbeat_frequency_or_default(&self) -> Duration {
        self.heartbeat_frequency.unwrap_or(Duration::from_secs(10))
    }

    /// Returns whether servers that seem to be silent are asked for an answer to a liveness probe.
    pub fn liveness_probes_or_default(&self) -> bool {
        self.liveness_probes.unwrap_or(true)
    }

    /// Returns the effective `localThresholdMS`.
    pub fn local_threshold_or_default(&self) -> Duration {
        self.local_threshold.unwrap_or(Duration::from_millis(15))
    }

    /// Returns the effective `maxPoolSize`; `None` for no limit.
    pub fn max_pool_size_or_default(&self) -> Option<u32> {
        Some(self.max_pool_size.unwrap_or(100)).filter(|size| *size > 0)
    }

    /// Returns the effective `minPoolSize`.
    pub fn min_pool_size_or_default(&self) -> u32 {
        self.min_pool_size.unwrap_or(0)
    }

    /// Returns the effective `maxConnecting`.
    pub fn max_connecting_or_default(&self) -> u32 {
        self.max_connecting.unwrap_or(2).max(1)
    }

    /// Returns the effective `maxIdleTimeMS`; `None` for no limit.
    pub fn max_idle_time_or_default(&self) -> Option<Duration> {
        limit(self.max_idle_time, None)
    }

    /// Returns when opening a connection is given up at the latest: after the sum of all limits of opening one, and some.
    ///
    /// By then its own timers have long ended it.
    pub fn open_timeout(&self) -> Option<Duration> {
        let connect = self.connect_timeout_or_default()?;
        Some(self.dns_timeout_or_default() + 2 * connect + Duration::from_secs(1))
    }

    /// Returns the effective `waitQueueTimeoutMS`; `None` for no limit.
    pub fn wait_queue_timeout_or_default(&self) -> Option<Duration> {
        limit(self.wait_queue_timeout, None)
    }

    /// Returns how long a late reply is awaited.
    pub fn drain_limit_or_default(&self) -> Duration {
        self.drain_limit.unwrap_or(Duration::from_secs(10))
    }

    /// Returns how many characters of a document are logged, given the value of `MONGODB_LOG_MAX_DOCUMENT_LENGTH`; code beats that.
    pub fn log_document_chars_max_or_default(&self, variable: Option<&str>) -> usize {
        let number = |text: &str| if text.eq_ignore_ascii_case("unlimited") { Some(usize::MAX) } else { text.parse().ok() };
        self.log_document_chars_max.or_else(|| variable.and_then(|text| number(text.trim()))).unwrap_or(1000)
    }

    /// Returns the effective `srvServiceName`.
    pub fn srv_service_name_or_default(&self) -> &str {
        self.srv_service_name.as_deref().unwrap_or("mongodb")
    }

    /// Returns whether connections are secured: `tls`, or by default with an SRV connection string.
    pub fn tls_or_default(&self) -> bool {
        self.tls.unwrap_or(self.srv.is_some())
    }

    /// Returns the fixed address of a host, if one was given.
    pub fn resolve_override(&self, host: &ServerAddress) -> Option<&Address> {
        self.resolve.iter().find(|(name, _)| name == host).map(|(_, address)| address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_length_from_code_precedes_environment_and_default() {
        let given = |length| ClientOptions { log_document_chars_max: length, ..ClientOptions::default() };
        for (variable, expected) in [
            (None, 1000),
            (Some("5"), 5),
            (Some(" 0 "), 0),
            (Some("unlimited"), usize::MAX),
            (Some("UNLIMITED"), usize::MAX),
            (Some("-1"), 1000),
            (Some("1e3"), 1000),
            (Some(""), 1000),
        ] {
            assert_eq!(given(None).log_document_chars_max_or_default(variable), expected, "{variable:?}");
            assert_eq!(given(Some(7)).log_document_chars_max_or_default(variable), 7, "{variable:?}");
        }
        assert_eq!(given(Some(usize::MAX)).log_document_chars_max_or_default(Some("5")), usize::MAX);
    }
}
