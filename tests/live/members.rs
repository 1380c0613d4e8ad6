//! Faults between the client and one member of a set.
//!
//! The members' names in the set's configuration are the proxies' addresses, so that all connections go through them, the other
//! member included. Only the first may become primary, and it needs no other's vote: what changes is the network alone.

use std::path::Path;
use std::time::Instant;

use mongolink::bson::doc;
use mongolink::{Client, ReadPreference, ServerType};

use crate::LASTS;
use crate::load::{Load, insert_things};
use crate::proxy::{Flow, Links, Proxy, Rules};
use crate::site::{Census, Guests, POOL, alone, descriptors};
use crate::support::{CALL, NAME, Server, view};

/// How many callers each member has.
const CALLERS: usize = 15;

/// Two members, each behind a proxy, and their client.
struct Pair {
    client: Client,
    primary: Proxy,
    secondary: Proxy,
    _servers: [Server; 2],
    census: Census,
}

impl Pair {
    async fn start(program: &Path) -> Self {
        let further = ["--replSet", NAME].map(str::to_owned);
        let (one, other) = tokio::join!(Server::mongod(program, &further), Server::mongod(program, &further));
        let behind = async |server: &Server| Proxy::new(server.address()).await;
        let (primary, secondary) = (behind(&one).await, behind(&other).await);
        let members = [
            doc! { "_id": 0, "host": primary.address().to_string() },
            doc! { "_id": 1, "host": secondary.address().to_string(), "priority": 0, "votes": 0 },
        ];
        let settings = doc! { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 500 };
        let config = doc! { "_id": NAME, "members": members.to_vec(), "settings": settings };
        let fewer = descriptors(&[&primary, &secondary]);
        let first = Client::new(format!("mongodb://{}/?directConnection=true", primary.address())).expect("a client");
        first.database("admin").run_command(doc! { "replSetInitiate": config }).timeout(CALL).await.expect("initiated");
        first.shutdown().await;

        let uri = format!("mongodb://{},{}/?replicaSet={NAME}", primary.address(), secondary.address());
        let client = Client::builder(uri).expect("a connection string").max_pool_size(POOL).build().expect("a client");
        view(&client, "a primary and a secondary", |topology| {
            let is = |kind: ServerType| topology.servers().iter().any(|server| server.kind == kind);
            is(ServerType::RsPrimary) && is(ServerType::RsSecondary)
        })
        .await;
        insert_things(&client, 2).await;
        let census = Census::take(&client, fewer, &[&primary, &secondary], Guests::Everybody).await;
        Self { client, primary, secondary, _servers: [one, other], census }
    }

    /// Lets one member's network be hurt, and sees that the callers of the other notice nothing.
    async fn endure(&self, hurt: &Proxy, preference: ReadPreference, others: ReadPreference, rules: Rules) {
        let load = Load::start(&self.client, CALLERS, preference);
        let untouched = Load::start(&self.client, CALLERS, others);
        let before = load.rate(&untouched).await;
        hurt.set(rules);
        tokio::time::sleep(LASTS).await;
        hurt.set(Rules::default());
        load.is_back(before, Instant::now(), &untouched).await;
        assert!(load.end().await > 0, "calls failed");
        assert_eq!(untouched.end().await, 0, "the other member was well");
    }
}

/// Runs faults of one member after the other.
fn each_member_survives(rules: Rules) {
    alone(async |program| {
        let pair = Pair::start(program).await;
        let [primary, secondary] = [ReadPreference::primary, ReadPreference::secondary];
        pair.endure(&pair.primary, primary(), secondary(), rules).await;
        pair.endure(&pair.secondary, secondary(), primary(), rules).await;
        pair.census.compare(&pair.client, &[&pair.primary, &pair.secondary]).await;
    });
}

#[test]
fn member_whose_links_are_reset() {
    each_member_survives(Rules::links(Links::Reset));
}

#[test]
fn member_that_is_frozen() {
    each_member_survives(Rules::both(Flow::Frozen));
}

#[test]
fn member_that_closes_its_half() {
    each_member_survives(Rules::down(Flow::HalfClosed));
}
