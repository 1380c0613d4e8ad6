//! The Extended JSON parser, which keeps the order of keys.
//!
//! Documents and arrays are parsed here, because a map of the JSON crate is unordered; single values are parsed by the bson
//! crate. A number without a type becomes the smallest type that holds it: Int32, Int64 or Double. Does not print Extended JSON
//! (`operation::json`).

use std::fmt;

use bson::{Bson, Document, JavaScriptCodeWithScope};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// The first keys that mark an object as a single value.
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

/// Parses a document, relaxed or canonical.
///
/// # Errors
/// The fault and its position.
pub fn parse(text: &str) -> Result<Document, String> {
    let Parsed(value) = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Bson::Document(document) = value { Ok(document) } else { Err("not a JSON object".to_owned()) }
}

/// A value of Extended JSON.
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
            .map_err(|_| E::custom(format!("{value} is not a 64-bit integer; use {{\"$numberDecimal\": \"{value}\"}}")))?;
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
                return Err(A::Error::custom(format!("duplicate key {key:?}")));
            }
            document.insert(key, value);
        }
        typed(document).map_err(A::Error::custom)
    }
}

/// Converts an object that represents a single value.
fn typed(document: Document) -> Result<Bson, String> {
    if !document.keys().next().is_some_and(|first| TYPES.contains(&first.as_str())) {
        return Ok(Bson::Document(document));
    }
    if let Some(scope) = document.get("$scope") {
        return match (document.get_str("$code"), scope.as_document()) {
            (Ok(code), Some(scope)) if document.len() == 2 => {
                Ok(Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: code.to_owned(), scope: scope.clone() }))
            }
            _ => Err("$scope must be an object, beside $code with a text".to_owned()),
        };
    }
    let fields: serde_json::Map<_, _> = document.into_iter().map(|(key, value)| (key, value.into_relaxed_extjson())).collect();
    Bson::try_from(serde_json::Value::Object(fields)).map_err(|error| error.to_string())
}
