//! How is a connection secured?
//!
//! rustls with ring: the platform's trust store or `tlsCAFile`, a client certificate, and the three options that forgive
//! something. PEM files are read in [`pem`]. Which addresses are tried is decided in `race`: an attempt is TCP and TLS.
//! Certificates are not looked up by OCSP or revocation lists, so the options that switch that off change nothing.

use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, RootCertStore, SignatureScheme};

use super::stream::Stream;
use crate::error::{Error, ErrorKind, Stage};
use crate::host::{Host, HostKey};
use crate::options::ClientOptions;

mod pem;

/// How many servers' sessions are kept for resumption.
const SESSIONS_MAX: usize = 256;

/// Secures connections; made once for a client, so that all its pools resume each other's sessions.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    connector: tokio_rustls::TlsConnector,
    trust: Arc<str>,
}

impl TlsConnector {
    /// Reads trust store, authority and key files; blocks meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] with the option's name and path for a file that can't be used;
    /// [`ErrorKind::Unsupported`] for a way of encrypting keys that is not served.
    pub(crate) fn load(options: &ClientOptions) -> Result<Self, Error> {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(ErrorKind::Internal, format!("TLS versions: {error}")).at(Stage::Tls))?;
        let (verifier, trust) = verifier(options, provider)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &options.tls_certificate_key_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let (chain, key) = pem::certificate_and_key(path, options.tls_certificate_key_file_password.as_ref())?;
                builder.with_client_auth_cert(chain, key).map_err(|error| pem::unusable(pem::KEY_FILE, path, &error))?
            }
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Self { connector: Arc::new(config).into(), trust: trust.into() })
    }

    /// Negotiates TLS with a host over an open connection.
    ///
    /// # Errors
    /// The kinds of certificate errors, [`ErrorKind::Tls`] if no agreement is reached, [`ErrorKind::Closed`] and
    /// [`ErrorKind::Io`] if the connection fails, [`ErrorKind::Unsupported`] over unix sockets, which have no name to verify.
    pub(crate) async fn connect(&self, host: &HostKey, stream: Stream) -> Result<Stream, Error> {
        let tcp = match stream {
            Stream::Tcp(tcp) => tcp,
            #[cfg(unix)]
            Stream::Unix(_) => return Err(Error::new(ErrorKind::Unsupported, "TLS over a unix socket").at(Stage::Tls).on(host)),
            Stream::Tls(_) => return Err(Error::new(ErrorKind::Internal, "TLS within TLS").at(Stage::Tls).on(host)),
        };
        let name = server_name(host)?;
        match self.connector.connect(name, tcp).await {
            Ok(tls) => Ok(Stream::Tls(Box::new(tls))),
            Err(error) => Err(self.fault(error).on(host)),
        }
    }

    fn fault(&self, error: io::Error) -> Error {
        let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let (kind, text) = match fault {
            Some(rustls::Error::InvalidCertificate(fault)) => self.certificate_fault(fault),
            Some(rustls::Error::InvalidMessage(message)) if is_not_tls(*message) => {
                (ErrorKind::Tls, "the server does not speak TLS on this port".to_owned())
            }
            Some(rustls::Error::AlertReceived(alert)) => (ErrorKind::Tls, format!("the server refused the handshake: alert {alert:?}")),
            Some(other) => (ErrorKind::Tls, other.to_string()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                let text = "the server closed the connection in the TLS handshake; does it speak TLS on this port?";
                (ErrorKind::Closed, text.to_owned())
            }
            None => return Error::io(Stage::Tls, error),
        };
        Error::new(kind, text).at(Stage::Tls).because(error)
    }

    fn certificate_fault(&self, fault: &CertificateError) -> (ErrorKind, String) {
        if matches!(fault, CertificateError::UnknownIssuer) {
            (ErrorKind::CertificateUnknownIssuer, format!("the certificate's issuer is not in {}", self.trust))
        } else if matches!(fault, CertificateError::BadSignature) {
            // What a private authority made anew under its old name looks like.
            (ErrorKind::CertificateUnknownIssuer, format!("the certificate is not signed by the authority of that name in {}", self.trust))
        } else if is_name_fault(fault) {
            (ErrorKind::CertificateName, fault.to_string())
        } else if is_time_fault(fault) {
            (ErrorKind::CertificateExpired, fault.to_string())
        } else {
            (ErrorKind::Certificate, format!("the certificate is not valid: {fault}"))
        }
    }
}

/// The name that the certificate must be for: the A-label form, or the address of a numeric host.
fn server_name(host: &HostKey) -> Result<ServerName<'static>, Error> {
    match host.host() {
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|error| {
            Error::new(ErrorKind::CertificateName, format!("no certificate can be for this host name: {error}")).at(Stage::Tls).on(host)
        }),
        Host::V4(address) => Ok(ServerName::from(std::net::IpAddr::V4(*address))),
        Host::V6(address, _) => Ok(ServerName::from(std::net::IpAddr::V6(*address))),
        Host::Unix(_) => Err(Error::new(ErrorKind::Unsupported, "TLS over a unix socket").at(Stage::Tls).on(host)),
    }
}

/// Whether the first bytes of the answer are no TLS record at all.
fn is_not_tls(message: InvalidMessage) -> bool {
    matches!(
        message,
        InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload
    )
}

fn is_name_fault(fault: &CertificateError) -> bool {
    matches!(fault, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
}

fn is_time_fault(fault: &CertificateError) -> bool {
    matches!(
        fault,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

/// The verifier that the options ask for, and what it trusts, in words.
fn verifier(options: &ClientOptions, provider: Arc<CryptoProvider>) -> Result<(Arc<dyn ServerCertVerifier>, String), Error> {
    let insecure = options.tls_insecure == Some(true);
    // The file is read even if no certificate is refused: a wrong path is told now, not when the option is taken away.
    let own = match &options.tls_ca_file {
        Some(path) => Some((pem::authorities(path)?, format!("{} {}", pem::CA_FILE, path.display()))),
        None => None,
    };
    if insecure || options.tls_allow_invalid_certificates == Some(true) {
        return Ok((Arc::new(AnyCertificate(provider)), "anything".to_owned()));
    }
    let (roots, trust) = match own {
        Some(own) => own,
        None => (platform_authorities()?, "the platform's trust store".to_owned()),
    };
    let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Error::new(ErrorKind::InvalidOption, format!("{trust}: {error}")).at(Stage::Tls))?;
    match options.tls_allow_invalid_hostnames {
        Some(true) => Ok((Arc::new(AnyName(strict)), trust)),
        Some(false) | None => Ok((strict, trust)),
    }
}

fn platform_authorities() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(usable, ignored, errors = found.errors.len(), "platform's trust store");
    if usable == 0 {
        let text = format!("the platform's trust store has no usable certificate; {} names another", pem::CA_FILE);
        let error = Error::new(ErrorKind::InvalidOption, text).at(Stage::Tls);
        return Err(match found.errors.into_iter().next() {
            Some(cause) => error.because(cause),
            None => error,
        });
    }
    Ok(roots)
}

/// Accepts every certificate (`tlsInsecure`, `tlsAllowInvalidCertificates`): without a trusted issuer its name says nothing.
/// The handshake's signature is still verified, so the server holds the certificate's key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

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
        crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifies the chain and forgives the name (`tlsAllowInvalidHostnames`). rustls looks at the name last: an error about it
/// means that all else is well.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(fault)) if is_name_fault(&fault) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

impl std::fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConnector").field("trust", &self.trust).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
