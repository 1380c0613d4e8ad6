//! Reads from the members of a set.

use mongolink::bson::{Document, doc};
use mongolink::{Client, ErrorKind, ReadPreference, ServerAddress, ServerType, TopologyType};

use crate::support::{CALL, Security, eventually, ping, with_set};

/// Names the members other than the primary.
fn secondaries(client: &Client) -> Vec<ServerAddress> {
    let topology = client.topology();
    topology.servers().iter().filter(|server| server.kind == ServerType::RsSecondary).map(|server| server.host.clone()).collect()
}

async fn insert(client: &Client, document: Document) -> mongolink::Result<Document> {
    client.database("live").run_command(doc! { "insert": "things", "documents": [document] }).timeout(CALL).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_where_the_read_preference_says() {
    with_set(Security::Open, async |set| {
        let client = set.root();
        let primary = set.settle(&client).await;
        insert(&client, doc! { "_id": 1 }).await.expect("inserted");
        let secondaries = secondaries(&client);
        let answers = async |preference: ReadPreference| {
            let find = client.database("live").run_command(doc! { "find": "things" }).read_preference(preference);
            find.timeout(CALL).raw().await.expect("a reply").host().clone()
        };
        for _ in 0..10 {
            assert_eq!(answers(ReadPreference::primary()).await, primary);
            assert_eq!(answers(ReadPreference::primary_preferred()).await, primary);
            assert!(secondaries.contains(&answers(ReadPreference::secondary()).await));
            assert!(secondaries.contains(&answers(ReadPreference::secondary_preferred()).await));
            assert!(set.hosts().contains(&answers(ReadPreference::nearest()).await));
        }
        for host in &secondaries {
            let reply = client.database("live").run_command(doc! { "count": "things" });
            let on_it = reply.read_preference(ReadPreference::secondary()).on_server(host.clone()).timeout(CALL).raw().await;
            assert_eq!(on_it.expect("a reply").host(), host);
        }
        client.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursor_stays_on_the_secondary_that_made_it() {
    with_set(Security::Open, async |set| {
        let client = set.root();
        set.settle(&client).await;
        for number in 0..50 {
            insert(&client, doc! { "_id": number }).await.expect("inserted");
        }
        let find = doc! { "find": "things", "batchSize": 5, "sort": { "_id": 1 } };
        // A secondary may lag behind what the majority has.
        eventually("all documents on a secondary", CALL, async || {
            let command =
                client.database("live").run_cursor_command(find.clone()).batch_size(5).read_preference(ReadPreference::secondary());
            let mut cursor = command.timeout(CALL).await.expect("a cursor");
            assert!(secondaries(&client).contains(cursor.host()));
            let mut found = 0;
            while let Some(document) = cursor.next().await {
                assert_eq!(document.expect("fetched"), doc! { "_id": found });
                found += 1;
            }
            found == 50
        })
        .await;
        client.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_connection_to_a_secondary_reads_and_does_not_write() {
    with_set(Security::Open, async |set| {
        let client = set.root();
        set.settle(&client).await;
        insert(&client, doc! { "_id": 1 }).await.expect("inserted");
        let secondary = secondaries(&client).first().expect("a secondary").clone();
        client.shutdown().await;

        let direct = set.direct(&secondary).build().expect("a client");
        ping(&direct).await.expect("a pong");
        let topology = direct.topology();
        assert_eq!(topology.kind(), TopologyType::Single);
        assert_eq!(
            topology.servers().iter().map(|server| (server.host.clone(), server.kind)).collect::<Vec<_>>(),
            [(secondary.clone(), ServerType::RsSecondary)]
        );
        eventually("the document on the secondary", CALL, async || {
            let find = direct.database("live").run_command(doc! { "find": "things" }).timeout(CALL).await.expect("it may be read");
            let batch = find.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).expect("a batch").len();
            batch == 1
        })
        .await;
        let error = insert(&direct, doc! { "_id": 2 }).await.expect_err("not writable");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(10107)), "{error}");
        assert_eq!(error.host(), Some(&secondary));
        direct.shutdown().await;
    })
    .await;
}
