//! The effect of an application's error on its server.
//!
//! The rules of server-discovery-and-monitoring, "Error handling": which errors are stale, which make a server unknown, and
//! which clear its pool. Does not handle the errors of the monitors' own checks (`machine`).

use bson::RawDocument;
use bson::oid::ObjectId;

use crate::description::ServerDescription;
use crate::error::{Error, ErrorKind, Stage};
use crate::handshake::TopologyVersion;
use crate::host::ServerAddress;
use crate::reply::{command_error, write_concern_error};
use crate::wire::scan::Fields;

/// The label of an error of an overloaded, but working server (client-backpressure).
const OVERLOADED: &str = "SystemOverloadedError";

/// The codes of a server that is not primary, or not any more: LegacyNotPrimary, NotWritablePrimary, NotPrimaryNoSecondaryOk.
const NOT_PRIMARY: [i64; 3] = [10058, 10107, 13435];

/// The codes of a recovering server: PrimarySteppedDown, InterruptedDueToReplStateChange, NotPrimaryOrSecondary.
const RECOVERING: [i64; 3] = [189, 11602, 13436];

/// The codes of a server that shuts down: ShutdownInProgress, InterruptedAtShutdown.
const SHUTTING_DOWN: [i64; 2] = [91, 11600];

/// An error on an application's connection, with the facts that decide its effect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fault {
    /// The error.
    pub error: Error,
    /// The pool's generation of the connection; behind a load balancer, its service's.
    pub generation: u64,
    /// Whether it happened while the connection was being established: DNS, TCP, TLS, hello, authentication.
    pub during_handshake: bool,
    /// The state change in the server's reply, if there is one.
    pub state_change: Option<StateChange>,
    /// The version of the server's state, if its reply had one.
    pub topology_version: Option<TopologyVersion>,
    /// The service behind a load balancer, once known.
    pub service_id: Option<ObjectId>,
}

/// A change of state in a server's error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateChange {
    /// It is not primary, or not any more.
    NotWritablePrimary,
    /// The server is recovering.
    Recovering,
    /// It is shutting down.
    ShuttingDown,
}

/// The effect of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultEffect {
    /// None: the fault is stale, or not about the server.
    Ignored(&'static str),
    /// The server has changed its state: it becomes unknown, and is checked at once; the pool is cleared if the server shuts
    /// down.
    StateChanged { clear: bool },
    /// The connection broke: the server becomes unknown, its pool is cleared and its running check cancelled, and no check is
    /// requested.
    Broken,
    /// A connection could not be established although the server answered: the server becomes unknown, and its pool is cleared.
    Refused,
    /// A load balancer's service failed: its connections are cleared, unless the pool finds the fault stale.
    ServiceFailed(ObjectId),
}

impl StateChange {
    /// Returns the state change of an error's code, or of its text if there is no code: "not master", "node is recovering".
    pub fn of(code: Option<i64>, message: &str) -> Option<Self> {
        match code {
            Some(code) if SHUTTING_DOWN.contains(&code) => Some(Self::ShuttingDown),
            Some(code) if RECOVERING.contains(&code) => Some(Self::Recovering),
            Some(code) if NOT_PRIMARY.contains(&code) => Some(Self::NotWritablePrimary),
            Some(_) => None,
            None if message.contains("node is recovering") || message.contains("not master or secondary") => Some(Self::Recovering),
            None if message.contains("not master") => Some(Self::NotWritablePrimary),
            None => None,
        }
    }
}

impl Fault {
    /// Creates a fault from an error on an established connection of a generation.
    ///
    /// The state change and the version come from the error's reply: an error reply, or one with `writeConcernError`.
    pub fn new(error: Error, generation: u64) -> Self {
        let (state_change, topology_version) = match error.command() {
            Some(failure) => {
                let change = StateChange::of(Some(failure.code).filter(|code| *code != 0), &failure.message);
                (change, topology_version(&failure.reply))
            }
            None => (None, None),
        };
        Self { error, generation, during_handshake: false, state_change, topology_version, service_id: None }
    }

    /// Returns the fault of a reply with a state change, as an error reply or in `writeConcernError`; `writeErrors` never
    /// count.
    pub fn in_reply(host: &ServerAddress, reply: &RawDocument, generation: u64) -> Option<Self> {
        let error = command_error(reply).or_else(|| write_concern_error(reply).map(Error::command_failure))?;
        Some(Self::new(error.on(host), generation)).filter(|fault| fault.state_change.is_some())
    }

    /// Records that it happened while the connection was being established.
    #[must_use]
    pub fn during_handshake(mut self) -> Self {
        self.during_handshake = true;
        self
    }

    /// Sets the service behind a load balancer.
    #[must_use]
    pub fn of_service(mut self, service: Option<ObjectId>) -> Self {
        self.service_id = service;
        self
    }

    /// Returns the effect: decided by the pool's generation, then by the version of the server's state, then by the kind of
    /// error.
    pub(super) fn verdict(&self, generation: u64, server: &ServerDescription) -> FaultEffect {
        if self.generation < generation {
            return FaultEffect::Ignored("it is of an older generation of the pool");
        }
        if self.topology_version.is_some_and(|version| server.topology_version.is_some_and(|known| !is_newer(version, known))) {
            return FaultEffect::Ignored("it is not newer than what is known of the server");
        }
        if let Some(change) = self.state_change {
            return FaultEffect::StateChanged { clear: change == StateChange::ShuttingDown };
        }
        if self.error.has_label(OVERLOADED) {
            return FaultEffect::Ignored("the server is overloaded, not broken");
        }
        match (about(&self.error), self.during_handshake) {
            (About::Caller, _) => FaultEffect::Ignored("it is not about the server"),
            (About::Reply, false) => FaultEffect::Ignored("the server works, and refused one command"),
            (About::Reply, true) => FaultEffect::Refused,
            (About::Network, false) if self.error.is_timeout() => FaultEffect::Ignored("a time-out after the handshake proves nothing"),
            (About::Network, _) => FaultEffect::Broken,
            (About::SetUp, _) => FaultEffect::Refused,
        }
    }

    /// Returns the effect behind a load balancer, which never becomes unknown (load-balancers, "Error handling").
    pub(super) fn verdict_behind_load_balancer(&self) -> FaultEffect {
        let Some(service) = self.service_id else {
            return FaultEffect::Ignored("no service was reached");
        };
        let cleared = match self.state_change {
            Some(change) => change == StateChange::ShuttingDown,
            None => match about(&self.error) {
                About::Caller => false,
                About::Reply => self.during_handshake,
                About::Network => self.during_handshake || !self.error.is_timeout(),
                About::SetUp => true,
            },
        };
        if cleared { FaultEffect::ServiceFailed(service) } else { FaultEffect::Ignored("the service works") }
    }
}

/// The origin of an error.
enum About {
    /// The caller, or the client itself.
    Caller,
    /// A reply of the server.
    Reply,
    /// The network.
    Network,
    /// The establishment of a connection: names, certificates, credentials.
    SetUp,
}

fn about(error: &Error) -> About {
    match error.kind() {
        ErrorKind::Command => About::Reply,
        ErrorKind::NoSuchName
        | ErrorKind::NoAddresses
        | ErrorKind::DnsFailed
        | ErrorKind::DnsRule
        | ErrorKind::CertificateUnknownIssuer
        | ErrorKind::CertificateName
        | ErrorKind::CertificateExpired
        | ErrorKind::Certificate
        | ErrorKind::CertificateRequired
        | ErrorKind::Auth
        | ErrorKind::Incompatible => About::SetUp,
        ErrorKind::Timeout if error.stage() == Some(Stage::Dns) => About::SetUp,
        ErrorKind::Io(_) | ErrorKind::Closed | ErrorKind::Protocol | ErrorKind::Tls | ErrorKind::Timeout if error.is_network() => {
            About::Network
        }
        // A connection is interrupted because its server is unknown already; so is a cleared pool.
        ErrorKind::Interrupted
        | ErrorKind::Silent
        | ErrorKind::PoolCleared
        | ErrorKind::PoolClosed
        | ErrorKind::TooManyWaiters
        | ErrorKind::LocalResources
        | ErrorKind::ServerSelection
        | ErrorKind::InvalidUri
        | ErrorKind::InvalidHost
        | ErrorKind::InvalidOption
        | ErrorKind::InvalidArgument
        | ErrorKind::Unsupported
        | ErrorKind::Bson
        | ErrorKind::Shutdown
        | ErrorKind::Internal
        | ErrorKind::Io(_)
        | ErrorKind::Closed
        | ErrorKind::Protocol
        | ErrorKind::Tls
        | ErrorKind::Timeout => About::Caller,
    }
}

/// Returns whether a version is newer than a known one: its counter is greater, or it is another process's.
pub(super) fn is_newer(version: TopologyVersion, known: TopologyVersion) -> bool {
    version.process_id != known.process_id || version.counter > known.counter
}

/// Returns whether a hello reply is older than the known one: an equal version may repeat it.
pub(super) fn is_outdated(version: Option<TopologyVersion>, known: Option<TopologyVersion>) -> bool {
    match (version, known) {
        (Some(version), Some(known)) => version.process_id == known.process_id && version.counter < known.counter,
        (None, _) | (_, None) => false,
    }
}

fn topology_version(reply: &RawDocument) -> Option<TopologyVersion> {
    TopologyVersion::parse(Fields::find(reply, "topologyVersion")?.document()?)
}
