//! The SCRAM keys of a password: their derivation and their cache.
//!
//! The derivation (PBKDF2) is expensive on purpose. It advances in slices, so that the shell can run it beside other work and
//! stop it; its result is cached without the password.

use std::collections::VecDeque;
use std::fmt;
use std::fmt::Write as _;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::auth::{Mechanism, Secret, saslprep};
use crate::error::{Error, ErrorKind, Stage};

/// The maximum number of cached keys; the oldest are evicted.
pub const KEYS_MAX: usize = 32;

/// The number of hexadecimal digits of an MD5 digest.
const MD5_DIGITS: usize = 32;

/// The hash function of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramHash {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// A derivation that has not been started: much processor time, no input or output.
#[derive(Clone)]
pub struct Derivation {
    hash: ScramHash,
    user: String,
    /// In the form that the mechanism requires: digested for SHA-1, prepared for SHA-256.
    password: Secret,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

/// A derivation in progress. Its intermediate results are overwritten when it is dropped.
pub struct Deriving {
    hash: ScramHash,
    key: hmac::Key,
    /// The last iteration's result.
    link: hmac::Tag,
    /// The exclusive-or of all results so far.
    salted: Zeroizing<Vec<u8>>,
    left: u32,
}

/// The client key and the server key: shared, never printed, wiped when the last clone is dropped.
#[derive(Clone)]
pub struct ScramKeys(Arc<Keys>);

struct Keys {
    hash: ScramHash,
    client: Zeroizing<Vec<u8>>,
    server: Zeroizing<Vec<u8>>,
}

/// The identity of a derivation: a digest of its inputs that does not reveal the password.
#[derive(Clone, PartialEq, Eq)]
pub struct CacheKey(Zeroizing<[u8; 32]>);

/// The keys of the last [`KEYS_MAX`] derivations.
#[derive(Clone, Debug, Default)]
pub struct ScramKeyCache {
    entries: VecDeque<(CacheKey, ScramKeys)>,
}

impl ScramHash {
    /// Returns the mechanism that uses this hash.
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
}

impl Derivation {
    /// Creates a derivation.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] if SASLprep prohibits the password, which only SCRAM-SHA-256 checks.
    pub(super) fn new(hash: ScramHash, user: &str, password: &Secret, salt: Vec<u8>, iterations: NonZeroU32) -> Result<Self, Error> {
        let password = prepare(hash, user, password)?;
        Ok(Self { hash, user: user.to_owned(), password, salt, iterations })
    }

    /// Starts the derivation with its first iteration.
    pub fn begin(&self) -> Deriving {
        let key = hmac::Key::new(self.hash.hmac(), self.password.reveal().as_bytes());
        let mut first = hmac::Context::with_key(&key);
        first.update(&self.salt);
        // The keys are as long as the hash, so there is one block (RFC 8018 section 5.2).
        first.update(&1_u32.to_be_bytes());
        let link = first.sign();
        let salted = Zeroizing::new(link.as_ref().to_vec());
        Deriving { hash: self.hash, key, link, salted, left: self.iterations.get() - 1 }
    }

    /// Runs the whole derivation: some milliseconds of processor time per few thousand iterations.
    #[cfg(any(test, feature = "internals"))]
    pub fn run(&self) -> ScramKeys {
        let mut deriving = self.begin();
        loop {
            if let Some(keys) = deriving.advance(u32::MAX) {
                return keys;
            }
        }
    }

    /// Returns the cache key of the result: a SHA-256 over mechanism, salt, iterations, user and password.
    pub fn cache_key(&self) -> CacheKey {
        let iterations = self.iterations.get().to_be_bytes();
        let parts: [&[u8]; 5] =
            [self.mechanism().name().as_bytes(), &self.salt, &iterations, self.user.as_bytes(), self.password.reveal().as_bytes()];
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            // The length prefix keeps parts from running into each other.
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        let mut key = Zeroizing::new([0_u8; 32]);
        key.copy_from_slice(context.finish().as_ref());
        CacheKey(key)
    }

    /// Returns the mechanism of the derivation.
    pub fn mechanism(&self) -> Mechanism {
        self.hash.mechanism()
    }

    /// Returns the number of iterations.
    #[cfg(any(test, feature = "internals"))]
    pub fn iterations(&self) -> u32 {
        self.iterations.get()
    }
}

impl Deriving {
    /// Runs up to a number of iterations, and returns the keys once all are done.
    pub fn advance(&mut self, iterations: u32) -> Option<ScramKeys> {
        let slice = self.left.min(iterations);
        for _ in 0..slice {
            self.link = hmac::sign(&self.key, self.link.as_ref());
            for (sum, byte) in self.salted.iter_mut().zip(self.link.as_ref()) {
                *sum ^= byte;
            }
        }
        self.left -= slice;
        (self.left == 0).then(|| self.keys())
    }

    fn keys(&self) -> ScramKeys {
        let salted = hmac::Key::new(self.hash.hmac(), &self.salted);
        let key = |name: &[u8]| Zeroizing::new(hmac::sign(&salted, name).as_ref().to_vec());
        ScramKeys(Arc::new(Keys { hash: self.hash, client: key(b"Client Key"), server: key(b"Server Key") }))
    }
}

impl Drop for Deriving {
    /// The types of `ring` can't be wiped, but overwritten.
    fn drop(&mut self) {
        self.key = hmac::Key::new(self.hash.hmac(), &[]);
        self.link = hmac::sign(&self.key, &[]);
        black_box((&self.key, &self.link));
    }
}

impl ScramKeys {
    /// Returns the hash with which they were derived.
    pub fn hash(&self) -> ScramHash {
        self.0.hash
    }

    /// Returns whether both are clones of the same keys, not merely equal.
    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the client's proof for an exchange.
    pub(super) fn proof(&self, auth_message: &[u8]) -> Zeroizing<Vec<u8>> {
        let hash = self.0.hash;
        let stored = digest::digest(hash.digest(), &self.0.client);
        let signature = hmac::sign(&hmac::Key::new(hash.hmac(), stored.as_ref()), auth_message);
        let mut proof = self.0.client.clone();
        for (byte, signature) in proof.iter_mut().zip(signature.as_ref()) {
            *byte ^= signature;
        }
        proof
    }

    /// Returns, in constant time, whether a signature of an exchange is the server's.
    pub(in crate::auth) fn signed(&self, auth_message: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&hmac::Key::new(self.0.hash.hmac(), &self.0.server), auth_message, signature).is_ok()
    }
}

impl ScramKeyCache {
    /// Returns the cached keys of a derivation.
    pub fn get(&self, derivation: &CacheKey) -> Option<ScramKeys> {
        self.entries.iter().find(|(own, _)| own == derivation).map(|(_, keys)| keys.clone())
    }

    /// Caches the keys of a derivation; the oldest entry is evicted if the cache is full.
    pub fn put(&mut self, derivation: CacheKey, keys: ScramKeys) {
        self.entries.retain(|(own, _)| *own != derivation);
        while self.entries.len() >= KEYS_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back((derivation, keys));
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derivation").field("hash", &self.hash).field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl fmt::Debug for Deriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deriving").field("hash", &self.hash).field("left", &self.left).finish_non_exhaustive()
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

/// Converts a password to the form that the mechanism requires (auth, "SCRAM-SHA-1", "SCRAM-SHA-256").
fn prepare(hash: ScramHash, user: &str, password: &Secret) -> Result<Secret, Error> {
    match hash {
        ScramHash::Sha1 => {
            let mut text = Zeroizing::new(String::with_capacity(user.len() + password.reveal().len() + 7));
            for part in [user, ":mongo:", password.reveal()] {
                text.push_str(part);
            }
            let mut digest = Zeroizing::new(String::with_capacity(MD5_DIGITS));
            // Writing to a string never fails.
            write!(digest, "{:x}", md5::compute(text.as_bytes())).unwrap_or_default();
            Ok(Secret::from(digest))
        }
        // The prohibited characters are not shown: they are part of the password.
        ScramHash::Sha256 => saslprep::prepare(password.reveal()).map(Secret::from).ok_or_else(|| {
            Error::new(ErrorKind::InvalidOption, "the password has characters that SCRAM-SHA-256 does not allow (SASLprep)").at(Stage::Auth)
        }),
    }
}
