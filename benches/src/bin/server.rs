//! The fake server of the bench.
//!
//! A fake replica set on 127.0.0.1, one port per member, cheap enough never to be what is measured: one thread, replies
//! that are made beforehand. The first member is the primary, for good. The cluster time advances with every reply, which
//! is the most that a real server asks of its clients; `--advance N` makes it every N-th, 0 never.
//!
//! `server --members N [--tls CERTIFICATE KEY] [--advance N]` prints its ports as JSON and ends when its input does.
//! `server --papers FOLDER` writes an authority, a certificate and a key, and ends. Orders on its input:
//! `freeze MS` stands still as a stopped process does; `silent N` never answers on the next N connections;
//! `delay MS` holds back the reply to each ping.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mongolink::bson::{RawDocument, doc, oid::ObjectId};
use mongolink_benches::args::Args;
use mongolink_benches::canned::{About, Canned, LARGE, SET};
use mongolink_benches::papers;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The state shared by all connections, for the lifetime of the process.
struct World {
    hellos: Vec<Canned>,
    pong: Canned,
    one: Canned,
    big: Canned,
    inserted: Canned,
    got_more: Canned,
    done: Canned,
    unknown: Canned,
    tls: Option<TlsAcceptor>,
    /// With every so many replies the cluster time advances.
    advance: u64,
    counts: Counts,
    orders: Orders,
}

#[derive(Default)]
struct Counts {
    replies: AtomicU64,
    accepted: AtomicU64,
    ended: AtomicU64,
    hellos: AtomicU64,
}

#[derive(Default)]
struct Orders {
    silent: AtomicU64,
    delay_millis: AtomicU64,
}

/// Says what a command is answered with.
enum Answer {
    Canned(&'static Canned),
    Made(Canned),
}

/// The number of bytes of a command that are parsed; the rest of a larger one is read and dropped.
const HEAD: usize = 8 * 1024;

/// How many bytes are read at once.
const READ: usize = 2 * HEAD;

/// How many bytes are dropped at once.
const WASTE: usize = 256 * 1024;

/// The seconds of the cluster time when it begins.
const BEGAN: u64 = 1_700_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::read();
    if let Some(folder) = args.text("papers") {
        return Ok(papers::write(Path::new(folder))?);
    }
    let tls = match args.all("tls") {
        [] => None,
        [certificate, key] => Some(papers::acceptor(Path::new(certificate), Path::new(key))?),
        _ => return Err("--tls takes a certificate and a key".into()),
    };
    let members = args.value("members").unwrap_or(1_usize);
    let advance = args.value("advance").unwrap_or(1_u64);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(members, tls, advance))
}

async fn run(members: usize, tls: Option<TlsAcceptor>, advance: u64) -> Result<(), Box<dyn Error>> {
    let mut listeners = Vec::new();
    for _ in 0..members {
        listeners.push(TcpListener::bind("127.0.0.1:0").await?);
    }
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<io::Result<Vec<_>>>()?;
    let world: &'static World = Box::leak(Box::new(World::new(&ports, tls, advance)));
    for (member, listener) in listeners.into_iter().enumerate() {
        tokio::spawn(accept(world, member, listener));
    }
    println!("{}", serde_json::json!({ "ports": ports, "set": SET }));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        world.obey(&line);
    }
    // Connections that still read or wait have no client any more.
    std::process::exit(0)
}

async fn accept(world: &'static World, member: usize, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                world.counts.accepted.fetch_add(1, Relaxed);
                tokio::spawn(welcome(world, member, stream));
            }
            // For want of file descriptors, say.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn welcome(world: &'static World, member: usize, stream: TcpStream) {
    if world.orders.silent.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        let _held = stream;
        return std::future::pending().await;
    }
    let outcome = match (stream.set_nodelay(true), &world.tls) {
        (Err(error), _) => Err(error),
        (Ok(()), None) => serve(world, member, stream).await,
        (Ok(()), Some(acceptor)) => match acceptor.accept(stream).await {
            Ok(stream) => serve(world, member, stream).await,
            Err(error) => Err(error),
        },
    };
    world.counts.ended.fetch_add(1, Relaxed);
    // Clients come and go as they like.
    if let Err(error) = outcome.map_err(|error| error.kind())
        && !matches!(error, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
    {
        eprintln!("server: {error}");
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(world: &'static World, member: usize, mut stream: S) -> io::Result<()> {
    let mut buffer = vec![0; READ];
    let (mut out, mut waste) = (Vec::with_capacity(1024), Vec::new());
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut at = 0;
        while let Some(length) = announced(&buffer[at..filled])? {
            if filled - at < length.min(HEAD) {
                break;
            }
            let here = length.min(filled - at);
            let frame = &buffer[at..at + here];
            let (answer, pause) = world.answer(member, frame);
            let request = [frame[4], frame[5], frame[6], frame[7]];
            at += here;
            drop_rest(&mut stream, length - here, &mut waste).await?;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            match answer {
                Answer::Canned(reply) => send(&mut stream, reply, &mut out, request, world.time()).await?,
                Answer::Made(reply) => send(&mut stream, &reply, &mut out, request, world.time()).await?,
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
}

/// Reads the length of the next message, once its header is there.
fn announced(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(header) = bytes.first_chunk::<16>() else { return Ok(None) };
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if (16..=48_000_000).contains(&length) { Ok(Some(length)) } else { Err(io::ErrorKind::InvalidData.into()) }
}

async fn drop_rest<S: AsyncRead + Unpin>(stream: &mut S, mut rest: usize, waste: &mut Vec<u8>) -> io::Result<()> {
    if rest > 0 {
        waste.resize(WASTE, 0);
    }
    while rest > 0 {
        let room = rest.min(WASTE);
        let count = stream.read(&mut waste[..room]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        rest -= count;
    }
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, reply: &Canned, out: &mut Vec<u8>, request: [u8; 4], time: u64) -> io::Result<()> {
    out.clear();
    if reply.size() <= LARGE {
        reply.write(out, request, time);
        stream.write_all(out).await?;
    } else {
        let mut last = Vec::new();
        let middle = reply.write_ends(out, &mut last, request, time);
        stream.write_all(out).await?;
        stream.write_all(middle).await?;
        stream.write_all(&last).await?;
    }
    stream.flush().await
}

impl World {
    fn new(ports: &[u16], tls: Option<TlsAcceptor>, advance: u64) -> Self {
        let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let process = ObjectId::new();
        let hellos = (0..hosts.len()).map(|member| Canned::hello(&About { member, hosts: &hosts, process })).collect();
        Self {
            hellos,
            pong: Canned::new(doc! {}),
            one: Canned::one(),
            big: Canned::big(),
            inserted: Canned::new(doc! { "n": 1, "electionId": ObjectId::from_bytes([1; 12]) }),
            got_more: Canned::new(doc! { "cursor": { "nextBatch": [], "id": 0_i64, "ns": "bench.one" } }),
            done: Canned::new(doc! {}),
            unknown: Canned::unknown(),
            tls,
            advance,
            counts: Counts::default(),
            orders: Orders::default(),
        }
    }

    /// Says what a command is answered with, and how long the answer waits.
    fn answer(&'static self, member: usize, frame: &[u8]) -> (Answer, Duration) {
        let delay = Duration::from_millis(self.orders.delay_millis.load(Relaxed));
        match name(frame) {
            b"ping" => (Answer::Canned(&self.pong), delay),
            b"find" if is_of_big(frame) => (Answer::Canned(&self.big), Duration::ZERO),
            b"find" => (Answer::Canned(&self.one), Duration::ZERO),
            b"insert" => (Answer::Canned(&self.inserted), Duration::ZERO),
            b"hello" | b"isMaster" | b"ismaster" => {
                self.counts.hellos.fetch_add(1, Relaxed);
                (Answer::Canned(&self.hellos[member]), patience(frame))
            }
            b"getMore" => (Answer::Canned(&self.got_more), Duration::ZERO),
            b"endSessions" | b"killCursors" => (Answer::Canned(&self.done), Duration::ZERO),
            b"serverStatus" => (Answer::Made(self.counts.status()), Duration::ZERO),
            _ => (Answer::Canned(&self.unknown), Duration::ZERO),
        }
    }

    /// Returns the cluster time of the next reply.
    fn time(&self) -> u64 {
        let replies = self.counts.replies.fetch_add(1, Relaxed) + 1;
        (BEGAN << 32) | (replies.checked_div(self.advance).unwrap_or_default() + 1)
    }

    fn obey(&self, line: &str) {
        let (order, number) = line.trim().split_once(' ').unwrap_or((line.trim(), "0"));
        let Ok(number) = number.parse() else { return eprintln!("server: {line:?} is no order") };
        match order {
            // The only thread sleeps: the kernel accepts connections, nothing is read or answered.
            "freeze" => std::thread::sleep(Duration::from_millis(number)),
            "silent" => self.orders.silent.store(number, Relaxed),
            "delay" => self.orders.delay_millis.store(number, Relaxed),
            _ => eprintln!("server: {line:?} is no order"),
        }
    }
}

impl Counts {
    fn status(&self) -> Canned {
        let count = |counter: &AtomicU64| counter.load(Relaxed).cast_signed();
        let (accepted, ended) = (count(&self.accepted), count(&self.ended));
        Canned::plain(&doc! { "accepted": accepted, "open": accepted - ended, "hellos": count(&self.hellos), "ok": 1.0 })
    }
}

/// Returns the command's name: the first key of the body, which comes behind header, flags, kind, length and type.
fn name(frame: &[u8]) -> &[u8] {
    let rest = frame.get(26..).unwrap_or_default();
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Tells whether a find is for the collection `big`: behind the name stand its end and the string's length.
fn is_of_big(frame: &[u8]) -> bool {
    frame.get(26 + 4 + 1 + 4..).is_some_and(|value| value.starts_with(b"big\0"))
}

/// Says how long a hello waits for a change that never comes; the reply is no stream's, and the client asks again.
fn patience(frame: &[u8]) -> Duration {
    let length = frame.get(21..).and_then(|body| body.first_chunk::<4>()).map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let Some(Ok(body)) = frame.get(21..21 + length).map(RawDocument::from_bytes) else { return Duration::ZERO };
    if !matches!(body.get("topologyVersion"), Ok(Some(_))) {
        return Duration::ZERO;
    }
    let millis = match body.get("maxAwaitTimeMS") {
        Ok(Some(value)) => value.as_i64().or(value.as_i32().map(i64::from)),
        Ok(None) | Err(_) => None,
    };
    Duration::from_millis(millis.and_then(|millis| u64::try_from(millis).ok()).unwrap_or_default())
}
