//! The normalised identity of a host.
//!
//! Every name that reaches the crate (connection string, SRV answer, `hosts`, `passives`, `arbiters`, `me` and `primary` of a
//! hello reply) becomes a [`ServerAddress`] here, before anything is compared, resolved or dialled: UTS-46 non-transitional
//! IDNA, lower case, no trailing dot, canonical IPv6 text, zone ids, unix sockets, default port. Does not decide how a name is
//! resolved (`dns`) or in which order addresses are tried (`race`).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

pub use crate::address::{Address, Host, ServerAddress};
use crate::error::{Error, ErrorKind, LimitValue, Stage};

/// The port of a host that is given without one.
pub const DEFAULT_PORT: u16 = 27017;

/// The longest accepted host text, in bytes; longer input is an error.
pub const HOST_SIZE_MAX: usize = 1024;

/// The longest domain name in its A-label form, in bytes (RFC 1035).
const NAME_SIZE_MAX: usize = 253;

/// The longest label of a domain name in its A-label form, in bytes (RFC 1035).
const LABEL_SIZE_MAX: usize = 63;

/// The longest label that is mapped, in characters: the cost of mapping is quadratic, and longer labels have no valid A-label.
const LABEL_CHARS_MAX: usize = 2 * LABEL_SIZE_MAX;

impl ServerAddress {
    /// Parses `host`, `host:port`, `[v6]:port`, `[v6%zone]:port`, a bare IPv6 address or a path (with a `/`) that ends in `.sock`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidHost`], naming the label or part that can't be normalised.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > HOST_SIZE_MAX {
            return Err(too_long(text));
        }
        let (host, port) = split_port(text)?;
        Self::new(host, port.unwrap_or(DEFAULT_PORT))
    }

    /// Creates an address from a host without port, and a port.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidHost`], naming the label or part that can't be normalised.
    pub fn new(host: &str, port: u16) -> Result<Self, Error> {
        if host.len() > HOST_SIZE_MAX {
            return Err(too_long(host));
        }
        if is_socket(host) {
            return Ok(Self::assemble(Host::Unix(PathBuf::from(host)), 0, host));
        }
        if port == 0 {
            return Err(invalid(host, "port 0 is outside 1 to 65535".into()));
        }
        let parsed = parse_host(host)?;
        Ok(Self::assemble(parsed, port, host))
    }
}

impl std::str::FromStr for ServerAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// Normalises a domain name without port as [`ServerAddress`] does: the form in which names are resolved and compared.
///
/// # Errors
/// [`ErrorKind::InvalidHost`], naming the label that can't be normalised, or for a name that ends in a number: it could be read
/// as an IPv4 address.
pub fn normalize_name(name: &str) -> Result<String, Error> {
    let ascii = to_labels(name)?;
    if ends_in_number(&ascii) {
        return Err(invalid(name, "the last label is a number: this is an IPv4 address or looks like one, not a name".into()));
    }
    Ok(ascii)
}

/// Converts a name to A-labels in lower case and checks their sizes.
fn to_labels(name: &str) -> Result<String, Error> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.is_empty() {
        return Err(invalid(name, "empty host".into()));
    }
    // UTS-46 treats all of these as dots.
    if bare.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']).any(|label| label.chars().nth(LABEL_CHARS_MAX).is_some()) {
        let error = invalid(name, format!("a label has more than {LABEL_CHARS_MAX} characters"));
        return Err(error.against("LABEL_CHARS_MAX", LimitValue::Count(LABEL_CHARS_MAX as u64)));
    }
    let ascii = if plain(bare) { bare.to_ascii_lowercase() } else { to_ascii(name, bare)? };
    // An ideographic full stop or a mapped character can end in a dot of its own.
    let ascii = ascii.strip_suffix('.').unwrap_or(&ascii).to_owned();
    for label in ascii.split('.') {
        if label.is_empty() {
            return Err(invalid(name, "empty label".into()));
        }
        if label.len() > LABEL_SIZE_MAX {
            return Err(invalid(name, format!("label {} has {} bytes, the limit is {LABEL_SIZE_MAX}", shown(label), label.len())));
        }
    }
    if ascii.len() > NAME_SIZE_MAX {
        return Err(invalid(name, format!("name has {} bytes, the limit is {NAME_SIZE_MAX}", ascii.len())));
    }
    Ok(ascii)
}

/// Returns whether a name needs no IDNA: letters, digits, hyphens, underscores and dots, and no `xn--` label to check.
fn plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && !name.split('.').any(|label| label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--")))
}

fn to_ascii(name: &str, bare: &str) -> Result<String, Error> {
    let convert = |text: &str| {
        idna::uts46::Uts46::new()
            .to_ascii(text.as_bytes(), idna::AsciiDenyList::EMPTY, idna::uts46::Hyphens::Allow, idna::uts46::DnsLength::Ignore)
            .map(|ascii| ascii.into_owned())
            .ok()
            .filter(|ascii| ascii.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')))
    };
    convert(bare).ok_or_else(|| {
        let label = bare.split('.').find(|label| !label.is_empty() && convert(label).is_none()).unwrap_or(bare);
        // The label of a host that is not shown in full could be the hidden part.
        let label = if hidden_from(name) == name.len() { format!("label {}", shown(label)) } else { "a label".to_owned() };
        invalid(name, format!("{label} is not a valid domain label (UTS-46)"))
    })
}

fn parse_host(host: &str) -> Result<Host, Error> {
    if host.is_empty() {
        return Err(invalid(host, "empty host".into()));
    }
    let bracketed =
        host.strip_prefix('[').map(|rest| rest.strip_suffix(']').ok_or_else(|| invalid(host, "'[' without ']'".into()))).transpose()?;
    let numeric = bracketed.unwrap_or(host);
    if numeric.contains(':') {
        let (address, zone) = match numeric.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (numeric, None),
        };
        let parsed: Ipv6Addr = address.parse().map_err(|_| invalid(host, "not an IPv6 address".into()))?;
        if let Some(zone) = zone
            && (zone.is_empty() || !zone.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~')))
        {
            return Err(invalid(host, "the zone id is empty, or has characters other than letters, digits, '-', '_', '.' and '~'".into()));
        }
        return Ok(Host::V6(parsed, zone.map(str::to_owned)));
    }
    if bracketed.is_some() {
        return Err(invalid(host, "brackets are for IPv6 addresses".into()));
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(Host::V4(address));
    }
    let name = to_labels(host)?;
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return Ok(Host::V4(address));
    }
    if ends_in_number(&name) && !resembles_address(&name) {
        return Err(invalid(
            host,
            "the last label is a number: an IPv4 address is written as four decimal numbers, such as 127.0.0.1".into(),
        ));
    }
    Ok(Host::Name(name))
}

/// Returns whether the last label of a name is a decimal or hexadecimal number (URL standard, "ends in a number"): operating
/// systems read `2130706433`, `127.1`, `0x7f.1` and `0177.0.0.1` as addresses.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last.strip_prefix("0x").or_else(|| last.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Returns whether a name has the form of an IPv4 address without being one, such as `256.0.0.1`: a host name by the
/// connection-string specification, but not an address for any operating system.
fn resembles_address(name: &str) -> bool {
    let labels = || name.split('.');
    let is_decimal = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit()) && (label == "0" || !label.starts_with('0'));
    labels().count() == 4 && labels().all(is_decimal) && labels().any(|label| label.parse::<u8>().is_err())
}

/// Only a path is a unix socket: a name that merely ends in `.sock` is a domain name.
fn is_socket(text: &str) -> bool {
    text.ends_with(".sock") && text.contains('/')
}

/// Splits the port off; a bare IPv6 address has none.
fn split_port(text: &str) -> Result<(&str, Option<u16>), Error> {
    if is_socket(text) {
        return Ok((text, None));
    }
    if let Some(end) = text.rfind(']') {
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(parse_port(text, port)?))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(invalid(text, "the text after the ']' is not a port".into())),
        };
    }
    match text.rsplit_once(':') {
        None => Ok((text, None)),
        Some((head, _)) if head.contains(':') && text.parse::<Ipv6Addr>().is_ok() => Ok((text, None)),
        Some((head, _)) if head.contains(':') && text.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) => {
            Ok((text, None))
        }
        Some((host, port)) => Ok((host, Some(parse_port(text, port)?))),
    }
}

fn parse_port(text: &str, port: &str) -> Result<u16, Error> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| port.parse::<u16>().ok()).flatten().filter(|port| *port > 0).ok_or_else(|| {
        let port = if is_short_number(port) { format!("port {port:?}") } else { "the port".to_owned() };
        invalid(text, format!("{port} is not a number from 1 to 65535"))
    })
}

/// Returns whether a text looks like a port.
fn is_short_number(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether a character is an `@`, or is mapped to one in host names (UTS-46).
pub(crate) fn is_at_sign(character: char) -> bool {
    matches!(character, '@' | '\u{fe6b}' | '\u{ff20}')
}

/// Returns whether a character is a `:`, or is mapped to one in host names (UTS-46).
pub(crate) fn is_colon(character: char) -> bool {
    matches!(character, ':' | '\u{fe13}' | '\u{fe55}' | '\u{ff1a}')
}

/// Quotes the beginning of a host for an error.
///
/// An unreadable host may be user information: nothing is shown of a text with an `@`, and nothing from the first `:` on unless
/// a port follows, or the text can only be an IPv6 address.
pub(crate) fn shown(host: &str) -> String {
    if host.contains(is_at_sign) {
        return "(not shown, contains '@')".to_owned();
    }
    let (start, end) = host.split_at_checked(hidden_from(host)).unwrap_or_default();
    let clipped: String = start.chars().take(SHOWN_CHARS_MAX).collect();
    let rest = if !end.is_empty() || clipped.len() < start.len() { "..." } else { "" };
    format!("{clipped:?}{rest}")
}

/// Returns where the hidden part of a host begins; its length if nothing is hidden.
fn hidden_from(host: &str) -> usize {
    if host.contains(is_at_sign) {
        return 0;
    }
    let at = host.find(|character| is_colon(character) || character == '%').unwrap_or(host.len());
    let is_port = host.get(at..).and_then(|rest| rest.strip_prefix(':')).is_some_and(is_short_number);
    if is_port { host.len() } else { v6_end(host).unwrap_or(at) }
}

/// Returns the end of the address in a text that begins like an IPv6 address in brackets.
fn v6_end(host: &str) -> Option<usize> {
    let inner = host.strip_prefix('[')?;
    let end = inner.find(['%', ']']).unwrap_or(inner.len());
    let address = inner.get(..end)?;
    let is_v6 = address.contains("::") && address.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
    (is_v6 && end <= V6_SIZE_MAX).then_some(end + 1)
}

/// The longest host text in an error, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// The longest text of an IPv6 address.
const V6_SIZE_MAX: usize = 45;

fn too_long(host: &str) -> Error {
    invalid(host, format!("{} bytes", host.len())).against("HOST_SIZE_MAX", LimitValue::Bytes(HOST_SIZE_MAX as u64))
}

fn invalid(host: &str, why: String) -> Error {
    Error::new(ErrorKind::InvalidHost, format!("invalid host {}: {why}", shown(host))).at(Stage::Uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ServerAddress {
        ServerAddress::parse(text).expect(text)
    }

    fn refusal(text: &str) -> String {
        ServerAddress::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn spellings_of_one_name_are_equal() {
        let spellings = [
            "bücher.example",
            "BÜCHER.example.",
            "xn--bcher-kva.example",
            "XN--BCHER-KVA.EXAMPLE:27017",
            "bu\u{308}cher.example",
            "bücher。example",
        ];
        for spelling in spellings {
            assert_eq!(key(spelling), key("bücher.example:27017"), "{spelling}");
        }
        assert_ne!(key("bücher.example:27018"), key("bücher.example"));
    }

    #[test]
    fn non_transitional_mapping_keeps_sharp_s() {
        assert_eq!(key("straße.example").canonical(), "xn--strae-oqa.example:27017");
    }

    #[test]
    fn spelling_is_kept_for_display() {
        assert_eq!(key("Bücher.Example.:1").to_string(), "Bücher.Example.:1");
    }

    #[test]
    fn underscores_and_single_labels_pass() {
        assert_eq!(key("Shard_0").canonical(), "shard_0:27017");
        assert_eq!(key("my_host.Ünit").canonical(), "my_host.xn--nit-goa:27017");
    }

    #[test]
    fn address_forms_are_equal() {
        for spelling in ["[::1]:27017", "::1", "[0:0:0:0:0:0:0:1]", "[0:0::1]:27017"] {
            assert_eq!(key(spelling).canonical(), "[::1]:27017", "{spelling}");
        }
        assert_eq!(key("127.0.0.1").host(), &Host::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(key("127.0.0.1.").host(), &Host::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn zones_are_part_of_the_address() {
        assert_eq!(key("[fe80::1%lo0]:5").canonical(), "[fe80::1%lo0]:5");
        assert_eq!(key("fe80::1%lo0").name(), None);
        assert_ne!(key("[fe80::1%lo0]"), key("[fe80::1%lo1]"));
        assert!(refusal("[fe80::1%]").contains("zone id"));
    }

    #[test]
    fn sockets_have_no_port() {
        assert_eq!(key("/tmp/mongodb-27017.sock").canonical(), "/tmp/mongodb-27017.sock");
        assert_eq!(key("run/relative.sock").host(), &Host::Unix("run/relative.sock".into()));
        assert_eq!(key("name.sock").canonical(), "name.sock:27017");
    }

    #[test]
    fn refusals_name_the_part() {
        assert!(refusal("a..b").contains("empty label"));
        assert!(refusal("ok.xn--a.example").contains("\"xn--a\""), "{}", refusal("ok.xn--a.example"));
        assert!(refusal(&format!("{}.example", "a".repeat(64))).contains("limit is 63"));
        assert_eq!(key(&"a.".repeat(127)).canonical().len(), 253 + ":27017".len());
        assert!(refusal(&"a.".repeat(130)).contains("limit is 253"));
        for dot in [".", "\u{3002}"] {
            assert!(refusal(&format!("a{dot}{}", "\u{4e00}".repeat(127))).contains("limit LABEL_CHARS_MAX of 126"));
        }
        assert!(refusal(&"a".repeat(2000)).contains("limit HOST_SIZE_MAX of 1024 bytes"));
        assert!(refusal("host:0").contains("port"));
        assert!(refusal("host:65536").contains("port"));
        assert!(refusal("host:+1").contains("port"));
        assert!(refusal("host::27017").contains("host"));
        assert!(refusal("").contains("empty host"));
        assert!(refusal("sp ace").contains("sp ace"));
        assert!(refusal("[127.0.0.1]").contains("brackets"));
        assert!(refusal("[::1]x").contains("not a port"));
    }

    #[test]
    fn unusual_numeric_forms_are_not_hosts() {
        let odd = [
            "2130706433",
            "0x7f000001",
            "0X7F000001",
            "017700000001",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "127.0.0.01",
            "0x7f.0.0.1",
            "127.0.0.0x1",
            "1.2.3.4.5",
            "127.0.0.1.5",
            "db.1",
            "db.0x",
            "db.example.0x1f",
            "\u{ff11}27.1",
            "127\u{3002}1",
            "127.1.",
            "00.0.0.256",
        ];
        for text in odd {
            assert!(refusal(text).contains("last label is a number"), "{text}: {}", refusal(text));
            assert!(refusal(&format!("{text}:27017")).contains("last label is a number"), "{text}");
            assert!(normalize_name(text).is_err(), "{text}");
        }
        assert_eq!(key("256.0.0.1").name(), Some("256.0.0.1"), "a name by the connection-string specification");
        for name in ["1db", "0xdb.example", "1.db", "0x7g", "db-1", "1_2"] {
            assert_eq!(key(name).name(), Some(name));
        }
        for address in ["127.0.0.1", "127.0.0.1.", "256.0.0.1"] {
            assert!(normalize_name(address).is_err(), "{address} is not the name of records");
        }
    }

    #[test]
    fn errors_show_nothing_that_could_be_a_password() {
        let texts = [
            "u:PW",
            "u:PW@h",
            "u:PW@h:27017",
            "PW@h",
            "u:PW:27017",
            "u:PW:PW",
            "[u:PW",
            "[u:PW]",
            "[::1]PW",
            "[::1]:PW",
            "[fe80::1%PW!]:1",
            "u\u{ff1a}PW",
            "u:PW\u{ff20}h",
            "PW\u{fe6b}h",
            "u%3APW%40h",
            "a b:PW",
            "u.:PW",
        ];
        for text in texts {
            let error = ServerAddress::parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("PW"), "{text}: {error:?}");
            if let Err(error) = ServerAddress::new(text, 1) {
                assert!(!format!("{error} {error:?}").contains("PW"), "{text}: {error:?}");
            }
            let long = ServerAddress::parse(&format!("{text}{}", "a".repeat(2000))).expect_err(text);
            assert!(!format!("{long:?}").contains("PW"), "{text}: {long:?}");
        }
        assert!(refusal("h:123456").contains("\"h\"..."), "{}", refusal("h:123456"));
        assert!(refusal("h:99999").contains("\"h:99999\": port \"99999\""), "{}", refusal("h:99999"));
    }
}
