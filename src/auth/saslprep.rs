//! The preparation of passwords for SCRAM-SHA-256.
//!
//! SASLprep (RFC 4013, a profile of RFC 3454). The tables are those of `stringprep`; its own function is not used, because it
//! leaves copies of the text in freed memory.

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// Prepares a text; `None` if it has characters that are prohibited, or not assigned in Unicode 3.2.
pub(super) fn prepare(text: &str) -> Option<Zeroizing<String>> {
    let mapped = || text.chars().map(as_space).filter(|char| !tables::commonly_mapped_to_nothing(*char)).nfkc();
    // Measured first: a text that grows while it is written would leave copies behind.
    let mut prepared = Zeroizing::new(String::with_capacity(mapped().map(char::len_utf8).sum()));
    prepared.extend(mapped());
    let is_fit = !prepared.contains(is_prohibited) && !is_mixed(&prepared) && !prepared.contains(tables::unassigned_code_point);
    is_fit.then_some(prepared)
}

/// Maps every kind of space to the ASCII space (RFC 4013 section 2.1).
fn as_space(char: char) -> char {
    if tables::non_ascii_space_character(char) { ' ' } else { char }
}

/// Returns whether a character is prohibited (RFC 4013 section 2.3).
fn is_prohibited(char: char) -> bool {
    tables::non_ascii_space_character(char)
        || tables::ascii_control_character(char)
        || tables::non_ascii_control_character(char)
        || tables::private_use(char)
        || tables::non_character_code_point(char)
        || tables::surrogate_code(char)
        || tables::inappropriate_for_plain_text(char)
        || tables::inappropriate_for_canonical_representation(char)
        || tables::change_display_properties_or_deprecated(char)
        || tables::tagging_character(char)
}

/// Returns whether a text mixes writing directions (RFC 3454 section 6).
fn is_mixed(text: &str) -> bool {
    let is_right_to_left = |char: Option<char>| char.is_some_and(tables::bidi_r_or_al);
    text.contains(tables::bidi_r_or_al)
        && (text.contains(tables::bidi_l) || !is_right_to_left(text.chars().next()) || !is_right_to_left(text.chars().next_back()))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn texts_are_prepared_as_the_library_of_the_tables_does() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(8);
        let ranges = [(0, 0x80), (0x80, 0x300), (0x5d0, 0x700), (0x1e00, 0x2200), (0xac00, 0xac40), (0xf900, 0xffff), (0, 0x0011_0000)];
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let (from, to) = ranges[random.random_range(0..ranges.len())];
            let text: String = (0..random.random_range(0..5)).filter_map(|_| char::from_u32(random.random_range(from..to))).collect();
            let expected = stringprep::saslprep(&text).ok();
            let prepared = prepare(&text);
            assert_eq!(prepared.as_ref().map(|own| own.as_str()), expected.as_deref(), "{text:?}");
            if prepared.is_some() { taken += 1 } else { refused += 1 }
        }
        assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
    }
}
