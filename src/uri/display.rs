//! The text form of a connection string.
//!
//! The text parses to the same options; every secret is written as `***`. A connection string from which no client can be
//! created is written as one from which none can be created. Does not decide which options exist, nor their order (`table`).

use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::ConnectionString;
use super::table::TABLE;
use super::value::OptionValue;
use crate::host::{Host, ServerAddress, is_colon};
use crate::options::ClientOptions;
use crate::options::Mechanism;

/// The replacement of a secret.
const HIDDEN: &str = "***";

/// Escaped in user names, databases and paths of unix sockets: all but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Escaped in values of options, where some reserved characters have no meaning.
const RESERVED_IN_VALUE: &AsciiSet = &RESERVED.remove(b':').remove(b',').remove(b'/').remove(b'$');

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        f.write_str(if options.srv.is_some() { "mongodb+srv://" } else { "mongodb://" })?;
        if let Some(user) = &options.username {
            let (shown, hidden) = user.split_at(shown_user_size(options, user));
            write!(f, "{}", utf8_percent_encode(shown, RESERVED))?;
            if !hidden.is_empty() {
                write!(f, "%3A{HIDDEN}")?;
            }
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
        if let Some((option, _)) = &options.refusal {
            // Not an option: the text of a refused string must not parse as a string without the refused option.
            write!(f, "{delimiter}(refused: {option})")?;
        }
        Ok(())
    }
}

/// Prints the given options.
impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ClientOptions");
        out.field("hosts", &self.hosts);
        let mut text = |name: &str, value: Option<Cow<'_, str>>| {
            if let Some(value) = value {
                out.field(name, &value);
            }
        };
        text("srv", self.srv.as_deref().map(Cow::from));
        text("database", self.database.as_deref().map(Cow::from));
        text("username", self.username.as_deref().map(|user| shown_user(self, user)));
        text("password", self.password.as_ref().map(|_| Cow::from(HIDDEN)));
        for entry in TABLE {
            if let Some(value) = (entry.show)(self) {
                out.field(entry.name, &value);
            }
        }
        out.field("resolve", &self.resolve);
        if let Some(chars) = self.log_document_chars_max {
            out.field("log_document_chars_max", &chars);
        }
        if let Some((_, error)) = &self.refusal {
            out.field("refusal", error);
        }
        out.finish()
    }
}

fn shown_user<'a>(options: &ClientOptions, user: &'a str) -> Cow<'a, str> {
    let (shown, hidden) = user.split_at(shown_user_size(options, user));
    if hidden.is_empty() { Cow::from(shown) } else { Cow::from(format!("{shown}:{HIDDEN}")) }
}

/// Returns how many bytes of a user name are shown. A name with a `:` and without a password can contain the password, with the
/// `:` percent-encoded by mistake. The subject of a certificate may have a `:`.
fn shown_user_size(options: &ClientOptions, user: &str) -> usize {
    let is_sole = options.password.is_none() && options.auth_mechanism != Some(Mechanism::X509);
    user.find(is_colon).filter(|_| is_sole).unwrap_or(user.len())
}

fn host(key: &ServerAddress) -> String {
    match key.host() {
        Host::Unix(_) => utf8_percent_encode(&key.to_string(), RESERVED).to_string(),
        Host::Name(_) | Host::V4(_) | Host::V6(..) => key.to_string().replace('%', "%25"),
    }
}

/// Returns the texts of a value, one for each time that its option has to be given.
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
