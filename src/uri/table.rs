//! The table of connection string options.
//!
//! One row for each option of the uri-options specification, and mongolink's own `dnsTimeoutMS`: name, aliases, what a
//! repetition means, how the value is parsed and shown. Does not decide rules between options (`validate`).

use std::time::Duration;

use super::value::{
    AppName, AuthSource, Count, File, Flag, HEARTBEAT_MILLIS_MIN, Hidden, Millis, Monitoring, NUMBER_MAX, NonEmptyText, OptionKind,
    OptionValue, Port, ServiceName, StrictFlag, ValueFault, ZlibLevel, integer, not_within, quote,
};
use crate::options::ClientOptions;
use crate::options::W;
use crate::options::{Mechanism, Secret};
use crate::options::{ReadPreference, ReadPreferenceMode};

/// The row of an option.
pub(super) struct OptionRow {
    /// The name, spelled as in the specification; matched in any case.
    pub(super) name: &'static str,
    /// The aliases.
    pub(super) aliases: &'static [Alias],
    /// The effect of giving the option more than once.
    pub(super) repeat: Repeat,
    /// Parses a value into the options; parts that were left out are added to the notes.
    pub(super) read: fn(&mut ClientOptions, &str, &mut Vec<String>) -> Result<(), ValueFault>,
    /// Returns the given value, if any.
    pub(super) show: fn(&ClientOptions) -> Option<OptionValue>,
}

/// An alias of an option.
pub(super) struct Alias {
    pub(super) name: &'static str,
    /// Whether its use causes a warning.
    pub(super) deprecated: bool,
}

/// The effect of giving an option more than once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The first value is used, the others cause a warning.
    First,
    /// Different values are an error.
    Agree,
    /// It is an error.
    Refused,
    /// Each value is appended to a list.
    List,
}

/// Finds an option by its name or an alias, in any case: its index in the table, its row, and the alias if it was one.
pub(super) fn find(name: &str) -> Option<(usize, &'static OptionRow, Option<&'static Alias>)> {
    TABLE.iter().enumerate().find_map(|(place, entry)| {
        if entry.name.eq_ignore_ascii_case(name) {
            return Some((place, entry, None));
        }
        let alias = entry.aliases.iter().find(|alias| alias.name.eq_ignore_ascii_case(name))?;
        Some((place, entry, Some(alias)))
    })
}

/// Returns the option that a name with one or two wrong characters may mean.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    if name.len() > NAME_SIZE_MAX {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let distances =
        TABLE.iter().filter(|entry| entry.name.len() > 4).map(|entry| (distance(&name, &entry.name.to_ascii_lowercase()), entry.name));
    distances.min().filter(|(distance, _)| *distance <= 2).map(|(_, name)| name)
}

/// Returns how many characters have to be added, removed or replaced to turn one text into another.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, left) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, right) in other.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The longest name that is compared with those of options, in bytes: no option's name is longer.
const NAME_SIZE_MAX: usize = 40;

/// Returns the names of all options of connection strings.
#[cfg(any(test, feature = "internals"))]
pub fn option_names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|entry| entry.name)
}

/// Returns the value of an option by its name in a connection string; `None` if it was not given, or there is no such option.
#[cfg(any(test, feature = "internals"))]
pub fn option_value(options: &ClientOptions, name: &str) -> Option<OptionValue> {
    find(name).and_then(|(_, entry, _)| (entry.show)(options))
}

/// Defines the row of an option with a field of its own.
macro_rules! field {
    ($name:literal, $field:ident: $kind:ty) => {
        OptionRow {
            name: $name,
            aliases: &[],
            repeat: Repeat::First,
            read: |options, text, _| {
                options.$field = Some(<$kind as OptionKind>::read(text)?);
                Ok(())
            },
            show: |options| options.$field.as_ref().map(<$kind as OptionKind>::show),
        }
    };
}

/// Defines the row of an option with functions of its own.
macro_rules! own {
    ($name:expr, $read:ident, $show:expr) => {
        OptionRow { name: $name, aliases: &[], repeat: Repeat::First, read: $read, show: $show }
    };
}

/// All options, in the order in which they are shown.
pub(super) static TABLE: &[OptionRow] = &[
    field!("replicaSet", replica_set: NonEmptyText),
    field!("directConnection", direct_connection: Flag),
    field!("loadBalanced", load_balanced: Flag),
    field!("srvServiceName", srv_service_name: ServiceName),
    field!("srvMaxHosts", srv_max_hosts: Count<0>),
    field!("authSource", auth_source: AuthSource),
    own!("authMechanism", read_mechanism, show_mechanism),
    own!(PROPERTIES, read_properties, show_properties),
    OptionRow { aliases: &[Alias { name: "ssl", deprecated: false }], repeat: Repeat::Agree, ..field!("tls", tls: StrictFlag) },
    field!("tlsCAFile", tls_ca_file: File),
    field!("tlsCertificateKeyFile", tls_certificate_key_file: File),
    field!("tlsCertificateKeyFilePassword", tls_certificate_key_file_password: Hidden),
    field!("tlsInsecure", tls_insecure: Flag),
    field!("tlsAllowInvalidCertificates", tls_allow_invalid_certificates: Flag),
    field!("tlsAllowInvalidHostnames", tls_allow_invalid_hostnames: Flag),
    field!("tlsDisableOCSPEndpointCheck", tls_disable_ocsp_endpoint_check: Flag),
    field!("tlsDisableCertificateRevocationCheck", tls_disable_certificate_revocation_check: Flag),
    field!("appName", app_name: AppName),
    own!("compressors", read_compressors, |options| options.compressors.clone().map(OptionValue::List)),
    field!("zlibCompressionLevel", zlib_compression_level: ZlibLevel),
    field!("connectTimeoutMS", connect_timeout: Millis<0>),
    field!("socketTimeoutMS", socket_timeout: Millis<0>),
    field!("timeoutMS", timeout: Millis<0>),
    field!("dnsTimeoutMS", dns_timeout: Millis<1>),
    field!("serverSelectionTimeoutMS", server_selection_timeout: Millis<1>),
    field!("serverSelectionTryOnce", server_selection_try_once: Flag),
    field!("heartbeatFrequencyMS", heartbeat_frequency: Millis<HEARTBEAT_MILLIS_MIN>),
    field!("localThresholdMS", local_threshold: Millis<0>),
    field!("serverMonitoringMode", server_monitoring_mode: Monitoring),
    field!("socketCheckIntervalMS", socket_check_interval: Millis<0>),
    field!("maxPoolSize", max_pool_size: Count<0>),
    field!("minPoolSize", min_pool_size: Count<0>),
    field!("maxConnecting", max_connecting: Count<1>),
    field!("maxIdleTimeMS", max_idle_time: Millis<0>),
    field!("waitQueueTimeoutMS", wait_queue_timeout: Millis<0>),
    own!("readPreference", read_preference_mode, show_preference_mode),
    OptionRow { repeat: Repeat::List, ..own!("readPreferenceTags", read_tags, show_tags) },
    own!("maxStalenessSeconds", read_staleness, show_staleness),
    own!("readConcernLevel", read_concern_level, show_concern_level),
    own!("w", read_w, show_w),
    OptionRow { aliases: &[Alias { name: "j", deprecated: true }], ..own!("journal", read_journal, show_journal) },
    OptionRow { aliases: &[Alias { name: "wtimeout", deprecated: true }], ..own!("wTimeoutMS", read_w_timeout, show_w_timeout) },
    field!("retryReads", retry_reads: Flag),
    field!("retryWrites", retry_writes: Flag),
    field!("maxAdaptiveRetries", max_adaptive_retries: Count<0>),
    field!("enableOverloadRetargeting", enable_overload_retargeting: Flag),
    OptionRow { repeat: Repeat::Refused, ..field!("proxyHost", proxy_host: NonEmptyText) },
    OptionRow { repeat: Repeat::Refused, ..field!("proxyPort", proxy_port: Port) },
    OptionRow { repeat: Repeat::Refused, ..field!("proxyUsername", proxy_username: NonEmptyText) },
    OptionRow { repeat: Repeat::Refused, ..field!("proxyPassword", proxy_password: Hidden) },
];

/// The option whose value is a list of names and values, one of which is a secret.
pub(super) const PROPERTIES: &str = "authMechanismProperties";

/// The mechanism property whose value is a secret.
pub(super) const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";

/// The mechanism properties whose values are shown.
const SHOWN_PROPERTIES: [&str; 6] =
    ["SERVICE_NAME", "SERVICE_REALM", "SERVICE_HOST", "CANONICALIZE_HOST_NAME", "ENVIRONMENT", "TOKEN_RESOURCE"];

/// The compressors of the specification.
const COMPRESSORS: [&str; 3] = ["snappy", "zlib", "zstd"];

fn read_mechanism(options: &mut ClientOptions, text: &str, _notes: &mut Vec<String>) -> Result<(), ValueFault> {
    let name = NonEmptyText::read(text)?;
    options.auth_mechanism = Mechanism::from_name(&name);
    options.auth_mechanism_other = options.auth_mechanism.is_none().then_some(name);
    Ok(())
}

fn show_mechanism(options: &ClientOptions) -> Option<OptionValue> {
    let known = options.auth_mechanism.map(|mechanism| mechanism.name().to_owned());
    known.or_else(|| options.auth_mechanism_other.clone()).map(OptionValue::Text)
}

fn read_properties(options: &mut ClientOptions, text: &str, notes: &mut Vec<String>) -> Result<(), ValueFault> {
    if text.is_empty() {
        return Err(ValueFault::Warn("has no value".to_owned()));
    }
    for (number, part) in (1..).zip(text.split(',')) {
        let Some((name, value)) = part.split_once(':').filter(|(name, value)| !name.is_empty() && !value.is_empty()) else {
            notes.push("a part between commas is not NAME:value and is ignored; values can't contain commas here".to_owned());
            continue;
        };
        let repeated = if name.eq_ignore_ascii_case(SESSION_TOKEN) {
            options.aws_session_token.is_some()
        } else {
            options.auth_mechanism_properties.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
        };
        if repeated {
            notes.push(format!("{} is given more than once, the first value is used", quote(name)));
        } else if name.eq_ignore_ascii_case(SESSION_TOKEN) {
            options.aws_session_token = Some(Secret::new(value));
        } else if name.eq_ignore_ascii_case("ALLOWED_HOSTS") {
            return Err(ValueFault::Fail("ALLOWED_HOSTS can't be given in a connection string".to_owned()));
        } else if !SHOWN_PROPERTIES.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            // Its value could be a secret under a misspelled name.
            return Err(ValueFault::Fail(format!("property number {number} is unknown")));
        } else {
            options.auth_mechanism_properties.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(())
}

fn show_properties(options: &ClientOptions) -> Option<OptionValue> {
    let plain = options.auth_mechanism_properties.iter().map(|(name, value)| (name.clone(), OptionValue::Text(value.clone())));
    let token = options.aws_session_token.iter().map(|token| (SESSION_TOKEN.to_owned(), OptionValue::Secret(token.clone())));
    let pairs: Vec<_> = plain.chain(token).collect();
    (!pairs.is_empty()).then_some(OptionValue::Pairs(pairs))
}

fn read_compressors(options: &mut ClientOptions, text: &str, notes: &mut Vec<String>) -> Result<(), ValueFault> {
    let mut names: Vec<String> = Vec::new();
    for name in NonEmptyText::read(text)?.split(',') {
        if !COMPRESSORS.contains(&name) {
            notes.push(format!("{} is not one of {} and is ignored", quote(name), COMPRESSORS.join(", ")));
        } else if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if !names.is_empty() {
        options.compressors = Some(names);
    }
    Ok(())
}

fn read_preference_mode(options: &mut ClientOptions, text: &str, _notes: &mut Vec<String>) -> Result<(), ValueFault> {
    let mode = ReadPreferenceMode::from_name(text).ok_or_else(|| {
        ValueFault::Warn(format!("{} is not one of primary, primaryPreferred, secondary, secondaryPreferred, nearest", quote(text)))
    })?;
    preference(options).mode = mode;
    Ok(())
}

fn show_preference_mode(options: &ClientOptions) -> Option<OptionValue> {
    options.read_preference.as_ref().map(|preference| OptionValue::Text(preference.mode.name().to_owned()))
}

fn read_tags(options: &mut ClientOptions, text: &str, _notes: &mut Vec<String>) -> Result<(), ValueFault> {
    let mut tags = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (name, value) = part
            .split_once(':')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| ValueFault::Warn(format!("{} is not name:value", quote(part))))?;
        tags.push((name.to_owned(), value.to_owned()));
    }
    preference(options).tag_sets.push(tags);
    Ok(())
}

fn show_tags(options: &ClientOptions) -> Option<OptionValue> {
    let sets = options.read_preference.as_ref().map(|preference| preference.tag_sets.clone())?;
    (!sets.is_empty()).then_some(OptionValue::Tags(sets))
}

fn read_staleness(options: &mut ClientOptions, text: &str, _notes: &mut Vec<String>) -> Result<(), ValueFault> {
    match integer(text) {
        // The value for "no limit".
        Some(-1) => {}
        Some(seconds @ 0..) if seconds <= i64::from(NUMBER_MAX) => {
            preference(options).max_staleness = Some(Duration::from_secs(seconds.unsigned_abs()))
        }
        Some(_) | None => return Err(ValueFault::Warn(not_within(text, -1, i64::from(NUMBER_MAX)))),
    }
    Ok(())
}

fn show_staleness(options: &ClientOptions) -> Option<OptionValue> {
    let limit = options.read_preference.as_ref().and_then(|preference| preference.max_staleness)?;
    Some(OptionValue::Int(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)))
}

fn preference(options: &mut ClientOptions) -> &mut ReadPreference {
    options.read_preference.get_or_insert_default()
}

fn read_concern_level(options: &mut ClientOptions, text: &str, _notes: &mut Vec<String>) -> Result<(), ValueFault> {
    let level = NonEmptyText::read(text)?;
    options.read_concern.get_or_insert_default().level = Some(level);
    Ok(())
}

fn show_concern_level(options: &ClientOptions) -> Option<OptionValue> {
    options.read_concern.as_ref().and_then(|concern| concern.level.clone()).map(OptionValue::Text)
}

fn read_w(options: &mut ClientOptions, text: &str, _notes: &mut Vec<String>) -> Result<(), ValueFault> {
    let w = match integer(text) {
        Some(nodes) => match u32::try_from(nodes) {
            Ok(nodes) if nodes <= NUMBER_MAX => W::Nodes(nodes),
            Ok(_) | Err(_) => return Err(ValueFault::Refuse(not_within(text, 0, i64::from(NUMBER_MAX)))),
        },
        None => W::Tag(NonEmptyText::read(text)?),
    };
    options.write_concern.get_or_insert_default().w = Some(w);
    Ok(())
}

fn show_w(options: &ClientOptions) -> Option<OptionValue> {
    match options.write_concern.as_ref()?.w.as_ref()? {
        W::Nodes(nodes) => Some(OptionValue::Int(i64::from(*nodes))),
        W::Tag(tag) => Some(OptionValue::Text(tag.clone())),
    }
}

fn read_journal(options: &mut ClientOptions, text: &str, _notes: &mut Vec<String>) -> Result<(), ValueFault> {
    let journal = Flag::read(text)?;
    options.write_concern.get_or_insert_default().journal = Some(journal);
    Ok(())
}

fn show_journal(options: &ClientOptions) -> Option<OptionValue> {
    options.write_concern.as_ref().and_then(|concern| concern.journal).map(OptionValue::Bool)
}

fn read_w_timeout(options: &mut ClientOptions, text: &str, _notes: &mut Vec<String>) -> Result<(), ValueFault> {
    if integer(text).is_some_and(i64::is_negative) {
        return Err(ValueFault::Refuse(not_within(text, 0, i64::from(NUMBER_MAX))));
    }
    let timeout = Millis::<0>::read(text)?;
    options.write_concern.get_or_insert_default().w_timeout = Some(timeout);
    Ok(())
}

fn show_w_timeout(options: &ClientOptions) -> Option<OptionValue> {
    options.write_concern.as_ref().and_then(|concern| concern.w_timeout).as_ref().map(Millis::<0>::show)
}
