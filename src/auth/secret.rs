//! How is a secret kept?
//!
//! Secrets never reach `Debug`, `Display`, logs or events, and are wiped when dropped.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bson::raw::{BindRawBsonRef, CStr};
use bson::{RawDocument, RawDocumentBuf};
use zeroize::{Zeroize, Zeroizing};

/// Holds a secret text: shared, never printed, wiped when its last holder drops it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

/// A BSON document that may hold a secret: its bytes are wiped when it is dropped.
pub struct SecretDocument(RawDocumentBuf);

impl Secret {
    /// Takes a text into keeping.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// Shows the text; whoever calls this answers for where it goes.
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
    /// Makes a document of public fields, with room for `room` bytes of secret ones behind them.
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

    /// Takes the document out; its new owner wipes it.
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
