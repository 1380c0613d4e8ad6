//! What does the client say of itself?
//!
//! The `client` document of mongodb-handshake: application, driver, operating system, platform, and the function or
//! container it runs in; at most 512 bytes. The facts are handed in; gathering them is `io::environment`'s business.

use std::fmt;
use std::sync::Arc;

use bson::RawDocumentBuf;
use bson::raw::cstr;

use crate::error::{Error, ErrorKind, LimitValue, Stage};

/// The largest `client` document that servers take, in bytes.
pub const METADATA_SIZE_MAX: usize = 512;

/// The longest application name that servers take, in bytes.
const APP_NAME_SIZE_MAX: usize = 128;

/// The longest type of an operating system that is sent, in bytes: it is the one field below that is never left out.
const OS_TYPE_SIZE_MAX: usize = 64;

/// Looks an environment variable up.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Holds the facts about process and machine that the metadata is made of.
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
    /// Looks an environment variable up.
    pub variables: Variables,
}

/// Is the `client` document, made once and shared by all connections of a client.
#[derive(Clone, Debug)]
pub struct ClientMetadata {
    document: Arc<RawDocumentBuf>,
    faas: bool,
}

/// Is what is known of the function-as-a-service platform.
struct Faas {
    name: &'static str,
    timeout_sec: Option<i32>,
    memory_mb: Option<i32>,
    region: Option<String>,
}

/// Says how much is told; each step leaves out more than the one before (mongodb-handshake, "Limitations").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    All,
    EnvName,
    OsType,
    NoEnv,
}

/// Is the metadata before it is cut to size.
struct Draft<'a> {
    app_name: Option<&'a str>,
    environment: &'a Environment,
    faas: Option<Faas>,
    kubernetes: bool,
}

impl ClientMetadata {
    /// Makes the metadata; an empty application name is none.
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
        let faas = environment.faas();
        let is_faas = faas.is_some();
        let draft = Draft { app_name, environment, faas, kubernetes: environment.variable("KUBERNETES_SERVICE_HOST").is_some() };
        Ok(Self { document: Arc::new(draft.cut_to_size()), faas: is_faas })
    }

    /// Returns the `client` document.
    pub fn document(&self) -> &Arc<RawDocumentBuf> {
        &self.document
    }

    /// Tells whether this is a function-as-a-service platform, where servers are polled (`serverMonitoringMode=auto`).
    pub fn is_faas(&self) -> bool {
        self.faas
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

    /// Finds the platform; `None` if there is none, or the variables of several contradict each other.
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

impl Draft<'_> {
    fn cut_to_size(&self) -> RawDocumentBuf {
        let platform = self.environment.platform.as_str();
        for detail in [Detail::All, Detail::EnvName, Detail::OsType, Detail::NoEnv] {
            let document = self.document(detail, platform);
            if document.as_bytes().len() <= METADATA_SIZE_MAX {
                return document;
            }
        }
        let over = self.document(Detail::NoEnv, platform).as_bytes().len() - METADATA_SIZE_MAX;
        self.document(Detail::NoEnv, shorten(platform, platform.len().saturating_sub(over)))
    }

    fn document(&self, detail: Detail, platform: &str) -> RawDocumentBuf {
        let mut document = RawDocumentBuf::new();
        if let Some(name) = self.app_name {
            let mut application = RawDocumentBuf::new();
            application.append(cstr!("name"), name);
            document.append(cstr!("application"), application);
        }
        let mut driver = RawDocumentBuf::new();
        driver.append(cstr!("name"), "mongolink");
        driver.append(cstr!("version"), env!("CARGO_PKG_VERSION"));
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
        let environment = self.environment;
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

/// Cuts a text to at most so many bytes, between two characters.
fn shorten(text: &str, size: usize) -> &str {
    let end = (0..=size.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bson::Document;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables: Vec<(String, String)> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment {
            os_type: "Linux".to_owned(),
            os_name: Some("Debian".to_owned()),
            os_architecture: Some("x86_64".to_owned()),
            os_version: Some("12".to_owned()),
            platform: "Rust".to_owned(),
            docker: false,
            variables: Arc::new(move |name: &str| variables.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone())),
        }
    }

    fn metadata(environment: &Environment) -> (Document, bool) {
        let metadata = ClientMetadata::new(Some("app"), environment).expect("metadata");
        let size = metadata.document().as_bytes().len();
        assert!(size <= METADATA_SIZE_MAX, "{size} bytes");
        let document: &bson::RawDocument = metadata.document();
        (Document::try_from(document).expect("document"), metadata.is_faas())
    }

    fn env_of(variables: &[(&str, &str)]) -> Option<Document> {
        let (document, faas) = metadata(&environment(variables));
        let env = document.get_document("env").ok().cloned();
        assert_eq!(faas, env.as_ref().is_some_and(|env| env.contains_key("name")));
        env
    }

    #[test]
    fn plain_process_tells_application_driver_os_and_platform() {
        let (document, faas) = metadata(&environment(&[]));
        let expected = bson::doc! {
            "application": { "name": "app" }, "driver": { "name": "mongolink", "version": env!("CARGO_PKG_VERSION") },
            "os": { "type": "Linux", "name": "Debian", "architecture": "x86_64", "version": "12" }, "platform": "Rust",
        };
        assert_eq!(document, expected);
        assert!(!faas);
    }

    #[test]
    fn each_platform_tells_its_facts() {
        let lambda = [("AWS_EXECUTION_ENV", "AWS_Lambda_java8"), ("AWS_REGION", "us-east-2"), ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024")];
        assert_eq!(env_of(&lambda), Some(bson::doc! { "name": "aws.lambda", "memory_mb": 1024, "region": "us-east-2" }));
        assert_eq!(env_of(&[("FUNCTIONS_WORKER_RUNTIME", "node")]), Some(bson::doc! { "name": "azure.func" }));
        let gcp = [
            ("K_SERVICE", "servicename"),
            ("FUNCTION_MEMORY_MB", "1024"),
            ("FUNCTION_TIMEOUT_SEC", "60"),
            ("FUNCTION_REGION", "us-central1"),
        ];
        assert_eq!(env_of(&gcp), Some(bson::doc! { "name": "gcp.func", "timeout_sec": 60, "memory_mb": 1024, "region": "us-central1" }));
        let vercel = [("VERCEL", "1"), ("VERCEL_REGION", "cdg1")];
        assert_eq!(env_of(&vercel), Some(bson::doc! { "name": "vercel", "region": "cdg1" }));
    }

    #[test]
    fn several_platforms_are_none_but_vercel_on_lambda() {
        assert_eq!(env_of(&[("AWS_EXECUTION_ENV", "AWS_Lambda_java8"), ("FUNCTIONS_WORKER_RUNTIME", "node")]), None);
        assert_eq!(env_of(&[("VERCEL", "1"), ("K_SERVICE", "x")]), None);
        let both = [("AWS_LAMBDA_RUNTIME_API", "x"), ("AWS_REGION", "us-east-2"), ("VERCEL", "1")];
        assert_eq!(env_of(&both), Some(bson::doc! { "name": "vercel" }));
    }

    #[test]
    fn long_region_is_left_out() {
        let region = "a".repeat(512);
        let variables = [("AWS_EXECUTION_ENV", "AWS_Lambda_java8"), ("AWS_REGION", region.as_str())];
        assert_eq!(env_of(&variables), Some(bson::doc! { "name": "aws.lambda" }));
    }

    #[test]
    fn odd_values_drop_their_field_alone() {
        let odd = [("AWS_EXECUTION_ENV", "AWS_Lambda_java8"), ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "big")];
        assert_eq!(env_of(&odd), Some(bson::doc! { "name": "aws.lambda" }));
        assert_eq!(env_of(&[("AWS_EXECUTION_ENV", "EC2")]), None);
        assert_eq!(env_of(&[("VERCEL", "")]), None);
    }

    #[test]
    fn container_stands_beside_the_platform() {
        let both = [
            ("AWS_EXECUTION_ENV", "AWS_Lambda_java8"),
            ("AWS_REGION", "us-east-2"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"),
            ("KUBERNETES_SERVICE_HOST", "1"),
        ];
        let expected =
            bson::doc! { "name": "aws.lambda", "memory_mb": 1024, "region": "us-east-2", "container": { "orchestrator": "kubernetes" } };
        assert_eq!(env_of(&both), Some(expected));
        let mut docker = environment(&[]);
        docker.docker = true;
        let (document, faas) = metadata(&docker);
        assert_eq!(document.get_document("env").expect("env"), &bson::doc! { "container": { "runtime": "docker" } });
        assert!(!faas);
        let several = [("VERCEL", "1"), ("K_SERVICE", "x"), ("KUBERNETES_SERVICE_HOST", "1")];
        assert_eq!(env_of(&several), Some(bson::doc! { "container": { "orchestrator": "kubernetes" } }));
    }

    #[test]
    fn fields_go_in_the_order_of_the_specification() {
        let mut large = environment(&[("VERCEL", "1"), ("VERCEL_REGION", "cdg1"), ("KUBERNETES_SERVICE_HOST", "1")]);
        large.os_version = Some("v".repeat(400));
        let (document, _) = metadata(&large);
        assert_eq!(document.get_document("env").expect("env"), &bson::doc! { "name": "vercel" });
        assert_eq!(document.get_document("os").expect("os"), &bson::doc! { "type": "Linux" });

        large.os_version = None;
        large.platform = "ü".repeat(600);
        let (document, faas) = metadata(&large);
        assert!(!document.contains_key("env") && faas);
        assert_eq!(document.get_document("os").expect("os"), &bson::doc! { "type": "Linux" });
        assert!(document.get_str("platform").expect("platform").len() > 300);
        large.os_type = "o".repeat(1000);
        assert!(metadata(&large).0.contains_key("os"));
    }

    #[test]
    fn no_text_makes_it_too_large() {
        for size in [0, 1, 100, 128] {
            for platform in 0..600 {
                let mut environment = environment(&[("VERCEL", "1")]);
                environment.platform = "p".repeat(platform);
                environment.os_type = "o".repeat(platform);
                let metadata = ClientMetadata::new(Some(&"a".repeat(size)), &environment).expect("metadata");
                assert!(metadata.document().as_bytes().len() <= METADATA_SIZE_MAX, "{size} {platform}");
            }
        }
    }

    #[test]
    fn long_application_name_is_refused() {
        let error = ClientMetadata::new(Some(&"a".repeat(129)), &environment(&[])).expect_err("refusal");
        assert_eq!(error.to_string(), "uri: appName of 129 bytes (limit appName of 128 bytes)");
    }
}
