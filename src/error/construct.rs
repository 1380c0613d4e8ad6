//! Constructors of errors: kind and message first, then stage, host, limit and cause.
//!
//! They are private to the crate; the feature `internals` opens them to the project's own tests. Which error a fault becomes is
//! not decided here.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use super::text::{ERROR_MESSAGE_SIZE_MAX, Span, cut};
use super::{CommandFailure, Error, ErrorData, ErrorKind, Limit, LimitValue, ServerReason, Stage};
use crate::address::{Address, ServerAddress};

/// Declares constructors that are public with the feature `internals`, and private to the crate without it.
macro_rules! constructors {
    ($($(#[$attribute:meta])* fn $name:ident $arguments:tt -> Self $body:block)*) => {
        $(
            $(#[$attribute])*
            #[cfg(feature = "internals")]
            pub fn $name $arguments -> Self $body

            $(#[$attribute])*
            #[cfg(not(feature = "internals"))]
            pub(crate) fn $name $arguments -> Self $body
        )*
    };
}

impl Error {
    constructors! {
        /// Creates an error of a kind with a message, which is cut to [`ERROR_MESSAGE_SIZE_MAX`] bytes.
        fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
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
        fn timeout(stage: Stage, timer: &'static str, limit: Duration, elapsed: Duration) -> Self {
            Self::new(ErrorKind::Timeout, format!("timed out after {}", Span(elapsed)))
                .at(stage)
                .after(elapsed)
                .against(timer, LimitValue::Time(limit))
        }

        /// Creates the error of a socket.
        fn io(stage: Stage, error: std::io::Error) -> Self {
            let kind = if error.kind() == std::io::ErrorKind::UnexpectedEof { ErrorKind::Closed } else { ErrorKind::Io(error.kind()) };
            Self::new(kind, error.to_string()).at(stage).because(error)
        }

        /// Creates the error of a server's error reply.
        fn command_failure(failure: CommandFailure) -> Self {
            let name = if failure.code_name.is_empty() { String::new() } else { format!(" {}", failure.code_name) };
            let mut error = Self::new(ErrorKind::Command, format!("{} (code {}{name})", failure.message, failure.code)).at(Stage::Server);
            error.facts().command = Some(failure);
            error
        }

        /// Sets the stage, unless it is set: the innermost layer knows it best.
        #[must_use]
        fn at(mut self, stage: Stage) -> Self {
            self.facts().stage.get_or_insert(stage);
            self
        }

        /// Sets the host, unless it is set.
        #[must_use]
        fn on(mut self, host: &ServerAddress) -> Self {
            self.facts().host.get_or_insert_with(|| host.clone());
            self
        }

        /// Sets the address, unless it is set.
        #[must_use]
        fn with_address(mut self, address: &Address) -> Self {
            self.facts().address.get_or_insert_with(|| address.clone());
            self
        }

        /// Sets the elapsed time, unless it is set.
        #[must_use]
        fn after(mut self, elapsed: Duration) -> Self {
            self.facts().elapsed.get_or_insert(elapsed);
            self
        }

        /// Sets the limit, unless it is set.
        #[must_use]
        fn against(mut self, name: &'static str, value: LimitValue) -> Self {
            self.facts().limit.get_or_insert(Limit { name, value });
            self
        }

        /// Sets the cause.
        #[must_use]
        fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
            self.facts().source = Some(Arc::new(source));
            self
        }

        /// Sets the causes of a failure with several causes, such as one per address of a name.
        #[must_use]
        fn with_causes(mut self, causes: Vec<Self>) -> Self {
            self.facts().causes = causes;
            self
        }

        /// Sets the per-server reasons of a failed selection.
        #[must_use]
        fn with_servers(mut self, servers: Vec<ServerReason>) -> Self {
            self.facts().servers = servers;
            self
        }

        /// Adds a label, unless the error has it.
        #[must_use]
        fn with_label(mut self, label: &str) -> Self {
            if !self.has_label(label) {
                self.facts().labels.push(label.to_owned());
            }
            self
        }
    }

    /// Replaces the stage: a read of the socket may be part of the handshake.
    #[must_use]
    pub(crate) fn restage(mut self, stage: Stage) -> Self {
        self.facts().stage = Some(stage);
        self
    }

    /// Sets the cause to a BSON error; its key and message are cut.
    #[must_use]
    pub(crate) fn because_of_bson(self, mut source: bson::error::Error) -> Self {
        source.key = source.key.map(|key| cut(key, ERROR_MESSAGE_SIZE_MAX));
        source.message = source.message.map(|message| cut(message, ERROR_MESSAGE_SIZE_MAX));
        self.because(source)
    }

    /// Appends advice for the caller to the message.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        let message = &mut self.facts().message;
        message.push_str("; ");
        message.push_str(hint);
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

    /// Returns the same error with text appended to its message.
    #[must_use]
    pub(crate) fn adding(mut self, text: &str) -> Self {
        let facts = self.facts();
        facts.message = cut(format!("{}: {text}", facts.message), ERROR_MESSAGE_SIZE_MAX);
        self
    }
}
