//! The bare socket, as the baseline.
//!
//! A connection that writes a message that is made already and reads a reply by its announced length: no check, no
//! parsing. It is what drivers are compared with.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// A connection to a server on this machine.
pub struct Raw {
    pipe: Pipe,
    buffer: Vec<u8>,
}

enum Pipe {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How much room there is for a reply at first.
const REPLY_BYTES: usize = 4096;

impl Raw {
    /// Opens a connection, over TLS if the server speaks it.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn open(port: u16, tls: Option<&TlsConnector>) -> io::Result<Self> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        tcp.set_nodelay(true)?;
        let pipe = match tls {
            None => Pipe::Tcp(tcp),
            Some(tls) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                Pipe::Tls(Box::new(tls.connect(name, tcp).await?))
            }
        };
        Ok(Self { pipe, buffer: Vec::new() })
    }

    /// Writes a message and reads the reply.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn exchange(&mut self, message: &[u8]) -> io::Result<&[u8]> {
        if self.buffer.is_empty() {
            self.buffer.resize(REPLY_BYTES, 0);
        }
        let length = match &mut self.pipe {
            Pipe::Tcp(stream) => exchange(stream, message, &mut self.buffer).await?,
            Pipe::Tls(stream) => exchange(stream, message, &mut self.buffer).await?,
        };
        Ok(&self.buffer[..length])
    }

    /// Gives back the room for replies.
    pub fn rest(&mut self) {
        self.buffer = Vec::new();
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, message: &[u8], buffer: &mut Vec<u8>) -> io::Result<usize> {
    stream.write_all(message).await?;
    stream.flush().await?;
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        let Some(announced) = buffer[..filled].first_chunk::<4>() else { continue };
        let length = u32::from_le_bytes(*announced) as usize;
        if filled >= length {
            return Ok(length);
        }
        if buffer.len() < length {
            // Once: the room is kept for the next reply.
            buffer.resize(length, 0);
        }
    }
}
