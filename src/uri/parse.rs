//! Which parts does a connection string have, and what do they say?
//!
//! Follows the connection-string specification: scheme, user info, hosts, database, options. An error quotes the part that
//! offends, but nothing that could belong to a password. Contradictions between options are found in `validate`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use zeroize::Zeroizing;

use super::table::{Alias, Entry, Repeat, TABLE, find};
use super::value::{Fault, clip, decode, quote};
use super::{ConnectionString, SEEDS_MAX, URI_SIZE_MAX, refused, unreadable};
use crate::auth::Secret;
use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::host::{HostKey, normalize_name};
use crate::options::{ClientOptions, Warning};

/// What every error about user info says at the end.
const ENCODE: &str = "in a user name and password, percent-encode the characters : / ? # [ ] @ and %, such as %40 for '@'";

/// Reads a connection string, without regard to contradictions between its options.
pub(super) fn parse(text: &str) -> Result<ConnectionString, Error> {
    if text.len() > URI_SIZE_MAX {
        let error = unreadable(format!("the connection string has {} bytes", text.len()));
        return Err(error.against("URI_SIZE_MAX", LimitValue::Bytes(URI_SIZE_MAX as u64)));
    }
    let (is_srv, rest) = split_scheme(text)?;
    let parts = Parts::split(rest)?;
    let mut read = ConnectionString { options: ClientOptions::default(), warnings: Vec::new() };
    if let Some(user_info) = parts.user_info {
        read_user_info(&mut read.options, user_info)?;
    }
    let hosts = if is_srv { read_srv(&mut read.options, parts.hosts) } else { read_hosts(&mut read.options, parts.hosts) };
    hosts.map_err(|error| if parts.quotable { error } else { unquoted(error.kind()) })?;
    if let Some(database) = parts.database {
        read_database(&mut read.options, database).map_err(|error| if parts.quotable { error } else { unquoted(error.kind()) })?;
    }
    if let Some(query) = parts.query {
        let given = split_options(query, parts.quotable, &mut read.warnings)?;
        read_options(&mut read, &given)?;
    }
    Ok(read)
}

/// Holds the parts between the delimiters, still percent-encoded.
struct Parts<'a> {
    user_info: Option<&'a str>,
    hosts: &'a str,
    database: Option<&'a str>,
    query: Option<&'a str>,
    /// Whether hosts and options can be shown: an `@` behind them could mean that they are a piece of a password.
    quotable: bool,
}

impl<'a> Parts<'a> {
    fn split(rest: &'a str) -> Result<Self, Error> {
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let (authority, database) = path.split_once('/').map_or((path, None), |(authority, database)| (authority, Some(database)));
        let (user_info, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user_info, hosts)| (Some(user_info), hosts));
        if database.is_some_and(|database| database.contains('@')) {
            return Err(unreadable(format!("there is an '@' after the first '/': {ENCODE}")));
        }
        let at_in_query = query.is_some_and(|query| query.contains('@'));
        if database.is_none() && at_in_query {
            return Err(unreadable(format!("there is an '@' after the first '?', and no '/' before: {ENCODE}")));
        }
        Ok(Self { user_info, hosts, database: database.filter(|database| !database.is_empty()), query, quotable: !at_in_query })
    }
}

fn split_scheme(text: &str) -> Result<(bool, &str), Error> {
    if let Some(rest) = text.strip_prefix("mongodb://") {
        return Ok((false, rest));
    }
    if let Some(rest) = text.strip_prefix("mongodb+srv://") {
        return Ok((true, rest));
    }
    let found = match text.split_once("://") {
        Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) => {
            format!(", not with {}", quote(&format!("{scheme}://")))
        }
        Some(_) | None => String::new(),
    };
    Err(unreadable(format!("a connection string begins with mongodb:// or mongodb+srv://{found}")))
}

fn read_user_info(options: &mut ClientOptions, user_info: &str) -> Result<(), Error> {
    if user_info.contains('@') {
        return Err(unreadable(format!("there is more than one '@' before the hosts: {ENCODE}")));
    }
    let (user, password) = user_info.split_once(':').map_or((user_info, None), |(user, password)| (user, Some(password)));
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

fn read_host(text: &str) -> Result<HostKey, Error> {
    if text.is_empty() {
        return Err(invalid_host("there is an empty host; a unix socket's path is percent-encoded, with %2F for '/'"));
    }
    let host = decode(text).map_err(|why| invalid_host(format!("host {} {why}; a zone id follows %25", quote(text))))?;
    if host.contains('/') && !host.ends_with(".sock") {
        return Err(invalid_host(format!("host {} has a '/', but is no path of a unix socket, which ends in .sock", quote(&host))));
    }
    if !host.contains('/') && !host.starts_with('[') && host.matches(':').count() > 1 {
        return Err(invalid_host(format!("host {} has more than one ':'; an IPv6 address stands in brackets", quote(&host))));
    }
    HostKey::parse(&host)
}

fn read_srv(options: &mut ClientOptions, hosts: &str) -> Result<(), Error> {
    if hosts.contains(',') {
        return Err(unreadable("mongodb+srv:// takes exactly one host name"));
    }
    let host = decode(hosts).map_err(|why| invalid_host(format!("host {} {why}", quote(hosts))))?;
    if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
        return Err(unreadable(format!("mongodb+srv:// takes a host name, not the address {}", quote(&host))));
    }
    if host.contains(':') {
        return Err(unreadable(format!("mongodb+srv:// takes a host name without port, not {}", quote(&host))));
    }
    options.srv = Some(normalize_name(&host)?);
    Ok(())
}

fn read_database(options: &mut ClientOptions, database: &str) -> Result<(), Error> {
    let name = decode(database).map_err(|why| unreadable(format!("database {} {why}", quote(database))))?;
    if let Some(bad) = name.chars().find(|character| matches!(character, '/' | '\\' | ' ' | '"' | '$' | '\0')) {
        return Err(unreadable(format!("database {} has the character {bad:?}", quote(&name))));
    }
    options.database = Some(name.to_string());
    Ok(())
}

/// Is one option as given.
struct Given {
    /// The key as written.
    key: String,
    /// The other name that the key is, if it is one.
    alias: Option<&'static Alias>,
    value: Zeroizing<String>,
}

/// Splits the options, by their place in the table; under the option's own name first, then under other names.
fn split_options(query: &str, quotable: bool, warnings: &mut Vec<Warning>) -> Result<BTreeMap<usize, Vec<Given>>, Error> {
    let mut options: BTreeMap<usize, Vec<Given>> = BTreeMap::new();
    for (number, piece) in query.split('&').enumerate().filter(|(_, piece)| !piece.is_empty()) {
        let shown = |text: &str| if quotable { format!("option {}", quote(text)) } else { format!("option number {}", number + 1) };
        let Some((key, value)) = piece.split_once('=') else {
            return Err(unreadable(format!("{} has no '='", shown(piece))));
        };
        if key.is_empty() {
            return Err(unreadable(format!("option number {} has no name before its '='", number + 1)));
        }
        let key = decode(key).map_err(|why| unreadable(format!("the name of {} {why}", shown(key))))?.to_string();
        let Some((place, _, alias)) = find(&key) else {
            let option = if quotable { clip(&key) } else { format!("number {}", number + 1) };
            warnings.push(Warning { option, message: "is not an option of a connection string; it is ignored".to_owned() });
            continue;
        };
        let value = decode(value).map_err(|why| unreadable(format!("the value of option {key} {why}")))?;
        let same = options.entry(place).or_default();
        let at = if alias.is_none() { same.iter().take_while(|given| given.alias.is_none()).count() } else { same.len() };
        same.insert(at, Given { key, alias, value });
    }
    Ok(options)
}

fn read_options(read: &mut ConnectionString, options: &BTreeMap<usize, Vec<Given>>) -> Result<(), Error> {
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
                    read_option(&mut read.options, &mut read.warnings, entry, one)?;
                }
            }
            Repeat::First | Repeat::Refused | Repeat::Agree => {
                read_option(&mut read.options, &mut read.warnings, entry, first)?;
            }
        }
        if entry.repeat == Repeat::First {
            read.warnings.extend(given.iter().skip(1).map(|other| Warning {
                option: other.key.clone(),
                message: format!("{} is given already; this value is ignored", entry.name),
            }));
        }
    }
    Ok(())
}

fn read_option(options: &mut ClientOptions, warnings: &mut Vec<Warning>, entry: &Entry, given: &Given) -> Result<(), Error> {
    let warning = |message: String| Warning { option: given.key.clone(), message };
    if given.alias.is_some_and(|alias| alias.deprecated) {
        warnings.push(warning(format!("is a deprecated name of {}", entry.name)));
    }
    let mut notes = Vec::new();
    let outcome = (entry.read)(options, &given.value, &mut notes);
    warnings.extend(notes.into_iter().map(warning));
    match outcome {
        Ok(()) => {}
        Err(Fault::Warn(message)) => warnings.push(warning(format!("{message}; it is ignored"))),
        Err(Fault::Refuse(message)) => {
            options.refusal.get_or_insert_with(|| refused(format!("option {}: {message}", entry.name)));
            warnings.push(warning(format!("{message}; it is ignored, and no client can be made of it")));
        }
        Err(Fault::Fail(message)) => return Err(refused(format!("option {}: {message}", entry.name))),
    }
    Ok(())
}

fn invalid_host(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidHost, message).at(Stage::Uri)
}

/// Makes the error of a host that is not shown, because an `@` follows it.
fn unquoted(kind: ErrorKind) -> Error {
    Error::new(kind, format!("a host can't be read, and there is an '@' after the first '?': {ENCODE}")).at(Stage::Uri)
}
