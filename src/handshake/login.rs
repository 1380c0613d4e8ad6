//! The authentication of a connection: choice of mechanism, first command, error texts.
//!
//! Follows auth ("Defaults", "Speculative authentication", "Mechanism negotiation"). Does not decide the order of the commands
//! (`conversation`).

use bson::RawDocument;
use bson::raw::cstr;

use super::{HelloReply, sasl};
use crate::auth::scram::keys::ScramHash;
use crate::auth::scram::{ClientFinal, ClientFirst, NONCE_SIZE};
use crate::auth::{Credential, Mechanism, Secret, SecretDocument, plain, x509};
use crate::error::{Error, ErrorKind, Stage};
use crate::reply::command_error_at;

/// The server's code for a user or password that it does not accept.
const AUTHENTICATION_FAILED: i64 = 18;

/// The credential and entropy of a connection's authentication.
pub(super) struct Login {
    pub(super) credential: Credential,
    pub(super) nonces: Nonces,
}

/// Random bytes for the two exchanges of an authentication, which share nothing.
pub(super) struct Nonces {
    /// For the exchange that is sent along with hello.
    pub(super) speculative: [u8; NONCE_SIZE],
    /// For the exchange after hello.
    pub(super) own: [u8; NONCE_SIZE],
}

/// A login in progress, with the hello reply that it belongs to.
pub(super) struct LoginAttempt {
    pub(super) hello: Box<HelloReply>,
    pub(super) login: Login,
    pub(super) mechanism: Mechanism,
}

/// A mechanism's first command, and the exchange that it starts.
pub(super) struct FirstCommand {
    pub(super) mechanism: Mechanism,
    pub(super) name: &'static str,
    pub(super) body: SecretDocument,
    pub(super) exchange: SaslExchange,
}

/// The server's message that is expected next.
pub(super) enum SaslExchange {
    /// The first message of SCRAM.
    ScramFirst(ClientFirst),
    /// The final message of SCRAM, with the signature.
    ScramLast(ClientFinal),
    /// The end of the conversation, after SCRAM's empty exchange.
    ScramEmpty,
    /// The acceptance of the certificate.
    X509,
    /// The acceptance of the password.
    Plain,
}

impl SaslExchange {
    /// Returns the name of the step for errors.
    pub(super) fn step(&self) -> &'static str {
        match self {
            Self::ScramFirst(_) | Self::Plain => "saslStart",
            Self::ScramLast(_) => "saslContinue (server signature)",
            Self::ScramEmpty => "saslContinue (empty exchange)",
            Self::X509 => "authenticate",
        }
    }
}

impl Login {
    /// Returns the command that is sent along with hello, if the mechanism has one.
    pub(super) fn speculate(&self) -> Option<FirstCommand> {
        let mechanism = match self.credential.mechanism {
            None => Mechanism::ScramSha256,
            Some(mechanism @ (Mechanism::ScramSha1 | Mechanism::ScramSha256 | Mechanism::X509)) => mechanism,
            Some(Mechanism::Plain | Mechanism::Gssapi | Mechanism::Aws | Mechanism::Oidc) => return None,
        };
        // A failure here is reported after hello, by the same call in `start`.
        let mut opening = self.open(mechanism, self.nonces.speculative).ok()?;
        opening.body.append(cstr!("db"), self.credential.source.as_str());
        Some(opening)
    }

    /// Returns the user whose mechanisms hello requests, as `source.user`, if no mechanism is configured.
    pub(super) fn negotiating_user(&self) -> Option<String> {
        match (self.credential.mechanism, &self.credential.username) {
            (None, Some(user)) => Some(format!("{}.{user}", self.credential.source)),
            (Some(_), _) | (None, None) => None,
        }
    }

    /// Starts the authentication after hello, with the configured or negotiated mechanism.
    pub(super) fn start(&self, offered: Option<&[String]>) -> Result<FirstCommand, Error> {
        let mechanism = self.credential.mechanism.unwrap_or_else(|| negotiate(offered));
        self.open(mechanism, self.nonces.own)
    }

    fn open(&self, mechanism: Mechanism, nonce: [u8; NONCE_SIZE]) -> Result<FirstCommand, Error> {
        let (name, body, exchange) = match mechanism {
            Mechanism::ScramSha1 => self.open_scram(ScramHash::Sha1, nonce)?,
            Mechanism::ScramSha256 => self.open_scram(ScramHash::Sha256, nonce)?,
            Mechanism::X509 => ("authenticate", x509::authenticate(self.credential.username.as_deref()).into(), SaslExchange::X509),
            Mechanism::Plain => {
                let (user, password) = self.user_and_password(mechanism)?;
                ("saslStart", sasl::start(mechanism, &plain::payload(user, password)?), SaslExchange::Plain)
            }
            Mechanism::Gssapi | Mechanism::Aws | Mechanism::Oidc => {
                return Err(
                    Error::new(ErrorKind::Unsupported, format!("the mechanism {} is not supported", mechanism.name())).at(Stage::Auth)
                );
            }
        };
        Ok(FirstCommand { mechanism, name, body, exchange })
    }

    fn open_scram(&self, hash: ScramHash, nonce: [u8; NONCE_SIZE]) -> Result<(&'static str, SecretDocument, SaslExchange), Error> {
        let mechanism = hash.mechanism();
        let (user, password) = self.user_and_password(mechanism)?;
        let first = ClientFirst::new(hash, user, password, nonce);
        Ok(("saslStart", sasl::start(mechanism, first.message().as_bytes()), SaslExchange::ScramFirst(first)))
    }

    fn user_and_password(&self, mechanism: Mechanism) -> Result<(&str, &Secret), Error> {
        let missing = |what: &str| Error::new(ErrorKind::InvalidOption, format!("{} requires a {what}", mechanism.name())).at(Stage::Auth);
        let user = self.credential.username.as_deref().filter(|user| !user.is_empty()).ok_or_else(|| missing("user name"))?;
        let password = self.credential.password.as_ref().ok_or_else(|| missing("password"))?;
        Ok((user, password))
    }
}

impl LoginAttempt {
    /// Checks that the server has not refused a step.
    pub(super) fn check(&self, step: &str, reply: &RawDocument) -> Result<(), Error> {
        match command_error_at(reply, Stage::Auth) {
            None => Ok(()),
            Some(_) if self.is_echoed_in(reply) => {
                let text = format!("{} was refused; the server's message contains the password, and is not shown", self.subject(step));
                Err(Error::new(ErrorKind::Auth, text).at(Stage::Auth))
            }
            Some(error) if error.kind() == ErrorKind::Command => Err(self.refused(step, error)),
            Some(error) => Err(self.failed(step, &error).because(error)),
        }
    }

    /// Returns whether a reply contains the password, which PLAIN sends to the server.
    fn is_echoed_in(&self, reply: &RawDocument) -> bool {
        let password = self.login.credential.password.as_ref().map(Secret::reveal).filter(|_| self.mechanism == Mechanism::Plain);
        password.is_some_and(|password| {
            !password.is_empty() && reply.as_bytes().windows(password.len()).any(|window| window == password.as_bytes())
        })
    }

    /// Returns the error of a step that the server has refused.
    fn refused(&self, step: &str, cause: Error) -> Error {
        let advice = match (cause.code(), self.mechanism) {
            (Some(AUTHENTICATION_FAILED), Mechanism::X509) => "; check that the certificate's subject is a user on $external",
            (Some(AUTHENTICATION_FAILED), _) => "; check user name, password and authSource",
            _ => "",
        };
        let text = format!("{} was refused: {}{advice}", self.subject(step), cause.message());
        let refused = cause.labels().iter().fold(Error::new(ErrorKind::Auth, text).at(Stage::Auth), |error, label| error.with_label(label));
        refused.because(cause)
    }

    /// Returns the error of a step that failed on the client's side.
    pub(super) fn failed(&self, step: &str, cause: &Error) -> Error {
        let error = Error::new(cause.kind(), format!("{} failed: {}", self.subject(step), cause.message())).at(Stage::Auth);
        match cause.limit() {
            Some(limit) => error.against(limit.name, limit.value),
            None => error,
        }
    }

    /// Returns the error of an invalid reply to the step.
    pub(super) fn protocol(&self, step: &str, what: &str) -> Error {
        self.failed(step, &Error::new(ErrorKind::Protocol, what))
    }

    fn subject(&self, step: &str) -> String {
        let Credential { username, source, .. } = &self.login.credential;
        let user = match username {
            Some(user) => format!("user {user:?}"),
            None => "the certificate's subject".to_owned(),
        };
        format!("{step} of {user} on {source:?} with {}", self.mechanism.name())
    }
}

/// Returns the error of a user who would have to authenticate on a server without users (auth, "Authentication handshake").
pub(super) fn no_users_here(credential: &Credential) -> Error {
    let user = match &credential.username {
        Some(user) => format!("user {user:?}"),
        None => "the certificate's subject".to_owned(),
    };
    let text = format!(
        "the server says that it is an arbiter, where {user} can't log in; no command is sent without the login: talk to another member, or \
         to this one with a client without a user"
    );
    Error::new(ErrorKind::Auth, text).at(Stage::Auth)
}

/// Chooses a SCRAM mechanism: SHA-1 even if the server does not list it, and never any other mechanism.
fn negotiate(offered: Option<&[String]>) -> Mechanism {
    let listed = offered.is_some_and(|names| names.iter().any(|name| name == Mechanism::ScramSha256.name()));
    if listed { Mechanism::ScramSha256 } else { Mechanism::ScramSha1 }
}
