//! Has the server asked for a client certificate, and what was it given?
//!
//! A server that asks and gets none may go on, refuse the handshake, or close the connection after it: in TLS 1.3 its
//! refusal comes with the first read. What is known here explains such an end.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::sign::CertifiedKey;

thread_local! {
    /// Whether a server has asked since this was reset. rustls asks for the certificate within one poll of a handshake, and
    /// does not say for which.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the server has asked for a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// It has not.
    None,
    /// It has, and none was sent.
    Unmet,
    /// It has, none was sent, and it has answered a hello without one before.
    Optional,
    /// It has, and was sent the one that is configured.
    Met,
}

impl Demand {
    /// Returns the demand as it is seen with what an earlier connection has shown.
    pub(super) fn given(self, known: Option<Self>) -> Self {
        if self == Self::Unmet && known == Some(Self::Optional) { Self::Optional } else { self }
    }
}

/// The certificate that servers are shown, if there is one.
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

/// Drives a handshake, and tells whether the server has asked for a certificate in it.
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
