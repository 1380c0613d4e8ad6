//! The driver's fields: everything that the driver adds to a command, written in one place.
//!
//! run-command, sessions ("Sending the session ID"), causal consistency, server-selection ("Passing read preference").
//! Does not decide whether a command has a session, nor which cluster time is the newest.

use bson::{RawDocument, RawDocumentBuf};

use crate::description::{ServerType, TopologyType};
use crate::selection::{Criteria, ReadPreference, read_preference_to_send};
use crate::wire::BodyWriter;

/// The fields that the driver appends to a command. The user's document is neither read nor changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct DriverFields<'a> {
    /// `$db`.
    pub database: &'a str,
    /// `lsid`.
    pub lsid: Option<&'a RawDocument>,
    /// `$clusterTime`.
    pub cluster_time: Option<&'a RawDocument>,
    /// `$readPreference`.
    pub read_preference: Option<&'a RawDocument>,
}

/// The read preference of a command, from which `$readPreference` follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPreferenceField {
    /// None: the command belongs to one server, or any server will do.
    NotSent,
    /// `primary`, which only a single server is sent, as `primaryPreferred`.
    Primary,
    /// This read preference.
    Of(Box<ReadPreference>),
}

impl DriverFields<'_> {
    /// Appends the fields to the body that is being written.
    #[inline]
    pub fn write(&self, body: &mut BodyWriter<'_>) {
        body.string(c"$db", self.database);
        if let Some(lsid) = self.lsid {
            body.document(c"lsid", lsid);
        }
        if let Some(time) = self.cluster_time {
            body.document(c"$clusterTime", time);
        }
        if let Some(preference) = self.read_preference {
            body.document(c"$readPreference", preference);
        }
    }
}

impl ReadPreferenceField {
    /// Returns the `$readPreference` document for a selected server, if that server is sent one.
    #[inline]
    pub fn document(&self, topology: TopologyType, server: ServerType) -> Option<RawDocumentBuf> {
        match self {
            Self::NotSent => None,
            Self::Primary if topology != TopologyType::Single => None,
            Self::Primary => encoded(topology, server, ReadPreference::primary()),
            Self::Of(preference) => encoded(topology, server, (**preference).clone()),
        }
    }
}

fn encoded(topology: TopologyType, server: ServerType, preference: ReadPreference) -> Option<RawDocumentBuf> {
    let preference = read_preference_to_send(topology, server, &Criteria::read(preference))?;
    RawDocumentBuf::try_from(&preference.to_document()).ok()
}
