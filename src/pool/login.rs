//! The pause of a pool after a failed login.
//!
//! New connections to the server pause. The pause doubles with each further failure and ends with a successful login. During the
//! pause, check-outs that need a new connection fail at once with the error of the last login. Credentials change only with the
//! client, and so with the pool. Does not decide what a failed login means for the server's description: `topology::fault` does.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Stage};

/// The pause after the first failed login: short, because the user may be created a moment later.
pub const LOGIN_PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause after failed logins: a server receives at most a dozen logins a minute.
pub const LOGIN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The failed logins of a server since the last successful one.
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
    /// Takes the failure of a connection whose opening began at `begun`. Counts only failed logins.
    pub(super) fn handle_failed(&mut self, error: &Error, begun: Instant, now: Instant) {
        if !is_failed_login(error) {
            return;
        }
        let pause = match &self.refused {
            // It was running when the pause began, and does not prolong the pause.
            Some(refused) if begun < refused.until => return,
            Some(refused) => (refused.pause * 2).min(LOGIN_PAUSE_MAX),
            None => LOGIN_PAUSE_MIN,
        };
        self.refused = Some(Box::new(Refused { error: error.clone(), pause, until: now + pause }));
    }

    /// Takes a successful login.
    pub(super) fn handle_succeeded(&mut self) {
        self.refused = None;
    }

    /// Returns the error of the last login, during a pause.
    pub(super) fn refusal(&self, now: Instant) -> Option<&Error> {
        self.refused.as_ref().filter(|refused| now < refused.until).map(|refused| &refused.error)
    }

    /// Returns the end of the pause, during a pause.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.refused.as_ref().map(|refused| refused.until).filter(|until| now < *until)
    }
}

/// Returns whether a login has failed in a way that is likely to repeat: refused, answered with an invalid reply, or cut off. A server
/// that asks for many iterations and then closes costs as much as one that refuses.
fn is_failed_login(error: &Error) -> bool {
    is_refused_login(error)
        || (error.stage() == Some(Stage::Auth) && matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Closed | ErrorKind::Io(_)))
}

/// Returns whether a login was refused, by the server or because of the server's reply: another attempt would have the same
/// outcome.
pub(super) fn is_refused_login(error: &Error) -> bool {
    error.stage() == Some(Stage::Auth) && matches!(error.kind(), ErrorKind::Auth | ErrorKind::InvalidOption | ErrorKind::Unsupported)
}
