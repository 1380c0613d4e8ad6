//! Malformed files, and certificates that other implementations refuse.

use std::sync::Mutex;

use rcgen::SigningKey as _;
use tokio_rustls::rustls::DistinguishedName;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use super::*;

/// One element of DER.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    let mut whole = vec![tag];
    match length {
        [0, short @ ..=0x7f] => whole.push(short),
        [0, long] => whole.extend([0x81, long]),
        long => whole.extend([0x82, long[0], long[1]]),
    }
    whole.extend(content);
    whole
}

/// Splits the elements within an element.
fn elements(whole: &[u8]) -> Vec<&[u8]> {
    let header = |bytes: &[u8]| match bytes[1] {
        short @ ..=0x7f => (2, usize::from(short)),
        0x80 | 0x81 => (3, usize::from(bytes[2])),
        _ => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
    };
    let (skip, length) = header(whole);
    let mut rest = &whole[skip..skip + length];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (skip, length) = header(rest);
        let (one, left) = rest.split_at(skip + length);
        found.push(one);
        rest = left;
    }
    found
}

/// Creates a self-signed certificate of X.509 version 1, which has no extensions.
fn version_1(name: &str) -> Identity {
    let like = identity(&authority(name), "db.example", 4000);
    let [body, algorithm, _] = elements(&like.certificate)[..] else { panic!("a certificate") };
    let [_, serial, signed_with, issuer, validity, _, key, ..] = elements(body)[..] else { panic!("its fields") };
    // The subject is the issuer.
    let body = element(0x30, &[serial, signed_with, issuer, validity, issuer, key].concat());
    let signature = like.key.sign(&body).expect("signed");
    let whole = element(0x30, &[body, algorithm.to_vec(), element(0x03, &[&[0][..], &signature].concat())].concat());
    Identity { certificate: whole.into(), key: like.key }
}

/// Creates a self-signed certificate that is both an authority and valid for a host.
fn self_signed(name: &str, last_year: i32) -> Identity {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("params");
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("key");
    Identity { certificate: params.self_signed(&key).expect("self-signed").der().clone(), key }
}

/// Connects, by both versions of TLS, to a server with a certificate that rustls itself would not send.
async fn handshakes(
    options: &ClientOptions,
    host: &str,
    certificate: &CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> [Result<(), Error>; 2] {
    let signing = crypto::ring::sign::any_supported_type(&key).expect("a key");
    let shown = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate.clone()], signing)));
    let mut outcomes = Vec::new();
    for version in [&TLS12, &TLS13] {
        let builder = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
        let config = builder.with_protocol_versions(&[version]).expect("a version").with_no_client_auth().with_cert_resolver(shown.clone());
        let connector = TlsConnector::load(options).expect("loaded");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let client = async {
            let tcp = Stream::Tcp(TcpStream::connect(address).await.expect("connected"));
            connector.connect(&ServerAddress::parse(host).expect("host"), tcp).await.map(drop)
        };
        outcomes.push(tokio::join!(client, serve(listener, Arc::new(config), 1)).0);
    }
    outcomes.try_into().expect("two versions")
}

#[tokio::test]
async fn sections_are_found_in_whatever_way_files_were_joined() {
    let (one, other) = (authority("one"), authority("other"));
    let (first, second) = (one.pem(), other.pem());
    let relabelled = |label: &str| [pem(label, one.der()), pem(label, other.der())].concat();
    let settings = element(0x30, &[]);
    let trusted = |authority: &Authority| pem("TRUSTED CERTIFICATE", &[authority.der().as_ref(), &settings].concat());
    let texts = [
        format!("\u{feff}{first}\u{feff}{second}"),
        format!("a text\r\n{first}\nanother: text\n{second}").replace('\n', "\r\n"),
        format!("{first}{second}").replace('\n', "\r"),
        format!("{}{second}", first.trim_end()),
        relabelled("X509 CERTIFICATE"),
        relabelled("TRUSTED CERTIFICATE"),
        [trusted(&one), trusted(&other)].concat(),
    ];
    for text in texts {
        let file = TempFile::new(&text);
        for authority in [&one, &other] {
            let outcome = handshake(&trusting(&file), "db.example", &identity(authority, "db.example", 4000)).await;
            assert!(outcome.is_ok(), "{outcome:?}\n{text:?}");
        }
    }
}

#[tokio::test]
async fn unreadable_section_is_skipped_and_named_with_its_line() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let good = ours.pem();
    let bad = theirs.pem();
    let inner = bad.lines().nth(1).expect("a line");
    let rejected = element(0x30, &element(0xa0, &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1]));
    let cases = [
        (bad.replace(inner, "MII*"), "it is not base64"),
        (bad.replace("-----END CERTIFICATE-----", ""), "it has no last line"),
        (bad.replace("END CERTIFICATE", "END X509 CERTIFICATE"), "its last line has another label"),
        (bad.replace("-----BEGIN", "----BEGIN"), "five dashes"),
        (bad.replace("CERTIFICATE", "CERTIFICATES"), "a section \"CERTIFICATES\" is ignored"),
        (pem("CERTIFICATE", b"nonsense"), "the certificate can't be read"),
        (pem("TRUSTED CERTIFICATE", &[theirs.der().as_ref(), &rejected].concat()), "not to be trusted for servers"),
    ];
    for (text, why) in cases {
        let file = TempFile::new(&format!("first\n\n{text}{good}"));
        handshake(&trusting(&file), "db.example", &identity(&ours, "db.example", 4000)).await.expect("the other is read");
        let error = handshake(&trusting(&file), "db.example", &identity(&theirs, "db.example", 4000)).await.expect_err("not trusted");
        assert_eq!(error.kind(), ErrorKind::CertificateUnknownIssuer, "{error}");
        assert!(error.message().contains("line 3: ") && error.message().contains(why), "{error}");
        let alone = TempFile::new(&format!("\n{text}"));
        let error = TlsConnector::load(&trusting(&alone)).expect_err("no certificate");
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.message().contains("line 2: ") && error.message().contains(why), "{error}");
    }
}

#[test]
fn file_in_another_encoding_is_named() {
    let utf_16: Vec<u8> = authority("ours").pem().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let file = TempFile::new("");
    std::fs::write(file.path(), [&[0xff, 0xfe], &utf_16[..]].concat()).expect("written");
    let error = TlsConnector::load(&trusting(&file)).expect_err("no text");
    assert!(error.message().ends_with("it is UTF-16; save it as UTF-8 or ASCII"), "{error}");
}

#[test]
fn unreadable_part_of_the_client_certificate_is_an_error_with_its_line() {
    let own = identity(&authority("ours"), "client", 4000);
    let (certificate, key) = (own.certificate_pem(), own.key.serialize_pem());
    load_key(&format!("\u{feff}{}{key}", certificate.trim_end()), None).expect("read");
    load_key(&format!("{}{key}", certificate.replace("CERTIFICATE", "X509 CERTIFICATE")), None).expect("read");
    let broken = |text: &str| text.replacen("\nM", "\n*", 1);
    for (text, words) in [
        (format!("{}{key}", broken(&certificate)), "line 1: the certificate can't be read: it is not base64"),
        (format!("\n\n{}{certificate}", broken(&key)), "line 3: the private key can't be read: it is not base64"),
        (format!("{}{certificate}", pem("PRIVATE KEY", b"nonsense")), "line 1: the private key can't be read"),
        (
            format!("{}{certificate}", pem("DSA PRIVATE KEY", b"nonsense")),
            "line 1: a private key of type \"DSA PRIVATE KEY\" is not supported",
        ),
        (key, "no certificate found"),
    ] {
        let error = load_key(&text, None).expect_err(words);
        assert!(error.message().contains(words), "{error}");
    }
}

#[tokio::test]
async fn self_signed_certificate_that_is_listed_itself_is_trusted_for_its_name_and_time() {
    let shown = self_signed("db.example", 4000);
    let file = TempFile::new(&shown.certificate_pem());
    let try_with = |options: ClientOptions, host: &'static str, shown: Identity| async move {
        let [one, other] = handshakes(&options, host, &shown.certificate, shown.key_der()).await;
        assert_eq!(one.as_ref().err().map(Error::kind), other.as_ref().err().map(Error::kind));
        one.and(other)
    };
    let again = |shown: &Identity| Identity {
        certificate: shown.certificate.clone(),
        key: KeyPair::try_from(shown.key.serialize_der()).expect("a key"),
    };
    try_with(trusting(&file), "db.example", again(&shown)).await.expect("trusted");
    assert_fault(try_with(trusting(&file), "other.example", again(&shown)).await, ErrorKind::CertificateName, "other.example");
    let lenient = ClientOptions { tls_allow_invalid_hostnames: Some(true), ..trusting(&file) };
    try_with(lenient, "other.example", again(&shown)).await.expect("the name is forgiven");
    // Another certificate with that name is not accepted.
    assert_fault(
        try_with(trusting(&file), "db.example", self_signed("db.example", 4000)).await,
        ErrorKind::CertificateUnknownIssuer,
        "tlsCAFile",
    );
    let old = self_signed("db.example", 2001);
    let file = TempFile::new(&old.certificate_pem());
    assert_fault(try_with(trusting(&file), "db.example", again(&old)).await, ErrorKind::CertificateExpired, "expired");
    let lenient = ClientOptions { tls_allow_invalid_hostnames: Some(true), ..trusting(&file) };
    assert_fault(try_with(lenient, "other.example", old).await, ErrorKind::CertificateExpired, "expired");
}

#[tokio::test]
async fn certificate_of_version_1_is_accepted_where_certificates_are_not_verified() {
    let shown = version_1("old");
    let lenient = ClientOptions { tls_allow_invalid_certificates: Some(true), ..ClientOptions::default() };
    let insecure = ClientOptions { tls_insecure: Some(true), ..ClientOptions::default() };
    for options in [&lenient, &insecure] {
        for outcome in handshakes(options, "db.example", &shown.certificate, shown.key_der()).await {
            outcome.expect("accepted");
        }
        // The server must hold the certificate's key nevertheless.
        let other = KeyPair::generate().expect("key");
        for outcome in handshakes(options, "db.example", &shown.certificate, PrivatePkcs8KeyDer::from(other.serialize_der()).into()).await {
            assert_fault(outcome, ErrorKind::CertificateUnknownIssuer, "not signed");
        }
    }
    let file = TempFile::new(&authority("ours").pem());
    for outcome in handshakes(&trusting(&file), "db.example", &shown.certificate, shown.key_der()).await {
        assert_fault(outcome, ErrorKind::Certificate, "version 1, which has no names");
    }
    // A listed certificate is trusted where any name is permitted: it has none.
    let file = TempFile::new(&shown.certificate_pem());
    for outcome in handshakes(&trusting(&file), "db.example", &shown.certificate, shown.key_der()).await {
        assert_fault(outcome, ErrorKind::CertificateName, "db.example");
    }
    let lenient = ClientOptions { tls_allow_invalid_hostnames: Some(true), ..trusting(&file) };
    for outcome in handshakes(&lenient, "db.example", &shown.certificate, shown.key_der()).await {
        outcome.expect("trusted");
    }
}

/// A verifier that accepts any client certificate and keeps it.
#[derive(Debug, Default)]
struct Keeping(Mutex<Option<CertificateDer<'static>>>);

impl ClientCertVerifier for Keeping {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        *self.0.lock().expect("no panic") = Some(shown.clone().into_owned());
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn client_certificate_of_version_1_is_sent() {
    let (ours, own) = (authority("ours"), version_1("client"));
    let file = TempFile::new(&ours.pem());
    let both = TempFile::new(&format!("{}{}", own.certificate_pem(), own.key.serialize_pem()));
    let options = ClientOptions { tls_certificate_key_file: Some(both.path().to_owned()), ..trusting(&file) };
    let connector = TlsConnector::load(&options).expect("loaded");
    let (shown, seen) = (identity(&ours, "db.example", 4000), Arc::<Keeping>::default());
    let config =
        server_builder().with_client_cert_verifier(seen.clone()).with_single_cert(vec![shown.certificate.clone()], shown.key_der());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let dial = async {
        let tcp = Stream::Tcp(TcpStream::connect(address).await.expect("connected"));
        let mut stream = connector.connect(&ServerAddress::parse("db.example").expect("host"), tcp).await.expect("secured");
        stream.read_u8().await.expect("read")
    };
    assert_eq!(tokio::join!(dial, serve(listener, Arc::new(config.expect("server config")), 1)).0, b'x');
    assert_eq!(seen.0.lock().expect("no panic").as_ref(), Some(&own.certificate));
}

#[test]
fn key_on_an_unsupported_curve_names_the_curve() {
    let certificate = identity(&authority("ours"), "client", 4000).certificate_pem();
    let ec = element(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]);
    let (p521, unnamed) = (element(6, &[0x2b, 0x81, 4, 0, 0x23]), element(6, &[0x2b, 0x81, 4, 0, 0x7f]));
    let pkcs8 =
        |algorithm: &[u8]| pem("PRIVATE KEY", &element(0x30, &[element(2, &[0]), element(0x30, algorithm), element(4, &[7; 66])].concat()));
    let sec1 = pem("EC PRIVATE KEY", &element(0x30, &[element(2, &[1]), element(4, &[7; 66]), element(0xa0, &p521)].concat()));
    for (key, name) in [
        (pkcs8(&[ec.clone(), p521].concat()), "secp521r1"),
        (sec1, "secp521r1"),
        (pkcs8(&[ec.clone(), unnamed].concat()), "1.3.132.0.127"),
        (pkcs8(&[ec, element(0x30, &[])].concat()), "explicit parameters"),
        (pkcs8(&element(6, &[0x2b, 0x65, 0x71])), "Ed448"),
    ] {
        let error = load_key(&format!("{certificate}{key}"), None).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains(name) && error.message().contains("tlsCertificateKeyFile"), "{error}");
    }
}

#[tokio::test]
async fn authority_on_an_unsupported_curve_is_named() {
    // Of OpenSSL: an authority on P-521, and a certificate that it has signed for db.example, with its key.
    let text = include_str!("../../../../fixtures/tls/p521.pem");
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).map(|certificate| certificate.expect("readable")).collect();
    let [issuer, shown] = &certificates[..] else { panic!("two certificates") };
    let file = TempFile::new(&pem("CERTIFICATE", issuer));
    for outcome in handshakes(&trusting(&file), "db.example", shown, PrivateKeyDer::from_pem_slice(text.as_bytes()).expect("a key")).await {
        assert_fault(outcome, ErrorKind::Certificate, "secp521r1 (P-521)");
    }
}
