//! The verification of server certificates.
//!
//! Accepted are certificates that webpki accepts, self-signed certificates that are listed in `tlsCAFile`, and what the options
//! permit (`tlsAllowInvalidHostnames`, `tlsAllowInvalidCertificates`, `tlsInsecure`). A handshake's signature is always
//! verified, so the server holds the certificate's key. Certificates are not checked by OCSP or revocation lists.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{self, CertificateError, DigitallySignedStruct, OtherError, PeerMisbehaved, SignatureScheme};

use super::der;
use super::faults::{is_name_fault, is_time_fault};

/// The verifier that accepts every certificate of any version: without a trusted issuer its name means nothing.
#[derive(Debug)]
pub(super) struct AnyCertificate(pub(super) Arc<CryptoProvider>);

/// The verifier of the chain and, unless the option permits any name, the name.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) strict: Arc<WebPkiServerVerifier>,
    /// The certificates of `tlsCAFile`.
    pub(super) listed: Vec<CertificateDer<'static>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) any_name: bool,
}

impl Trusted {
    /// Verifies a self-signed certificate that is trusted because it is listed: it has to be valid now, and for the name.
    fn verify_listed(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>, time: UnixTime) -> Option<Result<(), rustls::Error>> {
        if !self.listed.iter().any(|own| own == certificate) {
            return None;
        }
        let parsed = der::Certificate::parse(certificate).filter(|parsed| parsed.issuer == parsed.subject)?;
        let at = |seconds: i64| UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
        let now = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Some(if now < parsed.not_before {
            Err(CertificateError::NotValidYetContext { time, not_before: at(parsed.not_before) }.into())
        } else if now > parsed.not_after {
            Err(CertificateError::ExpiredContext { time, not_after: at(parsed.not_after) }.into())
        } else {
            match ParsedCertificate::try_from(certificate) {
                Ok(readable) => verify_server_name(&readable, name),
                // A certificate of version 1 has no names to verify.
                Err(_) => Err(CertificateError::NotValidForNameContext { expected: name.to_owned(), presented: Vec::new() }.into()),
            }
        })
    }
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut verdict = self.strict.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).map(drop);
        if let Err(rustls::Error::InvalidCertificate(fault)) = &verdict
            && !is_of_name_or_time(fault)
            && let Some(listed) = self.verify_listed(end_entity, server_name, now)
        {
            verdict = listed;
        }
        match verdict {
            Err(rustls::Error::InvalidCertificate(fault)) if !is_of_name_or_time(&fault) && is_version_1(end_entity) => {
                Err(CertificateError::Other(OtherError(Arc::new(Version1))).into())
            }
            Ok(()) => Ok(ServerCertVerified::assertion()),
            // The name is checked last: a name error means that everything else is valid.
            Err(rustls::Error::InvalidCertificate(fault)) if self.any_name && is_name_fault(&fault) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The error of a certificate whose version is too old for verification.
#[derive(Debug)]
struct Version1;

impl fmt::Display for Version1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is of X.509 version 1, which has no names to verify; create one of version 3")
    }
}

impl std::error::Error for Version1 {}

/// Returns whether a fault concerns only the name or the time of a certificate with a trusted issuer.
fn is_of_name_or_time(fault: &CertificateError) -> bool {
    is_name_fault(fault) || is_time_fault(fault)
}

fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    der::Certificate::parse(certificate).is_some_and(|parsed| parsed.is_version_1)
}

/// Verifies a signature of TLS 1.2 with the key of a certificate of any version.
fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = key_of(certificate)?;
    let known = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signature.scheme);
    let Some((_, possible)) = known else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    let mut fitting = possible.iter().filter(|algorithm| algorithm.public_key_alg_id().as_ref() == key.algorithm).peekable();
    if fitting.peek().is_none() {
        let public_key_algorithm_id = key.algorithm.to_vec();
        let signature_algorithm_id = possible.first().map(|algorithm| algorithm.signature_alg_id().to_vec()).unwrap_or_default();
        return Err(
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { signature_algorithm_id, public_key_algorithm_id }.into()
        );
    }
    if fitting.any(|algorithm| algorithm.verify_signature(key.bits, message, signature.signature()).is_ok()) {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

/// Verifies a signature of TLS 1.3 with the key of a certificate of any version.
fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = SubjectPublicKeyInfoDer::from(key_of(certificate)?.whole);
    verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
}

fn key_of<'a>(certificate: &'a CertificateDer<'_>) -> Result<der::PublicKey<'a>, rustls::Error> {
    der::Certificate::parse(certificate).map(|parsed| parsed.key).ok_or_else(|| CertificateError::BadEncoding.into())
}
