//! What went wrong, at which stage, where, after how long, against which limit?
//!
//! Kinds are facts, not judgements: whether a fault marks a server Unknown is decided in `topology::fault`, whether a
//! command may be retried in `op`.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;

use crate::host::{Address, HostKey};

/// Is shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what happened, at which [`Stage`], to which host and address, after how long, against which [`Limit`].
///
/// One word wide and cheap to clone: one failed dial can answer many waiters. [`source`](StdError::source) is the cause.
#[derive(Clone)]
pub struct Error(Arc<Facts>);

#[derive(Clone)]
struct Facts {
    kind: ErrorKind,
    message: String,
    stage: Option<Stage>,
    host: Option<HostKey>,
    address: Option<Address>,
    elapsed: Option<Duration>,
    limit: Option<Limit>,
    labels: Vec<String>,
    causes: Vec<Error>,
    servers: Vec<ServerReason>,
    command: Option<CommandFailure>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// Names the kind of fact an [`Error`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection string can't be read, or contradicts itself.
    InvalidUri,
    /// A host name or address can't be normalised.
    InvalidHost,
    /// An option has a value that can't be used, or two options contradict each other.
    InvalidOption,
    /// An argument of a call can't be used, such as a document above the server's limit.
    InvalidArgument,
    /// Something that the specifications know and mongolink does not serve.
    Unsupported,
    /// The name does not exist.
    NoSuchName,
    /// The name exists and has no address (or no SRV record).
    NoAddresses,
    /// The look-up failed: the DNS servers could not be reached, or refused.
    DnsFailed,
    /// A DNS answer breaks a rule of the seed-list specification.
    DnsRule,
    /// A socket could not be opened, or failed.
    Io(std::io::ErrorKind),
    /// The peer closed the connection.
    Closed,
    /// A timer ran out; [`Error::limit`] names it.
    Timeout,
    /// The certificate's issuer is not trusted.
    CertificateUnknownIssuer,
    /// The certificate is for another name.
    CertificateName,
    /// The certificate is expired or not yet valid.
    CertificateExpired,
    /// Another fault of the certificate.
    Certificate,
    /// TLS could not be negotiated; also what a peer that speaks no TLS gets.
    Tls,
    /// Bytes from the peer that are not the wire protocol, or not a possible reply.
    Protocol,
    /// The server's wire versions and mongolink's don't overlap.
    Incompatible,
    /// The server refused the credential, or failed to prove that it knows it.
    Auth,
    /// The pool was cleared while waiting for a connection, because of the error in the source.
    PoolCleared,
    /// The pool is closed.
    PoolClosed,
    /// Too many callers wait for a connection already.
    TooManyWaiters,
    /// No suitable server; [`Error::servers`] says why, server by server.
    ServerSelection,
    /// The connection was interrupted, because its server stopped answering checks.
    Interrupted,
    /// The server answered with an error; [`Error::command`] has it.
    Command,
    /// BSON could not be encoded or decoded.
    Bson,
    /// The client has been shut down, or its runtime has ended.
    Shutdown,
    /// A bug of this crate.
    Internal,
}

/// Names where on its way something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Reading the connection string and options.
    Uri,
    /// Looking up SRV and TXT records.
    Srv,
    /// Looking up addresses.
    Dns,
    /// Opening a socket.
    Tcp,
    /// Negotiating TLS.
    Tls,
    /// The first exchange on a connection.
    Hello,
    /// Authentication.
    Auth,
    /// Choosing a server.
    Selection,
    /// Waiting for a connection of the pool.
    Checkout,
    /// Sending a command.
    Write,
    /// Waiting for a reply.
    Read,
    /// The server executed, and refused or failed.
    Server,
}

/// Is the limit that an error ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The option or constant that sets it, such as `connectTimeoutMS`.
    pub name: &'static str,
    /// Its value.
    pub value: LimitValue,
}

/// Is the value of a [`Limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitValue {
    /// A span of time.
    Time(Duration),
    /// A number of bytes.
    Bytes(u64),
    /// A number of things.
    Count(u64),
}

/// Says why one server was not chosen.
#[derive(Clone, Debug)]
pub struct ServerReason {
    /// The server.
    pub host: HostKey,
    /// Why it was not eligible.
    pub reason: Ineligible,
    /// The server's last error, if it had one.
    pub error: Option<Error>,
}

/// Names why a server was not eligible.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ineligible {
    /// It has not been checked yet, or its last check failed.
    Unknown,
    /// It is of a type that can't serve the operation.
    Type(&'static str),
    /// Its tags match no tag set.
    Tags,
    /// It is further behind than `maxStalenessSeconds` allows.
    TooStale,
    /// It is slower than the latency window allows.
    TooSlow,
    /// Others were preferred after a failure on this one.
    Deprioritized,
    /// The custom selector left it out.
    Selector,
    /// It was eligible when last looked at.
    Eligible,
}

/// Is an error reply of a server.
#[derive(Clone, Debug)]
pub struct CommandFailure {
    /// The numeric code; 0 if the server sent none.
    pub code: i32,
    /// The code's name; empty if the server sent none.
    pub code_name: String,
    /// The server's message.
    pub message: String,
    /// The whole reply.
    pub reply: RawDocumentBuf,
}

impl Error {
    /// Makes an error of a kind and a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Facts {
            kind,
            message: message.into(),
            stage: None,
            host: None,
            address: None,
            elapsed: None,
            limit: None,
            labels: Vec::new(),
            causes: Vec::new(),
            servers: Vec::new(),
            command: None,
            source: None,
        }))
    }

    /// Makes the error of a timer that ran out.
    pub fn timeout(stage: Stage, timer: &'static str, limit: Duration, elapsed: Duration) -> Self {
        Self::new(ErrorKind::Timeout, format!("timed out after {}", Span(elapsed)))
            .at(stage)
            .after(elapsed)
            .against(timer, LimitValue::Time(limit))
    }

    /// Makes the error of a socket.
    pub fn io(stage: Stage, error: std::io::Error) -> Self {
        let kind = if error.kind() == std::io::ErrorKind::UnexpectedEof { ErrorKind::Closed } else { ErrorKind::Io(error.kind()) };
        Self::new(kind, error.to_string()).at(stage).because(error)
    }

    /// Makes the error of an error reply.
    pub fn command_failure(failure: CommandFailure) -> Self {
        let name = if failure.code_name.is_empty() { String::new() } else { format!(" {}", failure.code_name) };
        let mut error = Self::new(ErrorKind::Command, format!("{} (code {}{name})", failure.message, failure.code)).at(Stage::Server);
        error.facts().command = Some(failure);
        error
    }

    /// Sets the stage, unless one is set already: the innermost knows best.
    #[must_use]
    pub fn at(mut self, stage: Stage) -> Self {
        self.facts().stage.get_or_insert(stage);
        self
    }

    /// Replaces the stage: what a socket calls reading may be the greeting to whoever uses it.
    #[must_use]
    pub(crate) fn restage(mut self, stage: Stage) -> Self {
        self.facts().stage = Some(stage);
        self
    }

    /// Sets the host, unless one is set already.
    #[must_use]
    pub fn on(mut self, host: &HostKey) -> Self {
        self.facts().host.get_or_insert_with(|| host.clone());
        self
    }

    /// Sets the address, unless one is set already.
    #[must_use]
    pub fn with_address(mut self, address: &Address) -> Self {
        self.facts().address.get_or_insert_with(|| address.clone());
        self
    }

    /// Sets the time that had passed, unless it is set already.
    #[must_use]
    pub fn after(mut self, elapsed: Duration) -> Self {
        self.facts().elapsed.get_or_insert(elapsed);
        self
    }

    /// Sets the limit, unless one is set already.
    #[must_use]
    pub fn against(mut self, name: &'static str, value: LimitValue) -> Self {
        self.facts().limit.get_or_insert(Limit { name, value });
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.facts().source = Some(Arc::new(source));
        self
    }

    /// Sets the causes of a failure that had several, such as one for each address of a name.
    #[must_use]
    pub fn with_causes(mut self, causes: Vec<Self>) -> Self {
        self.facts().causes = causes;
        self
    }

    /// Sets the reasons of a failed selection.
    #[must_use]
    pub fn with_servers(mut self, servers: Vec<ServerReason>) -> Self {
        self.facts().servers = servers;
        self
    }

    /// Adds a label, once.
    #[must_use]
    pub fn with_label(mut self, label: &str) -> Self {
        if !self.has_label(label) {
            self.facts().labels.push(label.to_owned());
        }
        self
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the stage at which it happened.
    pub fn stage(&self) -> Option<Stage> {
        self.0.stage
    }

    /// Returns the host it happened to.
    pub fn host(&self) -> Option<&HostKey> {
        self.0.host.as_ref()
    }

    /// Returns the address it happened at.
    pub fn address(&self) -> Option<&Address> {
        self.0.address.as_ref()
    }

    /// Returns the time that had passed since the stage began.
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.elapsed
    }

    /// Returns the limit it ran into.
    pub fn limit(&self) -> Option<Limit> {
        self.0.limit
    }

    /// Returns the error labels, the server's and the driver's.
    pub fn labels(&self) -> &[String] {
        &self.0.labels
    }

    /// Tells whether it carries a label, such as `RetryableError`.
    pub fn has_label(&self, label: &str) -> bool {
        self.0.labels.iter().any(|own| own == label)
    }

    /// Returns the causes of a failure that had several.
    pub fn causes(&self) -> &[Self] {
        &self.0.causes
    }

    /// Returns why each server was not chosen, if this is a failed selection.
    pub fn servers(&self) -> &[ServerReason] {
        &self.0.servers
    }

    /// Returns the server's error reply, if this is one.
    pub fn command(&self) -> Option<&CommandFailure> {
        self.0.command.as_ref()
    }

    /// Returns the numeric code of the server's error reply, if this is one and it has one.
    pub fn code(&self) -> Option<i32> {
        self.0.command.as_ref().map(|failure| failure.code).filter(|code| *code != 0)
    }

    /// Returns the message alone, without stage, host and limit.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Tells whether a timer ran out.
    pub fn is_timeout(&self) -> bool {
        self.0.kind == ErrorKind::Timeout || self.0.kind == ErrorKind::Io(std::io::ErrorKind::TimedOut)
    }

    /// Tells whether the network failed: a socket error, a closed connection, or a time-out on a socket.
    pub fn is_network(&self) -> bool {
        let on_socket = matches!(self.0.stage, Some(Stage::Tcp | Stage::Tls | Stage::Hello | Stage::Auth | Stage::Write | Stage::Read));
        let always = matches!(self.0.kind, ErrorKind::Io(_) | ErrorKind::Closed | ErrorKind::Interrupted);
        always || (on_socket && matches!(self.0.kind, ErrorKind::Timeout | ErrorKind::Protocol | ErrorKind::Tls))
    }

    fn facts(&mut self) -> &mut Facts {
        Arc::make_mut(&mut self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.0;
        if let Some(stage) = facts.stage {
            write!(f, "{stage}: ")?;
        }
        if let Some(host) = &facts.host {
            write!(f, "{host}")?;
            match &facts.address {
                Some(address) if address.to_string() != host.canonical() => write!(f, " ({address}): ")?,
                _ => f.write_str(": ")?,
            }
        } else if let Some(address) = &facts.address {
            write!(f, "{address}: ")?;
        }
        f.write_str(&facts.message)?;
        if let Some(elapsed) = facts.elapsed
            && facts.kind != ErrorKind::Timeout
        {
            write!(f, ", after {}", Span(elapsed))?;
        }
        if let Some(limit) = facts.limit {
            write!(f, " ({limit})")?;
        }
        for (index, cause) in facts.causes.iter().enumerate() {
            write!(f, "{}{cause}", if index == 0 { ": " } else { "; " })?;
        }
        for (index, server) in facts.servers.iter().enumerate() {
            write!(f, "{}{server}", if index == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.0;
        let mut out = f.debug_struct("Error");
        out.field("kind", &facts.kind).field("text", &self.to_string());
        if !facts.labels.is_empty() {
            out.field("labels", &facts.labels);
        }
        if let Some(source) = &facts.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let own = self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static));
        own.or_else(|| self.0.causes.first().map(|cause| cause as &(dyn StdError + 'static)))
    }
}

impl From<bson::error::Error> for Error {
    fn from(error: bson::error::Error) -> Self {
        Self::new(ErrorKind::Bson, error.to_string()).because(error)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uri => "uri",
            Self::Srv => "srv",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Hello => "hello",
            Self::Auth => "auth",
            Self::Selection => "selection",
            Self::Checkout => "checkout",
            Self::Write => "write",
            Self::Read => "read",
            Self::Server => "server",
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            LimitValue::Time(span) => write!(f, "limit {} of {}", self.name, Span(span)),
            LimitValue::Bytes(bytes) => write!(f, "limit {} of {bytes} bytes", self.name),
            LimitValue::Count(count) => write!(f, "limit {} of {count}", self.name),
        }
    }
}

impl fmt::Display for ServerReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.reason)?;
        match &self.error {
            Some(error) => write!(f, " [{error}]"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("is not reachable"),
            Self::Type(name) => write!(f, "is {name}"),
            Self::Tags => f.write_str("has other tags"),
            Self::TooStale => f.write_str("is staler than maxStalenessSeconds"),
            Self::TooSlow => f.write_str("is outside localThresholdMS"),
            Self::Deprioritized => f.write_str("has just failed"),
            Self::Selector => f.write_str("was left out by the selector"),
            Self::Eligible => f.write_str("is eligible"),
        }
    }
}

/// Prints a duration in milliseconds below ten seconds, in seconds above.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_millis(10) {
            write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
        } else if self.0 < Duration::from_secs(10) {
            write!(f, "{} ms", self.0.as_millis())
        } else {
            write!(f, "{:.1} s", self.0.as_secs_f64())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn text_says_stage_host_elapsed_and_limit() {
        let host = HostKey::parse("db.example").expect("host");
        let error = Error::timeout(Stage::Hello, "connectTimeoutMS", Duration::from_millis(2000), Duration::from_millis(2003)).on(&host);
        assert_eq!(error.to_string(), "hello: db.example:27017: timed out after 2003 ms (limit connectTimeoutMS of 2000 ms)");
    }

    #[test]
    fn innermost_stage_wins() {
        assert_eq!(Error::new(ErrorKind::Closed, "x").at(Stage::Read).at(Stage::Tcp).stage(), Some(Stage::Read));
    }
}
