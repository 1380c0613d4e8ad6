//! Read preferences: mode, tag sets, staleness limit.
//!
//! The data of server-selection, "Read Preference", and the rules that hold without a topology. Does not decide which server is
//! selected (`selection`).

use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::error::{Error, ErrorKind};

/// A read preference: mode, tag sets, staleness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadPreference {
    /// The mode.
    pub mode: ReadPreferenceMode,
    /// Tag sets in order of preference; the first that any server matches is used. Empty for all servers.
    pub tag_sets: Vec<TagSet>,
    /// How stale a secondary may be; `None` for no limit.
    pub max_staleness: Option<Duration>,
}

/// A set of tags, name and value; the empty set matches every server.
pub type TagSet = Vec<(String, String)>;

/// The mode of a read preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadPreferenceMode {
    /// The primary only.
    #[default]
    Primary,
    /// The primary, or a secondary if there is none.
    PrimaryPreferred,
    /// A secondary only.
    Secondary,
    /// A secondary, or the primary if there is none.
    SecondaryPreferred,
    /// Any member within the latency window.
    Nearest,
}

impl ReadPreferenceMode {
    /// Returns the specification's name, such as `secondaryPreferred`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::PrimaryPreferred => "primaryPreferred",
            Self::Secondary => "secondary",
            Self::SecondaryPreferred => "secondaryPreferred",
            Self::Nearest => "nearest",
        }
    }

    /// Parses the specification's name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Primary, Self::PrimaryPreferred, Self::Secondary, Self::SecondaryPreferred, Self::Nearest]
            .into_iter()
            .find(|mode| mode.name().eq_ignore_ascii_case(name))
    }
}

impl ReadPreference {
    /// Creates a read preference with a mode only.
    pub fn new(mode: ReadPreferenceMode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Creates a read preference for the primary only.
    pub fn primary() -> Self {
        Self::new(ReadPreferenceMode::Primary)
    }

    /// Creates a read preference for secondaries, then the primary.
    pub fn secondary_preferred() -> Self {
        Self::new(ReadPreferenceMode::SecondaryPreferred)
    }

    /// Creates a read preference for secondaries only.
    pub fn secondary() -> Self {
        Self::new(ReadPreferenceMode::Secondary)
    }

    /// Creates a read preference for the primary, then secondaries.
    pub fn primary_preferred() -> Self {
        Self::new(ReadPreferenceMode::PrimaryPreferred)
    }

    /// Creates a read preference for any near member.
    pub fn nearest() -> Self {
        Self::new(ReadPreferenceMode::Nearest)
    }

    /// Sets the tag sets.
    #[must_use]
    pub fn with_tag_sets(mut self, tag_sets: Vec<TagSet>) -> Self {
        self.tag_sets = tag_sets;
        self
    }

    /// Sets the staleness limit.
    #[must_use]
    pub fn with_max_staleness(mut self, limit: Duration) -> Self {
        self.max_staleness = Some(limit);
        self
    }

    /// Checks what is independent of a topology.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] for the primary mode with tags or a staleness limit.
    pub fn validate(&self) -> Result<(), Error> {
        if self.mode != ReadPreferenceMode::Primary {
            return Ok(());
        }
        if self.tag_sets.iter().any(|tags| !tags.is_empty()) {
            return Err(Error::new(ErrorKind::InvalidOption, "read preference primary can't have tags"));
        }
        if self.max_staleness.is_some() {
            return Err(Error::new(ErrorKind::InvalidOption, "read preference primary can't have maxStalenessSeconds"));
        }
        Ok(())
    }

    /// Returns the `$readPreference` document.
    pub fn to_document(&self) -> Document {
        let mut document = doc! { "mode": self.mode.name() };
        if !self.tag_sets.is_empty() {
            let sets = self
                .tag_sets
                .iter()
                .map(|tags| Bson::Document(tags.iter().map(|(name, value)| (name.clone(), Bson::String(value.clone()))).collect()));
            document.insert("tags", Bson::Array(sets.collect()));
        }
        if let Some(limit) = self.max_staleness {
            document.insert("maxStalenessSeconds", Bson::Int64(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)));
        }
        document
    }
}
