//! The certificate and key files: `tlsCAFile` and `tlsCertificateKeyFile`.
//!
//! PEM, with keys in PKCS#8, PKCS#1 or SEC1; encrypted keys in PKCS#8, with the feature `encrypted-keys`. An unreadable
//! authority is skipped and reported with its line; an unreadable client certificate or key is an error. Does not decide which
//! certificates are accepted (`verify`).

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey};
use zeroize::{Zeroize, Zeroizing};

use super::der;
use super::sections::{Section, TRADITIONALLY_ENCRYPTED, sections};
use crate::auth::Secret;
use crate::error::{Error, ErrorKind, Stage};

/// The option that names the file of trusted authorities.
pub(super) const CA_FILE: &str = "tlsCAFile";

/// The option that names the file of certificate and key.
pub(super) const KEY_FILE: &str = "tlsCertificateKeyFile";

/// The option with the password of an encrypted key.
const PASSWORD: &str = "tlsCertificateKeyFilePassword";

/// The authorities of a file.
pub(super) struct Authorities {
    pub(super) roots: RootCertStore,
    /// The certificates.
    pub(super) listed: Vec<CertificateDer<'static>>,
    /// The faults of skipped authorities, for errors that they may explain.
    pub(super) notes: Vec<String>,
}

/// The maximum number of unusable sections in an error.
const NOTES_MAX: usize = 4;

/// Reads the authorities of `tlsCAFile`.
///
/// # Errors
/// [`ErrorKind::InvalidOption`] with the option's name and path, if none is usable.
pub(super) fn authorities(path: &Path) -> Result<Authorities, Error> {
    let bytes = read(CA_FILE, path)?;
    let sections = sections(&bytes).map_err(|why| unusable(CA_FILE, path, &why))?;
    let mut read = Authorities { roots: RootCertStore::empty(), listed: Vec::new(), notes: Vec::new() };
    for section in &sections {
        let line = section.line;
        match section.certificate() {
            None if section.could_be_meant() => read.notes.push(format!("line {line}: {} is ignored{}", section.name(), section.why())),
            None => {}
            Some(Err(why)) => read.notes.push(format!("line {line}: {why}")),
            Some(Ok(certificate)) => match read.roots.add(certificate.clone()) {
                Err(error) => read.notes.push(format!("line {line}: the certificate can't be read: {error}")),
                Ok(()) => {
                    let key = der::Certificate::parse(&certificate).and_then(|parsed| der::unsupported_algorithm(parsed.key.algorithm));
                    read.notes.extend(key.map(|curve| format!("line {line}: the certificate's key uses an unsupported curve: {curve}")));
                    read.listed.push(certificate);
                }
            },
        }
    }
    for note in &read.notes {
        tracing::warn!(path = %path.display(), "{CA_FILE}: {note}");
    }
    if read.listed.is_empty() {
        return Err(match read.notes() {
            None => unusable(CA_FILE, path, &"no certificate found"),
            Some(notes) => unusable(CA_FILE, path, &format!("no readable certificate: {notes}")),
        });
    }
    Ok(read)
}

impl Authorities {
    /// Returns the notes in one line, if there are any.
    pub(super) fn notes(&self) -> Option<String> {
        let more = self.notes.len().saturating_sub(NOTES_MAX);
        let mut text = self.notes.iter().take(NOTES_MAX).cloned().collect::<Vec<_>>().join("; ");
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
        Some(text).filter(|text| !text.is_empty())
    }
}

impl Section<'_> {
    /// Returns the certificate of the section, if it should contain one.
    fn certificate(&self) -> Option<Result<CertificateDer<'static>, &'static str>> {
        let content = self.content.as_ref().map_err(|why| *why);
        match self.label {
            "CERTIFICATE" | "X509 CERTIFICATE" => Some(content.map(|der| CertificateDer::from(der.to_vec()))),
            "TRUSTED CERTIFICATE" => {
                Some(content.and_then(|der| der::trusted(der)).map(|certificate| CertificateDer::from(certificate.to_vec())))
            }
            _ => None,
        }
    }

    fn name(&self) -> String {
        if self.label.is_empty() { "a section".to_owned() } else { format!("a section {:?}", self.label) }
    }

    /// Returns the reason why it is unreadable, as a suffix; empty if it is readable.
    fn why(&self) -> String {
        self.content.as_ref().err().map(|why| format!(": {why}")).unwrap_or_default()
    }

    /// Returns whether it may have been intended as a certificate.
    fn could_be_meant(&self) -> bool {
        self.label.contains("CERT") || self.label.contains("PKCS") || self.content.is_err()
    }
}

/// Reads the certificate chain and key of `tlsCertificateKeyFile`.
///
/// The certificate may have any version: the server decides whether it accepts it.
///
/// # Errors
/// [`ErrorKind::InvalidOption`] with the option's name and path; [`ErrorKind::Unsupported`] for an unsupported type or
/// encryption of the key.
pub(super) fn certificate_and_key(path: &Path, password: Option<&Secret>) -> Result<CertifiedKey, Error> {
    let bytes = read(KEY_FILE, path)?;
    let sections = sections(&bytes).map_err(|why| unusable(KEY_FILE, path, &why))?;
    let mut chain = Vec::new();
    let mut key = None;
    for section in &sections {
        let line = section.line;
        match section.certificate() {
            Some(Ok(certificate)) => chain.push(certificate),
            Some(Err(why)) => return Err(unusable(KEY_FILE, path, &format!("line {line}: the certificate can't be read: {why}"))),
            None if section.label.ends_with("PRIVATE KEY") && key.is_none() => key = Some((line, private_key(path, section, password)?)),
            None if section.could_be_meant() => {
                return Err(unusable(KEY_FILE, path, &format!("line {line}: {} can't be read{}", section.name(), section.why())));
            }
            None => {}
        }
    }
    if chain.is_empty() {
        return Err(unusable(KEY_FILE, path, &"no certificate found"));
    }
    let (line, key) = key.ok_or_else(|| unusable(KEY_FILE, path, &"no private key found"))?;
    let certified = CertifiedKey::new(chain, key);
    if is_mismatch(&certified) {
        let text = format!("the private key in line {line} does not belong to the first certificate");
        return Err(unusable(KEY_FILE, path, &text));
    }
    Ok(certified)
}

/// Returns whether the key is known not to match the certificate.
fn is_mismatch(certified: &CertifiedKey) -> bool {
    let own = certified.key.public_key();
    let own = own.as_ref().and_then(|own| der::PublicKey::parse(own.as_ref()));
    let shown = certified.cert.first().and_then(|certificate| der::Certificate::parse(certificate));
    own.zip(shown).is_none_or(|(own, shown)| own.bits != shown.key.bits)
}

/// Returns the error of an unusable file.
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

/// Reads the key of a section, and leaves no copy in memory.
fn private_key(path: &Path, section: &Section<'_>, password: Option<&Secret>) -> Result<Arc<dyn SigningKey>, Error> {
    let line = section.line;
    let content = match &section.content {
        Ok(content) => content,
        Err(why) if *why == TRADITIONALLY_ENCRYPTED => return Err(unsupported(path, why)),
        Err(why) => return Err(unusable(KEY_FILE, path, &format!("line {line}: the private key can't be read: {why}"))),
    };
    let der = match section.label {
        "PRIVATE KEY" => PrivateKeyDer::from(PrivatePkcs8KeyDer::from(content.to_vec())),
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(content.to_vec()).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(content.to_vec()).into(),
        "ENCRYPTED PRIVATE KEY" => encrypted_key(path, content, password)?,
        label => {
            let text =
                format!("line {line}: a private key of type {label:?} is not supported; convert it with `openssl pkcs8 -topk8 -nocrypt`");
            return Err(unsupported(path, &text));
        }
    };
    let der = WipedKey(der);
    let read = any_supported_type(&der.0);
    read.map_err(|error| match der::unsupported_key(&der.0) {
        Some(curve) => unsupported(
            path,
            &format!(
                "line {line}: the private key has an unsupported curve or algorithm: {curve}; supported are P-256, P-384, Ed25519 and RSA"
            ),
        ),
        None => unusable(KEY_FILE, path, &format!("line {line}: the private key can't be read: {error}")),
    })
}

/// A private key that is wiped when dropped.
struct WipedKey(PrivateKeyDer<'static>);

impl Drop for WipedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(feature = "encrypted-keys")]
fn encrypted_key(path: &Path, der: &[u8], password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, Error> {
    let Some(password) = password else {
        return Err(unusable(KEY_FILE, path, &format!("the key is encrypted, and {PASSWORD} is not set")));
    };
    let encrypted = pkcs8::EncryptedPrivateKeyInfoRef::try_from(der)
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
fn encrypted_key(path: &Path, _der: &[u8], password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, Error> {
    let given = if password.is_some() { "is set, but" } else { "is not set, and" };
    Err(unsupported(path, &format!("the key is encrypted; {PASSWORD} {given} mongolink was built without the feature `encrypted-keys`")))
}
