//! What can be seen of a command from outside?
//!
//! The events of command-logging-and-monitoring. Commands that carry secrets are shown without their contents.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{RawDocument, RawDocumentBuf};

use crate::error::Error;
use crate::host::ServerAddress;

/// Is something that happened to a command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommandEvent {
    /// A command is about to be sent.
    #[non_exhaustive]
    Started {
        /// The server it goes to.
        host: ServerAddress,
        /// The connection's number in the pool.
        connection_id: u64,
        /// The service behind a load balancer.
        service_id: Option<ObjectId>,
        /// The server's number of the connection, if it told.
        server_connection_id: Option<i64>,
        /// The number of the message.
        request_id: i32,
        /// The database.
        database: Arc<str>,
        /// The command's name.
        name: Arc<str>,
        /// The command with the driver's fields; empty if it carries secrets or is above `EVENT_DOCUMENT_SIZE_MAX`.
        command: RawDocumentBuf,
    },
    /// The server answered with `ok: 1`.
    #[non_exhaustive]
    Succeeded {
        /// The server.
        host: ServerAddress,
        /// The connection's number in the pool.
        connection_id: u64,
        /// The service behind a load balancer.
        service_id: Option<ObjectId>,
        /// The number of the message.
        request_id: i32,
        /// The command's name.
        name: Arc<str>,
        /// How long it took.
        duration: Duration,
        /// The reply; empty if the command carries secrets or it is above `EVENT_DOCUMENT_SIZE_MAX`.
        reply: RawDocumentBuf,
    },
    /// The server answered with an error, or not at all.
    #[non_exhaustive]
    Failed {
        /// The server.
        host: ServerAddress,
        /// The connection's number in the pool.
        connection_id: u64,
        /// The service behind a load balancer.
        service_id: Option<ObjectId>,
        /// The number of the message.
        request_id: i32,
        /// The command's name.
        name: Arc<str>,
        /// How long it took.
        duration: Duration,
        /// Why.
        error: Error,
    },
}

/// Tells whether a command or its reply carries secrets (command-logging-and-monitoring, "Security").
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
