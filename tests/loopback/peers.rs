//! Peers that misbehave: servers, DNS servers, and a certificate authority.
//!
//! Small servers on free ports of 127.0.0.1, in place of a deployment. Each ends when it is dropped: its tasks are
//! aborted, its sockets closed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use mongolink::ServerAddress;
use mongolink::bson::{Document, RawDocumentBuf, doc};
use mongolink::wire::{Decoder, Flags, MESSAGE_SIZE_MAX, Message, Request, WriteBuffer, encode_message, op_code};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

/// Returns a free port of 127.0.0.1.
const FREE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A server on loopback that is not what it should be.
pub(crate) struct Peer {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Peer {
    /// Starts a server that treats every connection like this; a connection is closed when its treatment ends.
    pub(crate) async fn start<F>(treat: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(FREE).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&accepted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                connections.spawn(treat(tcp));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, accepted, _tasks: tasks }
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what a client calls it.
    pub(crate) fn host(&self) -> ServerAddress {
        host_of(self.address)
    }

    /// Returns how many connections it has accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Returns what a client calls the server at an address.
pub(crate) fn host_of(address: SocketAddr) -> ServerAddress {
    ServerAddress::parse(&address.to_string()).expect("a host")
}

/// Accepts, reads and says nothing.
pub(crate) async fn silent() -> Peer {
    Peer::start(swallow::<TcpStream>).await
}

/// Closes every connection at once.
pub(crate) async fn closing() -> Peer {
    Peer::start(|tcp| {
        drop(tcp);
        std::future::ready(())
    })
    .await
}

/// Closes every connection once it was spoken to.
pub(crate) async fn closing_when_spoken_to() -> Peer {
    Peer::start(|mut tcp| async move {
        drop(tcp.read(&mut [0; 4096]).await);
    })
    .await
}

/// Answers the first bytes of every connection with these bytes, and later ones with nothing.
pub(crate) async fn saying(bytes: impl Into<Vec<u8>>) -> Peer {
    let bytes = bytes.into();
    Peer::start(move |tcp| say(tcp, bytes.clone())).await
}

async fn say(mut tcp: TcpStream, bytes: Vec<u8>) {
    drop(tcp.read(&mut [0; 4096]).await);
    if tcp.write_all(&bytes).await.is_ok() {
        swallow(tcp).await;
    }
}

/// Reads until the peer closes.
async fn swallow<S: AsyncRead + Unpin>(mut stream: S) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer).await, Ok(size) if size > 0) {}
}

/// A port that refuses connections, and that nobody else can get meanwhile.
pub(crate) struct Refusing {
    address: SocketAddr,
    _socket: TcpSocket,
}

/// Takes a port without listening on it.
pub(crate) fn refusing() -> Refusing {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(FREE.into()).expect("a free port");
    Refusing { address: socket.local_addr().expect("bound"), _socket: socket }
}

impl Refusing {
    /// Returns the address that refuses connections.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what a client calls it.
    pub(crate) fn host(&self) -> ServerAddress {
        host_of(self.address)
    }
}

/// A command as a scripted server hears it.
pub(crate) struct Heard {
    /// Where the server listens.
    pub(crate) me: SocketAddr,
    /// The command's name.
    pub(crate) name: String,
    /// The command.
    pub(crate) body: Document,
    /// The number of its message.
    pub(crate) request_id: i32,
}

impl Heard {
    /// Tells whether it is a hello, under any of its names.
    pub(crate) fn is_hello(&self) -> bool {
        matches!(self.name.as_str(), "hello" | "isMaster" | "ismaster")
    }
}

/// Says what a scripted server does about a command.
pub(crate) enum Turn {
    /// It answers with a document.
    Reply(Document),
    /// It answers with a document, and says that this is the reply to another message.
    Misdirect(Document),
    /// It sends these bytes.
    Raw(Vec<u8>),
    /// It sends bytes, and closes.
    RawAndClose(Vec<u8>),
    /// It says nothing more on this connection.
    Silence,
    /// It closes.
    Close,
}

type Script = Arc<dyn Fn(&Heard) -> Turn + Send + Sync>;

/// Answers every command as its script says.
pub(crate) async fn scripted(script: impl Fn(&Heard) -> Turn + Send + Sync + 'static) -> Peer {
    let script: Script = Arc::new(script);
    Peer::start(move |tcp| play_plain(tcp, Arc::clone(&script))).await
}

/// Speaks TLS, then answers every command as its script says.
pub(crate) async fn scripted_over_tls(config: Arc<ServerConfig>, script: impl Fn(&Heard) -> Turn + Send + Sync + 'static) -> Peer {
    let acceptor = TlsAcceptor::from(config);
    let script: Script = Arc::new(script);
    Peer::start(move |tcp| play_secured(tcp, acceptor.clone(), Arc::clone(&script))).await
}

async fn play_plain(tcp: TcpStream, script: Script) {
    let me = tcp.local_addr().expect("connected");
    play(tcp, me, script).await;
}

async fn play_secured(tcp: TcpStream, acceptor: TlsAcceptor, script: Script) {
    let me = tcp.local_addr().expect("connected");
    if let Ok(tls) = acceptor.accept(tcp).await {
        play(tls, me, script).await;
    }
}

async fn play<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, me: SocketAddr, script: Script) {
    let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
    while let Some(heard) = hear(&mut stream, &mut decoder, me).await {
        let (bytes, closes) = match script(&heard) {
            Turn::Reply(document) => (message(heard.request_id, &document), false),
            Turn::Misdirect(document) => (message(heard.request_id + 1000, &document), false),
            Turn::Raw(bytes) => (bytes, false),
            Turn::RawAndClose(bytes) => (bytes, true),
            Turn::Silence => return swallow(stream).await,
            Turn::Close => return,
        };
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() || closes {
            return;
        }
    }
}

/// Reads one command; `None` at the end, and for what is no command.
pub(crate) async fn hear<S: AsyncRead + Unpin>(stream: &mut S, decoder: &mut Decoder, me: SocketAddr) -> Option<Heard> {
    loop {
        if let Some(frame) = decoder.next_frame().ok()? {
            let message = Message::parse(frame).ok()?;
            let body = Document::try_from(message.body()).ok()?;
            let name = body.keys().next()?.clone();
            return Some(Heard { me, name, body, request_id: message.request_id });
        }
        if stream.read_buf(decoder.buffer()).await.ok()? == 0 {
            return None;
        }
    }
}

/// Encodes a reply as it should be.
pub(crate) fn message(response_to: i32, document: &Document) -> Vec<u8> {
    let body = RawDocumentBuf::try_from(document).expect("a document");
    let mut out = WriteBuffer::default();
    encode_message(&mut out, 1, response_to, Flags::default(), &Request::from(body), |_| {});
    out.to_bytes()
}

/// Encodes a reply whose document is any bytes.
pub(crate) fn message_of_bytes(response_to: i32, document: &[u8]) -> Vec<u8> {
    let length = i32::try_from(21 + document.len()).expect("a short document");
    // The header, no flags, a section of kind 0.
    let mut bytes: Vec<u8> = [length, 1, response_to, op_code::MSG, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
    bytes.push(0);
    bytes.extend_from_slice(document);
    bytes
}

/// Encodes the header of a reply, with any length and op code.
pub(crate) fn header(length: i32, response_to: i32, op_code: i32) -> Vec<u8> {
    [length, 1, response_to, op_code].iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// What a server says of itself that stands alone and has no sessions.
pub(crate) fn standalone_hello() -> Document {
    doc! {
        "isWritablePrimary": true, "ismaster": true, "helloOk": true, "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000, "minWireVersion": 0, "maxWireVersion": 21, "ok": 1.0,
    }
}

/// What the primary of a replica set says of itself.
pub(crate) fn primary_hello(set: &str, me: &str, hosts: &[&str]) -> Document {
    let mut hello = standalone_hello();
    hello.extend(doc! { "setName": set, "setVersion": 1, "me": me, "primary": me, "hosts": hosts.to_vec() });
    hello
}

/// A DNS server that is of no use.
pub(crate) struct Dns {
    address: SocketAddr,
    heard: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Dns {
    /// Returns where it listens, by UDP.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many questions it has read.
    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }
}

/// Says of every name that it does not exist.
pub(crate) async fn dns_without_names() -> Dns {
    dns(|query| Some(no_such_name(query))).await
}

/// Reads questions, and never answers.
pub(crate) async fn silent_dns() -> Dns {
    dns(|_| None).await
}

async fn dns(answer: fn(&[u8]) -> Option<Vec<u8>>) -> Dns {
    let heard = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&heard);
    let socket = UdpSocket::bind(FREE).await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut query = [0; 4096];
        while let Ok((size, from)) = socket.recv_from(&mut query).await {
            counted.fetch_add(1, Ordering::SeqCst);
            if let Some(reply) = answer(&query[..size]) {
                drop(socket.send_to(&reply, from).await);
            }
        }
    });
    Dns { address, heard, _tasks: tasks }
}

/// Turns a query with one question into the answer NXDOMAIN (RFC 1035 section 4.1).
fn no_such_name(query: &[u8]) -> Vec<u8> {
    const HEADER_SIZE: usize = 12;
    let name_size = query[HEADER_SIZE..].iter().position(|byte| *byte == 0).expect("a name") + 1;
    let mut reply = query[..HEADER_SIZE + name_size + 4].to_vec();
    // QR, RD and RA are set, RCODE is 3; there are no records behind the question.
    reply[2..4].copy_from_slice(&[0x81, 0x83]);
    reply[6..HEADER_SIZE].fill(0);
    reply
}

/// A certificate authority, with its certificate in a file that is gone with it.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    /// Makes an authority of its own key.
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("mongolink-loopback-{}-{number}.pem", std::process::id()));
        std::fs::write(&file, issuer.pem()).expect("written");
        Self { issuer, file }
    }

    /// Returns the file for `tlsCAFile`.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Makes the configuration of a server that shows a certificate for a name or address, valid until a year begins.
    pub(crate) fn server(&self, name: &str, last_year: i32) -> Arc<ServerConfig> {
        self.server_of_names(&[name.to_owned()], last_year)
    }

    /// Makes the configuration of a server that asks for a client certificate of this authority, and may go on without.
    pub(crate) fn asking_server(&self, name: &str, version: &'static SupportedProtocolVersion, goes_on_without: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = if goes_on_without { verifier.allow_unauthenticated() } else { verifier };
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("a version");
        let config = builder.with_client_cert_verifier(verifier.build().expect("a verifier"));
        let (certificate, key) = self.identity(&[name.to_owned()], 4000);
        Arc::new(config.with_single_cert(vec![certificate], key).expect("a configuration"))
    }

    /// Writes a client's certificate of this authority, and its key, into a file.
    pub(crate) fn client_file(&self) -> Self {
        let (certificate, key) = self.identity(&["client".to_owned()], 4000);
        let text = [("CERTIFICATE", certificate.as_ref()), ("PRIVATE KEY", key.secret_der())]
            .map(|(label, der)| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der)));
        let own = Self::new("client");
        std::fs::write(&own.file, text.concat()).expect("written");
        own
    }

    fn identity(&self, names: &[String], last_year: i32) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(names).expect("params");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        params.distinguished_name.push(DnType::CommonName, names.concat());
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").der().clone();
        (certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    /// Makes the configuration of a server that shows a certificate for several names.
    pub(crate) fn server_of_names(&self, names: &[String], last_year: i32) -> Arc<ServerConfig> {
        let (certificate, key) = self.identity(names, last_year);
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions();
        let config = builder.expect("versions").with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate], key).expect("a configuration"))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.file));
    }
}
