//! A fast scanner for documents of which only a few fields matter.
//!
//! On the path of every command: keys and values as slices, lengths checked, nothing validated that is not used. A malformed
//! document ends the scan with an error; the full parser (`bson`) then reports what is wrong.

use bson::RawDocument;

/// A field of a document: its type, its key, and the bytes of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The BSON type.
    pub kind: u8,
    /// The key, which may not be UTF-8.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// An iterator over the fields of a document.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// The error of a document that can't be scanned further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// The BSON types that are used.
pub mod kind {
    /// A 64-bit float.
    pub const DOUBLE: u8 = 0x01;
    /// A string.
    pub const STRING: u8 = 0x02;
    /// A document.
    pub const DOCUMENT: u8 = 0x03;
    /// An array: a document whose keys are numbers.
    pub const ARRAY: u8 = 0x04;
    /// Binary data.
    pub const BINARY: u8 = 0x05;
    /// A deprecated value without content.
    pub const UNDEFINED: u8 = 0x06;
    /// An object id.
    pub const OBJECT_ID: u8 = 0x07;
    /// A boolean.
    pub const BOOLEAN: u8 = 0x08;
    /// A date: milliseconds since 1970.
    pub const DATE: u8 = 0x09;
    /// Null.
    pub const NULL: u8 = 0x0a;
    /// A regular expression: pattern and options.
    pub const REGEX: u8 = 0x0b;
    /// A namespace and an object id.
    pub const DB_POINTER: u8 = 0x0c;
    /// Code.
    pub const CODE: u8 = 0x0d;
    /// A symbol, which is text.
    pub const SYMBOL: u8 = 0x0e;
    /// Code, and a document of the variables that it uses.
    pub const CODE_WITH_SCOPE: u8 = 0x0f;
    /// A 32-bit integer.
    pub const INT32: u8 = 0x10;
    /// A timestamp: increment, then seconds.
    pub const TIMESTAMP: u8 = 0x11;
    /// A 64-bit integer.
    pub const INT64: u8 = 0x12;
    /// A 128-bit decimal number.
    pub const DECIMAL128: u8 = 0x13;
    /// The value that sorts last.
    pub const MAX_KEY: u8 = 0x7f;
    /// The value that sorts first.
    pub const MIN_KEY: u8 = 0xff;
}

impl<'a> Fields<'a> {
    /// Starts a scan of a whole document, length and closing byte included.
    pub fn of(document: &'a [u8]) -> Self {
        Self { rest: document.get(4..).unwrap_or_default() }
    }

    /// Returns the first field with a key, unless the scan ends before it.
    pub fn find(document: &'a RawDocument, key: &str) -> Option<Field<'a>> {
        Self::of(document.as_bytes()).map_while(Result::ok).find(|field| field.key == key.as_bytes())
    }

    #[inline]
    fn step(&mut self) -> Option<Result<Field<'a>, Unreadable>> {
        #[cfg(test)]
        crate::growth::field_walked();
        let (kind, rest) = self.rest.split_first()?;
        if *kind == 0 {
            self.rest = &[];
            return if rest.is_empty() { None } else { Some(Err(Unreadable)) };
        }
        let Some((field, after)) = field(*kind, rest) else {
            self.rest = &[];
            return Some(Err(Unreadable));
        };
        self.rest = after;
        Some(Ok(field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Unreadable>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.step()
    }
}

#[inline]
fn field(kind: u8, rest: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let end = end_of_key(rest)?;
    let (key, rest) = rest.split_at_checked(end)?;
    let rest = rest.get(1..)?;
    let (value, rest) = rest.split_at_checked(size(kind, rest)?)?;
    Some((Field { kind, key, value }, rest))
}

/// Returns the position of the first zero byte, checking eight bytes at a time.
#[inline]
fn end_of_key(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..)?.first_chunk() {
        let word = u64::from_le_bytes(*chunk);
        // The lowest set bit belongs to the first zero; higher ones may be wrong.
        let zeros = word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080;
        if zeros != 0 {
            return Some(at + (zeros.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    bytes.get(at..)?.iter().position(|byte| *byte == 0).map(|place| at + place)
}

/// Returns the size of a value, in bytes.
#[inline]
fn size(kind: u8, rest: &[u8]) -> Option<usize> {
    let announced = || rest.first_chunk::<4>().and_then(|length| usize::try_from(u32::from_le_bytes(*length)).ok());
    let text = |from: usize| rest.get(from..)?.iter().position(|byte| *byte == 0).map(|end| from + end + 1);
    match kind {
        0x01 | 0x09 | 0x11 | 0x12 => Some(8),
        0x02 | 0x0d | 0x0e => announced()?.checked_add(4),
        0x03 | 0x04 | 0x0f => announced().filter(|size| *size >= 4),
        0x05 => announced()?.checked_add(5),
        0x06 | 0x0a | 0x7f | 0xff => Some(0),
        0x07 => Some(12),
        0x08 => Some(1),
        0x0b => text(text(0)?),
        0x0c => announced()?.checked_add(16),
        0x10 => Some(4),
        0x13 => Some(16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::raw::cstr;
    use bson::{Bson, DateTime, Decimal128, Timestamp, doc, oid::ObjectId};
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn every_type() -> Vec<u8> {
        let document = doc! {
            "double": 1.5, "string": "text", "document": { "a": 1 }, "array": [1, "b"],
            "binary": Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3] }),
            "oid": ObjectId::from_bytes([1; 12]), "true": true, "date": DateTime::from_millis(1), "null": Bson::Null,
            "regex": Bson::RegularExpression(bson::Regex { pattern: cstr!("a").to_owned(), options: cstr!("i").to_owned() }), "code": Bson::JavaScriptCode("x".into()),
            "int32": 1_i32, "time": Timestamp { time: 2, increment: 1 }, "int64": 1_i64, "decimal": Decimal128::from_bytes([0; 16]),
            "min": Bson::MinKey, "max": Bson::MaxKey, "undefined": Bson::Undefined, "last": 7,
        };
        bson::serialize_to_vec(&document).expect("encoded")
    }

    #[test]
    fn all_types_are_walked() {
        let bytes = every_type();
        let keys: Vec<&[u8]> = Fields::of(&bytes).map(|field| field.expect("field").key).collect();
        assert_eq!((keys.len(), keys.last().copied()), (19, Some(b"last".as_slice())));
        let time = Fields::of(&bytes).filter_map(Result::ok).find(|field| field.key == b"time").expect("time");
        assert_eq!((time.kind, time.value), (kind::TIMESTAMP, [1, 0, 0, 0, 2, 0, 0, 0].as_slice()));
    }

    #[test]
    fn end_of_a_key_is_its_first_zero() {
        for length in 0..40 {
            for end in 0..length {
                for filling in [1, 0x7f, 0x80, 0xff] {
                    let mut bytes = vec![filling; length];
                    bytes[end] = 0;
                    assert_eq!(end_of_key(&bytes), Some(end));
                    bytes[end..].fill(0);
                    assert_eq!(end_of_key(&bytes), Some(end));
                    assert_eq!(end_of_key(&bytes[..end]), None);
                }
            }
        }
    }

    #[test]
    fn every_cut_and_random_changes_end_the_walk() {
        let bytes = every_type();
        for length in 0..bytes.len() {
            assert!(Fields::of(&bytes[..length]).count() <= 20);
        }
        let mut random = rand::rngs::SmallRng::seed_from_u64(7);
        for _ in 0..20_000 {
            let mut bytes = bytes.clone();
            for _ in 0..random.random_range(1..5) {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
            assert!(Fields::of(&bytes).count() <= bytes.len());
        }
    }
}
