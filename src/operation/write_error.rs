//! The failed writes of a reply with `ok: 1`: `writeErrors` and `writeConcernError`.
//!
//! Follows bulk-write, "Handling errors". Does not decide whether they are errors of the operation; a generic command only
//! gives access to them.

use bson::{RawDocument, RawDocumentBuf};

use crate::error::Error;
use crate::reply::{ErrorFields, error_labels};
use crate::wire::scan::Fields;

/// The maximum number of write errors that are read of a reply: the largest number of writes in a batch (`maxWriteBatchSize`).
pub const WRITE_ERRORS_MAX: usize = 100_000;

/// A write that the server refused.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WriteError {
    /// The index of the write in its command, from 0.
    pub index: usize,
    /// The numeric code; 0 if the server sent none.
    pub code: i64,
    /// The code's name; empty if the server sent none.
    pub code_name: String,
    /// The server's message.
    pub message: String,
    /// The key pattern of the unique index, if this is a duplicate key.
    pub key_pattern: Option<RawDocumentBuf>,
    /// The existing key, if this is a duplicate key.
    pub key_value: Option<RawDocumentBuf>,
    /// Details (`errInfo`), such as the rule that a document violates.
    pub details: Option<RawDocumentBuf>,
}

/// A write that was executed, but not acknowledged as its write concern requests.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WriteConcernFailure {
    /// The numeric code; 0 if the server sent none.
    pub code: i64,
    /// The code's name; empty if the server sent none.
    pub code_name: String,
    /// The server's message.
    pub message: String,
    /// The error labels of the reply.
    pub labels: Vec<String>,
    /// Details (`errInfo`), such as the write concern that was used.
    pub details: Option<RawDocumentBuf>,
}

impl WriteError {
    /// Parses an entry of `writeErrors`, or an error reply, which has the same fields except `index`.
    ///
    /// A field that is missing or of a wrong type is left out.
    pub fn parse(document: &RawDocument) -> Self {
        let ErrorFields { code, code_name, message } = ErrorFields::read(document);
        let index = Fields::find(document, "index").and_then(|field| field.integer());
        Self {
            index: index.and_then(|index| usize::try_from(index).ok()).unwrap_or(0),
            code,
            code_name,
            message,
            key_pattern: part(document, "keyPattern"),
            key_value: part(document, "keyValue"),
            details: part(document, "errInfo"),
        }
    }

    /// Returns whether the key exists in a unique index already (codes 11000, 11001 and 12582).
    pub fn is_duplicate_key(&self) -> bool {
        matches!(self.code, 11000 | 11001 | 12582)
    }

    /// Returns the name of the unique index that contains the key, which servers include in their message only.
    pub fn duplicate_key_index(&self) -> Option<&str> {
        let (_, rest) = self.message.split_once(" index: ").filter(|_| self.is_duplicate_key())?;
        let (name, _) = rest.split_once(" dup key")?;
        // Older servers prepend the collection.
        Some(name.rsplit_once(".$").map_or(name, |(_, name)| name).trim())
    }
}

impl Error {
    /// Returns whether a document's key exists in a unique index already (codes 11000, 11001 and 12582).
    ///
    /// For replies with `ok: 1`, see [`Reply::write_errors`](crate::Reply::write_errors).
    pub fn is_duplicate_key(&self) -> bool {
        self.duplicate_key().is_some()
    }

    /// Returns the first write with a duplicate key, with its index in the command, key pattern and key.
    pub fn duplicate_key(&self) -> Option<WriteError> {
        let failure = self.command()?;
        let own = WriteError { code: failure.code, message: failure.message.clone(), ..WriteError::parse(&failure.reply) };
        std::iter::once(own).chain(write_errors(&failure.reply)).find(WriteError::is_duplicate_key)
    }
}

/// Returns the `writeErrors` of a reply, at most [`WRITE_ERRORS_MAX`].
pub fn write_errors(reply: &RawDocument) -> Vec<WriteError> {
    let entries = Fields::find(reply, "writeErrors").and_then(|field| field.elements());
    let documents = entries.into_iter().flatten().map_while(Result::ok).filter_map(|entry| entry.document());
    documents.take(WRITE_ERRORS_MAX).map(WriteError::parse).collect()
}

/// Returns the `writeConcernError` of a reply.
pub fn write_concern_failure(reply: &RawDocument) -> Option<WriteConcernFailure> {
    let document = Fields::find(reply, "writeConcernError")?.document()?;
    let ErrorFields { code, code_name, message } = ErrorFields::read(document);
    Some(WriteConcernFailure { code, code_name, message, labels: error_labels(reply), details: part(document, "errInfo") })
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "write {}: {}{}", self.index, self.message, Code(self.code, &self.code_name))
    }
}

impl std::fmt::Display for WriteConcernFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "write concern: {}{}", self.message, Code(self.code, &self.code_name))
    }
}

/// Prints a code and its name, where there are any.
struct Code<'a>(i64, &'a str);

impl std::fmt::Display for Code<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self(0, "") => Ok(()),
            Self(code, "") => write!(f, " (code {code})"),
            Self(code, name) => write!(f, " (code {code} {name})"),
        }
    }
}

fn part(document: &RawDocument, key: &str) -> Option<RawDocumentBuf> {
    Some(Fields::find(document, key)?.document()?.to_owned())
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn every_write_error_keeps_what_can_be_read() {
        let mut reply = rawdoc! {
            "n": 1, "ok": 1, "writeErrors": [
                { "index": 3_i64, "code": 11000.0, "errmsg": "E11000 QQ", "keyPattern": { "a": 1 }, "keyValue": { "a": "x" } },
                7,
                { "index": 4, "code": 121, "codeName": "DocumentValidationFailure", "errmsg": "no", "errInfo": { "why": 1 } },
                {},
            ],
        }
        .into_bytes();
        let place = reply.windows(2).position(|bytes| bytes == b"QQ").expect("there");
        reply[place..place + 2].fill(0xff);
        let errors = write_errors(RawDocument::from_bytes(&reply).expect("framed"));
        let [first, second, empty] = errors.as_slice() else { panic!("{errors:?}") };
        assert!(first.is_duplicate_key() && !second.is_duplicate_key());
        assert_eq!(
            (first.index, first.key_pattern.clone(), first.key_value.clone()),
            (3, Some(rawdoc! { "a": 1 }), Some(rawdoc! { "a": "x" }))
        );
        assert_eq!(first.to_string(), "write 3: E11000 \u{fffd}\u{fffd} (code 11000)");
        assert_eq!(
            (second.to_string().as_str(), second.details.clone()),
            ("write 4: no (code 121 DocumentValidationFailure)", Some(rawdoc! { "why": 1 }))
        );
        assert_eq!((empty.index, empty.code), (0, 0));
        assert!(write_errors(&rawdoc! { "ok": 1, "writeErrors": "x" }).is_empty());
    }

    #[test]
    fn duplicate_key_is_found_in_error_replies_and_in_write_errors() {
        let error = |reply: RawDocumentBuf| crate::operation::command_error(&reply).expect("an error");
        for code in [11000, 11001, 12582] {
            let text = "E11000 duplicate key error collection: db.things index: a_1_b_1 dup key: { a: 1, b: \"x\" }";
            let found = error(
                rawdoc! { "ok": 0, "code": code, "errmsg": text, "keyPattern": { "a": 1, "b": 1 }, "keyValue": { "a": 1, "b": "x" } },
            );
            let key = found.duplicate_key().expect("a duplicate key");
            assert!(found.is_duplicate_key());
            assert_eq!((key.index, key.code, key.duplicate_key_index()), (0, code.into(), Some("a_1_b_1")));
            assert_eq!((key.key_pattern, key.key_value), (Some(rawdoc! { "a": 1, "b": 1 }), Some(rawdoc! { "a": 1, "b": "x" })));
        }
        let found = error(rawdoc! {
            "ok": 0, "code": 8, "writeErrors": [
                { "index": 1, "code": 121 },
                { "index": 4, "code": 11000, "errmsg": "E11000 duplicate key error index: db.things.$a_1  dup key: { : 1 }" },
            ],
        });
        let key = found.duplicate_key().expect("a duplicate key");
        assert_eq!((key.index, key.duplicate_key_index(), &key.key_pattern), (4, Some("a_1"), &None));
        for other in [rawdoc! { "ok": 0, "code": 121, "errmsg": " index: a dup key" }, rawdoc! { "ok": 0 }] {
            assert!(!error(other.clone()).is_duplicate_key());
            assert_eq!(WriteError::parse(&other).duplicate_key_index(), None);
        }
        assert!(!Error::new(crate::ErrorKind::Closed, "E11000").is_duplicate_key());
    }

    #[test]
    fn write_concern_failure_has_details_and_labels() {
        let reply = rawdoc! { "ok": 1, "errorLabels": ["X"], "writeConcernError": { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "late", "errInfo": { "wtimeout": true } } };
        let failure = write_concern_failure(&reply).expect("a failure");
        assert_eq!(failure.to_string(), "write concern: late (code 64 WriteConcernFailed)");
        assert_eq!((failure.labels, failure.details), (vec!["X".to_owned()], Some(rawdoc! { "wtimeout": true })));
        assert!(write_concern_failure(&rawdoc! { "ok": 1 }).is_none());
    }
}
