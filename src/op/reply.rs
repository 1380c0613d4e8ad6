//! Did the server carry the command out?
//!
//! Reads the success and failure fields of a command reply (`ok`, `errmsg`, `code`, `codeName`, `errorLabels`,
//! `writeConcernError`) from bytes that may be anything. What a failure means for the topology is decided in
//! `topology::fault`; whether the command is tried again is left to its caller.

use bson::RawDocument;
use bson::raw::RawBsonRef;

use crate::error::{CommandFailure, Error, ErrorKind, Stage};
use crate::wire::scan::{Field, Fields, kind};

/// How many error labels of one reply are kept.
pub const ERROR_LABELS_MAX: usize = 100;

/// Is what every reply is asked for, read in one pass; only a reply that is not plain success is read again.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyHead<'a> {
    /// Whether `ok` is 1. False too for bytes that can't be a reply.
    pub succeeded: bool,
    /// Whether there is a `writeConcernError`.
    pub has_write_concern_error: bool,
    /// Whether there is a `cursor`.
    pub has_cursor: bool,
    /// `$clusterTime`: a document, of which only the length has been checked.
    pub cluster_time: Option<&'a [u8]>,
}

impl<'a> ReplyHead<'a> {
    /// Reads a reply, a document's bytes.
    pub fn read(reply: &'a [u8]) -> Self {
        let mut head = Self::default();
        for field in Fields::of(reply) {
            let Ok(field) = field else { return Self::default() };
            // Most fields are told apart by the lengths of their names.
            match (field.key.len(), field.key) {
                (2, b"ok") => head.succeeded = is_one(field),
                (6, b"cursor") => head.has_cursor = true,
                (17, b"writeConcernError") => head.has_write_concern_error = true,
                (12, b"$clusterTime") if field.kind == kind::DOCUMENT => head.cluster_time = Some(field.value),
                _ => {}
            }
        }
        head
    }
}

fn is_one(field: Field<'_>) -> bool {
    match (field.kind, field.value) {
        (kind::DOUBLE, value) => value.first_chunk().is_some_and(|bytes| f64::from_le_bytes(*bytes) == 1.0),
        (kind::INT32, value) => value.first_chunk().is_some_and(|bytes| i32::from_le_bytes(*bytes) == 1),
        (kind::INT64, value) => value.first_chunk().is_some_and(|bytes| i64::from_le_bytes(*bytes) == 1),
        (kind::BOOLEAN, value) => value == [1],
        _ => false,
    }
}

/// Returns the error of a reply that does not report success, with the server's labels; `None` if `ok` is 1.
///
/// The kind is [`ErrorKind::Command`] for an error reply, and [`ErrorKind::Protocol`] for bytes that can't be a reply.
pub fn command_error(reply: &RawDocument) -> Option<Error> {
    command_error_at(reply, Stage::Read)
}

/// Does what [`command_error`] does, and names the stage of a reply that can't be one.
pub(crate) fn command_error_at(reply: &RawDocument, stage: Stage) -> Option<Error> {
    match reply.get("ok") {
        Ok(Some(ok)) if ok.as_bool() == Some(true) || integer(ok) == Some(1) => None,
        Ok(Some(_)) => {
            let error = Error::command_failure(failure(reply, reply));
            Some(error_labels(reply).iter().fold(error, |error, label| error.with_label(label)))
        }
        Ok(None) => Some(Error::new(ErrorKind::Protocol, "reply without the field ok").at(stage)),
        Err(error) => Some(Error::new(ErrorKind::Protocol, "reply is not valid BSON").at(stage).because(error)),
    }
}

/// Returns the failure in `writeConcernError`: the command was carried out, and not acknowledged as it was to be.
pub fn write_concern_error(reply: &RawDocument) -> Option<CommandFailure> {
    let document = field(reply, "writeConcernError")?.as_document()?;
    Some(failure(document, reply))
}

/// Returns the error labels of a reply: its own, then those of its `writeConcernError`.
pub fn error_labels(reply: &RawDocument) -> Vec<String> {
    let concern = field(reply, "writeConcernError").and_then(|value| value.as_document());
    let lists = [Some(reply), concern].into_iter().flatten().filter_map(|holder| field(holder, "errorLabels")?.as_array());
    lists
        .flat_map(|list| list.into_iter().map_while(Result::ok))
        .filter_map(|label| label.as_str().map(str::to_owned))
        .take(ERROR_LABELS_MAX)
        .collect()
}

fn failure(document: &RawDocument, reply: &RawDocument) -> CommandFailure {
    let text = |key: &str| field(document, key).and_then(|value| value.as_str()).map(str::to_owned);
    CommandFailure {
        code: field(document, "code").and_then(integer).and_then(|code| i32::try_from(code).ok()).unwrap_or(0),
        code_name: text("codeName").unwrap_or_default(),
        message: text("errmsg").unwrap_or_else(|| "the server gave no message".to_owned()),
        reply: reply.to_owned(),
    }
}

/// Returns a field's value, if it is there and can be read.
pub(crate) fn field<'a>(document: &'a RawDocument, key: &str) -> Option<RawBsonRef<'a>> {
    document.get(key).ok().flatten()
}

/// Reads a number of any numeric type; the fraction of a double is cut off.
pub(crate) fn integer(value: RawBsonRef<'_>) -> Option<i64> {
    value.as_i32().map(i64::from).or_else(|| value.as_i64()).or_else(|| value.as_f64().and_then(whole))
}

/// Reads a boolean, or a number as one: all but 0 is true.
pub(crate) fn truth(value: RawBsonRef<'_>) -> bool {
    value
        .as_bool()
        .unwrap_or_else(|| integer(value).is_some_and(|number| number != 0) || value.as_f64().is_some_and(|number| number != 0.0))
}

fn whole(number: f64) -> Option<i64> {
    // Within this range the integer part of every double is exact; NaN is not within it.
    (number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn one_in_any_type_is_success() {
        for reply in [rawdoc! { "ok": 1 }, rawdoc! { "ok": 1_i64 }, rawdoc! { "ok": 1.0 }, rawdoc! { "ok": true }] {
            assert!(command_error(&reply).is_none());
        }
    }

    #[test]
    fn error_reply_keeps_code_name_message_and_labels() {
        let reply = rawdoc! { "ok": 0.0, "errmsg": "not primary", "code": 10107_i64, "codeName": "NotWritablePrimary", "errorLabels": ["RetryableWriteError", 7, "X"] };
        let error = command_error(&reply).expect("error");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(10107)));
        assert_eq!(error.labels(), ["RetryableWriteError", "X"]);
        assert_eq!(error.to_string(), "server: not primary (code 10107 NotWritablePrimary)");
    }

    #[test]
    fn error_reply_without_details_is_still_an_error() {
        for reply in [rawdoc! { "ok": 0 }, rawdoc! { "ok": false }, rawdoc! { "ok": "1" }, rawdoc! { "ok": f64::NAN }] {
            let error = command_error(&reply).expect("error");
            assert_eq!((error.kind(), error.code()), (ErrorKind::Command, None));
        }
        let error = command_error(&rawdoc! { "code": 1 }).expect("error");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::Protocol, Some(Stage::Read)));
    }

    #[test]
    fn write_concern_error_is_found_beside_success() {
        let reply = rawdoc! { "ok": 1, "writeConcernError": { "code": 91, "codeName": "ShutdownInProgress", "errmsg": "bye", "errorLabels": ["RetryableWriteError"] } };
        assert!(command_error(&reply).is_none());
        let failure = write_concern_error(&reply).expect("failure");
        assert_eq!((failure.code, failure.code_name.as_str(), failure.message.as_str()), (91, "ShutdownInProgress", "bye"));
        assert_eq!(error_labels(&reply), ["RetryableWriteError"]);
        assert!(write_concern_error(&rawdoc! { "ok": 1, "writeConcernError": 5 }).is_none());
    }

    #[test]
    fn labels_are_bounded() {
        let labels: bson::raw::RawArrayBuf = (0..1000).map(|number| format!("label {number}")).collect();
        let mut reply = rawdoc! { "ok": 0 };
        reply.append(bson::raw::cstr!("errorLabels"), labels);
        assert_eq!(command_error(&reply).expect("error").labels().len(), ERROR_LABELS_MAX);
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(3);
        let plain = rawdoc! { "errorLabels": ["a"], "writeConcernError": { "code": 91, "errorLabels": ["b"] }, "errmsg": "x", "code": 1, "ok": 0.0 };
        for _ in 0..20_000 {
            let mut bytes = plain.as_bytes().to_vec();
            for _ in 0..random.random_range(1..6) {
                let place = random.random_range(4..bytes.len());
                bytes[place] = random.random();
            }
            if let Ok(reply) = RawDocumentBuf::from_bytes(bytes) {
                drop(command_error(&reply));
                drop(write_concern_error(&reply));
            }
        }
    }
}
