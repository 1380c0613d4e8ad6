//! Monitoring, as the server sees it.
//!
//! A server of its own, which streams, notes what it hears on which connection, and may refuse to be measured.

#![allow(clippy::wildcard_enum_match_arm, reason = "events that are not looked at")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongolink::bson::oid::ObjectId;
use mongolink::bson::{Document, RawDocumentBuf, doc};
use mongolink::wire::{Decoder, Flags, MESSAGE_SIZE_MAX, Message, Request, WriteBuffer, encode_message};
use mongolink::{Client, Event, MonitorEvent, PoolEvent, ServerType, TopologyEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peers::{self, Peer};
use crate::support::{in_time, ping, until};

/// How many replies the server streams before it falls silent.
const STREAMED: usize = 5;

/// The time between two of them.
const PAUSE: Duration = Duration::from_millis(50);

/// A command received on a connection.
#[derive(Clone, Debug)]
struct Heard {
    connection: usize,
    name: String,
    is_awaited: bool,
    may_stream: bool,
    asks_for_mechanisms: bool,
}

impl Heard {
    fn is_hello(&self) -> bool {
        matches!(self.name.as_str(), "hello" | "isMaster")
    }
}

/// Notes what it hears.
#[derive(Clone, Default)]
struct Notes {
    heard: Arc<Mutex<Vec<Heard>>>,
    connections: Arc<AtomicUsize>,
    /// Whether a later hello that awaits nothing, which is a measurement, costs the connection.
    refuses_measurements: bool,
    refused: Arc<AtomicUsize>,
}

impl Notes {
    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, heard: Heard) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
    }

    /// Counts the hellos after a connection's first that await nothing.
    fn measured(&self) -> usize {
        self.heard().iter().filter(|heard| heard.name == "hello" && !heard.is_awaited).count()
    }

    async fn serve(self, mut tcp: TcpStream) {
        let connection = self.connections.fetch_add(1, Ordering::SeqCst);
        let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
        let mut messages = 0;
        let mut next_id = 1;
        loop {
            let Ok(frame) = decoder.next_frame() else { return };
            let Some(frame) = frame else {
                match tcp.read_buf(decoder.buffer()).await {
                    Ok(size) if size > 0 => continue,
                    Ok(_) | Err(_) => return,
                }
            };
            let message = Message::parse(frame).expect("a message");
            let body = Document::try_from(message.body()).expect("a document");
            let heard = Heard {
                connection,
                name: body.keys().next().cloned().unwrap_or_default(),
                is_awaited: body.contains_key("maxAwaitTimeMS"),
                may_stream: message.flags.has(Flags::EXHAUST_ALLOWED),
                asks_for_mechanisms: body.contains_key("saslSupportedMechs"),
            };
            self.note(heard.clone());
            messages += 1;
            if self.refuses_measurements && heard.is_hello() && messages > 1 && !heard.is_awaited {
                self.refused.fetch_add(1, Ordering::SeqCst);
                return;
            }
            let replies = if heard.is_awaited { STREAMED } else { 1 };
            let mut response_to = message.request_id;
            for _ in 0..replies {
                if heard.is_awaited {
                    tokio::time::sleep(PAUSE).await;
                }
                let flags = if heard.is_awaited { Flags::MORE_TO_COME } else { Flags::default() };
                let reply = if heard.is_hello() {
                    hello()
                } else {
                    doc! { "ok": 1 }
                };
                let mut bytes = WriteBuffer::default();
                let reply = RawDocumentBuf::try_from(&reply).expect("a document");
                encode_message(&mut bytes, next_id, response_to, flags, &Request::from(reply), |_| {});
                (response_to, next_id) = (next_id, next_id + 1);
                if tcp.write_all(&bytes.to_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The hello of a server that can stream.
fn hello() -> Document {
    let mut hello = peers::standalone_hello();
    hello.insert("helloOk", true);
    hello.insert("topologyVersion", doc! { "processId": ObjectId::from_bytes([1; 12]), "counter": 1_i64 });
    hello
}

async fn client_of(notes: &Notes) -> (Peer, Client) {
    let notes = notes.clone();
    let peer = Peer::start(move |tcp| notes.clone().serve(tcp)).await;
    let client = Client::new(format!("mongodb://{}/?heartbeatFrequencyMS=500", peer.address())).expect("client");
    (peer, client)
}

#[tokio::test]
async fn replies_are_streamed_and_round_trips_measured_in_silence() {
    in_time(async {
        let notes = Notes::default();
        let (_peer, client) = client_of(&notes).await;
        let mut events = client.events();
        ping(&client).await.expect("ping");
        let (mut started, mut polled, mut streamed) = (0, 0, 0);
        while streamed < STREAMED || notes.measured() < 2 {
            let Ok(event) = tokio::time::timeout(PAUSE, events.next()).await else { continue };
            match event {
                Some(Event::Heartbeat { event: MonitorEvent::HeartbeatStarted { .. }, .. }) => started += 1,
                Some(Event::Heartbeat { event: MonitorEvent::HeartbeatSucceeded { awaited: true, .. }, .. }) => streamed += 1,
                Some(Event::Heartbeat { event, .. }) => {
                    assert!(matches!(event, MonitorEvent::HeartbeatSucceeded { .. }), "{event:?}");
                    polled += 1;
                }
                _ => {}
            }
        }
        assert_eq!((polled, streamed, started), (1, STREAMED, STREAMED + 2), "one check, its stream, and the read under way");
        let heard = notes.heard();
        let awaited: Vec<usize> = (0..heard.len()).filter(|place| heard[*place].is_awaited).collect();
        let [awaited] = awaited.as_slice() else { panic!("asked once for all replies: {heard:?}") };
        let stream = heard[*awaited].connection;
        assert!(heard.iter().enumerate().all(|(place, heard)| heard.may_stream == (place == *awaited)), "{heard:?}");
        assert!(!heard[awaited + 1..].iter().any(|heard| heard.connection == stream), "nothing is said while it streams: {heard:?}");
        assert!(!heard.iter().any(|heard| heard.asks_for_mechanisms), "{heard:?}");
        let measuring: Vec<usize> =
            heard.iter().filter(|heard| heard.name == "hello" && !heard.is_awaited).map(|heard| heard.connection).collect();
        assert!(!measuring.is_empty());
        assert!(measuring.iter().all(|connection| *connection == measuring[0] && *connection != stream), "{heard:?}");
        client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn failing_measurement_leaves_the_server_known() {
    in_time(async {
        let notes = Notes { refuses_measurements: true, ..Notes::default() };
        let (peer, client) = client_of(&notes).await;
        let mut events = client.events();
        ping(&client).await.expect("ping");
        until("two refusals", || notes.refused.load(Ordering::SeqCst) >= 2).await;
        assert_eq!(client.topology().server(&peer.host()).expect("watched").kind, ServerType::Standalone);
        ping(&client).await.expect("ping");
        while let Ok(Some(event)) = tokio::time::timeout(PAUSE, events.next()).await {
            match event {
                Event::Heartbeat { event: MonitorEvent::HeartbeatFailed { error, .. }, .. } => panic!("{error}"),
                Event::Pool { event: PoolEvent::PoolCleared { cause, .. }, .. } => panic!("{cause}"),
                Event::Topology(TopologyEvent::ServerDescriptionChanged { new, .. }) => assert_eq!(new.kind, ServerType::Standalone),
                _ => {}
            }
        }
        client.shutdown().await;
    })
    .await;
}

/// server-monitoring, "serverMonitoringMode": on a function platform servers are polled.
#[cfg(feature = "cli")]
#[tokio::test]
async fn servers_are_polled_on_a_function_platform_and_streamed_elsewhere() {
    in_time(async {
        for (platform, mode, streams) in
            [(None, "auto", true), (Some("x"), "auto", false), (Some("x"), "stream", true), (None, "poll", false)]
        {
            let notes = Notes::default();
            let served = notes.clone();
            let peer = Peer::start(move |tcp| served.clone().serve(tcp)).await;
            let uri = format!("mongodb://{}/?heartbeatFrequencyMS=500&serverMonitoringMode={mode}", peer.address());
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mongolink"));
            for name in ["AWS_EXECUTION_ENV", "AWS_LAMBDA_RUNTIME_API", "FUNCTIONS_WORKER_RUNTIME", "K_SERVICE", "FUNCTION_NAME", "VERCEL"]
            {
                command.env_remove(name);
            }
            command.envs(platform.map(|value| ("AWS_LAMBDA_RUNTIME_API", value)));
            let mut program = command.args(["watch", &uri]).kill_on_drop(true).stdout(std::process::Stdio::null()).spawn().expect("runs");
            let awaited = || notes.heard().iter().any(|heard| heard.is_awaited);
            until("it is checked again", || awaited() || notes.measured() >= 2).await;
            assert_eq!(awaited(), streams, "{platform:?} {mode}: {:?}", notes.heard());
            program.kill().await.expect("ended");
        }
    })
    .await;
}
