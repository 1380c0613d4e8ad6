use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::*;
use crate::auth::Secret;

mod files;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority")
}

/// A certificate with its key, both as DER.
struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

fn identity(authority: &Authority, name: &str, last_year: i32) -> Identity {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("params");
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("key");
    let certificate = params.signed_by(&key, authority).expect("signed").der().clone();
    Identity { certificate, key }
}

impl Identity {
    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A file that is removed at the end of the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(text: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mongolink-tls-{}-{}.pem", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("written");
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn server_builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider())).with_safe_default_protocol_versions().expect("versions")
}

fn server(identity: &Identity) -> Arc<ServerConfig> {
    let config = server_builder().with_no_client_auth().with_single_cert(vec![identity.certificate.clone()], identity.key_der());
    Arc::new(config.expect("server config"))
}

/// Accepts `count` connections one after the other; sends one byte on each and waits for its end.
async fn serve(listener: TcpListener, config: Arc<ServerConfig>, count: usize) {
    let acceptor = TlsAcceptor::from(config);
    for _ in 0..count {
        let (tcp, _) = listener.accept().await.expect("accepted");
        if let Ok(mut tls) = acceptor.accept(tcp).await
            && tls.write_all(b"x").await.is_ok()
            && tls.flush().await.is_ok()
        {
            drop(tls.read(&mut [0]).await);
        }
    }
}

/// Connects `host` to a server with `identity`, and returns the result.
async fn handshake(options: &ClientOptions, host: &str, identity: &Identity) -> Result<(), Error> {
    let connector = TlsConnector::load(options)?;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let client = async {
        let tcp = Stream::Tcp(TcpStream::connect(address).await.expect("connected"));
        connector.connect(&ServerAddress::parse(host).expect("host"), tcp).await.map(drop)
    };
    tokio::join!(client, serve(listener, server(identity), 1)).0
}

fn trusting(file: &TempFile) -> ClientOptions {
    ClientOptions { tls_ca_file: Some(file.path().to_owned()), ..ClientOptions::default() }
}

/// What every test of a certificate's fault expects: stage, host, and none of the overload labels.
fn assert_fault(outcome: Result<(), Error>, kind: ErrorKind, text: &str) {
    let error = outcome.expect_err("refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.stage(), Some(Stage::Tls));
    assert!(error.host().is_some() && error.labels().is_empty());
    assert!(error.to_string().contains(text), "{error}");
}

#[tokio::test]
async fn certificate_of_the_authority_is_accepted_for_name_and_address() {
    let ours = authority("ours");
    let file = TempFile::new(&ours.pem());
    handshake(&trusting(&file), "db.example", &identity(&ours, "db.example", 4000)).await.expect("secured");
    handshake(&trusting(&file), "127.0.0.1", &identity(&ours, "127.0.0.1", 4000)).await.expect("secured");
}

#[tokio::test]
async fn unknown_issuer_is_named() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let file = TempFile::new(&ours.pem());
    let outcome = handshake(&trusting(&file), "db.example", &identity(&theirs, "db.example", 4000)).await;
    assert_fault(outcome, ErrorKind::CertificateUnknownIssuer, "issuer is not in tlsCAFile");
}

#[tokio::test]
async fn recreated_authority_with_the_same_name_is_unknown() {
    let (ours, theirs) = (authority("same"), authority("same"));
    let file = TempFile::new(&ours.pem());
    let outcome = handshake(&trusting(&file), "db.example", &identity(&theirs, "db.example", 4000)).await;
    assert_fault(outcome, ErrorKind::CertificateUnknownIssuer, "tlsCAFile");
}

#[tokio::test]
async fn other_name_is_shown_with_the_names_that_are_valid() {
    let ours = authority("ours");
    let file = TempFile::new(&ours.pem());
    let outcome = handshake(&trusting(&file), "db.example", &identity(&ours, "other.example", 4000)).await;
    assert_fault(outcome, ErrorKind::CertificateName, "other.example");
}

#[tokio::test]
async fn expired_certificate_says_so() {
    let ours = authority("ours");
    let file = TempFile::new(&ours.pem());
    let outcome = handshake(&trusting(&file), "db.example", &identity(&ours, "db.example", 2001)).await;
    assert_fault(outcome, ErrorKind::CertificateExpired, "expired");
}

#[tokio::test]
async fn invalid_host_names_disable_only_the_name_check() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let file = TempFile::new(&ours.pem());
    let options = ClientOptions { tls_allow_invalid_hostnames: Some(true), ..trusting(&file) };
    handshake(&options, "db.example", &identity(&ours, "other.example", 4000)).await.expect("forgiven");
    let outcome = handshake(&options, "db.example", &identity(&theirs, "db.example", 4000)).await;
    assert_fault(outcome, ErrorKind::CertificateUnknownIssuer, "issuer");
    let outcome = handshake(&options, "db.example", &identity(&ours, "other.example", 2001)).await;
    assert_fault(outcome, ErrorKind::CertificateExpired, "expired");
}

#[tokio::test]
async fn invalid_certificates_and_insecure_disable_all_checks() {
    let theirs = authority("theirs");
    let shown = identity(&theirs, "other.example", 2001);
    let lenient = ClientOptions { tls_allow_invalid_certificates: Some(true), ..ClientOptions::default() };
    handshake(&lenient, "db.example", &shown).await.expect("forgiven");
    let insecure = ClientOptions { tls_insecure: Some(true), ..ClientOptions::default() };
    handshake(&insecure, "db.example", &shown).await.expect("forgiven");
}

/// Connects to a server that answers the first bytes with `answer`, and closes.
async fn speak_to_plain_server(answer: &[u8]) -> Error {
    let ours = authority("ours");
    let file = TempFile::new(&ours.pem());
    let connector = TlsConnector::load(&trusting(&file)).expect("loaded");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let client = async {
        let tcp = Stream::Tcp(TcpStream::connect(address).await.expect("connected"));
        connector.connect(&ServerAddress::parse("db.example").expect("host"), tcp).await.map(drop).expect_err("no TLS")
    };
    let plain = async {
        let (mut tcp, _) = listener.accept().await.expect("accepted");
        // All of the hello is read first, as bytes left unread would turn the close into a reset.
        let mut hello = [0; 4096];
        assert!(tcp.read(&mut hello).await.expect("read") > 0);
        tcp.write_all(answer).await.expect("written");
    };
    tokio::join!(client, plain).0
}

#[tokio::test]
async fn server_without_tls_is_distinguished_from_a_broken_one() {
    let error = speak_to_plain_server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert_eq!(error.to_string(), "tls: db.example:27017: the server does not use TLS on this port");
}

#[tokio::test]
async fn close_in_the_handshake_is_named() {
    let error = speak_to_plain_server(b"").await;
    assert_eq!((error.kind(), error.stage()), (ErrorKind::Closed, Some(Stage::Tls)));
    assert!(error.to_string().contains("does it use TLS on this port?"), "{error}");
}

#[tokio::test]
async fn session_is_resumed_and_late_tickets_keep_the_connection_alive() {
    let ours = authority("ours");
    let file = TempFile::new(&ours.pem());
    let connector = TlsConnector::load(&trusting(&file)).expect("loaded");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let client = async {
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let tcp = Stream::Tcp(TcpStream::connect(address).await.expect("connected"));
            let mut stream = connector.connect(&ServerAddress::parse("db.example").expect("host"), tcp).await.expect("secured");
            // The server's byte comes after its tickets.
            assert_eq!(stream.read_u8().await.expect("read"), b'x');
            assert!(!stream.peek_dead());
            let Stream::Tls(tls) = &stream else { panic!("not TLS") };
            kinds.push(tls.tls.get_ref().1.handshake_kind());
        }
        kinds
    };
    let (kinds, ()) = tokio::join!(client, serve(listener, server(&identity(&ours, "db.example", 4000)), 2));
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
}

#[tokio::test]
async fn check_of_a_tls_connection_distinguishes_tickets_from_data_and_end() {
    let ours = authority("ours");
    let file = TempFile::new(&ours.pem());
    let connector = TlsConnector::load(&trusting(&file)).expect("loaded");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let acceptor = TlsAcceptor::from(server(&identity(&ours, "db.example", 4000)));
    let accept = async { acceptor.accept(listener.accept().await.expect("accepted").0).await.expect("secured") };
    let connect = async {
        let tcp = Stream::Tcp(TcpStream::connect(address).await.expect("connected"));
        connector.connect(&ServerAddress::parse("db.example").expect("host"), tcp).await.expect("secured")
    };
    let (mut stream, mut peer) = tokio::join!(connect, accept);
    for _ in 0..10 {
        assert!(!stream.peek_dead(), "session tickets are no data");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    peer.write_all(b"y").await.expect("written");
    assert_eq!(stream.read_u8().await.expect("read"), b'y', "the look took nothing away");
    drop(peer);
    let mut dead = false;
    for _ in 0..200 {
        dead = dead || stream.peek_dead();
        tokio::time::sleep(Duration::from_millis(if dead { 0 } else { 5 })).await;
    }
    assert!(dead);
}

#[tokio::test]
async fn client_certificate_is_shown() {
    let ours = authority("ours");
    let file = TempFile::new(&ours.pem());
    let client = identity(&ours, "client", 4000);
    let both = TempFile::new(&format!("{}{}", client.key.serialize_pem(), client.certificate_pem()));
    let options = ClientOptions { tls_certificate_key_file: Some(both.path().to_owned()), ..trusting(&file) };
    let connector = TlsConnector::load(&options).expect("loaded");

    let mut roots = RootCertStore::empty();
    roots.add(ours.der().clone()).expect("a root");
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("verifier");
    let shown = identity(&ours, "db.example", 4000);
    let config = server_builder().with_client_cert_verifier(verifier).with_single_cert(vec![shown.certificate.clone()], shown.key_der());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let dial = async {
        let tcp = Stream::Tcp(TcpStream::connect(address).await.expect("connected"));
        let mut stream = connector.connect(&ServerAddress::parse("db.example").expect("host"), tcp).await.expect("secured");
        // In TLS 1.3 the server's verdict arrives after the client's handshake: only its byte shows that it accepted.
        stream.read_u8().await.expect("read")
    };
    assert_eq!(tokio::join!(dial, serve(listener, Arc::new(config.expect("server config")), 1)).0, b'x');
}

fn load_key(text: &str, password: Option<&str>) -> Result<TlsConnector, Error> {
    let ours = authority("ours");
    let (file, key) = (TempFile::new(&ours.pem()), TempFile::new(text));
    TlsConnector::load(&ClientOptions {
        tls_certificate_key_file: Some(key.path().to_owned()),
        tls_certificate_key_file_password: password.map(Secret::new),
        ..trusting(&file)
    })
}

#[test]
fn missing_files_are_named_with_option_and_path() {
    let options = ClientOptions { tls_ca_file: Some("/nonexistent/ca.pem".into()), ..ClientOptions::default() };
    let error = TlsConnector::load(&options).expect_err("no such file");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().starts_with("tls: tlsCAFile /nonexistent/ca.pem: "), "{error}");
    let options = ClientOptions { tls_insecure: Some(true), ..options };
    assert_eq!(TlsConnector::load(&options).expect_err("read all the same").kind(), ErrorKind::InvalidOption);
}

#[test]
fn file_without_certificate_or_key_is_named() {
    let empty = TempFile::new("nothing here\n");
    let error = TlsConnector::load(&trusting(&empty)).expect_err("no certificate");
    assert!(error.message().ends_with("no certificate found"), "{error}");
    let alone = identity(&authority("ours"), "client", 4000).certificate_pem();
    let error = load_key(&alone, None).expect_err("no key");
    assert!(error.message().contains("tlsCertificateKeyFile") && error.message().contains("private key"), "{error}");
}

#[test]
fn section_without_a_usable_first_line_is_named_with_its_line() {
    let ours = authority("ours");
    let client = identity(&ours, "client", 4000);
    let (good, key) = (client.certificate_pem(), client.key.serialize_pem());
    let framing = "its first line does not begin and end with five dashes";
    for (first_line, why) in [
        ("-----BEGIN CERTIFICATE\n", framing),
        ("-----BEGIN CERTIFICATE \n", framing),
        ("-----BEGIN certificate-----\n", "its label has characters other than capital letters and digits"),
        ("-----BEGIN -----\n", "its label has characters other than capital letters and digits"),
    ] {
        let bad = good.replace("-----BEGIN CERTIFICATE-----\n", first_line);
        let file = TempFile::new(&format!("{}{bad}", ours.pem()));
        let line = ours.pem().lines().count() + 1;
        let read = pem::authorities(file.path()).expect("one is good");
        assert!(read.notes.len() == 1 && read.notes[0].starts_with(&format!("line {line}: ")), "{:?}", read.notes);
        assert!(read.notes[0].ends_with(why), "{:?}", read.notes);
        let error = load_key(&format!("{good}{bad}{key}"), None).expect_err("a part of the chain is missing");
        let line = good.lines().count() + 1;
        assert!(error.message().contains(&format!("line {line}: ")) && error.message().ends_with(why), "{error}");
    }
    // The text there may be a key.
    let error = load_key(&format!("{good}-----BEGIN PRIVATE KEY MIIEvSecret\n"), None).expect_err("no key");
    assert!(error.message().ends_with(framing) && !error.message().contains("Secret"), "{error}");
}

#[test]
fn alert_is_found_in_an_error_whose_text_shows_it() {
    let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
    let error = socket_fault(Stage::Read, io::Error::new(io::ErrorKind::InvalidData, alert));
    assert_eq!(alert_of(&error), Some(AlertDescription::CertificateRequired));
    let cause = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(AlertDescription::CertificateRequired));
    let error = Error::new(ErrorKind::Tls, cause.to_string()).at(Stage::Read).because(cause);
    assert_eq!(explained(error, Demand::Optional).kind(), ErrorKind::CertificateRequired);
}

#[test]
fn key_of_another_certificate_is_refused() {
    let ours = authority("ours");
    let (one, other) = (identity(&ours, "one", 4000), identity(&ours, "other", 4000));
    let error = load_key(&format!("{}{}", one.certificate_pem(), other.key.serialize_pem()), None).expect_err("a mismatch");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
}

#[test]
fn traditional_encryption_is_unsupported_by_name() {
    let certificate = identity(&authority("ours"), "client", 4000).certificate_pem();
    let key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let error = load_key(&format!("{certificate}{key}"), Some("secret")).expect_err("not served");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("openssl pkcs8 -topk8") && !error.to_string().contains("secret"), "{error}");
}

#[cfg(not(feature = "encrypted-keys"))]
#[test]
fn encrypted_key_names_the_missing_feature() {
    let certificate = identity(&authority("ours"), "client", 4000).certificate_pem();
    let error = load_key(&format!("{certificate}{}", pem("ENCRYPTED PRIVATE KEY", &[0; 8])), Some("secret")).expect_err("not built in");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("encrypted-keys"), "{error}");
}

#[cfg(feature = "encrypted-keys")]
#[test]
fn encrypted_key_is_opened_by_its_password_only() {
    let client = identity(&authority("ours"), "client", 4000);
    let plain = client.key.serialize_der();
    let params = pkcs8::pkcs5::pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(2048, &[7; 16], [9; 16]).expect("params");
    let key = pkcs8::PrivateKeyInfoRef::try_from(plain.as_slice()).expect("PKCS#8");
    let encrypted = key.encrypt_with_params(params, "secret").expect("encrypted");
    let text = format!("{}{}", client.certificate_pem(), pem("ENCRYPTED PRIVATE KEY", encrypted.as_bytes()));
    load_key(&text, Some("secret")).expect("opened");
    let error = load_key(&text, Some("wrong")).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.message().contains("tlsCertificateKeyFilePassword may be wrong"), "{error}");
    let error = load_key(&text, None).expect_err("no password");
    assert!(error.message().contains("tlsCertificateKeyFilePassword is not set"), "{error}");
}
