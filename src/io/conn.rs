//! A connection: commands out, replies in.
//!
//! Every wait can be cancelled and resumed: written and read bytes are kept, so that the late reply of a cancelled command can
//! still be read and dropped.

mod late;
mod late_reply;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncReadExt, AsyncWrite};
use zeroize::Zeroize;

pub(crate) use late_reply::LateReply;

use super::demand::Demand;
use super::interrupt::Interrupt;
use super::stream::Stream;
use super::tls::socket_fault;
use crate::auth::SecretDocument;
use crate::error::{Error, ErrorKind, Stage};
use crate::handshake::{HELLO_SIZE_MAX, HelloReply};
use crate::host::{Address, ServerAddress};
use crate::operation::{DriverFields, Sent, ServerFacts};
use crate::pool::Health;
use crate::wire::{self, Decoder, Flags, InputDocument, MESSAGE_SIZE_MAX, Message, Request, WriteBuffer, encode_message};

/// An open connection.
pub(crate) struct Conn {
    stream: Stream,
    decoder: Decoder,
    out: WriteBuffer,
    exchange: ExchangeState,
    /// The error that broke it, if any.
    cause: Option<Error>,
    last_request: i32,
    /// Whether the request allows several replies.
    is_streaming: bool,
    interrupt: Arc<Interrupt>,
    /// Whether a waker is registered with the interrupt.
    listening: bool,
    host: ServerAddress,
    address: Address,
    facts: ServerFacts,
    /// The receiver of an abandoned command's late reply.
    late: Option<Box<dyn LateReply>>,
}

/// The state of a request and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExchangeState {
    /// Nothing is outstanding.
    Idle,
    /// A part of `out` is not written yet.
    Writing { written: usize, request: i32 },
    /// The reply is pending.
    Awaiting { request: i32 },
    /// Broken by an error, with the sent part of the last command.
    Broken(Sent),
}

/// The maximum number of message pieces in one write.
const PIECES_AT_ONCE: usize = 16;

/// The minimum size of a read, in bytes; also the buffer capacity of an idle connection.
const READ_BYTES: usize = 1536;

/// The maximum buffer capacity that is reserved for a message before it has arrived, in bytes.
const AHEAD_BYTES_MAX: usize = 1024 * 1024;

/// An upper bound of a one-document message's size, without the document and the database name, in bytes.
const MESSAGE_BYTES: usize = 512;

/// The maximum buffer size of an idle connection, in bytes; larger buffers are freed.
const IDLE_BYTES_MAX: usize = READ_BYTES;

impl Conn {
    /// Creates a connection; until [`greeted`](Self::greeted), messages are limited to the size of a hello reply.
    pub(crate) fn new(stream: Stream, host: ServerAddress, address: Address, interrupt: Arc<Interrupt>) -> Self {
        let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
        decoder.limit("HELLO_SIZE_MAX", HELLO_SIZE_MAX as u32);
        Self {
            stream,
            decoder,
            out: WriteBuffer::default(),
            exchange: ExchangeState::Idle,
            cause: None,
            last_request: 0,
            is_streaming: false,
            interrupt,
            listening: false,
            // Every reply clones it.
            host: host.unshared(),
            address,
            facts: ServerFacts::default(),
            late: None,
        }
    }

    /// Records the server's hello reply.
    pub(crate) fn greeted(&mut self, hello: &HelloReply) {
        self.facts = ServerFacts::of(hello);
        let limit = self.facts.message_size_bytes_max.clamp(wire::HEADER_SIZE as u32, MESSAGE_SIZE_MAX);
        self.decoder.limit("maxMessageSizeBytes", limit);
    }

    pub(crate) fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    pub(crate) fn host(&self) -> &ServerAddress {
        &self.host
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the server's request for a client certificate.
    pub(crate) fn demand(&self) -> Demand {
        self.stream.demand()
    }

    /// Encodes a command for [`exchange`](Self::exchange). Returns the number of the message.
    #[inline]
    pub(crate) fn queue(&mut self, flags: Flags, request: &Request, fields: &DriverFields<'_>) -> i32 {
        if self.exchange != ExchangeState::Idle {
            tracing::error!(host = %self.host, exchange = ?self.exchange, "a command while another is in progress");
            self.exchange = ExchangeState::Broken(Sent::Whole);
            return self.last_request;
        }
        self.last_request = self.last_request.wrapping_add(1) & i32::MAX;
        self.is_streaming = flags.has(Flags::EXHAUST_ALLOWED);
        self.out.clear();
        encode_message(&mut self.out, self.last_request, 0, flags, request, |body| fields.write(body));
        self.exchange = ExchangeState::Writing { written: 0, request: self.last_request };
        self.last_request
    }

    /// Encodes a command that may hold a secret; its only copy is in the buffer that [`wipe`](Self::wipe) wipes.
    pub(crate) fn queue_secret(&mut self, mut body: SecretDocument, fields: &DriverFields<'_>) {
        self.out.clear();
        // The buffer must not be reallocated while the secret is in it.
        self.out.own_mut().reserve(body.as_bytes().len() + fields.database.len() + MESSAGE_BYTES);
        let request = Request { body: InputDocument::Small(body.take()), sequences: Vec::new() };
        self.queue(Flags::default(), &request, fields);
        if let InputDocument::Small(document) = request.body {
            drop(SecretDocument::from(document));
        }
    }

    /// Removes a queued command of which nothing was sent.
    pub(crate) fn unqueue(&mut self) {
        if let ExchangeState::Writing { written: 0, .. } = self.exchange
            && self.late.is_none()
        {
            self.exchange = ExchangeState::Idle;
        }
    }

    /// Returns the queued message.
    pub(crate) fn queued(&self) -> &WriteBuffer {
        &self.out
    }

    /// Sends the queued message, and reads one reply. Can be cancelled and called again.
    ///
    /// # Errors
    /// Of the socket or the protocol, at [`Stage::Write`] or [`Stage::Read`]; [`ErrorKind::Interrupted`].
    pub(crate) async fn exchange(&mut self) -> Result<Message, Error> {
        poll_fn(|context| self.poll_exchange(context)).await
    }

    /// The poll function of [`exchange`](Self::exchange).
    #[inline]
    pub(crate) fn poll_exchange(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        ready!(self.poll_flush(context))?;
        self.poll_receive(context)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while let ExchangeState::Writing { written, request } = self.exchange {
            if written >= self.out.len() {
                tracing::trace!(host = %self.host, request, bytes = written, "frame out");
                self.exchange = ExchangeState::Awaiting { request };
                break;
            }
            match poll_write(Pin::new(&mut self.stream), context, &self.out, written) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(
                        Err(self.broken(Error::new(ErrorKind::Closed, "connection closed by the server").at(Stage::Write))),
                    );
                }
                Poll::Ready(Ok(count)) => self.exchange = ExchangeState::Writing { written: written + count, request },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.write_failed(error))),
                Poll::Pending => return self.poll_interrupted(context, Stage::Write),
            }
        }
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken(socket_fault(Stage::Write, error)))),
            Poll::Pending => self.poll_interrupted(context, Stage::Write),
        }
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        loop {
            match self.decoder.next_frame().and_then(|frame| frame.map(Message::parse).transpose()) {
                Ok(Some(message)) => return Poll::Ready(self.accept(message)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(self.broken(error))),
            }
            let room = self.decoder.missing().clamp(READ_BYTES, AHEAD_BYTES_MAX);
            let buffer = self.decoder.buffer();
            buffer.reserve(room);
            match pin!(self.stream.read_buf(buffer)).poll(context) {
                Poll::Ready(Ok(0)) => {
                    let text = if self.decoder.is_empty() {
                        "connection closed by the server"
                    } else {
                        "connection closed by the server in the middle of a message"
                    };
                    return Poll::Ready(Err(self.broken(Error::new(ErrorKind::Closed, text).at(Stage::Read))));
                }
                Poll::Ready(Ok(_)) => self.interrupt.note_traffic(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broken(socket_fault(Stage::Read, error)))),
                Poll::Pending => return self.poll_interrupted(context, Stage::Read),
            }
        }
    }

    /// Polls the interrupt while the socket is pending.
    fn poll_interrupted<T>(&mut self, context: &Context<'_>, stage: Stage) -> Poll<Result<T, Error>> {
        self.listening = true;
        self.interrupt.poll_fired(context).map(|error| Err(self.broken(error.at(stage))))
    }

    /// Returns the stage of the current exchange.
    pub(crate) fn stage(&self) -> Stage {
        if matches!(self.exchange, ExchangeState::Writing { .. }) { Stage::Write } else { Stage::Read }
    }

    /// Returns the health of the connection for its next user.
    pub(crate) fn health(&self) -> Health {
        match self.exchange {
            ExchangeState::Idle if self.decoder.is_empty() => Health::Good,
            ExchangeState::Idle | ExchangeState::Broken(_) => Health::Broken,
            ExchangeState::Writing { written: 0, .. } if self.late.is_none() => Health::Good,
            ExchangeState::Writing { .. } | ExchangeState::Awaiting { .. } => Health::ReplyOutstanding,
        }
    }

    /// Returns the error that broke it, if any.
    pub(crate) fn cause(&self) -> Option<&Error> {
        self.cause.as_ref()
    }

    /// Releases the waker of the task that used it.
    pub(crate) fn forget_task(&mut self) {
        if std::mem::take(&mut self.listening) {
            self.interrupt.forget_waker();
        }
    }

    /// Prepares it for idling: no exchange in progress, no large buffers.
    #[inline]
    pub(crate) fn rest(&mut self) {
        self.unqueue();
        self.out.clear();
        if self.out.capacity() > IDLE_BYTES_MAX / 2 {
            self.out = WriteBuffer::default();
        }
        self.decoder.rest(IDLE_BYTES_MAX);
    }

    /// Returns whether the server has closed an idle connection, or has sent unexpected bytes.
    pub(crate) fn is_dead(&mut self) -> bool {
        self.stream.peek_dead()
    }

    /// Wipes the sent message: it may be a secret.
    pub(crate) fn wipe(&mut self) {
        self.out.own_mut().zeroize();
        self.out.clear();
    }

    /// Marks it as broken.
    pub(crate) fn spoil(&mut self) {
        self.exchange = ExchangeState::Broken(self.sent());
    }

    fn accept(&mut self, message: Message) -> Result<Message, Error> {
        tracing::trace!(host = %self.host, response_to = message.response_to, bytes = message.body().as_bytes().len(), "frame in");
        let expected = match self.exchange {
            ExchangeState::Awaiting { request } => request,
            ExchangeState::Idle | ExchangeState::Writing { .. } | ExchangeState::Broken(_) => {
                return Err(self.broken(Error::new(ErrorKind::Protocol, "an unexpected reply").at(Stage::Read)));
            }
        };
        if message.response_to != expected {
            let text = format!("reply to request {}, expected one to {expected}", message.response_to);
            return Err(self.broken(Error::new(ErrorKind::Protocol, text).at(Stage::Read)));
        }
        self.exchange = if message.flags.has(Flags::MORE_TO_COME) { self.stream_on(&message)? } else { ExchangeState::Idle };
        Ok(message)
    }

    /// Expects the next reply of a stream, which answers this one (OP_MSG, "moreToCome").
    #[cold]
    fn stream_on(&mut self, message: &Message) -> Result<ExchangeState, Error> {
        if self.is_streaming {
            return Ok(ExchangeState::Awaiting { request: message.request_id });
        }
        Err(self.broken(Error::new(ErrorKind::Protocol, "moreToCome on a reply to a request without exhaustAllowed").at(Stage::Read)))
    }

    #[cold]
    fn write_failed(&mut self, error: io::Error) -> Error {
        let error = self.broken(socket_fault(Stage::Write, error));
        // The TLS layer may have sent the beginning of bytes that it reports as not written.
        if self.stream.is_encrypted() {
            self.exchange = ExchangeState::Broken(self.sent().max(Sent::Partly));
        }
        error
    }

    fn broken(&mut self, error: Error) -> Error {
        self.spoil();
        let error = error.on(&self.host).with_address(&self.address);
        self.cause = Some(error.clone());
        error
    }
}

/// Writes the rest after the bytes that are written already.
fn poll_write(stream: Pin<&mut Stream>, context: &mut Context<'_>, out: &WriteBuffer, written: usize) -> Poll<io::Result<usize>> {
    if let Some(whole) = out.whole() {
        return stream.poll_write(context, whole.get(written..).unwrap_or_default());
    }
    let mut slices = [IoSlice::new(&[]); PIECES_AT_ONCE];
    let (mut before, mut count) = (written, 0);
    for piece in out.pieces() {
        let Some(rest) = piece.get(before..).filter(|rest| !rest.is_empty()) else {
            before -= piece.len();
            continue;
        };
        before = 0;
        let Some(slice) = slices.get_mut(count) else { break };
        *slice = IoSlice::new(rest);
        count += 1;
    }
    stream.poll_write_vectored(context, slices.get(..count).unwrap_or_default())
}

impl std::fmt::Debug for Conn {
    /// The buffers may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn").field("host", &self.host).field("address", &self.address).field("exchange", &self.exchange).finish()
    }
}
