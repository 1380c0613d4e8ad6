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
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub, reason = "internal modules are public with that feature only"))]

// Internal modules: private, and opened to the project's own tests by the feature `internals`.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod auth;
#[cfg(not(feature = "internals"))]
mod auth;
#[cfg(all(feature = "cli", feature = "internals"))]
#[doc(hidden)]
pub mod cli;
#[cfg(all(feature = "cli", not(feature = "internals")))]
mod cli;
mod client;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod cursor;
#[cfg(not(feature = "internals"))]
mod cursor;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod dns;
#[cfg(not(feature = "internals"))]
mod dns;
mod error;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod handshake;
#[cfg(not(feature = "internals"))]
mod handshake;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod host;
#[cfg(not(feature = "internals"))]
mod host;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod io;
#[cfg(not(feature = "internals"))]
mod io;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod machine;
#[cfg(not(feature = "internals"))]
mod machine;
mod note;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod observe;
#[cfg(not(feature = "internals"))]
mod observe;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod operation;
#[cfg(not(feature = "internals"))]
mod operation;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod options;
#[cfg(not(feature = "internals"))]
mod options;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod pool;
#[cfg(not(feature = "internals"))]
mod pool;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod race;
#[cfg(not(feature = "internals"))]
mod race;
#[cfg(all(feature = "sandbox", feature = "internals"))]
#[doc(hidden)]
pub mod sandbox;
#[cfg(all(feature = "sandbox", not(feature = "internals")))]
mod sandbox;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod selection;
#[cfg(not(feature = "internals"))]
mod selection;
mod sync;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod topology;
#[cfg(not(feature = "internals"))]
mod topology;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod uri;
#[cfg(not(feature = "internals"))]
mod uri;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod wire;
#[cfg(not(feature = "internals"))]
mod wire;

#[cfg(test)]
mod growth;
#[cfg(test)]
mod matrix;

pub use bson;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub use cli::main as run_program;

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
