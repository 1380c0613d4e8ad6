//! The connection string parser.
//!
//! Follows the connection-string and uri-options specifications: [`ConnectionString::parse`] parses syntax and values by one
//! table of options; unknown keys and bad values become [`Warning`]s, contradictions become errors. `validate` checks options
//! from any source, `apply_txt` merges a TXT record, `option_warnings` lists the options that mongolink does not support. Does
//! not decide what an option defaults to (`options`) or how a host is normalised (`host`).
//!
//! Where the specifications' suites contradict each other, [`ConnectionString::parse`] accepts the string as data, and
//! `validate` refuses to create a client from:
//! - user name and password for MONGODB-AWS (accepted, and an error, in the auth specification), which is not supported,
//! - a user name without the password that its mechanism needs (code may add it),
//! - a negative `w` or `wTimeoutMS` (a warning in uri-options, an error in read-write-concern),
//! - a value of `tls` that is neither `true` nor `false`, and an empty file name of a TLS option: ignoring them would weaken
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

#[cfg(feature = "internals")]
pub use table::{option_names, option_value};
pub use txt::apply_txt;
pub use unsupported::option_warnings;
pub use validate::validate;
#[cfg(feature = "internals")]
pub use value::OptionValue;

use crate::error::{Error, ErrorKind, Stage};
use crate::options::{ClientOptions, Warning};

/// The longest accepted connection string, in bytes.
pub const URI_SIZE_MAX: usize = 64 * 1024;

/// The maximum number of hosts in a connection string.
pub const SEEDS_MAX: usize = 1000;

/// A parsed connection string: its options and warnings.
///
/// [`Display`](fmt::Display) prints a connection string that parses to the same options, with every secret as `***`; a string
/// from which no client can be created is printed as one from which none can be created.
///
/// ```
/// use mongolink::ConnectionString;
/// let given = ConnectionString::parse("mongodb://ann:s3cret@db.example/?maxPoolSize=5&colour=red")?;
/// assert_eq!(given.options.max_pool_size, Some(5));
/// assert_eq!(given.warnings[0].option, "number 2");
/// assert_eq!(given.to_string(), "mongodb://ann:***@db.example:27017/?maxPoolSize=5");
/// # Ok::<(), mongolink::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ConnectionString {
    /// The given options.
    pub options: ClientOptions,
    /// The options without effect.
    pub warnings: Vec<Warning>,
}

impl ConnectionString {
    /// Parses a connection string: syntax, values, and contradictions within it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidUri`] for its syntax, [`ErrorKind::InvalidHost`] for a host, and [`ErrorKind::InvalidOption`] for
    /// options that contradict each other. None shows a password.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let read = parse::parse(text)?;
        validate::contradictions(&read.options)?;
        Ok(read)
    }
}

impl From<ConnectionString> for ClientOptions {
    fn from(given: ConnectionString) -> Self {
        given.options
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

/// Returns the error of a connection string with invalid syntax.
fn unreadable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidUri, message).at(Stage::Uri)
}

/// Returns the error of a feature that the specifications define and mongolink does not support.
fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message).at(Stage::Uri)
}

/// Returns the error of an option, or of options that contradict each other.
fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOption, message).at(Stage::Uri)
}

#[cfg(test)]
mod tests;
