//! The connection layer of a MongoDB driver: finds the servers, keeps watch over them, opens, secures and pools
//! connections, and carries commands and cursors over them.
//!
//! The way of the data, each word a module:
//! ```text
//!  setup    uri -> options -> dns -> topology -> one monitor and one pool per server
//!  opening  race (addresses) -> io/tcp -> io/tls -> handshake + auth, spoken over wire
//!  steady   monitor -> hello replies -> topology -> description -> selection
//!  a call   client -> selection -> pool -> wire -> reply / cursor
//!  failure  fault -> topology (mark Unknown) -> pool (clear, generation + 1)
//! ```
//! Everything outside `io`, `client` and `cli` is pure: handed facts and the time, it hands back wishes. Those modules are
//! public for the project's own tests only; what users need is re-exported here.

#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod auth;
mod client;
#[doc(hidden)]
pub mod cursor;
#[doc(hidden)]
pub mod dns;
mod error;
#[doc(hidden)]
pub mod handshake;
#[doc(hidden)]
pub mod host;
#[doc(hidden)]
pub mod io;
mod note;
#[doc(hidden)]
pub mod observe;
#[doc(hidden)]
pub mod operation;
#[doc(hidden)]
pub mod options;
#[doc(hidden)]
pub mod pool;
#[doc(hidden)]
pub mod race;
#[cfg(feature = "sandbox")]
pub mod sandbox;
#[doc(hidden)]
pub mod selection;
#[doc(hidden)]
pub mod topology;
#[doc(hidden)]
pub mod uri;
#[doc(hidden)]
pub mod wire;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

#[cfg(test)]
mod growth;
#[cfg(test)]
mod matrix;

pub use bson;

pub use auth::{Credential, Mechanism, Secret};
pub use client::{
    Client, ClientBuilder, CommandFuture, Cursor, Database, Events, FromReply, IntoCommand, Probe, Reply, RunCommand, RunCursorCommand,
    TopologyWatch, TryNext,
};
pub use error::{
    CommandFailure, ERROR_MESSAGE_SIZE_MAX, ERROR_TEXT_SIZE_MAX, Error, ErrorKind, Ineligible, Limit, LimitValue, Result, ServerReason,
    Stage,
};
pub use handshake::{DriverInfo, HelloReply, TopologyVersion, UnusableHost};
pub use host::{Address, DEFAULT_PORT, Host, ServerAddress};
pub use io::clock::BootClock;
pub use io::dial::StageReport;
pub use io::resolver::{DnsConfig, Resolve, ResolveFuture};
#[cfg(feature = "sandbox")]
pub use io::sandbox::{Sandbox, SandboxBuilder};
pub use observe::events::{EVENT_DOCUMENT_SIZE_MAX, EVENTS_BYTES_MAX, EVENTS_MAX, Event};
pub use operation::CommandEvent;
pub use operation::concern::{ReadConcern, W, WriteConcern};
pub use operation::write_error::{WriteConcernFailure, WriteError};
pub use options::{ClientOptions, ServerMonitoringMode, Warning};
pub use pool::{CheckOutFailure, CloseReason, PoolConfig, PoolEvent, PoolStats};
pub use selection::{ReadPreference, ReadPreferenceMode, ServerSelector, TagSet};
pub use topology::{MonitorEvent, ServerDescription, ServerType, TopologyDescription, TopologyEvent, TopologyType};
pub use uri::ConnectionString;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
