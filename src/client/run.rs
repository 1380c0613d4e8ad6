//! How does one command go out, and its reply come back?
//!
//! Strictly in turns: select, check out, send, receive. A future that is dropped at any of these leaves a connection that goes
//! back by itself, and a session as `abandoned` says. Nothing is retried here: that is left to the caller.
//!
//! The future is made by hand: a call that need not wait for a server or a connection asks for no memory, and is moved as
//! little as can be. What has to wait is boxed, which is rare, or has a place in the pool's queue.

use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Context, Poll};
use std::time::Instant;

use super::call::{Call, InSession, Outcome};
use super::exchange::Exchange;
use super::running::{CallOrigin, ClientCore};
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind, Execution, Result, Stage};
use crate::io::clock;
use crate::io::pool::checkout::CheckoutFuture;
use crate::io::pool::{CheckedOut, ServerPool};
use crate::io::topology::select::SelectedServer;
use crate::observe::log;
use crate::operation::execution::is_idempotent_read;
use crate::operation::{check_name, command_name};
use crate::selection::Criteria;

/// Is a call under way.
pub(super) struct Run {
    call: Call,
    step: RunStep,
    /// Whether the connection is its caller's.
    keeps: bool,
}

/// Is a connection of the server that was selected.
pub(super) type CheckedOutConn = CheckedOut<SelectedServer>;

enum RunStep {
    /// Nothing is done yet.
    Start,
    /// A server or a connection is waited for, by the call's deadline.
    QueuedCheckout(CheckoutFuture<SelectedServer>, Option<Box<Deadline>>),
    /// The command is sent, and the reply on its way.
    Exchanging(CheckedOutConn, Exchange),
    /// It is over; this is the connection, if it is kept.
    Over(Option<CheckedOutConn>),
}

/// A run that is abandoned when it is dropped before its end.
pub(super) struct Attended<'a> {
    pub(super) run: Run,
    core: &'a Arc<ClientCore>,
}

impl Attended<'_> {
    pub(super) async fn outcome(&mut self, database: &Arc<str>) -> Result<Outcome> {
        poll_fn(|context| self.run.poll(self.core, database, context)).await
    }
}

impl Run {
    pub(super) fn new(call: Call) -> Self {
        Self { call, step: RunStep::Start, keeps: false }
    }

    /// Makes a call on a connection that its caller keeps: [`take_conn`](Self::take_conn) gives it back.
    pub(super) fn on(conn: CheckedOutConn, deadline: Option<Deadline>, call: Call) -> Self {
        Self { call, step: RunStep::QueuedCheckout(CheckoutFuture::Boxed(Box::pin(ready(Ok(conn)))), deadline.map(Box::new)), keeps: true }
    }

    /// Ends it early: its caller does not wait for the reply. Does nothing before the command is sent, or after its end.
    pub(super) fn abandon(&mut self, core: &Arc<ClientCore>) {
        if let RunStep::Exchanging(conn, exchange) = &mut self.step {
            exchange.abandon(core, conn, &self.call);
        }
    }

    /// Tells whether repeating the command has no effect on the server.
    pub(super) fn is_idempotent_read(&self) -> bool {
        is_idempotent_read(self.call.request.body.document())
    }

    /// Takes the connection that a call which is over has kept.
    pub(super) fn take_conn(&mut self) -> Option<CheckedOutConn> {
        match &mut self.step {
            RunStep::Over(conn) => conn.take(),
            RunStep::Start | RunStep::QueuedCheckout(..) | RunStep::Exchanging(..) => None,
        }
    }

    /// Goes on until it is over.
    pub(super) fn poll(&mut self, core: &Arc<ClientCore>, database: &Arc<str>, context: &mut Context<'_>) -> Poll<Result<Outcome>> {
        loop {
            let next = match &mut self.step {
                RunStep::Start => self.start(core, database),
                RunStep::QueuedCheckout(waiting, deadline) => match task::ready!(Pin::new(waiting).poll(context)) {
                    Ok(conn) => {
                        let deadline = deadline.take().map(|deadline| *deadline);
                        self.send(core, database, conn, deadline)
                    }
                    Err(error) => Err(error),
                },
                RunStep::Exchanging(conn, exchange) => {
                    let told = task::ready!(exchange.poll(conn, context));
                    let now = clock::now();
                    let ended = exchange.finish(core, &self.call, conn, told, now);
                    self.end(ended.is_ok(), now);
                    return Poll::Ready(ended);
                }
                RunStep::Over(_) => {
                    let error = Error::new(ErrorKind::Internal, "a call that is over goes on").at(Stage::Read);
                    return Poll::Ready(Err(error));
                }
            };
            if let Err(error) = next {
                if !matches!(self.step, RunStep::Over(_)) {
                    self.step = RunStep::Over(None);
                }
                return Poll::Ready(Err(error.of_command(Execution::Never, self.is_idempotent_read())));
            }
        }
    }

    /// Selects a server and asks for a connection.
    #[inline]
    fn start(&mut self, core: &Arc<ClientCore>, database: &Arc<str>) -> Result<()> {
        let body = self.call.request.body.document();
        // Found out before anybody waits for anything.
        check_name(body)?;
        let now = clock::now();
        let deadline = core.call_deadline(&self.call.time, now);
        let criteria = self.call.criteria.as_ref().unwrap_or(&core.primary);
        let is_logged = log::wants_selections();
        if is_logged {
            log::selection_started(command_name(body), criteria, &core.description());
        }
        let found = match core.select_now(criteria, now) {
            Ok(Some(selected)) => Ok(selected),
            Ok(None) => {
                let entry = match self.call.session {
                    InSession::Cursor(_) | InSession::None => CallOrigin::Continued,
                    InSession::Implicit => CallOrigin::New,
                };
                let later = select_and_check_out(Arc::clone(core), command_name(body).to_owned(), Arc::clone(criteria), deadline, entry);
                self.step = RunStep::QueuedCheckout(CheckoutFuture::Boxed(Box::pin(later)), deadline.map(Box::new));
                return Ok(());
            }
            Err(error) => Err(error),
        };
        if is_logged {
            core.log_selection(command_name(body), criteria, &found);
        }
        let selected = found?;
        let now = selected_at(&selected, is_logged, now);
        match check_out(core, selected, deadline, now) {
            Ok(conn) => self.send(core, database, conn, deadline),
            Err(later) => {
                self.step = RunStep::QueuedCheckout(later, deadline.map(Box::new));
                Ok(())
            }
        }
    }

    /// Puts the command into the connection's buffer.
    #[inline]
    fn send(&mut self, core: &Arc<ClientCore>, database: &Arc<str>, mut conn: CheckedOutConn, deadline: Option<Deadline>) -> Result<()> {
        // One that its caller keeps was checked out for an earlier call.
        let began = if self.keeps { clock::now() } else { conn.checked_out_at() };
        match Exchange::new(core, database, &mut self.call, &mut conn, deadline, began) {
            Ok(exchange) => {
                self.step = RunStep::Exchanging(conn, exchange);
                Ok(())
            }
            Err(error) => {
                self.step = RunStep::Over(Some(conn).filter(|_| self.keeps));
                Err(error)
            }
        }
    }

    /// Gives the connection back, or keeps it.
    fn end(&mut self, succeeded: bool, now: Instant) {
        let RunStep::Exchanging(conn, _) = std::mem::replace(&mut self.step, RunStep::Over(None)) else { return };
        if self.keeps {
            self.step = RunStep::Over(Some(conn));
        } else if succeeded && self.call.pins && conn.facts().service_id.is_some() {
            conn.pin();
            self.step = RunStep::Over(Some(conn));
        } else {
            conn.check_in(now);
        }
    }
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        self.run.abandon(self.core);
    }
}

impl ClientCore {
    /// Makes a call. Can be dropped at any moment.
    pub(super) async fn run(self: &Arc<Self>, database: &Arc<str>, call: Call) -> Result<Outcome> {
        self.attend(Run::new(call)).outcome(database).await
    }

    /// Makes a run that its future owns.
    pub(super) fn attend(self: &Arc<Self>, run: Run) -> Attended<'_> {
        Attended { run, core: self }
    }

    /// Logs what came of looking for a server.
    fn log_selection(&self, operation: &str, criteria: &Criteria, found: &Result<SelectedServer>) {
        match found {
            Ok(selected) => log::selection_succeeded(operation, criteria, selected.description(), selected.pool().host()),
            Err(error) => log::selection_failed(operation, criteria, &self.description(), error),
        }
    }
}

/// Says when a server was selected at once: when its caller came, unless others had a say, who may have taken their time.
#[inline]
pub(super) fn selected_at(selected: &SelectedServer, is_logged: bool, now: Instant) -> Instant {
    if is_logged || selected.description().server_selector().is_some() { clock::now() } else { now }
}

/// Asks the selected server's pool for a connection: there is one, or it is waited for.
#[inline]
pub(super) fn check_out(
    core: &ClientCore,
    selected: SelectedServer,
    deadline: Option<Deadline>,
    now: Instant,
) -> std::result::Result<CheckedOutConn, CheckoutFuture<SelectedServer>> {
    let deadline = core.checkout_deadline(deadline, now);
    ServerPool::checkout(selected, deadline, now).map_err(|pending| pending.wait(deadline))
}

/// Waits for a server, then for a connection.
async fn select_and_check_out(
    core: Arc<ClientCore>,
    operation: String,
    criteria: Arc<Criteria>,
    deadline: Option<Deadline>,
    entry: CallOrigin,
) -> Result<CheckedOutConn> {
    let _waits = core.wait();
    let found = core.select_later(&operation, &criteria, deadline, entry).await;
    if log::wants_selections() {
        core.log_selection(&operation, &criteria, &found);
    }
    let selected = found?;
    selected.driver().check_clocks();
    match check_out(&core, selected, deadline, clock::now()) {
        Ok(conn) => Ok(conn),
        Err(later) => later.await,
    }
}
