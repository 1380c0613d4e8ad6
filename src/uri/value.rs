//! The types of option values: parsing and printing.
//!
//! An [`OptionKind`] is a type of the uri-options specification with its range. Does not decide which option has which kind
//! (`table`), nor the effect of a [`ValueFault`] (`parse`).

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::table::{OptionRow, PROPERTIES, SESSION_TOKEN};
use crate::host::{is_at_sign, is_colon};
use crate::options::Secret;
use crate::options::{MIN_HEARTBEAT_FREQUENCY, ServerMonitoringMode};

/// The largest number of an option: durations stay far from the end of the clock.
pub(super) const NUMBER_MAX: u32 = i32::MAX as u32;

/// The longest `appName`, in bytes (mongodb-handshake, `application.name`).
pub(super) const APP_NAME_SIZE_MAX: usize = 128;

/// The longest `srvServiceName`, in bytes: a label of 63 with its underscore (uri-options).
const SERVICE_NAME_SIZE_MAX: usize = 62;

/// The longest text shown in an error or warning, in characters.
const QUOTE_CHARS_MAX: usize = 60;

/// The value of an option, in the types of the uri-options specification.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionValue {
    /// `true` or `false`.
    Bool(bool),
    /// A number; durations in the unit of the option's name.
    Int(i64),
    /// A text.
    Text(String),
    /// A text that is never shown.
    Secret(Secret),
    /// Texts separated by commas.
    List(Vec<String>),
    /// Names with values, which are texts or secrets.
    Pairs(Vec<(String, Self)>),
    /// Tag sets, one for each time the option is given.
    Tags(Vec<Vec<(String, String)>>),
}

/// What is wrong with a value, and the consequence.
pub(super) enum ValueFault {
    /// The option is ignored, with a warning.
    Warn(String),
    /// The option is ignored with a warning, and no client can be created from the options.
    Refuse(String),
    /// Parsing the connection string fails.
    Fail(String),
}

/// Parsing and printing of values of one type.
pub(super) trait OptionKind {
    type Value;

    fn read(text: &str) -> Result<Self::Value, ValueFault>;

    fn show(value: &Self::Value) -> OptionValue;
}

/// `true` or `false`.
pub(super) struct Flag;

impl OptionKind for Flag {
    type Value = bool;

    fn read(text: &str) -> Result<bool, ValueFault> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(ValueFault::Warn(format!("{} is neither true nor false", quote(text)))),
        }
    }

    fn show(value: &bool) -> OptionValue {
        OptionValue::Bool(*value)
    }
}

/// `true` or `false`, where ignoring another value would be unsafe.
pub(super) struct StrictFlag;

impl OptionKind for StrictFlag {
    type Value = bool;

    fn read(text: &str) -> Result<bool, ValueFault> {
        Flag::read(text).map_err(|fault| match fault {
            ValueFault::Warn(message) | ValueFault::Refuse(message) | ValueFault::Fail(message) => ValueFault::Refuse(message),
        })
    }

    fn show(value: &bool) -> OptionValue {
        OptionValue::Bool(*value)
    }
}

/// A number of milliseconds, at least `MIN`.
pub(super) struct Millis<const MIN: u32>;

impl<const MIN: u32> OptionKind for Millis<MIN> {
    type Value = Duration;

    fn read(text: &str) -> Result<Duration, ValueFault> {
        Count::<MIN>::read(text).map(|millis| Duration::from_millis(u64::from(millis)))
    }

    fn show(value: &Duration) -> OptionValue {
        OptionValue::Int(i64::try_from(value.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The least `heartbeatFrequencyMS`.
pub(super) const HEARTBEAT_MILLIS_MIN: u32 = 500;
const _: () = assert!(MIN_HEARTBEAT_FREQUENCY.as_millis() == HEARTBEAT_MILLIS_MIN as u128);

/// A number, at least `MIN`.
pub(super) struct Count<const MIN: u32>;

impl<const MIN: u32> OptionKind for Count<MIN> {
    type Value = u32;

    fn read(text: &str) -> Result<u32, ValueFault> {
        integer(text)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (MIN..=NUMBER_MAX).contains(number))
            .ok_or_else(|| ValueFault::Warn(not_within(text, i64::from(MIN), i64::from(NUMBER_MAX))))
    }

    fn show(value: &u32) -> OptionValue {
        OptionValue::Int(i64::from(*value))
    }
}

/// `zlibCompressionLevel`.
pub(super) struct ZlibLevel;

impl OptionKind for ZlibLevel {
    type Value = i32;

    fn read(text: &str) -> Result<i32, ValueFault> {
        integer(text)
            .and_then(|level| i32::try_from(level).ok())
            .filter(|level| (-1..=9).contains(level))
            .ok_or_else(|| ValueFault::Warn(not_within(text, -1, 9)))
    }

    fn show(value: &i32) -> OptionValue {
        OptionValue::Int(i64::from(*value))
    }
}

/// A port.
pub(super) struct Port;

impl OptionKind for Port {
    type Value = u16;

    fn read(text: &str) -> Result<u16, ValueFault> {
        integer(text)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0)
            .ok_or_else(|| ValueFault::Warn(not_within(text, 1, i64::from(u16::MAX))))
    }

    fn show(value: &u16) -> OptionValue {
        OptionValue::Int(i64::from(*value))
    }
}

/// A non-empty text.
pub(super) struct NonEmptyText;

impl OptionKind for NonEmptyText {
    type Value = String;

    fn read(text: &str) -> Result<String, ValueFault> {
        if text.is_empty() { Err(ValueFault::Warn("has no value".into())) } else { Ok(text.to_owned()) }
    }

    fn show(value: &String) -> OptionValue {
        OptionValue::Text(value.clone())
    }
}

/// `appName`: a text of limited length.
pub(super) struct AppName;

impl OptionKind for AppName {
    type Value = String;

    fn read(text: &str) -> Result<String, ValueFault> {
        if text.len() > APP_NAME_SIZE_MAX {
            return Err(ValueFault::Warn(format!("has {} bytes, the limit is {APP_NAME_SIZE_MAX}", text.len())));
        }
        NonEmptyText::read(text)
    }

    fn show(value: &String) -> OptionValue {
        NonEmptyText::show(value)
    }
}

/// `authSource`: without a value it is an error (auth, "authSource").
pub(super) struct AuthSource;

impl OptionKind for AuthSource {
    type Value = String;

    fn read(text: &str) -> Result<String, ValueFault> {
        if text.is_empty() { Err(ValueFault::Fail("has no value".into())) } else { Ok(text.to_owned()) }
    }

    fn show(value: &String) -> OptionValue {
        NonEmptyText::show(value)
    }
}

/// `srvServiceName`: a service name of RFC 6335, which may be longer than 15 characters.
pub(super) struct ServiceName;

impl OptionKind for ServiceName {
    type Value = String;

    fn read(text: &str) -> Result<String, ValueFault> {
        if is_service_name(text) {
            Ok(text.to_owned())
        } else {
            Err(ValueFault::Warn(format!("{} is not a service name (RFC 6335)", quote(text))))
        }
    }

    fn show(value: &String) -> OptionValue {
        NonEmptyText::show(value)
    }
}

/// Returns whether a text is a service name that fits a label of a domain name.
pub(super) fn is_service_name(text: &str) -> bool {
    (1..=SERVICE_NAME_SIZE_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// A non-empty text that is never shown.
pub(super) struct Hidden;

impl OptionKind for Hidden {
    type Value = Secret;

    fn read(text: &str) -> Result<Secret, ValueFault> {
        if text.is_empty() { Err(ValueFault::Warn("has no value".into())) } else { Ok(Secret::new(text)) }
    }

    fn show(value: &Secret) -> OptionValue {
        OptionValue::Secret(value.clone())
    }
}

/// The path of a file. An invalid path of a certificate or key can't be ignored safely.
pub(super) struct File;

impl OptionKind for File {
    type Value = PathBuf;

    fn read(text: &str) -> Result<PathBuf, ValueFault> {
        if text.is_empty() { Err(ValueFault::Refuse("has no value".into())) } else { Ok(PathBuf::from(text)) }
    }

    fn show(value: &PathBuf) -> OptionValue {
        OptionValue::Text(value.to_string_lossy().into_owned())
    }
}

/// `serverMonitoringMode`.
pub(super) struct Monitoring;

impl OptionKind for Monitoring {
    type Value = ServerMonitoringMode;

    fn read(text: &str) -> Result<ServerMonitoringMode, ValueFault> {
        match text {
            "auto" => Ok(ServerMonitoringMode::Auto),
            "stream" => Ok(ServerMonitoringMode::Stream),
            "poll" => Ok(ServerMonitoringMode::Poll),
            _ => Err(ValueFault::Warn(format!("{} is not auto, stream or poll", quote(text)))),
        }
    }

    fn show(value: &ServerMonitoringMode) -> OptionValue {
        let name = match value {
            ServerMonitoringMode::Auto => "auto",
            ServerMonitoringMode::Stream => "stream",
            ServerMonitoringMode::Poll => "poll",
        };
        OptionValue::Text(name.to_owned())
    }
}

/// Parses an integer: digits, after a minus sign if negative.
pub(super) fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Returns the message for a text that is not a number within a range.
pub(super) fn not_within(text: &str, min: i64, max: i64) -> String {
    format!("{} is not a whole number from {min} to {max}", quote(text))
}

/// Quotes the beginning of a text, escaped.
///
/// Nothing is shown from the first delimiter of a connection string on: the rest could be another part of it.
pub(super) fn quote(text: &str) -> String {
    let is_delimiter = |character: char| is_at_sign(character) || is_colon(character) || matches!(character, '&' | ';' | '?' | '=' | '%');
    let start = text.split(is_delimiter).next().unwrap_or_default();
    let clipped: String = start.chars().take(QUOTE_CHARS_MAX).flat_map(char::escape_debug).collect();
    let rest = if start.len() < text.len() || start.chars().nth(QUOTE_CHARS_MAX).is_some() { "..." } else { "" };
    format!("\"{clipped}\"{rest}")
}

/// Returns whether a value contains a further option, because a character other than `&` precedes it: the value would be shown
/// like any other, including a password in it, and the further option would have no effect.
///
/// In a value as given, a percent-encoded `=` does not count; a name that ends in `password` always counts.
pub(super) fn holds_further_option(entry: &OptionRow, given: &str, decoded: &str) -> bool {
    if matches!(entry.name, "proxyPassword" | "tlsCertificateKeyFilePassword") {
        return false;
    }
    let lower = Zeroizing::new(decoded.to_ascii_lowercase());
    let after_password = || lower.split("password").skip(1).any(|rest| rest.trim_start().starts_with(['=', ':']));
    let has_name = || lower.contains("tlscertificatekeyfilepassword") || lower.contains("proxypassword");
    let has_token = || entry.name != PROPERTIES && lower.contains(&SESSION_TOKEN.to_ascii_lowercase());
    let is_option = |piece: &str| {
        let name = piece.split_once('=').map_or("", |(name, _)| name.trim());
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let has_option = || entry.name != PROPERTIES && given.contains('=') && decoded.split([';', '?', ',', '&', ' ']).skip(1).any(is_option);
    after_password() || has_name() || has_token() || has_option()
}

/// Decodes percent-escapes; the text is wiped when dropped.
///
/// # Errors
/// The fault, without any of the text.
pub(super) fn decode(text: &str) -> Result<Zeroizing<String>, &'static str> {
    let bytes = text.as_bytes();
    let escaped = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if !text.match_indices('%').all(|(at, _)| escaped(at)) {
        return Err("has a '%' without two hexadecimal digits after it (write a '%' itself as %25)");
    }
    // The text may be a secret: the buffer never grows, which would leave copies behind.
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    decoded.extend(percent_decode_str(text));
    match String::from_utf8(std::mem::take(&mut *decoded)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err("is not UTF-8 when its percent-escapes are decoded")
        }
    }
}
