//! SASL messages in commands: `saslStart`, `saslContinue`, and their replies (auth).
//!
//! Does not decide the contents of a payload (`auth`).

use bson::raw::{RawBinaryRef, RawBson, cstr};
use bson::spec::BinarySubtype;
use bson::{RawDocument, RawDocumentBuf};

use crate::auth::{Mechanism, SecretDocument};
use crate::wire::scan::Fields;

/// A server's reply in a SASL exchange.
pub(super) struct SaslAnswer<'a> {
    /// Whether the exchange is complete.
    pub(super) done: bool,
    /// The server's message.
    pub(super) payload: Option<&'a [u8]>,
    /// The server's id of the exchange, of any type, to be sent back.
    pub(super) conversation_id: Option<RawBson>,
}

/// Builds `saslStart`. SCRAM requests to skip the empty exchange at the end; servers may ignore that.
pub(super) fn start(mechanism: Mechanism, payload: &[u8]) -> SecretDocument {
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("saslStart"), 1_i32);
    body.append(cstr!("mechanism"), mechanism.name());
    if matches!(mechanism, Mechanism::ScramSha1 | Mechanism::ScramSha256) {
        let mut options = RawDocumentBuf::new();
        options.append(cstr!("skipEmptyExchange"), true);
        body.append(cstr!("options"), options);
    }
    with_payload(&body, payload)
}

/// Builds `saslContinue`.
pub(super) fn proceed(conversation_id: &RawBson, payload: &[u8]) -> SecretDocument {
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("saslContinue"), 1_i32);
    body.append(cstr!("conversationId"), conversation_id);
    with_payload(&body, payload)
}

/// Appends the payload, which may hold a secret.
fn with_payload(public: &RawDocument, payload: &[u8]) -> SecretDocument {
    let mut body = SecretDocument::behind(public, payload.len() + FIELD_BYTES);
    body.append(cstr!("payload"), RawBinaryRef { subtype: BinarySubtype::Generic, bytes: payload });
    body
}

impl<'a> SaslAnswer<'a> {
    /// Reads the readable fields; a field of a wrong type counts as missing.
    pub(super) fn parse(document: &'a RawDocument) -> Self {
        let payload = Fields::find(document, "payload");
        // An unreadable field before it is skipped.
        let conversation_id = document.iter_elements().map_while(Result::ok).find(|element| element.key() == "conversationId");
        Self {
            done: Fields::find(document, "done").is_some_and(|field| field.truth()),
            payload: payload.and_then(|field| field.binary().or_else(|| field.text_bytes())),
            conversation_id: conversation_id.and_then(|element| element.value().ok()).map(RawBson::from),
        }
    }
}

/// The size of the field `payload` beside its bytes, rounded up: type, name, length and subtype.
const FIELD_BYTES: usize = 32;
