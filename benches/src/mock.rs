//! The process of the bench's fake server.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use mongolink::bson::{Document, RawDocument, doc};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::op::{encoded, message};
use crate::papers;
use crate::raw::Raw;

/// A process of the bench's `server`; it ends when this is dropped.
pub struct Mock {
    child: Child,
    orders: Option<ChildStdin>,
    ports: Vec<u16>,
    authority: Option<PathBuf>,
    tls: Option<TlsConnector>,
}

/// The counters of a server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Connections that are open, that of the question included.
    pub open: i64,
    /// Connections accepted so far.
    pub accepted: i64,
    /// Hello commands so far.
    pub hellos: i64,
}

impl Counts {
    /// Returns how many connections have ended.
    pub fn closed(self) -> i64 {
        self.accepted - self.open
    }
}

impl Mock {
    /// Starts a server that lies beside this program, of so many members; over TLS if there is a folder with papers.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(members: usize, folder: Option<&Path>) -> Self {
        let program = std::env::current_exe().expect("a program has a path").with_file_name("server");
        let mut command = Command::new(program);
        command.args(["--members", &members.to_string()]);
        if let Some(folder) = folder {
            command.arg("--tls").arg(folder.join("server.pem")).arg(folder.join("server.key"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the server starts");
        let orders = child.stdin.take();
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output is ours");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let ports = said["ports"].as_array().expect("a list of ports").iter();
        let ports = ports.filter_map(|port| u16::try_from(port.as_u64()?).ok()).collect();
        let authority = folder.map(|folder| folder.join("ca.pem"));
        let tls = authority.as_deref().map(|authority| papers::connector(authority).expect("an authority"));
        Self { child, orders, ports, authority, tls }
    }

    /// Returns the members' ports, the primary's first.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Opens a bare connection to the primary.
    ///
    /// # Panics
    /// If it can't be opened.
    pub async fn raw(&self) -> Raw {
        Raw::open(self.ports[0], self.tls.as_ref()).await.expect("a connection")
    }

    /// Returns a connection string whose only seed is the primary, with further options.
    pub fn uri(&self, options: &str) -> String {
        let mut uri = format!("mongodb://127.0.0.1:{}/?replicaSet=bench", self.ports[0]);
        if let Some(authority) = &self.authority {
            uri.push_str(&format!("&tls=true&tlsCAFile={}", authority.display().to_string().replace('/', "%2F")));
        }
        if !options.is_empty() {
            uri.push('&');
            uri.push_str(options);
        }
        uri
    }

    /// Gives the server an order; `server` says which there are.
    ///
    /// # Panics
    /// If it has ended.
    pub fn order(&mut self, line: &str) {
        let orders = self.orders.as_mut().expect("open until it is dropped");
        writeln!(orders, "{line}").and_then(|()| orders.flush()).expect("the server runs");
    }

    /// Asks what it has counted, on a connection of its own.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn counts(&self) -> Counts {
        let mut raw = self.raw().await;
        let question = message(encoded(&doc! { "serverStatus": 1 }), "admin");
        let reply = document(raw.exchange(&question).await.expect("a reply"));
        let count = |name| reply.get_i64(name).expect("a count");
        Counts { open: count("open"), accepted: count("accepted"), hellos: count("hellos") }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        // It ends when there will be no more orders.
        drop(self.orders.take());
        drop(self.child.wait());
    }
}

/// Reads the document of a reply.
///
/// # Panics
/// If it has none.
pub fn document(message: &[u8]) -> Document {
    // Header, flags and section kind come before it.
    let body = message.get(21..).expect("a body");
    let raw = RawDocument::from_bytes(body).expect("a document");
    Document::try_from(raw).expect("BSON")
}
