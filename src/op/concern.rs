//! What do read and write concern say?
//!
//! The data of read-write-concern, as given by the connection string. A generic command carries its own concerns:
//! nothing is attached to it (run-command, "Concerns").

use std::time::Duration;

use bson::{Document, doc};

/// Is a read concern; empty for the server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadConcern {
    /// The level, such as `majority`.
    pub level: Option<String>,
}

/// Is a write concern; empty for the server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteConcern {
    /// How many members must acknowledge, or a tag.
    pub w: Option<W>,
    /// `j`: whether the journal must have it.
    pub journal: Option<bool>,
    /// `wtimeout`: how long to wait for acknowledgement.
    pub w_timeout: Option<Duration>,
}

/// Is the `w` of a write concern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum W {
    /// A number of members.
    Nodes(u32),
    /// `majority`, or a tag of the replica set's configuration.
    Tag(String),
}

impl ReadConcern {
    /// Returns the `readConcern` document.
    pub fn to_document(&self) -> Document {
        self.level.iter().map(|level| ("level".to_owned(), level.as_str().into())).collect()
    }
}

impl WriteConcern {
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
