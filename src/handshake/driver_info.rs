//! The libraries that wrap a client, as reported to servers.
//!
//! The DriverInfoOptions of mongodb-handshake, "Client Metadata" and "appendMetadata": a wrapping library's name, version and
//! platform, given when the client is created or later. Does not decide their place in the `client` document, nor how many of
//! them fit (`metadata`).

use crate::error::{Error, ErrorKind, LimitValue, Result};

/// The maximum number of libraries of a client: a few wrap each other; a program that adds one per call has a bug.
pub const LIBRARIES_MAX: usize = 32;

/// The longest text of a library, in bytes: twice the size of the whole metadata.
pub const LIBRARY_TEXT_SIZE_MAX: usize = 1024;

/// A library that wraps a client; servers write it into their logs.
///
/// An empty text counts as none.
///
/// ```
/// use mongolink::DriverInfo;
///
/// let info = DriverInfo::new("library").with_version("1.2");
/// assert_eq!(info.platform, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DriverInfo {
    /// The library's name.
    pub name: String,
    /// Its version.
    pub version: Option<String>,
    /// Its platform.
    pub platform: Option<String>,
}

/// The libraries that wrap a client, each once, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverInfos(Vec<DriverInfo>);

impl DriverInfo {
    /// The separator between the driver and the libraries; not allowed in their texts.
    pub(super) const DELIMITER: char = '|';

    /// Creates a library with a name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), version: None, platform: None }
    }

    /// Sets the version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Sets the platform.
    #[must_use]
    pub fn with_platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
        self
    }

    /// Turns empty texts into `None`, so that equal libraries compare equal.
    fn normalised(mut self) -> Self {
        self.version = self.version.filter(|text| !text.is_empty());
        self.platform = self.platform.filter(|text| !text.is_empty());
        self
    }

    /// Checks that no text contains the separator or is too long.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a text with a `|`, and for one of more than `LIBRARY_TEXT_SIZE_MAX` (1024) bytes.
    pub fn check(&self) -> Result<()> {
        let texts = [("name", Some(self.name.as_str())), ("version", self.version.as_deref()), ("platform", self.platform.as_deref())];
        for (field, text) in texts {
            let text = text.unwrap_or_default();
            if text.len() > LIBRARY_TEXT_SIZE_MAX {
                return Err(Error::new(ErrorKind::InvalidArgument, format!("driver info: the {field} has {} bytes", text.len()))
                    .against("LIBRARY_TEXT_SIZE_MAX", LimitValue::Bytes(LIBRARY_TEXT_SIZE_MAX as u64)));
            }
            if text.contains(Self::DELIMITER) {
                return Err(Error::new(ErrorKind::InvalidArgument, format!("driver info: the {field} {text:?} must not contain \"|\"")));
            }
        }
        Ok(())
    }
}

impl DriverInfos {
    /// Adds a library, unless it is empty or an equal one is present; returns whether it was added.
    ///
    /// # Errors
    /// Those of [`DriverInfo::check`]; [`ErrorKind::InvalidArgument`] for more than [`LIBRARIES_MAX`] libraries.
    pub fn append(&mut self, library: DriverInfo) -> Result<bool> {
        library.check()?;
        let library = library.normalised();
        let is_new = library != DriverInfo::default() && !self.0.contains(&library);
        if is_new {
            if self.0.len() >= LIBRARIES_MAX {
                return Err(Error::new(ErrorKind::InvalidArgument, "driver info: too many different libraries; name each once")
                    .against("LIBRARIES_MAX", LimitValue::Count(LIBRARIES_MAX as u64)));
            }
            self.0.push(library);
        }
        Ok(is_new)
    }

    /// Returns the libraries.
    pub fn as_slice(&self) -> &[DriverInfo] {
        &self.0
    }
}
