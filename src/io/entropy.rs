//! Where does randomness come from?

use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Error, ErrorKind};

/// Draws bytes from the operating system.
///
/// # Errors
/// [`ErrorKind::Internal`] if it has none.
pub(crate) fn entropy<const SIZE: usize>() -> Result<[u8; SIZE], Error> {
    let mut bytes = [0; SIZE];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Error::new(ErrorKind::Internal, "the operating system has no randomness")),
    }
}
