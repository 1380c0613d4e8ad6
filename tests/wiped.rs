//! Secrets are wiped before their memory is freed.
//!
//! A process of its own, whose allocator looks for secrets in every block that is given back. What a test itself makes of
//! a secret is wiped, or never given back.
#![allow(unsafe_code, reason = "an allocator can't be written without")]
#![allow(clippy::disallowed_methods, reason = "the servers have threads of their own")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use mongolink::auth::Credential;
use mongolink::auth::scram::keys::Derivation;
use mongolink::bson::{RawDocument, RawDocumentBuf, rawdoc};
use mongolink::handshake::{Conversation, ConversationConfig, HandshakeCommand, HandshakeStep, HandshakeWork, HandshakeWorkResult};
use mongolink::wire::{Flags, Request, WriteBuffer, encode_message};
use mongolink::{Client, ConnectionString, ErrorKind};
use ring::{digest, hmac, pbkdf2};
use tokio::runtime::{Builder, Runtime};
use zeroize::Zeroizing;

/// Looks through blocks before they are given back.
struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

// SAFETY: memory comes from the system's allocator and goes back to it, with the layout that it was asked for with.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Filled, so that all of it can be read later. A block that grows is another one: the default of `realloc` moves.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives the block up, and all of it was filled when it was handed out.
        look(unsafe { std::slice::from_raw_parts(block, layout.size()) });
        unsafe { System.dealloc(block, layout) }
    }
}

/// What is looked for, and the size of the last block that it was found in.
static SOUGHT: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
static FOUND: [AtomicUsize; Secret::ALL.len()] = [const { AtomicUsize::new(0) }; Secret::ALL.len()];

fn look(block: &[u8]) {
    let Some(sought) = SOUGHT.get() else { return };
    for (secret, found) in sought.iter().zip(&FOUND) {
        if block.windows(secret.len()).any(|window| window == secret.as_slice()) {
            found.store(block.len(), Ordering::SeqCst);
        }
    }
}

/// Names what is secret.
#[derive(Clone, Copy, Debug)]
enum Secret {
    Planted,
    PlainPassword,
    EncodedPassword,
    KeyFilePassword,
    Token,
    ScramPassword,
    Md5,
    Salted1,
    ClientKey1,
    ServerKey1,
    Salted256,
    ClientKey256,
    ServerKey256,
    KeyBase64,
    KeyDer,
}

const PLANTED: &str = "planted-and-found";
const PLAIN_PASSWORD: &str = "pl41n/p@ssw0rd:of-ann";
const ENCODED_PASSWORD: &str = "pl41n%2Fp%40ssw0rd%3Aof-ann";
const TOKEN: &str = "s3ss1on-token-of-a-cloud";
const KEY_FILE_PASSWORD: &str = "k3y-f1le/p@ssword";
/// Ends in letters that SASLprep changes or drops.
const RAW_PASSWORD: &str = "scr4m-s3cret-\u{ff4f}\u{ff46}\u{ad}-bob\u{2168}";
const PREPARED_PASSWORD: &str = "scr4m-s3cret-of-bobIX";
const SALT: &[u8] = b"a salt of bytes.";
const ITERATIONS: u32 = 4096;

impl Secret {
    const ALL: [Self; 15] = [
        Self::Planted,
        Self::PlainPassword,
        Self::EncodedPassword,
        Self::KeyFilePassword,
        Self::Token,
        Self::ScramPassword,
        Self::Md5,
        Self::Salted1,
        Self::ClientKey1,
        Self::ServerKey1,
        Self::Salted256,
        Self::ClientKey256,
        Self::ServerKey256,
        Self::KeyBase64,
        Self::KeyDer,
    ];

    /// Returns its bytes; nothing is looked for before these are known.
    fn bytes(self) -> Vec<u8> {
        let [sha_1, sha_256] = [Hash::Sha1, Hash::Sha256].map(Hash::keys);
        match self {
            Self::Planted => beginning(PLANTED.as_bytes()),
            Self::PlainPassword => beginning(PLAIN_PASSWORD.as_bytes()),
            Self::EncodedPassword => beginning(ENCODED_PASSWORD.as_bytes()),
            Self::KeyFilePassword => beginning(KEY_FILE_PASSWORD.as_bytes()),
            Self::Token => beginning(TOKEN.as_bytes()),
            Self::ScramPassword => beginning(PREPARED_PASSWORD.as_bytes()),
            Self::Md5 => beginning(&Hash::Sha1.password()),
            Self::Salted1 => sha_1[0].clone(),
            Self::ClientKey1 => sha_1[1].clone(),
            Self::ServerKey1 => sha_1[2].clone(),
            Self::Salted256 => sha_256[0].clone(),
            Self::ClientKey256 => sha_256[1].clone(),
            Self::ServerKey256 => sha_256[2].clone(),
            Self::KeyBase64 => key_file().0.as_bytes().get(60..90).expect("long").to_vec(),
            Self::KeyDer => key_file().1.get(40..64).expect("long").to_vec(),
        }
    }
}

/// Returns the beginning of a secret, which is what a text leaves behind that grows while it is written.
fn beginning(secret: &[u8]) -> Vec<u8> {
    secret.get(..10).expect("long").to_vec()
}

/// Names the hash of a SCRAM, whose server is written down once more here.
#[derive(Clone, Copy, PartialEq)]
enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    fn mechanism(self) -> &'static str {
        if self == Self::Sha1 { "SCRAM-SHA-1" } else { "SCRAM-SHA-256" }
    }

    fn password(self) -> Vec<u8> {
        match self {
            Self::Sha1 => format!("{:x}", md5::compute(format!("bob:mongo:{RAW_PASSWORD}"))).into_bytes(),
            Self::Sha256 => PREPARED_PASSWORD.into(),
        }
    }

    fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        let algorithm = if self == Self::Sha1 { hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY } else { hmac::HMAC_SHA256 };
        hmac::sign(&hmac::Key::new(algorithm, key), data).as_ref().to_vec()
    }

    /// Returns the salted password, the client's key and the server's.
    fn keys(self) -> [Vec<u8>; 3] {
        let (algorithm, size) = match self {
            Self::Sha1 => (pbkdf2::PBKDF2_HMAC_SHA1, digest::SHA1_OUTPUT_LEN),
            Self::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, digest::SHA256_OUTPUT_LEN),
        };
        let mut salted = vec![0; size];
        pbkdf2::derive(algorithm, NonZeroU32::new(ITERATIONS).expect("not zero"), SALT, &self.password(), &mut salted);
        let (client, server) = (self.hmac(&salted, b"Client Key"), self.hmac(&salted, b"Server Key"));
        [salted, client, server]
    }

    /// Returns the server's key, which is never given back.
    fn server_key(self) -> &'static [u8] {
        let place = if self == Self::Sha1 { Secret::ServerKey1 } else { Secret::ServerKey256 };
        &SOUGHT.get().expect("looked for")[place as usize]
    }

    /// Makes the server's signature over an exchange.
    fn signature(self, message: &str) -> String {
        BASE64_STANDARD.encode(self.hmac(self.server_key(), message.as_bytes()))
    }
}

/// A private key as PEM and as DER, made once.
fn key_file() -> &'static (String, Vec<u8>) {
    static KEY: OnceLock<(String, Vec<u8>)> = OnceLock::new();
    KEY.get_or_init(|| {
        let key = rcgen::KeyPair::generate().expect("a key");
        (key.serialize_pem(), key.serialize_der())
    })
}

/// From now on, blocks are looked through.
fn watch() {
    static ONCE: Once = Once::new();
    // Made outside of the cell, so that nothing is checked while the secrets are still being made.
    ONCE.call_once(|| SOUGHT.set(Secret::ALL.map(Secret::bytes).into()).expect("set once"));
}

/// Sees that none of these stayed behind.
fn assert_wiped(secrets: &[Secret], after: &str) {
    for secret in secrets {
        let size = FOUND[*secret as usize].swap(0, Ordering::SeqCst);
        assert_eq!(size, 0, "{secret:?} is in a block of {size} bytes that was given back {after}");
    }
}

/// Makes a text of secret and other parts that grows nowhere.
fn text(parts: &[&str]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| text.push_str(part));
    text
}

/// A server on a thread of its own: what it reads is never given back. It ends with the process.
fn server(answer: impl Fn(&RawDocument) -> Option<RawDocumentBuf> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || drop(talk(stream, &*answer)));
        }
    });
    address
}

/// Reads commands and answers them, until one is not to be answered; then reads on.
fn talk(mut stream: TcpStream, answer: &dyn Fn(&RawDocument) -> Option<RawDocumentBuf>) -> std::io::Result<()> {
    let buffer = Vec::leak(vec![0; 16 * 1024]);
    loop {
        stream.read_exact(&mut buffer[..16])?;
        let number = |at: usize, bytes: &[u8]| i32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let (length, request) = (usize::try_from(number(0, buffer)).expect("a length"), number(4, buffer));
        stream.read_exact(&mut buffer[16..length])?;
        // The header, the flags and the kind of the section.
        let command = RawDocument::from_bytes(&buffer[21..length]).expect("a document");
        if let Some(reply) = answer(command) {
            let mut out = WriteBuffer::default();
            encode_message(&mut out, 1, request, Flags::default(), &Request::from(reply), |_| {});
            stream.write_all(&out.to_bytes())?;
        }
    }
}

fn hello() -> RawDocumentBuf {
    rawdoc! { "ismaster": true, "isWritablePrimary": true, "helloOk": true, "minWireVersion": 0, "maxWireVersion": 21, "ok": 1 }
}

fn is_hello(command: &RawDocument) -> bool {
    ["hello", "isMaster"].into_iter().any(|name| command.get(name).is_ok_and(|field| field.is_some()))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Pings, and returns how that ended; nothing of the client is left then.
fn ping(uri: &str) -> Option<ErrorKind> {
    let runtime = runtime();
    let outcome = runtime.block_on(async {
        let client = Client::new(uri).expect("a client");
        let ping = client.database("admin").run_command(rawdoc! { "ping": 1 }).timeout(Duration::from_millis(700)).await;
        client.shutdown().await;
        ping.map_err(|error| error.kind())
    });
    drop(runtime);
    outcome.err()
}

#[test]
fn what_is_given_back_unwiped_is_found() {
    watch();
    drop(String::from(PLANTED));
    assert_eq!(FOUND[Secret::Planted as usize].swap(0, Ordering::SeqCst), PLANTED.len());
    let mut grown = Zeroizing::new(String::from(PLANTED));
    grown.push_str(" and moved");
    assert_ne!(FOUND[Secret::Planted as usize].swap(0, Ordering::SeqCst), 0);
    drop(Zeroizing::new(String::from(PLANTED)));
    assert_wiped(&[Secret::Planted], "wiped");
}

#[test]
fn secrets_of_a_login_are_wiped() {
    watch();
    // One after the other, so that each is blamed for its own.
    connection_string_is_read();
    password_in_clear_is_sent();
    scram_is_gone_through();
    scram_is_broken_off_at_every_step();
    key_file_is_read();
}

fn connection_string_is_read() {
    let uri = text(&["mongodb://ann:", ENCODED_PASSWORD, "@h/?tls=true&tlsCertificateKeyFilePassword=", KEY_FILE_PASSWORD]);
    let read = ConnectionString::parse(&uri).expect("a connection string");
    assert_eq!(read.options.password.as_ref().map(|password| password.reveal() == PLAIN_PASSWORD), Some(true));
    drop((read.clone(), read.to_string(), format!("{read:?}"), read));
    let secrets = [Secret::PlainPassword, Secret::EncodedPassword, Secret::KeyFilePassword, Secret::Token];
    assert_wiped(&secrets, "after a connection string was read");
    let uri = text(&["mongodb://a:b@h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:", TOKEN]);
    if let Ok(read) = ConnectionString::parse(&uri) {
        drop(read.options.credential());
    }
    assert_wiped(&secrets, "after a session token was read");
    for broken in [
        text(&["mongodb://ann:", ENCODED_PASSWORD, "%ff@h/"]),
        text(&["mongodb://ann:", ENCODED_PASSWORD, ":x@h/"]),
        text(&["mongodb://ann:", ENCODED_PASSWORD, "@h,/?x"]),
    ] {
        drop(ConnectionString::parse(&broken).expect_err("refused"));
        assert_wiped(&secrets, "after a connection string was refused");
    }
}

fn password_in_clear_is_sent() {
    let secrets = [Secret::PlainPassword, Secret::EncodedPassword];
    let plain = |address: SocketAddr| text(&["mongodb://ann:", ENCODED_PASSWORD, "@", &address.to_string(), "/?authMechanism=PLAIN"]);
    let accepting = server(|command| {
        Some(if is_hello(command) {
            hello()
        } else {
            rawdoc! { "ok": 1, "done": true, "conversationId": 1, "payload": "" }
        })
    });
    assert_eq!(ping(&plain(accepting)), None);
    assert_wiped(&secrets, "after a login");
    let refusing = server(|command| {
        Some(if is_hello(command) {
            hello()
        } else {
            rawdoc! { "ok": 0, "code": 18, "errmsg": "no" }
        })
    });
    assert_eq!(ping(&plain(refusing)), Some(ErrorKind::Auth));
    assert_wiped(&secrets, "after a login that was refused");
    let silent = server(|command| is_hello(command).then(hello));
    assert_eq!(ping(&plain(silent)), Some(ErrorKind::Timeout));
    assert_wiped(&secrets, "after a login that was given up");
}

/// The server's first message to a client's.
fn server_first(start: &RawDocument) -> (String, String) {
    let message = std::str::from_utf8(start.get_binary("payload").expect("a payload").bytes).expect("text");
    let bare = message.strip_prefix("n,,").expect("a header").to_owned();
    let nonce = bare.split_once("r=").expect("a nonce").1;
    let first = format!("r={nonce}more,s={},i={ITERATIONS}", BASE64_STANDARD.encode(SALT));
    (bare, first)
}

/// The server's last message.
fn server_final(hash: Hash, (bare, first): &(String, String)) -> String {
    let nonce = first.split_once(',').expect("a nonce").0;
    format!("v={}", hash.signature(&format!("{bare},{first},c=biws,{nonce}")))
}

const SCRAM: [Secret; 8] = [
    Secret::ScramPassword,
    Secret::Md5,
    Secret::Salted1,
    Secret::ClientKey1,
    Secret::ServerKey1,
    Secret::Salted256,
    Secret::ClientKey256,
    Secret::ServerKey256,
];

fn scram_is_gone_through() {
    for hash in [Hash::Sha1, Hash::Sha256] {
        let said = std::sync::Mutex::new(None);
        let address = server(move |command| {
            let mut said = said.lock().expect("no panic");
            let (payload, done) = if is_hello(command) {
                return Some(hello());
            } else if command.get("saslStart").is_ok_and(|field| field.is_some()) {
                let exchange = said.insert(server_first(command));
                (exchange.1.clone(), false)
            } else if command.get("saslContinue").is_ok_and(|field| field.is_some()) {
                (server_final(hash, said.as_ref().expect("begun")), true)
            } else {
                return Some(rawdoc! { "ok": 1 });
            };
            Some(rawdoc! { "ok": 1, "conversationId": 1, "done": done, "payload": payload })
        });
        let uri = text(&["mongodb://bob:", RAW_PASSWORD, "@", &address.to_string(), "/?authMechanism=", hash.mechanism()]);
        assert_eq!(ping(&uri), None);
        assert_wiped(&SCRAM, "after a login with SCRAM");
    }
}

fn credential(hash: Hash) -> Credential {
    let uri = text(&["mongodb://bob:", RAW_PASSWORD, "@h/?authMechanism=", hash.mechanism()]);
    ConnectionString::parse(&uri).expect("a connection string").options.credential().expect("a credential").expect("a user")
}

fn scram_is_broken_off_at_every_step() {
    for hash in [Hash::Sha1, Hash::Sha256] {
        for steps in 0..5 {
            drop(go(hash, steps));
            assert_wiped(&SCRAM, "in the middle of a login");
        }
    }
}

/// What is dropped in the end: what was left at some step.
type Left = (Option<(HandshakeCommand, Conversation)>, Option<HandshakeStep>, Option<Derivation>);

/// Goes so many steps through a login.
fn go(hash: Hash, steps: usize) -> Left {
    let client = Arc::new(rawdoc! { "driver": { "name": "x" } });
    let nonces = [[1; 24], [2; 24]];
    let (command, conversation) =
        Conversation::new(ConversationConfig { client, credential: Some(credential(hash)), hello_ok: true, load_balanced: false, nonces });
    if steps == 0 {
        return (Some((command, conversation)), None, None);
    }
    let Ok(HandshakeStep::Send(command, conversation)) = conversation.handle_reply(&hello()) else { panic!("a login") };
    if steps == 1 {
        return (Some((command, conversation)), None, None);
    }
    let exchange = server_first(&command.body);
    let answer = |payload: &str, done: bool| rawdoc! { "ok": 1, "conversationId": 1, "done": done, "payload": payload };
    let step = conversation.handle_reply(&answer(&exchange.1, false)).expect("accepted");
    let HandshakeStep::Work(HandshakeWork::DeriveKeys(derivation), conversation) = step else { panic!("a derivation") };
    if steps == 2 {
        let mut deriving = derivation.begin();
        assert!(deriving.advance(100).is_none());
        return (None, None, Some(derivation));
    }
    let step = conversation.handle_work(HandshakeWorkResult::Keys(derivation.run())).expect("accepted");
    let HandshakeStep::Send(command, conversation) = step else { panic!("a proof") };
    if steps == 3 {
        return (Some((command, conversation)), None, None);
    }
    let step = conversation.handle_reply(&answer(&server_final(hash, &exchange), true)).expect("accepted");
    (None, Some(step), None)
}

fn key_file_is_read() {
    let path = std::env::temp_dir().join(format!("mongolink-wiped-{}.pem", std::process::id()));
    let certificate = {
        let params = rcgen::CertificateParams::new(vec!["client".to_owned()]).expect("params");
        let key = rcgen::KeyPair::from_pem(&key_file().0).expect("a key");
        let certificate = params.self_signed(&key).expect("signed").pem();
        // Of the test's own library.
        std::mem::forget((params, key));
        certificate
    };
    let file = text(&[&key_file().0, &certificate]);
    std::fs::write(&path, file.as_bytes()).expect("written");
    drop(file);
    for secret in [Secret::KeyBase64, Secret::KeyDer] {
        FOUND[secret as usize].store(0, Ordering::SeqCst);
    }
    let uri = format!("mongodb://127.0.0.1:1/?tls=true&tlsInsecure=true&tlsCertificateKeyFile={}", path.display());
    let error = ping(&uri);
    std::fs::remove_file(&path).expect("removed");
    assert!(matches!(error, Some(ErrorKind::ServerSelection | ErrorKind::Timeout)), "{error:?}");
    assert_wiped(&[Secret::KeyBase64, Secret::KeyDer], "after a key file was read");
}
