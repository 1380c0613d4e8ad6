//! The nesting depth of a document.
//!
//! Checked before any recursive work on bytes from outside: a few kilobytes can nest a thousand levels.

use super::scan::{Field, Fields, kind};
use crate::error::{Error, ErrorKind, LimitValue};

/// The maximum depth of a document from outside, itself included: servers store up to 180 levels, and wrap them in a few more.
pub const NESTING_DEPTH_MAX: usize = 200;

/// The minimum size of a level, in bytes: a type, the end of an empty key, a length, and a closing byte.
const LEVEL_BYTES_MIN: usize = 7;

impl<'a> Field<'a> {
    /// Returns the nested document, array or scope of the value, if it has one.
    pub fn nested(&self) -> Option<&'a [u8]> {
        match self.kind {
            kind::DOCUMENT | kind::ARRAY => Some(self.value),
            kind::CODE_WITH_SCOPE => {
                let rest = self.value.get(4..)?;
                let length = usize::try_from(u32::from_le_bytes(*rest.first_chunk()?)).ok()?;
                rest.get(length.checked_add(4)?..)
            }
            _ => None,
        }
    }
}

/// Returns the depth of a document, itself included.
///
/// # Errors
/// [`ErrorKind::Protocol`] above `NESTING_DEPTH_MAX`.
pub fn depth(document: &[u8]) -> Result<usize, Error> {
    let mut deepest = 1;
    let mut open = vec![Fields::of(document)];
    while let Some(fields) = open.last_mut() {
        match fields.next() {
            Some(Ok(field)) => {
                if let Some(nested) = field.nested() {
                    open.push(Fields::of(nested));
                    deepest = deepest.max(open.len());
                    if deepest > NESTING_DEPTH_MAX {
                        return Err(too_deep());
                    }
                }
            }
            Some(Err(_)) | None => {
                open.pop();
            }
        }
    }
    Ok(deepest)
}

/// Returns whether a document is deeper than a number of levels.
///
/// # Errors
/// Those of [`depth`].
#[inline]
pub fn is_deeper(document: &[u8], levels: usize) -> Result<bool, Error> {
    // Most documents are too short for that.
    if document.len() < levels.saturating_mul(LEVEL_BYTES_MIN) { Ok(false) } else { Ok(depth(document)? > levels) }
}

/// Returns the error of a document that nests too deep.
pub(crate) fn too_deep() -> Error {
    let limit = u64::try_from(NESTING_DEPTH_MAX).unwrap_or(u64::MAX);
    Error::new(ErrorKind::Protocol, "a document has too many levels of nesting").against("NESTING_DEPTH_MAX", LimitValue::Count(limit))
}

#[cfg(test)]
mod tests {
    use bson::{JavaScriptCodeWithScope, RawDocumentBuf, doc, rawdoc};

    use super::*;

    /// Encodes nested documents by hand: other encoders are recursive.
    fn nested(levels: usize, kind: u8) -> Vec<u8> {
        let mut bytes = rawdoc! {}.into_bytes();
        for _ in 1..levels {
            let length = u32::try_from(bytes.len() + LEVEL_BYTES_MIN).expect("short");
            bytes = [&length.to_le_bytes()[..], &[kind, 0], &bytes, &[0]].concat();
        }
        bytes
    }

    #[test]
    fn levels_are_counted_up_to_the_limit() {
        for levels in [1, 2, 3, 199, NESTING_DEPTH_MAX] {
            for kind in [kind::DOCUMENT, kind::ARRAY] {
                let document = nested(levels, kind);
                assert_eq!(depth(&document).expect("legal"), levels);
                assert!(is_deeper(&document, levels - 1).expect("legal") && !is_deeper(&document, levels).expect("legal"));
            }
        }
        for levels in [NESTING_DEPTH_MAX + 1, 100_000] {
            let error = is_deeper(&nested(levels, kind::ARRAY), 10).expect_err("too deep");
            assert!(error.to_string().contains("limit NESTING_DEPTH_MAX of 200"), "{error}");
        }
    }

    #[test]
    fn scopes_and_siblings_count() {
        let code = JavaScriptCodeWithScope { code: "f()".into(), scope: doc! { "a": [{}] } };
        let document = RawDocumentBuf::try_from(&doc! { "x": {}, "code": code, "y": [[]] }).expect("a document");
        assert_eq!(depth(document.as_bytes()).expect("legal"), 4);
    }
}
