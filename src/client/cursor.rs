//! How are a cursor's documents fetched?
//!
//! getMore goes to the server that made the cursor, in the same session; a cursor that is dropped early is killed there.
//! Which command comes next is decided in `crate::cursor`.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bson::Document;
use bytes::Bytes;
use futures_util::Stream;
use serde::de::DeserializeOwned;

use super::Client;
use super::call::{Call, InSession, Outcome, Preference, Reply, Session};
use crate::cursor::{Batch, CursorState, GetMoreOptions};
use crate::error::{Error, Result};
use crate::host::HostKey;
use crate::io::clock;
use crate::op::deadline::Deadline;
use crate::selection::Criteria;
use crate::wire::Request;

/// Is a form in which replies and documents can be had: any [`DeserializeOwned`] type, or [`Reply`] for the bytes.
pub trait FromReply: Send + 'static {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Bson`](crate::ErrorKind::Bson) if it doesn't fit.
    fn from_reply(reply: Reply) -> Result<Self>
    where
        Self: Sized;
}

impl<T: DeserializeOwned + Send + 'static> FromReply for T {
    fn from_reply(reply: Reply) -> Result<Self> {
        reply.deserialize()
    }
}

impl FromReply for Reply {
    fn from_reply(reply: Reply) -> Result<Self> {
        Ok(reply)
    }
}

/// Is a stream of the documents of a server's cursor.
///
/// Dropped before its end, it kills the cursor on the server, in the background.
#[must_use = "a cursor that is not read is killed"]
pub struct Cursor<T = Document> {
    core: Arc<Core>,
    state: State,
    form: PhantomData<fn() -> T>,
}

/// What all batches of a cursor have in common.
struct Core {
    client: Client,
    host: HostKey,
    more: GetMoreOptions,
    timeout: Option<Duration>,
}

enum State {
    /// Documents are at hand, and perhaps more on the server.
    Reading { cursor: CursorState, batch: Batch, session: Option<Session> },
    /// The next batch is on its way.
    /// The lock is never taken: it makes the cursor `Sync`.
    Fetching { cursor: CursorState, fetch: Mutex<Fetch> },
    /// The server has closed the cursor, or an error has ended it.
    Done,
}

type Fetch = Pin<Box<dyn Future<Output = Result<Fetched>> + Send>>;

pub(super) struct Fetched {
    cursor: CursorState,
    batch: Batch,
    session: Option<Session>,
}

/// How long killing a cursor may take; the server closes it after some minutes anyway.
const KILL_LIMIT: Duration = Duration::from_secs(5);

impl<T: FromReply> Cursor<T> {
    pub(super) fn new(client: Client, fetched: Fetched, host: HostKey, more: GetMoreOptions, timeout: Option<Duration>) -> Self {
        let core = Arc::new(Core { client, host, more, timeout });
        Self { core, state: State::read(fetched), form: PhantomData }
    }

    /// Returns the server that holds the cursor.
    pub fn host(&self) -> &HostKey {
        &self.core.host
    }

    /// Returns the next document, or `None` at the end.
    ///
    /// # Errors
    /// Those of fetching the next batch, which end the cursor, and of reading a document, which don't.
    pub async fn next(&mut self) -> Option<Result<T>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn poll_document(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            match &mut self.state {
                State::Reading { cursor, batch, session } => {
                    if let Some(document) = batch.next_document() {
                        return Poll::Ready(Some(Ok(document)));
                    }
                    if cursor.id == 0 {
                        self.state = State::Done;
                        continue;
                    }
                    let fetch: Fetch = Box::pin(fetch(Arc::clone(&self.core), cursor.clone(), session.take()));
                    self.state = State::Fetching { cursor: cursor.clone(), fetch: Mutex::new(fetch) };
                }
                State::Fetching { fetch, .. } => {
                    match ready!(fetch.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(context)) {
                        Ok(fetched) => self.state = State::read(fetched),
                        Err(error) => {
                            // A broken connection leaves the cursor to the server's own time-out.
                            let kill = !error.is_network() || error.is_timeout();
                            self.end(kill);
                            return Poll::Ready(Some(Err(error)));
                        }
                    }
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

impl State {
    /// The session goes back at once when the server has closed the cursor.
    fn read(fetched: Fetched) -> Self {
        let session = fetched.session.filter(|_| fetched.cursor.id != 0);
        Self::Reading { cursor: fetched.cursor, batch: fetched.batch, session }
    }
}

impl<T> Cursor<T> {
    fn end(&mut self, kill: bool) {
        let (cursor, session) = match std::mem::replace(&mut self.state, State::Done) {
            State::Reading { cursor, session, .. } => (cursor, session),
            State::Fetching { cursor, .. } => (cursor, None),
            State::Done => return,
        };
        if kill && cursor.id != 0 {
            self.core.client.inner().kill_cursor(Arc::clone(&self.core.client.handle.0), self.core.host.clone(), cursor, session);
        }
    }
}

impl<T: FromReply> Stream for Cursor<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        let document = ready!(self.poll_document(context));
        Poll::Ready(document.map(|document| document.and_then(|bytes| T::from_reply(Reply::new(bytes, self.core.host.clone())))))
    }
}

impl<T> Unpin for Cursor<T> {}

impl<T> Drop for Cursor<T> {
    fn drop(&mut self) {
        self.end(true);
    }
}

impl<T> std::fmt::Debug for Cursor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("host", &self.core.host).finish_non_exhaustive()
    }
}

async fn fetch(core: Arc<Core>, cursor: CursorState, session: Option<Session>) -> Result<Fetched> {
    let database = Arc::from(cursor.database.as_str());
    let mut call = Call {
        request: Request::from(cursor.get_more(&core.more)),
        criteria: Some(Arc::new(Criteria::server(core.host.clone()))),
        preference: Preference::Untold,
        deadline: core.client.inner().call_deadline(core.timeout),
        session: InSession::Cursor(session),
    };
    read(core.client.inner().run(&database, &mut call).await?)
}

pub(super) fn read(outcome: Outcome<'_>) -> Result<Fetched> {
    let host = outcome.reply.host().clone();
    let (cursor, batch) = CursorState::parse(outcome.reply.bytes().clone()).map_err(|error: Error| error.on(&host))?;
    Ok(Fetched { cursor, batch, session: outcome.session.map(Session::keep) })
}

impl super::running::Inner {
    /// Kills a cursor in the background; what the server answers does not matter.
    fn kill_cursor(&self, inner: Arc<Self>, host: HostKey, cursor: CursorState, session: Option<Session>) {
        let task = async move {
            let database = Arc::from(cursor.database.as_str());
            let mut call = Call {
                request: Request::from(cursor.kill()),
                criteria: Some(Arc::new(Criteria::server(host))),
                preference: Preference::Untold,
                deadline: Some(Deadline::new("KILL_LIMIT", KILL_LIMIT, clock::now())),
                session: InSession::Cursor(session),
            };
            if let Err(error) = inner.run(&database, &mut call).await {
                tracing::debug!(%error, "cursor could not be killed");
            }
        };
        self.spawn("kill cursor", task);
    }
}
