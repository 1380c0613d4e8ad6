//! The SCRAM conversation, in which both sides prove knowledge of a password.
//!
//! The messages of RFC 5802 and RFC 7677 with MongoDB's rules (auth, "SCRAM-SHA-1", "SCRAM-SHA-256"); each step consumes
//! itself: [`ClientFirst`] → [`ServerFirst`] → [`ClientFinal`]. Keys and their cache are in [`keys`]. Does not decide which
//! commands carry the messages (`handshake`).

pub mod keys;

use std::fmt;
use std::num::NonZeroU32;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use zeroize::Zeroizing;

pub use keys::{Derivation, ScramHash, ScramKeys};
#[cfg(feature = "internals")]
pub use keys::{Deriving, ScramKeyCache};

use super::Secret;
use crate::error::{Error, ErrorKind, LimitValue, Stage};

/// The minimum number of iterations that a server may request: fewer make the exchange cheap to crack.
pub const ITERATIONS_MIN: u32 = 4096;

/// The maximum number of iterations that a server may request: 60 times a server's default, about one second of processor time.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// The longest message of a server, in bytes.
pub const MESSAGE_SIZE_MAX: usize = 4096;

/// The size of the client nonce's entropy, in bytes.
pub const NONCE_SIZE: usize = 24;

/// The GS2 header: no channel binding, no authorisation identity.
const GS2_HEADER: &str = "n,,";

/// The prefix of the proof.
const PROOF_KEY: &str = ",p=";

/// The errors of RFC 5802 for a server's final message.
const SERVER_ERRORS: [&str; 12] = [
    "invalid-encoding",
    "extensions-not-supported",
    "invalid-proof",
    "channel-bindings-dont-match",
    "server-does-support-channel-binding",
    "channel-binding-not-supported",
    "unsupported-channel-binding-type",
    "unknown-user",
    "invalid-username-encoding",
    "no-resources",
    "other-error",
    "authentication-failed",
];

/// The state after the client's first message, waiting for the server's.
pub struct ClientFirst {
    hash: ScramHash,
    user: String,
    password: Secret,
    nonce: String,
}

/// The state after the server's first message, waiting for the derived keys.
pub struct ServerFirst {
    hash: ScramHash,
    without_proof: String,
    auth_message: String,
}

/// The state after the client's proof, waiting for the server's signature.
pub struct ClientFinal {
    keys: ScramKeys,
    auth_message: String,
}

impl ClientFirst {
    /// Starts an exchange, with a nonce made of entropy that was never used before.
    pub fn new(hash: ScramHash, user: &str, password: &Secret, entropy: [u8; NONCE_SIZE]) -> Self {
        Self::with_nonce(hash, user, password, BASE64_STANDARD.encode(entropy))
    }

    /// Starts an exchange with a nonce of printable characters other than a comma.
    pub fn with_nonce(hash: ScramHash, user: &str, password: &Secret, nonce: String) -> Self {
        Self { hash, user: user.to_owned(), password: password.clone(), nonce }
    }

    /// Returns the client's first message.
    pub fn message(&self) -> String {
        format!("{GS2_HEADER}{}", self.bare())
    }

    /// Handles the server's first message, and returns the derivation to run.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for an invalid message; [`ErrorKind::Auth`] if the nonce does not continue the client's or the
    /// number of iterations is outside [`ITERATIONS_MIN`] to [`ITERATIONS_MAX`]; [`ErrorKind::Unsupported`] for a mandatory
    /// extension; [`ErrorKind::InvalidOption`] for a password that SASLprep prohibits.
    pub fn handle_server_first(self, message: &[u8]) -> Result<(Derivation, ServerFirst), Error> {
        let text = readable(message)?;
        let mut parts = text.split(',');
        let first = parts.next();
        if attribute(first, 'm').is_some() {
            return Err(fault(ErrorKind::Unsupported, "the server's first message requires an extension"));
        }
        if let Some(error) = attribute(first, 'e') {
            return Err(server_error(error));
        }
        let nonce = attribute(first, 'r').ok_or_else(|| malformed("first message has no nonce"))?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(fault(ErrorKind::Auth, "the server's nonce does not continue the client's"));
        }
        let salt = attribute(parts.next(), 's').ok_or_else(|| malformed("first message has no salt"))?;
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| malformed("salt is not base64"))?;
        if salt.is_empty() {
            return Err(malformed("salt is empty"));
        }
        let iterations = iterations(attribute(parts.next(), 'i').ok_or_else(|| malformed("first message has no iteration count"))?)?;
        let without_proof = format!("c={},r={nonce}", BASE64_STANDARD.encode(GS2_HEADER));
        let auth_message = format!("{},{text},{without_proof}", self.bare());
        let derivation = Derivation::new(self.hash, &self.user, &self.password, salt, iterations)?;
        Ok((derivation, ServerFirst { hash: self.hash, without_proof, auth_message }))
    }

    fn bare(&self) -> String {
        format!("n={},r={}", self.user.replace('=', "=3D").replace(',', "=2C"), self.nonce)
    }
}

impl ServerFirst {
    /// Handles the derived keys, and returns the client's final message.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] for keys of another mechanism.
    pub fn handle_keys(self, keys: ScramKeys) -> Result<(Zeroizing<String>, ClientFinal), Error> {
        if keys.hash() != self.hash {
            return Err(fault(ErrorKind::Internal, "the keys belong to another mechanism"));
        }
        let proof = Zeroizing::new(BASE64_STANDARD.encode(keys.proof(self.auth_message.as_bytes())));
        let mut message = Zeroizing::new(String::with_capacity(self.without_proof.len() + PROOF_KEY.len() + proof.len()));
        for part in [&self.without_proof, PROOF_KEY, &proof] {
            message.push_str(part);
        }
        Ok((message, ClientFinal { keys, auth_message: self.auth_message }))
    }
}

impl ClientFinal {
    /// Handles the server's final message, and checks in constant time that the server knows the password, too.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`] for a wrong signature or an error from the server; [`ErrorKind::Protocol`] for an invalid message.
    pub fn handle_server_final(self, message: &[u8]) -> Result<(), Error> {
        let first = readable(message)?.split(',').next();
        if let Some(error) = attribute(first, 'e') {
            return Err(server_error(error));
        }
        let signature = attribute(first, 'v').ok_or_else(|| malformed("final message has no signature"))?;
        let signature = BASE64_STANDARD.decode(signature).map_err(|_| malformed("signature is not base64"))?;
        if self.keys.signed(self.auth_message.as_bytes(), &signature) {
            Ok(())
        } else {
            Err(fault(ErrorKind::Auth, "the server's signature is wrong: it does not know the password"))
        }
    }
}

impl fmt::Debug for ClientFirst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFirst").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerFirst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerFirst").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientFinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFinal").field("hash", &self.keys.hash()).finish_non_exhaustive()
    }
}

fn readable(message: &[u8]) -> Result<&str, Error> {
    if message.len() > MESSAGE_SIZE_MAX {
        let limit = u64::try_from(MESSAGE_SIZE_MAX).unwrap_or(u64::MAX);
        return Err(malformed("message is too long").against("MESSAGE_SIZE_MAX", LimitValue::Bytes(limit)));
    }
    std::str::from_utf8(message).map_err(|_| malformed("message is not UTF-8"))
}

/// Returns the value of an attribute, if the part has that name.
fn attribute(part: Option<&str>, name: char) -> Option<&str> {
    part?.strip_prefix(name)?.strip_prefix('=')
}

fn iterations(text: &str) -> Result<NonZeroU32, Error> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed("iteration count is not a number"));
    }
    let count = text.parse::<u64>().unwrap_or(u64::MAX);
    if count < u64::from(ITERATIONS_MIN) {
        return Err(fault(ErrorKind::Auth, format!("the server requests only {count} iterations, which are too easy to crack"))
            .against("ITERATIONS_MIN", LimitValue::Count(ITERATIONS_MIN.into())));
    }
    u32::try_from(count).ok().filter(|count| *count <= ITERATIONS_MAX).and_then(NonZeroU32::new).ok_or_else(|| {
        fault(ErrorKind::Auth, "the server requests too many iterations")
            .against("ITERATIONS_MAX", LimitValue::Count(ITERATIONS_MAX.into()))
    })
}

fn server_error(given: &str) -> Error {
    // Only known error names are shown: nothing else of the message gets into the text.
    let name = SERVER_ERRORS.into_iter().find(|name| *name == given).unwrap_or("an error of its own");
    fault(ErrorKind::Auth, format!("the server ended the exchange: {name}"))
}

fn malformed(what: &str) -> Error {
    fault(ErrorKind::Protocol, format!("malformed SCRAM message of the server: {what}"))
}

fn fault(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, message).at(Stage::Auth)
}
