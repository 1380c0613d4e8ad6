//! A cursor: the stream of its documents, fetched batch by batch.
//!
//! getMore goes to the server that holds the cursor, in the same session; a cursor that is dropped early is killed there.
//! Behind a load balancer both go out on the connection that the cursor keeps (load-balancers, "Cursors").
//! Does not decide which command comes next (`crate::cursor`).

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bson::Document;
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::oneshot;

use super::decode::FromReply;
use super::handle::Client;
use super::pin::Pinned;
use super::running::ClientCore;
use super::sessions::CursorSession;
use super::time_limits::Time;
use crate::cursor::{Batch, CursorState, EmptyBatches, GetMoreOptions};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::host::ServerAddress;
use crate::io::clock;
use crate::operation::{CursorBatch, GetMore, KillCursors, Reply};

/// A stream of the documents of a server's cursor.
///
/// Dropped before its end, it kills the cursor on the server, in the background. Behind a load balancer it keeps a connection
/// of its pool until its end, or until it is closed or dropped.
#[must_use = "a cursor that is not read is killed"]
pub struct Cursor<T = Document> {
    client: Client,
    context: Arc<CursorContext>,
    state: CursorPhase,
    batches: EmptyBatches,
    /// The pause before the next batch is fetched. The lock is never taken: it makes the cursor `Sync`.
    pause: Option<Pause>,
    form: PhantomData<fn() -> T>,
}

/// The result of [`Cursor::try_next`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryNext<T> {
    /// The next document.
    Document(T),
    /// No document now: the server has sent an empty batch, and the cursor is still open.
    NothingNow,
    /// The end: the cursor is closed.
    Ended,
}

/// A step of a cursor.
enum CursorStep {
    Document(Bytes),
    NothingNow,
    Ended,
    Failed(Error),
}

/// The parts that all batches of a cursor share.
struct CursorContext {
    core: Arc<ClientCore>,
    host: ServerAddress,
    more: GetMoreOptions,
    timeout: Option<Duration>,
    /// Whether it keeps its connection.
    pinned: bool,
}

enum CursorPhase {
    /// Documents are at hand, and perhaps more on the server.
    Reading { cursor: CursorState, batch: Batch, session: Option<Box<CursorSession>>, pin: Option<Box<Pinned>> },
    /// The next batch is on its way.
    /// The lock is never taken: it makes the cursor `Sync`.
    Fetching { cursor: CursorState, fetch: Mutex<Fetch> },
    /// The connection that it keeps is broken: there is nothing to ask or to kill, and it goes back with the cursor.
    Severed(Box<Pinned>),
    /// The server has closed the cursor, or an error has ended it.
    Done,
}

type Pause = Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>;

type Fetch = Pin<Box<dyn Future<Output = std::result::Result<Fetched, FetchFailure>> + Send>>;

pub(super) struct Fetched {
    pub(super) opened: CursorBatch,
    pub(super) session: Option<Box<CursorSession>>,
    pub(super) pin: Option<Box<Pinned>>,
    /// How long the server took, for a batch after the first.
    pub(super) took: Option<Duration>,
}

/// The error of a batch that could not be fetched, and its connection.
struct FetchFailure {
    error: Error,
    pin: Option<Box<Pinned>>,
}

/// The remaining work for a cursor that was still open.
struct Ending {
    context: Arc<CursorContext>,
    left: Left,
}

enum Left {
    /// It is killed, on its own connection if it has one.
    Kill { cursor: CursorState, session: Option<Box<CursorSession>>, pin: Option<Box<Pinned>> },
    /// It is killed once the batch has come that is on its way on its own connection.
    Fetch { cursor: CursorState, fetch: Fetch },
}

/// How long killing a cursor may take; the server closes it after some minutes anyway.
const KILL_LIMIT: Duration = Duration::from_secs(5);

impl<T: FromReply> Cursor<T> {
    pub(super) fn new(client: Client, fetched: Fetched, more: GetMoreOptions, timeout: Option<Duration>) -> Self {
        let pinned = fetched.pin.is_some();
        let (core, host) = (Arc::clone(client.core()), fetched.opened.host.clone());
        let context = Arc::new(CursorContext { core, host, more, timeout, pinned });
        Self { client, context, state: CursorPhase::read(fetched), batches: EmptyBatches::default(), pause: None, form: PhantomData }
    }

    /// Returns the server that holds the cursor.
    pub fn host(&self) -> &ServerAddress {
        &self.context.host
    }

    /// Returns the next document, or `None` at the end.
    ///
    /// A tailable cursor has no end: this waits for a document that is inserted later. While the server's batches are empty, it
    /// is asked with growing pauses, from `EMPTY_BATCH_PAUSE_MIN` to `EMPTY_BATCH_PAUSE_MAX`; the time that a server awaits data
    /// is part of the pause.
    ///
    /// # Errors
    /// Those of fetching the next batch, which end the cursor, and of reading a document, which don't.
    pub async fn next(&mut self) -> Option<Result<T>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Returns the next document if there is one now; asks the server at most once, and without a pause.
    ///
    /// For tailable cursors, whose `next` waits. Can be dropped at any moment.
    ///
    /// # Errors
    /// Those of [`next`](Self::next).
    pub async fn try_next(&mut self) -> Result<TryNext<T>> {
        let mut has_asked = false;
        match std::future::poll_fn(|context| self.poll_step(Some(&mut has_asked), context)).await {
            CursorStep::Document(bytes) => self.document(bytes).map(TryNext::Document),
            CursorStep::NothingNow => Ok(TryNext::NothingNow),
            CursorStep::Ended => Ok(TryNext::Ended),
            CursorStep::Failed(error) => Err(error),
        }
    }

    fn document(&self, bytes: Bytes) -> Result<T> {
        T::from_reply(Reply::new(bytes, self.context.host.clone()))
    }

    /// Ends the cursor: kills it on the server if it is still open there, and waits for that.
    ///
    /// What the server answers does not matter. Who stops waiting leaves it to the background, as dropping does.
    pub async fn close(mut self) {
        let Some(ending) = self.end(None) else { return };
        let (done, over) = oneshot::channel::<()>();
        self.client.core().spawn("kill cursor", async move {
            ending.run().await;
            drop(done);
        });
        // Nothing is ever sent: the sender goes with the task.
        drop(over.await);
    }

    /// Goes on to the next document. `has_asked` is for a caller that does not wait for one: whether it has seen a new batch.
    fn poll_step(&mut self, mut has_asked: Option<&mut bool>, context: &mut Context<'_>) -> Poll<CursorStep> {
        loop {
            match &mut self.state {
                CursorPhase::Reading { cursor, batch, session, pin } => {
                    if let Some(document) = batch.next_document() {
                        return Poll::Ready(CursorStep::Document(document));
                    }
                    if cursor.id == 0 {
                        self.state = CursorPhase::Done;
                        continue;
                    }
                    match &has_asked {
                        Some(true) => return Poll::Ready(CursorStep::NothingNow),
                        Some(false) => {}
                        None => ready!(poll_pause(&mut self.pause, context)),
                    }
                    self.pause = None;
                    let fetch: Fetch = Box::pin(fetch(Arc::clone(&self.context), cursor.clone(), session.take(), pin.take()));
                    self.state = CursorPhase::Fetching { cursor: cursor.clone(), fetch: Mutex::new(fetch) };
                }
                CursorPhase::Fetching { fetch, .. } => {
                    match ready!(fetch.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(context)) {
                        Ok(fetched) => {
                            let max_time = self.context.more.max_time;
                            let took = fetched.took.unwrap_or_default();
                            self.pause = self.batches.handle_batch(fetched.opened.batch.is_empty(), took, max_time).map(pause);
                            self.state = CursorPhase::read(fetched);
                        }
                        Err(FetchFailure { error, pin }) => {
                            self.fail(&error, pin);
                            return Poll::Ready(CursorStep::Failed(error));
                        }
                    }
                    if let Some(has_asked) = &mut has_asked {
                        **has_asked = true;
                    }
                }
                CursorPhase::Severed(_) | CursorPhase::Done => return Poll::Ready(CursorStep::Ended),
            }
        }
    }
}

/// Begins a pause.
fn pause(span: Duration) -> Pause {
    let until = clock::now() + span;
    Mutex::new(Box::pin(clock::sleep_until(Some(until))))
}

/// Waits for the end of a pause, if there is a runtime that has timers.
fn poll_pause(pause: &mut Option<Pause>, context: &mut Context<'_>) -> Poll<()> {
    match pause {
        Some(pause) if tokio::runtime::Handle::try_current().is_ok() => {
            pause.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(context)
        }
        Some(_) | None => Poll::Ready(()),
    }
}

impl CursorPhase {
    /// Session and connection go back at once when the server has closed the cursor.
    fn read(fetched: Fetched) -> Self {
        let Fetched { opened: CursorBatch { cursor, batch, host: _ }, session, pin, took: _ } = fetched;
        let open = cursor.id != 0;
        Self::Reading { cursor, batch, session: session.filter(|_| open), pin: pin.filter(|_| open) }
    }
}

impl<T> Cursor<T> {
    /// Ends it after an error, or keeps what is broken until the cursor is closed.
    fn fail(&mut self, error: &Error, pin: Option<Box<Pinned>>) {
        match pin {
            Some(pin) if pin.is_broken() => self.state = CursorPhase::Severed(pin),
            // A broken connection leaves the cursor to the server's own time-out.
            None if error.is_network() && !error.is_timeout() => self.state = CursorPhase::Done,
            pin => {
                let ending = self.end(pin);
                self.leave(ending);
            }
        }
    }

    /// Marks it as done; `pin` is the connection that a completed fetch has used.
    fn end(&mut self, used: Option<Box<Pinned>>) -> Option<Ending> {
        let context = Arc::clone(&self.context);
        let left = match std::mem::replace(&mut self.state, CursorPhase::Done) {
            CursorPhase::Reading { cursor, session, pin, .. } => Left::Kill { cursor, session, pin },
            CursorPhase::Fetching { cursor, fetch } if context.pinned && used.is_none() => {
                Left::Fetch { cursor, fetch: fetch.into_inner().unwrap_or_else(PoisonError::into_inner) }
            }
            CursorPhase::Fetching { cursor, .. } => Left::Kill { cursor, session: None, pin: used },
            CursorPhase::Severed(pin) => {
                drop(pin);
                return None;
            }
            CursorPhase::Done => return None,
        };
        let ending = Ending { context, left };
        ending.is_needed().then_some(ending)
    }

    /// Completes the remaining work in the background, if the client still runs.
    fn leave(&self, ending: Option<Ending>) {
        if let Some(ending) = ending {
            self.client.core().spawn("kill cursor", ending.run());
        }
    }
}

impl<T: FromReply> Stream for Cursor<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        Poll::Ready(match ready!(self.poll_step(None, context)) {
            CursorStep::Document(bytes) => Some(self.document(bytes)),
            CursorStep::Failed(error) => Some(Err(error)),
            CursorStep::NothingNow | CursorStep::Ended => None,
        })
    }
}

impl<T> Unpin for Cursor<T> {}

impl<T> Drop for Cursor<T> {
    fn drop(&mut self) {
        let ending = self.end(None);
        self.leave(ending);
    }
}

impl<T> std::fmt::Debug for Cursor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("host", &self.context.host).finish_non_exhaustive()
    }
}

async fn fetch(
    context: Arc<CursorContext>,
    cursor: CursorState,
    session: Option<Box<CursorSession>>,
    pin: Option<Box<Pinned>>,
) -> std::result::Result<Fetched, FetchFailure> {
    let core = &context.core;
    let database = Arc::from(cursor.database.as_str());
    let get_more = GetMore::new(&cursor, &context.more, context.host.clone());
    let began = clock::now();
    let (outcome, session, pin) = core.run_pinned(pin, session, &database, get_more, context.timeout.into()).await;
    let took = Some(clock::now().saturating_duration_since(began));
    match outcome {
        Ok(opened) => Ok(Fetched { opened, session, pin, took }),
        Err(error) => Err(FetchFailure { error, pin }),
    }
}

impl Ending {
    fn is_needed(&self) -> bool {
        match &self.left {
            Left::Kill { cursor, .. } => cursor.id != 0,
            Left::Fetch { .. } => true,
        }
    }

    /// The server's answer does not matter.
    async fn run(self) {
        let deadline = Deadline::new("KILL_LIMIT", KILL_LIMIT, clock::now());
        let (cursor, session, pin) = match self.left {
            Left::Kill { cursor, session, pin } => (cursor, session, pin),
            // Given up at the deadline, the fetch leaves the connection to the pool, which waits for its late reply.
            Left::Fetch { cursor, fetch } => match clock::until(deadline.at, fetch).await {
                Some(Ok(fetched)) => (fetched.opened.cursor, fetched.session, fetched.pin),
                Some(Err(failed)) => (cursor, None, failed.pin),
                None => return,
            },
        };
        if cursor.id == 0 || pin.as_ref().is_some_and(|pin| pin.is_broken()) {
            return;
        }
        let database = Arc::from(cursor.database.as_str());
        let kill = KillCursors::new(&cursor, self.context.host.clone());
        let (outcome, ..) = self.context.core.run_pinned(pin, session, &database, kill, Time::Until(Box::new(deadline))).await;
        if let Err(error) = outcome {
            tracing::debug!(%error, "cursor could not be killed");
        }
    }
}
