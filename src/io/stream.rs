//! The stream of a connection: plain TCP, TLS, or a unix socket.
//!
//! Does not open streams (`tcp`, `tls`), nor interpret the bytes (`wire`).

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio_rustls::client::TlsStream;

use super::demand::Demand;

/// An open stream to a server, before the handshake.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A unix domain socket.
    #[cfg(unix)]
    Unix(UnixStream),
    /// TLS over TCP, after the TLS handshake.
    Tls(Box<Secured>),
}

/// A TLS stream, and the server's demand in the TLS handshake.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) tls: TlsStream<TcpStream>,
    pub(crate) demand: Demand,
}

/// The state of a socket's receive queue.
enum Look {
    Quiet,
    Bytes,
    Closed,
}

impl Stream {
    /// Returns whether bytes go through TLS, which has a buffer of its own.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Checks an idle connection without waiting: it is dead if it is closed, failed, or has received unexpected bytes.
    ///
    /// Records of the TLS layer itself, such as late session tickets, are processed and do not count.
    pub(crate) fn peek_dead(&mut self) -> bool {
        match self {
            Self::Tcp(tcp) => !matches!(look(&SockRef::from(&*tcp)), Look::Quiet),
            #[cfg(unix)]
            Self::Unix(unix) => !matches!(look(&SockRef::from(&*unix)), Look::Quiet),
            Self::Tls(tls) => {
                let seen = look(&SockRef::from(tls.tls.get_ref().0));
                matches!(seen, Look::Closed) || is_tls_readable(&mut tls.tls)
            }
        }
    }

    /// Returns whether the server has asked for a client certificate.
    pub(crate) fn demand(&self) -> Demand {
        match self {
            Self::Tcp(_) => Demand::None,
            #[cfg(unix)]
            Self::Unix(_) => Demand::None,
            Self::Tls(tls) => tls.demand,
        }
    }
}

/// Asks the socket itself: the runtime may not have been notified of recent events yet.
fn look(socket: &SockRef<'_>) -> Look {
    match socket.peek(&mut [MaybeUninit::uninit()]) {
        Ok(0) => Look::Closed,
        Ok(_) => Look::Bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Look::Quiet,
        Err(_) => Look::Closed,
    }
}

/// Returns whether the TLS layer has data, the end or an error for its reader, after processing its own records.
fn is_tls_readable(tls: &mut TlsStream<TcpStream>) -> bool {
    let mut byte = [0];
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(tls).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_ready()
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            #[cfg(unix)]
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(&mut tls.tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            #[cfg(unix)]
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(&mut tls.tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            #[cfg(unix)]
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(&mut tls.tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(unix) => unix.is_write_vectored(),
            Self::Tls(tls) => tls.tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            #[cfg(unix)]
            Self::Unix(unix) => Pin::new(unix).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut tls.tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            #[cfg(unix)]
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut tls.tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Stream::Tcp(ours.expect("connected")), theirs.expect("accepted").0)
    }

    /// Whether the stream is found dead within a second: the peer's action takes a moment to arrive.
    async fn dies(stream: &mut Stream) -> bool {
        for _ in 0..200 {
            if stream.peek_dead() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    #[tokio::test]
    async fn quiet_connection_is_alive_and_stays_usable() {
        let (mut stream, mut peer) = pair().await;
        assert!(!stream.peek_dead());
        peer.write_all(b"hello").await.expect("written");
        let mut read = [0; 5];
        stream.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"hello");
        assert!(!stream.peek_dead());
    }

    #[tokio::test]
    async fn closed_connection_is_dead() {
        let (mut stream, peer) = pair().await;
        drop(peer);
        assert!(dies(&mut stream).await);
    }

    #[tokio::test]
    async fn reset_connection_is_dead() {
        let (mut stream, peer) = pair().await;
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(peer);
        assert!(dies(&mut stream).await);
    }

    #[tokio::test]
    async fn unexpected_bytes_mean_dead() {
        let (mut stream, mut peer) = pair().await;
        peer.write_all(b"!").await.expect("written");
        assert!(dies(&mut stream).await);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn idle_unix_socket_is_checked() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut stream = Stream::Unix(ours);
        assert!(!stream.peek_dead());
        drop(theirs);
        assert!(dies(&mut stream).await);
    }
}
