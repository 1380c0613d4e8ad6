//! Credentials: user, password, source and mechanism of a login.
//!
//! The data of the auth specification ("MongoCredential"). Does not decide which mechanism a connection uses (`handshake`), nor what
//! each mechanism sends (`auth`).

use super::Secret;

/// An authentication mechanism of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// SCRAM with SHA-1.
    ScramSha1,
    /// SCRAM with SHA-256.
    ScramSha256,
    /// A client certificate.
    X509,
    /// User name and password in plain text, for LDAP.
    Plain,
    /// Kerberos.
    Gssapi,
    /// AWS identity.
    Aws,
    /// OpenID Connect.
    Oidc,
}

/// A complete and checked credential of a client, with its source resolved.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credential {
    /// The user name; not required by every mechanism.
    pub username: Option<String>,
    /// The password; not required by every mechanism.
    pub password: Option<Secret>,
    /// The database in which the user is defined.
    pub source: String,
    /// The mechanism, or `None` to negotiate one of the SCRAMs.
    pub mechanism: Option<Mechanism>,
    /// The mechanism's properties, with defaults filled in; one of them may be a session token.
    pub properties: Vec<(String, Secret)>,
}

impl std::fmt::Debug for Credential {
    /// The values of properties may be secrets, such as a session token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("username", &self.username)
            .field("password", &self.password)
            .field("source", &self.source)
            .field("mechanism", &self.mechanism)
            .field("properties", &self.properties.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish()
    }
}

impl Mechanism {
    /// Returns the name used on the wire, such as `SCRAM-SHA-256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::X509 => "MONGODB-X509",
            Self::Plain => "PLAIN",
            Self::Gssapi => "GSSAPI",
            Self::Aws => "MONGODB-AWS",
            Self::Oidc => "MONGODB-OIDC",
        }
    }

    /// Parses the name used on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::ScramSha1, Self::ScramSha256, Self::X509, Self::Plain, Self::Gssapi, Self::Aws, Self::Oidc]
            .into_iter()
            .find(|mechanism| mechanism.name() == name)
    }
}
