//! The client against SecantusDB, an implementation of the protocol that shares no code with mongod.

use mongolink::bson::{RawDocumentBuf, doc, rawdoc};
use mongolink::{Client, Error, ErrorKind, Mechanism, Secret, Stage, TopologyType};

use crate::support::{CALL, Server, TEST, User, create_user, ping, secantus, who_am_i, within};

const USER: User = User { name: "reader", password: "a word for SecantusDB", mechanisms: &[Mechanism::ScramSha256] };

/// How many documents are inserted.
const DOCUMENTS: i32 = 250;

/// Returns the connection string: it calls itself a replica set of one.
fn uri(server: &Server) -> String {
    format!("mongodb://{}/?replicaSet=secantus", server.address())
}

/// Inserts documents and finds them again, in batches.
async fn insert_and_find(client: &Client) {
    let documents: Vec<RawDocumentBuf> = (0..DOCUMENTS).map(|number| rawdoc! { "_id": number, "square": number * number }).collect();
    let database = client.database("live");
    let insert = database.run_command(doc! { "insert": "numbers" }).documents("documents", documents);
    let reply = insert.timeout(CALL).await.expect("inserted");
    assert_eq!(reply.get_i32("n").ok(), Some(DOCUMENTS), "{reply}");
    let find = doc! { "find": "numbers", "filter": { "_id": { "$gte": 50 } }, "sort": { "_id": 1 }, "batchSize": 20 };
    let mut cursor = database.run_cursor_command(find).batch_size(20).timeout(CALL).await.expect("a cursor");
    for number in 50..DOCUMENTS {
        let document = cursor.next().await.expect("another document").expect("fetched");
        assert_eq!(document, doc! { "_id": number, "square": number * number });
    }
    assert!(cursor.next().await.is_none(), "the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn secantus_is_found_and_keeps_documents() {
    let Some(program) = secantus() else { return };
    within(TEST, async {
        let server = Server::secantus(&program).await;
        let client = Client::new(uri(&server)).expect("a client");
        ping(&client).await.expect("a pong");
        let topology = client.topology();
        assert_eq!((topology.kind(), topology.set_name()), (TopologyType::ReplicaSetWithPrimary, Some("secantus")));
        insert_and_find(&client).await;
        let error = client.database("live").run_command(doc! { "brewCoffee": 1 }).timeout(CALL).await.expect_err("refused");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(59)), "{error}");
        client.shutdown().await;
        assert_eq!(client.task_count(), 0, "nothing is left of the client");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_logs_in_to_secantus_with_scram_sha_256() {
    let Some(program) = secantus() else { return };
    within(TEST, async {
        let mut server = Server::secantus(&program).await;
        let client = Client::new(uri(&server)).expect("a client");
        create_user(&client, "admin", USER.to_command()).await;
        client.shutdown().await;
        server.terminate().await;
        server.restart(&["--auth"]).await;

        let builder = || Client::builder(uri(&server)).expect("a connection string").username(USER.name);
        for mechanism in [None, Some(Mechanism::ScramSha256)] {
            let builder = builder().password(Secret::new(USER.password));
            let builder = if let Some(mechanism) = mechanism { builder.auth_mechanism(mechanism) } else { builder };
            let client = builder.build().expect("a client");
            assert_eq!(who_am_i(&client).await.as_deref(), Some(USER.name));
            client.shutdown().await;
        }

        let client = builder().password(Secret::new(USER.password)).build().expect("a client");
        insert_and_find(&client).await;
        client.shutdown().await;

        let client = builder().password(Secret::new("not the word at all")).build().expect("a client");
        let error: Error = ping(&client).await.expect_err("refused");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::Auth, Some(Stage::Auth)), "{error}");
        assert!(!format!("{error} {error:?}").contains("not the word at all"), "{error}");
        client.shutdown().await;

        let client = Client::new(uri(&server)).expect("a client");
        let error = client.database("live").run_command(doc! { "find": "numbers" }).timeout(CALL).await.expect_err("refused");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(13)), "{error}");
        client.shutdown().await;
    })
    .await;
}
