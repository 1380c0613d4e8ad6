//! How does a connection string become options?
//!
//! Follows the connection-string and uri-options specifications: [`ConnectionString::parse`] reads syntax and values by one
//! table of options, unknown keys and bad values become [`Warning`]s, contradictions errors. `validate` judges options
//! from wherever they came, `apply_txt` merges a TXT record, `option_warnings` names the options that mongolink does not support.
//! This file does not decide what an option defaults to (`options`) or how a host is normalised (`host`).
//!
//! Two levels settle what the specifications' suites contradict each other about. [`ConnectionString::parse`] reads as
//! data, and `validate` refuses to make a client of:
//! - user name and password for MONGODB-AWS (read, and an error, in the auth specification), which is not supported,
//! - a user name without the password that its mechanism needs (code may add it),
//! - a negative `w` or `wTimeoutMS` (a warning in uri-options, an error in read-write-concern),
//! - a value of `tls` that is neither `true` nor `false`, and an empty file name of a TLS option: ignored they would weaken
//!   security.

mod credential;
mod display;
mod parse;
mod table;
mod txt;
mod unsupported;
mod validate;
mod value;
mod weakness;

use std::fmt;
use std::str::FromStr;

pub use table::{option_names, option_value};
pub use txt::apply_txt;
pub use unsupported::option_warnings;
pub use validate::validate;
pub use value::OptionValue;

use crate::error::{Error, ErrorKind, Stage};
use crate::options::{ClientOptions, Warning};

/// The longest connection string that is read, in bytes.
pub const URI_SIZE_MAX: usize = 64 * 1024;

/// The most hosts that a connection string may name.
pub const SEEDS_MAX: usize = 1000;

/// Is a connection string, read: its options, and what was odd about it.
///
/// [`Display`](fmt::Display) prints a connection string that reads as the same options, with every secret as `***`; one that
/// no client can be made of is printed as one that none can be made of.
///
/// ```
/// use mongolink::uri::ConnectionString;
/// let given = ConnectionString::parse("mongodb://ann:s3cret@db.example/?maxPoolSize=5&colour=red")?;
/// assert_eq!(given.options.max_pool_size, Some(5));
/// assert_eq!(given.warnings[0].option, "number 2");
/// assert_eq!(given.to_string(), "mongodb://ann:***@db.example:27017/?maxPoolSize=5");
/// # Ok::<(), mongolink::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ConnectionString {
    /// What was given.
    pub options: ClientOptions,
    /// The options that have no effect.
    pub warnings: Vec<Warning>,
}

impl ConnectionString {
    /// Reads a connection string: syntax, values, and contradictions within it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidUri`] for its syntax, [`ErrorKind::InvalidHost`] for a host, and
    /// [`ErrorKind::InvalidOption`] for options that contradict each other. None shows a password.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let read = parse::parse(text)?;
        validate::contradictions(&read.options)?;
        Ok(read)
    }
}

impl FromStr for ConnectionString {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionString").field("uri", &self.to_string()).field("warnings", &self.warnings).finish()
    }
}

/// Makes the error of a connection string that can't be read.
fn unreadable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidUri, message).at(Stage::Uri)
}

/// Makes the error of something that the specifications know and mongolink does not serve.
fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message).at(Stage::Uri)
}

/// Makes the error of an option, or of options that contradict each other.
fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOption, message).at(Stage::Uri)
}

#[cfg(test)]
mod tests;
