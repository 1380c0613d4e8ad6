//! How is a connection string written back?
//!
//! What is written reads as the same options; every secret is written as `***`. Which options there are, and their order,
//! is decided in `table`.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::ConnectionString;
use super::table::TABLE;
use super::value::OptionValue;
use crate::host::{Host, HostKey};

/// What stands for a secret.
const HIDDEN: &str = "***";

/// Escaped in user names, databases and paths of unix sockets: all but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Escaped in values of options, where some reserved characters mean nothing.
const RESERVED_IN_VALUE: &AsciiSet = &RESERVED.remove(b':').remove(b',').remove(b'/').remove(b'$');

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        f.write_str(if options.srv.is_some() { "mongodb+srv://" } else { "mongodb://" })?;
        if let Some(user) = &options.username {
            write!(f, "{}", utf8_percent_encode(user, RESERVED))?;
            if options.password.is_some() {
                write!(f, ":{HIDDEN}")?;
            }
            f.write_str("@")?;
        }
        match &options.srv {
            Some(name) => f.write_str(name)?,
            None => {
                let hosts: Vec<String> = options.hosts.iter().map(host).collect();
                f.write_str(&hosts.join(","))?;
            }
        }
        f.write_str("/")?;
        if let Some(database) = &options.database {
            write!(f, "{}", utf8_percent_encode(database, RESERVED))?;
        }
        let mut delimiter = '?';
        for entry in TABLE {
            for text in (entry.show)(options).iter().flat_map(texts) {
                write!(f, "{delimiter}{}={text}", entry.name)?;
                delimiter = '&';
            }
        }
        Ok(())
    }
}

fn host(key: &HostKey) -> String {
    match key.host() {
        Host::Unix(_) => utf8_percent_encode(&key.to_string(), RESERVED).to_string(),
        Host::Name(_) | Host::V4(_) | Host::V6(..) => key.to_string().replace('%', "%25"),
    }
}

/// Writes a value, once for each time that its option has to be given.
fn texts(value: &OptionValue) -> Vec<String> {
    let escape = |text: &str| utf8_percent_encode(text, RESERVED_IN_VALUE).to_string();
    match value {
        OptionValue::Bool(flag) => vec![flag.to_string()],
        OptionValue::Int(number) => vec![number.to_string()],
        OptionValue::Text(text) => vec![escape(text)],
        OptionValue::Secret(_) => vec![HIDDEN.to_owned()],
        OptionValue::List(items) => vec![escape(&items.join(","))],
        OptionValue::Pairs(pairs) => {
            let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{}:{}", escape(name), texts(value).concat())).collect();
            vec![pairs.join(",")]
        }
        OptionValue::Tags(sets) => {
            let set =
                |tags: &Vec<(String, String)>| tags.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(",");
            sets.iter().map(|tags| escape(&set(tags))).collect()
        }
    }
}
