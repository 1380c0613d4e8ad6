//! The storage of secrets.
//!
//! Secrets never reach `Debug`, `Display`, logs or events, and are wiped when dropped.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bson::raw::{BindRawBsonRef, CStr};
use bson::{RawDocument, RawDocumentBuf};
use zeroize::{Zeroize, Zeroizing};

/// A secret text: shared, never printed, wiped when the last clone is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

/// A BSON document that may hold a secret: its bytes are wiped when it is dropped.
pub struct SecretDocument(RawDocumentBuf);

impl Secret {
    /// Stores a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// Returns the text; the caller is responsible for where it goes.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<Zeroizing<String>> for Secret {
    fn from(text: Zeroizing<String>) -> Self {
        Self(Arc::new(text))
    }
}

impl SecretDocument {
    /// Creates a document of public fields, with room for `room` bytes of secret fields after them.
    ///
    /// A field that fits into the room is appended without moving the document, so that no copy stays in freed memory.
    pub fn behind(public: &RawDocument, room: usize) -> Self {
        let mut bytes = Vec::with_capacity(public.as_bytes().len() + room);
        bytes.extend_from_slice(public.as_bytes());
        Self(RawDocumentBuf::from_bytes(bytes).unwrap_or_default())
    }

    /// Appends a field.
    pub fn append(&mut self, key: &CStr, value: impl BindRawBsonRef) {
        self.0.append(key, value);
    }

    /// Takes the document out; the new owner has to wipe it.
    pub fn take(&mut self) -> RawDocumentBuf {
        std::mem::take(&mut self.0)
    }
}

impl From<RawDocumentBuf> for SecretDocument {
    fn from(document: RawDocumentBuf) -> Self {
        Self(document)
    }
}

impl Deref for SecretDocument {
    type Target = RawDocument;

    fn deref(&self) -> &RawDocument {
        &self.0
    }
}

impl Drop for SecretDocument {
    fn drop(&mut self) {
        self.take().into_bytes().zeroize();
    }
}

impl fmt::Debug for SecretDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDocument(***)")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
