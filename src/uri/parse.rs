//! The parts of a connection string: scheme, user info, hosts, database, options.
//!
//! Follows the connection-string specification. An error quotes the offending part, but nothing that could belong to a
//! password: no name of an unknown option, nothing of the database, nothing of a host or a value from its first `:` or `@` on,
//! and no value at all if there is an `@` behind the user information, because the rest can then be a piece of a password. Does
//! not decide which options contradict each other (`validate`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::table::{Alias, OptionRow, Repeat, TABLE, find, nearest};
use super::value::{ValueFault, decode, holds_further_option};
use super::{ConnectionString, SEEDS_MAX, URI_SIZE_MAX, refused, unreadable};
use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::host::{ServerAddress, is_at_sign, is_colon, normalize_name, shown};
use crate::options::Secret;
use crate::options::{ClientOptions, Warning};

/// The advice at the end of every error about user info.
const ENCODE: &str = "in a user name and password, percent-encode the characters : / ? # [ ] @ and %, such as %40 for '@'";

/// Parses a connection string, without checking for contradictions between its options.
pub(super) fn parse(text: &str) -> Result<ConnectionString, Error> {
    if text.len() > URI_SIZE_MAX {
        let error = unreadable(format!("the connection string has {} bytes", text.len()));
        return Err(error.against("URI_SIZE_MAX", LimitValue::Bytes(URI_SIZE_MAX as u64)));
    }
    check_ends(text)?;
    let (is_srv, rest) = split_scheme(text)?;
    let parts = UriComponents::split(rest)?;
    let mut read = ConnectionString { options: ClientOptions::default(), warnings: Vec::new() };
    if let Some(user_info) = parts.user_info {
        read_user_info(&mut read.options, user_info)?;
    }
    let hosts = if is_srv { read_srv(&mut read.options, parts.hosts) } else { read_hosts(&mut read.options, parts.hosts) };
    hosts.map_err(|error| if parts.is_quotable { error } else { unquoted(error.kind()) })?;
    if let Some(database) = parts.database {
        read_database(&mut read.options, database)?;
    }
    if let Some(query) = parts.query {
        let given = split_options(query, &mut read.warnings)?;
        read_options(&mut read, &given, parts.is_quotable)?;
    }
    Ok(read)
}

/// Refuses traces of copying and pasting: blanks, line ends and quotation marks around the string.
fn check_ends(text: &str) -> Result<(), Error> {
    let name = |character: char| match character {
        '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some("a line end"),
        '\u{feff}' => Some("a byte-order mark"),
        '"' | '\'' | '`' | '\u{ab}' | '\u{bb}' | '\u{2018}'..='\u{201f}' => Some("a quotation mark"),
        _ if character.is_whitespace() || matches!(character, '\u{200b}'..='\u{200d}' | '\u{2060}') => Some("a blank"),
        _ => None,
    };
    if let Some(what) = text.chars().next().and_then(name) {
        return Err(unreadable(format!("the connection string begins with {what}")));
    }
    if let Some(what) = text.chars().next_back().and_then(name) {
        return Err(unreadable(format!("the connection string ends with {what}; percent-encode it if it is part of the string")));
    }
    if let Some(at) = text.find(char::is_control) {
        return Err(unreadable(format!("the connection string has a control character, at byte {}; percent-encode it", at + 1)));
    }
    Ok(())
}

/// The parts between the delimiters, still percent-encoded.
struct UriComponents<'a> {
    user_info: Option<&'a str>,
    hosts: &'a str,
    database: Option<&'a str>,
    query: Option<&'a str>,
    /// Whether hosts and values can be shown: an `@` in or behind them, encoded or not, or a `:` in the database could mean
    /// that they are a piece of a password.
    is_quotable: bool,
}

impl<'a> UriComponents<'a> {
    fn split(rest: &'a str) -> Result<Self, Error> {
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let (authority, database) = path.split_once('/').map_or((path, None), |(authority, database)| (authority, Some(database)));
        let (user_info, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user_info, hosts)| (Some(user_info), hosts));
        if database.is_some_and(|database| database.contains('@')) {
            return Err(unreadable(format!("there is an '@' after the first '/': {ENCODE}")));
        }
        if user_info.is_none() && query.is_some_and(|query| query.contains('@')) {
            return Err(unreadable(format!("there is an '@' after the first '?', and none before the hosts: {ENCODE}")));
        }
        if database.is_none() && query.is_some_and(|query| query.contains('@')) {
            return Err(unreadable(format!("there is an '@' after the first '?', and no '/' before: {ENCODE}")));
        }
        let has_colon = database.is_some_and(|database| holds(database, is_colon));
        let has_at_sign = [Some(hosts), database, query].into_iter().flatten().any(|part| holds(part, is_at_sign));
        let is_quotable = !has_colon && !has_at_sign;
        Ok(Self { user_info, hosts, database: database.filter(|database| !database.is_empty()), query, is_quotable })
    }
}

/// Returns whether a text has such a character, even if it was percent-encoded once or twice.
fn holds(text: &str, is_such: fn(char) -> bool) -> bool {
    let once = percent_decode_str(text).decode_utf8_lossy();
    text.contains(is_such) || once.contains(is_such) || percent_decode_str(&once).decode_utf8_lossy().contains(is_such)
}

fn split_scheme(text: &str) -> Result<(bool, &str), Error> {
    if let Some(rest) = text.strip_prefix("mongodb://") {
        return Ok((false, rest));
    }
    if let Some(rest) = text.strip_prefix("mongodb+srv://") {
        return Ok((true, rest));
    }
    // Anything else before the "://" could be a password.
    let found = match text.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("mongodb") || scheme.eq_ignore_ascii_case("mongodb+srv") => ", in lower case",
        Some(("http" | "https" | "mongo" | "jdbc:mongodb", _)) => ", not with another scheme",
        Some(_) | None => "",
    };
    Err(unreadable(format!("a connection string begins with mongodb:// or mongodb+srv://{found}")))
}

fn read_user_info(options: &mut ClientOptions, user_info: &str) -> Result<(), Error> {
    if user_info.contains(is_at_sign) {
        return Err(unreadable(format!("there is more than one '@' before the hosts: {ENCODE}")));
    }
    let (user, password) = user_info.split_once(':').map_or((user_info, None), |(user, password)| (user, Some(password)));
    if user.contains(is_colon) {
        return Err(unreadable("there is a ':' of another width before the '@': user name and password are separated by an ASCII ':'"));
    }
    if password.is_some_and(|password| password.contains(':')) {
        return Err(unreadable(format!("there is more than one ':' before the '@': {ENCODE}")));
    }
    let decoded = |what: &str, text: &str| decode(text).map_err(|why| unreadable(format!("the {what} {why}: {ENCODE}")));
    options.username = Some(decoded("user name", user)?.to_string());
    options.password = password.map(|password| decoded("password", password)).transpose()?.map(Secret::from);
    Ok(())
}

fn read_hosts(options: &mut ClientOptions, hosts: &str) -> Result<(), Error> {
    let count = hosts.split(',').count();
    if count > SEEDS_MAX {
        return Err(
            unreadable(format!("the connection string names {count} hosts")).against("SEEDS_MAX", LimitValue::Count(SEEDS_MAX as u64))
        );
    }
    options.hosts = hosts.split(',').map(read_host).collect::<Result<_, _>>()?;
    Ok(())
}

fn read_host(text: &str) -> Result<ServerAddress, Error> {
    if text.is_empty() {
        return Err(invalid_host("there is an empty host; a unix socket's path is percent-encoded, with %2F for '/'"));
    }
    let host = decode_host(text)?;
    if host.contains('/') && !host.ends_with(".sock") {
        return Err(invalid_host(format!("host {} has a '/', but is not the path of a unix socket, which ends in .sock", shown(&host))));
    }
    if host.contains(char::is_control) {
        return Err(invalid_host(format!("host {} has a control character", shown(&host))));
    }
    if !host.contains('/') && !host.starts_with('[') && host.matches(':').count() > 1 {
        return Err(invalid_host(format!("host {} has more than one ':'; put an IPv6 address in brackets", shown(&host))));
    }
    ServerAddress::parse(&host)
}

/// Decodes a host. An `@` in it is refused first: errors about the text beside it would mislead.
fn decode_host(text: &str) -> Result<Zeroizing<String>, Error> {
    let host = decode(text).map_err(|why| invalid_host(format!("host {} {why}; a zone id follows %25", shown(text))))?;
    match host.split_once('/') {
        Some((before, _)) if before.contains(is_colon) => Err(invalid_host(
            "a socket's path has a ':' before its first '/'; the '@' after user information must not be encoded".to_owned(),
        )),
        None if holds(&host, is_at_sign) => Err(unquoted(ErrorKind::InvalidHost)),
        Some(_) | None => Ok(host),
    }
}

fn read_srv(options: &mut ClientOptions, hosts: &str) -> Result<(), Error> {
    if hosts.contains(',') {
        return Err(unreadable("mongodb+srv:// requires exactly one host name"));
    }
    let host = decode_host(hosts)?;
    let bare = host.strip_suffix('.').unwrap_or(&host);
    if bare.parse::<IpAddr>().is_ok() || host.starts_with('[') {
        return Err(unreadable(format!("mongodb+srv:// requires a host name, not the address {}", shown(&host))));
    }
    if host.contains(is_colon) {
        return Err(unreadable(format!("mongodb+srv:// requires a host name without port, not {}", shown(&host))));
    }
    options.srv = Some(normalize_name(&host)?);
    Ok(())
}

fn read_database(options: &mut ClientOptions, database: &str) -> Result<(), Error> {
    let name = decode(database).map_err(|why| unreadable(format!("the database {why}")))?;
    let bad = |character: &char| matches!(character, '/' | '\\' | ' ' | '"' | '$') || character.is_control();
    if let Some((at, bad)) = name.chars().enumerate().find(|(_, character)| bad(character)) {
        return Err(unreadable(format!("the database name has {bad:?} as character {}", at + 1)));
    }
    options.database = Some(name.to_string());
    Ok(())
}

/// An option as given.
struct RawOption {
    /// The key as written.
    key: String,
    /// The alias that the key is, if it is one.
    alias: Option<&'static Alias>,
    value: Zeroizing<String>,
}

/// Splits the options, by their index in the table; values under the option's own name first, then those under aliases.
fn split_options(query: &str, warnings: &mut Vec<Warning>) -> Result<BTreeMap<usize, Vec<RawOption>>, Error> {
    let mut options: BTreeMap<usize, Vec<RawOption>> = BTreeMap::new();
    for (number, piece) in (1..).zip(query.split('&')).filter(|(_, piece)| !piece.is_empty()) {
        let Some((key, value)) = piece.split_once('=') else {
            let known = if find(piece).is_some() { format!(", {piece},") } else { String::new() };
            return Err(unreadable(format!("option number {number}{known} has no '='; write an '&' within a value as %26")));
        };
        if key.is_empty() {
            return Err(unreadable(format!("option number {number} has no name before its '='")));
        }
        let key = decode(key).map_err(|why| unreadable(format!("the name of option number {number} {why}")))?;
        let Some((place, entry, alias)) = find(&key) else {
            let meant = nearest(&key).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            let message = format!("is not an option of a connection string, and is ignored{meant}");
            warnings.push(Warning { option: format!("number {number}"), message });
            continue;
        };
        let given = value;
        let value = decode(given).map_err(|why| unreadable(format!("the value of option {} {why}", *key)))?;
        if holds_further_option(entry, given, &value) {
            return Err(refused(format!(
                "option {}: its value contains what looks like a further option: options are separated by '&', and an '=' within a value is \
                 percent-encoded",
                entry.name
            )));
        }
        let same = options.entry(place).or_default();
        let at = if alias.is_none() { same.iter().take_while(|given| given.alias.is_none()).count() } else { same.len() };
        same.insert(at, RawOption { key: key.to_string(), alias, value });
    }
    Ok(options)
}

fn read_options(read: &mut ConnectionString, options: &BTreeMap<usize, Vec<RawOption>>, is_quotable: bool) -> Result<(), Error> {
    for (place, given) in options {
        let (Some(entry), Some(first)) = (TABLE.get(*place), given.first()) else { continue };
        let repeated = given.len() > 1;
        match entry.repeat {
            Repeat::Refused if repeated => return Err(refused(format!("option {} is given more than once", entry.name))),
            Repeat::Agree if given.iter().any(|other| other.value != first.value) => {
                let names: Vec<&str> = given.iter().map(|given| given.key.as_str()).collect();
                return Err(refused(format!("option {} has different values, under the names {}", entry.name, names.join(", "))));
            }
            Repeat::List => {
                for one in given {
                    read_option(read, entry, one, is_quotable)?;
                }
            }
            Repeat::First | Repeat::Refused | Repeat::Agree => {
                read_option(read, entry, first, is_quotable)?;
            }
        }
        if entry.repeat == Repeat::First {
            read.warnings.extend(given.iter().skip(1).map(|other| Warning {
                option: other.key.clone(),
                message: format!("{} is already given; this value is ignored", entry.name),
            }));
        }
    }
    Ok(())
}

fn read_option(read: &mut ConnectionString, entry: &OptionRow, given: &RawOption, is_quotable: bool) -> Result<(), Error> {
    let ConnectionString { options, warnings } = read;
    let warning = |message: String| Warning { option: given.key.clone(), message };
    let shown_message = |message: String| if is_quotable { message } else { NOT_SHOWN.to_owned() };
    if given.alias.is_some_and(|alias| alias.deprecated) {
        warnings.push(warning(format!("is deprecated; use {}", entry.name)));
    }
    let mut notes = Vec::new();
    let outcome = (entry.read)(options, &given.value, &mut notes);
    warnings.extend(notes.into_iter().map(|note| warning(shown_message(note))));
    match outcome {
        Ok(()) => {}
        Err(ValueFault::Warn(message)) => warnings.push(warning(format!("{}; it is ignored", shown_message(message)))),
        Err(ValueFault::Refuse(message)) => {
            let message = shown_message(message);
            options.refusal.get_or_insert_with(|| (entry.name, refused(format!("option {}: {message}", entry.name))));
            warnings.push(warning(format!("{message}; it is ignored, and no client can be created")));
        }
        Err(ValueFault::Fail(message)) => return Err(refused(format!("option {}: {}", entry.name, shown_message(message)))),
    }
    Ok(())
}

/// The message for a value that could be a piece of a password.
const NOT_SHOWN: &str = "the value can't be used; it is not shown, because there is an '@' after the user information";

fn invalid_host(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidHost, message).at(Stage::Uri)
}

/// Returns the error of a host that is not shown, because there is an `@` in it or behind it.
fn unquoted(kind: ErrorKind) -> Error {
    let text =
        "a host can't be read, and there is an '@' in it or after it: the '@' between user information and hosts must not be encoded";
    Error::new(kind, format!("{text}; {ENCODE}")).at(Stage::Uri)
}
