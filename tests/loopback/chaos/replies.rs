//! Replies that are well framed and odd inside.

use mongolink::bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongolink::{ErrorKind, LimitValue, Reply};

use super::{Guest, PATIENT, assert_limit};
use crate::peers::{self, Heard, Peer, Turn};

/// A document of so many levels, encoded by hand: what encodes it otherwise is recursive.
fn nested(levels: usize) -> RawDocumentBuf {
    let bytes = (1..levels).fold(rawdoc! { "x": 1 }.into_bytes(), |inner, _| {
        let length = u32::try_from(inner.len() + 8).expect("short");
        [&length.to_le_bytes()[..], b"\x03a\0", &inner, b"\0"].concat()
    });
    RawDocumentBuf::from_bytes(bytes).expect("framed")
}

/// Replaces every `QQ` by bytes that are not UTF-8.
fn spoilt(document: RawDocumentBuf) -> Vec<u8> {
    let mut bytes = document.into_bytes();
    while let Some(place) = bytes.windows(2).position(|bytes| bytes == b"QQ") {
        bytes[place..place + 2].copy_from_slice(b"\xff\xfe");
    }
    bytes
}

async fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Peer {
    peers::scripted(move |heard: &Heard| match heard.is_hello() {
        true => Turn::Reply(peers::standalone_hello()),
        false => Turn::Raw(peers::message_of_bytes(heard.request_id, &answer(&heard.name))),
    })
    .await
}

fn batch(documents: impl IntoIterator<Item = RawDocumentBuf>) -> RawDocumentBuf {
    let documents: RawArrayBuf = documents.into_iter().collect();
    rawdoc! { "ok": 1, "cursor": { "id": 0.0, "ns": "test.things", "firstBatch": documents } }
}

/// The thread of a test has as much stack as a runtime's worker.
#[tokio::test]
async fn document_that_nests_too_deep_costs_only_itself() {
    let peer = answering(|_| batch([nested(180), nested(1000), nested(2)]).into_bytes()).await;
    let guest = Guest::new(peer.address(), PATIENT, "");
    let things = guest.client.database("test");
    let mut documents = things.run_cursor_command(doc! { "find": "things" }).await.expect("a cursor");
    let mut values = things.run_cursor_command(doc! { "find": "things" }).typed::<Bson>().await.expect("a cursor");
    let deepest: Document = documents.next().await.expect("the first").expect("legal");
    assert!(format!("{deepest}{deepest:?}").contains("\"x\": 1") && deepest == deepest.clone());
    assert_eq!(values.next().await.expect("the first").expect("legal"), Bson::Document(deepest));
    for error in [documents.next().await.map(|read| read.map(drop)), values.next().await.map(|read| read.map(drop))] {
        let error = error.expect("the second").expect_err("too deep");
        assert_limit(&error, "NESTING_DEPTH_MAX", LimitValue::Count(200));
        assert_eq!(error.host(), Some(&peer.host()));
    }
    assert_eq!(documents.next().await.expect("the third").expect("legal"), doc! { "a": { "x": 1 } });
    assert!(documents.next().await.is_none());
    guest.end().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_costs_only_itself() {
    let peer = answering(|name| match name {
        "ping" => spoilt(rawdoc! { "QQ": "QQ", "ok": 0, "errmsg": "no QQ", "code": 4_294_967_297_i64, "errorLabels": ["QQ", "X"] }),
        "insert" => spoilt(rawdoc! { "ok": 1_i64, "writeErrors": [{ "index": 2.0, "code": 11000, "errmsg": "dup QQ" }] }),
        _ => spoilt(batch([rawdoc! { "n": 1 }, rawdoc! { "names": [{ "first": "QQ" }] }, rawdoc! { "n": 3 }])),
    })
    .await;
    let guest = Guest::new(peer.address(), PATIENT, "");
    let error = guest.ping().await.expect_err("refused");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(4_294_967_297)));
    assert!(error.message().contains("no \u{fffd}\u{fffd}") && error.has_label("X"), "{error}");
    let test = guest.client.database("test");
    let reply: Reply = test.run_command(doc! { "insert": "things", "documents": [{}] }).raw().await.expect("carried out");
    let [refused] = reply.write_errors().try_into().expect("one");
    assert_eq!((refused.index, refused.is_duplicate_key(), refused.message.as_str()), (2, true, "dup \u{fffd}\u{fffd}"));
    let mut documents = test.run_cursor_command(doc! { "find": "things" }).await.expect("a cursor");
    assert_eq!(documents.next().await.expect("the first").expect("readable"), doc! { "n": 1 });
    let error = documents.next().await.expect("the second").expect_err("not UTF-8");
    assert!(error.kind() == ErrorKind::Bson && error.to_string().contains("\"names.0.first\""), "{error}");
    assert_eq!(documents.next().await.expect("the third").expect("readable"), doc! { "n": 3 });
    guest.end().await;
}
