//! The conversion of bytes to a [`Document`], without recursion.
//!
//! The reader of the `bson` crate needs some 26 KB of stack per level in a debug build, and a worker thread has 2 MiB. Errors
//! contain the path of the unreadable field.

use bson::raw::RawIter;
use bson::{Bson, Document, JavaScriptCodeWithScope, RawDocument};

use crate::error::{Error, ErrorKind};
use crate::wire::depth::{NESTING_DEPTH_MAX, too_deep};

/// The longest field path in an error, in characters.
const PATH_CHARS_MAX: usize = 200;

/// A document or array that is being read.
struct OpenDocument<'a> {
    /// Its key in the parent.
    key: &'a str,
    elements: RawIter<'a>,
    read: Read,
}

/// The part of a document or array that has been read.
enum Read {
    Document(Document),
    Array(Vec<Bson>),
    Scope(String, Document),
}

/// Reads a document to its leaves.
///
/// # Errors
/// [`ErrorKind::Bson`], with the path of the unreadable field; [`ErrorKind::Protocol`] above `NESTING_DEPTH_MAX`.
pub fn read(raw: &RawDocument) -> Result<Document, Error> {
    let mut outer: Vec<OpenDocument<'_>> = Vec::new();
    let mut open = OpenDocument::new("", raw, Read::Document(Document::new()));
    loop {
        let Some(element) = open.elements.next() else {
            let Some(next) = outer.pop() else { return Ok(open.read.into_document()) };
            let done = std::mem::replace(&mut open, next);
            open.read.put(done.key, done.read.into_bson());
            continue;
        };
        let key = element.as_ref().map_or("", |element| element.key().as_str());
        let value = element.and_then(|element| element.value()).map_err(|error| unreadable(&outer, &open, key, error))?;
        let (nested, read) = if let Some(nested) = value.as_document() {
            (nested.as_bytes(), Read::Document(Document::new()))
        } else if let Some(nested) = value.as_array() {
            (nested.as_bytes(), Read::Array(Vec::new()))
        } else if let Some(code) = value.as_javascript_with_scope() {
            (code.scope.as_bytes(), Read::Scope(code.code.to_owned(), Document::new()))
        } else {
            let leaf = Bson::try_from(value).map_err(|error| unreadable(&outer, &open, key, error))?;
            open.read.put(key, leaf);
            continue;
        };
        if outer.len() + 2 > NESTING_DEPTH_MAX {
            return Err(too_deep());
        }
        let nested = RawDocument::from_bytes(nested).map_err(|error| unreadable(&outer, &open, key, error))?;
        outer.push(std::mem::replace(&mut open, OpenDocument::new(key, nested, read)));
    }
}

impl<'a> OpenDocument<'a> {
    fn new(key: &'a str, raw: &'a RawDocument, read: Read) -> Self {
        Self { key, elements: raw.iter_elements(), read }
    }
}

impl Read {
    /// Adds a value; the last value of a key counts, as in the reader of the `bson` crate.
    fn put(&mut self, key: &str, value: Bson) {
        match self {
            Self::Document(document) | Self::Scope(_, document) => {
                document.insert(key, value);
            }
            Self::Array(values) => values.push(value),
        }
    }

    fn into_bson(self) -> Bson {
        match self {
            Self::Document(document) => Bson::Document(document),
            Self::Array(values) => Bson::Array(values),
            Self::Scope(code, scope) => Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code, scope }),
        }
    }

    fn into_document(self) -> Document {
        match self {
            Self::Document(document) | Self::Scope(_, document) => document,
            Self::Array(_) => Document::new(),
        }
    }
}

/// Returns the error of an unreadable field.
#[cold]
fn unreadable(outer: &[OpenDocument<'_>], open: &OpenDocument<'_>, key: &str, error: bson::error::Error) -> Error {
    // Only the error knows the key of an element whose value has an impossible length.
    let last = if key.is_empty() { error.key.as_deref().unwrap_or_default() } else { key };
    let keys = outer.iter().chain([open]).skip(1).map(|open| open.key).chain([last]);
    let path: String = keys.collect::<Vec<_>>().join(".").chars().take(PATH_CHARS_MAX).collect();
    let why = error.message.clone().unwrap_or_else(|| error.kind.to_string());
    Error::new(ErrorKind::Bson, format!("the field {path:?} can't be read: {why}")).because(error)
}

#[cfg(test)]
mod tests {
    use bson::raw::cstr;
    use bson::spec::BinarySubtype;
    use bson::{Binary, DateTime, Decimal128, RawDocumentBuf, Regex, Timestamp, doc, oid::ObjectId, rawdoc};
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn every_type() -> Document {
        doc! {
            "double": 1.5, "string": "text", "document": { "a": { "": [] } }, "array": [1, ["b", { "c": Bson::Null }]],
            "binary": Bson::Binary(Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![1, 2, 3] }),
            "oid": ObjectId::from_bytes([1; 12]), "true": true, "date": DateTime::from_millis(1), "undefined": Bson::Undefined,
            "regex": Bson::RegularExpression(Regex { pattern: cstr!("a").to_owned(), options: cstr!("i").to_owned() }),
            "code": Bson::JavaScriptCode("x".into()), "symbol": Bson::Symbol("s".into()), "int32": 1, "int64": 1_i64,
            "scope": JavaScriptCodeWithScope { code: "f()".into(), scope: doc! { "a": [{ "b": 1 }] } },
            "time": Timestamp { time: 2, increment: 1 }, "decimal": Decimal128::from_bytes([0; 16]), "min": Bson::MinKey, "max": Bson::MaxKey,
        }
    }

    #[test]
    fn every_type_is_read() {
        let document = every_type();
        let raw = RawDocumentBuf::try_from(&document).expect("encoded");
        assert_eq!(read(&raw).expect("readable"), document);
    }

    /// The reader of the `bson` crate is the reference.
    #[test]
    fn random_changes_are_read_or_refused_as_the_crate_does() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(5);
        let plain = RawDocumentBuf::try_from(&every_type()).expect("encoded").into_bytes();
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut bytes = plain.clone();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(4..bytes.len() - 1);
                bytes[place] = random.random();
            }
            let raw = RawDocument::from_bytes(&bytes).expect("framed");
            match (read(raw), Document::try_from(raw)) {
                // NaN is not equal to itself.
                (Ok(own), Ok(model)) => assert_eq!(format!("{own:?}"), format!("{model:?}")),
                (Err(own), Err(_)) => {
                    refused += 1;
                    assert!(own.kind() == ErrorKind::Bson && own.message().starts_with("the field"), "{own}");
                }
                (own, model) => panic!("{own:?} {model:?} of {bytes:?}"),
            }
        }
        assert!((1000..19_000).contains(&refused), "{refused}");
    }

    #[test]
    fn long_paths_are_cut() {
        let key = "k".repeat(1000);
        let mut inner = rawdoc! { "x": "QQ" }.into_bytes();
        let place = inner.len() - 4;
        inner[place] = 0xff;
        let mut outer = RawDocumentBuf::new();
        outer.append(<&bson::raw::CStr>::try_from(key.as_str()).expect("no zero"), RawDocumentBuf::from_bytes(inner).expect("framed"));
        let error = read(&outer).expect_err("not UTF-8");
        assert!(error.to_string().len() < 400, "{error}");
    }
}
