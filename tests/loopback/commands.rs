//! Generic commands, from the call to the server.

use mongolink::bson::doc;
use mongolink::{Client, ReadPreference, Sandbox, ServerType};

use crate::support::{at_rest, in_time, ping, totals};

#[tokio::test]
async fn generic_command_ignores_the_clients_read_preference() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let client = Client::builder(sandbox.uri()).expect("options").read_preference(ReadPreference::secondary()).build().expect("client");
        for _ in 0..5 {
            let reply = client.database("admin").run_command(doc! { "ping": 1 }).raw().await.expect("ping");
            let kind = client.topology().server(reply.host()).expect("server").kind;
            assert_eq!(kind, ServerType::RsPrimary);
        }
    })
    .await;
}

/// Nothing is sent with moreToCome, so every command has a reply, and it is read.
#[tokio::test]
async fn write_without_acknowledgement_is_read_to_its_reply() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        for id in 0..5 {
            let insert = doc! { "insert": "things", "documents": [{ "_id": id }], "writeConcern": { "w": 0 } };
            let reply = client.database("test").run_command(insert).await.expect("a reply");
            assert_eq!(reply.get_f64("ok").ok(), Some(1.0), "{reply}");
            ping(&client).await.expect("the next reply is its own");
        }
        at_rest(&client).await;
        assert_eq!(totals(&client).created, 1, "one connection does for all");
    })
    .await;
}
