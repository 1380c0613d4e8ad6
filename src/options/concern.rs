//! Read and write concern.
//!
//! The data of read-write-concern, as given by the connection string. A generic command carries its own concerns: none is added
//! to it (run-command, "Concerns").

use std::time::Duration;

use bson::{Document, doc};

use crate::error::{Error, ErrorKind};

/// A read concern; empty for the server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadConcern {
    /// The level, such as `majority`.
    pub level: Option<String>,
}

/// A write concern; empty for the server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteConcern {
    /// The number of members that must acknowledge, or a tag.
    pub w: Option<W>,
    /// `j`: whether the write must be in the journal.
    pub journal: Option<bool>,
    /// `wtimeout`: how long to wait for the acknowledgement.
    pub w_timeout: Option<Duration>,
}

/// The `w` of a write concern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum W {
    /// A number of members.
    Nodes(u32),
    /// `majority`, or a tag of the replica set's configuration.
    Tag(String),
}

impl W {
    /// Creates a number of members.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] for a number below 0 or above 2^31 - 1.
    pub fn nodes(number: i64) -> Result<Self, Error> {
        let fits = u32::try_from(number).ok().filter(|number| i32::try_from(*number).is_ok());
        fits.map(Self::Nodes).ok_or_else(|| Error::new(ErrorKind::InvalidOption, format!("w of {number} is no number of members")))
    }
}

impl ReadConcern {
    /// Returns whether it is the server's default.
    pub fn is_server_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the `readConcern` document.
    pub fn to_document(&self) -> Document {
        self.level.iter().map(|level| ("level".to_owned(), level.as_str().into())).collect()
    }
}

impl WriteConcern {
    /// Returns whether it is the server's default.
    pub fn is_server_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether the server replies after the write: always, except for `w: 0` without journal.
    pub fn is_acknowledged(&self) -> bool {
        self.w != Some(W::Nodes(0)) || self.journal == Some(true)
    }

    /// Checks that its parts are consistent.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] for `w: 0` with the journal.
    pub fn validate(&self) -> Result<(), Error> {
        if self.w == Some(W::Nodes(0)) && self.journal == Some(true) {
            return Err(Error::new(ErrorKind::InvalidOption, "w=0 does not wait, and can't wait for the journal (journal=true)"));
        }
        Ok(())
    }

    /// Returns the `writeConcern` document.
    pub fn to_document(&self) -> Document {
        let mut document = Document::new();
        match &self.w {
            Some(W::Nodes(nodes)) => document.extend(doc! { "w": i32::try_from(*nodes).unwrap_or(i32::MAX) }),
            Some(W::Tag(tag)) => document.extend(doc! { "w": tag }),
            None => {}
        }
        if let Some(journal) = self.journal {
            document.insert("j", journal);
        }
        if let Some(timeout) = self.w_timeout {
            document.insert("wtimeout", i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
        }
        document
    }
}
