//! How is Extended JSON read and written, with its keys in order?
//!
//! Documents and arrays are read and written here, because a map of the JSON crate has no order; what a single value looks
//! like is the bson crate's to say. A number without a type becomes the smallest that holds it: Int32, Int64 or Double.

use std::fmt;

use bson::{Bson, Document, JavaScriptCodeWithScope};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// The keys that make an object a single value, if it begins with one of them.
const TYPES: [&str; 17] = [
    "$oid",
    "$symbol",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$binary",
    "$uuid",
    "$code",
    "$scope",
    "$timestamp",
    "$regularExpression",
    "$dbPointer",
    "$date",
    "$minKey",
    "$maxKey",
    "$undefined",
];

/// Says which Extended JSON is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Readable: plain numbers, dates as text.
    Relaxed,
    /// With the type of every number.
    Canonical,
}

/// Reads a document, relaxed or canonical.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn parse(text: &str) -> Result<Document, String> {
    let Parsed(value) = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Bson::Document(document) = value { Ok(document) } else { Err("not a JSON object".to_owned()) }
}

/// Writes a document on one line.
pub(super) fn write(document: &Document, form: Form) -> String {
    let mut out = String::new();
    put_document(&mut out, document, form);
    out
}

/// Is a value of Extended JSON.
struct Parsed(Bson);

struct ParsedVisitor;

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Bson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Extended JSON")
    }

    fn visit_unit<E>(self) -> Result<Bson, E> {
        Ok(Bson::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Bson, E> {
        Ok(Bson::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Bson, E> {
        Ok(i32::try_from(value).map_or(Bson::Int64(value), Bson::Int32))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Bson, E> {
        let signed = i64::try_from(value)
            .map_err(|_| E::custom(format!("{value} is no 64-bit integer; say {{\"$numberDecimal\": \"{value}\"}}")))?;
        self.visit_i64(signed)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Bson, E> {
        Ok(Bson::Double(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Bson, E> {
        Ok(Bson::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Bson, E> {
        Ok(Bson::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Bson, A::Error> {
        let mut array = Vec::new();
        while let Some(Parsed(value)) = items.next_element()? {
            array.push(value);
        }
        Ok(Bson::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Bson, A::Error> {
        let mut document = Document::new();
        while let Some((key, Parsed(value))) = fields.next_entry::<String, Parsed>()? {
            if document.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is given twice")));
            }
            document.insert(key, value);
        }
        typed(document).map_err(A::Error::custom)
    }
}

/// Makes the single value of an object that stands for one.
fn typed(document: Document) -> Result<Bson, String> {
    if !document.keys().next().is_some_and(|first| TYPES.contains(&first.as_str())) {
        return Ok(Bson::Document(document));
    }
    if let Some(scope) = document.get("$scope") {
        return match (document.get_str("$code"), scope.as_document()) {
            (Ok(code), Some(scope)) if document.len() == 2 => {
                Ok(Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: code.to_owned(), scope: scope.clone() }))
            }
            _ => Err("$scope needs an object, and $code with a text beside it".to_owned()),
        };
    }
    let fields: serde_json::Map<_, _> = document.into_iter().map(|(key, value)| (key, value.into_relaxed_extjson())).collect();
    Bson::try_from(serde_json::Value::Object(fields)).map_err(|error| error.to_string())
}

fn put(out: &mut String, value: &Bson, form: Form) {
    if let Bson::Document(document) = value {
        put_document(out, document, form);
    } else if let Bson::Array(items) = value {
        out.push('[');
        for (index, item) in items.iter().enumerate() {
            separate(out, index);
            put(out, item, form);
        }
        out.push(']');
    } else if let Bson::JavaScriptCodeWithScope(code) = value {
        out.push_str("{\"$code\":");
        put(out, &Bson::String(code.code.clone()), form);
        out.push_str(",\"$scope\":");
        put_document(out, &code.scope, form);
        out.push('}');
    } else {
        let json = match form {
            Form::Relaxed => value.clone().into_relaxed_extjson(),
            Form::Canonical => value.clone().into_canonical_extjson(),
        };
        out.push_str(&json.to_string());
    }
}

fn put_document(out: &mut String, document: &Document, form: Form) {
    out.push('{');
    for (index, (key, value)) in document.iter().enumerate() {
        separate(out, index);
        out.push_str(&serde_json::Value::from(key.as_str()).to_string());
        out.push(':');
        put(out, value, form);
    }
    out.push('}');
}

fn separate(out: &mut String, index: usize) {
    if index > 0 {
        out.push(',');
    }
}
