//! The detection of missing local resources in socket errors.
//!
//! Such an error says nothing about the server: it has a kind of its own and no label, and does not change the server's state
//! (`topology::fault`).

use std::io;

use super::tasks::runtime_ended;
use crate::error::{Error, ErrorKind, Stage};

/// Returns the error of a socket: of the kind [`LocalResources`](ErrorKind::LocalResources) if this process or machine lacks a
/// resource.
///
/// Of the kind [`Shutdown`](ErrorKind::Shutdown) if the socket's runtime has ended.
pub(crate) fn socket_error(stage: Stage, error: io::Error) -> Error {
    if is_of_ended_runtime(&error) {
        return runtime_ended().at(stage).because(error);
    }
    match shortage(&error) {
        Some(advice) => Error::new(ErrorKind::LocalResources, format!("{error}: {advice}")).at(stage).because(error),
        None => Error::io(stage, error),
    }
}

/// Returns whether the socket's runtime has ended; tokio reports that in the text only.
fn is_of_ended_runtime(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other
        && error.raw_os_error().is_none()
        && error.to_string().contains("Tokio 1.x context was found, but it is being shutdown")
}

/// Returns the missing resource, and a remedy.
pub(crate) fn shortage(error: &io::Error) -> Option<&'static str> {
    if error.kind() == io::ErrorKind::OutOfMemory {
        return Some("this machine has no memory for a socket");
    }
    // A socket that is not bound gets this error only if no local port or address is left for it.
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        return Some("this machine has no free port or no address to connect from");
    }
    let code = error.raw_os_error()?;
    if code == PROCESS_FILES {
        Some("this process has no file descriptors left; raise its limit (ulimit -n) or lower maxPoolSize")
    } else if code == SYSTEM_FILES {
        Some("this machine has no file descriptors left")
    } else if code == SOCKET_BUFFERS {
        Some("this machine has no buffers left for sockets")
    } else {
        None
    }
}

/// EMFILE.
#[cfg(not(windows))]
const PROCESS_FILES: i32 = 24;
/// ENFILE.
#[cfg(not(windows))]
const SYSTEM_FILES: i32 = 23;
/// ENOBUFS.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SOCKET_BUFFERS: i32 = 105;
/// ENOBUFS.
#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
const SOCKET_BUFFERS: i32 = 55;
/// WSAEMFILE.
#[cfg(windows)]
const PROCESS_FILES: i32 = 10024;
/// ERROR_TOO_MANY_OPEN_FILES.
#[cfg(windows)]
const SYSTEM_FILES: i32 = 4;
/// WSAENOBUFS.
#[cfg(windows)]
const SOCKET_BUFFERS: i32 = 10055;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::label_overload;

    #[test]
    fn lack_of_local_resources_is_no_fault_of_the_server() {
        let local = [io::Error::from_raw_os_error(PROCESS_FILES), io::Error::from_raw_os_error(SYSTEM_FILES)];
        let local = local.into_iter().chain([io::Error::from_raw_os_error(SOCKET_BUFFERS), io::ErrorKind::OutOfMemory.into()]);
        for error in local.chain([io::ErrorKind::AddrNotAvailable.into()]) {
            let error = label_overload(socket_error(Stage::Tcp, error));
            assert_eq!((error.kind(), error.is_network()), (ErrorKind::LocalResources, false), "{error}");
            assert!(error.labels().is_empty(), "{error:?}");
        }
        for remote in [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset, io::ErrorKind::NetworkUnreachable] {
            let error = label_overload(socket_error(Stage::Tcp, remote.into()));
            assert!(error.is_network() && error.has_label("SystemOverloadedError"), "{error:?}");
        }
    }
}
