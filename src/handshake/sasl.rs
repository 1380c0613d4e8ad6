//! How do SASL messages travel in commands?
//!
//! `saslStart`, `saslContinue` and the three fields of their replies (auth). What is in a payload is decided in `auth`.

use bson::raw::{RawBinaryRef, RawBson, cstr};
use bson::spec::BinarySubtype;
use bson::{RawDocument, RawDocumentBuf};

use crate::auth::{Mechanism, SecretDocument};
use crate::wire::scan::Fields;

/// Is what a server says in a SASL exchange.
pub(super) struct SaslAnswer<'a> {
    /// Whether the server is done with it.
    pub(super) done: bool,
    /// Its message.
    pub(super) payload: Option<&'a [u8]>,
    /// Its name of the exchange, of any type, to be given back.
    pub(super) conversation_id: Option<RawBson>,
}

/// Builds `saslStart`. A SCRAM asks to skip the empty exchange at the end; servers may ignore that.
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
    /// Reads what can be read; a field of a wrong type is missing.
    pub(super) fn parse(document: &'a RawDocument) -> Self {
        let payload = Fields::find(document, "payload");
        // A field before it that can't be read is passed over.
        let conversation_id = document.iter_elements().map_while(Result::ok).find(|element| element.key() == "conversationId");
        Self {
            done: Fields::find(document, "done").is_some_and(|field| field.truth()),
            payload: payload.and_then(|field| field.binary().or_else(|| field.text_bytes())),
            conversation_id: conversation_id.and_then(|element| element.value().ok()).map(RawBson::from),
        }
    }
}

/// What the field `payload` takes beside its bytes, and more: type, name, length and subtype.
const FIELD_BYTES: usize = 32;
