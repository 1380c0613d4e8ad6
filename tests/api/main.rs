//! The public API as a dependant sees it: which bounds its types and futures have.
//!
//! It compiles without the feature `internals`. A bound that is lost fails to compile.

use std::fmt::Debug;
use std::time::Duration;

use mongolink::bson::{Document, doc};
use mongolink::{Client, ClientBuilder, ClientOptions, ConnectionString, Reply, ServerAddress};

fn shared<T: Send + Sync + 'static>() {}
fn printed<T: Debug>() {}
fn owned_future<F: Future + Send + 'static>(future: F) {
    drop(future);
}

fn client() -> Client {
    Client::new("mongodb://localhost").expect("a client")
}

macro_rules! all_shared {
    ($($kind:ty),* $(,)?) => {
        $(shared::<$kind>(); printed::<$kind>();)*
    };
}

#[test]
fn public_types_are_send_and_sync_and_have_debug() {
    all_shared! {
        Client, ClientBuilder, ClientOptions, ConnectionString, Reply, ServerAddress,
        mongolink::Address, mongolink::CheckOutFailure, mongolink::CloseReason, mongolink::CommandEvent, mongolink::CommandFailure,
        mongolink::Credential, mongolink::Cursor<Document>, mongolink::Database,
        mongolink::DnsConfig, mongolink::DriverInfo, mongolink::Error, mongolink::ErrorKind, mongolink::Event, mongolink::Events,
        mongolink::HelloReply, mongolink::Host, mongolink::Ineligible, mongolink::Limit, mongolink::LimitValue, mongolink::Mechanism,
        mongolink::MonitorEvent, mongolink::PoolConfig, mongolink::PoolEvent, mongolink::PoolStats, mongolink::Probe,
        mongolink::ReadConcern, mongolink::ReadPreference, mongolink::ReadPreferenceMode, mongolink::RunCommand<Document>,
        mongolink::RunCursorCommand<Document>, mongolink::Secret, mongolink::ServerDescription, mongolink::ServerMonitoringMode,
        mongolink::ServerReason, mongolink::ServerSelector, mongolink::ServerType, mongolink::Stage, mongolink::StageReport,
        mongolink::TagSet, mongolink::TopologyDescription, mongolink::TopologyEvent, mongolink::TopologyType,
        mongolink::TopologyVersion, mongolink::TopologyWatch, mongolink::TryNext<Document>, mongolink::UnusableHost,
        mongolink::W, mongolink::Warning, mongolink::WriteConcern, mongolink::WriteConcernFailure, mongolink::WriteError,
    }
    printed::<mongolink::CommandFuture<Document>>();
    #[cfg(feature = "sandbox")]
    all_shared!(mongolink::Sandbox, mongolink::SandboxBuilder);
}

/// Only the calls on a cursor borrow: the cursor itself.
#[test]
fn futures_can_be_spawned_when_the_client_they_came_from_is_gone() {
    let database = client().database("test");
    owned_future(database.run_command(doc! { "ping": 1 }).into_future());
    owned_future(database.run_command(doc! { "ping": 1 }).raw().into_future());
    owned_future(database.run_cursor_command(doc! { "find": "things" }).into_future());
    let host = ServerAddress::parse("localhost").expect("a host");
    owned_future(client().watch_topology());
    owned_future(client().warm_up());
    owned_future(client().probe(&host));
    owned_future(client().shutdown());
    owned_future(client().shutdown_within(Duration::from_secs(1)));
    #[cfg(feature = "sandbox")]
    owned_future(mongolink::Sandbox::builder().start());
}

#[test]
fn a_changed_connection_string_makes_a_client() {
    let mut given = ConnectionString::parse("mongodb://ann:pencil@db.example/?maxPoolSize=5&colour=red").expect("readable");
    given.options.app_name = Some("example".to_owned());
    let client = ClientBuilder::from(given.clone()).build().expect("a client");
    assert_eq!(client.options().app_name.as_deref(), Some("example"));
    assert!(client.warnings().iter().any(|warning| warning.option == "number 2"), "{:?}", client.warnings());

    let client = Client::with_options(ClientOptions::from(given)).expect("a client");
    assert_eq!((client.options().max_pool_size, client.options().hosts.len()), (Some(5), 1));
    assert!(client.warnings().iter().all(|warning| warning.option != "number 2"), "{:?}", client.warnings());

    let mut contradictory = ClientOptions::default();
    contradictory.hosts = vec![ServerAddress::parse("a").expect("a host"), ServerAddress::parse("b").expect("a host")];
    contradictory.direct_connection = Some(true);
    let error = Client::with_options(contradictory).expect_err("two hosts");
    assert_eq!(error.kind(), mongolink::ErrorKind::InvalidOption, "{error}");
}
