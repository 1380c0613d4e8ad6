//! The events of commands (command-logging-and-monitoring).
//!
//! Sensitive commands appear without their contents.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{RawDocument, RawDocumentBuf};

use crate::error::Error;
use crate::host::ServerAddress;

/// An event of a command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommandEvent {
    /// A command is about to be sent.
    #[non_exhaustive]
    Started {
        /// The server of the command.
        host: ServerAddress,
        /// The connection's id in the pool.
        connection_id: u64,
        /// The service behind a load balancer.
        service_id: Option<ObjectId>,
        /// The server's own id of the connection, if known.
        server_connection_id: Option<i64>,
        /// The id of the message.
        request_id: i32,
        /// The database.
        database: Arc<str>,
        /// The command's name.
        name: Arc<str>,
        /// The command with the driver's fields; empty if it is sensitive or above `EVENT_DOCUMENT_SIZE_MAX`.
        command: RawDocumentBuf,
    },
    /// The server replied with `ok: 1`.
    #[non_exhaustive]
    Succeeded {
        /// The server.
        host: ServerAddress,
        /// The connection's id in the pool.
        connection_id: u64,
        /// The service behind a load balancer.
        service_id: Option<ObjectId>,
        /// The id of the message.
        request_id: i32,
        /// The command's name.
        name: Arc<str>,
        /// The duration.
        duration: Duration,
        /// The reply; empty if the command is sensitive or the reply above `EVENT_DOCUMENT_SIZE_MAX`.
        reply: RawDocumentBuf,
    },
    /// The server replied with an error, or not at all.
    #[non_exhaustive]
    Failed {
        /// The server.
        host: ServerAddress,
        /// The connection's id in the pool.
        connection_id: u64,
        /// The service behind a load balancer.
        service_id: Option<ObjectId>,
        /// The id of the message.
        request_id: i32,
        /// The command's name.
        name: Arc<str>,
        /// The duration.
        duration: Duration,
        /// The error.
        error: Error,
    },
}

/// Returns whether a command or its reply carries secrets (command-logging-and-monitoring, "Security").
pub fn is_sensitive(name: &str, body: &RawDocument) -> bool {
    const ALWAYS: [&str; 9] = [
        "authenticate",
        "saslStart",
        "saslContinue",
        "getnonce",
        "createUser",
        "updateUser",
        "copydbgetnonce",
        "copydbsaslstart",
        "copydb",
    ];
    const WITH_SPECULATION: [&str; 2] = ["hello", "isMaster"];
    let named = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    named(&ALWAYS) || (named(&WITH_SPECULATION) && matches!(body.get("speculativeAuthenticate"), Ok(Some(_))))
}
