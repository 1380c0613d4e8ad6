//! The error type of the crate: kind, stage, host, elapsed time, limit, causes.
//!
//! Kinds are facts. Does not decide whether a fault marks a server Unknown (`topology::fault`), nor whether a command is
//! retried.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use crate::host::{Address, ServerAddress};

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
    /// Creates an error of a kind with a message, which is cut to [`ERROR_MESSAGE_SIZE_MAX`] bytes.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(ErrorData {
            kind,
            message: cut(message.into(), ERROR_MESSAGE_SIZE_MAX),
            stage: None,
            host: None,
            address: None,
            elapsed: None,
            limit: None,
            labels: Vec::new(),
            causes: Vec::new(),
            servers: Vec::new(),
            command: None,
            execution: None,
            is_idempotent: false,
            source: None,
        }))
    }

    /// Creates the error of an expired timer.
    pub fn timeout(stage: Stage, timer: &'static str, limit: Duration, elapsed: Duration) -> Self {
        Self::new(ErrorKind::Timeout, format!("timed out after {}", Span(elapsed)))
            .at(stage)
            .after(elapsed)
            .against(timer, LimitValue::Time(limit))
    }

    /// Creates the error of a socket.
    pub fn io(stage: Stage, error: std::io::Error) -> Self {
        let kind = if error.kind() == std::io::ErrorKind::UnexpectedEof { ErrorKind::Closed } else { ErrorKind::Io(error.kind()) };
        Self::new(kind, error.to_string()).at(stage).because(error)
    }

    /// Creates the error of a server's error reply.
    pub fn command_failure(failure: CommandFailure) -> Self {
        let name = if failure.code_name.is_empty() { String::new() } else { format!(" {}", failure.code_name) };
        let mut error = Self::new(ErrorKind::Command, format!("{} (code {}{name})", failure.message, failure.code)).at(Stage::Server);
        error.facts().command = Some(failure);
        error
    }

    /// Sets the stage, unless it is set: the innermost layer knows it best.
    #[must_use]
    pub fn at(mut self, stage: Stage) -> Self {
        self.facts().stage.get_or_insert(stage);
        self
    }

    /// Replaces the stage: a read of the socket may be part of the handshake.
    #[must_use]
    pub(crate) fn restage(mut self, stage: Stage) -> Self {
        self.facts().stage = Some(stage);
        self
    }

    /// Sets the host, unless it is set.
    #[must_use]
    pub fn on(mut self, host: &ServerAddress) -> Self {
        self.facts().host.get_or_insert_with(|| host.clone());
        self
    }

    /// Sets the address, unless it is set.
    #[must_use]
    pub fn with_address(mut self, address: &Address) -> Self {
        self.facts().address.get_or_insert_with(|| address.clone());
        self
    }

    /// Sets the elapsed time, unless it is set.
    #[must_use]
    pub fn after(mut self, elapsed: Duration) -> Self {
        self.facts().elapsed.get_or_insert(elapsed);
        self
    }

    /// Sets the limit, unless it is set.
    #[must_use]
    pub fn against(mut self, name: &'static str, value: LimitValue) -> Self {
        self.facts().limit.get_or_insert(Limit { name, value });
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.facts().source = Some(Arc::new(source));
        self
    }

    /// Sets the cause to a BSON error; its key and message are cut.
    #[must_use]
    pub(crate) fn because_of_bson(self, mut source: bson::error::Error) -> Self {
        source.key = source.key.map(|key| cut(key, ERROR_MESSAGE_SIZE_MAX));
        source.message = source.message.map(|message| cut(message, ERROR_MESSAGE_SIZE_MAX));
        self.because(source)
    }

    /// Sets the causes of a failure with several causes, such as one per address of a name.
    #[must_use]
    pub fn with_causes(mut self, causes: Vec<Self>) -> Self {
        self.facts().causes = causes;
        self
    }

    /// Sets the per-server reasons of a failed selection.
    #[must_use]
    pub fn with_servers(mut self, servers: Vec<ServerReason>) -> Self {
        self.facts().servers = servers;
        self
    }

    /// Appends advice for the caller to the message.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        let message = &mut self.facts().message;
        message.push_str("; ");
        message.push_str(hint);
        self
    }

    /// Adds a label, unless the error has it.
    #[must_use]
    pub fn with_label(mut self, label: &str) -> Self {
        if !self.has_label(label) {
            self.facts().labels.push(label.to_owned());
        }
        self
    }

    /// Returns the error of a sensitive command without the server's message and reply; code, code name and labels remain.
    pub(crate) fn redacted(&self) -> Self {
        let mut error = self.clone();
        if let Some(failure) = self.command() {
            let facts = error.facts();
            facts.message = format!("refused (code {} {})", failure.code, failure.code_name);
            facts.command = Some(CommandFailure { message: String::new(), reply: bson::RawDocumentBuf::new(), ..failure.clone() });
            facts.source = None;
        }
        error
    }

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

    /// Returns the same error with text appended to its message.
    #[must_use]
    pub(crate) fn adding(mut self, text: &str) -> Self {
        let facts = self.facts();
        facts.message = cut(format!("{}: {text}", facts.message), ERROR_MESSAGE_SIZE_MAX);
        self
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
    fn text_says_stage_host_elapsed_and_limit() {
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
            Error::new(ErrorKind::Tls, "none of 2 addresses could be connected to").with_causes(vec![refused(), refused().on(&host)]),
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
    fn no_source_repeats_what_the_text_says() {
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
