//! The errors of a client that can't run an operation.

use crate::error::{Error, ErrorKind, Stage};

pub(super) fn shutting_down() -> Error {
    Error::new(ErrorKind::Shutdown, "the client is shutting down, and takes no new calls").at(Stage::Selection)
}

pub(super) fn shut_down() -> Error {
    Error::new(ErrorKind::Shutdown, "the client has been shut down").at(Stage::Selection)
}

pub(super) fn no_runtime() -> Error {
    Error::new(ErrorKind::Shutdown, "no tokio runtime is running").at(Stage::Selection)
}
