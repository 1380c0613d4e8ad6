//! TLS connections: rustls with ring, the platform's trust store or `tlsCAFile`, and a client certificate.
//!
//! Does not read PEM files ([`pem`]), nor decide which server certificates are accepted ([`verify`]) or which addresses are
//! tried (`race`: an attempt is TCP and TLS). Certificates are not checked by OCSP or revocation lists, so the options that
//! switch those checks off have no effect.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, ClientConfig, HandshakeKind, InvalidMessage, RootCertStore};

use super::demand::{self, Demand};
use super::stream::{Secured, Stream};
use crate::error::{Error, ErrorKind, Stage};
use crate::host::{Host, ServerAddress};
use crate::options::ClientOptions;

mod der;
mod faults;
mod pem;
mod sections;
mod verify;

use faults::{is_name_fault, is_time_fault};

/// The maximum number of servers whose sessions and demands are kept.
const SESSIONS_MAX: usize = 256;

/// The TLS configuration of a client, shared by its pools so that they resume each other's sessions.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    connector: tokio_rustls::TlsConnector,
    /// The trusted authorities, as text for errors.
    trust: Arc<str>,
    has_certificate: bool,
    /// What the servers requested in their last full handshakes: they do not request it again when a session is resumed.
    demands: Arc<Mutex<Demands>>,
}

type Demands = BTreeMap<ServerAddress, Demand>;

impl TlsConnector {
    /// Reads trust store, authority and key files; blocks.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] with the option's name and path for an unusable file; [`ErrorKind::Unsupported`] for an
    /// unsupported encryption of keys.
    pub(crate) fn load(options: &ClientOptions) -> Result<Self, Error> {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(ErrorKind::Internal, format!("TLS versions: {error}")).at(Stage::Tls))?;
        let (verifier, trust) = verifier(options, provider)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let certificate = match &options.tls_certificate_key_file {
            None => None,
            Some(path) => Some(Arc::new(pem::certificate_and_key(path, options.tls_certificate_key_file_password.as_ref())?)),
        };
        let has_certificate = certificate.is_some();
        let mut config = builder.with_client_cert_resolver(Arc::new(demand::ClientCertificate(certificate)));
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Self { connector: Arc::new(config).into(), trust: trust.into(), has_certificate, demands: Arc::default() })
    }

    /// Negotiates TLS with a host over an open connection.
    ///
    /// # Errors
    /// The kinds of certificate errors; [`ErrorKind::CertificateRequired`] if the server rejects a client without a
    /// certificate; [`ErrorKind::Tls`] if the negotiation fails, [`ErrorKind::Closed`] and [`ErrorKind::Io`] if the connection
    /// fails, [`ErrorKind::Unsupported`] over unix sockets, which have no name to verify.
    pub(crate) async fn connect(&self, host: &ServerAddress, stream: Stream) -> Result<Stream, Error> {
        let tcp = match stream {
            Stream::Tcp(tcp) => tcp,
            #[cfg(unix)]
            Stream::Unix(_) => return Err(Error::new(ErrorKind::Unsupported, "TLS over a unix socket").at(Stage::Tls).on(host)),
            Stream::Tls(_) => return Err(Error::new(ErrorKind::Internal, "TLS within TLS").at(Stage::Tls).on(host)),
        };
        let name = server_name(host)?;
        let (outcome, has_asked) = demand::noting(self.connector.connect(name, tcp)).await;
        let demand = match has_asked {
            false => Demand::None,
            true if self.has_certificate => Demand::Met,
            true => Demand::Unmet,
        };
        match outcome {
            Ok(tls) => {
                let is_resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                Ok(Stream::Tls(Box::new(Secured { demand: self.remember(host, demand, is_resumed), tls })))
            }
            Err(error) => {
                let known = self.demands().get(host).copied();
                Err(explained(self.fault(error), demand.given(known)).on(host))
            }
        }
    }

    /// Stores what a server has requested, or returns the stored value for a resumed session.
    fn remember(&self, host: &ServerAddress, demand: Demand, is_resumed: bool) -> Demand {
        let mut demands = self.demands();
        let known = demands.get(host).copied();
        if is_resumed {
            return known.unwrap_or(demand);
        }
        let demand = demand.given(known);
        if demand == Demand::None {
            demands.remove(host);
        } else {
            insert(&mut demands, host, demand);
        }
        demand
    }

    /// Records that a server has answered a hello, even if its request for a certificate was not met.
    pub(crate) fn greeted(&self, host: &ServerAddress, demand: Demand) {
        if demand == Demand::Unmet {
            insert(&mut self.demands(), host, Demand::Optional);
        }
    }

    fn demands(&self) -> MutexGuard<'_, Demands> {
        self.demands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, error: io::Error) -> Error {
        let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let (kind, text) = match fault {
            Some(rustls::Error::InvalidCertificate(fault)) => self.certificate_fault(fault),
            Some(rustls::Error::InvalidMessage(message)) if is_not_tls(*message) => {
                (ErrorKind::Tls, "the server does not use TLS on this port".to_owned())
            }
            Some(rustls::Error::AlertReceived(alert)) => (ErrorKind::Tls, format!("the server rejected the handshake: alert {alert:?}")),
            Some(other) => (ErrorKind::Tls, other.to_string()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                let text = "the server closed the connection during the TLS handshake; does it use TLS on this port?";
                (ErrorKind::Closed, text.to_owned())
            }
            None => return super::local::socket_error(Stage::Tls, error),
        };
        Error::new(kind, text).at(Stage::Tls).because(error)
    }

    fn certificate_fault(&self, fault: &CertificateError) -> (ErrorKind, String) {
        let trust = &self.trust;
        let text = if let CertificateError::Other(other) = fault { other.0.to_string() } else { fault.to_string() };
        if matches!(fault, CertificateError::UnknownIssuer) {
            (ErrorKind::CertificateUnknownIssuer, format!("the certificate's issuer is not in {trust}"))
        } else if matches!(fault, CertificateError::BadSignature) {
            // A private authority that was recreated under its old name looks like this.
            (ErrorKind::CertificateUnknownIssuer, format!("the certificate is not signed by the authority of that name in {trust}"))
        } else if text.contains("CaUsedAsEndEntity") {
            let text = format!("the certificate is that of an authority, which a server may use only if it is itself in {trust}");
            (ErrorKind::CertificateUnknownIssuer, text)
        } else if let CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { public_key_algorithm_id, .. } = fault {
            let curve = der::unsupported_algorithm(public_key_algorithm_id).unwrap_or(text);
            (ErrorKind::Certificate, format!("a certificate of the server is signed with an unsupported key: {curve}"))
        } else if matches!(fault, CertificateError::UnsupportedSignatureAlgorithmContext { .. }) {
            (ErrorKind::Certificate, format!("the certificate is not valid: {text}; it must be signed by one in {trust}"))
        } else if is_name_fault(fault) {
            (ErrorKind::CertificateName, text)
        } else if is_time_fault(fault) {
            (ErrorKind::CertificateExpired, text)
        } else {
            (ErrorKind::Certificate, format!("the certificate is not valid: {text}"))
        }
    }
}

fn insert(demands: &mut Demands, host: &ServerAddress, demand: Demand) {
    demands.insert(host.clone(), demand);
    while demands.len() > SESSIONS_MAX {
        demands.pop_first();
    }
}

/// Returns the error of a socket, which may be one of TLS.
#[cold]
pub(crate) fn socket_fault(stage: Stage, error: io::Error) -> Error {
    let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match fault {
        Some(rustls::Error::AlertReceived(alert)) => {
            let text = format!("the server ended the TLS connection: alert {alert:?}");
            Error::new(ErrorKind::Tls, text).at(stage).because(error)
        }
        Some(fault) => Error::new(ErrorKind::Tls, format!("the TLS connection failed: {fault}")).at(stage).because(error),
        // A connection that ends without a TLS alert is closed like any other.
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Closed, "connection closed by the server").at(stage).because(error)
        }
        None => super::local::socket_error(stage, error),
    }
}

/// Explains the end of a connection by the server's request for a certificate, if that can be the reason.
///
/// A server's rejection of a client certificate arrives with the handshake in TLS 1.2 and after it in TLS 1.3; some servers
/// just close the connection. A plain close has other reasons, too: the error then keeps its kind, and its text mentions this
/// one.
pub(crate) fn explained(error: Error, demand: Demand) -> Error {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let alert = alert_of(&error);
    let is_closed = matches!(error.kind(), ErrorKind::Closed | ErrorKind::Io(ConnectionReset | ConnectionAborted | BrokenPipe));
    match (demand, alert) {
        (Demand::Unmet | Demand::Optional, Some(alert)) if is_about_certificate(alert) || is_without_reason(alert, demand) => {
            let text = format!(
                "the server demands a client certificate, got none, and answered with the alert {alert:?}: set {} to a file with one \
                 and its key",
                pem::KEY_FILE
            );
            Error::new(ErrorKind::CertificateRequired, text).at(Stage::Tls).because(error)
        }
        (Demand::Unmet, alert) if is_closed || alert.is_some() => error.adding(&format!(
            "the server asks for a client certificate, got none, and may demand one: see its log, or set {} to a file with one and \
             its key",
            pem::KEY_FILE
        )),
        (Demand::Met, Some(alert)) if is_about_certificate(alert) => {
            let text =
                format!("the server did not accept the client certificate of {}, and answered with the alert {alert:?}", pem::KEY_FILE);
            Error::new(ErrorKind::Tls, text).at(Stage::Tls).because(error)
        }
        (Demand::Met, alert) if is_closed || alert.is_some() => {
            error.adding(&format!("the server got the client certificate of {}: it may not accept it, see its log", pem::KEY_FILE))
        }
        (Demand::None | Demand::Unmet | Demand::Optional | Demand::Met, _) => error,
    }
}

/// Returns whether this is the alert of TLS 1.2 for a handshake that lacks something, and only the certificate is known to be
/// missing.
fn is_without_reason(alert: AlertDescription, demand: Demand) -> bool {
    alert == AlertDescription::HandshakeFailure && demand == Demand::Unmet
}

/// Returns the TLS alert of an error.
fn alert_of(error: &Error) -> Option<AlertDescription> {
    let source = error.underlying()?.downcast_ref::<io::Error>()?;
    let fault = source.get_ref()?.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::AlertReceived(alert) = fault { Some(*alert) } else { None }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// Returns the name that the certificate must contain: the A-label form, or the address of a numeric host.
fn server_name(host: &ServerAddress) -> Result<ServerName<'static>, Error> {
    match host.host() {
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|error| {
            Error::new(ErrorKind::CertificateName, format!("not a valid host name for a certificate: {error}")).at(Stage::Tls).on(host)
        }),
        Host::V4(address) => Ok(ServerName::from(std::net::IpAddr::V4(*address))),
        Host::V6(address, _) => Ok(ServerName::from(std::net::IpAddr::V6(*address))),
        Host::Unix(_) => Err(Error::new(ErrorKind::Unsupported, "TLS over a unix socket").at(Stage::Tls).on(host)),
    }
}

/// Returns whether the first bytes of the answer are not a TLS record.
fn is_not_tls(message: InvalidMessage) -> bool {
    matches!(
        message,
        InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload
    )
}

/// Returns the verifier for the options, and a description of the trusted authorities.
fn verifier(options: &ClientOptions, provider: Arc<CryptoProvider>) -> Result<(Arc<dyn ServerCertVerifier>, String), Error> {
    let insecure = options.tls_insecure == Some(true);
    // The file is read even if no certificate is rejected: a wrong path is an error now, not once the option is removed.
    let own = match &options.tls_ca_file {
        Some(path) => Some((pem::authorities(path)?, format!("{} {}", pem::CA_FILE, path.display()))),
        None => None,
    };
    if insecure || options.tls_allow_invalid_certificates == Some(true) {
        return Ok((Arc::new(verify::AnyCertificate(provider)), "anything".to_owned()));
    }
    let (roots, listed, trust) = match own {
        Some((own, file)) => {
            let trust = own.notes().map_or_else(|| file.clone(), |notes| format!("{file} (where {notes})"));
            (own.roots, own.listed, trust)
        }
        None => (platform_authorities()?, Vec::new(), "the platform's trust store".to_owned()),
    };
    let algorithms = provider.signature_verification_algorithms;
    let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Error::new(ErrorKind::InvalidOption, format!("{trust}: {error}")).at(Stage::Tls))?;
    let any_name = options.tls_allow_invalid_hostnames == Some(true);
    Ok((Arc::new(verify::Trusted { strict, listed, algorithms, any_name }), trust))
}

fn platform_authorities() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(usable, ignored, errors = found.errors.len(), "platform's trust store");
    if usable == 0 {
        let text = format!("the platform's trust store has no usable certificate; set {} to use another", pem::CA_FILE);
        let error = Error::new(ErrorKind::InvalidOption, text).at(Stage::Tls);
        return Err(match found.errors.into_iter().next() {
            Some(cause) => error.because(cause),
            None => error,
        });
    }
    Ok(roots)
}

impl std::fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConnector").field("trust", &self.trust).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
