//! The conversation on a new connection: hello, then the login.
//!
//! mongodb-handshake and auth, strictly in turns. Each step consumes the conversation and returns the next step: a command
//! to send, work to do, or the end. A monitor's connection has no credential and is ready after hello. With a credential, a
//! connection is ready only after a login; a server without users, an arbiter, is an error.
//! Does not decide the deadline of the conversation, nor where and how work is done.
//!
//! ```text
//! ExpectHello ── no credential, or X509 accepted with hello ─────────────────────────────────► Ready
//!      │ speculation answered                │ not answered: saslStart, authenticate
//!      ▼                                     ▼
//!  server's first message ◄──────────── ExpectAuth ── authenticate, PLAIN accepted ──────────► Ready
//!      │ Work: DeriveKeys                    ▲
//!      ▼                                     │ saslContinue (proof)
//!  ExpectKeys ── handle_work ────────────────┴── signature, and an empty exchange if asked ──► Ready
//! ```

use std::fmt;
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::raw::RawBson;
use bson::{RawDocument, RawDocumentBuf};

use super::command::{FirstHello, hello_command};
use super::login::{Login, LoginAttempt, Nonces, SaslExchange, no_users_here};
use super::{HelloReply, sasl};
use crate::auth::scram::keys::{Derivation, ScramKeys};
use crate::auth::scram::{NONCE_SIZE, ServerFirst};
use crate::auth::{Credential, Mechanism, SecretDocument};
use crate::error::{Error, ErrorKind, Stage};
use crate::wire::scan::Fields;

/// The configuration of a conversation.
pub struct ConversationConfig {
    /// The `client` document.
    pub client: Arc<RawDocumentBuf>,
    /// The credential; `None` for monitors and clients without a user.
    pub credential: Option<Credential>,
    /// Whether the server is known to support `hello`.
    pub hello_ok: bool,
    /// Whether the server is a load balancer.
    pub load_balanced: bool,
    /// Random bytes for the authentication, never used before: for the exchange sent along with hello, and for the one after
    /// it.
    pub nonces: [[u8; NONCE_SIZE]; 2],
}

/// A command to send; `$db` is appended when it is encoded.
pub struct HandshakeCommand {
    /// The database of the command.
    pub database: String,
    /// The command. It may hold a proof or a password, so it is never logged and never part of an event.
    pub body: SecretDocument,
    /// The stage of its failure: hello or auth.
    pub stage: Stage,
    /// The command's name.
    pub name: &'static str,
}

/// The next step of a conversation.
#[derive(Debug)]
#[must_use]
pub enum HandshakeStep {
    /// Send this command, and pass its reply to [`Conversation::handle_reply`].
    Send(HandshakeCommand, Conversation),
    /// Do this work, and hand in its result.
    Work(HandshakeWork, Conversation),
    /// The connection can be used.
    Ready(Box<HelloReply>),
}

/// Work that a login needs beside the server's replies.
#[derive(Debug)]
pub enum HandshakeWork {
    /// Derive SCRAM keys, away from the async threads, or take them from a cache.
    DeriveKeys(Derivation),
}

/// The result of a [`HandshakeWork`] of the same kind.
pub enum HandshakeWorkResult {
    /// The derived SCRAM keys.
    Keys(ScramKeys),
}

/// The opening of a connection, up to where it waits for the server or for work to be done.
pub struct Conversation {
    state: ConversationState,
}

#[allow(clippy::enum_variant_names, reason = "each state is named for what it awaits")]
enum ConversationState {
    ExpectHello { login: Option<Login>, speculation: Option<(Mechanism, SaslExchange)>, load_balanced: bool },
    ExpectAuth { attempt: LoginAttempt, exchange: SaslExchange },
    ExpectKeys { attempt: LoginAttempt, conversation_id: RawBson, first: ServerFirst },
}

impl Conversation {
    /// Starts a conversation with a socket's first hello.
    pub fn new(config: ConversationConfig) -> (HandshakeCommand, Self) {
        let [speculative, own] = config.nonces;
        let login = config.credential.map(|credential| Login { credential, nonces: Nonces { speculative, own } });
        let speculation = login.as_ref().and_then(Login::speculate);
        let negotiating = login.as_ref().and_then(Login::negotiating_user);
        let hello = FirstHello {
            client: &config.client,
            hello_ok: config.hello_ok,
            load_balanced: config.load_balanced,
            sasl_supported_mechs: negotiating.as_deref(),
            speculative: speculation.as_ref().map(|opening| &*opening.body),
        };
        let command =
            HandshakeCommand { database: "admin".to_owned(), body: hello_command(&hello).into(), stage: Stage::Hello, name: hello.name() };
        let speculation = speculation.map(|opening| (opening.mechanism, opening.exchange));
        (command, Self { state: ConversationState::ExpectHello { login, speculation, load_balanced: config.load_balanced } })
    }

    /// Handles the reply to the last command.
    ///
    /// # Errors
    /// The server's own error if it refused hello; [`ErrorKind::Auth`] if it refused the authentication, failed to prove that
    /// it knows the password, or is an arbiter, on which nobody can authenticate; [`ErrorKind::Protocol`] for an invalid reply;
    /// [`ErrorKind::Unsupported`] for an unsupported mechanism; [`ErrorKind::InvalidOption`] for a credential that the
    /// mechanism can't use.
    pub fn handle_reply(self, reply: &RawDocument) -> Result<HandshakeStep, Error> {
        match self.state {
            ConversationState::ExpectHello { login, speculation, load_balanced } => {
                let hello = Box::new(HelloReply::parse(reply)?);
                if load_balanced && hello.service_id.is_none() {
                    let text = "Driver attempted to initialize in load balancing mode, but the server does not support this mode.";
                    return Err(Error::new(ErrorKind::Incompatible, text).at(Stage::Hello));
                }
                match login {
                    Some(login) if hello.arbiter_only => Err(no_users_here(&login.credential)),
                    Some(login) => log_in(hello, login, speculation, reply),
                    None => Ok(HandshakeStep::Ready(hello)),
                }
            }
            ConversationState::ExpectAuth { attempt, exchange } => {
                attempt.check(exchange.step(), reply)?;
                advance(attempt, exchange, reply)
            }
            ConversationState::ExpectKeys { .. } => {
                Err(Error::new(ErrorKind::Internal, "a reply instead of the expected result of work").at(Stage::Auth))
            }
        }
    }

    /// Returns the service behind a load balancer that sent this reply, if it is the reply to hello.
    ///
    /// From here on the connection belongs to that service, whatever the result of the authentication.
    pub fn service_in(&self, reply: &RawDocument) -> Option<ObjectId> {
        match self.state {
            ConversationState::ExpectHello { load_balanced: true, .. } => HelloReply::parse(reply).ok()?.service_id,
            ConversationState::ExpectHello { load_balanced: false, .. }
            | ConversationState::ExpectAuth { .. }
            | ConversationState::ExpectKeys { .. } => None,
        }
    }

    /// Takes the result of the work requested last.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if no work was requested, or if the keys belong to another mechanism.
    pub fn handle_work(self, result: HandshakeWorkResult) -> Result<HandshakeStep, Error> {
        match (self.state, result) {
            (ConversationState::ExpectKeys { attempt, conversation_id, first }, HandshakeWorkResult::Keys(keys)) => {
                let (message, last) = first.handle_keys(keys)?;
                let body = sasl::proceed(&conversation_id, message.as_bytes());
                Ok(send(attempt, "saslContinue", body, SaslExchange::ScramLast(last)))
            }
            (ConversationState::ExpectHello { .. } | ConversationState::ExpectAuth { .. }, HandshakeWorkResult::Keys(_)) => {
                Err(Error::new(ErrorKind::Internal, "a result of work instead of the expected reply").at(Stage::Auth))
            }
        }
    }
}

impl fmt::Debug for ConversationConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConversationConfig")
            .field("credential", &self.credential)
            .field("hello_ok", &self.hello_ok)
            .field("load_balanced", &self.load_balanced)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HandshakeCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeCommand")
            .field("name", &self.name)
            .field("database", &self.database)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.state {
            ConversationState::ExpectHello { .. } => "Conversation(hello)",
            ConversationState::ExpectAuth { exchange, .. } => return write!(f, "Conversation({})", exchange.step()),
            ConversationState::ExpectKeys { .. } => "Conversation(keys)",
        })
    }
}

fn log_in(
    hello: Box<HelloReply>,
    login: Login,
    speculation: Option<(Mechanism, SaslExchange)>,
    reply: &RawDocument,
) -> Result<HandshakeStep, Error> {
    let answer = Fields::find(reply, "speculativeAuthenticate").and_then(|field| field.document());
    if let (Some((mechanism, exchange)), Some(answer)) = (speculation, answer) {
        return advance(LoginAttempt { hello, login, mechanism }, exchange, answer);
    }
    let opening = login.start(hello.sasl_supported_mechs.as_deref())?;
    let attempt = LoginAttempt { hello, login, mechanism: opening.mechanism };
    Ok(send(attempt, opening.name, opening.body, opening.exchange))
}

/// Takes what the server says in an exchange that it has not refused.
fn advance(attempt: LoginAttempt, exchange: SaslExchange, answer: &RawDocument) -> Result<HandshakeStep, Error> {
    let step = exchange.step();
    let said = sasl::SaslAnswer::parse(answer);
    match exchange {
        SaslExchange::X509 => Ok(HandshakeStep::Ready(attempt.hello)),
        SaslExchange::Plain | SaslExchange::ScramEmpty => {
            if said.done {
                Ok(HandshakeStep::Ready(attempt.hello))
            } else {
                Err(attempt.protocol(step, "the server continues after the end of the exchange"))
            }
        }
        SaslExchange::ScramFirst(client) => {
            if said.done {
                return Err(attempt.failed(
                    step,
                    &Error::new(ErrorKind::Auth, "the server ended the exchange without proving that it knows the password"),
                ));
            }
            let payload = said.payload.ok_or_else(|| attempt.protocol(step, "reply without a payload"))?;
            let conversation_id = said.conversation_id.ok_or_else(|| attempt.protocol(step, "reply without a conversationId"))?;
            let (derivation, first) = client.handle_server_first(payload).map_err(|error| attempt.failed(step, &error))?;
            let state = ConversationState::ExpectKeys { attempt, conversation_id, first };
            Ok(HandshakeStep::Work(HandshakeWork::DeriveKeys(derivation), Conversation { state }))
        }
        SaslExchange::ScramLast(client) => {
            let payload = said.payload.ok_or_else(|| attempt.protocol(step, "reply without a payload"))?;
            client.handle_server_final(payload).map_err(|error| attempt.failed(step, &error))?;
            if said.done {
                return Ok(HandshakeStep::Ready(attempt.hello));
            }
            // "a third empty exchange": the server did not honour skipEmptyExchange.
            let conversation_id = said.conversation_id.ok_or_else(|| attempt.protocol(step, "reply without a conversationId"))?;
            Ok(send(attempt, "saslContinue", sasl::proceed(&conversation_id, &[]), SaslExchange::ScramEmpty))
        }
    }
}

fn send(attempt: LoginAttempt, name: &'static str, body: SecretDocument, exchange: SaslExchange) -> HandshakeStep {
    let command = HandshakeCommand { database: attempt.login.credential.source.clone(), body, stage: Stage::Auth, name };
    HandshakeStep::Send(command, Conversation { state: ConversationState::ExpectAuth { attempt, exchange } })
}
