//! What stands in the certificate and key files?
//!
//! `tlsCAFile` and `tlsCertificateKeyFile`: PEM, with keys in PKCS#8, PKCS#1 or SEC1; encrypted keys in PKCS#8, with the
//! feature `encrypted-keys`. What the certificates are good for is decided in the parent module.

use std::fmt::Display;
use std::path::Path;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::auth::Secret;
use crate::error::{Error, ErrorKind, Stage};

/// The option that names the file of trusted authorities.
pub(super) const CA_FILE: &str = "tlsCAFile";

/// The option that names the file of certificate and key.
pub(super) const KEY_FILE: &str = "tlsCertificateKeyFile";

/// The option that has the password of an encrypted key.
const PASSWORD: &str = "tlsCertificateKeyFilePassword";

const ENCRYPTED_BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";

/// Reads the authorities of `tlsCAFile`.
///
/// # Errors
/// [`ErrorKind::InvalidOption`] with the option's name and path.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let bytes = read(CA_FILE, path)?;
    let certificates = certificates(CA_FILE, path, &bytes)?;
    let mut roots = RootCertStore::empty();
    let (usable, ignored) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(unusable(CA_FILE, path, &"no certificate in it can be read"));
    }
    if ignored > 0 {
        tracing::warn!(path = %path.display(), ignored, "{CA_FILE}: certificates that can't be read");
    }
    Ok(roots)
}

/// Reads the certificate chain and key of `tlsCertificateKeyFile`.
///
/// # Errors
/// [`ErrorKind::InvalidOption`] with the option's name and path; [`ErrorKind::Unsupported`] for a key encrypted in a way that
/// is not served.
pub(super) fn certificate_and_key(
    path: &Path,
    password: Option<&Secret>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let bytes = read(KEY_FILE, path)?;
    let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
    // Looked for first: its header lines make the whole file unreadable as PEM.
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        let why = "the key is encrypted in the traditional format of OpenSSL; convert it with `openssl pkcs8 -topk8`";
        return Err(unsupported(path, why));
    }
    let chain = certificates(KEY_FILE, path, &bytes)?;
    let key = if text.contains(ENCRYPTED_BEGIN) {
        encrypted_key(path, &text, password)?
    } else {
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| unusable(KEY_FILE, path, &format!("private key: {error}")))?
    };
    Ok((chain, key))
}

/// Makes the error of a file that can't be used.
pub(super) fn unusable(option: &str, path: &Path, why: &dyn Display) -> Error {
    Error::new(ErrorKind::InvalidOption, format!("{option} {}: {why}", path.display())).at(Stage::Tls)
}

fn unsupported(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{KEY_FILE} {}: {why}", path.display())).at(Stage::Tls)
}

fn read(option: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(error) => Err(unusable(option, path, &error).because(error)),
    }
}

fn certificates(option: &str, path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(unusable(option, path, &"no certificate in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(option, path, &error)),
    }
}

#[cfg(feature = "encrypted-keys")]
fn encrypted_key(path: &Path, text: &str, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, Error> {
    use base64::Engine as _;
    use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

    let Some(password) = password else {
        return Err(unusable(KEY_FILE, path, &format!("the key is encrypted, and {PASSWORD} is not set")));
    };
    let body = text.split_once(ENCRYPTED_BEGIN).and_then(|(_, rest)| rest.split_once("-----END ENCRYPTED PRIVATE KEY-----"));
    let Some((body, _)) = body else {
        return Err(unusable(KEY_FILE, path, &"the encrypted private key has no end"));
    };
    let compact: String = body.split_ascii_whitespace().collect();
    let der = base64::engine::general_purpose::STANDARD
        .decode(compact)
        .map_err(|error| unusable(KEY_FILE, path, &format!("encrypted private key: {error}")))?;
    let encrypted = pkcs8::EncryptedPrivateKeyInfoRef::try_from(der.as_slice())
        .map_err(|error| unusable(KEY_FILE, path, &format!("encrypted private key: {error}")))?;
    match encrypted.decrypt(password.reveal()) {
        Ok(key) => Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into()),
        Err(pkcs8::Error::EncryptedPrivateKey(
            error @ (pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs8::pkcs5::Error::NoPbes1CryptSupport),
        )) => Err(unsupported(path, &format!("the key is encrypted with an old algorithm: {error}"))),
        Err(error) => Err(unusable(KEY_FILE, path, &format!("the key can't be decrypted, {PASSWORD} may be wrong: {error}"))),
    }
}

#[cfg(not(feature = "encrypted-keys"))]
fn encrypted_key(path: &Path, _text: &str, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, Error> {
    let given = if password.is_some() { "is set, but" } else { "is not set, and" };
    Err(unsupported(path, &format!("the key is encrypted; {PASSWORD} {given} mongolink was built without the feature `encrypted-keys`")))
}
