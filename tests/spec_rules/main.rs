//! Rules of the specifications that no test data covers.
//!
//! Tests of the pure parts on virtual time, one module for each specification. Which rule is shown by which test, here and
//! elsewhere, is listed in `tests/spec/RULES.md`.
#![allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]

mod cmap;
mod dns;
mod handshake;
mod monitoring;
mod op_msg;
mod sdam;
mod sdam_events;
mod selection;
mod staleness;
mod support;
