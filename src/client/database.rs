//! A database handle, and the generic commands that are run on it.
//!
//! run-command. Does not decide how a command is sent (`executor`).

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf};

use super::cursor::{Cursor, Fetched};
use super::decode::FromReply;
use super::executor::OperationRun;
use super::handle::Client;
use super::pin::Pinned;
use super::sessions::CursorSession;
use super::time_limits::Time;
use crate::cursor::GetMoreOptions;
use crate::error::{Error, ErrorKind, Execution, Result, Stage};
use crate::host::ServerAddress;
use crate::operation::{Command as _, GenericCommand, GenericCursorCommand, Reply, check_name};
use crate::selection::ReadPreference;

/// A handle to a database of a client's deployment.
#[derive(Debug)]
pub struct Database(Arc<SharedDatabase>);

/// The parts that all commands on a database share. Reference-counted, on a cache line of its own.
#[derive(Clone, Debug)]
#[repr(align(128))]
struct SharedDatabase {
    client: Client,
    name: Arc<str>,
    /// Whether a database can have this name.
    is_valid: bool,
}

/// A command to run: configure it, then `.await` it.
///
/// The reply is a [`Document`]; [`raw`](Self::raw) and [`typed`](Self::typed) return it in other forms.
#[must_use = "nothing is sent before it is awaited"]
pub struct RunCommand<T = Document> {
    pending: PendingCommand,
    form: PhantomData<fn() -> T>,
}

/// A command to run whose reply is a cursor: configure it, then `.await` it.
#[must_use = "nothing is sent before it is awaited"]
pub struct RunCursorCommand<T = Document> {
    pending: PendingCommand,
    more: GetMoreOptions,
    form: PhantomData<fn() -> T>,
}

/// The parts of both kinds of commands.
struct PendingCommand {
    database: Arc<SharedDatabase>,
    operation: GenericCommand,
    time: Time,
    /// The error that prevents sending it.
    invalid: Option<Error>,
}

/// The future of a [`RunCommand`]. It can be dropped at any time.
#[must_use = "nothing is sent before it is awaited"]
pub struct CommandFuture<T> {
    database: Arc<SharedDatabase>,
    run: OperationRun<GenericCommand>,
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
    fn new(client: Client, name: Arc<str>) -> Self {
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

/// A type that can be run as a command: a [`Document`], or a [`RawDocumentBuf`], which is not encoded again.
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
        let (command, mut invalid) = match command.into_command() {
            Ok(command) => {
                let invalid = check_name(&command).err();
                (command, invalid)
            }
            Err(error) => (RawDocumentBuf::new(), Some(error)),
        };
        if !database.0.is_valid {
            // Not quoted: it may be a connection string that was given in the place of a name.
            let text = r#"not a database name: it is empty, or has one of '.', ' ', '/', '\', '"', '$' and the zero character"#;
            invalid = Some(Error::new(ErrorKind::InvalidArgument, text).at(Stage::Write));
        }
        Self { database: Arc::clone(&database.0), operation: GenericCommand::new(command), time: Time::Default, invalid }
    }
}

impl fmt::Debug for PendingCommand {
    /// Prints the name of the command alone: its fields can be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.operation.name();
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

macro_rules! command_options {
    () => {
        /// Sets the read preference.
        pub fn read_preference(mut self, preference: ReadPreference) -> Self {
            self.pending.operation.set_read_preference(preference);
            self
        }

        /// Sends it to this server, as long as it is known and holds data; it may then read there as a secondary does.
        ///
        /// A server that does not belong to the deployment is refused at once, when the members are known.
        pub fn on_server(mut self, host: ServerAddress) -> Self {
            self.pending.operation.set_server(host);
            self
        }

        /// Limits the whole call: start, selection, check-out and exchange.
        pub fn timeout(mut self, limit: Duration) -> Self {
            self.pending.time = Time::Limit(limit);
            self
        }

        /// Sends documents beside the command, as a sequence of their own (OP_MSG, kind 1): for large batches.
        pub fn documents(mut self, identifier: impl Into<String>, documents: Vec<RawDocumentBuf>) -> Self {
            self.pending.operation.add_documents(identifier.into(), documents);
            self
        }
    };
}

impl<T> RunCommand<T> {
    command_options!();

    /// Returns the reply as a type.
    pub fn typed<U: FromReply>(self) -> RunCommand<U> {
        RunCommand { pending: self.pending, form: PhantomData }
    }

    /// Returns the reply as the received bytes.
    pub fn raw(self) -> RunCommand<Reply> {
        self.typed()
    }
}

impl<T> RunCursorCommand<T> {
    command_options!();

    /// Returns the documents as a type.
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
        let PendingCommand { database, operation, time, invalid } = self.pending;
        CommandFuture { database, run: OperationRun::new(operation.targeted(), time), invalid, form: PhantomData }
    }
}

impl<T: FromReply> Future for CommandFuture<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(error) = self.invalid.take() {
            return Poll::Ready(Err(error.of_command(Execution::Never, self.run.is_idempotent_read())));
        }
        let Self { database, run, .. } = &mut *self;
        let reply = ready!(run.poll(database.client.core(), &database.name, context))?;
        Poll::Ready(T::from_reply(reply).map_err(|error| self.run.after_success(error)))
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

    fn into_future(self) -> Self::IntoFuture {
        let PendingCommand { database, operation, time, invalid } = self.pending;
        let more = self.more;
        Box::pin(async move {
            let run = OperationRun::new(GenericCursorCommand::new(operation.targeted()), time);
            if let Some(error) = invalid {
                return Err(error.of_command(Execution::Never, run.is_idempotent_read()));
            }
            let timeout = run.limit();
            let core = database.client.core();
            let mut attended = core.attend(run);
            let opened = attended.outcome(&database.name).await?;
            let session = attended.run.take_session().map(|in_use| CursorSession::new(in_use, &core.sessions));
            let fetched = Fetched { opened, session, pin: Pinned::of(&mut attended.run), took: None };
            Ok(Cursor::new(database.client.clone(), fetched, more, timeout))
        })
    }
}

impl Client {
    /// Returns a handle to a database. Performs no I/O.
    pub fn database(&self, name: impl Into<Arc<str>>) -> Database {
        Database::new(self.clone(), name.into())
    }

    /// Returns a handle to the database of the connection string, if it names one.
    pub fn default_database(&self) -> Option<Database> {
        let name = self.core().options().database.clone()?;
        Some(self.database(name))
    }
}
