use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, Timestamp, rawdoc};

use super::cluster_time::{ClusterTime, ReceivedClusterTime};
use super::session::{ServerSession, SessionPool};
use super::*;
use crate::wire::Request;

fn time(time: u32, increment: u32) -> RawDocumentBuf {
    rawdoc! { "clusterTime": Timestamp { time, increment }, "signature": { "keyId": 1_i64 } }
}

#[test]
fn only_a_newer_cluster_time_is_taken() {
    let mut newest = ClusterTime::default();
    assert_eq!(newest.document(), None);
    let mut hear = |document: RawDocumentBuf| newest.hear(ReceivedClusterTime::read(document.as_bytes()).expect("a cluster time"));
    assert!(hear(time(5, 1)) && !hear(time(5, 1)) && !hear(time(4, 9)) && hear(time(5, 2)));
    assert_eq!((newest.stamp(), newest.document()), (5 << 32 | 2, Some(time(5, 2).as_ref())));
    let mut copy = ClusterTime::default();
    copy.clone_from(&newest);
    assert_eq!(copy, newest);
}

#[test]
fn what_is_no_cluster_time_is_not_heard() {
    let mut unclosed = time(6, 1).into_bytes();
    *unclosed.last_mut().expect("a byte") = 1;
    let padded = rawdoc! { "clusterTime": Timestamp { time: 1, increment: 1 }, "signature": "x".repeat(5000) };
    for bytes in [rawdoc! { "clusterTime": 5 }.as_bytes(), rawdoc! { "ok": 1 }.as_bytes(), &unclosed, padded.as_bytes(), &[]] {
        assert!(ReceivedClusterTime::read(bytes).is_none());
    }
    // Not in the first place.
    let second = rawdoc! { "x": 1, "clusterTime": Timestamp { time: 3, increment: 4 } };
    assert_eq!(ReceivedClusterTime::read(second.as_bytes()).map(|heard| heard.stamp), Some(3 << 32 | 4));
}

#[test]
fn head_of_a_reply_is_read_in_one_pass() {
    let reply = rawdoc! { "cursor": { "ok": 0 }, "ok": 1.0, "$clusterTime": time(1, 2), "writeConcernError": { "code": 91 } };
    let head = ReplyHead::read(reply.as_bytes());
    assert!(head.succeeded && head.has_write_concern_error);
    assert_eq!(head.cluster_time, Some(time(1, 2).as_bytes()));
    for refused in [rawdoc! { "ok": 0 }, rawdoc! {}, rawdoc! { "ok": "1" }] {
        assert!(!ReplyHead::read(refused.as_bytes()).succeeded);
    }
    let mut broken = rawdoc! { "ok": 1, "x": "y" }.into_bytes();
    let at = broken.len() - 8;
    broken[at] = 0xff;
    assert!(!ReplyHead::read(&broken).succeeded);
}

#[test]
fn sessions_are_last_in_first_out_and_expire_a_minute_early() {
    let now = Instant::now();
    let timeout = Duration::from_secs(1800);
    let (one, two) = (ServerSession::new([1; 16], now), ServerSession::new([2; 16], now));
    let mut pool = SessionPool::default();
    pool.put(one.clone(), timeout, now);
    pool.put(two.clone(), timeout, now);
    assert_eq!(pool.take(timeout, now).expect("session").lsid(), two.lsid());
    assert_eq!(pool.len(), 1, "one that is not put back is gone");
    assert!(pool.take(timeout, now + Duration::from_secs(1740)).is_none());
    assert!(pool.is_empty());
}

#[test]
fn session_behind_a_load_balancer_never_expires() {
    let now = Instant::now();
    let mut pool = SessionPool::default();
    let (one, two) = (ServerSession::new([1; 16], now), ServerSession::new([2; 16], now));
    pool.put(one.clone(), Duration::MAX, now);
    let much_later = now + Duration::from_secs(1_000_000);
    pool.put(two, Duration::MAX, much_later);
    assert_eq!(pool.len(), 2, "none is pruned");
    assert!(pool.take(Duration::MAX, much_later).is_some());
    assert_eq!(pool.take(Duration::MAX, much_later).expect("kept").lsid(), one.lsid());
}

#[test]
fn session_ids_are_version_four() {
    let session = ServerSession::new([0xff; 16], Instant::now());
    let id = session.lsid().get_binary("id").expect("binary").bytes;
    assert_eq!((id[6] >> 4, id[8] >> 6), (4, 2));
}

#[test]
fn oversized_command_names_size_and_limit() {
    let body = rawdoc! { "insert": "x", "pad": "a".repeat(17 * 1024 * 1024) };
    let text = check_size(&body.into(), 16 * 1024 * 1024).expect_err("too large").to_string();
    assert!(text.contains("command of 17825821 bytes") && text.contains("16793600 bytes"), "{text}");
}

#[test]
fn oversized_document_beside_a_command_names_size_and_limit() {
    let request = Request {
        body: rawdoc! { "insert": "x" }.into(),
        sequences: vec![("documents".into(), vec![rawdoc! {}.into(), rawdoc! { "pad": "a".repeat(200) }.into()])],
    };
    let text = check_size(&request, 100).expect_err("too large").to_string();
    assert!(text.contains("document of 215 bytes in \"documents\" (limit maxBsonObjectSize of 100 bytes)"), "{text}");
}

#[test]
fn empty_command_is_refused() {
    assert!(check_name(&rawdoc! {}).expect_err("empty").to_string().contains("empty"));
    for name in ["ping", "größe"] {
        let mut command = RawDocumentBuf::new();
        command.append(<&bson::raw::CStr>::try_from(name).expect("no zero"), 1);
        check_name(&command).expect("a name");
        assert_eq!(command_name(&command), name);
    }
}

#[test]
fn commands_with_secrets_are_known() {
    assert!(is_sensitive("SASLSTART", &rawdoc! {}));
    assert!(is_sensitive("hello", &rawdoc! { "speculativeAuthenticate": {} }));
    assert!(!is_sensitive("hello", &rawdoc! {}));
    assert!(!is_sensitive("find", &rawdoc! { "speculativeAuthenticate": {} }));
}
