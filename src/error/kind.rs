//! The kinds of errors, and the facts that accompany them.

use std::time::Duration;

use bson::RawDocumentBuf;

use super::Error;
use crate::address::ServerAddress;

/// The kind of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection string can't be read, or contradicts itself.
    InvalidUri,
    /// A host name or address can't be normalised.
    InvalidHost,
    /// An option has an unusable value, or two options contradict each other.
    InvalidOption,
    /// An argument of a call is unusable, such as a document above the server's limit.
    InvalidArgument,
    /// A feature of the specifications that mongolink does not support.
    Unsupported,
    /// The name does not exist.
    NoSuchName,
    /// The name exists and has no address (or no SRV record).
    NoAddresses,
    /// The look-up failed: the DNS servers were unreachable or refused it.
    DnsFailed,
    /// A DNS answer breaks a rule of the seed-list specification.
    DnsRule,
    /// A socket could not be opened, or failed.
    Io(std::io::ErrorKind),
    /// This process or machine lacks a resource for a connection: file descriptors, memory, ports.
    LocalResources,
    /// The peer closed the connection.
    Closed,
    /// A time limit expired; [`Error::limit`] names it.
    Timeout,
    /// The certificate's issuer is not trusted.
    CertificateUnknownIssuer,
    /// The certificate is not valid for the host name.
    CertificateName,
    /// The certificate is expired or not yet valid.
    CertificateExpired,
    /// Another certificate error.
    Certificate,
    /// The server requires a client certificate, and none is configured.
    CertificateRequired,
    /// TLS could not be negotiated; also the error for a peer that does not use TLS.
    Tls,
    /// Bytes from the peer that are not the wire protocol, or not a valid reply.
    Protocol,
    /// The server's wire versions and mongolink's don't overlap.
    Incompatible,
    /// The server rejected the credential, or failed to prove that it knows it.
    Auth,
    /// The pool was cleared while the caller waited for a connection; [`Error::underlying`] returns the cause.
    PoolCleared,
    /// The pool is closed.
    PoolClosed,
    /// The pool's wait queue is full.
    TooManyWaiters,
    /// No suitable server; [`Error::servers`] has the reason per server.
    ServerSelection,
    /// The wait was cancelled: the server failed its checks, the caller dropped the future, or the check was cancelled.
    Interrupted,
    /// The server did not answer a liveness probe; [`Error::limit`] has the time limit.
    Silent,
    /// The server replied with an error; [`Error::command`] has the reply.
    Command,
    /// BSON could not be encoded or decoded.
    Bson,
    /// The client has been shut down, or its runtime has ended.
    Shutdown,
    /// A bug in this crate.
    Internal,
}

/// The stage at which an [`Error`] happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Parsing the connection string and options.
    Uri,
    /// Looking up SRV and TXT records.
    Srv,
    /// Looking up addresses.
    Dns,
    /// Opening a socket.
    Tcp,
    /// Negotiating TLS.
    Tls,
    /// The first message exchange on a connection.
    Hello,
    /// Authentication.
    Auth,
    /// Selecting a server.
    Selection,
    /// Checking a connection out of the pool.
    Checkout,
    /// Sending a command.
    Write,
    /// Waiting for a reply.
    Read,
    /// Execution on the server.
    Server,
}

/// The limit that an error exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limit {
    /// The option or constant that sets the limit, such as `connectTimeoutMS`.
    pub name: &'static str,
    /// The limit's value.
    pub value: LimitValue,
}

/// The value of a [`Limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitValue {
    /// A duration.
    Time(Duration),
    /// A number of bytes.
    Bytes(u64),
    /// A count.
    Count(u64),
}

/// The reason why a server was not selected.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerReason {
    /// The server.
    pub host: ServerAddress,
    /// Why the server was not eligible.
    pub reason: Ineligible,
    /// The server's last error, if it had one.
    pub error: Option<Error>,
}

/// Why a server was not eligible.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ineligible {
    /// The server has not been checked yet, or its last check failed.
    Unknown,
    /// The server's type can't serve the operation.
    Type(&'static str),
    /// The server's tags match no tag set.
    Tags,
    /// The server is staler than `maxStalenessSeconds` allows.
    TooStale,
    /// Other servers were preferred after a failure on this one.
    Deprioritized,
    /// The operation is bound to another server.
    OtherServer,
    /// The custom selector excluded it.
    Selector,
    /// The server was eligible at the last evaluation.
    Eligible,
}

/// A server's error reply.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandFailure {
    /// The numeric code; 0 if the server sent none.
    pub code: i64,
    /// The code's name; empty if the server sent none.
    pub code_name: String,
    /// The server's message, cut to [`ERROR_MESSAGE_SIZE_MAX`](super::ERROR_MESSAGE_SIZE_MAX) bytes.
    pub message: String,
    /// The whole reply. Of a reply above `ERROR_REPLY_SIZE_MAX` (64 KiB) only the fields that describe the error: `ok`, `code`,
    /// `codeName`, `errorLabels`, `topologyVersion`, `keyPattern`, `keyValue` and times.
    pub reply: RawDocumentBuf,
    /// The reply's original size in bytes if `reply` is only a part of it.
    pub cut_from_bytes: Option<usize>,
}
