//! The options that are parsed but not supported.
//!
//! Where ignoring an option would weaken security, no client is created; otherwise a warning says what happens instead. Does
//! not decide whether the options fit together (`validate`), nor which options weaken security (`weakness`).

use super::credential::not_served;
use super::weakness::weaknesses;
use super::{refused, unsupported};
use crate::error::Error;
use crate::options::Mechanism;
use crate::options::{ClientOptions, Warning};

/// Returns a warning for every option that has no effect or weakens the security of connections.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported), naming an option that can't be ignored: a mechanism, a
/// proxy, an encrypted key without the cargo feature for it.
/// [`ErrorKind::InvalidOption`](crate::error::ErrorKind::InvalidOption) for options that require TLS, if TLS is off.
pub fn option_warnings(options: &ClientOptions) -> Result<Vec<Warning>, Error> {
    mechanism(options)?;
    if options.proxy_host.is_some() {
        return Err(unsupported("option proxyHost: connections through a SOCKS5 proxy are not supported"));
    }
    if options.tls_certificate_key_file_password.is_some() && !cfg!(feature = "encrypted-keys") {
        return Err(unsupported("option tlsCertificateKeyFilePassword: mongolink was built without its feature encrypted-keys"));
    }
    let mut warnings = weaknesses(options);
    let mut warn = |given: bool, option: &str, message: &str| {
        if given {
            warnings.push(Warning { option: option.to_owned(), message: message.to_owned() });
        }
    };
    tls(options, &mut warn)?;
    let has_mechanism = options.auth_mechanism.is_some() || options.username.is_some();
    let has_properties = !options.auth_mechanism_properties.is_empty() || options.aws_session_token.is_some();
    warn(has_properties && !has_mechanism, "authMechanismProperties", "has no effect without authMechanism");

    let compressed = options.compressors.as_ref().is_some_and(|names| !names.is_empty());
    warn(compressed, "compressors", "messages are not compressed");
    warn(options.zlib_compression_level.is_some(), "zlibCompressionLevel", "messages are not compressed");
    warn(options.server_selection_try_once.is_some(), "serverSelectionTryOnce", "has no effect, servers are monitored in the background");
    warn(options.socket_check_interval.is_some(), "socketCheckIntervalMS", "has no effect, servers are monitored in the background");
    warn(options.retry_reads == Some(true), "retryReads", "retry is left to the caller");
    warn(options.retry_writes == Some(true), "retryWrites", "retry is left to the caller");
    warn(options.max_adaptive_retries.is_some_and(|retries| retries > 0), "maxAdaptiveRetries", "retry is left to the caller");
    warn(options.enable_overload_retargeting == Some(true), "enableOverloadRetargeting", "retry is left to the caller");
    warn(options.read_preference.is_some(), "readPreference", "does not apply to generic commands: each call sets its own");
    let concern = "has no effect, commands carry their own concerns";
    warn(options.read_concern.as_ref().is_some_and(|concern| concern.level.is_some()), "readConcernLevel", concern);
    if let Some(write) = &options.write_concern {
        warn(write.w.is_some(), "w", concern);
        warn(write.journal.is_some(), "journal", concern);
        warn(write.w_timeout.is_some(), "wTimeoutMS", concern);
    }
    Ok(warnings)
}

fn mechanism(options: &ClientOptions) -> Result<(), Error> {
    match options.auth_mechanism {
        Some(mechanism @ (Mechanism::Gssapi | Mechanism::Aws | Mechanism::Oidc)) => Err(not_served(mechanism)),
        Some(Mechanism::X509) if !options.tls_or_default() => Err(refused("authMechanism MONGODB-X509 requires tls=true")),
        Some(Mechanism::X509 | Mechanism::Plain | Mechanism::ScramSha1 | Mechanism::ScramSha256) => Ok(()),
        // An unknown mechanism is an error of the credential.
        None => options.credential().map(|_| ()),
    }
}

fn tls(options: &ClientOptions, warn: &mut impl FnMut(bool, &str, &str)) -> Result<(), Error> {
    let unchecked = "has no effect, revocation is not checked";
    warn(options.tls_disable_ocsp_endpoint_check == Some(true), "tlsDisableOCSPEndpointCheck", unchecked);
    warn(options.tls_disable_certificate_revocation_check == Some(true), "tlsDisableCertificateRevocationCheck", unchecked);
    if options.tls_or_default() {
        return Ok(());
    }
    let strengthening = [
        ("tlsCAFile", options.tls_ca_file.is_some()),
        ("tlsCertificateKeyFile", options.tls_certificate_key_file.is_some()),
        ("tlsCertificateKeyFilePassword", options.tls_certificate_key_file_password.is_some()),
    ];
    let weakening = [
        ("tlsInsecure", options.tls_insecure == Some(true)),
        ("tlsAllowInvalidCertificates", options.tls_allow_invalid_certificates == Some(true)),
        ("tlsAllowInvalidHostnames", options.tls_allow_invalid_hostnames == Some(true)),
    ];
    for (name, given) in strengthening {
        // A certificate file implies TLS, unless tls=false was given explicitly.
        if given && options.tls.is_none() {
            return Err(refused(format!("option {name} without tls=true: nothing would be encrypted")));
        }
        warn(given, name, "has no effect with tls=false");
    }
    for (name, given) in weakening {
        warn(given, name, "has no effect without tls=true");
    }
    Ok(())
}
