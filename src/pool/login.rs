//! How long is a server left alone after a login has failed there?
//!
//! A pause for new connections to that server, which doubles with each further failure and ends with a login that succeeds.
//! Callers that need a new connection meanwhile are told at once why the last login has failed. What a failed login means
//! for the server's description is decided in `topology::fault`. Credentials change only with the client, and so with the
//! pool.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Stage};

/// The pause after the first failed login: a user who is made a moment later does not wait long.
pub const LOGIN_PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause after failed logins: a server is asked a dozen times a minute at the most.
pub const LOGIN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The failed logins of a server since the last one that succeeded.
#[derive(Debug, Default)]
pub(super) struct Logins {
    refused: Option<Box<Refused>>,
}

#[derive(Debug)]
struct Refused {
    error: Error,
    pause: Duration,
    until: Instant,
}

impl Logins {
    /// A connection that was begun at this moment could not be opened; only a failed login counts.
    pub(super) fn handle_failed(&mut self, error: &Error, begun: Instant, now: Instant) {
        if !is_failed_login(error) {
            return;
        }
        let pause = match &self.refused {
            // It was under way when the pause began, and is no answer to the pause.
            Some(refused) if begun < refused.until => return,
            Some(refused) => (refused.pause * 2).min(LOGIN_PAUSE_MAX),
            None => LOGIN_PAUSE_MIN,
        };
        self.refused = Some(Box::new(Refused { error: error.clone(), pause, until: now + pause }));
    }

    /// A login has succeeded.
    pub(super) fn handle_succeeded(&mut self) {
        self.refused = None;
    }

    /// Returns why no connection is opened now, if there is a pause.
    pub(super) fn refusal(&self, now: Instant) -> Option<&Error> {
        self.refused.as_ref().filter(|refused| now < refused.until).map(|refused| &refused.error)
    }

    /// Returns when the pause ends, if there is one.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.refused.as_ref().map(|refused| refused.until).filter(|until| now < *until)
    }
}

/// Tells whether a login has failed in a way that is likely to repeat: refused, answered with what is no answer, or cut off. A server
/// that asks for many iterations and closes then costs as much as one that refuses.
fn is_failed_login(error: &Error) -> bool {
    is_refused_login(error)
        || (error.stage() == Some(Stage::Auth) && matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Closed | ErrorKind::Io(_)))
}

/// Tells whether an error says that a login was refused, by the server or for what it answered: trying again at once would
/// have the same outcome.
pub(super) fn is_refused_login(error: &Error) -> bool {
    error.stage() == Some(Stage::Auth) && matches!(error.kind(), ErrorKind::Auth | ErrorKind::InvalidOption | ErrorKind::Unsupported)
}
