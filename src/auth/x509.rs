//! How does a client certificate log in?
//!
//! MONGODB-X509 (auth, "MONGODB-X509"): TLS has shown the certificate already; one command asks the server to take its
//! subject as the user.

use bson::RawDocumentBuf;
use bson::raw::cstr;

use super::Mechanism;

/// Builds the `authenticate` command; without a user the server takes the certificate's subject.
pub(crate) fn authenticate(user: Option<&str>) -> RawDocumentBuf {
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("authenticate"), 1_i32);
    body.append(cstr!("mechanism"), Mechanism::X509.name());
    if let Some(user) = user.filter(|user| !user.is_empty()) {
        body.append(cstr!("user"), user);
    }
    body
}
