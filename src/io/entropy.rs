//! The operating system's random bytes.

use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Error, ErrorKind};

/// Returns random bytes of the operating system.
///
/// # Errors
/// [`ErrorKind::Internal`] if the system has none.
pub(crate) fn entropy<const SIZE: usize>() -> Result<[u8; SIZE], Error> {
    let mut bytes = [0; SIZE];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Error::new(ErrorKind::Internal, "the operating system provides no random bytes")),
    }
}
