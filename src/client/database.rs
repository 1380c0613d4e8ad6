//! How is a command run on a database?

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf};

use super::Client;
use super::call::{Call, InSession, Outcome, Preference, Reply, Time};
use super::cursor::{Cursor, Fetched, FromReply, read};
use super::pin::Pinned;
use super::run::Run;
use crate::cursor::GetMoreOptions;
use crate::error::{Error, ErrorKind, Execution, Result, Stage};
use crate::host::ServerAddress;
use crate::operation::command_name;
use crate::selection::{Criteria, ReadPreference};
use crate::wire::{InputDocument, Request};

/// Names a database of a client's deployment.
#[derive(Debug)]
pub struct Database(Arc<SharedDatabase>);

/// Is what all commands on a database share. They are counted: nothing else stands where they are.
#[derive(Clone, Debug)]
#[repr(align(128))]
struct SharedDatabase {
    client: Client,
    name: Arc<str>,
    /// Whether a database can have this name.
    is_valid: bool,
}

/// Is a command that is about to be run: configure it, then `.await` it.
///
/// The reply is a [`Document`]; [`raw`](Self::raw) and [`typed`](Self::typed) give it in other forms.
#[must_use = "nothing is sent before it is awaited"]
pub struct RunCommand<T = Document> {
    pending: PendingCommand,
    form: PhantomData<fn() -> T>,
}

/// Is a command that makes a cursor, and is about to be run: configure it, then `.await` it.
#[must_use = "nothing is sent before it is awaited"]
pub struct RunCursorCommand<T = Document> {
    pending: PendingCommand,
    more: GetMoreOptions,
    form: PhantomData<fn() -> T>,
}

/// What both kinds of commands are made of.
struct PendingCommand {
    database: Arc<SharedDatabase>,
    call: Call,
    /// Why it can't be sent.
    invalid: Option<Error>,
}

/// Is the future of a [`RunCommand`]. It can be dropped at any moment.
#[must_use = "nothing is sent before it is awaited"]
pub struct CommandFuture<T> {
    database: Arc<SharedDatabase>,
    run: Run,
    invalid: Option<Error>,
    form: PhantomData<fn() -> T>,
}

impl Clone for Database {
    /// Every clone has a count of its own: cores whose tasks have a clone each do not meet at it with every command.
    fn clone(&self) -> Self {
        Self(Arc::new(SharedDatabase::clone(&self.0)))
    }
}

impl Database {
    pub(super) fn new(client: Client, name: Arc<str>) -> Self {
        let is_valid = !name.is_empty() && (!name.contains(['\0', '.', ' ', '/', '\\', '"', '$']) || &*name == "$external");
        Self(Arc::new(SharedDatabase { client, name, is_valid }))
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs a command; nothing in it is looked at but its name (run-command).
    ///
    /// The read preference is `primary` unless [`read_preference`](RunCommand::read_preference) says otherwise; nothing
    /// is retried.
    ///
    /// `Ok` says that the server ran the command, not that it carried out every write in it: the reply to an insert, update or
    /// delete may have `writeErrors`, one for each write that was refused, and a `writeConcernError`. Read them with
    /// [`raw`](RunCommand::raw) and [`Reply::write_errors`], [`Reply::write_concern_error`], or as fields of the document.
    ///
    /// Each command runs in an implicit session, which differs from call to call. A command that opens a cursor belongs to
    /// [`run_cursor_command`](Self::run_cursor_command): a `getMore` sent here runs in another session than the cursor's, and
    /// servers refuse it. A command that brings an `lsid` of its own is refused too, because the driver adds one.
    ///
    /// # Errors
    /// Of every stage; [`Command`](ErrorKind::Command) if the server answers with an error.
    pub fn run_command(&self, command: impl IntoCommand) -> RunCommand {
        RunCommand { pending: PendingCommand::new(self, command), form: PhantomData }
    }

    /// Runs a command whose reply is a cursor.
    ///
    /// # Errors
    /// Those of [`run_command`](Self::run_command), and [`Protocol`](ErrorKind::Protocol) if the reply has no cursor.
    pub fn run_cursor_command(&self, command: impl IntoCommand) -> RunCursorCommand {
        RunCursorCommand { pending: PendingCommand::new(self, command), more: GetMoreOptions::default(), form: PhantomData }
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

impl PendingCommand {
    fn new(database: &Database, command: impl IntoCommand) -> Self {
        let (request, mut invalid) = match command.into_command() {
            Ok(command) => (Request::from(command), None),
            Err(error) => (Request::from(RawDocumentBuf::new()), Some(error)),
        };
        if !database.0.is_valid {
            // Not quoted: it may be a connection string that was given in the place of a name.
            let text = r#"not a database name: it is empty, or has one of '.', ' ', '/', '\', '"', '$' and the zero character"#;
            invalid = Some(Error::new(ErrorKind::InvalidArgument, text).at(Stage::Write));
        }
        let call = Call {
            request,
            criteria: None,
            preference: Preference::Primary,
            time: Time::Default,
            session: InSession::Implicit,
            pins: false,
        };
        Self { database: Arc::clone(&database.0), call, invalid }
    }

    fn start<T>(self) -> CommandFuture<T> {
        let Self { database, mut call, invalid } = self;
        match (&call.criteria, &call.preference) {
            (Some(_), Preference::Primary) => {
                // Who names a server wants its answer, whatever it is.
                call.preference = Preference::Of(Box::new(ReadPreference::primary_preferred()));
            }
            (None, Preference::Of(preference)) => call.criteria = Some(Arc::new(Criteria::read((**preference).clone()))),
            (Some(_) | None, _) => {}
        }
        CommandFuture { database, run: Run::new(call), invalid, form: PhantomData }
    }
}

impl fmt::Debug for PendingCommand {
    /// Prints the name of the command alone: its fields can be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = command_name(self.call.request.body.document());
        f.debug_struct("PendingCommand").field("database", &self.database.name).field("command", &name).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for RunCommand<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunCommand").field(&self.pending).finish()
    }
}

impl<T> fmt::Debug for RunCursorCommand<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunCursorCommand").field(&self.pending).finish()
    }
}

impl<T> fmt::Debug for CommandFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandFuture").field("database", &self.database.name).finish_non_exhaustive()
    }
}

impl<T> CommandFuture<T> {
    fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Result<Outcome>> {
        if let Some(error) = self.invalid.take() {
            return Poll::Ready(Err(error.of_command(Execution::Never, self.run.is_idempotent_read())));
        }
        self.run.poll(self.database.client.core(), &self.database.name, context)
    }

    /// Adds to the error of reading a good reply that the command was executed.
    #[cold]
    fn after_success(&self, error: Error) -> Error {
        error.of_command(Execution::Possible, self.run.is_idempotent_read())
    }
}

macro_rules! command_options {
    () => {
        /// Sets the read preference.
        pub fn read_preference(mut self, preference: ReadPreference) -> Self {
            self.pending.call.preference = match preference == ReadPreference::primary() {
                true => Preference::Primary,
                false => Preference::Of(Box::new(preference)),
            };
            self
        }

        /// Sends it to this server, as long as it is known and holds data; it may then read there as a secondary does.
        ///
        /// A server that does not belong to the deployment is refused at once, when the members are known.
        pub fn on_server(mut self, host: ServerAddress) -> Self {
            self.pending.call.criteria = Some(Arc::new(Criteria::server(host)));
            self
        }

        /// Limits the whole call: start, selection, check-out and exchange.
        pub fn timeout(mut self, limit: Duration) -> Self {
            self.pending.call.time = Time::Limit(limit);
            self
        }

        /// Sends documents beside the command, as a sequence of their own (OP_MSG, kind 1): for large batches.
        pub fn documents(mut self, identifier: impl Into<String>, documents: Vec<RawDocumentBuf>) -> Self {
            self.pending.call.request.sequences.push((identifier.into(), documents.into_iter().map(InputDocument::from).collect()));
            self
        }
    };
}

impl<T> RunCommand<T> {
    command_options!();

    /// Gives the reply as a type.
    pub fn typed<U: FromReply>(self) -> RunCommand<U> {
        RunCommand { pending: self.pending, form: PhantomData }
    }

    /// Gives the reply as the bytes that came.
    pub fn raw(self) -> RunCommand<Reply> {
        self.typed()
    }
}

impl<T> RunCursorCommand<T> {
    command_options!();

    /// Gives the documents as a type.
    pub fn typed<U: FromReply>(self) -> RunCursorCommand<U> {
        RunCursorCommand { pending: self.pending, more: self.more, form: PhantomData }
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
    type IntoFuture = CommandFuture<T>;

    fn into_future(self) -> Self::IntoFuture {
        self.pending.start()
    }
}

impl<T: FromReply> Future for CommandFuture<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_outcome(context).map(|outcome| T::from_reply(outcome?.reply).map_err(|error| self.after_success(error)))
    }
}

impl<T> Drop for CommandFuture<T> {
    fn drop(&mut self) {
        self.run.abandon(self.database.client.core());
    }
}

impl<T: FromReply> IntoFuture for RunCursorCommand<T> {
    type Output = Result<Cursor<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Cursor<T>>> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            self.pending.call.pins = true;
            let timeout = match self.pending.call.time {
                Time::Limit(limit) => Some(limit),
                Time::Default | Time::Until(_) => None,
            };
            let mut running = self.pending.start::<T>();
            let Outcome { reply, session } = poll_fn(|context| running.poll_outcome(context)).await?;
            let (cursor, batch) = read(&reply).map_err(|error| running.after_success(error))?;
            let fetched = Fetched { cursor, batch, session, pin: Pinned::of(&mut running.run), took: None };
            Ok(Cursor::new(running.database.client.clone(), fetched, reply.host().clone(), self.more, timeout))
        })
    }
}
