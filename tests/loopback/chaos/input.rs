//! Connection strings and documents that can't be used as they are.

use std::time::Duration;

use mongolink::bson::{RawDocumentBuf, doc, rawdoc};
use mongolink::{Client, Error, ErrorKind, LimitValue, Sandbox, Stage};

use super::{Guest, PATIENT, assert_limit, soon};
use crate::support::{at_rest, totals};

/// More than a document may have.
const TOO_LARGE: usize = 17 * 1024 * 1024;

#[tokio::test]
async fn unknown_option_is_a_warning_and_no_more() {
    let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
    let guest = Guest::new(sandbox.addresses()[0], PATIENT, "colour=red&maxPoolSize=many");
    let warnings: Vec<(&str, String)> =
        guest.client.warnings().iter().map(|warning| (warning.option.as_str(), warning.to_string())).collect();
    let [unknown, bad] = warnings.as_slice() else { panic!("two warnings: {warnings:?}") };
    assert_eq!((unknown.0, bad.0), ("number 3", "maxPoolSize"), "the name of an unknown option is not shown");
    assert!(unknown.1.contains("is not an option of a connection string, and is ignored"), "{warnings:?}");
    assert!(bad.1.contains("it is ignored"), "{warnings:?}");
    guest.ping().await.expect("works all the same");
    guest.end().await;
}

#[test]
fn reserved_characters_in_a_password_are_to_be_encoded() {
    for reserved in ['@', ':', '/', '?'] {
        let text = format!("mongodb://ann:p4ss{reserved}w0rd@127.0.0.1/");
        let error = Client::new(&text).map(drop).expect_err(&text);
        let shown = format!("{error} {error:?}");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::InvalidUri, Some(Stage::Uri)), "{shown}");
        assert!(error.to_string().contains("percent-encode") && error.to_string().contains("%40 for '@'"), "{shown}");
        assert!(!shown.contains("p4ss") && !shown.contains("w0rd"), "{reserved:?}: {shown}");
    }
    Client::new("mongodb://ann:p4ss%40w0rd@127.0.0.1/").expect("encoded");
}

/// Runs an insert that is too large, and sees that it costs nothing.
async fn refused_insert(insert: impl AsyncFn(&Client) -> mongolink::Result<()>) -> Error {
    let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
    let guest = Guest::new(sandbox.addresses()[0], PATIENT, "maxPoolSize=1");
    guest.ping().await.expect("a connection");
    let error = soon("the insert", insert(&guest.client)).await.expect_err("too large");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::InvalidArgument, Some(Stage::Write)), "{error}");
    at_rest(&guest.client).await;
    guest.ping().await.expect("the connection is good");
    let stats = totals(&guest.client);
    assert_eq!((stats.created, stats.closed, stats.idle), (1, 0, 1), "the same connection");
    assert_eq!(sandbox.commands_seen("insert"), [0], "nothing was sent");
    guest.end().await;
    error
}

#[tokio::test]
async fn document_of_17_megabytes_is_refused_with_size_and_limit() {
    let command = doc! { "insert": "things", "documents": [{ "_id": 1, "blob": "x".repeat(TOO_LARGE) }] };
    let size = RawDocumentBuf::try_from(&command).expect("a document").as_bytes().len();
    let error = refused_insert(async |client: &Client| {
        client.database("test").run_command(command.clone()).timeout(Duration::from_secs(15)).await.map(drop)
    })
    .await;
    assert!(error.message().contains(&format!("{size} bytes")), "{error}");
    assert_limit(&error, "maxBsonObjectSize + COMMAND_OVERHEAD_MAX", LimitValue::Bytes(16 * 1024 * 1024 + 16 * 1024));
}

#[tokio::test]
async fn document_of_17_megabytes_beside_its_command_is_refused_with_size_and_limit() {
    let document = rawdoc! { "_id": 1, "blob": "x".repeat(TOO_LARGE) };
    let size = document.as_bytes().len();
    let error = refused_insert(async |client: &Client| {
        let insert = client.database("test").run_command(doc! { "insert": "things" }).documents("documents", vec![document.clone()]);
        insert.timeout(Duration::from_secs(15)).await.map(drop)
    })
    .await;
    assert!(error.message().contains(&format!("{size} bytes")), "{error}");
    assert_limit(&error, "maxBsonObjectSize", LimitValue::Bytes(16 * 1024 * 1024));
}
