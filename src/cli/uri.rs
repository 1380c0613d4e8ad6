//! The sources of the connection string.
//!
//! A program's arguments are visible to other users of the machine, so the connection string can also come from the
//! environment, a file or standard input. No error shows any of its text.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::Failure;
use super::output::print_stderr;
use crate::error::Error;
use crate::uri::{ConnectionString, URI_SIZE_MAX};

/// The environment variable with the default connection string.
pub(super) const VARIABLE: &str = "MONGOLINK_URI";

/// The explanation of the argument, for `--help`.
pub(super) const HELP: &str = "Sources of the connection string:
  MONGOLINK_URI   the environment variable, if URI is omitted
  @FILE           the file FILE
  -               standard input
  URI             the argument itself; other users of this machine can see it, with its password, in the process list
One line end after it is ignored. Limit: 65,536 bytes.";

/// A connection string, and its source.
pub(super) struct UriInput {
    text: Zeroizing<String>,
    source: UriSource,
}

/// The source of a connection string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UriSource {
    /// The argument itself.
    Argument,
    /// The environment variable.
    Variable,
    /// A file.
    File(PathBuf),
    /// Standard input.
    Input,
}

impl UriInput {
    /// Reads the connection string that an argument refers to; without an argument, that of the environment, if set.
    pub(super) fn read(argument: Option<String>) -> Result<Option<Self>, Failure> {
        let given = Self::read_from(argument, std::env::var_os(VARIABLE), &mut io::stdin().lock())?;
        if let Some(given) = &given
            && given.is_exposed()
        {
            print_stderr(&format!(
                "warning: a password on the command line is visible in the process list; use {VARIABLE}, @FILE or - instead"
            ));
        }
        Ok(given)
    }

    /// Does what [`read`](Self::read) does, and fails without a connection string.
    pub(super) fn require(argument: Option<String>) -> Result<Self, Failure> {
        Self::read(argument)?.ok_or_else(|| Failure::Usage(format!("no connection string: give URI, @FILE or -, or set {VARIABLE}")))
    }

    pub(super) fn read_from(
        argument: Option<String>,
        variable: Option<std::ffi::OsString>,
        input: &mut dyn Read,
    ) -> Result<Option<Self>, Failure> {
        let (source, bytes) = match argument.map(Zeroizing::new) {
            Some(argument) if *argument == "-" => (UriSource::Input, read_all(input)),
            Some(argument) => match argument.strip_prefix('@') {
                Some("") => return Err(Failure::Usage("'@' without the path of a file".to_owned())),
                Some(path) => (UriSource::File(path.into()), File::open(path).and_then(|mut file| read_all(&mut file))),
                None => return Ok(Some(Self { text: argument, source: UriSource::Argument })),
            },
            None => match variable.filter(|text| !text.is_empty()) {
                Some(text) => (UriSource::Variable, Ok(Zeroizing::new(text.into_encoded_bytes()))),
                None => return Ok(None),
            },
        };
        let unreadable = |why: String| Failure::Usage(format!("{}: {why}", source.name()));
        let bytes = bytes.map_err(|error| unreadable(error.to_string()))?;
        let text = str::from_utf8(&bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
        let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        if text.len() > URI_SIZE_MAX {
            return Err(unreadable(format!("it has more than {URI_SIZE_MAX} bytes (limit URI_SIZE_MAX)")));
        }
        let text = Zeroizing::new(text.to_owned());
        Ok(Some(Self { text, source }))
    }

    /// Returns the connection string of the built-in sandbox.
    pub(super) fn own(text: String) -> Self {
        Self { text: Zeroizing::new(text), source: UriSource::Argument }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the text of an error, with the source of the connection string.
    pub(super) fn fault(&self, error: &Error) -> String {
        match self.source {
            UriSource::Argument => error.to_string(),
            UriSource::Variable | UriSource::File(_) | UriSource::Input => format!("{}: {error}", self.source.name()),
        }
    }

    /// Returns whether other users of the machine can read a password in it.
    fn is_exposed(&self) -> bool {
        self.source == UriSource::Argument
            && match ConnectionString::parse(&self.text) {
                Ok(ConnectionString { options, .. }) => {
                    let secrets = [
                        &options.password,
                        &options.proxy_password,
                        &options.tls_certificate_key_file_password,
                        &options.aws_session_token,
                    ];
                    secrets.into_iter().any(Option::is_some)
                }
                // An unparsable string may contain one.
                Err(_) => self.text.split_once("://").map_or(&**self.text, |(_, rest)| rest).contains([':', '@', '=', '%']),
            }
    }
}

impl UriSource {
    fn name(&self) -> String {
        match self {
            Self::Argument => "URI".to_owned(),
            Self::Variable => VARIABLE.to_owned(),
            // A path with these characters may be a connection string that was given as the name of a file.
            Self::File(path) if path.to_string_lossy().contains([':', '@', '%']) => "the file after '@'".to_owned(),
            Self::File(path) => format!("the file {path:?}"),
            Self::Input => "standard input".to_owned(),
        }
    }
}

/// Reads a connection string with its line end, and a little more of one that is too long.
fn read_all(input: &mut dyn Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let limit = URI_SIZE_MAX + "\r\n".len() + 1;
    // In one allocation, so that no smaller buffer keeps a copy.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit));
    input.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(argument: Option<&str>, variable: Option<&str>, input: &[u8]) -> Result<Option<(String, UriSource)>, String> {
        let mut input = input;
        match UriInput::read_from(argument.map(str::to_owned), variable.map(Into::into), &mut input) {
            Ok(given) => Ok(given.map(|given| (given.text.to_string(), given.source))),
            Err(Failure::Usage(text)) => Err(text),
            Err(_) => panic!("another failure"),
        }
    }

    #[test]
    fn argument_takes_precedence_over_the_environment() {
        let text = |text: &str, source| Ok(Some((text.to_owned(), source)));
        assert_eq!(read(Some("mongodb://a"), Some("mongodb://b"), b""), text("mongodb://a", UriSource::Argument));
        assert_eq!(read(None, Some("mongodb://b\n"), b""), text("mongodb://b", UriSource::Variable));
        assert_eq!(read(Some("-"), Some("mongodb://b"), b"mongodb://c\r\n"), text("mongodb://c", UriSource::Input));
        assert_eq!(read(None, Some(""), b""), Ok(None));
        assert_eq!(read(None, None, b"mongodb://c"), Ok(None));
    }

    #[test]
    fn one_line_end_is_ignored() {
        assert_eq!(read(Some("-"), None, b"mongodb://c\n\n"), Ok(Some(("mongodb://c\n".to_owned(), UriSource::Input))));
        assert_eq!(read(Some("-"), None, b""), Ok(Some((String::new(), UriSource::Input))));
    }

    #[test]
    fn size_is_limited() {
        let longest = "a".repeat(URI_SIZE_MAX) + "\r\n";
        assert!(read(Some("-"), None, longest.as_bytes()).is_ok());
        let error = read(Some("-"), None, ("a".to_owned() + &longest).as_bytes()).expect_err("too long");
        assert!(error.contains("standard input: ") && error.contains("URI_SIZE_MAX"), "{error}");
        let error = read(Some("-"), None, &b"s3cret".repeat(1_000_000)).expect_err("too long");
        assert!(error.contains("URI_SIZE_MAX") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn errors_name_the_source() {
        assert!(read(Some("@"), None, b"").expect_err("no path").contains("path of a file"));
        let error = read(Some("@/nowhere/uri"), None, b"").expect_err("no file");
        assert!(error.starts_with("the file \"/nowhere/uri\": "), "{error}");
        assert_eq!(read(Some("-"), None, b"s3cret\xff").expect_err("bytes"), "standard input: it is not UTF-8");
    }

    #[test]
    fn only_an_argument_exposes_a_password() {
        let exposed = |argument: Option<&str>, variable: Option<&str>| {
            let given = UriInput::read_from(argument.map(str::to_owned), variable.map(Into::into), &mut io::empty());
            given.ok().flatten().is_some_and(|given| given.is_exposed())
        };
        assert!(exposed(Some("mongodb://u:p@h/"), None));
        assert!(exposed(Some("mongodb://h/?tls=true&tlsCertificateKeyFilePassword=x"), None));
        assert!(exposed(Some("mongodb:/u:p@h/"), None) && exposed(Some("mongodb://u:p%40h/"), None));
        assert!(!exposed(Some("mongodb://u@h/"), None));
        assert!(!exposed(Some("mongodb://h/?tls=true"), None));
        assert!(!exposed(None, Some("mongodb://u:p@h/")));
    }
}
