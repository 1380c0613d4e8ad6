//! mongodb-handshake.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongolink::bson::{Document, doc};
use mongolink::{Client, DriverInfo, ErrorKind};

use crate::peers::{Peer, Turn, scripted, standalone_hello};
use crate::support::{in_time, ping, until};

/// The first hellos that a peer has heard.
#[derive(Clone, Default)]
struct Greetings(Arc<Mutex<Vec<Document>>>);

impl Greetings {
    fn count(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    fn last(&self) -> Document {
        self.0.lock().expect("no panic").last().expect("a hello").get_document("client").expect("client").clone()
    }

    /// Starts a server that notes every connection's first hello.
    async fn peer(&self, hello: Document) -> Peer {
        let greetings = self.clone();
        scripted(move |heard| {
            if heard.body.contains_key("client") {
                greetings.0.lock().expect("no panic").push(heard.body.clone());
            }
            Turn::Reply(if heard.is_hello() {
                hello.clone()
            } else {
                doc! { "ok": 1 }
            })
        })
        .await
    }

    /// Pings until a connection is opened for it, and returns what that said of the client.
    async fn next(&self, client: &Client) -> Document {
        let before = self.count();
        while self.count() == before {
            // The connection is idle for longer than `maxIdleTimeMS` then.
            tokio::time::sleep(Duration::from_millis(5)).await;
            ping(client).await.expect("ping");
        }
        self.last()
    }
}

fn library() -> DriverInfo {
    DriverInfo::new("library").with_version("1.2").with_platform("Library Platform")
}

/// Returns what the driver says before the first delimiter, and what stands behind that, of name, version and platform.
fn parts(client: &Document) -> [(String, Option<String>); 3] {
    let driver = client.get_document("driver").expect("driver");
    [driver.get_str("name"), driver.get_str("version"), client.get_str("platform")].map(|text| {
        let text = text.expect("text");
        text.split_once('|').map_or((text.to_owned(), None), |(own, rest)| (own.to_owned(), Some(rest.to_owned())))
    })
}

fn libraries(client: &Document) -> [String; 3] {
    parts(client).map(|(_, rest)| rest.unwrap_or_default())
}

/// Client metadata update, 1: given at construction, then updated; 2: given in two updates.
#[tokio::test]
async fn metadata_appended_later_is_in_the_hello_of_new_connections() {
    in_time(async {
        let greetings = Greetings::default();
        let peer = greetings.peer(standalone_hello()).await;
        let framework = DriverInfo::new("framework");
        for (info, expected) in [
            (
                framework.clone().with_version("2.0").with_platform("Framework Platform"),
                ["library|framework", "1.2|2.0", "Library Platform|Framework Platform"],
            ),
            (framework.clone().with_version("2.0"), ["library|framework", "1.2|2.0", "Library Platform"]),
            (framework.clone().with_platform("Framework Platform"), ["library|framework", "1.2", "Library Platform|Framework Platform"]),
            (framework, ["library|framework", "1.2", "Library Platform"]),
        ] {
            for at_construction in [true, false] {
                let builder = Client::builder(format!("mongodb://{}/?maxIdleTimeMS=1", peer.address())).expect("uri");
                let builder = if at_construction { builder.driver_info(library()) } else { builder };
                let client = builder.build().expect("client");
                if !at_construction {
                    client.append_metadata(library()).expect("appended");
                }
                let before = greetings.next(&client).await;
                assert_eq!(libraries(&before), ["library", "1.2", "Library Platform"]);
                client.append_metadata(info.clone()).expect("appended");
                let after = greetings.next(&client).await;
                assert_eq!(libraries(&after), expected);
                assert_eq!(parts(&after).map(|(own, _)| own), parts(&before).map(|(own, _)| own), "the driver's own part stays");
                for field in ["application", "os", "env"] {
                    assert_eq!(after.get(field), before.get(field), "{field}");
                }
            }
        }
    })
    .await;
}

/// Client metadata update, 4 to 8.
#[tokio::test]
async fn metadata_that_is_known_already_is_not_appended_again() {
    in_time(async {
        let greetings = Greetings::default();
        let peer = greetings.peer(standalone_hello()).await;
        let bare = DriverInfo::new("library").with_platform("Library Platform");
        for first in [library(), bare.clone(), bare.with_version("")] {
            let client = Client::builder(format!("mongodb://{}/?maxIdleTimeMS=1", peer.address()))
                .expect("uri")
                .driver_info(first.clone())
                .build()
                .expect("client");
            client.append_metadata(DriverInfo::new("framework").with_version("2.0")).expect("appended");
            let before = greetings.next(&client).await;
            let mut again = first;
            again.version = Some(again.version.unwrap_or_default());
            client.append_metadata(again).expect("nothing new");
            client.append_metadata(DriverInfo::new("framework").with_version("2.0").with_platform("")).expect("nothing new");
            assert_eq!(greetings.next(&client).await, before);
        }
    })
    .await;
}

#[tokio::test]
async fn monitors_new_connection_has_the_appended_metadata() {
    in_time(async {
        let greetings = Greetings::default();
        let noted = greetings.clone();
        let peer = scripted(move |heard| {
            if heard.body.contains_key("client") {
                noted.0.lock().expect("no panic").push(heard.body.clone());
                return Turn::Reply(standalone_hello());
            }
            // The second hello of a monitor's connection ends it.
            if heard.is_hello() { Turn::Close } else { Turn::Reply(doc! { "ok": 1 }) }
        })
        .await;
        let client = Client::new(format!("mongodb://{}/?heartbeatFrequencyMS=500", peer.address())).expect("client");
        ping(&client).await.expect("ping");
        assert_eq!(libraries(&greetings.last()), ["", "", ""]);
        client.append_metadata(library()).expect("appended");
        // Nobody but the monitor opens connections now.
        let before = greetings.count();
        until("the monitor has connected anew", || greetings.count() > before).await;
        assert_eq!(libraries(&greetings.last()), ["library", "1.2", "Library Platform"]);
        assert_eq!(client.append_metadata(DriverInfo::new("a|b")).expect_err("refusal").kind(), ErrorKind::InvalidArgument);
    })
    .await;
}

/// Client metadata update, 9.
#[tokio::test]
async fn every_handshake_has_the_backpressure_field() {
    in_time(async {
        let greetings = Greetings::default();
        let peer = greetings.peer(standalone_hello()).await;
        let client = Client::new(format!("mongodb://{}/?minPoolSize=3", peer.address())).expect("client");
        ping(&client).await.expect("ping");
        until("monitor and pool are connected", || greetings.count() >= 4).await;
        for hello in greetings.0.lock().expect("no panic").iter() {
            assert_eq!(hello.get_str("backpressure").ok(), Some("2"), "{hello}");
        }
    })
    .await;
}

/// Test 2: a server may offer unknown mechanisms.
#[tokio::test]
async fn arbitrary_mechanism_of_a_server_is_no_error() {
    in_time(async {
        let mut hello = standalone_hello();
        hello.insert("saslSupportedMechs", vec!["SCRAM-SHA-256", "ARBITRARY"]);
        let greetings = Greetings::default();
        let peer = greetings.peer(hello).await;
        let client = Client::new(format!("mongodb://{}/", peer.address())).expect("client");
        ping(&client).await.expect("ping");
        let error = client.probe(&peer.host()).await.expect("probe").error;
        assert!(error.is_none(), "{error:?}");
    })
    .await;
}

/// Test 1: the nine environments, each in a process of its own.
#[cfg(feature = "cli")]
#[tokio::test]
async fn hello_succeeds_in_every_environment() {
    let long = "a".repeat(512);
    let lambda = ("AWS_EXECUTION_ENV", "AWS_Lambda_java8");
    let (region, memory) = (("AWS_REGION", "us-east-2"), ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"));
    let full = doc! { "name": "aws.lambda", "memory_mb": 1024, "region": "us-east-2" };
    let gcp =
        [("K_SERVICE", "servicename"), ("FUNCTION_MEMORY_MB", "1024"), ("FUNCTION_TIMEOUT_SEC", "60"), ("FUNCTION_REGION", "us-central1")];
    let cases: [(&[(&str, &str)], Document); 9] = [
        (&[lambda, region, memory], full.clone()),
        (&[("FUNCTIONS_WORKER_RUNTIME", "node")], doc! { "name": "azure.func" }),
        (&gcp, doc! { "name": "gcp.func", "timeout_sec": 60, "memory_mb": 1024, "region": "us-central1" }),
        (&[("VERCEL", "1"), ("VERCEL_REGION", "cdg1")], doc! { "name": "vercel", "region": "cdg1" }),
        (&[lambda, ("FUNCTIONS_WORKER_RUNTIME", "node")], doc! {}),
        (&[lambda, ("AWS_REGION", &long)], doc! { "name": "aws.lambda" }),
        (&[lambda, ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "big")], doc! { "name": "aws.lambda" }),
        (&[("AWS_EXECUTION_ENV", "EC2")], doc! {}),
        (&[lambda, region, memory, ("KUBERNETES_SERVICE_HOST", "1")], full),
    ];
    let names: Vec<&str> = cases.iter().flat_map(|(variables, _)| variables.iter().map(|(name, _)| *name)).collect();
    let greetings = Greetings::default();
    let peer = greetings.peer(standalone_hello()).await;
    for (variables, expected) in &cases {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mongolink"));
        command.args(["run", &format!("mongodb://{}/", peer.address()), "admin", "{\"ping\":1}"]).kill_on_drop(true);
        for name in names.iter().chain(&["AWS_LAMBDA_RUNTIME_API", "FUNCTION_NAME"]) {
            command.env_remove(name);
        }
        let output = in_time(command.envs(variables.iter().copied()).output()).await.expect("the program runs");
        assert!(output.status.success(), "{variables:?}: {}", String::from_utf8_lossy(&output.stderr));
        let mut env = greetings.last().get_document("env").cloned().unwrap_or_default();
        let container = env.remove("container");
        assert_eq!(&env, expected, "{variables:?}");
        if variables.contains(&("KUBERNETES_SERVICE_HOST", "1")) {
            let container = container.expect("both are told");
            assert_eq!(container.as_document().and_then(|container| container.get_str("orchestrator").ok()), Some("kubernetes"));
        }
    }
}
