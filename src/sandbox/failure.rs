//! Error replies: codes, names and texts, as in mongod.

use bson::{Document, doc};

/// The reason why a command was refused.
#[derive(Debug)]
pub(super) struct CommandRefusal {
    pub(super) code: i32,
    pub(super) message: String,
    pub(super) labels: Vec<String>,
}

pub(super) mod code {
    pub(in super::super) const BAD_VALUE: i32 = 2;
    pub(in super::super) const UNAUTHORIZED: i32 = 13;
    pub(in super::super) const TYPE_MISMATCH: i32 = 14;
    pub(in super::super) const INVALID_LENGTH: i32 = 16;
    pub(in super::super) const AUTHENTICATION_FAILED: i32 = 18;
    pub(in super::super) const ILLEGAL_OPERATION: i32 = 20;
    pub(in super::super) const NAMESPACE_NOT_FOUND: i32 = 26;
    pub(in super::super) const CURSOR_NOT_FOUND: i32 = 43;
    pub(in super::super) const COMMAND_NOT_FOUND: i32 = 59;
    pub(in super::super) const INVALID_NAMESPACE: i32 = 73;
    pub(in super::super) const NO_REPLICATION_ENABLED: i32 = 76;
    pub(in super::super) const FAIL_POINT_SET_FAILED: i32 = 86;
    pub(in super::super) const UNSATISFIABLE_WRITE_CONCERN: i32 = 100;
    pub(in super::super) const PRIMARY_STEPPED_DOWN: i32 = 189;
    pub(in super::super) const TRANSACTION_TOO_OLD: i32 = 225;
    pub(in super::super) const NOT_IMPLEMENTED: i32 = 238;
    pub(in super::super) const EXCEEDED_TIME_LIMIT: i32 = 262;
    pub(in super::super) const UNSUPPORTED_OP_QUERY: i32 = 352;
    pub(in super::super) const LOAD_BALANCER_SUPPORT_MISMATCH: i32 = 354;
    pub(in super::super) const NOT_WRITABLE_PRIMARY: i32 = 10107;
    pub(in super::super) const DOCUMENT_TOO_LARGE: i32 = 10334;
    pub(in super::super) const DUPLICATE_KEY: i32 = 11000;
    pub(in super::super) const NO_SECONDARY_OK: i32 = 13435;
    pub(in super::super) const NOT_PRIMARY_OR_SECONDARY: i32 = 13436;
    pub(in super::super) const OUT_OF_DISK_SPACE: i32 = 14031;
    pub(in super::super) const AWAIT_WITHOUT_VERSION: i32 = 31368;
    pub(in super::super) const MISSING_DATABASE: i32 = 40571;
    pub(in super::super) const CURSOR_WITHOUT_SESSION: i32 = 50736;
    pub(in super::super) const GET_MORE_WITHOUT_SESSION: i32 = 50737;
    pub(in super::super) const CURSOR_IN_ANOTHER_SESSION: i32 = 50738;
}

impl CommandRefusal {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), labels: Vec::new() }
    }

    pub(super) fn bad_value(message: impl Into<String>) -> Self {
        Self::new(code::BAD_VALUE, message)
    }

    pub(super) fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(code::NOT_IMPLEMENTED, format!("the sandbox does not serve {what}"))
    }

    /// Returns the error reply; `retryable` says whether the command was a retryable write.
    pub(super) fn into_document(self, retryable: bool) -> Document {
        let mut out = doc! { "ok": 0.0, "errmsg": self.message, "code": self.code, "codeName": code_name(self.code) };
        let mut labels = self.labels;
        if labels.is_empty() && retryable && RETRYABLE_CODES.contains(&self.code) {
            labels.push("RetryableWriteError".to_owned());
        }
        if !labels.is_empty() {
            out.insert("errorLabels", labels);
        }
        out
    }

    /// Returns whether the reply has the version of the server's state.
    pub(super) fn is_state_change(&self) -> bool {
        STATE_CHANGE_CODES.contains(&self.code)
    }
}

/// Returns the name of a code.
pub(super) fn code_name(code: i32) -> String {
    match NAMES.iter().find(|(known, _)| *known == code) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("Location{code}"),
    }
}

/// The codes that mark a failed write as retryable (retryable-writes, "Determining Retryable Errors").
const RETRYABLE_CODES: &[i32] = &[6, 7, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436];

/// The codes of errors that carry `topologyVersion`; mongod leaves it out when it shuts down (91, 11600).
const STATE_CHANGE_CODES: &[i32] = &[189, 10107, 11602, 13435, 13436];

const NAMES: &[(i32, &str)] = &[
    (1, "InternalError"),
    (2, "BadValue"),
    (6, "HostUnreachable"),
    (7, "HostNotFound"),
    (8, "UnknownError"),
    (9, "FailedToParse"),
    (13, "Unauthorized"),
    (14, "TypeMismatch"),
    (16, "InvalidLength"),
    (18, "AuthenticationFailed"),
    (20, "IllegalOperation"),
    (26, "NamespaceNotFound"),
    (43, "CursorNotFound"),
    (50, "MaxTimeMSExpired"),
    (59, "CommandNotFound"),
    (64, "WriteConcernFailed"),
    (73, "InvalidNamespace"),
    (76, "NoReplicationEnabled"),
    (86, "FailPointSetFailed"),
    (89, "NetworkTimeout"),
    (91, "ShutdownInProgress"),
    (100, "UnsatisfiableWriteConcern"),
    (112, "WriteConflict"),
    (134, "ReadConcernMajorityNotAvailableYet"),
    (189, "PrimarySteppedDown"),
    (225, "TransactionTooOld"),
    (238, "NotImplemented"),
    (262, "ExceededTimeLimit"),
    (352, "UnsupportedOpQueryCommand"),
    (354, "LoadBalancerSupportMismatch"),
    (391, "ReauthenticationRequired"),
    (462, "IngressRequestRateLimitExceeded"),
    (9001, "SocketException"),
    (10107, "NotWritablePrimary"),
    (10334, "BSONObjectTooLarge"),
    (11000, "DuplicateKey"),
    (11600, "InterruptedAtShutdown"),
    (11601, "Interrupted"),
    (11602, "InterruptedDueToReplStateChange"),
    (13435, "NotPrimaryNoSecondaryOk"),
    (13436, "NotPrimaryOrSecondary"),
    (14031, "OutOfDiskSpace"),
];
