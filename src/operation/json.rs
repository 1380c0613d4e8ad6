//! Extended JSON output, for logs and the program.
//!
//! Keeps the order of the document's fields. Written from the bytes, without recursion: text that is not UTF-8 is printed with
//! replacement characters, and every document that can be received can be printed. Does not parse (`cli::extjson`).

use std::fmt::{self, Display, Write as _};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::oid::ObjectId;
use bson::{DateTime, Decimal128, RawDocument};

use crate::wire::depth::NESTING_DEPTH_MAX;
use crate::wire::scan::{Field, Fields, kind};

/// A document printed as Extended JSON, on one line: relaxed, or [`canonical`](Self::canonical).
///
/// Malformed bytes end the document or array that contains them. Levels beyond [`NESTING_DEPTH_MAX`] are left out.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a> {
    document: &'a RawDocument,
    chars_max: usize,
    form: JsonFormat,
}

/// The form of Extended JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonFormat {
    /// Readable: plain numbers, dates as text.
    Relaxed,
    /// With the type of every number.
    Canonical,
}

/// A writer of a limited number of characters, with three dots in place of the rest.
struct Cut<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    left: usize,
    is_cut: bool,
}

/// A document or array that is being written.
struct OpenContainer<'a> {
    fields: Fields<'a>,
    has_keys: bool,
    is_empty: bool,
    end: &'static str,
}

impl<'a> Json<'a> {
    /// Prints the whole document.
    pub fn of(document: &'a RawDocument) -> Self {
        Self { document, chars_max: usize::MAX, form: JsonFormat::Relaxed }
    }

    /// Prints at most this number of characters, and three dots in place of the rest.
    #[must_use]
    pub fn cut(self, chars_max: usize) -> Self {
        Self { chars_max, ..self }
    }

    /// Prints the type of every number.
    #[must_use]
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "the program prints it"))]
    pub fn canonical(self) -> Self {
        Self { form: JsonFormat::Canonical, ..self }
    }
}

impl Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cut = Cut { out: f, left: self.chars_max, is_cut: false };
        let outcome = put_document(&mut cut, self.document, self.form);
        // The error that only ends the output early is not an error.
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

impl<'a> OpenContainer<'a> {
    fn new(fields: &'a [u8], has_keys: bool, end: &'static str) -> Self {
        Self { fields: Fields::of(fields), has_keys, is_empty: true, end }
    }
}

fn put_document(out: &mut Cut<'_, '_>, document: &RawDocument, form: JsonFormat) -> fmt::Result {
    out.write_char('{')?;
    let mut levels = vec![OpenContainer::new(document.as_bytes(), true, "}")];
    while let Some(open) = levels.last_mut() {
        let Some(Ok(field)) = open.fields.next() else {
            out.write_str(open.end)?;
            levels.pop();
            continue;
        };
        if !std::mem::take(&mut open.is_empty) {
            out.write_char(',')?;
        }
        if open.has_keys {
            put_text(out, field.key)?;
            out.write_char(':')?;
        }
        let nested = match field.kind {
            kind::DOCUMENT => OpenContainer::new(field.value, true, "}"),
            kind::ARRAY => OpenContainer::new(field.value, false, "]"),
            kind::CODE_WITH_SCOPE => {
                put_named(out, "$code", string(field.value.get(4..).unwrap_or_default()))?;
                OpenContainer::new(field.nested().unwrap_or_default(), true, "}}")
            }
            _ => {
                put(out, &field, form)?;
                continue;
            }
        };
        out.write_str(match field.kind {
            kind::ARRAY => "[",
            kind::CODE_WITH_SCOPE => r#","$scope":{"#,
            _ => "{",
        })?;
        if levels.len() < NESTING_DEPTH_MAX {
            levels.push(nested);
        } else {
            out.write_str(nested.end)?;
        }
    }
    Ok(())
}

/// Prints a value without nested values.
fn put(out: &mut Cut<'_, '_>, field: &Field<'_>, form: JsonFormat) -> fmt::Result {
    let value = field.value;
    match field.kind {
        kind::DOUBLE => put_double(out, f64::from_le_bytes(first(value)), form),
        kind::INT32 => put_integer(out, "$numberInt", i32::from_le_bytes(first(value)).into(), form),
        kind::INT64 => put_integer(out, "$numberLong", i64::from_le_bytes(first(value)), form),
        kind::STRING => put_text(out, string(value)),
        kind::BOOLEAN => write!(out, "{}", field.truth()),
        kind::NULL => out.write_str("null"),
        kind::DATE => put_date(out, i64::from_le_bytes(first(value)), form),
        kind::TIMESTAMP => {
            let (increment, time) = (u32::from_le_bytes(first(value)), u32::from_le_bytes(first(value.get(4..).unwrap_or_default())));
            write!(out, r#"{{"$timestamp":{{"t":{time},"i":{increment}}}}}"#)
        }
        kind::BINARY => put_binary(out, value),
        kind::OBJECT_ID => write!(out, r#"{{"$oid":"{}"}}"#, ObjectId::from_bytes(first(value))),
        kind::DECIMAL128 => write!(out, r#"{{"$numberDecimal":"{}"}}"#, Decimal128::from_bytes(first(value))),
        kind::REGEX => {
            let mut parts = value.split(|byte| *byte == 0);
            out.write_str(r#"{"$regularExpression":{"pattern":"#)?;
            put_text(out, parts.next().unwrap_or_default())?;
            out.write_str(r#","options":"#)?;
            put_text(out, parts.next().unwrap_or_default())?;
            out.write_str("}}")
        }
        kind::CODE => put_named(out, "$code", string(value)).and_then(|()| out.write_char('}')),
        kind::SYMBOL => put_named(out, "$symbol", string(value)).and_then(|()| out.write_char('}')),
        kind::DB_POINTER => {
            let (namespace, id) = value.split_last_chunk().unwrap_or((value, &[0; 12]));
            out.write_str(r#"{"$dbPointer":"#)?;
            put_named(out, "$ref", string(namespace))?;
            write!(out, r#","$id":{{"$oid":"{}"}}}}}}"#, ObjectId::from_bytes(*id))
        }
        kind::UNDEFINED => out.write_str(r#"{"$undefined":true}"#),
        kind::MAX_KEY => out.write_str(r#"{"$maxKey":1}"#),
        kind::MIN_KEY => out.write_str(r#"{"$minKey":1}"#),
        // The scan ends before an unknown type.
        _ => out.write_str("null"),
    }
}

fn put_double(out: &mut Cut<'_, '_>, number: f64, form: JsonFormat) -> fmt::Result {
    match form {
        JsonFormat::Relaxed if number.is_finite() => write!(out, "{number:?}"),
        JsonFormat::Relaxed | JsonFormat::Canonical if number.is_nan() => out.write_str(r#"{"$numberDouble":"NaN"}"#),
        JsonFormat::Relaxed | JsonFormat::Canonical if number.is_infinite() => {
            write!(out, r#"{{"$numberDouble":"{}Infinity"}}"#, if number.is_sign_negative() { "-" } else { "" })
        }
        JsonFormat::Relaxed | JsonFormat::Canonical => write!(out, r#"{{"$numberDouble":"{number:?}"}}"#),
    }
}

fn put_integer(out: &mut Cut<'_, '_>, name: &str, number: i64, form: JsonFormat) -> fmt::Result {
    match form {
        JsonFormat::Relaxed => write!(out, "{number}"),
        JsonFormat::Canonical => write!(out, r#"{{"{name}":"{number}"}}"#),
    }
}

fn put_date(out: &mut Cut<'_, '_>, millis: i64, form: JsonFormat) -> fmt::Result {
    let text = DateTime::from_millis(millis).try_to_rfc3339_string();
    match text {
        Ok(text) if form == JsonFormat::Relaxed && (0..=DATE_MILLIS_MAX).contains(&millis) => write!(out, r#"{{"$date":"{text}"}}"#),
        Ok(_) | Err(_) => write!(out, r#"{{"$date":{{"$numberLong":"{millis}"}}}}"#),
    }
}

fn put_binary(out: &mut Cut<'_, '_>, value: &[u8]) -> fmt::Result {
    let subtype = value.get(4).copied().unwrap_or_default();
    // The old binary subtype repeats the length.
    let bytes = value.get(if subtype == BINARY_OLD { 9 } else { 5 }..).unwrap_or_default();
    write!(out, r#"{{"$binary":{{"base64":"{}","subType":"{subtype:02x}"}}}}"#, STANDARD.encode(bytes))
}

/// Prints an object's first member, and leaves the object open.
fn put_named(out: &mut Cut<'_, '_>, name: &str, text: &[u8]) -> fmt::Result {
    write!(out, r#"{{"{name}":"#)?;
    put_text(out, text)
}

fn put_text(out: &mut Cut<'_, '_>, text: &[u8]) -> fmt::Result {
    out.write_char('"')?;
    for character in String::from_utf8_lossy(text).chars() {
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

/// Returns the bytes of a string after its length, without its closing byte.
fn string(value: &[u8]) -> &[u8] {
    let length = usize::try_from(u32::from_le_bytes(first(value))).unwrap_or(0);
    let text = value.get(4..).and_then(|text| text.get(..length)).unwrap_or_default();
    text.strip_suffix(b"\0").unwrap_or(text)
}

/// Returns the first bytes of a value; the scan has checked its length.
fn first<const N: usize>(value: &[u8]) -> [u8; N] {
    value.first_chunk().copied().unwrap_or([0; N])
}

/// The binary subtype whose data begins with its length.
const BINARY_OLD: u8 = 2;

/// The last instant of the year 9999: later dates, and those before 1970, are printed as numbers.
const DATE_MILLIS_MAX: i64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use super::*;
    use bson::oid::ObjectId;
    use bson::spec::BinarySubtype;
    use bson::{Binary, Bson, DateTime, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc};

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
        // The second field has an unknown type.
        let broken = RawDocument::from_bytes(b"\x0f\0\0\0\x10a\0\x01\0\0\0\x20b\0\0").expect("its length is right");
        assert_eq!(Json::of(broken).to_string(), r#"{"a":1}"#);
        let mut deep = Bson::Array(Vec::new());
        for _ in 0..NESTING_DEPTH_MAX + 50 {
            deep = Bson::Array(vec![deep]);
        }
        assert_eq!(text(deep), ["[".repeat(NESTING_DEPTH_MAX), "]".repeat(NESTING_DEPTH_MAX)].concat());
    }

    #[test]
    fn canonical_form_has_the_type_of_every_number() {
        let document = doc! { "a": 1, "b": 2_i64, "c": [-0.0, f64::INFINITY], "d": DateTime::from_millis(1000), "e": { "f": 1e100 } };
        let document = RawDocumentBuf::try_from(&document).expect("a document");
        assert_eq!(
            Json::of(&document).canonical().to_string(),
            r#"{"a":{"$numberInt":"1"},"b":{"$numberLong":"2"},"c":[{"$numberDouble":"-0.0"},{"$numberDouble":"Infinity"}],"d":{"$date":{"$numberLong":"1000"}},"e":{"f":{"$numberDouble":"1e100"}}}"#
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_shown_with_replacements() {
        let mut bytes = RawDocumentBuf::try_from(&doc! { "QQ": "aQQ", "b": Bson::DbPointer(pointer()) }).expect("a document").into_bytes();
        while let Some(place) = bytes.windows(2).position(|bytes| bytes == b"QQ") {
            bytes[place] = 0xff;
        }
        let document = RawDocument::from_bytes(&bytes).expect("framed");
        assert_eq!(
            Json::of(document).to_string(),
            "{\"\u{fffd}Q\":\"a\u{fffd}Q\",\"b\":{\"$dbPointer\":{\"$ref\":\"d.c\",\"$id\":{\"$oid\":\"070707070707070707070707\"}}}}"
        );
    }

    fn pointer() -> bson::DbPointer {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(b"\x0cp\0\x04\0\0\0d.c\0");
        bytes.extend_from_slice(&[7; 12]);
        bytes.push(0);
        let length = u32::try_from(bytes.len()).expect("short").to_le_bytes();
        bytes[..4].copy_from_slice(&length);
        let document = crate::operation::document::read(RawDocument::from_bytes(&bytes).expect("framed")).expect("a document");
        let Some(Bson::DbPointer(pointer)) = document.get("p") else { panic!("{document:?}") };
        pointer.clone()
    }
}
