//! The log messages of the specifications, and their text.
//!
//! Those of server-discovery-and-monitoring ("Log Messages"), connection-monitoring-and-pooling ("Connection Pool Logging")
//! and server-selection ("Logging"): one target for each component, the specified texts and names. Through `tracing`, and at
//! no cost where nobody listens. When there is something to tell is decided by the rules; commands are not logged.

use std::fmt;
use std::time::{Duration, Instant};

use bson::RawDocumentBuf;
use tracing::Level;

use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};
use crate::handshake::Environment;
use crate::host::{Host, ServerAddress};
use crate::note::Note;
use crate::operation::json::Json;
use crate::options::{ClientOptions, LOG_LENGTH_VARIABLE};
use crate::pool::{CheckOutFailure, CloseReason, PoolEvent};
use crate::selection::Criteria;
use crate::topology::{MonitorEvent, TopologyDescription, TopologyEvent};

/// The component `topology`.
const TOPOLOGY: &str = "mongolink::topology";

/// The component `connection`.
const CONNECTION: &str = "mongolink::connection";

/// The component `serverSelection`.
const SELECTION: &str = "mongolink::serverSelection";

/// What the rules write besides.
const RULES: &str = "mongolink::rules";

/// Tells whether anybody wants the messages of the topology.
pub(crate) fn wants_topology() -> bool {
    tracing::enabled!(target: TOPOLOGY, tracing::Level::DEBUG)
}

/// Tells whether anybody wants the messages of pools.
pub(crate) fn wants_pools() -> bool {
    tracing::enabled!(target: CONNECTION, tracing::Level::DEBUG)
}

/// Tells whether anybody wants to know of every selection.
pub(crate) fn wants_selections() -> bool {
    tracing::enabled!(target: SELECTION, tracing::Level::DEBUG)
}

/// The topology that log messages are about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogSubject {
    id: TopologyId,
    wait_queue_timeout: Option<Duration>,
    /// How many characters of a reply are logged (logging, "Configurable Max Document Length").
    document_chars_max: usize,
}

/// Tells this topology from others, of other clients too.
#[derive(Clone, Copy, Debug, Default)]
struct TopologyId(u64);

/// The connection of a server check.
#[derive(Clone, Debug)]
pub(crate) struct CheckedOn {
    /// Its number among those of this server's monitor, from 1.
    id: u64,
    /// The server's own number of it, once it has said so.
    server_id: Option<i64>,
    /// What the server answered last, if that is wanted.
    reply: Option<RawDocumentBuf>,
}

/// Logs a message of a server's pool: which server it is, and what the message has besides.
macro_rules! debug_of_pool {
    ($host:expr, $($rest:tt)+) => {{
        let (name, port) = place($host);
        tracing::debug!(target: CONNECTION, serverHost = %name, serverPort = port, $($rest)+)
    }};
}

/// Logs a message of a selection: what is looked for and where, and what the message has besides.
macro_rules! debug_of_selection {
    ($operation:expr, $criteria:expr, $topology:expr, $($rest:tt)+) => {
        tracing::debug!(
            target: SELECTION,
            operation = $operation,
            selector = %$criteria,
            topologyDescription = %$topology,
            $($rest)+
        )
    };
}

impl LogSubject {
    /// Names a topology.
    pub(crate) fn new(id: u64, options: &ClientOptions, environment: &Environment) -> Self {
        let length = (environment.variables)(LOG_LENGTH_VARIABLE);
        Self {
            id: TopologyId(id),
            wait_queue_timeout: options.wait_queue_timeout_or_default(),
            document_chars_max: options.log_document_chars_max_or_default(length.as_deref()),
        }
    }

    /// Logs what happened to the topology.
    pub(crate) fn topology(self, event: &TopologyEvent) {
        match event {
            TopologyEvent::TopologyOpening => {
                tracing::debug!(target: TOPOLOGY, topologyId = %self.id, "Starting topology monitoring");
            }
            TopologyEvent::TopologyClosed => {
                tracing::debug!(target: TOPOLOGY, topologyId = %self.id, "Stopped topology monitoring");
            }
            TopologyEvent::ServerOpening { host } => {
                let (name, port) = place(host);
                tracing::debug!(target: TOPOLOGY, topologyId = %self.id, serverHost = %name, serverPort = port, "Starting server monitoring");
            }
            TopologyEvent::ServerClosed { host } => {
                let (name, port) = place(host);
                tracing::debug!(target: TOPOLOGY, topologyId = %self.id, serverHost = %name, serverPort = port, "Stopped server monitoring");
            }
            TopologyEvent::TopologyDescriptionChanged { previous, new } => tracing::debug!(
                target: TOPOLOGY,
                topologyId = %self.id,
                previousDescription = %previous,
                newDescription = %new,
                "Topology description changed"
            ),
            // The first says nothing that a change of the topology's description doesn't; the second is logged where it is found.
            TopologyEvent::ServerDescriptionChanged { .. } | TopologyEvent::HostUnusable { .. } => {}
        }
    }

    /// Logs a check of a server.
    pub(crate) fn heartbeat(self, host: &ServerAddress, on: &CheckedOn, event: &MonitorEvent) {
        let (name, port) = place(host);
        // What all of them say first.
        macro_rules! debug_of_check {
            ($($rest:tt)+) => {
                tracing::debug!(
                    target: TOPOLOGY,
                    topologyId = %self.id,
                    serverHost = %name,
                    serverPort = port,
                    driverConnectionId = on.id,
                    serverConnectionId = on.server_id,
                    $($rest)+
                )
            };
        }
        match event {
            MonitorEvent::HeartbeatStarted { awaited } => debug_of_check!(awaited, "Server heartbeat started"),
            MonitorEvent::HeartbeatSucceeded { duration, awaited, .. } => debug_of_check!(
                awaited,
                durationMS = millis(*duration),
                reply = on.reply.as_ref().map(|reply| tracing::field::display(Json::of(reply).cut(self.document_chars_max))),
                "Server heartbeat succeeded"
            ),
            // The client itself has cancelled the check.
            MonitorEvent::HeartbeatFailed { duration, awaited, error } if error.kind() == ErrorKind::Interrupted => tracing::trace!(
                target: TOPOLOGY,
                topologyId = %self.id,
                serverHost = %name,
                serverPort = port,
                awaited,
                durationMS = millis(*duration),
                failure = %error,
                "Server heartbeat cancelled"
            ),
            MonitorEvent::HeartbeatFailed { duration, awaited, error } => debug_of_check!(
                awaited,
                durationMS = millis(*duration),
                failure = %error,
                "Server heartbeat failed"
            ),
        }
    }

    /// Logs what happened in a server's pool.
    pub(crate) fn pool(self, host: &ServerAddress, event: &PoolEvent) {
        match event {
            PoolEvent::PoolCreated { options } => debug_of_pool!(
                host,
                minPoolSize = options.min_size,
                maxPoolSize = options.max_size,
                maxConnecting = options.max_connecting,
                maxIdleTimeMS = options.max_idle_time.map(millis),
                waitQueueTimeoutMS = self.wait_queue_timeout.map(millis),
                "Connection pool created"
            ),
            PoolEvent::PoolReady => {
                debug_of_pool!(host, "Connection pool ready");
            }
            PoolEvent::PoolCleared { service_id, .. } => {
                debug_of_pool!(host, serviceId = service_id.map(tracing::field::display), "Connection pool cleared")
            }
            PoolEvent::PoolClosed => {
                debug_of_pool!(host, "Connection pool closed");
            }
            PoolEvent::ConnectionCreated { connection_id } => {
                debug_of_pool!(host, driverConnectionId = connection_id, "Connection created")
            }
            PoolEvent::ConnectionReady { connection_id, duration } => {
                debug_of_pool!(host, driverConnectionId = connection_id, durationMS = millis(*duration), "Connection ready")
            }
            PoolEvent::ConnectionClosed { connection_id, reason, error } => debug_of_pool!(
                host,
                driverConnectionId = connection_id,
                reason = why_closed(*reason),
                error = error.as_ref().map(tracing::field::display),
                "Connection closed"
            ),
            PoolEvent::CheckOutStarted => {
                debug_of_pool!(host, "Connection checkout started");
            }
            PoolEvent::CheckOutFailed { reason, duration, error } => debug_of_pool!(
                host,
                reason = why_refused(*reason),
                error = Some(error).filter(|_| *reason == CheckOutFailure::ConnectionError).map(tracing::field::display),
                durationMS = millis(*duration),
                "Connection checkout failed"
            ),
            PoolEvent::CheckedOut { connection_id, duration } => {
                debug_of_pool!(host, driverConnectionId = connection_id, durationMS = millis(*duration), "Connection checked out")
            }
            PoolEvent::CheckedIn { connection_id } => debug_of_pool!(host, driverConnectionId = connection_id, "Connection checked in"),
        }
    }
}

impl CheckedOn {
    /// Returns the first connection, which is not open yet.
    pub(crate) fn first() -> Self {
        Self { id: 1, server_id: None, reply: None }
    }

    /// Takes what the server said when the connection was opened.
    pub(crate) fn opened(&mut self, server_id: Option<i64>, reply: Option<RawDocumentBuf>) {
        self.server_id = server_id;
        self.reply = reply;
    }

    /// Takes another reply.
    pub(crate) fn answered(&mut self, reply: Option<RawDocumentBuf>) {
        self.reply = reply;
    }

    /// Switches to the next connection.
    pub(crate) fn closed(&mut self) {
        *self = Self { id: self.id + 1, ..Self::first() };
    }
}

/// Writes a line of a rule.
pub(crate) fn note(note: &Note) {
    let text = &note.text;
    match note.level {
        Level::ERROR => tracing::error!(target: RULES, "{text}"),
        Level::WARN => tracing::warn!(target: RULES, "{text}"),
        Level::INFO => tracing::info!(target: RULES, "{text}"),
        Level::DEBUG => tracing::debug!(target: RULES, "{text}"),
        Level::TRACE => tracing::trace!(target: RULES, "{text}"),
    }
}

/// Writes that a slow subscriber has cost lines.
pub(crate) fn lines_lost(count: u64, limit: usize) {
    tracing::warn!(target: RULES, "{count} lines of the log were lost: the subscriber is too slow (limit LINES_MAX of {limit})");
}

/// Logs that a server is looked for.
pub(crate) fn selection_started(operation: &str, criteria: &Criteria, topology: &TopologyDescription) {
    debug_of_selection!(operation, criteria, topology, "Server selection started");
}

/// The waits for a server that were logged.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// How many servers were known at the last wait; `None` once a server was found.
    known: Option<usize>,
}

impl Waits {
    /// Takes the wait of a caller, while so many servers are known. Tells whether it is news: the first since a server was found
    /// or became known.
    pub(crate) fn begin(&mut self, known: usize) -> bool {
        self.known.replace(known).is_none_or(|before| before < known)
    }

    /// Takes that so many servers are known now, whether or not anybody waits.
    pub(crate) fn update(&mut self, known: usize) {
        if self.known.is_some_and(|before| before < known) {
            self.known = None;
        }
    }

    /// Takes that a caller has found a server.
    pub(crate) fn end(&mut self) {
        self.known = None;
    }
}

/// Logs that a server is waited for: at INFO if it is news, so that a thousand callers make one line that users see.
pub(crate) fn selection_waits(
    is_news: bool,
    operation: &str,
    criteria: &Criteria,
    topology: &TopologyDescription,
    deadline: Deadline,
    now: Instant,
) {
    macro_rules! wait {
        ($level:ident) => {
            tracing::$level!(
                target: SELECTION,
                operation,
                selector = %criteria,
                topologyDescription = %topology,
                remainingTimeMS = millis(deadline.at.saturating_duration_since(now)),
                "Waiting for suitable server to become available"
            )
        };
    }
    if is_news { wait!(info) } else { wait!(debug) }
}

/// Logs that a server was found.
pub(crate) fn selection_succeeded(operation: &str, criteria: &Criteria, topology: &TopologyDescription, host: &ServerAddress) {
    let (name, port) = place(host);
    debug_of_selection!(operation, criteria, topology, serverHost = %name, serverPort = port, "Server selection succeeded");
}

/// Logs that no server was found.
pub(crate) fn selection_failed(operation: &str, criteria: &Criteria, topology: &TopologyDescription, error: &Error) {
    debug_of_selection!(operation, criteria, topology, failure = %error, "Server selection failed");
}

/// Returns the two fields of a host; a unix socket has no port.
fn place(host: &ServerAddress) -> (Name<'_>, Option<u64>) {
    let port = if matches!(host.host(), Host::Unix(_)) { None } else { Some(u64::from(host.port())) };
    (Name(host.host()), port)
}

impl fmt::Display for TopologyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Prints a host without the brackets that only a port beside it asks for.
struct Name<'a>(&'a Host);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Host::V6(address, None) => address.fmt(f),
            Host::V6(address, Some(zone)) => write!(f, "{address}%{zone}"),
            host @ (Host::Name(_) | Host::V4(_) | Host::Unix(_)) => host.fmt(f),
        }
    }
}

/// The specification's words for why a connection was closed.
fn why_closed(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Stale => "Connection became stale because the pool was cleared",
        CloseReason::Idle => "Connection has been available but unused for longer than the configured max idle time",
        CloseReason::Error => "An error occurred while using the connection",
        CloseReason::PoolClosed => "Connection pool was closed",
    }
}

/// The specification's words for why there was no connection.
fn why_refused(reason: CheckOutFailure) -> &'static str {
    match reason {
        CheckOutFailure::PoolClosed => "Connection pool was closed",
        CheckOutFailure::Timeout => "Wait queue timeout elapsed without a connection becoming available",
        CheckOutFailure::ConnectionError => "An error occurred while trying to establish a new connection",
    }
}

/// Milliseconds, with what lies below one.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::Waits;

    #[test]
    fn wait_is_news_once_until_a_server_is_found_or_becomes_known() {
        let mut waits = Waits::default();
        let news: Vec<bool> = [2, 2, 1, 0, 0, 1, 1].into_iter().map(|known| waits.begin(known)).collect();
        assert_eq!(news, [true, false, false, false, false, true, false]);
        waits.end();
        assert!(waits.begin(1) && !waits.begin(1));
        // A server becomes known while nobody waits, and is lost again.
        waits.update(1);
        assert!(!waits.begin(0));
        waits.update(1);
        waits.update(0);
        assert!(waits.begin(0));
    }
}
