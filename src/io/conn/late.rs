//! The late replies of abandoned commands.
//!
//! The connection knows how much of a command was sent, and keeps a [`LateReply`] until its reply has arrived. Does not decide
//! what the reply leads to (`client::abandoned`).

use super::late_reply::LateReply;
use super::{Conn, ExchangeState};
use crate::error::Error;
use crate::operation::Sent;
use crate::pool::Health;
use crate::wire::Flags;

impl Conn {
    /// Returns how much of the last command was sent.
    pub(crate) fn sent(&self) -> Sent {
        match self.exchange {
            ExchangeState::Writing { written: 0, .. } => Sent::Nothing,
            ExchangeState::Writing { .. } => Sent::Partly,
            ExchangeState::Idle | ExchangeState::Awaiting { .. } => Sent::Whole,
            ExchangeState::Broken(sent) => sent,
        }
    }

    /// Returns whether an error has broken it.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.exchange, ExchangeState::Broken(_))
    }

    /// Sets the receiver of the abandoned command's late reply.
    pub(crate) fn leave(&mut self, late: Box<dyn LateReply>) {
        self.late = Some(late);
    }

    /// Completes an abandoned exchange: writes the rest, reads the reply, and sends the commands that the receiver returns. Can
    /// be cancelled and called again.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange).
    pub(crate) async fn drain(&mut self) -> Result<(), Error> {
        while self.health() == Health::ReplyOutstanding {
            let reply = self.exchange().await?;
            if self.exchange == ExchangeState::Idle
                && let Some(mut late) = self.late.take()
                && let Some(next) = late.handle_reply(reply)
            {
                self.queue(Flags::default(), &next, &late.fields());
                self.late = Some(late);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Poll;

    use bson::rawdoc;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::host::{Address, ServerAddress};
    use crate::io::stream::Stream;
    use crate::operation::DriverFields;
    use crate::wire::{Message, Request};

    /// A connection to a peer that reads nothing, and the peer.
    async fn connection(prepare: impl AsyncFn(&mut TcpStream)) -> (Conn, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut tcp = TcpStream::connect(address).await.expect("connected");
        prepare(&mut tcp).await;
        let (peer, _) = listener.accept().await.expect("accepted");
        let host = ServerAddress::parse("127.0.0.1").expect("a host");
        (Conn::new(Stream::Tcp(tcp), host, Address::Ip(address), Arc::default()), peer)
    }

    /// Sends a command of a number of bytes, and polls once for the reply.
    async fn try_send(conn: &mut Conn, bytes: usize) -> Poll<Result<Message, Error>> {
        let request = Request::from(rawdoc! { "x": "x".repeat(bytes) });
        conn.queue(Flags::default(), &request, &DriverFields::default());
        std::future::poll_fn(|context| Poll::Ready(conn.poll_exchange(context))).await
    }

    #[tokio::test]
    async fn connection_knows_how_much_was_sent() {
        let (mut conn, _peer) = connection(async |_| ()).await;
        assert!(try_send(&mut conn, 100).await.is_pending());
        assert_eq!((conn.sent(), conn.health()), (Sent::Whole, Health::ReplyOutstanding));
        conn.spoil();
        assert_eq!((conn.sent(), conn.health()), (Sent::Whole, Health::Broken));
    }

    #[tokio::test]
    async fn connection_that_cut_a_message_off_knows_it() {
        let (mut conn, _peer) = connection(async |_| ()).await;
        assert!(try_send(&mut conn, 40_000_000).await.is_pending());
        assert_eq!((conn.sent(), conn.health()), (Sent::Partly, Health::ReplyOutstanding));
        conn.spoil();
        assert_eq!((conn.sent(), conn.health()), (Sent::Partly, Health::Broken));
    }

    #[tokio::test]
    async fn message_that_the_socket_refuses_was_not_sent() {
        let (mut conn, _peer) = connection(async |tcp: &mut TcpStream| tcp.shutdown().await.expect("shut")).await;
        let Poll::Ready(Err(error)) = try_send(&mut conn, 100).await else { panic!("it was sent") };
        assert!(error.is_network(), "{error}");
        assert_eq!((conn.sent(), conn.health()), (Sent::Nothing, Health::Broken));
    }
}
