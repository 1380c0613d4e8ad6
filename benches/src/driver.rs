//! The clients that are compared.

use std::fmt;

use mongodb::options::ClientOptions;
use mongolink::bson::doc;

/// Names a kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bare socket.
    Raw,
    /// The official driver, crate `mongodb`.
    Official,
    /// This project.
    Mongolink,
}

/// A client of one of the two drivers.
#[derive(Clone)]
pub enum Driver {
    /// The official driver's.
    Official(mongodb::Client),
    /// This project's.
    Mongolink(mongolink::Client),
}

impl Kind {
    /// Finds a kind by its name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Raw, Self::Official, Self::Mongolink].into_iter().find(|kind| kind.name() == name)
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Official => "official",
            Self::Mongolink => "mongolink",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Driver {
    /// Makes a client; the bare socket has none.
    ///
    /// # Panics
    /// If the connection string can't be used.
    pub async fn new(kind: Kind, uri: &str) -> Option<Self> {
        match kind {
            Kind::Raw => None,
            Kind::Official => Some(Self::Official(official(official_options(uri).await))),
            Kind::Mongolink => Some(Self::Mongolink(mongolink::Client::new(uri).expect("a client"))),
        }
    }

    /// Pings the primary.
    ///
    /// # Errors
    /// The driver's, as text.
    pub async fn ping(&self) -> Result<(), String> {
        match self {
            Self::Official(client) => {
                let command = mongodb::bson::rawdoc! { "ping": 1 };
                client.database("admin").run_raw_command(command).await.map(drop).map_err(|error| error.to_string())
            }
            Self::Mongolink(client) => {
                let command = client.database("admin").run_command(doc! { "ping": 1 }).raw();
                command.await.map(drop).map_err(|error| error.to_string())
            }
        }
    }

    /// Ends it.
    pub async fn shutdown(self) {
        match self {
            Self::Official(client) => client.shutdown().await,
            Self::Mongolink(client) => client.shutdown().await,
        }
    }
}

/// Reads a connection string as the official driver does.
///
/// # Panics
/// If it can't be used.
pub async fn official_options(uri: &str) -> ClientOptions {
    ClientOptions::parse(uri).await.expect("a connection string")
}

/// Makes a client of the official driver.
///
/// # Panics
/// If the options can't be used.
pub fn official(options: ClientOptions) -> mongodb::Client {
    mongodb::Client::with_options(options).expect("a client")
}
