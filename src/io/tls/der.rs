//! The DER fields of certificates and keys that rustls does not expose: validity, key and curve, in any version.
//!
//! X.509 (RFC 5280) and private keys (RFC 5208, RFC 5915). Does not decide whether a certificate is trusted (`verify`).

use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const SEQUENCE: u8 = 0x30;
/// The first and second optional field of a structure.
const CONTEXT_0: u8 = 0xa0;

/// `id-ecPublicKey` (1.2.840.10045.2.1), whose parameters name the curve.
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// The purposes `id-kp-serverAuth` and `anyExtendedKeyUsage`.
const SERVER_AUTH: [&[u8]; 2] = [&[0x2b, 6, 1, 5, 5, 7, 3, 1], &[0x55, 0x1d, 0x25, 0]];

/// The supported curves: P-256 and P-384, by object identifier.
const SUPPORTED_CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];

/// The names of common unsupported curves and algorithms.
const NAMES: [(&str, &str); 12] = [
    ("1.3.132.0.35", "secp521r1 (P-521)"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.132.0.33", "secp224r1 (P-224)"),
    ("1.2.840.10045.3.1.1", "secp192r1 (P-192)"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
    ("1.3.101.110", "X25519"),
    ("1.3.101.111", "X448"),
    ("1.3.101.113", "Ed448"),
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.156.10197.1.301", "SM2"),
];

/// One element of DER.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// A parsed certificate.
pub(super) struct Certificate<'a> {
    pub(super) is_version_1: bool,
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    /// Seconds since 1970.
    pub(super) not_before: i64,
    /// Seconds since 1970.
    pub(super) not_after: i64,
    pub(super) key: PublicKey<'a>,
}

/// A public key in a certificate.
pub(super) struct PublicKey<'a> {
    /// The whole `SubjectPublicKeyInfo`.
    pub(super) whole: &'a [u8],
    /// The contents of its algorithm identifier.
    pub(super) algorithm: &'a [u8],
    pub(super) bits: &'a [u8],
}

impl<'a> Element<'a> {
    /// Takes the next element from the front.
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let all = *rest;
        let (tag, first, after) = match all {
            [tag, first, after @ ..] => (*tag, *first, after),
            _ => return None,
        };
        let (length, after) = if first < 0x80 {
            (usize::from(first), after)
        } else {
            let (length, after) =
                after.split_at_checked(usize::from(first & 0x7f)).filter(|(length, _)| (1..=4).contains(&length.len()))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), after)
        };
        let (content, left) = after.split_at_checked(length)?;
        *rest = left;
        Some(Self { tag, content, whole: all.get(..all.len() - left.len())? })
    }

    /// Takes the next element, which must have this tag.
    fn expect(rest: &mut &'a [u8], tag: u8) -> Option<Self> {
        Self::take(rest).filter(|element| element.tag == tag)
    }

    /// Takes the next element if it has this tag.
    fn optional(rest: &mut &'a [u8], tag: u8) -> Option<Self> {
        let mut ahead = *rest;
        let element = Self::expect(&mut ahead, tag)?;
        *rest = ahead;
        Some(element)
    }
}

impl<'a> Certificate<'a> {
    /// Parses a certificate of any version; `None` if it is invalid.
    pub(super) fn parse(mut der: &'a [u8]) -> Option<Self> {
        let mut outer = Element::expect(&mut der, SEQUENCE)?.content;
        let mut fields = Element::expect(&mut outer, SEQUENCE)?.content;
        // Version 1 certificates have no version field.
        let is_version_1 = Element::optional(&mut fields, CONTEXT_0).is_none();
        Element::expect(&mut fields, INTEGER)?;
        Element::expect(&mut fields, SEQUENCE)?;
        let issuer = Element::expect(&mut fields, SEQUENCE)?.content;
        let mut validity = Element::expect(&mut fields, SEQUENCE)?.content;
        let not_before = seconds(&Element::take(&mut validity)?)?;
        let not_after = seconds(&Element::take(&mut validity)?)?;
        let subject = Element::expect(&mut fields, SEQUENCE)?.content;
        Some(Self { is_version_1, issuer, subject, not_before, not_after, key: PublicKey::parse(fields)? })
    }
}

impl<'a> PublicKey<'a> {
    /// Parses a `SubjectPublicKeyInfo`.
    pub(super) fn parse(mut der: &'a [u8]) -> Option<Self> {
        let Element { content: mut key, whole, .. } = Element::expect(&mut der, SEQUENCE)?;
        let algorithm = Element::expect(&mut key, SEQUENCE)?.content;
        // The number of bits of a key is always a multiple of 8.
        let bits = Element::expect(&mut key, BIT_STRING)?.content.strip_prefix(&[0])?;
        Some(Self { whole, algorithm, bits })
    }
}

/// Returns the certificate at the front of an OpenSSL trusted certificate; an error if it is trusted only for other purposes
/// than servers.
pub(super) fn trusted(mut der: &[u8]) -> Result<&[u8], &'static str> {
    let certificate = Element::expect(&mut der, SEQUENCE).ok_or("it is no certificate")?.whole;
    let Some(Element { content: mut settings, .. }) = Element::optional(&mut der, SEQUENCE) else { return Ok(certificate) };
    let names_servers = |mut purposes: &[u8]| {
        std::iter::from_fn(|| Element::take(&mut purposes))
            .any(|purpose| purpose.tag == OBJECT_ID && SERVER_AUTH.contains(&purpose.content))
    };
    let is_trusted = Element::optional(&mut settings, SEQUENCE).is_none_or(|purposes| names_servers(purposes.content));
    let is_rejected = Element::optional(&mut settings, CONTEXT_0).is_some_and(|purposes| names_servers(purposes.content));
    if is_trusted && !is_rejected { Ok(certificate) } else { Err("it says that it is not to be trusted for servers") }
}

/// Returns the name of a private key's curve or algorithm, if it is unsupported.
pub(super) fn unsupported_key(key: &PrivateKeyDer<'_>) -> Option<String> {
    match key {
        PrivateKeyDer::Pkcs8(key) => {
            let mut der = key.secret_pkcs8_der();
            let mut fields = Element::expect(&mut der, SEQUENCE)?.content;
            Element::expect(&mut fields, INTEGER)?;
            unsupported_algorithm(Element::expect(&mut fields, SEQUENCE)?.content)
        }
        PrivateKeyDer::Sec1(key) => {
            let mut der = key.secret_sec1_der();
            let mut fields = Element::expect(&mut der, SEQUENCE)?.content;
            Element::expect(&mut fields, INTEGER)?;
            Element::expect(&mut fields, OCTET_STRING)?;
            unsupported_curve(Element::expect(&mut fields, CONTEXT_0)?.content)
        }
        // PKCS#1 is for RSA only; other formats may be added.
        PrivateKeyDer::Pkcs1(_) | _ => None,
    }
}

/// Returns the name of an algorithm identifier's curve or algorithm, if it is unsupported.
pub(super) fn unsupported_algorithm(mut identifier: &[u8]) -> Option<String> {
    let algorithm = Element::expect(&mut identifier, OBJECT_ID)?.content;
    if algorithm == EC_PUBLIC_KEY {
        return unsupported_curve(identifier);
    }
    let number = dotted(algorithm);
    NAMES.iter().find(|(other, _)| *other == number).map(|(_, name)| (*name).to_owned())
}

fn unsupported_curve(mut parameters: &[u8]) -> Option<String> {
    let Some(name) = Element::optional(&mut parameters, OBJECT_ID) else { return Some("of explicit parameters, not of a name".to_owned()) };
    let number = dotted(name.content);
    if SUPPORTED_CURVES.contains(&number.as_str()) {
        return None;
    }
    Some(NAMES.iter().find(|(other, _)| *other == number).map_or(number, |(_, name)| (*name).to_owned()))
}

/// Returns an object identifier in dotted form.
fn dotted(content: &[u8]) -> String {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number: u64 = 0;
    for byte in content {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.extend([first, number - 40 * first]);
            } else {
                numbers.push(number);
            }
            number = 0;
        }
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// Parses a time, in seconds since 1970 (RFC 5280 section 4.1.2.5).
fn seconds(time: &Element<'_>) -> Option<i64> {
    let text = std::str::from_utf8(time.content).ok()?.strip_suffix('Z')?;
    let (year, rest) = text.split_at_checked(if time.tag == UTC_TIME { 2 } else { 4 })?;
    if rest.len() != 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let year = year.parse::<i64>().ok()?;
    let year = match time.tag {
        UTC_TIME if year < 50 => year + 2000,
        UTC_TIME => year + 1900,
        _ => year,
    };
    let part = |at: usize| rest.get(at..at + 2).and_then(|digits| digits.parse::<i64>().ok());
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Returns the days since 1970-01-01 in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last.
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let era = year.div_euclid(400);
    let year = year.rem_euclid(400);
    era * 146_097 + year * 365 + year / 4 - year / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted() {
        for (date, expected) in
            [((1970, 1, 1), 0), ((2000, 2, 29), 11_016), ((2000, 3, 1), 11_017), ((1969, 12, 31), -1), ((2038, 1, 19), 24_855)]
        {
            let (year, month, day) = date;
            assert_eq!(days(year, month, day), expected, "{date:?}");
        }
    }

    #[test]
    fn times_are_read() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000001Z", Some(1)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", Some(-631_152_000)),
            (0x18, "20500101000000Z", Some(2_524_608_000)),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "700101000001", None),
            (UTC_TIME, "701301000001Z", None),
            (0x18, "2050010100000\u{fc}", None),
        ] {
            assert_eq!(seconds(&Element { tag, content: text.as_bytes(), whole: &[] }), expected, "{text}");
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read() {
        let whole = [0x30, 0x82, 0x01, 0x00, 0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x02, 0x80, 0x30, 0x85, 1, 1, 1, 1, 1];
        for start in 0..whole.len() {
            for end in start..=whole.len() {
                assert!(Certificate::parse(&whole[start..end]).is_none());
                assert!(trusted(&whole[start..end]).is_err() || whole[start] == SEQUENCE);
            }
        }
    }

    #[test]
    fn object_identifiers_have_their_usual_form() {
        assert_eq!(dotted(EC_PUBLIC_KEY), "1.2.840.10045.2.1");
        assert_eq!(dotted(&[0x2b, 0x81, 0x04, 0x00, 0x23]), "1.3.132.0.35");
    }
}
