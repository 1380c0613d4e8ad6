//! How does a document read as text?
//!
//! Relaxed Extended JSON, for people and logs, in the order of the document's fields. Nothing is read back here.

use std::fmt::{self, Display, Write as _};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::raw::RawBsonRef;
use bson::{Binary, RawDocument};

/// Prints a document as relaxed Extended JSON, on one line.
///
/// Malformed bytes end the text where they are met.
///
/// ```
/// use mongolink::bson::rawdoc;
/// use mongolink::op::json::Json;
/// let document = rawdoc! { "ok": 1.0, "hosts": ["a:27017"] };
/// assert_eq!(Json::of(&document).to_string(), r#"{"ok":1.0,"hosts":["a:27017"]}"#);
/// assert_eq!(Json::of(&document).cut(8).to_string(), r#"{"ok":1...."#);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Json<'a> {
    document: &'a RawDocument,
    chars_max: usize,
}

/// Lets so many characters pass, and three dots in place of the rest.
struct Cut<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    left: usize,
    is_cut: bool,
}

impl<'a> Json<'a> {
    /// Prints the whole document.
    pub fn of(document: &'a RawDocument) -> Self {
        Self { document, chars_max: usize::MAX }
    }

    /// Prints no more than this many characters of it, and three dots where that is not all.
    #[must_use]
    pub fn cut(self, chars_max: usize) -> Self {
        Self { chars_max, ..self }
    }
}

impl Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cut = Cut { out: f, left: self.chars_max, is_cut: false };
        let outcome = put_document(&mut cut, self.document, 0);
        // An error that only says "enough" is none.
        if cut.is_cut { f.write_str("...") } else { outcome }
    }
}

impl fmt::Write for Cut<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match text.char_indices().nth(self.left) {
            None => {
                self.left -= text.chars().count();
                self.out.write_str(text)
            }
            Some((at, _)) => {
                self.left = 0;
                self.is_cut = true;
                self.out.write_str(text.get(..at).unwrap_or_default())?;
                Err(fmt::Error)
            }
        }
    }
}

fn put_document(out: &mut Cut<'_, '_>, document: &RawDocument, depth: usize) -> fmt::Result {
    if depth > DEPTH_MAX {
        return out.write_str("{}");
    }
    out.write_char('{')?;
    for (index, element) in document.iter().map_while(Result::ok).enumerate() {
        let (key, value) = element;
        if index > 0 {
            out.write_char(',')?;
        }
        put_text(out, key.as_str())?;
        out.write_char(':')?;
        put(out, value, depth)?;
    }
    out.write_char('}')
}

fn put(out: &mut Cut<'_, '_>, value: RawBsonRef<'_>, depth: usize) -> fmt::Result {
    match value {
        RawBsonRef::Double(number) if number.is_finite() => write!(out, "{number:?}"),
        RawBsonRef::Double(number) if number.is_nan() => out.write_str(r#"{"$numberDouble":"NaN"}"#),
        RawBsonRef::Double(number) => {
            write!(out, r#"{{"$numberDouble":"{}Infinity"}}"#, if number.is_sign_negative() { "-" } else { "" })
        }
        RawBsonRef::String(text) => put_text(out, text),
        RawBsonRef::Array(items) => {
            out.write_char('[')?;
            for (index, item) in items.into_iter().map_while(Result::ok).enumerate() {
                if index > 0 {
                    out.write_char(',')?;
                }
                put_deeper(out, item, depth)?;
            }
            out.write_char(']')
        }
        RawBsonRef::Document(document) => put_document(out, document, depth + 1),
        RawBsonRef::Boolean(truth) => write!(out, "{truth}"),
        RawBsonRef::Null => out.write_str("null"),
        RawBsonRef::RegularExpression(regex) => {
            out.write_str(r#"{"$regularExpression":{"pattern":"#)?;
            put_text(out, regex.pattern.as_str())?;
            out.write_str(r#","options":"#)?;
            put_text(out, regex.options.as_str())?;
            out.write_str("}}")
        }
        RawBsonRef::JavaScriptCode(code) => put_named(out, "$code", code),
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            out.write_str(r#"{"$code":"#)?;
            put_text(out, code.code)?;
            out.write_str(r#","$scope":"#)?;
            put_document(out, code.scope, depth + 1)?;
            out.write_char('}')
        }
        RawBsonRef::Int32(number) => write!(out, "{number}"),
        RawBsonRef::Int64(number) => write!(out, "{number}"),
        RawBsonRef::Timestamp(stamp) => write!(out, r#"{{"$timestamp":{{"t":{},"i":{}}}}}"#, stamp.time, stamp.increment),
        RawBsonRef::Binary(binary) => {
            let Binary { subtype, bytes } = binary.to_binary();
            write!(out, r#"{{"$binary":{{"base64":"{}","subType":"{:02x}"}}}}"#, STANDARD.encode(bytes), u8::from(subtype))
        }
        RawBsonRef::ObjectId(id) => write!(out, r#"{{"$oid":"{id}"}}"#),
        RawBsonRef::DateTime(date) => match date.try_to_rfc3339_string() {
            Ok(text) if (0..=DATE_MILLIS_MAX).contains(&date.timestamp_millis()) => put_named(out, "$date", &text),
            Ok(_) | Err(_) => write!(out, r#"{{"$date":{{"$numberLong":"{}"}}}}"#, date.timestamp_millis()),
        },
        RawBsonRef::Symbol(text) => put_named(out, "$symbol", text),
        RawBsonRef::Decimal128(number) => write!(out, r#"{{"$numberDecimal":"{number}"}}"#),
        RawBsonRef::Undefined => out.write_str(r#"{"$undefined":true}"#),
        RawBsonRef::MaxKey => out.write_str(r#"{"$maxKey":1}"#),
        RawBsonRef::MinKey => out.write_str(r#"{"$minKey":1}"#),
        // The crate that reads BSON does not show its parts.
        RawBsonRef::DbPointer(_) => out.write_str(r#"{"$dbPointer":{}}"#),
    }
}

/// Prints what lies in an array, unless it lies too deep.
fn put_deeper(out: &mut Cut<'_, '_>, value: RawBsonRef<'_>, depth: usize) -> fmt::Result {
    if depth >= DEPTH_MAX { out.write_str("{}") } else { put(out, value, depth + 1) }
}

fn put_named(out: &mut Cut<'_, '_>, name: &str, text: &str) -> fmt::Result {
    write!(out, r#"{{"{name}":"#)?;
    put_text(out, text)?;
    out.write_char('}')
}

fn put_text(out: &mut Cut<'_, '_>, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            control if control < ' ' => write!(out, "\\u{:04x}", u32::from(control))?,
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

/// Documents within documents are printed this deep, as deep as servers take them.
const DEPTH_MAX: usize = 200;

/// The last moment of the year 9999: later dates, and those before 1970, are printed as numbers.
const DATE_MILLIS_MAX: i64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use super::*;
    use bson::oid::ObjectId;
    use bson::spec::BinarySubtype;
    use bson::{Bson, DateTime, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc};

    fn text(value: impl Into<Bson>) -> String {
        let document = RawDocumentBuf::try_from(&doc! { "x": value.into() }).expect("a document");
        let text = Json::of(&document).to_string();
        text.strip_prefix(r#"{"x":"#).and_then(|text| text.strip_suffix('}')).expect("one field").to_owned()
    }

    #[test]
    fn values_read_as_relaxed_extended_json() {
        let id = ObjectId::from_bytes([0xab; 12]);
        for (value, expected) in [
            (Bson::Double(1.0), "1.0"),
            (Bson::Double(f64::NEG_INFINITY), r#"{"$numberDouble":"-Infinity"}"#),
            (Bson::Double(f64::INFINITY), r#"{"$numberDouble":"Infinity"}"#),
            (Bson::Double(f64::NAN), r#"{"$numberDouble":"NaN"}"#),
            (Bson::Int32(-7), "-7"),
            (Bson::Int64(9_000_000_000), "9000000000"),
            (Bson::Boolean(true), "true"),
            (Bson::Null, "null"),
            (Bson::String("a\"\\\n\u{1}é".into()), r#""a\"\\\n\u0001é""#),
            (Bson::Array(vec![Bson::Int32(1), Bson::Document(doc! { "y": [] })]), r#"[1,{"y":[]}]"#),
            (Bson::ObjectId(id), r#"{"$oid":"abababababababababababab"}"#),
            (Bson::DateTime(DateTime::from_millis(1_356_351_330_501)), r#"{"$date":"2012-12-24T12:15:30.501Z"}"#),
            (Bson::DateTime(DateTime::from_millis(-1)), r#"{"$date":{"$numberLong":"-1"}}"#),
            (Bson::DateTime(DateTime::from_millis(i64::MAX)), r#"{"$date":{"$numberLong":"9223372036854775807"}}"#),
            (Bson::Timestamp(Timestamp { time: 5, increment: 6 }), r#"{"$timestamp":{"t":5,"i":6}}"#),
            (
                Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![1, 2, 3] }),
                r#"{"$binary":{"base64":"AQID","subType":"04"}}"#,
            ),
            (
                Bson::RegularExpression(Regex { pattern: "^a".try_into().expect("text"), options: "i".try_into().expect("text") }),
                r#"{"$regularExpression":{"pattern":"^a","options":"i"}}"#,
            ),
            (Bson::JavaScriptCode("f()".into()), r#"{"$code":"f()"}"#),
            (
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "f()".into(), scope: doc! { "a": 1 } }),
                r#"{"$code":"f()","$scope":{"a":1}}"#,
            ),
            (Bson::Symbol("s".into()), r#"{"$symbol":"s"}"#),
            (Bson::Undefined, r#"{"$undefined":true}"#),
            (Bson::MinKey, r#"{"$minKey":1}"#),
            (Bson::MaxKey, r#"{"$maxKey":1}"#),
        ] {
            assert_eq!(text(value), expected);
        }
    }

    #[test]
    fn text_is_cut_between_characters() {
        let document = RawDocumentBuf::try_from(&doc! { "x": "éé" }).expect("a document");
        let whole = r#"{"x":"éé"}"#;
        for length in 0..=whole.chars().count() {
            let cut = Json::of(&document).cut(length).to_string();
            let expected: String = whole.chars().take(length).collect();
            assert_eq!(cut, if expected == whole { expected } else { format!("{expected}...") });
        }
    }

    #[test]
    fn malformed_and_deep_documents_end() {
        // The second field is of a type that there isn't.
        let broken = RawDocument::from_bytes(b"\x0f\0\0\0\x10a\0\x01\0\0\0\x20b\0\0").expect("its length is right");
        assert_eq!(Json::of(broken).to_string(), r#"{"a":1}"#);
        let mut deep = Bson::Array(Vec::new());
        for _ in 0..DEPTH_MAX + 50 {
            deep = Bson::Array(vec![deep]);
        }
        assert!(text(deep).contains("[{}]"));
        let mut deep = Bson::Document(doc! {});
        for _ in 0..DEPTH_MAX + 50 {
            deep = Bson::Document(doc! { "a": deep });
        }
        assert!(text(deep).contains(r#"{"a":{}}"#));
    }
}
