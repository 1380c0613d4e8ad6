//! SRV connection strings: the seeds and options of the first look-up.
//!
//! The prose tests of initial-dns-seedlist-discovery by their numbers, and what it demands of the order of things: a
//! client, a zone, and a server that notes whether anybody came. The tests' cases of `localhost`, which never come from
//! DNS, stand in the unit tests of `dns::srv`.

use std::collections::BTreeSet;

use hickory_server::proto::rr::RecordType;
use mongolink::{Address, Client, ClientBuilder, Error, ErrorKind, ServerAddress, Stage};

use crate::peers::{Peer, closing};
use crate::support::in_time;
use crate::zone::Zone;

/// A zone, and a server behind every host that the tests name.
struct Scene {
    zone: Zone,
    server: Peer,
}

impl Scene {
    /// Names the targets of an SRV name.
    async fn start(name: &str, targets: &[(&str, u16)]) -> Self {
        let scene = Self { zone: Zone::start().await, server: closing().await };
        scene.zone.serve(&format!("_mongodb._tcp.{name}"), 60, targets).await;
        scene
    }

    fn builder(&self, uri: &str) -> ClientBuilder {
        Client::builder(uri).expect("a connection string").dns(self.zone.dns())
    }

    /// Starts a client, and returns its hosts; none of its names are looked up.
    async fn hosts(&self, uri: &str, targets: &[(&str, u16)]) -> Result<BTreeSet<ServerAddress>, Error> {
        let builder = targets.iter().fold(self.builder(uri), |builder, (target, port)| {
            builder.resolve(ServerAddress::new(target, *port).expect("a host"), Address::Ip(self.server.address()))
        });
        let client = builder.build()?;
        in_time(client.watch_topology()).await?;
        Ok(client.topology().servers().iter().map(|server| server.host.clone()).collect())
    }

    /// Starts a client that fails at stage `srv`, and checks that the server had no connection.
    async fn refusal(&self, uri: &str, targets: &[(&str, u16)]) -> Error {
        let error = self.hosts(uri, targets).await.expect_err(uri);
        assert_eq!(self.server.accepted(), 0, "connected before {error}");
        error
    }
}

fn keys(targets: &[(&str, u16)]) -> BTreeSet<ServerAddress> {
    targets.iter().map(|(target, port)| ServerAddress::new(target, *port).expect("a host")).collect()
}

/// Sees that a name may not bring a target.
async fn assert_refused(name: &str, target: &str) {
    let targets = [(target, 27017)];
    let scene = Scene::start(name, &targets).await;
    let error = scene.refusal(&format!("mongodb+srv://{name}/"), &targets).await;
    assert_eq!((error.kind(), error.stage()), (ErrorKind::DnsRule, Some(Stage::Srv)), "{error}");
    assert!(error.to_string().contains(target), "{error}");
}

#[tokio::test]
async fn prose_1_names_of_less_than_three_parts_are_accepted() {
    let targets = [("test_1.mongo.local", 27017)];
    let scene = Scene::start("mongo.local", &targets).await;
    // DNS is never asked for names below localhost (RFC 6761), which has no SRV records therefore: the name is not at fault.
    let error = scene.refusal("mongodb+srv://localhost/", &[]).await;
    assert_eq!((error.kind(), error.stage()), (ErrorKind::NoAddresses, Some(Stage::Srv)), "{error}");
    assert_eq!(scene.hosts("mongodb+srv://mongo.local/", &targets).await.expect("seeds"), keys(&targets));
}

#[tokio::test]
async fn prose_2_target_that_does_not_end_in_the_domain_is_refused() {
    assert_refused("mongo.local", "test_1.evil.local").await;
    assert_refused("blogs.mongodb.com", "blogs.evil.com").await;
}

#[tokio::test]
async fn prose_3_target_that_is_the_short_name_itself_is_refused() {
    assert_refused("mongo.local", "mongo.local").await;
}

#[tokio::test]
async fn prose_4_suffix_shared_without_the_dot_is_refused() {
    assert_refused("mongo.local", "test_1.my_hostmongo.local").await;
    assert_refused("blogs.mongodb.com", "cluster.testmongodb.com").await;
}

#[tokio::test]
async fn one_bad_target_refuses_the_whole_answer() {
    let targets = [("a.db.example.com", 27017), ("b.example.org", 27017)];
    let scene = Scene::start("cluster.db.example.com", &targets).await;
    let error = scene.refusal("mongodb+srv://cluster.db.example.com/", &targets).await;
    assert_eq!((error.kind(), error.stage()), (ErrorKind::DnsRule, Some(Stage::Srv)), "{error}");
}

#[tokio::test]
async fn text_record_is_judged_before_anything_is_connected() {
    let targets = [("a.db.example.com", 27017)];
    for (text, option) in [("replicaSet=rs0", "replicaSet"), ("loadBalanced=true", "loadBalanced")] {
        let scene = Scene::start("cluster.db.example.com", &targets).await;
        scene.zone.tell("cluster.db.example.com", &[&[text]]).await;
        let error = scene.refusal("mongodb+srv://cluster.db.example.com/?srvMaxHosts=1", &targets).await;
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.to_string().contains("srvMaxHosts") && error.to_string().contains(option), "{error}");
    }
}

#[tokio::test]
async fn text_record_never_turns_tls_off() {
    let targets = [("a.db.example.com", 27017)];
    let scene = Scene::start("cluster.db.example.com", &targets).await;
    for option in ["ssl=false", "tls=false"] {
        scene.zone.tell("cluster.db.example.com", &[&[option]]).await;
        let error = scene.refusal("mongodb+srv://cluster.db.example.com/", &targets).await;
        assert_eq!((error.kind(), error.stage()), (ErrorKind::DnsRule, Some(Stage::Srv)), "{error}");
    }
}

#[test]
fn tls_is_on_until_string_or_code_turns_it_off() {
    let built = |uri: &str, code: Option<bool>| {
        let builder = Client::builder(uri).expect("a connection string");
        let client = code.into_iter().fold(builder, |builder, tls| builder.tls(tls)).build().expect("a client");
        client.options().tls_or_default()
    };
    assert!(built("mongodb+srv://cluster.db.example.com/", None));
    assert!(!built("mongodb+srv://cluster.db.example.com/?tls=false", None));
    assert!(!built("mongodb+srv://cluster.db.example.com/?ssl=false", None));
    assert!(!built("mongodb+srv://cluster.db.example.com/", Some(false)));
}

#[tokio::test]
async fn string_and_code_win_over_the_text_record() {
    let (name, targets) = ("cluster.db.example.com", [("a.db.example.com", 27017)]);
    let scene = Scene::start(name, &targets).await;
    scene.zone.tell(name, &[&["replicaSet=theirs"]]).await;
    let target = ServerAddress::new("a.db.example.com", 27017).expect("a host");
    let in_string = scene.builder(&format!("mongodb+srv://{name}/?replicaSet=mine"));
    let in_code = scene.builder(&format!("mongodb+srv://{name}/")).replica_set("mine");
    for builder in [in_string, in_code] {
        let client = builder.resolve(target.clone(), Address::Ip(scene.server.address())).build().expect("a client");
        in_time(client.watch_topology()).await.expect("started");
        assert_eq!(client.topology().set_name(), Some("mine"));
    }
}

#[tokio::test]
async fn second_text_record_is_refused() {
    let targets = [("a.db.example.com", 27017)];
    let scene = Scene::start("cluster.db.example.com", &targets).await;
    scene.zone.tell("cluster.db.example.com", &[&["replicaSet=rs0"], &["authSource=there"]]).await;
    let error = scene.refusal("mongodb+srv://cluster.db.example.com/", &targets).await;
    assert_eq!((error.kind(), error.stage()), (ErrorKind::DnsRule, Some(Stage::Srv)), "{error}");
}

#[tokio::test]
async fn strings_of_a_text_record_belong_together() {
    let targets = [("a.db.example.com", 27017)];
    let scene = Scene::start("cluster.db.example.com", &targets).await;
    scene.zone.tell("cluster.db.example.com", &[&["replica", "Set=r", "s7"]]).await;
    let client = scene
        .builder("mongodb+srv://cluster.db.example.com/")
        .resolve(ServerAddress::new("a.db.example.com", 27017).expect("a host"), Address::Ip(scene.server.address()))
        .build()
        .expect("a client");
    in_time(client.watch_topology()).await.expect("started");
    assert_eq!(client.topology().set_name(), Some("rs7"));
}

#[tokio::test]
async fn port_and_second_host_are_refused_without_a_question() {
    let zone = Zone::start().await;
    for uri in ["mongodb+srv://cluster.db.example.com:27017/", "mongodb+srv://cluster.db.example.com,b.db.example.com/"] {
        let built = Client::builder(uri).and_then(|builder| builder.dns(zone.dns()).build());
        let error = built.expect_err(uri);
        assert_eq!(error.stage(), Some(Stage::Uri), "{error}");
    }
    assert_eq!(zone.questions(), []);
}

#[tokio::test]
async fn services_and_texts_are_all_that_is_asked_for_and_all_priorities_count() {
    // The zone gives every record another priority and weight.
    let targets = [("a.db.example.com", 27017), ("a.db.example.com", 27018), ("b.db.example.com", 27017)];
    let scene = Scene::start("cluster.db.example.com", &targets).await;
    let hosts = scene.hosts("mongodb+srv://cluster.db.example.com/", &targets).await.expect("seeds");
    assert_eq!(hosts, keys(&targets));
    let asked =
        [("_mongodb._tcp.cluster.db.example.com.".to_owned(), RecordType::SRV), ("cluster.db.example.com.".to_owned(), RecordType::TXT)];
    assert_eq!(scene.zone.questions(), asked);
}
