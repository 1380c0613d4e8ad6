//! Servers that say too much: streams without pause, lists of members that lead elsewhere each time, replies of megabytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mongolink::bson::oid::ObjectId;
use mongolink::bson::{Document, RawDocumentBuf, doc};
use mongolink::topology::monitor::STREAMED_BURST;
use mongolink::wire::{Decoder, Flags, MESSAGE_SIZE_MAX, Request, WriteBuffer, encode_message};
use mongolink::{Client, CommandEvent, ERROR_MESSAGE_SIZE_MAX, ErrorKind, Event, MonitorEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::peers::{self, Peer, Turn};
use crate::support::{in_time, ping, until};

/// Answers a hello that awaits a change over and over, as fast as it can; a version that grows says that each is a change.
async fn flood(mut tcp: TcpStream) {
    let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
    let me = tcp.local_addr().expect("connected");
    let mut counter = 0_i64;
    while let Some(heard) = peers::hear(&mut tcp, &mut decoder, me).await {
        let is_awaited = heard.body.contains_key("maxAwaitTimeMS");
        let mut response_to = heard.request_id;
        loop {
            counter += 1;
            let mut reply = if heard.is_hello() {
                peers::standalone_hello()
            } else {
                doc! { "ok": 1 }
            };
            reply.insert("topologyVersion", doc! { "processId": ObjectId::from_bytes([1; 12]), "counter": counter });
            let flags = if is_awaited { Flags::MORE_TO_COME } else { Flags::default() };
            let (id, reply) = (i32::try_from(counter).expect("not so many"), RawDocumentBuf::try_from(&reply).expect("a document"));
            let mut bytes = WriteBuffer::default();
            encode_message(&mut bytes, id, response_to, flags, &Request::from(reply), |_| {});
            response_to = id;
            if tcp.write_all(&bytes.to_bytes()).await.is_err() {
                return;
            }
            if !is_awaited {
                break;
            }
        }
    }
}

#[tokio::test]
async fn stream_without_pause_is_read_no_further_than_a_burst() {
    in_time(async {
        let peer = Peer::start(flood).await;
        let client = Client::new(format!("mongodb://{}/?heartbeatFrequencyMS=1000", peer.address())).expect("client");
        let mut events = client.events();
        ping(&client).await.expect("it answers");
        let (mut polled, mut streamed) = (0, 0);
        while polled < 4 {
            match events.next().await {
                Some(Event::Heartbeat { event: MonitorEvent::HeartbeatSucceeded { awaited: true, .. }, .. }) => streamed += 1,
                Some(Event::Heartbeat { event: MonitorEvent::HeartbeatSucceeded { awaited: false, .. }, .. }) => polled += 1,
                Some(Event::Heartbeat { event: MonitorEvent::HeartbeatFailed { error, .. }, .. }) => panic!("{error}"),
                Some(_) => {}
                None => panic!("the client goes on"),
            }
            assert!(streamed <= STREAMED_BURST + 1, "{streamed} replies were read");
        }
        ping(&client).await.expect("it is still known");
        client.shutdown().await;
    })
    .await;
}

/// Counts connections.
#[derive(Clone, Default)]
struct Gauge {
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gauge {
    async fn hold(self, mut tcp: TcpStream) {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        while matches!(tcp.read(&mut [0; 4096]).await, Ok(size) if size > 0) {}
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A primary at 127.0.0.1 names hundreds of other members in each reply, at other addresses each time, which accept and say
/// nothing.
async fn naming(tcp: TcpStream, me: SocketAddr, generation: Arc<AtomicUsize>, is_over: Arc<AtomicBool>) {
    let mut tcp = tcp;
    let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
    while let Some(heard) = peers::hear(&mut tcp, &mut decoder, me).await {
        let mut reply = doc! { "ok": 1 };
        if heard.is_hello() {
            let first = generation.fetch_add(1, Ordering::SeqCst) % 100 + 1;
            let others = (0..300).map(|number| format!("127.{first}.{}.{}:{}", number / 100, number % 100 + 1, me.port()));
            let mut names = vec![me.to_string()];
            names.extend(others.filter(|_| !is_over.load(Ordering::SeqCst)));
            reply = peers::primary_hello("rs0", &me.to_string(), &names.iter().map(String::as_str).collect::<Vec<_>>());
        }
        if tcp.write_all(&peers::message(heard.request_id, &reply)).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn members_that_are_only_named_cost_few_sockets_and_none_once_they_have_left() {
    in_time(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a free port");
        let me = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr().expect("bound").port()));
        let (gauge, generation, is_over) = (Gauge::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        let (counted, counter, over) = (gauge.clone(), Arc::clone(&generation), Arc::clone(&is_over));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                if tcp.local_addr().is_ok_and(|address| address == me) {
                    connections.spawn(naming(tcp, me, Arc::clone(&counter), Arc::clone(&over)));
                } else {
                    connections.spawn(counted.clone().hold(tcp));
                }
            }
        });
        let client = Client::new(format!("mongodb://{me}/?replicaSet=rs0&heartbeatFrequencyMS=500")).expect("client");
        ping(&client).await.expect("the primary answers");
        until("some lists were read", || generation.load(Ordering::SeqCst) >= 5).await;
        let most = gauge.most.load(Ordering::SeqCst);
        // Those that have just left may be seen a moment longer by their server.
        assert!((1..=2 * 64).contains(&most), "{most} connections at once");
        is_over.store(true, Ordering::SeqCst);
        until("all have left", || client.topology().servers().len() == 1).await;
        until("all are closed", || gauge.open.load(Ordering::SeqCst) == 0).await;
        client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn errors_and_events_keep_little_of_a_large_reply() {
    in_time(async {
        let text = "x".repeat(10 << 20);
        let refusal = move || -> Document {
            doc! { "ok": 0, "errmsg": &text, "code": 11600, "codeName": &text[..5000], "errorLabels": [&text] }
        };
        let peer = peers::scripted(move |heard| {
            Turn::Reply(if heard.is_hello() {
                peers::standalone_hello()
            } else if heard.name == "ping" {
                refusal()
            } else {
                doc! { "ok": 1 }
            })
        })
        .await;
        let client = Client::new(format!("mongodb://{}/", peer.address())).expect("client");
        let mut events = client.events();
        let error = ping(&client).await.expect_err("refused");
        let told = loop {
            match events.next().await {
                Some(Event::Command(CommandEvent::Failed { error, .. })) => break error,
                Some(_) => {}
                None => panic!("the client goes on"),
            }
        };
        for error in [error, told] {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(11600)));
            let failure = error.command().expect("a reply");
            assert!(failure.cut_from_bytes.is_some_and(|size| size > 10 << 20), "{:?}", failure.cut_from_bytes);
            let kept = failure.message.len() + failure.code_name.len() + failure.reply.as_bytes().len() + error.labels().concat().len();
            assert!(kept <= 2 * ERROR_MESSAGE_SIZE_MAX && format!("{error:?}").len() <= 4 * ERROR_MESSAGE_SIZE_MAX, "{kept} bytes");
        }
        client.shutdown().await;
    })
    .await;
}
