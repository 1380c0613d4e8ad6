//! The executor: runs an operation to its end, over one attempt or several.
//!
//! All operations go through here. The first attempt lies in the future itself; what further attempts need is allocated with
//! the first failure that the retry policy repeats. Operation and session stay here, and an attempt borrows them.
//! Does not decide which failures are repeated (`operation::retry`), nor how an attempt goes (`attempt`).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, AttemptScope};
use super::checkout::CheckedOutConn;
use super::exchange::{Answer, Attempted, failure_without_reply};
use super::running::ClientCore;
use super::sessions::SessionInUse;
use super::time_limits::Time;
use crate::deadline::Deadline;
use crate::error::{Error, Execution, Result};
use crate::host::ServerAddress;
use crate::io::clock;
use crate::io::conn::Conn;
use crate::operation::execution::is_idempotent_read;
use crate::operation::{AttemptHistory, Command, DriverFields, Failure, Operation, Reply, Verdict, command_error};
use crate::selection::Criteria;
use crate::wire::Flags;

/// An operation in progress.
pub(super) struct OperationRun<O> {
    operation: O,
    attempts: Attempts,
}

/// The attempts of an operation, and what they share. Not generic: compiled once for all operations.
struct Attempts {
    time: Time,
    session: Option<SessionInUse>,
    progress: Progress,
}

enum Progress {
    /// The first attempt.
    First(Attempt),
    /// A further attempt, or the pause before it.
    Again(Box<Retrying>),
}

/// The state of repeated operations only.
struct Retrying {
    history: AttemptHistory,
    /// The servers to avoid, as a target of the next attempt.
    avoiding: Option<Arc<Criteria>>,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    attempt: Attempt,
}

/// An operation that is abandoned when it is dropped before its end.
pub(super) struct Attended<'a, O: Operation> {
    pub(super) run: OperationRun<O>,
    core: &'a Arc<ClientCore>,
}

impl<O: Operation> OperationRun<O> {
    pub(super) fn new(operation: O, time: Time) -> Self {
        Self { operation, attempts: Attempts { time, session: None, progress: Progress::First(Attempt::new()) } }
    }

    /// Creates an operation on a connection that its caller keeps. [`take_conn`](Self::take_conn) returns it.
    pub(super) fn on(conn: CheckedOutConn, deadline: Option<Deadline>, operation: O) -> Self {
        let progress = Progress::First(Attempt::on(conn, deadline));
        Self { operation, attempts: Attempts { time: Time::Default, session: None, progress } }
    }

    /// Sets the session that the operation runs in.
    pub(super) fn in_session(mut self, session: Option<SessionInUse>) -> Self {
        self.attempts.session = session;
        self
    }

    /// Continues the operation until it is over.
    #[inline]
    pub(super) fn poll(&mut self, core: &Arc<ClientCore>, database: &Arc<str>, context: &mut Context<'_>) -> Poll<Result<O::Output>> {
        let reply = ready!(self.attempts.poll(core, database, &mut self.operation, context))?;
        Poll::Ready(self.operation.parse(reply).map_err(|error| self.after_success(error)))
    }

    /// Adds to the error of reading a successful reply that the command was executed.
    #[cold]
    pub(super) fn after_success(&self, error: Error) -> Error {
        error.of_command(Execution::Possible, self.is_idempotent_read())
    }

    /// Returns the limit that the caller set for this operation.
    pub(super) fn limit(&self) -> Option<Duration> {
        match self.attempts.time {
            Time::Limit(limit) => Some(limit),
            Time::Default | Time::Until(_) => None,
        }
    }

    /// Returns whether repeating the command has no effect on the server.
    pub(super) fn is_idempotent_read(&self) -> bool {
        is_idempotent_read(self.operation.request().body.document())
    }

    /// Ends an operation whose caller does not wait for the reply. Does nothing after its end.
    pub(super) fn abandon(&mut self, core: &Arc<ClientCore>) {
        self.attempts.abandon(core, &self.operation);
    }

    /// Takes the connection that a completed operation has kept.
    pub(super) fn take_conn(&mut self) -> Option<CheckedOutConn> {
        self.attempts.progress.attempt().take_conn()
    }

    /// Takes the session that the reply's cursor keeps.
    pub(super) fn take_session(&mut self) -> Option<SessionInUse> {
        self.attempts.session.take()
    }
}

impl Attempts {
    #[inline]
    fn poll(
        &mut self,
        core: &Arc<ClientCore>,
        database: &Arc<str>,
        command: &mut dyn Command,
        context: &mut Context<'_>,
    ) -> Poll<Result<Reply>> {
        loop {
            match ready!(self.poll_attempt(core, database, command, context)) {
                Ok(Answer { reply, has_cursor, at }) => {
                    if !(has_cursor && command.rules().session.is_of_cursor()) {
                        self.put_session(core, at);
                    }
                    return Poll::Ready(Ok(reply));
                }
                Err(failure) => {
                    if let Err(error) = self.handle_failure(core, *failure, command) {
                        self.put_session(core, clock::now());
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
    }

    /// Continues the present attempt, after the pause before it.
    #[inline]
    fn poll_attempt(
        &mut self,
        core: &Arc<ClientCore>,
        database: &Arc<str>,
        command: &mut dyn Command,
        context: &mut Context<'_>,
    ) -> Poll<Attempted> {
        let (attempt, avoiding) = match &mut self.progress {
            Progress::First(attempt) => (attempt, None),
            Progress::Again(retrying) => {
                if let Some(pause) = &mut retrying.pause {
                    ready!(pause.as_mut().poll(context));
                    retrying.pause = None;
                }
                (&mut retrying.attempt, retrying.avoiding.as_ref())
            }
        };
        let mut scope = AttemptScope { core, database, command, session: &mut self.session, time: &self.time, avoiding };
        attempt.poll(&mut scope, context)
    }

    /// Prepares the next attempt, or returns the error that ends the operation.
    #[cold]
    fn handle_failure(&mut self, core: &Arc<ClientCore>, failure: Failure, command: &dyn Command) -> Result<()> {
        let mut history = match &mut self.progress {
            Progress::First(_) => AttemptHistory::default(),
            Progress::Again(retrying) => std::mem::take(&mut retrying.history),
        };
        let (deadline, now) = (self.progress.attempt().deadline(), clock::now());
        let random = core.sessions.thread_caches.draw();
        tracing::trace!(command = %command.name(), server = ?failure.server, sent = ?failure.sent, wire_version = ?failure.wire_version, "attempt failed");
        match core.retry_policy().decide(&mut history, failure, command.rules(), deadline, random, now) {
            Verdict::GiveUp(error) => Err(error),
            Verdict::Retry { after, avoid } => {
                tracing::debug!(command = %command.name(), ?after, "an overloaded server refused the command, which is repeated");
                let pause = Box::pin(clock::sleep_until(Some(now + after)));
                let avoiding = avoid.map(|host| avoiding(command.target().unwrap_or(core.primary()), host));
                let attempt = Attempt::again(deadline);
                self.progress = Progress::Again(Box::new(Retrying { history, avoiding, pause: Some(pause), attempt }));
                Ok(())
            }
        }
    }

    fn abandon(&mut self, core: &Arc<ClientCore>, command: &dyn Command) {
        self.progress.attempt().abandon(core, command, &mut self.session);
        // Still here if the command was not sent.
        self.put_session(core, clock::now());
    }

    #[inline]
    fn put_session(&mut self, core: &ClientCore, now: Instant) {
        if let Some(session) = self.session.take() {
            core.sessions.put(session, now);
        }
    }
}

impl Progress {
    fn attempt(&mut self) -> &mut Attempt {
        match self {
            Self::First(attempt) => attempt,
            Self::Again(retrying) => &mut retrying.attempt,
        }
    }
}

impl<O: Operation> Attended<'_, O> {
    pub(super) async fn outcome(&mut self, database: &Arc<str>) -> Result<O::Output> {
        poll_fn(|context| self.run.poll(self.core, database, context)).await
    }
}

impl<O: Operation> Drop for Attended<'_, O> {
    fn drop(&mut self) {
        self.run.abandon(self.core);
    }
}

impl ClientCore {
    /// Runs an operation. Can be dropped at any moment.
    pub(super) async fn run<O: Operation>(self: &Arc<Self>, database: &Arc<str>, operation: O, time: Time) -> Result<O::Output> {
        self.attend(OperationRun::new(operation, time)).outcome(database).await
    }

    /// Wraps an operation so that it is abandoned when its future is dropped.
    pub(super) fn attend<O: Operation>(self: &Arc<Self>, run: OperationRun<O>) -> Attended<'_, O> {
        Attended { run, core: self }
    }
}

/// Runs an operation on a connection outside of the pools, in no session: build, exchange, classify, parse.
///
/// # Errors
/// Those of the exchange, of an error reply, and the deadline's.
pub(super) async fn run_alone<O: Operation>(conn: &mut Conn, database: &str, mut operation: O, deadline: Deadline) -> Result<O::Output> {
    let facts = *conn.facts();
    conn.queue(Flags::default(), operation.build(&facts)?, &DriverFields { database, ..DriverFields::default() });
    let outcome = match clock::until(deadline.at, conn.exchange()).await {
        Some(outcome) => outcome,
        None => Err(deadline.error(conn.stage(), clock::now())),
    };
    let message = outcome.map_err(|error| failure_without_reply(error, conn, &operation).error)?;
    let reply = Reply::new(message.into_body(), conn.host().clone());
    match command_error(reply.document()) {
        Some(error) => Err(Failure::refused(error, reply, facts.wire_version, operation.request()).error),
        None => operation.parse(reply),
    }
}

/// Adds a server to avoid to a target.
fn avoiding(target: &Criteria, host: ServerAddress) -> Arc<Criteria> {
    Arc::new(target.clone().with_deprioritized(vec![host]))
}

#[cfg(all(test, feature = "sandbox"))]
mod tests {
    use bson::{Document, RawDocumentBuf, doc};

    use super::*;
    use crate::client::config::{ClientConfig, NonUriOptions};
    use crate::client::handle::Client;
    use crate::observe::events::Event;
    use crate::operation::{CommandEvent, RetryPolicy};
    use crate::uri::ConnectionString;

    fn client(sandbox: &crate::Sandbox, retry: RetryPolicy) -> Client {
        let options = ConnectionString::parse(&sandbox.uri()).expect("a connection string").options;
        let non_uri = NonUriOptions { retry, ..NonUriOptions::default() };
        let config = ClientConfig { options: Arc::new(options), warnings: Vec::new(), non_uri, libraries: Arc::default() };
        Client::from_core(ClientCore::new(config))
    }

    /// Makes the sandbox refuse the next pings as an overloaded server does.
    fn overload(sandbox: &crate::Sandbox, times: i32) {
        let data = doc! { "failCommands": ["ping"], "errorCode": 462, "errorLabels": ["SystemOverloadedError", "RetryableError"] };
        let fail_point = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
        sandbox.fail_point(0, &fail_point).expect("a fail point");
    }

    /// Pings, and returns the outcome with the session of each attempt.
    async fn ping(client: &Client) -> (Result<Document>, Vec<RawDocumentBuf>) {
        let mut events = client.events();
        let outcome = client.database("admin").run_command(doc! { "ping": 1 }).await;
        client.database("admin").run_command(doc! { "hello": 1 }).await.expect("a last event");
        let mut sessions = Vec::new();
        loop {
            match events.next().await {
                Some(Event::Command(CommandEvent::Started { name, command, .. })) if &*name == "ping" => {
                    sessions.push(command.get_document("lsid").expect("a session").to_owned());
                }
                Some(Event::Command(CommandEvent::Started { name, .. })) if &*name == "hello" => return (outcome, sessions),
                Some(_) => {}
                None => panic!("the client runs"),
            }
        }
    }

    #[tokio::test]
    async fn overloaded_server_is_asked_again_in_the_same_session_by_the_overload_policy_only() {
        let sandbox = crate::Sandbox::builder().members(1).start().await.expect("sandbox");
        let retrying = client(&sandbox, RetryPolicy::overload(2, true));
        overload(&sandbox, 2);
        let (outcome, sessions) = ping(&retrying).await;
        assert_eq!((outcome.is_ok(), sessions.len()), (true, 3), "{outcome:?}");
        assert!(sessions.iter().all(|session| *session == sessions[0]), "{sessions:?}");
        overload(&sandbox, 3);
        let (outcome, sessions) = ping(&retrying).await;
        assert_eq!((outcome.expect_err("given up").code(), sessions.len()), (Some(462), 3));
        overload(&sandbox, 1);
        let (outcome, sessions) = ping(&client(&sandbox, RetryPolicy::NEVER)).await;
        assert_eq!((outcome.expect_err("not repeated").code(), sessions.len()), (Some(462), 1));
        let (outcome, again) = ping(&retrying).await;
        assert!(outcome.is_ok() && again.len() == 1);
        sandbox.shutdown().await;
    }

    #[tokio::test]
    async fn operation_that_is_dropped_in_the_pause_puts_its_session_back() {
        let sandbox = crate::Sandbox::builder().members(1).start().await.expect("sandbox");
        let retrying = client(&sandbox, RetryPolicy::overload(1000, false));
        retrying.warm_up().await.expect("warm");
        overload(&sandbox, 1_000_000);
        let mut run = OperationRun::new(crate::operation::GenericCommand::new(bson::rawdoc! { "ping": 1 }), Time::Default);
        let database = Arc::from("admin");
        let lsid = poll_fn(|context| {
            assert!(run.poll(retrying.core(), &database, context).is_pending(), "the server stays overloaded");
            match &run.attempts.progress {
                Progress::Again(retrying) if retrying.pause.is_some() => {
                    Poll::Ready(run.attempts.session.as_ref().expect("kept").session.lsid().clone())
                }
                Progress::First(_) | Progress::Again(_) => Poll::Pending,
            }
        })
        .await;
        run.abandon(retrying.core());
        let sessions = &retrying.core().sessions;
        let taken = sessions.take(&mut sessions.thread_caches.own(), Duration::from_secs(1800), clock::now()).expect("a session");
        assert_eq!(taken.session.lsid(), &lsid);
        sandbox.shutdown().await;
    }
}
