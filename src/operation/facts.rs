//! The facts about a connection's server that a command is built from.
//!
//! mongodb-handshake: known from the hello reply on, and so before any command is built.

use bson::oid::ObjectId;

use crate::handshake::HelloReply;
use crate::wire::{DOCUMENT_SIZE_MAX, MESSAGE_SIZE_MAX};

/// The facts about a connection's server that commands depend on; the rest of its hello reply is not kept for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// The server's own number of the connection.
    pub connection_id: Option<i64>,
    /// Whether the server has sessions.
    pub has_sessions: bool,
    /// The service that is reached behind a load balancer.
    pub service_id: Option<ObjectId>,
    /// `maxWireVersion`.
    pub wire_version: i32,
    /// `maxBsonObjectSize`.
    pub document_size_bytes_max: u32,
    /// `maxMessageSizeBytes`.
    pub message_size_bytes_max: u32,
}

impl ServerFacts {
    /// Takes the facts from a hello reply.
    pub fn of(hello: &HelloReply) -> Self {
        Self {
            connection_id: hello.connection_id,
            has_sessions: hello.logical_session_timeout.is_some() || hello.service_id.is_some(),
            service_id: hello.service_id,
            wire_version: hello.max_wire_version,
            document_size_bytes_max: hello.max_bson_object_size.unwrap_or(DOCUMENT_SIZE_MAX),
            message_size_bytes_max: hello.max_message_size_bytes.unwrap_or(MESSAGE_SIZE_MAX),
        }
    }
}

impl Default for ServerFacts {
    /// The facts before the hello reply.
    fn default() -> Self {
        Self {
            connection_id: None,
            has_sessions: false,
            service_id: None,
            wire_version: 0,
            document_size_bytes_max: DOCUMENT_SIZE_MAX,
            message_size_bytes_max: MESSAGE_SIZE_MAX,
        }
    }
}
