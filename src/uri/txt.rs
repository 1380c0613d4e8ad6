//! The merging of TXT records into the options.
//!
//! Follows initial-dns-seedlist-discovery: one record, three options; values from the connection string or from code take
//! precedence. Does not decide when records are looked up (`dns`).

use super::URI_SIZE_MAX;
use super::table::find;
use super::value::{ValueFault, decode, holds_further_option};
use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::options::{ClientOptions, Warning};

/// The options that a TXT record may give.
const ALLOWED: [&str; 3] = ["authSource", "replicaSet", "loadBalanced"];

/// Merges the TXT records of an SRV name. Each record is a list of character strings, which are joined without separator.
///
/// `validate` has to be called afterwards.
///
/// # Errors
/// [`ErrorKind::DnsRule`] for more than one record, for any other option, and for an unreadable record.
pub fn apply_txt(options: &mut ClientOptions, warnings: &mut Vec<Warning>, records: &[Vec<Vec<u8>>]) -> Result<(), Error> {
    let record = match records {
        [] => return Ok(()),
        [record] => record.concat(),
        [_, _, ..] => return Err(broken(format!("there are {} TXT records, one is allowed", records.len()))),
    };
    if record.len() > URI_SIZE_MAX {
        return Err(
            broken(format!("the TXT record has {} bytes", record.len())).against("URI_SIZE_MAX", LimitValue::Bytes(URI_SIZE_MAX as u64))
        );
    }
    let text = String::from_utf8(record).map_err(|error| broken("the TXT record is not UTF-8").because(error))?;
    let mut read = ClientOptions::default();
    for (number, piece) in (1..).zip(text.split('&')).filter(|(_, piece)| !piece.is_empty()) {
        read_piece(&mut read, warnings, number, piece)?;
    }
    options.auth_source = options.auth_source.take().or(read.auth_source);
    options.replica_set = options.replica_set.take().or(read.replica_set);
    options.load_balanced = options.load_balanced.or(read.load_balanced);
    Ok(())
}

fn read_piece(read: &mut ClientOptions, warnings: &mut Vec<Warning>, number: usize, piece: &str) -> Result<(), Error> {
    let Some((key, value)) = piece.split_once('=') else {
        return Err(broken(format!("the TXT record has option number {number} without '='")));
    };
    let known = find(key).map(|(_, entry, _)| entry);
    let Some(entry) = known.filter(|entry| ALLOWED.contains(&entry.name)) else {
        let name = known.map_or_else(|| format!("an unknown option, number {number}"), |entry| format!("the option {}", entry.name));
        return Err(broken(format!("the TXT record has {name}: only {} are allowed", ALLOWED.join(", "))));
    };
    let given = value;
    let value = decode(given).map_err(|why| broken(format!("the TXT record's option {} {why}", entry.name)))?;
    if holds_further_option(entry, given, &value) {
        return Err(broken(format!("the TXT record's option {} contains what looks like a further option", entry.name)));
    }
    let mut warn = |message: String| warnings.push(Warning { option: entry.name.to_owned(), message });
    if (entry.show)(read).is_some() {
        warn("is given more than once in the TXT record; the first value is used".to_owned());
        return Ok(());
    }
    match (entry.read)(read, &value, &mut Vec::new()) {
        Ok(()) => Ok(()),
        Err(ValueFault::Warn(message)) => {
            warn(format!("{message} (in the TXT record); it is ignored"));
            Ok(())
        }
        Err(ValueFault::Refuse(message) | ValueFault::Fail(message)) => {
            Err(broken(format!("the TXT record's option {}: {message}", entry.name)))
        }
    }
}

fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DnsRule, message).at(Stage::Srv)
}
