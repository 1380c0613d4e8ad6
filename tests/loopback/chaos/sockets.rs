//! Servers that refuse, stay silent, close, or send invalid replies.

use std::io;
use std::time::Duration;

use mongolink::bson::doc;
use mongolink::wire::op_code;
use mongolink::{Error, ErrorKind, LimitValue, Stage};

use super::{CALM, Guest, IMPATIENT, PATIENT, assert_limit, assert_placed, assert_timed_out, assert_told, builder};
use crate::peers::{self, Heard, Turn};
use crate::support::{at_rest, totals};

const TLS: &str = "tls=true&tlsInsecure=true";

const NOT_A_REPLY: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";

/// What the first four bytes of [`NOT_A_REPLY`] are as a length.
const NOT_A_LENGTH: &str = "1347703880 bytes";

const MESSAGE_LIMIT: LimitValue = LimitValue::Bytes(48_000_000);

/// What may come before a hello reply has said so.
const HELLO_LIMIT: LimitValue = LimitValue::Bytes(512 * 1024);

/// A document whose string claims to be 1000 bytes long.
const BROKEN_DOCUMENT: &[u8] = b"\x0e\0\0\0\x02a\0\xe8\x03\0\0x\0\0";

#[tokio::test]
async fn refused_connection_names_address_and_cause() {
    let peer = peers::refusing();
    let guest = Guest::new(peer.address(), CALM, "");
    for fault in guest.faults(&peer.host()).await {
        assert_told(&fault, ErrorKind::Io(io::ErrorKind::ConnectionRefused), Stage::Tcp, &peer.host(), "refused");
        assert_placed(&fault, peer.address());
        let cause = fault.underlying().and_then(|cause| cause.downcast_ref::<io::Error>()).expect("the socket's error");
        assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
    }
    guest.end().await;
}

#[tokio::test]
async fn silence_before_tls_is_a_time_out_of_tls() {
    let peer = peers::silent().await;
    let guest = Guest::new(peer.address(), IMPATIENT, TLS);
    for fault in guest.faults(&peer.host()).await {
        assert_timed_out(&fault, Stage::Tls, peer.address(), IMPATIENT);
    }
    assert!(peer.accepted() >= 2);
    guest.end().await;
}

#[tokio::test]
async fn silence_within_tls_is_a_time_out_of_tls() {
    // The beginning of a handshake record of 122 bytes, with that of a ServerHello.
    let peer = peers::saying(*b"\x16\x03\x03\0\x7a\x02\0\0\x76").await;
    let guest = Guest::new(peer.address(), IMPATIENT, TLS);
    for fault in guest.faults(&peer.host()).await {
        assert_timed_out(&fault, Stage::Tls, peer.address(), IMPATIENT);
    }
    guest.end().await;
}

#[tokio::test]
async fn silence_before_hello_is_a_time_out_of_hello() {
    let peer = peers::silent().await;
    let guest = Guest::new(peer.address(), IMPATIENT, "");
    for fault in guest.faults(&peer.host()).await {
        assert_timed_out(&fault, Stage::Hello, peer.address(), IMPATIENT);
        assert!(fault.has_label("SystemOverloadedError"), "{fault:?}");
    }
    guest.end().await;
}

#[tokio::test]
async fn connection_closed_at_once_fails_in_hello() {
    let peer = peers::closing().await;
    let guest = Guest::new(peer.address(), CALM, "");
    for fault in guest.faults(&peer.host()).await {
        // Whether the end or the reset is seen first is a matter of luck.
        let kinds = [ErrorKind::Closed, ErrorKind::Io(io::ErrorKind::ConnectionReset), ErrorKind::Io(io::ErrorKind::BrokenPipe)];
        assert!(kinds.contains(&fault.kind()) && fault.is_network(), "{fault}");
        assert_told(&fault, fault.kind(), Stage::Hello, &peer.host(), "");
        assert_placed(&fault, peer.address());
    }
    guest.end().await;
}

#[tokio::test]
async fn connection_closed_instead_of_an_answer_says_so() {
    let peer = peers::closing_when_spoken_to().await;
    let guest = Guest::new(peer.address(), CALM, "");
    for fault in guest.faults(&peer.host()).await {
        assert_told(&fault, ErrorKind::Closed, Stage::Hello, &peer.host(), "connection closed by the server");
        assert_placed(&fault, peer.address());
    }
    guest.end().await;
}

#[tokio::test]
async fn connection_closed_instead_of_tls_asks_whether_it_is_spoken() {
    let peer = peers::closing_when_spoken_to().await;
    let guest = Guest::new(peer.address(), CALM, TLS);
    for fault in guest.faults(&peer.host()).await {
        assert_told(&fault, ErrorKind::Closed, Stage::Tls, &peer.host(), "does it use TLS on this port?");
        assert_placed(&fault, peer.address());
        assert!(fault.underlying().is_some());
    }
    guest.end().await;
}

/// Sees what a client makes of what is said instead of a reply to hello.
async fn faults_in_hello(turn: impl Fn(&Heard) -> Turn + Send + Sync + 'static, words: &str) -> [Error; 2] {
    let peer = peers::scripted(turn).await;
    let guest = Guest::new(peer.address(), CALM, "");
    let faults = guest.faults(&peer.host()).await;
    for fault in &faults {
        assert_told(fault, ErrorKind::Protocol, Stage::Hello, &peer.host(), words);
        assert_placed(fault, peer.address());
    }
    guest.end().await;
    faults
}

#[tokio::test]
async fn garbage_instead_of_a_reply_is_not_waited_for() {
    for fault in faults_in_hello(|_| Turn::Raw(NOT_A_REPLY.to_vec()), NOT_A_LENGTH).await {
        assert_limit(&fault, "HELLO_SIZE_MAX", HELLO_LIMIT);
    }
}

#[tokio::test]
async fn message_of_another_kind_names_its_op_code() {
    faults_in_hello(|heard| Turn::Raw(peers::header(16, heard.request_id, op_code::QUERY)), "op code 2004, expected 2013").await;
}

#[tokio::test]
async fn reply_to_another_request_is_not_taken() {
    faults_in_hello(|_| Turn::Misdirect(peers::standalone_hello()), "reply to request 1001, expected one to 1").await;
}

#[tokio::test]
async fn length_of_two_gigabytes_is_refused_before_it_is_waited_for() {
    let turn = |heard: &Heard| Turn::Raw(peers::header(i32::MAX, heard.request_id, op_code::MSG));
    for fault in faults_in_hello(turn, "message of 2147483647 bytes").await {
        assert_limit(&fault, "HELLO_SIZE_MAX", HELLO_LIMIT);
    }
}

#[tokio::test]
async fn length_below_a_header_is_refused() {
    let turn = |heard: &Heard| Turn::Raw(peers::header(15, heard.request_id, op_code::MSG));
    faults_in_hello(turn, "message of length 15, the header alone has 16").await;
}

#[tokio::test]
async fn negative_length_is_refused() {
    let turn = |heard: &Heard| Turn::Raw(peers::header(-2, heard.request_id, op_code::MSG));
    faults_in_hello(turn, "message of length -2, the header alone has 16").await;
}

#[tokio::test]
async fn document_longer_than_its_message_is_refused() {
    let turn = |heard: &Heard| Turn::Raw(peers::message_of_bytes(heard.request_id, b"\x40\0\0\0\x10ok\0"));
    faults_in_hello(turn, "document of length 64 where 8 bytes are left").await;
}

#[tokio::test]
async fn document_that_ends_within_a_value_is_refused_with_its_cause() {
    let turn = |heard: &Heard| Turn::Raw(peers::message_of_bytes(heard.request_id, BROKEN_DOCUMENT));
    for fault in faults_in_hello(turn, "is not valid BSON").await {
        assert!(fault.underlying().is_some(), "{fault:?}");
    }
}

/// Runs a ping against a server that is well until it is pinged.
async fn fault_in_ping(turn: impl Fn(&Heard) -> Turn + Send + Sync + 'static) -> Error {
    let turn = move |heard: &Heard| if heard.is_hello() { Turn::Reply(peers::standalone_hello()) } else { turn(heard) };
    let peer = peers::scripted(turn).await;
    let guest = Guest::new(peer.address(), PATIENT, "");
    let error = guest.ping().await.expect_err("no reply");
    assert_told(&error, error.kind(), Stage::Read, &peer.host(), "");
    assert_placed(&error, peer.address());
    at_rest(&guest.client).await;
    assert_eq!(totals(&guest.client).idle, 0, "the connection is not used again");
    guest.end().await;
    error
}

#[tokio::test]
async fn connection_closed_in_the_middle_of_a_reply_says_so() {
    let half = |heard: &Heard| {
        let mut bytes = peers::message(heard.request_id, &doc! { "ok": 1.0 });
        bytes.truncate(30);
        Turn::RawAndClose(bytes)
    };
    let error = fault_in_ping(half).await;
    assert_eq!((error.kind(), error.is_network()), (ErrorKind::Closed, true), "{error}");
    assert!(error.message().contains("in the middle of a message"), "{error}");
    let error = fault_in_ping(|_| Turn::Close).await;
    assert_eq!((error.kind(), error.message()), (ErrorKind::Closed, "connection closed by the server"), "{error}");
}

#[tokio::test]
async fn reply_that_is_none_costs_the_connection() {
    let error = fault_in_ping(|_| Turn::Raw(NOT_A_REPLY.to_vec())).await;
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert_limit(&error, "maxMessageSizeBytes", MESSAGE_LIMIT);
    let error = fault_in_ping(|_| Turn::Misdirect(doc! { "ok": 1.0 })).await;
    assert!(error.kind() == ErrorKind::Protocol && error.message().contains("expected one to"), "{error}");
}

#[tokio::test]
async fn reply_that_goes_on_unasked_costs_the_connection() {
    let stream = |heard: &Heard| {
        let mut bytes = peers::message(heard.request_id, &doc! { "ok": 1.0 });
        // The flag moreToCome; more replies follow, each to the one before.
        bytes[16] = 2;
        Turn::Raw(bytes.repeat(1000))
    };
    let error = fault_in_ping(stream).await;
    assert!(error.kind() == ErrorKind::Protocol && error.message().contains("moreToCome"), "{error}");
}

#[tokio::test]
async fn reply_with_too_many_sequences_is_refused() {
    let turn = |heard: &Heard| {
        let mut bytes = peers::message(heard.request_id, &peers::standalone_hello());
        for number in 0..40_000_u32 {
            let section = [b"\x01\x0a\0\0\0", format!("{number:05}").as_bytes(), b"\0"].concat();
            bytes.extend_from_slice(&section);
        }
        let length = u32::try_from(bytes.len()).expect("short");
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        Turn::Raw(bytes)
    };
    for fault in faults_in_hello(turn, "message with too many sequences").await {
        assert_limit(&fault, "SEQUENCES_MAX", LimitValue::Count(16));
    }
}

#[tokio::test]
async fn silence_instead_of_a_reply_meets_the_limit_of_the_socket() {
    let turn = |heard: &Heard| if heard.is_hello() { Turn::Reply(peers::standalone_hello()) } else { Turn::Silence };
    let peer = peers::scripted(turn).await;
    let limit = Duration::from_millis(200);
    let guest = Guest::of(builder(peer.address(), PATIENT, "").socket_timeout(limit));
    let error = guest.ping().await.expect_err("no reply");
    assert_told(&error, ErrorKind::Timeout, Stage::Read, &peer.host(), "timed out after ");
    assert_placed(&error, peer.address());
    assert_limit(&error, "socketTimeoutMS", LimitValue::Time(limit));
    guest.end().await;
}
