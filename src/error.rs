//! The error type of the crate: kind, stage, host, elapsed time, limit, causes.
//!
//! Kinds are facts. Does not decide whether a fault marks a server Unknown (`topology::fault`), nor whether a command is
//! retried.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use crate::address::{Address, ServerAddress};

mod construct;
mod execution;
mod kind;
mod size;
mod text;

pub(crate) use execution::{Execution, RETRYABLE_ERROR, SOCKET_TIMEOUT};
pub use kind::{CommandFailure, ErrorKind, Ineligible, Limit, LimitValue, ServerReason, Stage};
pub(crate) use text::{Bounded, Nested, Span, cut};
pub use text::{ERROR_MESSAGE_SIZE_MAX, ERROR_TEXT_SIZE_MAX};

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error: what happened, at which [`Stage`], on which host and address, after how long, against which [`Limit`].
///
/// One word wide and cheap to clone: one failed dial can fail many waiters. The text includes the texts of the causes, so
/// [`source`](StdError::source) returns only a cause that the text does not show; [`underlying`](Self::underlying) returns it
/// in any case.
#[derive(Clone)]
pub struct Error(Arc<ErrorData>);

#[derive(Clone)]
struct ErrorData {
    kind: ErrorKind,
    message: String,
    stage: Option<Stage>,
    host: Option<ServerAddress>,
    address: Option<Address>,
    elapsed: Option<Duration>,
    limit: Option<Limit>,
    labels: Vec<String>,
    causes: Vec<Error>,
    servers: Vec<ServerReason>,
    command: Option<CommandFailure>,
    /// Whether the command may have been executed, if that is known more exactly than from kind and stage.
    execution: Option<Execution>,
    /// Whether the command only reads.
    is_idempotent: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the stage at which the error happened.
    pub fn stage(&self) -> Option<Stage> {
        self.0.stage
    }

    /// Returns the host on which the error happened.
    pub fn host(&self) -> Option<&ServerAddress> {
        self.0.host.as_ref()
    }

    /// Returns the address at which the error happened.
    pub fn address(&self) -> Option<&Address> {
        self.0.address.as_ref()
    }

    /// Returns the time from the beginning of the stage to the error.
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.elapsed
    }

    /// Returns the limit that was exceeded.
    pub fn limit(&self) -> Option<Limit> {
        self.0.limit
    }

    /// Returns the error labels of the server and of the driver.
    pub fn labels(&self) -> &[String] {
        &self.0.labels
    }

    /// Returns whether the error has a label, such as `RetryableError`.
    pub fn has_label(&self, label: &str) -> bool {
        self.0.labels.iter().any(|own| own == label)
    }

    /// Returns the causes of a failure with several causes.
    pub fn causes(&self) -> &[Self] {
        &self.0.causes
    }

    /// Returns the reason per server why it was not selected, if this is a failed selection.
    pub fn servers(&self) -> &[ServerReason] {
        &self.0.servers
    }

    /// Returns the server's error reply, if the error is one.
    pub fn command(&self) -> Option<&CommandFailure> {
        self.0.command.as_ref()
    }

    /// Returns the numeric code of the server's error reply, if the error is one and has a code.
    pub fn code(&self) -> Option<i64> {
        self.0.command.as_ref().map(|failure| failure.code).filter(|code| *code != 0)
    }

    /// Returns the message alone, without stage, host and limit.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the underlying error, such as that of a socket, of TLS or of a failed authentication, for downcasting.
    ///
    /// Its text is mostly part of this error's text.
    pub fn underlying(&self) -> Option<&(dyn StdError + 'static)> {
        let own = self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static));
        own.or_else(|| self.0.causes.first().map(|cause| cause as &(dyn StdError + 'static)))
    }

    fn facts(&mut self) -> &mut ErrorData {
        Arc::make_mut(&mut self.0)
    }
}

impl StdError for Error {
    /// Returns the nearest cause that this error's text does not show, so that no text is printed twice.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let mut next = self.underlying();
        let text = next.map(|_| self.to_string()).unwrap_or_default();
        while let Some(cause) = next {
            let is_shown = match cause.downcast_ref::<Self>() {
                // Stage and host are shown once.
                Some(own) => text.contains(own.message()),
                None => text.contains(&cause.to_string()),
            };
            if !is_shown {
                return Some(cause);
            }
            next = cause.source();
        }
        None
    }
}

impl From<bson::error::Error> for Error {
    fn from(error: bson::error::Error) -> Self {
        Self::new(ErrorKind::Bson, error.to_string()).because_of_bson(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn text_contains_stage_host_elapsed_and_limit() {
        let host = ServerAddress::parse("db.example").expect("host");
        let error = Error::timeout(Stage::Hello, "connectTimeoutMS", Duration::from_millis(2000), Duration::from_millis(2003)).on(&host);
        assert_eq!(error.to_string(), "hello: db.example:27017: timed out after 2003 ms (limit connectTimeoutMS of 2000 ms)");
    }

    /// Every way in which errors are composed.
    fn representatives() -> Vec<Error> {
        let host = ServerAddress::parse("db.example").expect("host");
        let refused = || Error::io(Stage::Tcp, std::io::ErrorKind::ConnectionRefused.into());
        let wrapped = || std::io::Error::new(std::io::ErrorKind::InvalidData, Wrapped("outer", Some(Box::new(Wrapped("inner", None)))));
        let document = bson::rawdoc! { "ok": 0, "code": 18, "codeName": "AuthenticationFailed", "errmsg": "no such user" };
        let failure = crate::operation::command_error(&document).expect("an error reply");
        let login =
            Error::new(ErrorKind::Auth, format!("SCRAM-SHA-256 was refused: {}", failure.message())).at(Stage::Auth).because(failure);
        let not_utf8 = String::from_utf8(vec![0xff]).expect_err("not UTF-8");
        vec![
            refused().on(&host),
            Error::io(Stage::Read, wrapped()),
            Error::io(Stage::Read, std::io::Error::from_raw_os_error(104)),
            Error::new(ErrorKind::Tls, "the server refused the handshake").because(wrapped()),
            Error::new(ErrorKind::Tls, "outer").because(wrapped()),
            login.clone(),
            crate::pool::interrupted(&refused().on(&host)),
            crate::pool::interrupted(&login.on(&host)),
            Error::new(ErrorKind::PoolCleared, format!("the pool was cleared because of: {}", refused())).because(refused()),
            Error::new(ErrorKind::Tls, "no connection to any of 2 addresses").with_causes(vec![refused(), refused().on(&host)]),
            Error::new(ErrorKind::DnsRule, "the TXT record is not UTF-8").because(not_utf8),
            Error::from(bson::error::Error::from(std::io::Error::other("bytes"))),
            crate::dns::srv::seeds("a.b.c", &[crate::dns::SrvRecord { target: "a..b.c".into(), port: 1, ttl: Duration::ZERO }])
                .expect_err("no name"),
        ]
    }

    #[derive(Debug)]
    struct Wrapped(&'static str, Option<Box<Self>>);

    impl std::fmt::Display for Wrapped {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Wrapped {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_deref().map(|inner| inner as &(dyn StdError + 'static))
        }
    }

    #[test]
    fn no_source_repeats_the_text() {
        for error in representatives() {
            let mut parent = error.to_string();
            let mut next = error.source();
            while let Some(source) = next {
                let text = source.to_string();
                assert!(!parent.contains(&text), "{parent:?} has its source {text:?}");
                if let Some(own) = source.downcast_ref::<Error>() {
                    assert!(!parent.contains(own.message()), "{parent:?} has the message of its source {text:?}");
                }
                parent = text;
                next = source.source();
            }
        }
        let shown = Error::new(ErrorKind::Tls, "outer").because(Wrapped("outer", Some(Box::new(Wrapped("inner", None)))));
        assert_eq!(shown.source().map(ToString::to_string).as_deref(), Some("inner"));
        assert!(shown.underlying().is_some_and(|source| source.downcast_ref::<Wrapped>().is_some()));
    }

    #[test]
    fn messages_and_whole_texts_are_bounded() {
        let long = Error::new(ErrorKind::Command, "\u{fc}".repeat(ERROR_MESSAGE_SIZE_MAX));
        assert!(long.message().len() <= ERROR_MESSAGE_SIZE_MAX && long.message().ends_with('\u{2026}'), "{}", long.message().len());
        let host = ServerAddress::parse("db.example").expect("host");
        let reason = ServerReason { host, reason: Ineligible::Unknown, error: Some(long.clone()) };
        let many = Error::new(ErrorKind::ServerSelection, "no server").with_servers(vec![reason; 1000]).with_causes(vec![long; 1000]);
        for text in [many.to_string(), format!("{many:?}")] {
            assert!(text.len() <= ERROR_TEXT_SIZE_MAX + 1024, "{} bytes", text.len());
        }
        assert!(many.to_string().ends_with('\u{2026}'));
        let name = "k".repeat(1 << 20);
        let mut key = bson::serialize_to_vec(&bson::doc! { name: "text" }).expect("encoded");
        let last = key.len() - 3;
        key[last] = 0xff;
        let raw = bson::RawDocument::from_bytes(&key).expect("framed");
        let malformed = raw.iter().find_map(|element| element.err()).map(Error::from).expect("no UTF-8");
        let cause = format!("{:?}", malformed.underlying().expect("the cause"));
        assert!(cause.len() <= 3 * ERROR_MESSAGE_SIZE_MAX, "{} bytes", cause.len());
    }

    #[test]
    fn innermost_stage_wins() {
        assert_eq!(Error::new(ErrorKind::Closed, "x").at(Stage::Read).at(Stage::Tcp).stage(), Some(Stage::Read));
    }
}
