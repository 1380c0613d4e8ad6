//! Which libraries have a part in a client, and when is one told to the servers?
//!
//! The DriverInfoOptions of mongodb-handshake, "Client Metadata" and "appendMetadata": what a library that wraps the client
//! says of itself, given when the client is made or later. Where it stands in the `client` document, and how much of it
//! fits, is decided in `metadata`.

use crate::error::{Error, ErrorKind, LimitValue, Result};

/// How many libraries a client names at the most: a few wrap each other, and a program that names one for each call has a fault.
pub const LIBRARIES_MAX: usize = 32;

/// How long each text of a library is at the most, in bytes: twice what all of the metadata has room for.
pub const LIBRARY_TEXT_SIZE_MAX: usize = 1024;

/// Says which library wraps a client; servers write it into their logs.
///
/// An empty text is as good as none.
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
    /// What it runs on.
    pub platform: Option<String>,
}

/// Holds the libraries that have a part in a client, each once, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverInfos(Vec<DriverInfo>);

impl DriverInfo {
    /// Stands between the driver and the libraries, and therefore in none of their texts.
    pub(super) const DELIMITER: char = '|';

    /// Names a library.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), version: None, platform: None }
    }

    /// Sets the version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Sets what it runs on.
    #[must_use]
    pub fn with_platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
        self
    }

    /// Makes empty texts none, so that equal libraries compare equal.
    fn normalised(mut self) -> Self {
        self.version = self.version.filter(|text| !text.is_empty());
        self.platform = self.platform.filter(|text| !text.is_empty());
        self
    }

    /// Checks that no text can be taken for two, and that none is too long.
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
    /// Takes a library in, unless one that is equal is there already or it says nothing; tells whether it is new.
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
