//! The client metadata that servers receive.
//!
//! The `client` document of mongodb-handshake: application, driver, operating system, platform, and the function or container
//! in which it runs; at most 512 bytes. Does not gather the facts (`io::environment`), nor decide which libraries are listed
//! beside the driver (`driver_info`).

use std::fmt;
use std::sync::Arc;

use bson::RawDocumentBuf;
use bson::raw::cstr;

use super::driver_info::{DriverInfo, DriverInfos};
use crate::error::{Error, ErrorKind, LimitValue, Stage};

/// The largest `client` document that servers accept, in bytes.
pub const METADATA_SIZE_MAX: usize = 512;

/// The longest application name that servers accept, in bytes.
const APP_NAME_SIZE_MAX: usize = 128;

/// The longest type of an operating system that is sent, in bytes: the only field below that is never left out.
const OS_TYPE_SIZE_MAX: usize = 64;

/// A function that looks up an environment variable.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The facts about process and machine for the metadata.
#[derive(Clone)]
pub struct Environment {
    /// The type of the operating system, such as `Linux` or `Darwin`.
    pub os_type: String,
    /// The name of the operating system or distribution.
    pub os_name: Option<String>,
    /// The processor's architecture.
    pub os_architecture: Option<String>,
    /// The version of the operating system.
    pub os_version: Option<String>,
    /// Language and runtime.
    pub platform: String,
    /// Whether this is a Docker container (`/.dockerenv`).
    pub docker: bool,
    /// Looks up an environment variable.
    pub variables: Variables,
}

/// The metadata of a client, gathered once; its `client` document is shared by all connections.
#[derive(Clone, Debug)]
pub struct ClientMetadata {
    draft: Arc<Draft>,
    document: Arc<RawDocumentBuf>,
}

/// The function-as-a-service platform.
#[derive(Debug)]
struct Faas {
    name: &'static str,
    timeout_sec: Option<i32>,
    memory_mb: Option<i32>,
    region: Option<String>,
}

/// The level of detail; each level leaves out more than the one before (mongodb-handshake, "Limitations").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    All,
    EnvName,
    OsType,
    NoEnv,
}

/// The metadata before it is cut to size.
#[derive(Debug)]
struct Draft {
    app_name: Option<String>,
    environment: Environment,
    faas: Option<Faas>,
    kubernetes: bool,
}

impl ClientMetadata {
    /// Creates the metadata; an empty application name counts as none.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] for an application name of more than 128 bytes.
    pub fn new(app_name: Option<&str>, environment: &Environment) -> Result<Self, Error> {
        let app_name = app_name.filter(|name| !name.is_empty());
        if let Some(size) = app_name.map(str::len).filter(|size| *size > APP_NAME_SIZE_MAX) {
            let limit = u64::try_from(APP_NAME_SIZE_MAX).unwrap_or(u64::MAX);
            return Err(Error::new(ErrorKind::InvalidOption, format!("appName of {size} bytes"))
                .at(Stage::Uri)
                .against("appName", LimitValue::Bytes(limit)));
        }
        let draft = Draft {
            app_name: app_name.map(str::to_owned),
            faas: environment.faas(),
            kubernetes: environment.variable("KUBERNETES_SERVICE_HOST").is_some(),
            environment: environment.clone(),
        };
        Ok(Self { document: Arc::new(draft.cut_to_size(&[])), draft: Arc::new(draft) })
    }

    /// Returns the `client` document without wrapping libraries.
    #[cfg(any(test, feature = "internals"))]
    pub fn document(&self) -> &Arc<RawDocumentBuf> {
        &self.document
    }

    /// Returns the `client` document with the libraries that wrap the client.
    ///
    /// If they don't fit into [`METADATA_SIZE_MAX`] bytes, the latest libraries are left out.
    pub fn document_with(&self, libraries: &DriverInfos) -> Arc<RawDocumentBuf> {
        match libraries.as_slice() {
            [] => Arc::clone(&self.document),
            libraries => Arc::new(self.draft.cut_to_size(libraries)),
        }
    }

    /// Returns whether the process runs on a function-as-a-service platform, where servers are polled
    /// (`serverMonitoringMode=auto`).
    pub fn is_faas(&self) -> bool {
        self.draft.faas.is_some()
    }
}

impl Environment {
    /// Returns a variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Option<i32> {
        self.variable(name).and_then(|value| value.parse().ok())
    }

    /// Returns the platform; `None` if there is none, or the variables of several platforms contradict each other.
    fn faas(&self) -> Option<Faas> {
        let lambda = self.variable("AWS_EXECUTION_ENV").is_some_and(|value| value.starts_with("AWS_Lambda_"))
            || self.variable("AWS_LAMBDA_RUNTIME_API").is_some();
        let azure = self.variable("FUNCTIONS_WORKER_RUNTIME").is_some();
        let gcp = self.variable("K_SERVICE").is_some() || self.variable("FUNCTION_NAME").is_some();
        let vercel = self.variable("VERCEL").is_some();
        match (vercel, lambda, azure, gcp) {
            // Vercel runs its functions on Lambda.
            (true, _, false, false) => {
                Some(Faas { name: "vercel", timeout_sec: None, memory_mb: None, region: self.variable("VERCEL_REGION") })
            }
            (false, true, false, false) => Some(Faas {
                name: "aws.lambda",
                timeout_sec: None,
                memory_mb: self.number("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
                region: self.variable("AWS_REGION"),
            }),
            (false, false, true, false) => Some(Faas { name: "azure.func", timeout_sec: None, memory_mb: None, region: None }),
            (false, false, false, true) => Some(Faas {
                name: "gcp.func",
                timeout_sec: self.number("FUNCTION_TIMEOUT_SEC"),
                memory_mb: self.number("FUNCTION_MEMORY_MB"),
                region: self.variable("FUNCTION_REGION"),
            }),
            _ => None,
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("os_type", &self.os_type)
            .field("os_name", &self.os_name)
            .field("os_architecture", &self.os_architecture)
            .field("os_version", &self.os_version)
            .field("platform", &self.platform)
            .field("docker", &self.docker)
            .finish_non_exhaustive()
    }
}

impl Draft {
    /// Leaves out fields in the specification's order, then cuts the platform, then leaves out libraries.
    fn cut_to_size(&self, mut libraries: &[DriverInfo]) -> RawDocumentBuf {
        loop {
            let document = self.cut_beside(libraries);
            match libraries.split_last() {
                Some((_, earlier)) if document.as_bytes().len() > METADATA_SIZE_MAX => libraries = earlier,
                Some(_) | None => return document,
            }
        }
    }

    /// Leaves out what is possible, but no library.
    fn cut_beside(&self, libraries: &[DriverInfo]) -> RawDocumentBuf {
        let platform = joined(&self.environment.platform, libraries, |library| library.platform.as_deref());
        for detail in [Detail::All, Detail::EnvName, Detail::OsType, Detail::NoEnv] {
            let document = self.document(detail, libraries, &platform);
            if document.as_bytes().len() <= METADATA_SIZE_MAX {
                return document;
            }
        }
        let over = self.document(Detail::NoEnv, libraries, &platform).as_bytes().len() - METADATA_SIZE_MAX;
        self.document(Detail::NoEnv, libraries, shorten(&platform, platform.len().saturating_sub(over)))
    }

    fn document(&self, detail: Detail, libraries: &[DriverInfo], platform: &str) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        if let Some(name) = &self.app_name {
            let mut application = RawDocumentBuf::new();
            application.append(cstr!("name"), name.as_str());
            document.append(cstr!("application"), application);
        }
        let mut driver = RawDocumentBuf::new();
        driver.append(cstr!("name"), joined("mongolink", libraries, |library| Some(&library.name)));
        driver.append(cstr!("version"), joined(env!("CARGO_PKG_VERSION"), libraries, |library| library.version.as_deref()));
        document.append(cstr!("driver"), driver);
        document.append(cstr!("os"), self.os(detail));
        if !platform.is_empty() {
            document.append(cstr!("platform"), platform);
        }
        if let Some(env) = self.env(detail) {
            document.append(cstr!("env"), env);
        }
        document
    }

    fn os(&self, detail: Detail) -> RawDocumentBuf {
        let environment = &self.environment;
        let mut os = RawDocumentBuf::new();
        os.append(cstr!("type"), shorten(&environment.os_type, OS_TYPE_SIZE_MAX));
        if detail < Detail::OsType {
            for (key, value) in [
                (cstr!("name"), &environment.os_name),
                (cstr!("architecture"), &environment.os_architecture),
                (cstr!("version"), &environment.os_version),
            ] {
                if let Some(value) = value {
                    os.append(key, value.as_str());
                }
            }
        }
        os
    }

    fn env(&self, detail: Detail) -> Option<RawDocumentBuf> {
        if detail == Detail::NoEnv {
            return None;
        }
        let mut env = RawDocumentBuf::new();
        if let Some(faas) = &self.faas {
            env.append(cstr!("name"), faas.name);
            if detail == Detail::All {
                if let Some(seconds) = faas.timeout_sec {
                    env.append(cstr!("timeout_sec"), seconds);
                }
                if let Some(megabytes) = faas.memory_mb {
                    env.append(cstr!("memory_mb"), megabytes);
                }
                if let Some(region) = &faas.region {
                    env.append(cstr!("region"), region.as_str());
                }
            }
        }
        if detail == Detail::All && (self.environment.docker || self.kubernetes) {
            let mut container = RawDocumentBuf::new();
            if self.environment.docker {
                container.append(cstr!("runtime"), "docker");
            }
            if self.kubernetes {
                container.append(cstr!("orchestrator"), "kubernetes");
            }
            env.append(cstr!("container"), container);
        }
        Some(env).filter(|env| !env.is_empty())
    }
}

/// Appends a text of each library to the driver's own.
fn joined(own: &str, libraries: &[DriverInfo], part: impl Fn(&DriverInfo) -> Option<&str>) -> String {
    let mut text = own.to_owned();
    for part in libraries.iter().filter_map(part).filter(|part| !part.is_empty()) {
        text.push(DriverInfo::DELIMITER);
        text.push_str(part);
    }
    text
}

/// Cuts a text to a number of bytes, at a character boundary.
fn shorten(text: &str, size: usize) -> &str {
    let end = (0..=size.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests;
