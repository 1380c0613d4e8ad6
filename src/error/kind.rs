//! Of which kinds are errors, and which facts go with them?

use std::time::Duration;

use bson::RawDocumentBuf;

use super::Error;
use crate::host::ServerAddress;

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
    /// This process or machine ran out of what a connection needs: file descriptors, memory, ports.
    LocalResources,
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
    /// The server demands a client certificate, and none is configured.
    CertificateRequired,
    /// TLS could not be negotiated; also what a peer that speaks no TLS gets.
    Tls,
    /// Bytes from the peer that are not the wire protocol, or not a possible reply.
    Protocol,
    /// The server's wire versions and mongolink's don't overlap.
    Incompatible,
    /// The server refused the credential, or failed to prove that it knows it.
    Auth,
    /// The pool was cleared while waiting for a connection, because of the error that [`Error::underlying`] returns.
    PoolCleared,
    /// The pool is closed.
    PoolClosed,
    /// Too many callers wait for a connection already.
    TooManyWaiters,
    /// No suitable server; [`Error::servers`] says why, server by server.
    ServerSelection,
    /// It was stopped from outside: its server stopped answering checks, its caller went away, or its check was cancelled.
    Interrupted,
    /// The server was asked for an answer to a liveness probe, and gave none; [`Error::limit`] says how long that took.
    Silent,
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

/// The limit that an error ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limit {
    /// The option or constant that sets it, such as `connectTimeoutMS`.
    pub name: &'static str,
    /// Its value.
    pub value: LimitValue,
}

/// The value of a [`Limit`].
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
#[non_exhaustive]
pub struct ServerReason {
    /// The server.
    pub host: ServerAddress,
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
    /// Others were preferred after a failure on this one.
    Deprioritized,
    /// Another server was asked for by name.
    OtherServer,
    /// The custom selector left it out.
    Selector,
    /// It was eligible when last looked at.
    Eligible,
}

/// An error reply of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandFailure {
    /// The numeric code; 0 if the server sent none.
    pub code: i64,
    /// The code's name; empty if the server sent none.
    pub code_name: String,
    /// The server's message, cut after [`ERROR_MESSAGE_SIZE_MAX`](super::ERROR_MESSAGE_SIZE_MAX) bytes.
    pub message: String,
    /// The whole reply; of one above `ERROR_REPLY_SIZE_MAX` (64 KiB) only the fields that say what the error means:
    /// `ok`, `code`, `codeName`, `errorLabels`, `topologyVersion`, `keyPattern`, `keyValue` and times.
    pub reply: RawDocumentBuf,
    /// How many bytes the reply had if `reply` is only a part of it.
    pub cut_from_bytes: Option<usize>,
}
