//! Functions that all live tests share.

mod authority;
mod folder;
mod replica_set;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongolink::bson::{Document, doc};
use mongolink::{Client, Error, TopologyDescription};

pub(crate) use authority::{Authority, CLIENT_SUBJECT};
pub(crate) use folder::Folder;
pub(crate) use replica_set::{MEMBERS, NAME, ROOT, ReplicaSet, Security, User, with_set};
pub(crate) use server::Server;

/// A bound that only a hang breaks, for one call.
pub(crate) const CALL: Duration = Duration::from_secs(20);

/// A bound that only a hang breaks, for a change of the servers' states.
pub(crate) const CHANGE: Duration = Duration::from_secs(60);

/// A bound that only a hang breaks, for a whole test.
pub(crate) const TEST: Duration = Duration::from_secs(180);

/// Returns the path in a variable; without one the test is skipped, or fails where everything must run.
fn program(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty());
    if path.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{variable} is not set");
        println!("SKIPPED: {variable} is not set");
    }
    path.map(PathBuf::from)
}

/// Finds mongod.
pub(crate) fn mongod() -> Option<PathBuf> {
    program("MONGOLINK_MONGOD")
}

/// Finds SecantusDB.
pub(crate) fn secantus() -> Option<PathBuf> {
    program("MONGOLINK_SECANTUS")
}

/// Fails a test that hangs.
pub(crate) async fn within<T>(limit: Duration, scenario: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, scenario).await.expect("hangs")
}

/// Waits until something holds; fails if it does not within the limit.
pub(crate) async fn eventually(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until what the client knows of the servers meets a condition.
pub(crate) async fn view(client: &Client, what: &str, meets: impl Fn(&TopologyDescription) -> bool) -> Arc<TopologyDescription> {
    let mut watch = client.watch_topology().await.expect("the client starts");
    let search = async {
        loop {
            let now = watch.next().await.expect("the client runs");
            if meets(&now) {
                return now;
            }
        }
    };
    match tokio::time::timeout(CHANGE, search).await {
        Ok(found) => found,
        Err(_) => panic!("not within {CHANGE:?}: {what}; known is {}", client.topology()),
    }
}

/// Pings the primary.
pub(crate) async fn ping(client: &Client) -> Result<Document, Error> {
    client.database("admin").run_command(doc! { "ping": 1 }).timeout(CALL).await
}

/// Asks the server for the user that is logged in.
pub(crate) async fn who_am_i(client: &Client) -> Option<String> {
    let reply = client.database("admin").run_command(doc! { "connectionStatus": 1 }).timeout(CALL).await.expect("a status");
    let users = reply.get_document("authInfo").and_then(|info| info.get_array("authenticatedUsers")).expect("a list of users");
    let user = users.first()?.as_document()?;
    user.get_str("user").ok().map(str::to_owned)
}

/// Creates a user on a database.
pub(crate) async fn create_user(client: &Client, database: &str, user: Document) {
    client.database(database).run_command(user).timeout(CALL).await.expect("the user is created");
}
