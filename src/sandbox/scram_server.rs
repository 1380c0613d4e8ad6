//! The server side of SCRAM-SHA-256 and SCRAM-SHA-1 (RFC 5802, RFC 7677).
//!
//! Keys are derived once, when the deployment is created or before; passwords are not stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use rand::rngs::SmallRng;
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use super::config::User;
use super::failure::{CommandRefusal, code};

/// The users, by name.
pub(super) struct Users {
    keys: BTreeMap<String, Arc<[StoredKeys; 2]>>,
    /// The users whose authentications are refused for a while.
    barred: BTreeSet<String>,
}

/// The stored keys of a password, for one mechanism.
pub(super) struct StoredKeys {
    salt: Vec<u8>,
    stored: Vec<u8>,
    server: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ScramLogin {
    Sha1,
    Sha256,
}

/// A conversation that expects the client's proof, or its last empty message.
pub(super) struct ScramConversation {
    scram: ScramLogin,
    user: String,
    stage: ScramStage,
}

enum ScramStage {
    ExpectProof { first: String, nonce: String, skip_empty: bool },
    ExpectEmpty,
}

/// The next step of a conversation.
pub(super) enum LoginStep {
    /// The client has to send another message.
    Continue(ScramConversation, Vec<u8>),
    /// The user is authenticated.
    Done(String, Vec<u8>),
}

/// The database in which users are defined.
pub(super) const USERS_DATABASE: &str = "admin";

impl Users {
    /// Derives the keys of all users.
    pub(super) fn new(users: &[User], random: &mut SmallRng) -> Self {
        let derived = users.iter().map(|user| {
            let keys = user.keys.clone().unwrap_or_else(|| StoredKeys::of(user, random));
            (user.name.clone(), keys)
        });
        Self { keys: derived.collect(), barred: BTreeSet::new() }
    }

    /// Returns whether no authentication is required.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.keys.contains_key(name) && !self.barred.contains(name)
    }

    /// Refuses a user's authentications from now on, or accepts them again.
    #[cfg(any(test, feature = "internals"))]
    pub(super) fn bar(&mut self, name: &str, barred: bool) {
        match barred {
            true => drop(self.barred.insert(name.to_owned())),
            false => drop(self.barred.remove(name)),
        }
    }

    /// Starts a conversation with the client's first message, and returns the server's first.
    pub(super) fn begin(
        &self,
        mechanism: &str,
        payload: &[u8],
        skip_empty: bool,
        random: &mut SmallRng,
    ) -> Result<(ScramConversation, Vec<u8>), CommandRefusal> {
        let scram = match mechanism {
            "SCRAM-SHA-1" => ScramLogin::Sha1,
            "SCRAM-SHA-256" => ScramLogin::Sha256,
            _ => return Err(CommandRefusal::unsupported(format_args!("the mechanism {mechanism:?}"))),
        };
        let text = std::str::from_utf8(payload).map_err(|_| refused())?;
        let bare = text.strip_prefix("n,,").or_else(|| text.strip_prefix("y,,")).ok_or_else(refused)?;
        let (name, client_nonce) = attribute(bare, 'n').zip(attribute(bare, 'r')).ok_or_else(refused)?;
        let user = name.replace("=2C", ",").replace("=3D", "=");
        let keys = self.keys(&user, scram).ok_or_else(refused)?;
        let mut own = [0_u8; NONCE_SIZE];
        random.fill(&mut own[..]);
        let nonce = format!("{client_nonce}{}", STANDARD.encode(own));
        let reply = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(&keys.salt));
        let stage = ScramStage::ExpectProof { first: format!("{bare},{reply}"), nonce, skip_empty };
        Ok((ScramConversation { scram, user, stage }, reply.into_bytes()))
    }

    fn keys(&self, user: &str, scram: ScramLogin) -> Option<&StoredKeys> {
        let [sha1, sha256] = self.keys.get(user).filter(|_| !self.barred.contains(user))?.as_ref();
        Some(match scram {
            ScramLogin::Sha1 => sha1,
            ScramLogin::Sha256 => sha256,
        })
    }
}

impl ScramConversation {
    /// Handles the client's next message.
    pub(super) fn proceed(self, users: &Users, payload: &[u8]) -> Result<LoginStep, CommandRefusal> {
        let Self { scram, user, stage } = self;
        match stage {
            ScramStage::ExpectProof { first, nonce, skip_empty } => {
                let keys = users.keys(&user, scram).ok_or_else(refused)?;
                let text = std::str::from_utf8(payload).map_err(|_| refused())?;
                let (unproved, proof) = text.rsplit_once(",p=").ok_or_else(refused)?;
                let proof = STANDARD.decode(proof).map_err(|_| refused())?;
                let bound = matches!(attribute(unproved, 'c'), Some("biws" | "eSws"));
                if !bound || attribute(unproved, 'r') != Some(nonce.as_str()) {
                    return Err(refused());
                }
                let exchange = format!("{first},{unproved}");
                if !keys.prove(scram, exchange.as_bytes(), &proof) {
                    return Err(refused());
                }
                let signature = STANDARD.encode(scram.sign(&keys.server, exchange.as_bytes()));
                let reply = format!("v={signature}").into_bytes();
                Ok(if skip_empty {
                    LoginStep::Done(user, reply)
                } else {
                    LoginStep::Continue(Self { scram, user, stage: ScramStage::ExpectEmpty }, reply)
                })
            }
            ScramStage::ExpectEmpty if payload.is_empty() => Ok(LoginStep::Done(user, Vec::new())),
            ScramStage::ExpectEmpty => Err(refused()),
        }
    }
}

impl StoredKeys {
    /// Derives a user's keys for both mechanisms.
    pub(super) fn of(user: &User, random: &mut SmallRng) -> Arc<[Self; 2]> {
        Arc::new([ScramLogin::Sha1, ScramLogin::Sha256].map(|scram| Self::derive(scram, user, random)))
    }

    fn derive(scram: ScramLogin, user: &User, random: &mut SmallRng) -> Self {
        let mut salt = vec![0_u8; scram.salt_size()];
        random.fill(&mut salt[..]);
        let password = scram.prepare(user);
        let mut salted = Zeroizing::new(vec![0_u8; scram.digest().output_len()]);
        pbkdf2::derive(scram.pbkdf2(), ITERATIONS, &salt, password.as_bytes(), &mut salted);
        let client = Zeroizing::new(scram.sign(&salted, b"Client Key"));
        let stored = digest::digest(scram.digest(), &client).as_ref().to_vec();
        Self { salt, stored, server: scram.sign(&salted, b"Server Key") }
    }

    /// Returns whether a proof shows knowledge of the password.
    fn prove(&self, scram: ScramLogin, exchange: &[u8], proof: &[u8]) -> bool {
        let signature = scram.sign(&self.stored, exchange);
        if proof.len() != signature.len() {
            return false;
        }
        let client: Vec<u8> = proof.iter().zip(&signature).map(|(left, right)| left ^ right).collect();
        let hashed = digest::digest(scram.digest(), &client);
        hashed.as_ref().iter().zip(&self.stored).fold(0, |differences, (left, right)| differences | (left ^ right)) == 0
    }
}

impl fmt::Debug for StoredKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredKeys(***)")
    }
}

impl ScramLogin {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        }
    }

    fn sign(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), data).as_ref().to_vec()
    }

    /// The salt and a block counter fill one block of the hash, as in mongod.
    fn salt_size(self) -> usize {
        self.digest().output_len() - 4
    }

    fn prepare(self, user: &User) -> Zeroizing<String> {
        let password = user.password.reveal();
        Zeroizing::new(match self {
            Self::Sha1 => {
                let mixed = Zeroizing::new(format!("{}:mongo:{password}", user.name));
                format!("{:x}", md5::compute(mixed.as_bytes()))
            }
            Self::Sha256 => stringprep::saslprep(password).map_or_else(|_| password.to_owned(), |prepared| prepared.into_owned()),
        })
    }
}

/// Returns `x=value` from attributes separated by commas.
fn attribute(text: &str, name: char) -> Option<&str> {
    text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn refused() -> CommandRefusal {
    CommandRefusal::new(code::AUTHENTICATION_FAILED, "Authentication failed.")
}

/// The minimum that clients accept.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");

const NONCE_SIZE: usize = 24;
