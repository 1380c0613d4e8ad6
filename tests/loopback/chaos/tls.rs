//! Certificates that don't fit, and peers of which only one speaks TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mongolink::bson::doc;
use mongolink::{ErrorKind, Sandbox, Stage};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use super::{CALM, Guest, IMPATIENT, Limits, PATIENT, assert_placed, assert_timed_out, assert_told, builder};
use crate::peers::{self, Authority, Turn};

/// A year that certificates are valid until.
const FAR: i32 = 4000;

/// Makes a client that trusts one authority.
fn trusting(authority: &Authority, address: SocketAddr, limits: Limits) -> Guest {
    Guest::of(builder(address, limits, "").tls(true).tls_ca_file(authority.file()))
}

/// Sees what a client that trusts `ours` makes of a server's certificate.
async fn assert_certificate_refused(ours: &Authority, theirs: &Authority, name: &str, last_year: i32, kind: ErrorKind, words: &str) {
    let peer = peers::scripted_over_tls(theirs.server(name, last_year), |_| Turn::Close).await;
    let guest = trusting(ours, peer.address(), CALM);
    for fault in guest.faults(&peer.host()).await {
        assert_told(&fault, kind, Stage::Tls, &peer.host(), words);
        assert_placed(&fault, peer.address());
        assert!(fault.underlying().is_some(), "{fault:?}");
        assert!(fault.labels().is_empty(), "a certificate is no overload: {fault:?}");
    }
    guest.end().await;
}

#[tokio::test]
async fn certificate_of_the_trusted_authority_is_taken() {
    let ours = Authority::new("ours");
    let sandbox = Sandbox::builder().standalone().tls(ours.server("127.0.0.1", FAR)).start().await.expect("sandbox");
    let guest = trusting(&ours, sandbox.addresses()[0], PATIENT);
    guest.ping().await.expect("secured");
    guest.end().await;
}

#[tokio::test]
async fn certificate_of_an_unknown_issuer_names_the_file_of_the_trusted_ones() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let words = format!("issuer is not in tlsCAFile {}", ours.file().display());
    assert_certificate_refused(&ours, &theirs, "127.0.0.1", FAR, ErrorKind::CertificateUnknownIssuer, &words).await;
}

#[tokio::test]
async fn certificate_for_another_name_names_it() {
    let ours = Authority::new("ours");
    assert_certificate_refused(&ours, &ours, "other.example", FAR, ErrorKind::CertificateName, "other.example").await;
}

#[tokio::test]
async fn expired_certificate_says_so() {
    let ours = Authority::new("ours");
    assert_certificate_refused(&ours, &ours, "127.0.0.1", 2001, ErrorKind::CertificateExpired, "expired").await;
}

#[tokio::test]
async fn plain_server_that_answers_is_recognised() {
    let peer = peers::saying(*b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let guest = Guest::new(peer.address(), CALM, "tls=true&tlsInsecure=true");
    for fault in guest.faults(&peer.host()).await {
        assert_told(&fault, ErrorKind::Tls, Stage::Tls, &peer.host(), "the server does not use TLS on this port");
        assert_placed(&fault, peer.address());
        assert!(fault.underlying().is_some());
    }
    guest.end().await;
}

#[tokio::test]
async fn plain_deployment_does_not_answer_tls() {
    let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
    let address = sandbox.addresses()[0];
    let guest = Guest::new(address, IMPATIENT, "tls=true&tlsInsecure=true");
    // To it, the handshake is the beginning of a large message.
    for fault in guest.faults(&peers::host_of(address)).await {
        assert_timed_out(&fault, Stage::Tls, address, IMPATIENT);
    }
    guest.end().await;
}

#[tokio::test]
async fn deployment_that_speaks_tls_closes_on_plain_words() {
    let ours = Authority::new("ours");
    let sandbox = Sandbox::builder().standalone().tls(ours.server("127.0.0.1", FAR)).start().await.expect("sandbox");
    let address = sandbox.addresses()[0];
    let guest = Guest::new(address, CALM, "");
    for fault in guest.faults(&peers::host_of(address)).await {
        let kinds = [ErrorKind::Closed, ErrorKind::Io(io::ErrorKind::ConnectionReset)];
        assert!(kinds.contains(&fault.kind()), "{fault}");
        assert_told(&fault, fault.kind(), Stage::Hello, &peers::host_of(address), "");
        assert_placed(&fault, address);
    }
    guest.end().await;
}

#[tokio::test]
async fn silence_behind_tls_is_a_time_out_of_hello() {
    const LIMITS: Limits = Limits { connect: 1000, select: 900 };
    let ours = Authority::new("ours");
    let peer = peers::scripted_over_tls(ours.server("127.0.0.1", FAR), |_| Turn::Silence).await;
    let guest = trusting(&ours, peer.address(), LIMITS);
    for fault in guest.faults(&peer.host()).await {
        assert_timed_out(&fault, Stage::Hello, peer.address(), LIMITS);
    }
    guest.end().await;
}

#[tokio::test]
async fn server_that_demands_a_client_certificate_says_so_by_alert_and_perhaps_by_closing() {
    let ours = Authority::new("ours");
    for (version, goes_on_without) in [(&TLS12, false), (&TLS13, false), (&TLS12, true), (&TLS13, true)] {
        let config = ours.asking_server("127.0.0.1", version, goes_on_without);
        let peer = peers::scripted_over_tls(config, |_| Turn::Close).await;
        let guest = trusting(&ours, peer.address(), CALM);
        let (kind, stage, words) = if goes_on_without {
            let words = "the server asks for a client certificate, got none, and may demand one: see its log, or set tlsCertificateKeyFile";
            (ErrorKind::Closed, Stage::Hello, words)
        } else {
            let words = "the server demands a client certificate, got none, and answered with the alert CertificateRequired: set \
                         tlsCertificateKeyFile";
            (ErrorKind::CertificateRequired, Stage::Tls, words)
        };
        for fault in guest.faults(&peer.host()).await {
            assert_told(&fault, kind, stage, &peer.host(), words);
            assert_placed(&fault, peer.address());
            let is_overload = fault.has_label("SystemOverloadedError");
            assert_eq!((is_overload, fault.is_network()), (goes_on_without, goes_on_without), "a certificate is no overload: {fault:?}");
            assert!(!fault.to_string().contains("close_notify") && !fault.to_string().contains("https:"), "{fault}");
        }
        guest.end().await;
    }
}

#[tokio::test]
async fn client_certificate_that_is_not_accepted_is_named() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let own = theirs.client_file();
    let with = |file: &Authority, address: SocketAddr| {
        Guest::of(builder(address, CALM, "").tls(true).tls_ca_file(ours.file()).tls_certificate_key_file(file.file()))
    };
    // Some servers say nothing, and close.
    let good = ours.client_file();
    let peer = peers::scripted_over_tls(ours.asking_server("127.0.0.1", &TLS13, false), |_| Turn::Close).await;
    let guest = with(&good, peer.address());
    for fault in guest.faults(&peer.host()).await {
        let words = "the server got the client certificate of tlsCertificateKeyFile: it may not accept it";
        assert_told(&fault, ErrorKind::Closed, Stage::Hello, &peer.host(), words);
    }
    guest.end().await;
    for version in [&TLS12, &TLS13] {
        let peer = peers::scripted_over_tls(ours.asking_server("127.0.0.1", version, false), |_| Turn::Close).await;
        let guest = with(&own, peer.address());
        for fault in guest.faults(&peer.host()).await {
            let words = "the server did not accept the client certificate of tlsCertificateKeyFile, and answered with the alert";
            assert_told(&fault, ErrorKind::Tls, Stage::Tls, &peer.host(), words);
        }
        guest.end().await;
    }
}

#[tokio::test]
async fn server_that_asks_for_a_certificate_and_goes_on_without_is_used() {
    let ours = Authority::new("ours");
    let restarts = Arc::<AtomicBool>::default();
    let has_gone = Arc::clone(&restarts);
    let peer = peers::scripted_over_tls(ours.asking_server("127.0.0.1", &TLS13, true), move |heard| match heard.name.as_str() {
        "ping" => Turn::Reply(doc! { "ok": 1 }),
        "find" => Turn::Close,
        _ if has_gone.load(Ordering::SeqCst) => Turn::Close,
        _ => Turn::Reply(peers::standalone_hello()),
    })
    .await;
    let guest = trusting(&ours, peer.address(), PATIENT);
    guest.ping().await.expect("answered");
    // Once it has answered, an end of the connection has nothing to do with certificates.
    let error = guest.client.database("test").run_command(doc! { "find": "things" }).await.expect_err("closed");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::Closed, Some(Stage::Read)), "{error}");
    assert!(error.message() == "connection closed by the server", "{error}");
    restarts.store(true, Ordering::SeqCst);
    let error = guest.probe_fault(&peer.host()).await;
    assert_told(&error, ErrorKind::Closed, Stage::Hello, &peer.host(), "connection closed by the server");
    assert!(error.has_label("SystemOverloadedError") && error.is_network(), "{error:?}");
    assert!(!error.to_string().contains("certificate"), "{error}");
    guest.end().await;
}
