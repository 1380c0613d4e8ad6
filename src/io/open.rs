//! Opening a connection: a dial, then the handshake.
//!
//! Hello, and for application connections authentication. One deadline covers the handshake; keys are derived in `derive`. Does
//! not decide what is sent (`handshake`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bson::RawDocumentBuf;
use bson::oid::ObjectId;

use super::clock;
use super::conn::Conn;
use super::derive::Derivations;
use super::dial::{Dialer, Timeline};
use super::entropy::entropy;
use super::interrupt::Interrupt;
use super::tls::explained;
use crate::auth::Credential;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Stage};
use crate::handshake::{
    ClientMetadata, Conversation, ConversationConfig, DriverInfos, HandshakeCommand, HandshakeStep, HandshakeWork, HandshakeWorkResult,
    HelloReply,
};
use crate::host::ServerAddress;
use crate::observe::log;
use crate::operation::DriverFields;
use crate::options::ClientOptions;
use crate::race::label_overload;

/// The opener of connections, shared by all pools and monitors of a client.
pub(crate) struct Opener {
    dialer: Dialer,
    options: Arc<ClientOptions>,
    introduction: Introduction,
    credential: Option<Credential>,
    keys: Derivations,
}

/// The client metadata of new connections; libraries can be added while it is in use.
#[derive(Clone)]
pub(crate) struct Introduction {
    pub(crate) metadata: ClientMetadata,
    pub(crate) libraries: Arc<Mutex<DriverInfos>>,
}

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For commands: authenticates.
    Application,
    /// For monitoring: never authenticates.
    Monitor,
}

impl Opener {
    pub(crate) fn new(dialer: Dialer, options: Arc<ClientOptions>, introduction: Introduction, credential: Option<Credential>) -> Self {
        Self { dialer, options, introduction, credential, keys: Derivations::new() }
    }

    /// Returns the error of a host whose name is still being looked up, without an earlier answer.
    pub(crate) fn still_asked(&self, host: &ServerAddress) -> Option<Error> {
        self.dialer.resolver().still_asked(host)
    }

    /// Looks up a host's address in advance. Can be dropped at any time.
    ///
    /// # Errors
    /// Those of the look-up.
    pub(crate) async fn name(&self, host: &ServerAddress) -> Result<(), Error> {
        self.dialer.name(host).await
    }

    /// Opens a connection. Can be dropped at any time.
    ///
    /// # Errors
    /// Of every stage from dns to auth; network errors up to hello have the back-pressure labels.
    pub(crate) async fn open(
        &self,
        host: &ServerAddress,
        purpose: Purpose,
        interrupt: Arc<Interrupt>,
        timeline: &mut Timeline,
    ) -> Result<Opened, Error> {
        self.open_telling(host, purpose, interrupt, timeline, &mut |_| ()).await
    }

    /// Opens a connection; behind a load balancer, `greeted` is called with the service as soon as it is known.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub(crate) async fn open_telling(
        &self,
        host: &ServerAddress,
        purpose: Purpose,
        interrupt: Arc<Interrupt>,
        timeline: &mut Timeline,
        greeted: &mut (dyn FnMut(ObjectId) + Send),
    ) -> Result<Opened, Error> {
        let (stream, address) = self.dialer.dial(host, timeline).await?;
        let mut conn = Conn::new(stream, host.clone(), address, interrupt);
        let began = clock::now();
        let deadline = Deadline::maybe("connectTimeoutMS", self.options.connect_timeout_or_default(), began);
        let mut talk = Talk { stage: Stage::Hello, began, round_trip: None, reply: None, greeted };
        let outcome = tokio::select! {
            biased;
            outcome = self.converse(&mut conn, purpose, &mut talk, timeline) => outcome,
            () = clock::sleep_until(deadline.map(|deadline| deadline.at)) => {
                let error = deadline.map(|deadline| deadline.error(talk.stage, clock::now()));
                Err(error.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no deadline")))
            }
        };
        match outcome {
            Ok(hello) => {
                self.dialer.greeted(host, conn.demand());
                // A monitor's connection carries nothing but hello replies.
                if purpose == Purpose::Application {
                    conn.greeted(&hello);
                }
                Ok(Opened { conn, hello, reply: talk.reply, round_trip: talk.round_trip.unwrap_or_default() })
            }
            Err(error) => {
                let address = conn.address();
                let elapsed = clock::now().saturating_duration_since(talk.began);
                let error = if talk.stage == Stage::Hello { explained(error, conn.demand()) } else { error };
                let error = label_overload(as_of(error.on(host).with_address(address).after(elapsed), talk.stage));
                timeline.push(error.stage().unwrap_or(talk.stage), Some(address), elapsed, Some(&error));
                Err(error)
            }
        }
    }

    async fn converse(
        &self,
        conn: &mut Conn,
        purpose: Purpose,
        talk: &mut Talk<'_>,
        timeline: &mut Timeline,
    ) -> Result<Box<HelloReply>, Error> {
        let credential = self.credential.clone().filter(|_| purpose == Purpose::Application);
        let client = self.introduction.document();
        let load_balanced = self.options.load_balanced == Some(true);
        let config = ConversationConfig { client, credential, hello_ok: false, load_balanced, nonces: [entropy()?, entropy()?] };
        let (mut command, mut conversation) = Conversation::new(config);
        loop {
            if command.stage != talk.stage {
                talk.next(command.stage, conn, timeline);
            }
            let reply = say(conn, command).await?;
            talk.round_trip.get_or_insert_with(|| clock::now().saturating_duration_since(talk.began));
            if let Some(service) = conversation.service_in(&reply) {
                (talk.greeted)(service);
            }
            if purpose == Purpose::Monitor && log::wants_topology() {
                talk.reply = Some(reply.clone());
            }
            let mut step = conversation.handle_reply(&reply)?;
            loop {
                match step {
                    HandshakeStep::Send(next, then) => {
                        (command, conversation) = (next, then);
                        break;
                    }
                    HandshakeStep::Work(work, then) => {
                        if talk.stage != Stage::Auth {
                            talk.next(Stage::Auth, conn, timeline);
                        }
                        step = then.handle_work(self.work(work).await?)?;
                    }
                    HandshakeStep::Ready(hello) => {
                        talk.next(Stage::Read, conn, timeline);
                        return Ok(hello);
                    }
                }
            }
        }
    }
}

impl Opener {
    /// Does the work that a conversation asks for.
    async fn work(&self, work: HandshakeWork) -> Result<HandshakeWorkResult, Error> {
        match work {
            HandshakeWork::DeriveKeys(derivation) => self.keys.derive(&derivation).await.map(HandshakeWorkResult::Keys),
        }
    }
}

impl Introduction {
    /// Returns the current `client` document.
    fn document(&self) -> Arc<RawDocumentBuf> {
        self.metadata.document_with(&self.libraries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An opened connection, and the server's hello reply.
pub(crate) struct Opened {
    pub(crate) conn: Conn,
    pub(crate) hello: Box<HelloReply>,
    /// The unparsed hello reply of a monitor's connection, if the log wants it.
    pub(crate) reply: Option<RawDocumentBuf>,
    /// The duration of the hello exchange.
    pub(crate) round_trip: Duration,
}

/// The progress of the handshake, for its errors.
struct Talk<'a> {
    stage: Stage,
    began: Instant,
    round_trip: Option<Duration>,
    reply: Option<RawDocumentBuf>,
    greeted: &'a mut (dyn FnMut(ObjectId) + Send),
}

impl Talk<'_> {
    /// Records that a stage is complete and the next begins.
    fn next(&mut self, stage: Stage, conn: &Conn, timeline: &mut Timeline) {
        let now = clock::now();
        timeline.push(self.stage, Some(conn.address()), now.saturating_duration_since(self.began), None);
        self.stage = stage;
        self.began = now;
    }
}

/// Wipes the sent message on drop.
struct WipeOnDrop<'a>(&'a mut Conn);

impl Drop for WipeOnDrop<'_> {
    fn drop(&mut self) {
        self.0.wipe();
    }
}

async fn say(conn: &mut Conn, command: HandshakeCommand) -> Result<RawDocumentBuf, Error> {
    let fields = DriverFields { database: &command.database, ..DriverFields::default() };
    let wiping = WipeOnDrop(conn);
    wiping.0.queue_secret(command.body, &fields);
    let message = wiping.0.exchange().await?;
    drop(wiping);
    Ok(message.body().to_owned())
}

/// Sets the stage of the handshake instead of the socket's.
fn as_of(error: Error, stage: Stage) -> Error {
    if matches!(error.stage(), Some(Stage::Read | Stage::Write) | None) { error.restage(stage) } else { error }
}
