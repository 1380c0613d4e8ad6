//! server-selection and max-staleness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mongolink::bson::{Bson, doc};
use mongolink::{Client, CommandEvent, ErrorKind, Event, ReadPreference, ReadPreferenceMode, Sandbox, ServerAddress, ServerType};
use tokio::task::JoinSet;

use super::{event, settled};
use crate::peers::host_of;
use crate::support::{in_time, ping, until};

/// "Application-Provided Server Selector".
#[tokio::test]
async fn selector_chooses_the_server_of_every_read() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let client = Client::builder(sandbox.uri())
            .expect("uri")
            .local_threshold(Duration::from_secs(60))
            .server_selector(|topology, servers| {
                assert!(topology.servers().len() >= servers.len());
                if servers.len() > 1 {
                    let highest = servers.iter().map(|server| server.host.port()).max();
                    servers.retain(|server| Some(server.host.port()) == highest);
                }
            })
            .build()
            .expect("client");
        settled(&client, &sandbox).await;
        let highest = sandbox.addresses().iter().map(|address| address.port()).max().expect("members");
        for _ in 0..10 {
            let find = client.database("test").run_command(doc! { "find": "things" }).read_preference(ReadPreference::nearest());
            assert_eq!(find.raw().await.expect("found").host().port(), highest);
        }
    })
    .await;
}

#[tokio::test]
async fn servers_left_out_by_the_selector_are_named_by_the_refusal() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let client = Client::builder(sandbox.uri())
            .expect("uri")
            .server_selection_timeout(Duration::from_millis(500))
            .server_selector(|_, servers| servers.retain(|server| server.kind == ServerType::RsSecondary))
            .build()
            .expect("client");
        let error = ping(&client).await.expect_err("the primary may not have it");
        assert_eq!(error.kind(), ErrorKind::ServerSelection);
        assert!(error.to_string().contains("was excluded by the selector"), "{error}");
        let secondaries = client.database("test").run_command(doc! { "find": "things" }).read_preference(ReadPreference::nearest());
        secondaries.await.expect("a secondary may");
    })
    .await;
}

/// Finds of several callers side by side; returns how many each server answered.
async fn finds(client: &Client, callers: usize, each: usize) -> BTreeMap<ServerAddress, usize> {
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let client = client.clone();
        tasks.spawn(async move {
            let mut hosts = Vec::new();
            for _ in 0..each {
                let find = client.database("test").run_command(doc! { "find": "things", "limit": 1, "singleBatch": true });
                hosts.push(find.raw().await.expect("found").host().clone());
            }
            hosts
        });
    }
    let mut counts = BTreeMap::new();
    for host in tasks.join_all().await.into_iter().flatten() {
        *counts.entry(host).or_default() += 1;
    }
    counts
}

/// "operationCount-based selection within the latency window".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_mongos_gets_fewer_operations() {
    in_time(async {
        let slow = Sandbox::builder().mongos().start().await.expect("sandbox");
        let quick = Sandbox::builder().mongos().seed(1).start().await.expect("sandbox");
        let (slow_host, quick_host) = (host_of(slow.addresses()[0]), host_of(quick.addresses()[0]));
        let options = "appName=loadBalancingTest&localThresholdMS=30000&minPoolSize=10";
        let client = Client::new(format!("mongodb://{slow_host},{quick_host}/?{options}")).expect("client");
        ping(&client).await.expect("ping");
        until("both pools are filled", || {
            let stats = client.pool_stats();
            stats.len() == 2 && stats.iter().all(|(_, stats)| stats.idle >= 10)
        })
        .await;
        let data = doc! { "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 500, "appName": "loadBalancingTest" };
        slow.fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data }).expect("armed");
        let counts = finds(&client, 10, 10).await;
        assert!(counts.get(&slow_host).copied().unwrap_or(0) < 25, "{counts:?}");
        slow.fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": "off" }).expect("off");
        let counts = finds(&client, 10, 100).await;
        for host in [&slow_host, &quick_host] {
            assert!((400..=600).contains(&counts.get(host).copied().unwrap_or(0)), "{counts:?}");
        }
    })
    .await;
}

/// "Multi-threaded or asynchronous server selection": a waiter selects again when the topology changes, and
/// not when another operation ends.
#[tokio::test]
async fn ended_operations_wake_no_waiter_for_a_server() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let (looks, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, given) = (Arc::clone(&looks), Arc::clone(&taken));
        let client = Client::builder(sandbox.uri())
            .expect("uri")
            .heartbeat_frequency(Duration::from_secs(60))
            .server_selector(move |_, servers| {
                if servers.iter().any(|server| server.kind == ServerType::RsSecondary) {
                    counted.fetch_add(1, Ordering::SeqCst);
                    servers.retain(|_| given.load(Ordering::SeqCst));
                }
            })
            .build()
            .expect("client");
        settled(&client, &sandbox).await;
        let waiting = client.clone();
        let waiting = tokio::spawn(async move {
            waiting.database("test").run_command(doc! { "find": "things" }).read_preference(ReadPreference::secondary()).await
        });
        until("it has looked", || looks.load(Ordering::SeqCst) > 0).await;
        // The checks that it asked for are over then.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let before = looks.load(Ordering::SeqCst);
        for _ in 0..100 {
            ping(&client).await.expect("ping");
        }
        assert_eq!(looks.load(Ordering::SeqCst), before);
        taken.store(true, Ordering::SeqCst);
        sandbox.step_down().expect("step down");
        ping(&client).await.ok();
        waiting.await.expect("no panic").expect("a change of the topology woke it");
        assert!(looks.load(Ordering::SeqCst) > before);
    })
    .await;
}

/// "Passing read preference to mongos and load balancers", and max-staleness, "maxStalenessSeconds to mongos".
#[tokio::test]
async fn mongos_gets_every_read_preference_but_primary() {
    in_time(async {
        let mongos = Sandbox::builder().mongos().start().await.expect("sandbox");
        let client = Client::new(mongos.uri()).expect("client");
        ping(&client).await.expect("ping");
        assert_eq!(client.topology().servers().first().map(|server| server.kind), Some(ServerType::Mongos));
        let mut events = client.events();
        let mut sent = async |preference: ReadPreference| {
            let find = client.database("test").run_command(doc! { "find": "things" }).read_preference(preference);
            find.await.expect("found");
            let started = |event: &Event| {
                if let Event::Command(CommandEvent::Started { name, command, .. }) = event {
                    return Some(command.clone()).filter(|_| &**name == "find");
                }
                None
            };
            let command = event(&mut events, started).await;
            command.get_document("$readPreference").ok().map(|sent| mongolink::bson::Document::try_from(sent).expect("a document"))
        };
        let modes = [
            ReadPreferenceMode::Primary,
            ReadPreferenceMode::PrimaryPreferred,
            ReadPreferenceMode::Secondary,
            ReadPreferenceMode::SecondaryPreferred,
            ReadPreferenceMode::Nearest,
        ];
        for mode in modes {
            let expected = (mode != ReadPreferenceMode::Primary).then(|| doc! { "mode": mode.name() });
            assert_eq!(sent(ReadPreference::new(mode)).await, expected);
            if mode == ReadPreferenceMode::Primary {
                continue;
            }
            let tags = vec![vec![("dc".to_owned(), "ny".to_owned())], Vec::new()];
            let tagged = sent(ReadPreference::new(mode).with_tag_sets(tags)).await;
            assert_eq!(tagged, Some(doc! { "mode": mode.name(), "tags": [{ "dc": "ny" }, {}] }));
            // A limit that a replica set would refuse is the router's to judge.
            let stale = sent(ReadPreference::new(mode).with_max_staleness(Duration::from_secs(60))).await.expect("sent");
            assert!(matches!(stale.get("maxStalenessSeconds"), Some(Bson::Int32(60) | Bson::Int64(60))), "{stale}");
        }
    })
    .await;
}

/// max-staleness, "Smallest legal maxStalenessSeconds" and its neighbours: judged when a server is selected, not before.
#[tokio::test]
async fn limit_of_staleness_is_judged_at_selection() {
    in_time(async {
        let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
        let read = async |options: &str| {
            let client = Client::new(format!("{}&readPreference=secondaryPreferred&{options}", sandbox.uri())).expect("no error yet");
            let preference = client.options().read_preference.clone().expect("given");
            client.database("test").run_command(doc! { "find": "things" }).read_preference(preference).await.map(drop)
        };
        for (options, is_legal) in [
            ("maxStalenessSeconds=-1", true),
            ("maxStalenessSeconds=120", true),
            ("maxStalenessSeconds=90&heartbeatFrequencyMS=500", true),
            ("maxStalenessSeconds=1", false),
            ("maxStalenessSeconds=89&heartbeatFrequencyMS=500", false),
            ("maxStalenessSeconds=95&heartbeatFrequencyMS=90000", false),
        ] {
            match read(options).await {
                Ok(()) => assert!(is_legal, "{options}"),
                Err(error) => assert!(!is_legal && error.kind() == ErrorKind::InvalidOption, "{options}: {error}"),
            }
        }
    })
    .await;
}

/// max-staleness, "Parse lastWriteDate response".
#[tokio::test]
async fn last_write_date_is_known_and_advances() {
    in_time(async {
        let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
        let client = Arc::new(Client::new(format!("{}&heartbeatFrequencyMS=500", sandbox.uri())).expect("client"));
        let date = || client.topology().primary().and_then(|primary| primary.last_write_date_millis()).unwrap_or(0);
        let mut before = 0;
        for number in 0..2 {
            client.database("test").run_command(doc! { "insert": "things", "documents": [{ "_id": number }] }).await.expect("inserted");
            until("a later write is known of", || date() > before).await;
            before = date();
        }
    })
    .await;
}
