//! The PLAIN mechanism.
//!
//! The payload of RFC 4616, without an authorisation identity (auth, "PLAIN"). It contains the password in plain text: only TLS
//! protects it.

use zeroize::Zeroizing;

use super::Secret;
use crate::error::{Error, ErrorKind, Stage};

/// Builds the payload, `\0user\0password`.
///
/// # Errors
/// [`ErrorKind::InvalidOption`] if the user name or the password contains a NUL, which the payload can't express.
pub(crate) fn payload(user: &str, password: &Secret) -> Result<Zeroizing<Vec<u8>>, Error> {
    let password = password.reveal();
    for (what, text) in [("user name", user), ("password", password)] {
        if text.contains('\0') {
            return Err(Error::new(ErrorKind::InvalidOption, format!("PLAIN does not allow a NUL in the {what}")).at(Stage::Auth));
        }
    }
    let mut payload = Zeroizing::new(Vec::with_capacity(user.len() + password.len() + 2));
    payload.push(0);
    payload.extend_from_slice(user.as_bytes());
    payload.push(0);
    payload.extend_from_slice(password.as_bytes());
    Ok(payload)
}
