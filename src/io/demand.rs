//! The server's request for a client certificate, and the client's answer.
//!
//! A server that requests a certificate and gets none may continue, fail the handshake, or close the connection after it: in
//! TLS 1.3 its rejection arrives with the first read. The state recorded here explains such an end.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::sign::CertifiedKey;

thread_local! {
    /// Whether a server has requested a certificate since the last reset. rustls asks for the certificate within one poll of a
    /// handshake, without the connection's identity.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// The server's request for a client certificate, and the answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// No request.
    None,
    /// A request, and no certificate was sent.
    Unmet,
    /// A request, and no certificate was sent; the server has answered a hello without one before.
    Optional,
    /// A request, and the configured certificate was sent.
    Met,
}

impl Demand {
    /// Returns the demand, combined with what an earlier connection has shown.
    pub(super) fn given(self, known: Option<Self>) -> Self {
        if self == Self::Unmet && known == Some(Self::Optional) { Self::Optional } else { self }
    }
}

/// The configured client certificate, if any.
#[derive(Debug)]
pub(super) struct ClientCertificate(pub(super) Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        ASKED.set(true);
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Drives a handshake, and returns whether the server requested a certificate in it.
pub(super) async fn noting<T>(handshake: impl Future<Output = T>) -> (T, bool) {
    let mut handshake = pin!(handshake);
    let mut has_asked = false;
    let outcome = poll_fn(|context| {
        ASKED.set(false);
        let polled = handshake.as_mut().poll(context);
        has_asked |= ASKED.get();
        polled
    })
    .await;
    (outcome, has_asked)
}
