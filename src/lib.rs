//! The connection and operation layer of a MongoDB driver: discovers the servers of a deployment, monitors them, opens and
//! pools connections, and runs commands and cursors on them.
//!
#![cfg_attr(feature = "sandbox", doc = "```")]
#![cfg_attr(not(feature = "sandbox"), doc = "```ignore")]
//! use mongolink::{Client, Sandbox, bson::doc};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let sandbox = Sandbox::builder().start().await?; // a replica set in this process, feature `sandbox`
//!     let client = Client::new(sandbox.uri())?; // or "mongodb://db.example/?replicaSet=rs0"
//!     let shop = client.database("shop");
//!     shop.run_command(doc! { "insert": "orders", "documents": [{ "item": "tea", "total": 12 }] }).await?;
//!     let mut orders = shop.run_cursor_command(doc! { "find": "orders" }).await?;
//!     while let Some(order) = orders.next().await {
//!         println!("{}", order?);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # What it is not
//! It is not an object mapper, and it has no helpers for collections, transactions, explicit sessions, change streams or
//! client-side encryption yet. It does not retry: errors say what is safe to repeat. [What is not supported](guide::unsupported)
//! lists every gap.
//!
//! # Install
//! ```toml
//! [dependencies]
//! mongolink = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//! Rust 1.88 or later. MongoDB 4.2 or later. Cargo features, all off by default: `sandbox` (a fake deployment in your process),
//! `encrypted-keys` (encrypted keys in `tlsCertificateKeyFile`), `cli` (the `mongolink` program; enables `sandbox`).
//!
//! # What it guarantees
//! - DNS has a limit of its own and never uses up the connect time-out. ([Names and DNS](guide::names))
//! - [`Client::new`] does no I/O; the first call starts the background tasks. ([Connecting](guide::connecting))
//! - Every future can be dropped at any point; that costs no connection, session or cursor. ([Time-outs](guide::timeouts))
//! - Stalled servers and connection attempts without an answer do not block the [pool](guide::pools).
//! - Commands on a frozen primary end soon after a new one is known. ([Failover and errors](guide::failover_and_errors))
//! - Every wait, queue and buffer has a named [limit](guide::limits).
//! - A command costs little more than the socket. ([Costs](guide::costs))
//!
//! # Errors, time-outs and cancellation
//! An [`Error`] reports its kind, stage, host, elapsed time and limit. [`Error::may_have_executed`] says whether the server may
//! have executed the command, [`Error::is_retryable`] whether it is safe to repeat. A time-out belongs to the call
//! ([`RunCommand::timeout`]) or to the client (`timeoutMS`). Dropping a future cancels its call.
//!
//! # More
//! The [guide] has one page a topic, from [connecting](guide::connecting) to [how it is tested](guide::testing).

#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub, reason = "internal modules are public with that feature only"))]

// Internal modules: private, and opened to the project's own tests by the feature `internals`.
mod address;
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
pub mod deadline;
#[cfg(not(feature = "internals"))]
mod deadline;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod description;
#[cfg(not(feature = "internals"))]
mod description;
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
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reply;
#[cfg(not(feature = "internals"))]
mod reply;
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

pub use address::{Address, Host, ServerAddress};
pub use client::{
    Client, ClientBuilder, CommandFuture, Cursor, Database, Events, FromReply, IntoCommand, Probe, Reply, RunCommand, RunCursorCommand,
    TopologyWatch, TryNext,
};
pub use description::{ServerDescription, ServerSelector, ServerType, TopologyDescription, TopologyType};
pub use error::{
    CommandFailure, ERROR_MESSAGE_SIZE_MAX, ERROR_TEXT_SIZE_MAX, Error, ErrorKind, Ineligible, Limit, LimitValue, Result, ServerReason,
    Stage,
};
pub use handshake::{DriverInfo, HelloReply, TopologyVersion, UnusableHost};
pub use host::DEFAULT_PORT;
pub use io::clock::BootClock;
pub use io::dial::StageReport;
pub use io::resolver::{DnsConfig, Resolve, ResolveFuture};
#[cfg(feature = "sandbox")]
pub use io::sandbox::{Sandbox, SandboxBuilder};
pub use observe::events::{EVENT_DOCUMENT_SIZE_MAX, EVENTS_BYTES_MAX, EVENTS_MAX, Event};
pub use operation::CommandEvent;
pub use operation::write_error::{WriteConcernFailure, WriteError};
pub use options::{
    ClientOptions, Credential, Mechanism, ReadConcern, ReadPreference, ReadPreferenceMode, Secret, ServerMonitoringMode, TagSet, W,
    Warning, WriteConcern,
};
pub use pool::{CheckOutFailure, CloseReason, PoolConfig, PoolEvent, PoolStats};
pub use topology::{MonitorEvent, TopologyEvent};
pub use uri::ConnectionString;

#[cfg(all(doc, any(not(doctest), feature = "sandbox")))]
pub mod guide;
