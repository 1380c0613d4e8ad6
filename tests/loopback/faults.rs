//! Four faults that jam other drivers, and that they don't happen here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mongolink::bson::doc;
use mongolink::{Client, Sandbox};
use tokio::task::JoinSet;

use crate::support::{LONG, Names, Proxy, Treatment, at_rest, in_time, ping, totals, until};

/// Callers that time out while the server is frozen don't jam the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_server_is_back_at_full_rate() {
    in_time(async {
        let sandbox = Arc::new(Sandbox::builder().standalone().start().await.expect("sandbox"));
        let client = Client::new(format!("mongodb://{}/?maxPoolSize=10", sandbox.addresses()[0])).expect("client");
        client.warm_up().await.expect("warm");
        let (answered, given_up) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut callers = JoinSet::new();
        let (stall, thaw, end) = (Duration::from_millis(500), Duration::from_millis(5500), Duration::from_millis(9500));
        let began = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        let (mut frozen, mut at_thaw) = (false, None);
        while began.elapsed() < end {
            ticks.tick().await;
            if !frozen && began.elapsed() > stall {
                sandbox.freeze(0);
                frozen = true;
            }
            if at_thaw.is_none() && began.elapsed() > thaw {
                sandbox.thaw(0);
                at_thaw = Some((answered.load(Ordering::SeqCst), given_up.load(Ordering::SeqCst)));
            }
            let (client, answered, given_up) = (client.clone(), Arc::clone(&answered), Arc::clone(&given_up));
            callers.spawn(async move {
                match tokio::time::timeout(Duration::from_secs(1), ping(&client)).await {
                    Ok(Ok(_)) => answered.fetch_add(1, Ordering::SeqCst),
                    Ok(Err(_)) | Err(_) => given_up.fetch_add(1, Ordering::SeqCst),
                };
            });
            while callers.try_join_next().is_some() {}
        }
        while callers.join_next().await.is_some() {}
        let (before, given_up_before) = at_thaw.expect("thawed");
        let since = answered.load(Ordering::SeqCst) - before;
        let lost = given_up.load(Ordering::SeqCst) - given_up_before;
        assert!(given_up_before > 1000, "callers gave up while it stood still: {given_up_before}");
        assert!(since > 4 * lost, "answered {since}, lost {lost} after the server was back");
        for _ in 0..100 {
            tokio::time::timeout(Duration::from_secs(1), ping(&client)).await.expect("in time").expect("ping");
        }
        at_rest(&client).await;
    })
    .await;
}

/// DNS that takes three seconds delays the first call by three seconds, with any connect time-out.
#[tokio::test]
async fn slow_dns_never_eats_the_connect_timer() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let port = sandbox.addresses()[0].port();
        for limit in [1000, 10_000] {
            let names = Names::after(Duration::from_secs(3));
            let client = Client::builder(format!("mongodb://db.test:{port}/?connectTimeoutMS={limit}"))
                .expect("uri")
                .resolver(names.clone())
                .build()
                .expect("client");
            let began = Instant::now();
            ping(&client).await.expect("ping");
            assert!(began.elapsed() < Duration::from_millis(5500), "two look-ups in a row: {:?}", began.elapsed());
            assert_eq!(names.asked(), 1);
        }
    })
    .await;
}

/// Two dials that meet silence are given up after the connect time-out; the pool then grows as it should.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_dials_never_hold_the_pool() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        sandbox
            .fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 20 } })
            .expect("fail point");
        // The monitor's two connections and the pool's first pass, the next two meet silence.
        let proxy = Proxy::new(sandbox.addresses()[0], |number| if (3..5).contains(&number) { Treatment::Silence } else { Treatment::Pass }).await;
        let client = Client::new(format!("mongodb://{}/?maxPoolSize=20&connectTimeoutMS=2000", proxy.address)).expect("client");
        client.warm_up().await.expect("warm");
        until("the measuring connection is open", || sandbox.connections(0) == 3).await;
        let stop = Instant::now() + Duration::from_secs(6);
        let mut callers = JoinSet::new();
        for _ in 0..40 {
            let client = client.clone();
            callers.spawn(async move {
                let mut last = Vec::new();
                while Instant::now() < stop {
                    match ping(&client).await {
                        Ok(_) => last.push(Instant::now()),
                        Err(error) => assert!(error.is_timeout() || error.has_label("RetryableError"), "{error}"),
                    }
                }
                last
            });
        }
        let mut done = Vec::new();
        while let Some(outcome) = callers.join_next().await {
            done.extend(outcome.expect("task"));
        }
        let stats = totals(&client);
        assert_eq!(stats.idle, 20, "the pool reached its size: {stats:?}");
        let late = done.iter().filter(|at| **at > stop - Duration::from_secs(2)).count();
        assert!(late > 600, "with 20 connections and 20 ms a ping 2000 are possible in 2 s, one connection does 100: {late}");
    })
    .await;
}

/// A cancelled command does not cost its connection: the late reply is read and dropped.
#[tokio::test]
async fn cancelled_commands_cost_no_connections() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let client = Client::new(format!("mongodb://{}/", sandbox.addresses()[0])).expect("client");
        ping(&client).await.expect("ping");
        sandbox
            .fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": { "times": 50 }, "data": { "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 100 } })
            .expect("fail point");
        for _ in 0..50 {
            let find = async { client.database("test").run_command(doc! { "find": "things" }).await };
            tokio::time::timeout(Duration::from_millis(10), find).await.expect_err("given up");
        }
        at_rest(&client).await;
        let stats = totals(&client);
        assert_eq!(stats.closed, 0, "{stats:?}");
        assert_eq!(stats.idle as u64, stats.created);
        let created = stats.created;
        for _ in 0..50 {
            ping(&client).await.expect("ping");
        }
        assert_eq!(totals(&client).created, created, "all are used again");
        tokio::time::timeout(LONG, client.shutdown()).await.expect("ends");
    })
    .await;
}
