//! The credential of a client: what each mechanism needs, forbids and defaults to.
//!
//! Follows the auth specification, "MongoCredential". Does not decide how a mechanism authenticates (`auth`) or which
//! mechanisms are supported (`unsupported`).

use super::table::SESSION_TOKEN;
use super::value::quote;
use super::{refused, unsupported};
use crate::error::Error;
use crate::options::ClientOptions;
use crate::options::{Credential, Mechanism, Secret};

/// The source of users that are defined outside the server.
const EXTERNAL: &str = "$external";

impl ClientOptions {
    /// Returns the complete credential, with defaults filled in; `None` to connect without authentication.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`](crate::error::ErrorKind::InvalidOption) for a credential that its mechanism can't use, and
    /// [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported) for an unsupported mechanism.
    pub fn credential(&self) -> Result<Option<Credential>, Error> {
        if let Some(name) = &self.auth_mechanism_other {
            return Err(unsupported(format!("option authMechanism: {} is not known", quote(name))));
        }
        let credential = resolve(self)?;
        if let Some(credential) = &credential
            && credential.password.is_none()
            && needs_password(credential)
        {
            let mechanism = credential.mechanism.map_or("SCRAM", Mechanism::name);
            return Err(refused(format!("a user name without a password: {mechanism} requires both")));
        }
        Ok(credential)
    }
}

/// Returns the credential; its password may still be missing. An unknown mechanism has none.
pub(super) fn resolve(options: &ClientOptions) -> Result<Option<Credential>, Error> {
    if options.username.as_deref() == Some("") {
        return Err(refused("the user name before the '@' is empty"));
    }
    if options.auth_source.as_deref() == Some("") {
        return Err(refused("option authSource: has no value"));
    }
    if options.auth_mechanism_other.is_some() {
        return Ok(None);
    }
    let credential = match options.auth_mechanism {
        None => match (&options.username, &options.password) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(refused("a password without a user name")),
            (Some(_), _) => in_database(options, None, "admin")?,
        },
        Some(mechanism @ (Mechanism::ScramSha1 | Mechanism::ScramSha256)) => in_database(options, Some(mechanism), "admin")?,
        Some(Mechanism::Plain) => in_database(options, Some(Mechanism::Plain), EXTERNAL)?,
        Some(Mechanism::X509) => x509(options)?,
        Some(Mechanism::Gssapi) => gssapi(options).map_err(|error| in_vain(&error, Mechanism::Gssapi))?,
        Some(Mechanism::Aws) => aws(options).map_err(|error| in_vain(&error, Mechanism::Aws))?,
        Some(Mechanism::Oidc) => oidc(options).map_err(|error| in_vain(&error, Mechanism::Oidc))?,
    };
    Ok(Some(credential))
}

/// Adds to a credential's error that its mechanism is not supported in any case.
fn in_vain(error: &Error, mechanism: Mechanism) -> Error {
    refused(format!("{}; mongolink does not support {}", error.message(), mechanism.name()))
}

/// Returns the error of a known but unsupported mechanism.
pub(super) fn not_served(mechanism: Mechanism) -> Error {
    unsupported(format!("option authMechanism: {} is not supported", mechanism.name()))
}

fn needs_password(credential: &Credential) -> bool {
    match credential.mechanism {
        None | Some(Mechanism::ScramSha1 | Mechanism::ScramSha256 | Mechanism::Plain) => true,
        Some(Mechanism::Aws) => credential.username.is_some(),
        Some(Mechanism::X509 | Mechanism::Gssapi | Mechanism::Oidc) => false,
    }
}

/// Returns the credential of a user who is defined in a database and has a password.
fn in_database(options: &ClientOptions, mechanism: Option<Mechanism>, default: &str) -> Result<Credential, Error> {
    let name = mechanism.map_or("authentication without authMechanism", Mechanism::name);
    need_username(options, name)?;
    let source = options.auth_source.as_deref().or(options.database.as_deref()).unwrap_or(default);
    Ok(Credential {
        username: options.username.clone(),
        password: options.password.clone(),
        source: source.to_owned(),
        mechanism,
        properties: properties(options, name, &[])?,
    })
}

fn x509(options: &ClientOptions) -> Result<Credential, Error> {
    forbid_password(options, Mechanism::X509)?;
    external(options, Mechanism::X509, &[])
}

fn gssapi(options: &ClientOptions) -> Result<Credential, Error> {
    need_username(options, Mechanism::Gssapi.name())?;
    let mut credential =
        external(options, Mechanism::Gssapi, &["SERVICE_NAME", "CANONICALIZE_HOST_NAME", "SERVICE_REALM", "SERVICE_HOST"])?;
    if let Some(rule) = property(&credential, "CANONICALIZE_HOST_NAME")
        && !["none", "forward", "forwardAndReverse", "true", "false"].contains(&rule)
    {
        return Err(refused(format!("CANONICALIZE_HOST_NAME {} is not none, forward or forwardAndReverse", quote(rule))));
    }
    if property(&credential, "SERVICE_NAME").is_none() {
        credential.properties.push(("SERVICE_NAME".to_owned(), Secret::new("mongodb")));
    }
    Ok(credential)
}

fn aws(options: &ClientOptions) -> Result<Credential, Error> {
    let credential = external(options, Mechanism::Aws, &[SESSION_TOKEN])?;
    if credential.username.is_none() && (credential.password.is_some() || !credential.properties.is_empty()) {
        return Err(refused("MONGODB-AWS: a secret key or session token without an access key"));
    }
    Ok(credential)
}

fn oidc(options: &ClientOptions) -> Result<Credential, Error> {
    forbid_password(options, Mechanism::Oidc)?;
    let credential = external(options, Mechanism::Oidc, &["ENVIRONMENT", "TOKEN_RESOURCE"])?;
    let Some(environment) = property(&credential, "ENVIRONMENT") else {
        return Err(refused("MONGODB-OIDC requires the property ENVIRONMENT"));
    };
    let (takes_username, needs_resource) = match environment {
        "azure" => (true, true),
        "gcp" => (false, true),
        "k8s" | "test" => (false, false),
        _ => return Err(refused(format!("MONGODB-OIDC: ENVIRONMENT {} is not azure, gcp, k8s or test", quote(environment)))),
    };
    if credential.username.is_some() && !takes_username {
        return Err(refused(format!("MONGODB-OIDC: ENVIRONMENT {environment} does not allow a user name")));
    }
    if property(&credential, "TOKEN_RESOURCE").is_some() != needs_resource {
        let verb = if needs_resource { "requires a" } else { "does not allow a" };
        return Err(refused(format!("MONGODB-OIDC: ENVIRONMENT {environment} {verb} TOKEN_RESOURCE")));
    }
    Ok(credential)
}

/// Returns the credential of a user who is defined outside the server.
fn external(options: &ClientOptions, mechanism: Mechanism, allowed: &[&str]) -> Result<Credential, Error> {
    if let Some(source) = options.auth_source.as_deref()
        && source != EXTERNAL
    {
        return Err(refused(format!("authSource {} with {}, which allows only {EXTERNAL}", quote(source), mechanism.name())));
    }
    Ok(Credential {
        username: options.username.clone(),
        password: options.password.clone(),
        source: EXTERNAL.to_owned(),
        mechanism: Some(mechanism),
        properties: properties(options, mechanism.name(), allowed)?,
    })
}

/// Returns the properties, with names in upper case.
fn properties(options: &ClientOptions, mechanism: &str, allowed: &[&str]) -> Result<Vec<(String, Secret)>, Error> {
    let token = options.aws_session_token.iter().map(|token| (SESSION_TOKEN.to_owned(), token.clone()));
    let given = options.auth_mechanism_properties.iter().map(|(name, value)| (name.to_ascii_uppercase(), Secret::new(value.as_str())));
    given
        .chain(token)
        .map(|(name, value)| {
            if allowed.contains(&name.as_str()) {
                return Ok((name, value));
            }
            Err(refused(format!("authMechanismProperties: {mechanism} has no property {}", quote(&name))))
        })
        .collect()
}

fn property<'a>(credential: &'a Credential, name: &str) -> Option<&'a str> {
    credential.properties.iter().find(|(own, _)| own == name).map(|(_, value)| value.reveal())
}

fn need_username(options: &ClientOptions, mechanism: &str) -> Result<(), Error> {
    if options.username.is_none() {
        return Err(refused(format!("{mechanism} requires a user name")));
    }
    Ok(())
}

fn forbid_password(options: &ClientOptions, mechanism: Mechanism) -> Result<(), Error> {
    if options.password.is_some() {
        return Err(refused(format!("{} does not allow a password", mechanism.name())));
    }
    Ok(())
}
