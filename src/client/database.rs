//! How is a command run on a database?

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf};

use super::Client;
use super::call::{Call, InSession, Reply};
use super::cursor::{Cursor, FromReply};
use crate::cursor::GetMoreOptions;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::host::HostKey;
use crate::selection::{Criteria, ReadPreference, ReadPreferenceMode};
use crate::wire::Request;

/// Names a database of a client's deployment.
#[derive(Clone, Debug)]
pub struct Database {
    client: Client,
    name: Arc<str>,
}

/// Is a command that is about to be run: configure it, then `.await` it.
///
/// The reply is a [`Document`]; [`raw`](Self::raw) and [`typed`](Self::typed) give it in other forms.
#[must_use = "nothing is sent before it is awaited"]
pub struct RunCommand<T = Document> {
    plan: Plan,
    form: PhantomData<fn() -> T>,
}

/// Is a command that makes a cursor, and is about to be run: configure it, then `.await` it.
#[must_use = "nothing is sent before it is awaited"]
pub struct RunCursorCommand<T = Document> {
    plan: Plan,
    more: GetMoreOptions,
    form: PhantomData<fn() -> T>,
}

/// What both kinds of commands are made of.
struct Plan {
    client: Client,
    database: Arc<str>,
    request: Result<Request>,
    read_preference: ReadPreference,
    server: Option<HostKey>,
    timeout: Option<Duration>,
}

impl Database {
    pub(super) fn new(client: Client, name: Arc<str>) -> Self {
        Self { client, name }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command; nothing in it is looked at but its name (run-command).
    ///
    /// The read preference is `primary` unless [`read_preference`](RunCommand::read_preference) says otherwise; nothing
    /// is retried.
    ///
    /// # Errors
    /// Of every stage; [`Command`](ErrorKind::Command) if the server answers with an error.
    pub fn run_command(&self, command: impl IntoCommand) -> RunCommand {
        RunCommand { plan: Plan::new(self, command), form: PhantomData }
    }

    /// Runs a command whose reply is a cursor.
    ///
    /// # Errors
    /// Those of [`run_command`](Self::run_command), and [`Protocol`](ErrorKind::Protocol) if the reply has no cursor.
    pub fn run_cursor_command(&self, command: impl IntoCommand) -> RunCursorCommand {
        RunCursorCommand { plan: Plan::new(self, command), more: GetMoreOptions::default(), form: PhantomData }
    }
}

/// Is what can be run as a command: a [`Document`], or a [`RawDocumentBuf`], which is not encoded again.
pub trait IntoCommand {
    /// Encodes the command.
    ///
    /// # Errors
    /// [`Bson`](ErrorKind::Bson) if it can't be encoded.
    fn into_command(self) -> Result<RawDocumentBuf>;
}

impl IntoCommand for Document {
    fn into_command(self) -> Result<RawDocumentBuf> {
        Ok(RawDocumentBuf::try_from(&self)?)
    }
}

impl IntoCommand for RawDocumentBuf {
    fn into_command(self) -> Result<RawDocumentBuf> {
        Ok(self)
    }
}

impl Plan {
    fn new(database: &Database, command: impl IntoCommand) -> Self {
        Self {
            client: database.client.clone(),
            database: Arc::clone(&database.name),
            request: command.into_command().map(Request::from),
            read_preference: ReadPreference::primary(),
            server: None,
            timeout: None,
        }
    }

    fn criteria(&self) -> Arc<Criteria> {
        match &self.server {
            Some(host) => Arc::new(Criteria::server(host.clone())),
            None if self.read_preference == ReadPreference::primary() => Arc::clone(&self.client.inner().primary),
            None => Arc::new(Criteria::read(self.read_preference.clone())),
        }
    }

    fn call(self) -> Result<(Client, Call)> {
        let criteria = self.criteria();
        let deadline = self.client.inner().call_deadline(self.timeout);
        if self.database.is_empty() || self.database.contains(['\0', '.', ' ', '/', '\\', '"', '$']) && &*self.database != "$external" {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{:?} is not a database name", self.database)).at(Stage::Write));
        }
        let mut preference = self.read_preference;
        if self.server.is_some() && preference.mode == ReadPreferenceMode::Primary {
            // Who names a server wants its answer, whatever it is.
            preference = ReadPreference::primary_preferred();
        }
        let read_preference = Some(preference);
        let (database, request) = (self.database, self.request?);
        let call = Call { database, request, criteria, read_preference, deadline, session: InSession::Implicit, pins: false };
        Ok((self.client, call))
    }
}

macro_rules! plan_options {
    () => {
        /// Sets the read preference.
        pub fn read_preference(mut self, preference: ReadPreference) -> Self {
            self.plan.read_preference = preference;
            self
        }

        /// Sends it to this server, as long as it is known and holds data; it may then read there as a secondary does.
        pub fn on_server(mut self, host: HostKey) -> Self {
            self.plan.server = Some(host);
            self
        }

        /// Limits the whole call: start, selection, check-out and exchange.
        pub fn timeout(mut self, limit: Duration) -> Self {
            self.plan.timeout = Some(limit);
            self
        }

        /// Sends documents beside the command, as a sequence of their own (OP_MSG, kind 1): for large batches.
        pub fn documents(mut self, identifier: impl Into<String>, documents: Vec<RawDocumentBuf>) -> Self {
            if let Ok(request) = &mut self.plan.request {
                request.sequences.push((identifier.into(), documents));
            }
            self
        }
    };
}

impl<T> RunCommand<T> {
    plan_options!();

    /// Gives the reply as a type.
    pub fn typed<U: FromReply>(self) -> RunCommand<U> {
        RunCommand { plan: self.plan, form: PhantomData }
    }

    /// Gives the reply as the bytes that came.
    pub fn raw(self) -> RunCommand<Reply> {
        self.typed()
    }
}

impl<T> RunCursorCommand<T> {
    plan_options!();

    /// Gives the documents as a type.
    pub fn typed<U: FromReply>(self) -> RunCursorCommand<U> {
        RunCursorCommand { plan: self.plan, more: self.more, form: PhantomData }
    }

    /// Sets how many documents each further batch has at the most.
    pub fn batch_size(mut self, size: u32) -> Self {
        self.more.batch_size = Some(size);
        self
    }

    /// Sets how long the server waits for documents of each further batch (tailable cursors that await data).
    pub fn max_await_time(mut self, span: Duration) -> Self {
        self.more.max_time = Some(span);
        self
    }

    /// Sets the comment of each further batch.
    pub fn comment(mut self, comment: impl Into<Bson>) -> Self {
        self.more.comment = Some(comment.into());
        self
    }
}

impl<T: FromReply> IntoFuture for RunCommand<T> {
    type Output = Result<T>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (client, call) = self.plan.call()?;
            let outcome = client.inner().run(call).await?;
            T::from_reply(outcome.reply)
        })
    }
}

impl<T: FromReply> IntoFuture for RunCursorCommand<T> {
    type Output = Result<Cursor<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Cursor<T>>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let timeout = self.plan.timeout;
            let (client, mut call) = self.plan.call()?;
            call.pins = true;
            let outcome = client.inner().run(call).await?;
            Cursor::new(client, outcome, self.more, timeout)
        })
    }
}
