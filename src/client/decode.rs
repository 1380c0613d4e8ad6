//! The decoding of replies and documents into the types that callers ask for.
//!
//! A `Document` is read without recursion. Every other type is read by its own `Deserialize`, which recurses: a document that
//! nests deep is read on a thread whose stack suffices, so that no reply ends the process.

use std::any::{Any, TypeId};
use std::panic::resume_unwind;
use std::thread;

use bson::{Document, RawDocument};
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result, Stage};
use crate::operation::{Reply, document};
use crate::wire::depth::is_deeper;

/// How many levels are read on the caller's stack: a level needs up to 27 KB in a debug build, a worker thread has 2 MiB.
const SHALLOW_DEPTH_MAX: usize = 16;

/// The stack for what nests deeper: some 320 KB for each of `NESTING_DEPTH_MAX` levels. What is not used is not taken.
const DEEP_STACK_BYTES: usize = 64 * 1024 * 1024;

/// A form of replies and documents: any [`DeserializeOwned`] type, or [`Reply`] for the bytes.
pub trait FromReply: Send + 'static {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Bson`](crate::ErrorKind::Bson) if it doesn't fit.
    fn from_reply(reply: Reply) -> Result<Self>
    where
        Self: Sized;
}

impl<T: DeserializeOwned + Send + 'static> FromReply for T {
    fn from_reply(reply: Reply) -> Result<Self> {
        reply.deserialize()
    }
}

impl FromReply for Reply {
    fn from_reply(reply: Reply) -> Result<Self> {
        Ok(reply)
    }
}

impl Reply {
    /// Reads the document as a type.
    ///
    /// What nests deeper than a few levels is read on a thread of its own, whose stack suffices, unless the type is
    /// [`Document`](bson::Document).
    ///
    /// # Errors
    /// [`Bson`](crate::ErrorKind::Bson) if it doesn't fit; [`Protocol`](crate::ErrorKind::Protocol) if it nests deeper than
    /// `NESTING_DEPTH_MAX`.
    pub fn deserialize<T: DeserializeOwned + Send + 'static>(&self) -> Result<T> {
        decode(self.bytes()).map_err(|error: Error| error.at(Stage::Read).on(self.host()))
    }
}

/// Reads a document as a type.
///
/// # Errors
/// [`ErrorKind::Bson`] if it doesn't fit, with the path of a field that can't be read, or if it nests deep and there is no
/// further thread; [`ErrorKind::Protocol`] if it nests deeper than `NESTING_DEPTH_MAX`.
#[inline]
fn decode<T: DeserializeOwned + Send + 'static>(bytes: &[u8]) -> Result<T> {
    if TypeId::of::<T>() == TypeId::of::<Document>() {
        let mut read = Some(document::read(RawDocument::from_bytes(bytes)?)?);
        if let Some(read) = (&mut read as &mut dyn Any).downcast_mut::<Option<T>>().and_then(Option::take) {
            return Ok(read);
        }
    }
    let read = if is_deeper(bytes, SHALLOW_DEPTH_MAX)? { decode_deep(bytes)? } else { bson::deserialize_from_slice(bytes) };
    read.map_err(|error| explain(bytes, error))
}

/// Reads what nests deep.
#[cold]
fn decode_deep<T: DeserializeOwned + Send>(bytes: &[u8]) -> Result<bson::error::Result<T>> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("mongolink-decode".to_owned()).stack_size(DEEP_STACK_BYTES);
        #[allow(clippy::disallowed_methods, reason = "it ends here, and computes for as long as its caller would")]
        let reading = builder.spawn_scoped(scope, || bson::deserialize_from_slice(bytes)).map_err(|error| {
            let text =
                format!("no thread for a document that nests deeper than {SHALLOW_DEPTH_MAX} levels: {error}; read it as a Document");
            Error::new(ErrorKind::Bson, text).because(error)
        })?;
        Ok(reading.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Returns the error of a document that doesn't fit: an unreadable field is named by its path.
#[cold]
fn explain(bytes: &[u8], error: bson::error::Error) -> Error {
    match RawDocument::from_bytes(bytes).map_err(Error::from).and_then(document::read) {
        Ok(_) => Error::from(error),
        Err(unreadable) => unreadable,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bson::{Bson, RawDocumentBuf, rawdoc};
    use serde::Deserialize;

    use super::*;
    use crate::operation::json::Json;
    use crate::wire::depth::NESTING_DEPTH_MAX;

    /// The stack of a runtime's worker thread.
    const WORKER_STACK_BYTES: usize = 2 * 1024 * 1024;

    /// A document of so many levels, encoded by hand: what encodes it otherwise is recursive.
    fn nested(levels: usize) -> Vec<u8> {
        (1..levels).fold(rawdoc! { "x": 1 }.into_bytes(), |core, _| {
            let length = u32::try_from(core.len() + 8).expect("short");
            [&length.to_le_bytes()[..], b"\x03a\0", &core, b"\0"].concat()
        })
    }

    fn on_a_worker<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            #[allow(clippy::disallowed_methods, reason = "the size of the stack is what is tested")]
            let worker = thread::Builder::new().stack_size(WORKER_STACK_BYTES).spawn_scoped(scope, work).expect("a thread");
            worker.join().expect("no panic")
        })
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Tree {
        Node { a: Box<Self> },
        Leaf { x: i32 },
    }

    #[derive(Deserialize)]
    struct Flat {
        #[serde(flatten)]
        rest: BTreeMap<String, Bson>,
    }

    impl Tree {
        fn levels(&self) -> usize {
            let (mut levels, mut tree) = (1, self);
            while let Self::Node { a } = tree {
                (levels, tree) = (levels + 1, a);
            }
            assert!(matches!(tree, Self::Leaf { x: 1 }));
            levels
        }
    }

    #[test]
    fn deepest_document_is_read_shown_compared_and_dropped_on_a_worker() {
        for levels in [SHALLOW_DEPTH_MAX, 180, NESTING_DEPTH_MAX] {
            on_a_worker(|| {
                let bytes = nested(levels);
                let document: Document = decode(&bytes).expect("a document");
                let other: Document = decode(&bytes).expect("a document");
                assert_eq!(document, other);
                assert_eq!(format!("{document:?}").matches("Document(").count(), levels);
                assert_eq!(document.to_string().matches("\"a\"").count(), levels - 1);
                let raw = RawDocument::from_bytes(&bytes).expect("framed");
                assert_eq!(Json::of(raw).to_string(), format!("{}{{\"x\":1}}{}", "{\"a\":".repeat(levels - 1), "}".repeat(levels - 1)));
            });
        }
    }

    #[test]
    fn deepest_document_is_read_as_any_type_on_a_worker() {
        for levels in [SHALLOW_DEPTH_MAX, SHALLOW_DEPTH_MAX + 1, 180, NESTING_DEPTH_MAX] {
            on_a_worker(|| {
                let bytes = nested(levels);
                assert_eq!(decode::<Tree>(&bytes).expect("a tree").levels(), levels);
                assert_eq!(decode::<Flat>(&bytes).expect("a map").rest.len(), 1);
                assert!(matches!(decode::<Bson>(&bytes), Ok(Bson::Document(_))));
                assert_eq!(decode::<RawDocumentBuf>(&bytes).expect("raw").as_bytes(), bytes);
            });
        }
    }

    #[test]
    fn deeper_documents_are_refused_by_name() {
        fn refusal<T: DeserializeOwned + Send + 'static>(bytes: &[u8]) -> String {
            decode::<T>(bytes).map(drop).expect_err("too deep").to_string()
        }
        for levels in [NESTING_DEPTH_MAX + 1, 1000, 20_000] {
            on_a_worker(|| {
                let bytes = nested(levels);
                for text in
                    [refusal::<Document>(&bytes), refusal::<Tree>(&bytes), refusal::<Bson>(&bytes), refusal::<RawDocumentBuf>(&bytes)]
                {
                    assert!(text.contains("limit NESTING_DEPTH_MAX of 200"), "{text}");
                }
            });
        }
    }

    #[test]
    fn field_that_cannot_be_read_is_named_by_its_path() {
        #[derive(Debug, Deserialize)]
        struct Row {
            #[allow(dead_code, reason = "read for its errors")]
            rows: Vec<BTreeMap<String, String>>,
        }
        let mut bytes = rawdoc! { "rows": [{ "name": "ok" }, { "name": "QQ" }] }.into_bytes();
        let place = bytes.windows(2).position(|bytes| bytes == b"QQ").expect("there");
        bytes[place] = 0xff;
        for error in [decode::<Document>(&bytes).expect_err("not UTF-8"), decode::<Row>(&bytes).expect_err("not UTF-8")] {
            assert_eq!(error.kind(), ErrorKind::Bson);
            assert!(error.to_string().contains(r#"the field "rows.1.name" can't be read"#), "{error}");
        }
    }
}
