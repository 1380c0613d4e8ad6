//! The success and failure fields of command replies.
//!
//! Reads `ok`, `errmsg`, `code`, `codeName`, `errorLabels` and `writeConcernError` from arbitrary bytes. Does not decide what a
//! failure means for the topology (`topology::fault`), nor whether the command is retried.

use bson::{RawDocument, RawDocumentBuf};

use crate::error::{CommandFailure, ERROR_MESSAGE_SIZE_MAX, Error, ErrorKind, Stage};
use crate::wire::scan::{Fields, kind};

/// How many error labels of one reply are kept.
pub const ERROR_LABELS_MAX: usize = 100;

/// How many bytes of a name in an error reply are kept: a label, the name of a code. The longest known label has 32.
pub const NAME_SIZE_MAX: usize = 256;

/// The largest error reply, in bytes, that an error keeps whole: errors are kept by events, descriptions and callers.
pub const ERROR_REPLY_SIZE_MAX: usize = 64 * 1024;

/// Of a larger reply an error keeps these fields, each up to [`ERROR_FIELD_SIZE_MAX`]: what is asked of an error is in them.
const ERROR_FIELDS: [&str; 10] =
    ["ok", "code", "codeName", "errorLabels", "topologyVersion", "keyPattern", "keyValue", "errInfo", "operationTime", "$clusterTime"];

/// The largest field, in bytes, that is kept of a reply above [`ERROR_REPLY_SIZE_MAX`].
const ERROR_FIELD_SIZE_MAX: usize = 4 * 1024;

/// The fields that every reply is checked for, read in one pass; only a reply that is not plain success is read again.
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
    /// Reads a reply, a document's bytes. The first field of a name counts.
    pub fn read(reply: &'a [u8]) -> Self {
        let mut head = Self::default();
        let mut ok = None;
        for field in Fields::of(reply) {
            let Ok(field) = field else { return Self::default() };
            // Most fields are distinguished by the length of their names.
            match (field.key.len(), field.key) {
                (2, b"ok") => ok = ok.or(Some(field.is_one())),
                (6, b"cursor") => head.has_cursor = true,
                (17, b"writeConcernError") => head.has_write_concern_error = true,
                (12, b"$clusterTime") if field.kind == kind::DOCUMENT => head.cluster_time = head.cluster_time.or(Some(field.value)),
                _ => {}
            }
        }
        head.succeeded = ok == Some(true);
        head
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
    if ReplyHead::read(reply.as_bytes()).succeeded {
        return None;
    }
    if Fields::find(reply, "ok").is_some_and(|ok| !ok.is_one()) {
        let error = Error::command_failure(failure(reply, reply));
        return Some(error_labels(reply).iter().fold(error, |error, label| error.with_label(label)));
    }
    if Fields::of(reply.as_bytes()).all(|field| field.is_ok()) {
        return Some(Error::new(ErrorKind::Protocol, "reply without the field ok").at(stage));
    }
    let error = Error::new(ErrorKind::Protocol, "reply is not valid BSON").at(stage);
    // The careful reader says what is wrong.
    Some(match reply.iter_elements().find_map(Result::err) {
        Some(cause) => error.because_of_bson(cause),
        None => error,
    })
}

/// Returns the failure in `writeConcernError`: the command was carried out, and not acknowledged as it was to be.
pub fn write_concern_error(reply: &RawDocument) -> Option<CommandFailure> {
    let document = Fields::find(reply, "writeConcernError")?.document()?;
    Some(failure(document, reply))
}

/// Returns the error labels of a reply: its own, then those of its `writeConcernError`.
pub fn error_labels(reply: &RawDocument) -> Vec<String> {
    let concern = Fields::find(reply, "writeConcernError").and_then(|field| field.document());
    let lists = [Some(reply), concern].into_iter().flatten().filter_map(|holder| Fields::find(holder, "errorLabels")?.elements());
    let labels = lists.flat_map(|list| list.map_while(Result::ok)).take(ERROR_LABELS_MAX);
    labels.filter_map(|label| label.text_within(NAME_SIZE_MAX)).collect()
}

fn failure(document: &RawDocument, reply: &RawDocument) -> CommandFailure {
    let ErrorFields { code, code_name, message } = ErrorFields::read(document);
    let size_bytes = reply.as_bytes().len();
    let is_whole = size_bytes <= ERROR_REPLY_SIZE_MAX;
    let (reply, cut_from_bytes) = if is_whole { (reply.to_owned(), None) } else { (essence(reply), Some(size_bytes)) };
    CommandFailure { code, code_name, message, reply, cut_from_bytes }
}

/// Copies of a large reply what says which error it is.
fn essence(reply: &RawDocument) -> RawDocumentBuf {
    let mut kept = RawDocumentBuf::new();
    let mut seen = [false; ERROR_FIELDS.len()];
    for element in reply.iter_elements().map_while(Result::ok) {
        let place = ERROR_FIELDS.iter().position(|name| *name == element.key().as_str());
        let Some(seen) = place.and_then(|place| seen.get_mut(place)).filter(|seen| !**seen) else { continue };
        *seen = true;
        if let Ok(value) = element.value()
            && element.size() <= ERROR_FIELD_SIZE_MAX
        {
            kept.append(element.key(), value);
        }
    }
    kept
}

/// The fields that every error in a reply has: the reply itself, its `writeConcernError`, and each of its `writeErrors`.
pub(crate) struct ErrorFields {
    /// 0 if the server sent none.
    pub(crate) code: i64,
    /// Empty if the server sent none.
    pub(crate) code_name: String,
    pub(crate) message: String,
}

impl ErrorFields {
    /// Reads what can be read.
    pub(crate) fn read(document: &RawDocument) -> Self {
        let text = |key: &str, size_bytes_max| Fields::find(document, key).and_then(|field| field.text_within(size_bytes_max));
        Self {
            code: Fields::find(document, "code").and_then(|field| field.integer()).unwrap_or(0),
            code_name: text("codeName", NAME_SIZE_MAX).unwrap_or_default(),
            message: text("errmsg", ERROR_MESSAGE_SIZE_MAX).unwrap_or_else(|| "the server gave no message".to_owned()),
        }
    }
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
    fn text_that_is_not_utf8_costs_nothing_else() {
        let mut reply = rawdoc! { "bad": "QQQ", "errmsg": "no QQQ", "code": 4_294_967_296_i64, "codeName": "QQQ", "errorLabels": ["QQQ", "X"], "ok": 0 }.into_bytes();
        while let Some(place) = reply.windows(3).position(|bytes| bytes == b"QQQ") {
            reply[place..place + 3].fill(0xff);
        }
        let error = command_error(RawDocument::from_bytes(&reply).expect("framed")).expect("error");
        let lossy = "\u{fffd}\u{fffd}\u{fffd}";
        assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(4_294_967_296)));
        assert_eq!(error.message(), format!("no {lossy} (code 4294967296 {lossy})"));
        assert_eq!(error.labels(), [lossy, "X"]);
    }

    /// Both readers of `ok` see the same in every reply.
    #[test]
    fn success_is_the_same_for_both_readers() {
        let twice = |first: i32, second: i32| {
            let mut reply = rawdoc! { "ok": first };
            reply.append(bson::raw::cstr!("ok"), second);
            reply
        };
        let mut torn = rawdoc! { "ok": 1, "x": 1 }.into_bytes();
        let place = torn.len() - 8;
        torn[place] = 0x20;
        for (reply, succeeded) in [
            (twice(1, 0), true),
            (twice(0, 1), false),
            (rawdoc! { "ok": 1.5 }, false),
            (rawdoc! { "ok": bson::Decimal128::from_bytes(*b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\x30") }, true),
            (RawDocumentBuf::from_bytes(torn).expect("framed"), false),
            (rawdoc! {}, false),
        ] {
            assert_eq!((ReplyHead::read(reply.as_bytes()).succeeded, command_error(&reply).is_none()), (succeeded, succeeded), "{reply:?}");
        }
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
    fn large_error_replies_are_kept_in_part_and_say_so() {
        let padding = "\u{fc}".repeat(ERROR_REPLY_SIZE_MAX);
        let mut reply =
            rawdoc! { "padding": padding.as_str(), "ok": 0.0, "errmsg": padding.as_str(), "code": 10107, "codeName": padding.as_str() };
        reply.append(bson::raw::cstr!("errorLabels"), bson::raw::RawArrayBuf::from_iter(["A", padding.as_str()]));
        reply.append(
            bson::raw::cstr!("topologyVersion"),
            rawdoc! { "processId": bson::oid::ObjectId::from_bytes([1; 12]), "counter": 7_i64 },
        );
        reply.append(bson::raw::cstr!("code"), 1);
        let error = command_error(&reply).expect("error");
        let failure = error.command().expect("reply");
        assert_eq!((error.code(), failure.cut_from_bytes), (Some(10107), Some(reply.as_bytes().len())));
        let kept: Vec<&str> = failure.reply.iter().map(|element| element.expect("readable").0.as_str()).collect();
        assert_eq!(kept, ["ok", "code", "topologyVersion"], "what is larger than a field may be is left out");
        assert_eq!(failure.reply.get_i32("code").ok(), Some(10107), "the first of two counts");
        for text in [failure.code_name.as_str(), error.labels()[1].as_str()] {
            assert!(text.len() <= NAME_SIZE_MAX && text.ends_with('\u{2026}'), "{} bytes", text.len());
        }
        assert!(failure.message.len() <= ERROR_MESSAGE_SIZE_MAX && error.message().len() <= ERROR_MESSAGE_SIZE_MAX);
        let fault = crate::topology::Fault::new(error, 0);
        assert!(fault.state_change.is_some() && fault.topology_version.is_some_and(|version| version.counter == 7));
        let small = rawdoc! { "ok": 0, "errmsg": "no", "details": { "why": "x" } };
        let failure = command_error(&small).expect("error").command().cloned().expect("reply");
        assert_eq!((failure.reply, failure.cut_from_bytes), (small, None));
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
