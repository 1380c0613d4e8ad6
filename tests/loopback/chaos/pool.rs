//! Pools without a free connection.

use std::time::Duration;

use mongolink::bson::doc;
use mongolink::{ErrorKind, LimitValue, Sandbox, Stage};

use super::{Guest, PATIENT, assert_limit, assert_told, soon};
use crate::peers;
use crate::support::{at_rest, ping, totals, until};

#[tokio::test]
async fn exhausted_pool_tells_its_counts_and_the_limit() {
    let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
    let slow = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 1 },
        "data": { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 1500 },
    };
    let address = sandbox.addresses()[0];
    let guest = Guest::new(address, PATIENT, "maxPoolSize=1&waitQueueTimeoutMS=100");
    soon("a connection", guest.client.warm_up()).await.expect("a connection");
    sandbox.fail_point(0, &slow).expect("a fail point");
    let second = async {
        until("the first has the connection", || totals(&guest.client).in_use == 1).await;
        ping(&guest.client).await
    };
    let (first, second) = soon("both", async { tokio::join!(ping(&guest.client), second) }).await;
    first.expect("the first is answered late");
    let error = second.expect_err("no connection is left");
    let counts = "of 1 connections 1 are in use, 0 opening, 0 waiting for late replies; 1 callers wait";
    assert_told(&error, ErrorKind::Timeout, Stage::Checkout, &peers::host_of(address), counts);
    assert_limit(&error, "waitQueueTimeoutMS", LimitValue::Time(Duration::from_millis(100)));
    assert!(error.is_timeout() && !error.is_network(), "{error}");
    at_rest(&guest.client).await;
    guest.ping().await.expect("the connection is free again");
    assert_eq!(totals(&guest.client).created, 1);
    guest.end().await;
}
