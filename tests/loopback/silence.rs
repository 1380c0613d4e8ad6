//! Servers that are frozen, and servers that only seem to be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mongolink::bson::oid::ObjectId;
use mongolink::bson::{Document, doc};
use mongolink::wire::{Decoder, MESSAGE_SIZE_MAX};
use mongolink::{Client, Error, ErrorKind, Sandbox, ServerAddress, ServerType};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::peers::{self, Peer};
use crate::support::{in_time, ping, until};

/// By far longer than a deposed primary may be silent, by far shorter than its monitor would wait.
const SOON: Duration = Duration::from_secs(8);

/// How long a command on a living server is watched: it would have been interrupted by then.
const WATCHED: Duration = Duration::from_secs(4);

fn primary_of(client: &Client) -> Option<ServerAddress> {
    client.topology().primary().map(|primary| primary.host.clone())
}

/// The error of a command that was in flight on a silent server.
fn assert_interrupted(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    assert!(error.labels().is_empty() && error.is_network(), "it was sent: {error:?}");
    assert!(error.may_have_executed(), "{error:?}");
    let cause = error.underlying().and_then(|source| source.downcast_ref::<Error>()).expect("a cause");
    assert_eq!((cause.kind(), cause.limit().map(|limit| limit.name)), (ErrorKind::Silent, Some("LIVENESS_LIMIT")), "{error}");
    assert_eq!(cause.host(), error.host());
}

#[tokio::test]
async fn commands_on_a_deposed_and_frozen_primary_end_at_once() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        client.warm_up().await.expect("warm");
        until("all members are known", || client.topology().servers().iter().all(|server| server.is_known())).await;
        let (frozen, old) = (sandbox.primary().expect("primary"), primary_of(&client).expect("primary"));
        sandbox.freeze(frozen);
        let mut calls = JoinSet::new();
        for _ in 0..3 {
            let client = client.clone();
            calls.spawn(async move { ping(&client).await });
        }
        until("they are in flight", || client.pool_stats().iter().any(|(_, stats)| stats.in_use + stats.opening >= 1 && stats.waiting < 3))
            .await;
        sandbox.elect((frozen + 1) % 3).expect("a majority runs");
        let began = Instant::now();
        let mut interrupted = 0;
        while let Some(outcome) = calls.join_next().await {
            let error = outcome.expect("no panic").expect_err("nobody answered");
            // Waiters for a connection fail because the pool was cleared.
            if error.kind() != ErrorKind::PoolCleared {
                assert_interrupted(&error);
                interrupted += 1;
            }
        }
        assert!(interrupted >= 1 && began.elapsed() < SOON, "{interrupted} interrupted after {:?}", began.elapsed());
        let reason = client.topology().server(&old).and_then(|server| server.error.clone()).expect("unknown, with a reason");
        assert_eq!((reason.kind(), reason.host()), (ErrorKind::Silent, Some(&old)), "{reason}");
        ping(&client).await.expect("the new primary serves");

        sandbox.thaw(frozen);
        until("it is known again", || client.topology().server(&old).is_some_and(|server| server.kind == ServerType::RsSecondary)).await;
        client.shutdown().await;
        assert_eq!(client.task_count(), 0);
    })
    .await;
}

/// A set with a command in flight on a secondary that is then taken out of it.
struct Removed {
    sandbox: Sandbox,
    client: Client,
    member: usize,
    host: ServerAddress,
    call: tokio::task::JoinHandle<mongolink::Result<Document>>,
}

impl Removed {
    /// `hold` keeps the member from answering commands.
    async fn after(hold: impl FnOnce(&Sandbox, usize)) -> Self {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let member = (sandbox.primary().expect("primary") + 1) % 3;
        let host = ServerAddress::parse(&sandbox.hosts()[member]).expect("host");
        // The limit of a monitor's check is far away.
        let client = Client::new(format!("{}&connectTimeoutMS=60000", sandbox.uri())).expect("client");
        client.warm_up().await.expect("warm");
        until("all members are known", || client.topology().servers().iter().all(|server| server.is_known())).await;
        let ping = client.database("admin").run_command(doc! { "ping": 1 }).on_server(host.clone());
        ping.await.expect("it answers");
        hold(&sandbox, member);
        let (calling, to) = (client.clone(), host.clone());
        let call = tokio::spawn(async move { calling.database("admin").run_command(doc! { "ping": 1 }).on_server(to).await });
        let in_use = || client.pool_stats().iter().any(|(key, stats)| *key == host && stats.in_use == 1);
        until("it is in flight", in_use).await;
        sandbox.remove(member).expect("it is no primary");
        until("it has left", || client.topology().server(&host).is_none()).await;
        Self { sandbox, client, member, host, call }
    }
}

#[tokio::test]
async fn commands_on_a_removed_and_frozen_member_end_at_once() {
    in_time(async {
        let removed = Removed::after(|sandbox, member| sandbox.freeze(member)).await;
        let error = tokio::time::timeout(SOON, removed.call).await.expect("soon").expect("no panic").expect_err("nobody answers");
        assert_interrupted(&error);
        assert_eq!(error.host(), Some(&removed.host));
        assert!(removed.client.topology().server(&removed.host).is_none() && removed.sandbox.connections(removed.member) > 0);
        ping(&removed.client).await.expect("the primary serves");
        removed.client.shutdown().await;
        assert_eq!(removed.client.task_count(), 0);
    })
    .await;
}

#[tokio::test]
async fn command_on_a_removed_member_that_lives_runs_on() {
    in_time(async {
        let block = doc! { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 4000 };
        let block = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": block };
        let removed = Removed::after(|sandbox, member| sandbox.fail_point(member, &block).expect("armed")).await;
        removed.call.await.expect("no panic").expect("answered in its own time");
        removed.client.shutdown().await;
        assert_eq!(removed.client.task_count(), 0);
    })
    .await;
}

/// Two members of tests' own: `old`, the first primary, and `new`, the second. The old one's monitor hears no more from it once
/// it is deposed.
struct Pair {
    old: Peer,
    _new: Peer,
    deposed: Arc<AtomicBool>,
    client: Client,
}

/// What the old primary does once it is deposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It answers hello and commands.
    Greets,
    /// It has no time for new connections; its reply comes byte by byte.
    Trickles,
    /// It says nothing any more.
    Silent,
}

impl Pair {
    async fn start(manner: Manner) -> Self {
        let deposed = Arc::<AtomicBool>::default();
        // Each needs to know the other's name before it has a port.
        let names = Arc::<std::sync::OnceLock<[String; 2]>>::default();
        let start = async |number: usize| {
            let (deposed, names) = (Arc::clone(&deposed), Arc::clone(&names));
            Peer::start(move |tcp| member(tcp, number, manner, Arc::clone(&deposed), Arc::clone(&names))).await
        };
        let (old, new) = (start(0).await, start(1).await);
        names.set([old.address().to_string(), new.address().to_string()]).expect("once");
        // The limit of a monitor's check is far away.
        let uri = format!("mongodb://{},{}/?replicaSet=rs0&heartbeatFrequencyMS=500&connectTimeoutMS=60000", old.address(), new.address());
        let client = Client::new(uri).expect("client");
        ping(&client).await.expect("the old primary answers");
        Self { old, _new: new, deposed, client }
    }

    /// Has a command in flight on the old primary, and deposes it.
    async fn depose(&self) -> tokio::task::JoinHandle<mongolink::Result<Document>> {
        let client = self.client.clone();
        let call = tokio::spawn(async move { client.database("admin").run_command(doc! { "work": 1 }).await });
        until("it is in flight", || self.client.pool_stats().iter().any(|(_, stats)| stats.in_use == 1)).await;
        self.deposed.store(true, Ordering::SeqCst);
        until("the new primary is known", || primary_of(&self.client).is_some_and(|primary| primary != self.old.host())).await;
        call
    }
}

async fn member(mut tcp: TcpStream, number: usize, manner: Manner, deposed: Arc<AtomicBool>, names: Arc<std::sync::OnceLock<[String; 2]>>) {
    let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
    let me = tcp.local_addr().expect("connected");
    let (mut greeted, was_deposed) = (false, deposed.load(Ordering::SeqCst));
    while let Some(heard) = peers::hear(&mut tcp, &mut decoder, me).await {
        let is_deposed = deposed.load(Ordering::SeqCst);
        let reply = if heard.is_hello() {
            let names: Vec<&str> = names.wait().iter().map(String::as_str).collect();
            let is_primary = is_deposed == (number == 1);
            let mut hello = peers::primary_hello("rs0", names[number], &names);
            hello.extend(doc! { "electionId": ObjectId::from([u8::from(is_deposed) + 1; 12]) });
            if !is_primary {
                hello.extend(doc! { "isWritablePrimary": false, "ismaster": false, "secondary": true, "primary": names[1 - number] });
                hello.remove("electionId");
            }
            if number == 0 && is_deposed && (greeted || !was_deposed || manner != Manner::Greets) {
                // To its monitor it says nothing any more.
                std::future::pending::<()>().await;
            }
            greeted = true;
            hello
        } else {
            doc! { "ok": 1.0 }
        };
        let bytes = peers::message(heard.request_id, &reply);
        if heard.name == "work" {
            if manner == Manner::Trickles {
                for byte in bytes {
                    tcp.write_all(&[byte]).await.expect("the client reads");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                continue;
            }
            std::future::pending::<()>().await;
        }
        if tcp.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn command_on_a_deposed_primary_that_answers_runs_on() {
    in_time(async {
        let pair = Pair::start(Manner::Greets).await;
        let before = pair.old.accepted();
        let mut call = pair.depose().await;
        until("it is asked for an answer to a liveness probe", || pair.old.accepted() > before).await;
        assert!(tokio::time::timeout(WATCHED, &mut call).await.is_err(), "still in flight");
        let reason = pair.client.topology().server(&pair.old.host()).and_then(|server| server.error.clone()).expect("deposed");
        assert!(reason.message().contains("discovery of newer primary"), "{reason}");
        pair.client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn reply_that_is_still_arriving_shows_that_the_server_is_alive() {
    in_time(async {
        let pair = Pair::start(Manner::Trickles).await;
        let call = pair.depose().await;
        call.await.expect("no panic").expect("the reply arrives whole, if slowly");
        pair.client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn command_on_a_deposed_primary_that_only_accepts_is_interrupted() {
    in_time(async {
        let pair = Pair::start(Manner::Silent).await;
        let call = pair.depose().await;
        let error = tokio::time::timeout(SOON, call).await.expect("soon").expect("no panic").expect_err("interrupted");
        assert_interrupted(&error);
        assert_eq!(error.host(), Some(&pair.old.host()));
        pair.client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn frozen_standalone_is_found_out_although_its_monitor_would_wait() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let client = Client::new(format!("mongodb://{}/?connectTimeoutMS=120000", sandbox.addresses()[0])).expect("client");
        ping(&client).await.expect("ping");
        sandbox.freeze(0);
        let error = ping(&client).await.expect_err("interrupted");
        assert_interrupted(&error);
        sandbox.thaw(0);
        ping(&client).await.expect("back");
        client.shutdown().await;
    })
    .await;
}
