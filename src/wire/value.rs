//! The typed reading of a field's value.
//!
//! Servers write numbers as any numeric type, and text that may not be UTF-8: numbers are accepted in any type, text is read
//! with replacement characters. A value of another kind than the requested one is `None`.

use std::borrow::Cow;

use bson::oid::ObjectId;
use bson::{Decimal128, RawDocument};

use super::scan::{Field, Fields, kind};
use crate::error::cut;

/// The bound from which on, and below its negative, a double does not fit into 64 bits: 2^63.
const INTEGER_BOUND: f64 = 9_223_372_036_854_775_808.0;

impl<'a> Field<'a> {
    /// Returns the key, with replacement characters where it is not UTF-8.
    pub fn name(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.key)
    }

    /// Reads a number of any numeric type; a fraction is cut off.
    pub fn integer(&self) -> Option<i64> {
        match self.kind {
            kind::INT32 => self.value.first_chunk().map(|bytes| i32::from_le_bytes(*bytes).into()),
            kind::INT64 => self.value.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)),
            kind::DOUBLE | kind::DECIMAL128 => self.real().and_then(whole),
            _ => None,
        }
    }

    /// Reads a boolean, or a number as one: all but 0 is true.
    pub fn truth(&self) -> bool {
        match self.kind {
            kind::BOOLEAN => self.value.first().is_some_and(|byte| *byte != 0),
            kind::INT32 | kind::INT64 => self.integer().is_some_and(|number| number != 0),
            _ => self.real().is_some_and(|number| number != 0.0),
        }
    }

    /// Returns whether this is 1 or true, which is how `ok` reports success.
    #[inline]
    pub fn is_one(&self) -> bool {
        match (self.kind, self.value) {
            (kind::DOUBLE, value) => value.first_chunk().is_some_and(|bytes| f64::from_le_bytes(*bytes) == 1.0),
            (kind::INT32, value) => value.first_chunk().is_some_and(|bytes| i32::from_le_bytes(*bytes) == 1),
            (kind::INT64, value) => value.first_chunk().is_some_and(|bytes| i64::from_le_bytes(*bytes) == 1),
            (kind::BOOLEAN, value) => value == [1],
            _ => self.real() == Some(1.0),
        }
    }

    /// Reads a string, with replacement characters where it is not UTF-8.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        self.text_bytes().map(String::from_utf8_lossy)
    }

    /// Reads a string up to a number of bytes; `…` stands for the rest.
    pub fn text_within(&self, size_bytes_max: usize) -> Option<String> {
        let bytes = self.text_bytes()?;
        // A few more bytes, so that the cut shows and the last character is complete.
        let start = bytes.get(..size_bytes_max.saturating_add(8)).unwrap_or(bytes);
        Some(cut(String::from_utf8_lossy(start).into_owned(), size_bytes_max))
    }

    /// Reads the bytes of a string.
    pub fn text_bytes(&self) -> Option<&'a [u8]> {
        let bytes = self.value.get(4..).filter(|_| self.kind == kind::STRING)?;
        Some(bytes.strip_suffix(b"\0").unwrap_or(bytes))
    }

    /// Reads a document.
    pub fn document(&self) -> Option<&'a RawDocument> {
        RawDocument::from_bytes(self.value).ok().filter(|_| self.kind == kind::DOCUMENT)
    }

    /// Reads the elements of an array.
    pub fn elements(&self) -> Option<Fields<'a>> {
        (self.kind == kind::ARRAY).then(|| Fields::of(self.value))
    }

    /// Reads an object id.
    pub fn object_id(&self) -> Option<ObjectId> {
        self.value.first_chunk().filter(|_| self.kind == kind::OBJECT_ID).map(|bytes| ObjectId::from_bytes(*bytes))
    }

    /// Reads a date, or a number as one, in milliseconds since 1970.
    pub fn date_millis(&self) -> Option<i64> {
        match self.kind {
            kind::DATE => self.value.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)),
            _ => self.integer(),
        }
    }

    /// Reads binary data of any subtype.
    pub fn binary(&self) -> Option<&'a [u8]> {
        self.value.get(5..).filter(|_| self.kind == kind::BINARY)
    }

    /// Reads a double or a decimal number.
    fn real(&self) -> Option<f64> {
        match self.kind {
            kind::DOUBLE => self.value.first_chunk().map(|bytes| f64::from_le_bytes(*bytes)),
            kind::DECIMAL128 => Decimal128::from_bytes(*self.value.first_chunk()?).to_string().parse().ok(),
            _ => None,
        }
    }
}

fn whole(number: f64) -> Option<i64> {
    // NaN is not within the bounds either.
    (-INTEGER_BOUND..INTEGER_BOUND).contains(&number).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use bson::{Bson, rawdoc};

    use super::*;

    fn field(value: impl Into<Bson>) -> (Option<i64>, bool, bool) {
        let document = bson::serialize_to_vec(&bson::doc! { "v": value.into() }).expect("encoded");
        let field = Fields::of(&document).next().expect("a field").expect("readable");
        (field.integer(), field.truth(), field.is_one())
    }

    #[test]
    fn numbers_of_every_type_are_read() {
        let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
        for one in [Bson::Int32(1), Bson::Int64(1), Bson::Double(1.0), decimal("1"), decimal("1.000"), decimal("10E-1")] {
            assert_eq!(field(one), (Some(1), true, true));
        }
        assert_eq!(field(true), (None, true, true));
        assert_eq!(field(1.5), (Some(1), true, false));
        assert_eq!(field(decimal("0")), (Some(0), false, false));
        assert_eq!(field(-9_223_372_036_854_775_808.0), (Some(i64::MIN), true, false));
        for other in [Bson::Double(f64::NAN), Bson::Double(9_223_372_036_854_775_808.0), decimal("NaN"), decimal("1E+40")] {
            assert_eq!(field(other), (None, true, false));
        }
        assert_eq!(field("1"), (None, false, false));
    }

    #[test]
    fn text_that_is_not_utf8_is_read_with_replacements() {
        let mut document = rawdoc! { "key": "abc" }.into_bytes();
        let place = document.len() - 4;
        document[place] = 0xff;
        document[5] = 0xfe;
        let field = Fields::of(&document).next().expect("a field").expect("readable");
        assert_eq!((field.name().as_ref(), field.text().as_deref()), ("\u{fffd}ey", Some("a\u{fffd}c")));
    }
}
