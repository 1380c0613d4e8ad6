//! How does a password become keys, and how long are they kept?
//!
//! The derivation (PBKDF2) is the expensive part of SCRAM, on purpose. It is a value of its own, so that the shell can
//! run it where it keeps nobody waiting, and its outcome is cached without the password.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use crate::auth::{Mechanism, Secret};
use crate::error::{Error, ErrorKind, Stage};

/// How many derived keys a cache holds; the oldest makes room.
pub const KEYS_MAX: usize = 32;

/// Names the hash that a SCRAM mechanism is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramHash {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// Is a derivation that is to be run: much processor time, no input or output.
#[derive(Clone)]
pub struct Derivation {
    hash: ScramHash,
    user: String,
    /// In the form that the mechanism wants: digested for SHA-1, prepared for SHA-256.
    password: Secret,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

/// Holds the client's and the server's key: shared, never printed, wiped when the last holder drops them.
#[derive(Clone)]
pub struct ScramKeys(Arc<Keys>);

struct Keys {
    hash: ScramHash,
    client: Zeroizing<Vec<u8>>,
    server: Zeroizing<Vec<u8>>,
}

/// Identifies a derivation by all that goes into it; the password can't be read from it.
#[derive(Clone, PartialEq, Eq)]
pub struct CacheKey(Zeroizing<[u8; 32]>);

/// Remembers the keys of up to [`KEYS_MAX`] derivations.
#[derive(Clone, Debug, Default)]
pub struct ScramKeyCache {
    entries: VecDeque<(CacheKey, ScramKeys)>,
}

impl ScramHash {
    /// Returns the mechanism that is built on it.
    pub fn mechanism(self) -> Mechanism {
        match self {
            Self::Sha1 => Mechanism::ScramSha1,
            Self::Sha256 => Mechanism::ScramSha256,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        }
    }
}

impl Derivation {
    /// Prepares a derivation.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] if SASLprep forbids the password, which only SCRAM-SHA-256 asks.
    pub(super) fn new(hash: ScramHash, user: &str, password: &Secret, salt: Vec<u8>, iterations: NonZeroU32) -> Result<Self, Error> {
        let password = prepare(hash, user, password)?;
        Ok(Self { hash, user: user.to_owned(), password, salt, iterations })
    }

    /// Runs it: some milliseconds of processor time for each few thousand iterations.
    pub fn run(&self) -> ScramKeys {
        let mut salted = Zeroizing::new(vec![0_u8; self.hash.digest().output_len()]);
        pbkdf2::derive(self.hash.pbkdf2(), self.iterations, &self.salt, self.password.reveal().as_bytes(), &mut salted);
        let salted = hmac::Key::new(self.hash.hmac(), &salted);
        let key = |name: &[u8]| Zeroizing::new(hmac::sign(&salted, name).as_ref().to_vec());
        ScramKeys(Arc::new(Keys { hash: self.hash, client: key(b"Client Key"), server: key(b"Server Key") }))
    }

    /// Returns what the outcome may be remembered by: a SHA-256 over mechanism, salt, iterations, user and password.
    pub fn cache_key(&self) -> CacheKey {
        let iterations = self.iterations.get().to_be_bytes();
        let parts: [&[u8]; 5] =
            [self.mechanism().name().as_bytes(), &self.salt, &iterations, self.user.as_bytes(), self.password.reveal().as_bytes()];
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            // With its length before it, no part can pass for a piece of its neighbour.
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        let mut key = Zeroizing::new([0_u8; 32]);
        key.copy_from_slice(context.finish().as_ref());
        CacheKey(key)
    }

    /// Returns the mechanism it is for.
    pub fn mechanism(&self) -> Mechanism {
        self.hash.mechanism()
    }

    /// Returns how many iterations it takes.
    pub fn iterations(&self) -> u32 {
        self.iterations.get()
    }
}

impl ScramKeys {
    /// Returns the hash that they were derived with.
    pub fn hash(&self) -> ScramHash {
        self.0.hash
    }

    /// Returns the client's proof over an exchange.
    pub(super) fn proof(&self, auth_message: &[u8]) -> Vec<u8> {
        let hash = self.0.hash;
        let stored = digest::digest(hash.digest(), &self.0.client);
        let signature = hmac::sign(&hmac::Key::new(hash.hmac(), stored.as_ref()), auth_message);
        self.0.client.iter().zip(signature.as_ref()).map(|(key, signature)| key ^ signature).collect()
    }

    /// Tells, in constant time, whether a signature over an exchange is the server's.
    pub(super) fn signed(&self, auth_message: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&hmac::Key::new(self.0.hash.hmac(), &self.0.server), auth_message, signature).is_ok()
    }
}

impl ScramKeyCache {
    /// Makes an empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the keys of a derivation that was run before.
    pub fn get(&self, derivation: &Derivation) -> Option<ScramKeys> {
        let key = derivation.cache_key();
        self.entries.iter().find(|(own, _)| *own == key).map(|(_, keys)| keys.clone())
    }

    /// Remembers the keys of a derivation; the oldest entry makes room.
    pub fn put(&mut self, derivation: &Derivation, keys: ScramKeys) {
        let key = derivation.cache_key();
        self.entries.retain(|(own, _)| *own != key);
        while self.entries.len() >= KEYS_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back((key, keys));
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derivation").field("hash", &self.hash).field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(***)")
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey(***)")
    }
}

/// Brings a password into the form that the mechanism wants (auth, "SCRAM-SHA-1", "SCRAM-SHA-256").
fn prepare(hash: ScramHash, user: &str, password: &Secret) -> Result<Secret, Error> {
    match hash {
        ScramHash::Sha1 => {
            let mut text = Zeroizing::new(String::with_capacity(user.len() + password.reveal().len() + 7));
            for part in [user, ":mongo:", password.reveal()] {
                text.push_str(part);
            }
            Ok(Secret::new(format!("{:x}", md5::compute(text.as_bytes()))))
        }
        // The cause names characters of the password, and is left out for that.
        ScramHash::Sha256 => stringprep::saslprep(password.reveal()).map(|prepared| Secret::new(prepared.into_owned())).map_err(|_| {
            Error::new(ErrorKind::InvalidOption, "the password has characters that SCRAM-SHA-256 can't carry (SASLprep)").at(Stage::Auth)
        }),
    }
}
