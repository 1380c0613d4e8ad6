//! The MONGODB-X509 mechanism.
//!
//! TLS has presented the certificate already; one command makes the server use its subject as the user (auth, "MONGODB-X509").

use bson::RawDocumentBuf;
use bson::raw::cstr;

use super::Mechanism;

/// Builds the `authenticate` command; without a user the server uses the certificate's subject.
pub(crate) fn authenticate(user: Option<&str>) -> RawDocumentBuf {
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("authenticate"), 1_i32);
    body.append(cstr!("mechanism"), Mechanism::X509.name());
    if let Some(user) = user.filter(|user| !user.is_empty()) {
        body.append(cstr!("user"), user);
    }
    body
}
