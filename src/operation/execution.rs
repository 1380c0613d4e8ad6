//! The classification of commands and error replies: does the command only read, may it have been executed.
//!
//! By the names of commands, and by codes and labels of error replies (retryable-writes, "NoWritesPerformed";
//! client-backpressure, "RetryableError"). Whatever is not known to be safe counts as unsafe.

use bson::RawDocument;

use super::command_name;
use crate::error::{Error, Execution, RETRYABLE_ERROR};
use crate::wire::Request;
use crate::wire::scan::Fields;

/// The label of replies to writes that wrote nothing.
const NO_WRITES_PERFORMED: &str = "NoWritesPerformed";

/// The commands that only read, in every form.
const READS: [&str; 21] = [
    "buildInfo",
    "buildinfo",
    "collStats",
    "connectionStatus",
    "count",
    "dataSize",
    "dbHash",
    "dbStats",
    "distinct",
    "find",
    "getParameter",
    "hello",
    "hostInfo",
    "isMaster",
    "ismaster",
    "listCollections",
    "listDatabases",
    "listIndexes",
    "ping",
    "replSetGetStatus",
    "serverStatus",
];

/// The codes with which a server refuses a command before it executes any of it.
///
/// Unauthorized, CommandNotFound, APIVersionError, APIStrictError, UnsupportedOpQueryCommand, ReauthenticationRequired,
/// IngressRequestRateLimitExceeded.
const REFUSED: [i64; 7] = [13, 59, 322, 323, 352, 391, 462];

/// Codes with which a write of at most one document fails as a whole; a write of several may have executed a part before.
///
/// Invalid commands: BadValue, FailedToParse, TypeMismatch, IDLDuplicateField, IDLFailedToParse, IDLUnknownField. Refused
/// documents: ImmutableField, DocumentValidationFailure, BSONObjectTooLarge, DuplicateKey and its two older codes. No primary:
/// LegacyNotPrimary, NotWritablePrimary, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary.
const FAILED_AS_A_WHOLE: [i64; 16] = [2, 9, 14, 66, 121, 10058, 10107, 10334, 11000, 11001, 12582, 13435, 13436, 40413, 40414, 40415];

/// The code for a field that occurs twice.
const DUPLICATE_FIELD: i64 = 40413;

/// The codes for a getMore in another session or transaction than its cursor's.
const WRONG_SESSION: std::ops::RangeInclusive<i64> = 50736..=50741;

/// Returns whether a command only reads, so that repeating it changes nothing on the server.
///
/// Decided by the command's name; an aggregation must not have a stage that writes. `false` for every other command, including
/// `getMore`, which advances its cursor.
pub fn is_idempotent_read(command: &RawDocument) -> bool {
    match command_name(command) {
        "aggregate" => !may_write(command),
        name => READS.contains(&name),
    }
}

/// Returns whether a command with this error reply may have been executed, wholly or in part.
pub(crate) fn execution_of(request: &Request, error: &Error) -> Execution {
    if error.has_label(NO_WRITES_PERFORMED) || error.has_label(RETRYABLE_ERROR) {
        return Execution::Never;
    }
    let Some(failure) = error.command() else { return Execution::Possible };
    if Fields::find(&failure.reply, "writeConcernError").is_some() {
        return Execution::Possible;
    }
    let never = REFUSED.contains(&failure.code) || (FAILED_AS_A_WHOLE.contains(&failure.code) && writes_one_document(request));
    if never { Execution::Never } else { Execution::Possible }
}

/// Returns advice for the caller of a refused command, where the reply has none.
pub(crate) fn hint(command: &RawDocument, error: &Error) -> Option<&'static str> {
    match error.code()? {
        code if WRONG_SESSION.contains(&code) && command_name(command) == "getMore" => Some(
            "a cursor is read in the session that opened it: open the cursor with run_cursor_command, which sends its getMore commands",
        ),
        DUPLICATE_FIELD if error.message().contains("lsid") => {
            Some("the client adds lsid itself: leave it out, and open cursors with run_cursor_command, which keeps their session")
        }
        _ => None,
    }
}

/// Returns whether an aggregation has, or may have, a stage that writes.
fn may_write(aggregate: &RawDocument) -> bool {
    let Some(pipeline) = Fields::find(aggregate, "pipeline").and_then(|pipeline| pipeline.elements()) else { return true };
    pipeline.into_iter().any(|stage| match stage.ok().and_then(|stage| stage.document()) {
        Some(stage) => matches!(command_name(stage), "$out" | "$merge" | ""),
        None => true,
    })
}

fn writes_one_document(request: &Request) -> bool {
    let body = request.body.document();
    match command_name(body) {
        "findAndModify" | "findandmodify" => true,
        "insert" => only_statement(request, "documents").is_some(),
        "update" => {
            only_statement(request, "updates").is_some_and(|update| !Fields::find(update, "multi").is_some_and(|multi| multi.truth()))
        }
        "delete" => only_statement(request, "deletes")
            .is_some_and(|delete| Fields::find(delete, "limit").and_then(|limit| limit.integer()) == Some(1)),
        _ => false,
    }
}

/// Returns the statement of a write with exactly one statement.
fn only_statement<'a>(request: &'a Request, key: &str) -> Option<&'a RawDocument> {
    let within = Fields::find(request.body.document(), key).and_then(|statements| statements.elements());
    let within = within.into_iter().flatten().map(|statement| statement.ok().and_then(|statement| statement.document()));
    let beside = request.sequences.iter().filter(|(identifier, _)| identifier == key);
    let beside = beside.flat_map(|(_, documents)| documents.iter().map(|document| Some(document.document())));
    let mut all = within.chain(beside);
    match (all.next(), all.next()) {
        (Some(only), None) => only,
        (_, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;
    use crate::operation::command_error;

    fn refusal(code: i64, labels: &[&str]) -> Error {
        let labels: bson::RawArrayBuf = labels.iter().copied().collect();
        let mut reply = rawdoc! { "ok": 0, "errmsg": "x", "code": code };
        reply.append(bson::raw::cstr!("errorLabels"), labels);
        command_error(&reply).expect("an error")
    }

    fn may_have_executed(command: RawDocumentBuf, code: i64, labels: &[&str]) -> bool {
        execution_of(&Request::from(command), &refusal(code, labels)) == Execution::Possible
    }

    #[test]
    fn reads_are_known_by_their_names() {
        for (command, is_read) in [
            (rawdoc! { "find": "a" }, true),
            (rawdoc! { "count": "a" }, true),
            (rawdoc! { "distinct": "a", "key": "b" }, true),
            (rawdoc! { "listCollections": 1 }, true),
            (rawdoc! { "ping": 1 }, true),
            (rawdoc! { "hello": 1 }, true),
            (rawdoc! { "aggregate": "a", "pipeline": [{ "$match": {} }] }, true),
            (rawdoc! { "aggregate": 1, "pipeline": [] }, true),
            (rawdoc! { "aggregate": "a", "pipeline": [{ "$match": {} }, { "$out": "b" }] }, false),
            (rawdoc! { "aggregate": "a", "pipeline": [{ "$merge": { "into": "b" } }] }, false),
            (rawdoc! { "aggregate": "a", "pipeline": [1] }, false),
            (rawdoc! { "aggregate": "a", "pipeline": [{}] }, false),
            (rawdoc! { "aggregate": "a" }, false),
            (rawdoc! { "getMore": 1_i64 }, false),
            (rawdoc! { "FIND": "a" }, false),
            (rawdoc! { "insert": "a" }, false),
            (rawdoc! { "findAndModify": "a" }, false),
            (rawdoc! { "explain": { "find": "a" } }, false),
            (rawdoc! {}, false),
        ] {
            assert_eq!(is_idempotent_read(&command), is_read, "{command:?}");
        }
    }

    #[test]
    fn codes_decide_by_how_much_a_command_writes() {
        let insert = || rawdoc! { "insert": "a", "documents": [{ "_id": 1 }] };
        let several = || rawdoc! { "insert": "a", "documents": [{ "_id": 1 }, { "_id": 2 }] };
        let update = || rawdoc! { "update": "a", "updates": [{ "q": {}, "u": { "$inc": { "n": 1 } } }] };
        let multi = || rawdoc! { "update": "a", "updates": [{ "q": {}, "u": { "$inc": { "n": 1 } }, "multi": true }] };
        let delete = || rawdoc! { "delete": "a", "deletes": [{ "q": {}, "limit": 1 }] };
        let delete_all = || rawdoc! { "delete": "a", "deletes": [{ "q": {}, "limit": 0 }] };
        let find_and_modify = || rawdoc! { "findAndModify": "a", "remove": true };
        let commit = || rawdoc! { "commitTransaction": 1 };
        for code in FAILED_AS_A_WHOLE {
            for one in [insert(), update(), delete(), find_and_modify()] {
                assert!(!may_have_executed(one.clone(), code, &[]), "{code} {one:?}");
            }
            for more in [several(), multi(), delete_all(), commit(), rawdoc! { "insert": "a" }, rawdoc! { "bulkWrite": 1 }] {
                assert!(may_have_executed(more.clone(), code, &[]), "{code} {more:?}");
            }
        }
        for code in REFUSED {
            assert!(!may_have_executed(several(), code, &[]) && !may_have_executed(commit(), code, &[]), "{code}");
        }
        // Interrupted or late: MaxTimeMSExpired, WriteConcernTimeout, ShutdownInProgress, PrimarySteppedDown, WriteConflict,
        // ExceededTimeLimit, Interrupted, InterruptedAtShutdown, InterruptedDueToReplStateChange; and no code at all.
        for code in [50, 64, 91, 189, 112, 262, 11601, 11600, 11602, 0] {
            assert!(may_have_executed(insert(), code, &[]) && may_have_executed(update(), code, &[]), "{code}");
        }
    }

    #[test]
    fn labels_of_the_server_decide_before_codes() {
        let commit = || rawdoc! { "commitTransaction": 1 };
        assert!(!may_have_executed(commit(), 91, &["RetryableWriteError", "NoWritesPerformed"]));
        assert!(!may_have_executed(commit(), 50, &["SystemOverloadedError", "RetryableError"]));
        assert!(may_have_executed(commit(), 91, &["SystemOverloadedError"]));
        assert!(may_have_executed(commit(), 91, &["RetryableWriteError", "TransientTransactionError"]));
    }

    #[test]
    fn write_concern_error_means_that_the_write_was_executed() {
        let reply = rawdoc! { "ok": 0, "code": 10107, "writeConcernError": { "code": 64, "errmsg": "waiting" } };
        let insert = Request::from(rawdoc! { "insert": "a", "documents": [{}] });
        assert_eq!(execution_of(&insert, &command_error(&reply).expect("an error")), Execution::Possible);
    }

    #[test]
    fn documents_beside_the_command_are_statements_too() {
        let mut insert = Request::from(rawdoc! { "insert": "a" });
        insert.sequences.push(("documents".into(), vec![rawdoc! {}.into()]));
        assert_eq!(execution_of(&insert, &refusal(11000, &[])), Execution::Never);
        insert.sequences.push(("documents".into(), vec![rawdoc! {}.into()]));
        assert_eq!(execution_of(&insert, &refusal(11000, &[])), Execution::Possible);
    }

    #[test]
    fn hints_are_given_to_those_whose_session_is_wrong() {
        let get_more = rawdoc! { "getMore": 1_i64, "collection": "a" };
        assert!(hint(&get_more, &refusal(50738, &[])).is_some_and(|hint| hint.contains("run_cursor_command")));
        assert_eq!(hint(&rawdoc! { "find": "a" }, &refusal(50738, &[])), None);
        assert_eq!(hint(&get_more, &refusal(43, &[])), None);
        let twice = |errmsg: &str| command_error(&rawdoc! { "ok": 0, "code": 40413, "errmsg": errmsg }).expect("an error");
        let lsid = twice("BSON field 'OperationSessionInfo.lsid' is a duplicate field");
        assert!(hint(&rawdoc! { "find": "a" }, &lsid).is_some_and(|hint| hint.contains("leave it out")));
        assert_eq!(hint(&rawdoc! { "find": "a" }, &twice("BSON field 'find.limit' is a duplicate field")), None);
    }
}
