//! The fuzz targets: each takes bytes from outside and panics where a property of their reader does not hold.
//!
//! `fuzz/run` calls them with inputs that cargo-fuzz finds, `tests/fuzz_corpus.rs` with those in `fuzz/corpus`.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{RawDocument, RawDocumentBuf};
use mongolink::Client;
use mongolink::auth::scram::keys::ScramHash;
use mongolink::auth::scram::{ClientFirst, NONCE_SIZE};
use mongolink::auth::{Credential, Secret};
use mongolink::cli::extjson::parse;
use mongolink::cursor::CursorState;
use mongolink::dns::srv::{SrvRecord, seeds};
use mongolink::dns::system_config::{ConfigText, NamePath, Platform, ResolvConf, SystemFacts, decide};
use mongolink::handshake::{
    ClientMetadata, Conversation, ConversationConfig, DriverInfo, DriverInfos, Environment, HandshakeStep, HandshakeWork,
    HandshakeWorkResult, HelloReply, METADATA_SIZE_MAX, NAMES_MAX,
};
use mongolink::host::{ServerAddress, normalize_name};
use mongolink::operation::json::Json;
use mongolink::operation::{ReplyHead, command_error};
use mongolink::options::ClientOptions;
use mongolink::reply::write_concern_error;
use mongolink::sandbox::{Config, FakeDeployment, SandboxAction};
use mongolink::topology::{Fault, Topology, TopologyConfig};
use mongolink::uri::{ConnectionString, apply_txt};
use mongolink::wire::{Decoder, Frame, MESSAGE_SIZE_MAX, Message};

/// A target: its name, which is that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("extjson", extjson),
    ("hello", hello),
    ("host", host),
    ("hosts_file", hosts_file),
    ("login", login),
    ("metadata", metadata),
    ("reply", reply),
    ("sandbox", sandbox),
    ("scram", scram),
    ("secret", secret),
    ("srv", srv),
    ("uri", uri),
    ("wire", wire),
];

/// A password that no output may show. It is no part of any text of the library.
const MARKER: &str = "Zq7xPw9kVj";

/// What comes before a secret in a connection string: a password, a secret option, and a key that is not known, which may be the
/// rest of a secret.
const SECRET_FOLLOWS: &[&str] = &[
    "mongodb://user:",
    "mongodb+srv://user:",
    "mongodb://h/?tlsCertificateKeyFilePassword=",
    "mongodb://h/?tlsCertificateKeyFilePassword=x&",
    "mongodb://user:x@h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:",
];

/// The size limit of a message here, in bytes.
const SIZE_MAX: u32 = 1 << 16;

/// Derivations with more iterations are not run.
const ITERATIONS_RUN_MAX: u32 = 5000;

/// Frames are the same however the stream is split, and parsing one does not panic.
pub fn wire(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else { return };
    let whole = frames(&[stream]);
    let step = usize::from(*first).max(1);
    let pieces: Vec<&[u8]> = stream.chunks(step).collect();
    assert_eq!(frames(&pieces), whole);
}

fn frames(pieces: &[&[u8]]) -> Vec<String> {
    let mut decoder = Decoder::new(SIZE_MAX);
    let mut seen = Vec::new();
    for piece in pieces {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => seen.push(message(frame)),
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }
    seen
}

fn message(frame: Frame) -> String {
    let shown = format!("{frame:?}");
    match Message::parse(frame) {
        Ok(message) => format!("{shown} {message:?}"),
        Err(error) => format!("{shown} {error}"),
    }
}

/// A hello reply's names are in normal form and bounded in number, and the topology accepts any reply.
pub fn hello(data: &[u8]) {
    let Ok(document) = RawDocument::from_bytes(data) else { return };
    let Ok(reply) = HelloReply::parse(document) else { return };
    assert!(reply.hosts.len() <= NAMES_MAX);
    for host in &reply.hosts {
        assert_eq!(&ServerAddress::parse(&host.to_string()).expect("a host in normal form"), host);
    }
    let now = start();
    let seed = ServerAddress::parse("a.example:1").expect("a host");
    let mut topology = Topology::new(TopologyConfig::new(vec![seed.clone()]), 1, now);
    topology.handle_hello(&seed, reply, Some(Duration::from_millis(1)), now);
    while topology.poll_action().is_some() {}
    while topology.poll_event().is_some() {}
    topology.handle_timeout(now + Duration::from_secs(60));
}

/// All readers of a reply agree on whether it succeeded; its texts end; its cursor's documents lie within it.
pub fn reply(data: &[u8]) {
    let Ok(document) = RawDocument::from_bytes(data) else { return };
    let head = ReplyHead::read(data);
    let error = command_error(document);
    if head.succeeded {
        assert!(error.is_none(), "{head:?} against {error:?}");
    }
    let concern = write_concern_error(document);
    let host = ServerAddress::parse("a.example:1").expect("a host");
    let fault = Fault::in_reply(&host, document, 1);
    let text = Json::of(document).to_string();
    let cut = Json::of(document).cut(100).to_string();
    assert!(cut.chars().count() <= 103, "{cut}");
    drop((format!("{error:?} {concern:?} {fault:?}"), text));
    let Ok((state, mut batch)) = CursorState::parse(data.to_vec().into()) else { return };
    let (announced, mut seen) = (batch.len(), 0);
    while let Some(bytes) = batch.next_document() {
        seen += 1;
        assert!(RawDocument::from_bytes(&bytes).is_ok());
    }
    assert_eq!(seen, announced);
    drop(state.kill());
}

/// A SCRAM exchange never ends well without the right signature.
pub fn scram(data: &[u8]) {
    let nonce = "rOprNGfwEbeRWgbNEkqO";
    let password = Secret::new(MARKER);
    for hash in [ScramHash::Sha1, ScramHash::Sha256] {
        let mut parts = data.splitn(2, |byte| *byte == 0);
        let first = parts.next().unwrap_or_default();
        let client = ClientFirst::with_nonce(hash, "user", &password, nonce.to_owned());
        // The nonce is continued, so that the rest is met.
        let first = [b"r=".as_slice(), nonce.as_bytes(), first].concat();
        let Ok((derivation, server)) = client.handle_server_first(&first) else { continue };
        if derivation.iterations() > ITERATIONS_RUN_MAX {
            continue;
        }
        let (_, last) = server.handle_keys(derivation.run()).expect("keys of the same mechanism");
        last.handle_server_final(parts.next().unwrap_or_default()).expect_err("the signature can't be known");
    }
}

/// A connection with a user is never ready without a valid server signature.
pub fn login(data: &[u8]) {
    let credential = ConnectionString::parse("mongodb://u:p@h/").expect("a string").options.credential().expect("a credential");
    login_as(credential, data);
}

fn login_as(credential: Option<Credential>, mut data: &[u8]) {
    let config = ConversationConfig {
        client: Arc::default(),
        credential,
        hello_ok: false,
        load_balanced: false,
        nonces: [[7; NONCE_SIZE], [8; NONCE_SIZE]],
    };
    let (_, mut conversation) = Conversation::new(config);
    loop {
        let Some(length) = data.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize) else { return };
        let Some((reply, rest)) = data.split_at_checked(length.max(5)) else { return };
        data = rest;
        let Ok(reply) = RawDocument::from_bytes(reply) else { return };
        let mut step = conversation.handle_reply(reply);
        if let Ok(HandshakeStep::Work(HandshakeWork::DeriveKeys(derivation), waiting)) = step {
            if derivation.iterations() > ITERATIONS_RUN_MAX {
                return;
            }
            step = waiting.handle_work(HandshakeWorkResult::Keys(derivation.run()));
        }
        match step {
            Ok(HandshakeStep::Send(_, next)) => conversation = next,
            Ok(HandshakeStep::Work(..)) => panic!("keys were asked for twice"),
            Ok(HandshakeStep::Ready(hello)) => panic!("ready without a signature: {hello:?}"),
            Err(_) => return,
        }
    }
}

/// A connection string that a client takes is the same when it is written and read again; one that is refused is never written
/// as one that is taken.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(read) = ConnectionString::parse(text) else { return };
    let written = read.to_string();
    if written.contains("***") {
        return;
    }
    if Client::new(text).is_ok() {
        let again = ConnectionString::parse(&written).expect("a string that was written");
        assert_eq!(again.to_string(), written);
        assert_eq!(format!("{:?}", again.options), format!("{:?}", read.options));
    } else {
        assert!(Client::new(&written).is_err(), "{written}");
    }
}

/// A password in a connection string is never shown.
pub fn secret(data: &[u8]) {
    let Ok(rest) = std::str::from_utf8(data) else { return };
    for before in SECRET_FOLLOWS {
        let text = format!("{before}{MARKER}{rest}");
        match ConnectionString::parse(&text) {
            Ok(read) => {
                assert_hidden(&format!("{read} {read:?} {:?}", read.options));
                read.warnings.iter().for_each(|warning| assert_hidden(&format!("{warning} {warning:?}")));
                if let Ok(client) = Client::new(&text) {
                    assert_hidden(&format!("{client:?}"));
                    client.warnings().iter().for_each(|warning| assert_hidden(&format!("{warning} {warning:?}")));
                }
            }
            Err(error) => assert_error_hides(&error),
        }
    }
}

fn assert_error_hides(error: &(dyn StdError + 'static)) {
    assert_hidden(&format!("{error} {error:?}"));
    if let Some(source) = error.source() {
        assert_error_hides(source);
    }
}

fn assert_hidden(text: &str) {
    assert!(!text.contains(MARKER), "{text}");
}

/// A host's normal form is its own normal form.
pub fn host(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = ServerAddress::parse(text) {
        assert_eq!(ServerAddress::parse(&key.to_string()).expect("a host in normal form"), key);
    }
    if let Ok(name) = normalize_name(text) {
        assert_eq!(normalize_name(&name).expect("a name in normal form"), name);
    }
}

/// SRV targets are below their domain, and a TXT record gives nothing but the options that it may give.
pub fn srv(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let host = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let txt: Vec<Vec<u8>> = lines.next().unwrap_or_default().chunks(255).map(<[u8]>::to_vec).collect();
    let records: Vec<SrvRecord> = lines
        .map(|line| SrvRecord { target: String::from_utf8_lossy(line).into_owned(), port: 27017, ttl: Duration::from_secs(60) })
        .collect();
    if let (Ok(seeds), Ok(domain)) = (seeds(&host, &records), normalize_name(&host)) {
        let parent = if domain.split('.').count() < 3 { domain.as_str() } else { domain.split_once('.').map_or("", |(_, parent)| parent) };
        for seed in seeds {
            let name = seed.name().expect("no address is a target").to_owned();
            assert!(name.ends_with(&format!(".{parent}")), "{name} of {domain}");
        }
    }
    let (mut options, mut warnings) = (ClientOptions::default(), Vec::new());
    if apply_txt(&mut options, &mut warnings, &[txt]).is_ok() {
        options.auth_source = None;
        options.replica_set = None;
        options.load_balanced = None;
        assert_eq!(format!("{options:?}"), format!("{:?}", ClientOptions::default()));
    }
}

/// A hosts file, a resolv.conf and an nsswitch.conf of any text are read.
pub fn hosts_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (name, text) = text.split_once('\n').unwrap_or(("db.example", &text));
    drop(mongolink::dns::names::hosts_addresses(text, name));
    let [nsswitch, resolv_conf] = [format!("hosts:{name}\n{text}"), text.to_owned()].map(ConfigText::Text);
    let platform = if data.len().is_multiple_of(2) { Platform::NameServiceSwitch } else { Platform::OpenBsd };
    let host_name = Some(name.to_owned());
    let facts = SystemFacts { platform, nsswitch, resolv_conf, has_mdns_allow: false, environment: Vec::new(), host_name };
    if let NamePath::Direct(path) = decide(&facts) {
        assert!(!path.sources.is_empty());
    }
    assert!(ResolvConf::parse(text, None).search.candidates(name).contains(&name.to_owned()));
}

/// The metadata is a document within its limit in any environment.
pub fn metadata(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let words: Vec<&str> = text.split('\n').collect();
    let word = |index: usize| words.get(index).copied().unwrap_or_default().to_owned();
    let variables = text.clone();
    let environment = Environment {
        os_type: word(0),
        os_name: Some(word(1)),
        os_architecture: Some(word(2)),
        os_version: Some(word(3)),
        platform: word(4),
        docker: words.len().is_multiple_of(2),
        variables: Arc::new(move |name| {
            let found = variables.split('\n').find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found.map(str::to_owned)
        }),
    };
    let Ok(metadata) = ClientMetadata::new(Some(&word(5)), &environment) else { return };
    let mut libraries = DriverInfos::default();
    for word in words.iter().skip(6) {
        drop(libraries.append(DriverInfo::new(*word).with_version(*word).with_platform(*word)));
    }
    for document in [Arc::clone(metadata.document()), metadata.document_with(&libraries)] {
        assert!(document.as_bytes().len() <= METADATA_SIZE_MAX);
        assert!(document.iter().all(|element| element.is_ok()));
    }
}

/// A document that was read as Extended JSON is the same after it was written and read again.
pub fn extjson(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(document) = parse(text) else { return };
    let Ok(raw) = RawDocumentBuf::try_from(&document) else { return };
    let canonical = Json::of(&raw).canonical().to_string();
    let again = parse(&canonical).expect("a document that was written");
    let again = RawDocumentBuf::try_from(&again).expect("a document");
    assert_eq!(Json::of(&again).canonical().to_string(), canonical);
    parse(&Json::of(&raw).to_string()).expect("a document that was written");
}

/// The sandbox answers any bytes with whole messages, the same however the bytes are split.
pub fn sandbox(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else { return };
    let whole = answers(&[stream]);
    let step = usize::from(*first).max(1);
    assert_eq!(answers(&stream.chunks(step).collect::<Vec<_>>()), whole);
}

/// Returns the lengths of the replies, and whether the connection was closed.
fn answers(pieces: &[&[u8]]) -> (Vec<usize>, bool) {
    let now = start();
    let mut cluster = FakeDeployment::new(Config::standalone("a.example:1"), 1, now).expect("a deployment");
    cluster.handle_connected(0, 1, now);
    let (mut lengths, mut closed) = (Vec::new(), false);
    for piece in pieces {
        cluster.handle_bytes(0, 1, piece, now);
        while let Some(action) = cluster.poll_action() {
            match action {
                SandboxAction::Reply { bytes, .. } => {
                    let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
                    decoder.buffer().extend_from_slice(&bytes);
                    let frame = decoder.next_frame().expect("a frame").expect("a whole frame");
                    assert!(decoder.is_empty());
                    drop(Message::parse(frame));
                    lengths.push(bytes.len());
                }
                SandboxAction::Close { .. } => closed = true,
                _ => {}
            }
        }
        while cluster.poll_event().is_some() {}
    }
    (lengths, closed)
}

/// The moment at which every input's virtual time begins.
fn start() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
    *START.get_or_init(Instant::now)
}
