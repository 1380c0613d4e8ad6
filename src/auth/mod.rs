//! The authentication mechanisms and their payloads.
//!
//! The conversations of the mechanisms are pure: each step consumes itself and returns the next. Does not decide which
//! mechanism a connection uses, and when (`handshake`).

pub(crate) mod plain;
mod saslprep;
pub mod scram;
pub(crate) mod x509;

pub use crate::options::{Credential, Mechanism, Secret, SecretDocument};

#[cfg(test)]
mod tests;
