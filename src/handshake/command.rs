//! The hello commands and their fields.
//!
//! The commands of mongodb-handshake and server-monitoring, without `$db`. Does not decide when a monitor sends one
//! (`topology`).

use std::time::Duration;

use bson::raw::{RawArrayBuf, cstr};
use bson::{RawDocument, RawDocumentBuf};

use super::TopologyVersion;

/// The back-pressure version that the client supports; a string, sent on a socket's first hello only.
const BACKPRESSURE: &str = "2";

/// The contents of a socket's first hello.
#[derive(Clone, Copy)]
pub struct FirstHello<'a> {
    /// The `client` document.
    pub client: &'a RawDocument,
    /// Whether the server is known to support `hello`.
    pub hello_ok: bool,
    /// Whether the server is a load balancer, which requires `hello`.
    pub load_balanced: bool,
    /// The user whose mechanisms are requested, `database.user`.
    pub sasl_supported_mechs: Option<&'a str>,
    /// The first command of the authentication, sent along.
    pub speculative: Option<&'a RawDocument>,
}

impl FirstHello<'_> {
    /// Returns the name of the command.
    pub fn name(&self) -> &'static str {
        name(self.hello_ok || self.load_balanced)
    }
}

/// Builds a socket's first hello.
pub fn hello_command(hello: &FirstHello<'_>) -> RawDocumentBuf {
    let mut body = open(hello.hello_ok || hello.load_balanced);
    if hello.load_balanced {
        body.append(cstr!("loadBalanced"), true);
    }
    body.append(cstr!("client"), hello.client);
    body.append(cstr!("compression"), RawArrayBuf::new());
    body.append(cstr!("backpressure"), BACKPRESSURE);
    if let Some(user) = hello.sasl_supported_mechs {
        body.append(cstr!("saslSupportedMechs"), user);
    }
    if let Some(command) = hello.speculative {
        body.append(cstr!("speculativeAuthenticate"), command);
    }
    body
}

/// Builds a later hello of a monitor. The server replies at once, or, with a topology version, when its state differs from that
/// version or the time is over.
pub fn monitor_hello(hello_ok: bool, await_: Option<(TopologyVersion, Duration)>) -> RawDocumentBuf {
    let mut body = open(hello_ok);
    if let Some((version, time)) = await_ {
        body.append(cstr!("topologyVersion"), version.to_document());
        body.append(cstr!("maxAwaitTimeMS"), i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    }
    body
}

fn name(hello_ok: bool) -> &'static str {
    if hello_ok { "hello" } else { "isMaster" }
}

fn open(hello_ok: bool) -> RawDocumentBuf {
    let mut body = RawDocumentBuf::new();
    if hello_ok {
        body.append(cstr!("hello"), 1_i32);
    } else {
        body.append(cstr!("isMaster"), 1_i32);
        body.append(cstr!("helloOk"), true);
    }
    body
}
