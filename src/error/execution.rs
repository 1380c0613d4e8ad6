//! The execution and retry facts of an error: may the server have executed the command, is it safe to repeat the call.
//!
//! The call adds facts of the connection and of the reply to its error; without them, kind and stage decide. Does not decide
//! what an error reply says about execution (`operation::execution`).

use super::{Error, ErrorKind, Stage};

/// Whether the server may have executed a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Execution {
    /// The command was provably not executed.
    Never,
    /// The command may have been executed, wholly or in part.
    Possible,
}

/// The label of errors after which a command may be sent again, because nothing of it was sent or executed.
pub(crate) const RETRYABLE_ERROR: &str = "RetryableError";

/// The option whose limit ends an exchange when the socket receives nothing.
pub(crate) const SOCKET_TIMEOUT: &str = "socketTimeoutMS";

/// The server's code for a command that ran longer than its `maxTimeMS`.
const MAX_TIME_MS_EXPIRED: i64 = 50;

impl Error {
    /// Sets whether the command may have been executed, and whether it only reads.
    #[must_use]
    pub(crate) fn of_command(mut self, execution: Execution, is_idempotent: bool) -> Self {
        let facts = self.facts();
        (facts.execution, facts.is_idempotent) = (Some(execution), is_idempotent);
        self
    }

    /// Returns whether the server may have executed the command, wholly or in part.
    ///
    /// `false` only if it provably has not: no server or connection was available, the command was not sent, its message was
    /// incomplete, or the server refused the command before executing any of it.
    pub fn may_have_executed(&self) -> bool {
        match self.0.execution {
            Some(Execution::Never) => false,
            Some(Execution::Possible) => true,
            None => !(is_of_preparation(self.0.kind) || self.0.stage.is_some_and(is_before_sending)),
        }
    }

    /// Returns whether repeating the call can't apply it twice: the command only reads, or it was [not
    /// executed](Self::may_have_executed).
    ///
    /// This does not say that a repetition would succeed: an invalid argument stays invalid. Labels that specifications define,
    /// such as `RetryableWriteError`, are in [`labels`](Self::labels) and have no effect here: they are about writes with a
    /// transaction number.
    pub fn is_retryable(&self) -> bool {
        self.0.is_idempotent || !self.may_have_executed()
    }

    /// Returns whether the error is an expired time limit: the driver's, the socket's, or the command's `maxTimeMS` (code 50).
    ///
    /// Other server codes with a time-out in their names, such as 262 `ExceededTimeLimit` and 202
    /// `NetworkInterfaceExceededTimeLimit`, are failures within the deployment, not limits of the caller.
    pub fn is_timeout(&self) -> bool {
        let kind = self.0.kind;
        matches!(kind, ErrorKind::Timeout | ErrorKind::Io(std::io::ErrorKind::TimedOut))
            || (kind == ErrorKind::Command && self.code() == Some(MAX_TIME_MS_EXPIRED))
    }

    /// Returns whether the network failed: a socket error, a closed connection, a time-out while a connection was established,
    /// `socketTimeoutMS`, bytes that are no reply, or an unresponsive server.
    ///
    /// `false` for errors of this machine, such as no free port, for commands whose future was dropped, and for commands that
    /// exceeded the caller's own limit (`timeoutMS`, or the `timeout` of the call): the network may be healthy.
    pub fn is_network(&self) -> bool {
        let in_set_up = matches!(self.0.stage, Some(Stage::Tcp | Stage::Tls | Stage::Hello | Stage::Auth));
        let on_socket = in_set_up || matches!(self.0.stage, Some(Stage::Write | Stage::Read));
        let of_socket = on_socket && self.limit().is_some_and(|limit| limit.name == SOCKET_TIMEOUT);
        let kind = self.0.kind;
        matches!(kind, ErrorKind::Closed | ErrorKind::Silent)
            // Of the reasons for an interruption, only an unresponsive server has a cause of its own.
            || (kind == ErrorKind::Interrupted && self.0.source.is_some())
            || (kind == ErrorKind::Timeout && (in_set_up || of_socket))
            || (on_socket && matches!(kind, ErrorKind::Protocol | ErrorKind::Tls))
            || (on_socket && matches!(kind, ErrorKind::Io(io) if !is_local(io)))
    }
}

/// Returns whether a socket error concerns this machine: its memory, ports or addresses.
fn is_local(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, OutOfMemory};
    matches!(kind, AddrInUse | AddrNotAvailable | OutOfMemory)
}

/// Returns whether an error of this kind can only occur before a command is sent.
fn is_of_preparation(kind: ErrorKind) -> bool {
    use ErrorKind::{
        Auth, Certificate, CertificateExpired, CertificateName, CertificateUnknownIssuer, DnsFailed, DnsRule, Incompatible,
        InvalidArgument, InvalidHost, InvalidOption, InvalidUri, NoAddresses, NoSuchName, PoolCleared, PoolClosed, ServerSelection,
        TooManyWaiters, Unsupported,
    };
    matches!(
        kind,
        Auth | Certificate
            | CertificateExpired
            | CertificateName
            | CertificateUnknownIssuer
            | DnsFailed
            | DnsRule
            | Incompatible
            | InvalidArgument
            | InvalidHost
            | InvalidOption
            | InvalidUri
            | NoAddresses
            | NoSuchName
            | PoolCleared
            | PoolClosed
            | ServerSelection
            | TooManyWaiters
            | Unsupported
    )
}

fn is_before_sending(stage: Stage) -> bool {
    match stage {
        Stage::Uri
        | Stage::Srv
        | Stage::Dns
        | Stage::Tcp
        | Stage::Tls
        | Stage::Hello
        | Stage::Auth
        | Stage::Selection
        | Stage::Checkout => true,
        Stage::Write | Stage::Read | Stage::Server => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind as IoKind;
    use std::time::Duration;

    use bson::RawDocumentBuf;

    use super::*;
    use crate::error::CommandFailure;

    fn io(stage: Stage, kind: IoKind) -> Error {
        Error::io(stage, kind.into())
    }

    fn reply(code: i64) -> Error {
        Error::command_failure(CommandFailure {
            code,
            code_name: String::new(),
            message: "x".into(),
            reply: RawDocumentBuf::new(),
            cut_from_bytes: None,
        })
    }

    fn timeout(stage: Stage) -> Error {
        Error::timeout(stage, "timeout", Duration::ZERO, Duration::ZERO)
    }

    #[test]
    fn without_facts_kind_and_stage_decide() {
        for (error, may) in [
            (Error::new(ErrorKind::InvalidArgument, "x").at(Stage::Write), false),
            (Error::new(ErrorKind::PoolCleared, "x"), false),
            (timeout(Stage::Selection), false),
            (timeout(Stage::Checkout), false),
            (io(Stage::Tcp, IoKind::ConnectionRefused), false),
            (timeout(Stage::Write), true),
            (io(Stage::Read, IoKind::ConnectionReset), true),
            (reply(1), true),
            (Error::new(ErrorKind::Bson, "x").at(Stage::Read), true),
            (Error::new(ErrorKind::Internal, "x"), true),
        ] {
            assert_eq!((error.may_have_executed(), error.is_retryable()), (may, !may), "{error:?}");
        }
    }

    #[test]
    fn facts_of_the_call_decide_before_kind_and_stage() {
        let lost = io(Stage::Read, IoKind::ConnectionReset);
        for (execution, is_idempotent, may, retryable) in [
            (Execution::Never, false, false, true),
            (Execution::Never, true, false, true),
            (Execution::Possible, true, true, true),
            (Execution::Possible, false, true, false),
        ] {
            let error = lost.clone().of_command(execution, is_idempotent);
            assert_eq!((error.may_have_executed(), error.is_retryable()), (may, retryable), "{execution:?} {is_idempotent}");
        }
        let labelled =
            lost.of_command(Execution::Possible, false).with_label("RetryableWriteError").with_label("TransientTransactionError");
        assert!(!labelled.is_retryable(), "labels do not decide");
    }

    #[test]
    fn time_limits_of_driver_socket_and_server_are_time_outs() {
        let cases = [
            (timeout(Stage::Checkout), true),
            (io(Stage::Read, IoKind::TimedOut), true),
            (reply(50), true),
            (reply(262), false),
            (reply(202), false),
            (reply(89), false),
            (Error::new(ErrorKind::Silent, "x"), false),
        ];
        for (error, is_timeout) in cases {
            assert_eq!(error.is_timeout(), is_timeout, "{error:?}");
        }
    }

    #[test]
    fn errors_of_this_machine_and_the_callers_limits_are_no_network_errors() {
        let silent = Error::new(ErrorKind::Silent, "x");
        for (error, is_network) in [
            (io(Stage::Tcp, IoKind::ConnectionRefused), true),
            (io(Stage::Read, IoKind::ConnectionReset), true),
            (io(Stage::Tcp, IoKind::AddrNotAvailable), false),
            (io(Stage::Tcp, IoKind::AddrInUse), false),
            (io(Stage::Tcp, IoKind::OutOfMemory), false),
            (io(Stage::Dns, IoKind::ConnectionRefused), false),
            (Error::new(ErrorKind::Closed, "x").at(Stage::Write), true),
            (timeout(Stage::Hello), true),
            (timeout(Stage::Auth), true),
            (timeout(Stage::Write), false),
            (timeout(Stage::Read), false),
            (Error::timeout(Stage::Write, SOCKET_TIMEOUT, Duration::ZERO, Duration::ZERO), true),
            (Error::timeout(Stage::Read, SOCKET_TIMEOUT, Duration::ZERO, Duration::ZERO), true),
            (timeout(Stage::Checkout), false),
            (Error::new(ErrorKind::Protocol, "x").at(Stage::Read), true),
            (Error::new(ErrorKind::Interrupted, "x").because(silent.clone()), true),
            (Error::new(ErrorKind::Interrupted, "the caller went away").at(Stage::Read), false),
            (silent, true),
            (reply(50), false),
        ] {
            assert_eq!(error.is_network(), is_network, "{error:?}");
        }
    }
}
