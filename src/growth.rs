//! The growth test of parsers: their work is linear in the size of their input.
//!
//! Every parser of bytes from outside runs at n, 2n and 4n. The counts are the same in every run: scanned fields, allocations,
//! and allocated bytes. Other work, such as comparing, shows in processor time at the largest input, where quadratic work takes
//! minutes: the bound is far above what the machine needs, and far below that.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bson::raw::cstr;
use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};
use bytes::Bytes;

use crate::auth::Secret;
use crate::auth::scram::ClientFirst;
use crate::auth::scram::keys::ScramHash;
use crate::cursor::CursorState;
use crate::dns::names::hosts_addresses;
use crate::dns::srv::{self, SrvRecord};
use crate::dns::system_config::{ConfigText, Platform, ResolvConf, SystemFacts, decide};
use crate::handshake::{ClientMetadata, DriverInfo, DriverInfos, Environment, HelloReply};
use crate::host::ServerAddress;
use crate::operation::write_error::write_errors;
use crate::operation::{ReplyHead, command_error, document, json::Json};
use crate::options::ClientOptions;
use crate::uri::{ConnectionString, apply_txt};
use crate::wire::depth::depth;
use crate::wire::{Decoder, Flags, InputDocument, MESSAGE_SIZE_MAX, Message, Request, WriteBuffer, encode_message, legacy};

thread_local! {
    static FIELDS: Cell<u64> = const { Cell::new(0) };
}

/// Counts a scanned field.
pub(crate) fn field_walked() {
    FIELDS.set(FIELDS.get() + 1);
}

/// A parser, and a generator of its input.
struct Parser {
    name: &'static str,
    /// The size that is doubled twice; four times as much is within the parser's limits.
    size: usize,
    /// A size at which quadratic work takes far more than [`LARGEST_MAX`], or the parser's limit.
    size_max: usize,
    /// Makes the input, and returns the measured work.
    prepare: fn(usize) -> Box<dyn FnOnce()>,
}

/// The cost of a run.
#[derive(Clone, Copy, Debug)]
struct Cost {
    fields: u64,
    allocations: u64,
    bytes: u64,
}

/// The limit of processor time for the largest input; linear work takes some hundredths of it.
const LARGEST_MAX: Duration = Duration::from_secs(5);

/// The limit of the second doubling's cost, as a multiple of the first: 2 for linear work, 4 for quadratic.
const GROWTH_MAX: f64 = 2.6;

/// The tolerance on top of that: tables that happen to grow within the second doubling.
const SLACK: Cost = Cost { fields: 32, allocations: 32, bytes: 8192 };

#[test]
fn work_grows_no_faster_than_the_input() {
    let mut faults = Vec::new();
    for parser in parsers() {
        let [first, second, third] = [1, 2, 4].map(|factor| cost((parser.prepare)(parser.size * factor)));
        let grows = |of: fn(&Cost) -> u64| {
            let (early, late) = (of(&second).saturating_sub(of(&first)), of(&third).saturating_sub(of(&second)));
            late as f64 > early as f64 * GROWTH_MAX + of(&SLACK) as f64
        };
        if grows(|cost| cost.fields) || grows(|cost| cost.allocations) || grows(|cost| cost.bytes) {
            faults.push(format!("{}: {first:?}, {second:?}, {third:?}", parser.name));
        }
        let spent = processor_time((parser.prepare)(parser.size_max));
        if spent > LARGEST_MAX {
            faults.push(format!("{}: {spent:?} for the largest input", parser.name));
        }
        if std::env::var_os("MONGOLINK_RECORD").is_some() {
            println!("{}: {first:?} {third:?} {spent:?}", parser.name);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Quadratic work of each kind is noticed.
#[test]
fn planted_work_is_found() {
    let fields = |size: usize| {
        let document = fields_of(size);
        cost(Box::new(move || (0..size).for_each(|number| drop(document.get(number.to_string())))))
    };
    let finds = |size: usize| {
        let document = fields_of(size);
        cost(Box::new(move || {
            for number in 0..size {
                assert!(crate::wire::scan::Fields::find(&document, &number.to_string()).is_some());
            }
        }))
    };
    let growth = |of: fn(usize) -> Cost, what: fn(&Cost) -> u64| {
        let [first, second, third] = [100, 200, 400].map(|size| what(&of(size)));
        (third - second) as f64 / (second - first) as f64
    };
    assert!(growth(finds, |cost| cost.fields) > GROWTH_MAX);
    assert!(growth(fields, |cost| cost.allocations) < GROWTH_MAX);
    let copies = |size: usize| {
        cost(Box::new(move || {
            let mut text = String::new();
            (0..size).for_each(|_| text = format!("{text}x"));
        }))
    };
    assert!(growth(copies, |cost| cost.bytes) > GROWTH_MAX);
}

fn cost(run: Box<dyn FnOnce()>) -> Cost {
    let before = FIELDS.get();
    let counted = allocation_counter::measure(run);
    Cost { fields: FIELDS.get() - before, allocations: counted.count_total, bytes: counted.bytes_total }
}

/// Returns the processor time of a run; zero where the system does not report it.
fn processor_time(run: Box<dyn FnOnce()>) -> Duration {
    let now = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or_default())
    };
    let began = now();
    run();
    now().saturating_sub(began)
}

fn parser(name: &'static str, size: usize, size_max: usize, prepare: fn(usize) -> Box<dyn FnOnce()>) -> Parser {
    Parser { name, size, size_max, prepare }
}

fn parsers() -> Vec<Parser> {
    let mut parsers = Vec::new();
    parsers.extend(of_messages());
    parsers.extend(of_replies());
    parsers.extend(of_documents());
    parsers.extend(of_texts());
    #[cfg(feature = "sandbox")]
    parsers.extend(of_requests());
    parsers
}

fn of_messages() -> [Parser; 5] {
    [
        parser("documents of a sequence", 1000, 100_000, |size| parse_message(encoded(rawdoc! { "x": 1 }, [("documents".into(), size)]))),
        parser("sequences", 4, 80_000, |size| {
            parse_message(encoded(rawdoc! { "x": 1 }, (0..size).map(|number| (format!("sequence {number}"), 1))))
        }),
        parser("frames at once", 1000, 100_000, |size| {
            let bytes = encoded(rawdoc! { "ok": 1 }, []).repeat(size);
            Box::new(move || {
                let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
                decoder.buffer().extend_from_slice(&bytes);
                while let Ok(Some(frame)) = decoder.next_frame() {
                    drop(Message::parse(frame));
                }
            })
        }),
        parser("a message byte by byte", 4096, 1_000_000, |size| {
            let bytes = encoded(text_of(size), []);
            Box::new(move || {
                let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
                for byte in &bytes {
                    let room = decoder.missing().min(1024);
                    decoder.buffer().reserve(room);
                    decoder.buffer().extend_from_slice(&[*byte]);
                    drop(decoder.next_frame().map(|frame| frame.map(Message::parse)));
                }
            })
        }),
        parser("an old client's hello", 1000, 1_000_000, |size| {
            let mut payload = vec![0; 4];
            payload.extend_from_slice(&vec![b'a'; size]);
            payload.extend_from_slice(b".$cmd\0\0\0\0\0\0\0\0\0");
            payload.extend_from_slice(fields_of(size).as_bytes());
            let frame = crate::wire::Frame { request_id: 1, response_to: 0, op_code: 2004, payload: payload.into() };
            Box::new(move || assert!(legacy::Query::parse(&frame).is_some()))
        }),
    ]
}

fn of_replies() -> [Parser; 9] {
    fn hello(key: &'static bson::raw::CStr, names: impl IntoIterator<Item = String>) -> Box<dyn FnOnce()> {
        let mut reply = rawdoc! { "ok": 1, "setName": "rs", "isWritablePrimary": true };
        reply.append(key, names.into_iter().collect::<RawArrayBuf>());
        read_hello(reply)
    }
    [
        parser("hello: hosts", 100, 1000, |size| hello(cstr!("hosts"), (0..size).map(|number| format!("host-{number}.example:27017")))),
        parser("hello: long names", 100, 1000, |size| {
            hello(cstr!("hosts"), (0..size).map(|number| format!("{number}.{}:1", "é.".repeat(400))))
        }),
        parser("hello: unusable names", 100, 1000, |size| hello(cstr!("passives"), (0..size).map(|number| format!("a..{number}")))),
        parser("hello: a key many times", 100, 100_000, |size| {
            let mut reply = rawdoc! { "ok": 1 };
            (0..size).for_each(|number| reply.append(cstr!("hosts"), [format!("host-{number}:1")].into_iter().collect::<RawArrayBuf>()));
            read_hello(reply)
        }),
        parser("hello: tags", 100, 100_000, |size| {
            let mut reply = rawdoc! { "ok": 1 };
            reply.append(cstr!("tags"), tagged(size));
            read_hello(reply)
        }),
        parser("reply: fields", 1000, 100_000, |size| {
            let reply = fields_of(size);
            Box::new(move || assert!(!ReplyHead::read(reply.as_bytes()).succeeded && command_error(&reply).is_some()))
        }),
        parser("reply: labels", 20, 100_000, |size| {
            let mut reply = rawdoc! { "ok": 0, "errmsg": "x" };
            reply.append(cstr!("errorLabels"), (0..size).map(|number| number.to_string()).collect::<RawArrayBuf>());
            Box::new(move || assert!(command_error(&reply).is_some()))
        }),
        parser("reply: write errors", 1000, 100_000, |size| {
            let mut reply = rawdoc! { "ok": 1 };
            let errors =
                (0..size).map(|number| rawdoc! { "index": 1, "code": 11000, "errmsg": number.to_string(), "keyValue": { "_id": 1 } });
            reply.append(cstr!("writeErrors"), errors.collect::<RawArrayBuf>());
            Box::new(move || drop(write_errors(&reply)))
        }),
        parser("cursor", 1000, 100_000, |size| {
            let batch: RawArrayBuf = (0..size).map(|_| rawdoc! { "x": 1 }).collect();
            let reply = Bytes::from(rawdoc! { "ok": 1, "cursor": { "id": 1_i64, "ns": "a.b", "firstBatch": batch } }.into_bytes());
            Box::new(move || {
                let (_, mut batch) = CursorState::parse(reply).expect("a cursor");
                while batch.next_document().is_some() {}
            })
        }),
    ]
}

fn of_documents() -> [Parser; 5] {
    fn read(document: RawDocumentBuf) -> Box<dyn FnOnce()> {
        Box::new(move || {
            assert!(depth(document.as_bytes()).is_ok() && document::read(&document).is_ok());
            drop(Json::of(&document).to_string());
            drop(Json::of(&document).canonical().cut(1000).to_string());
        })
    }
    [
        parser("document: fields", 1000, 100_000, |size| read(fields_of(size))),
        parser("document: documents in an array", 1000, 50_000, |size| {
            let mut document = RawDocumentBuf::new();
            document.append(cstr!("a"), (0..size).map(|_| rawdoc! { "b": [1] }).collect::<RawArrayBuf>());
            read(document)
        }),
        parser("document: text", 10_000, 1_000_000, |size| read(text_of(size))),
        parser("document: a key many times", 1000, 100_000, |size| {
            let mut document = RawDocumentBuf::new();
            (0..size).for_each(|_| document.append(cstr!("same"), 1));
            read(document)
        }),
        parser("document: levels", 40, 1_000_000, |size| {
            // Encoded from the inside to the outside, written from the back to the front.
            let mut bytes = vec![0; 7 * size + 5];
            for level in 0..=size {
                let (start, length) = (6 * level, 7 * (size - level) + 5);
                bytes[start..start + 4].copy_from_slice(&u32::try_from(length).expect("short").to_le_bytes());
                bytes[start + 4] = if level < size { 3 } else { 0 };
            }
            Box::new(move || {
                let document = RawDocument::from_bytes(&bytes).expect("framed");
                assert_eq!(depth(&bytes).is_ok(), document::read(document).is_ok());
                drop(Json::of(document).to_string());
            })
        }),
    ]
}

fn of_texts() -> Vec<Parser> {
    vec![
        parser("SCRAM: first message", 1000, 10_000_000, |size| {
            let nonce = "n".repeat(size);
            let message = format!("r=abc{nonce},s=c2FsdA==,i=4096{}", ",x=y".repeat(size));
            Box::new(move || {
                drop(
                    ClientFirst::with_nonce(ScramHash::Sha256, "u", &Secret::new("p"), "abc".into())
                        .handle_server_first(message.as_bytes()),
                )
            })
        }),
        parser("connection string: hosts", 100, 1000, |size| {
            let hosts: Vec<String> = (0..size).map(|number| format!("host-{number}.example:27017")).collect();
            read_uri(format!("mongodb://{}/", hosts.join(",")))
        }),
        parser("connection string: options", 100, 8000, |size| {
            let options: Vec<String> = (0..size).map(|number| format!("a{number}=b")).collect();
            read_uri(format!("mongodb://h/?{}", options.join("&")))
        }),
        parser("connection string: an option many times", 100, 5000, |size| {
            read_uri(format!("mongodb://h/?{}", "appName=x&".repeat(size)))
        }),
        parser("connection string: read preference tags", 100, 2000, |size| {
            read_uri(format!("mongodb://h/?readPreference=nearest{}", "&readPreferenceTags=a:b,c:d".repeat(size)))
        }),
        parser("connection string: user and password", 1000, 10_000, |size| {
            read_uri(format!("mongodb://{}:{}@h/", "%40".repeat(size), "%3A".repeat(size)))
        }),
        parser("host: labels", 20, 500_000, |size| read_host("a.".repeat(size))),
        parser("host: Unicode", 20, 500_000, |size| read_host("é.".repeat(size))),
        parser("host: address", 20, 500_000, |size| read_host(format!("[::1%25{}]", "z".repeat(size)))),
        parser("SRV records", 100, 1000, |size| {
            let record = |number| SrvRecord { target: format!("h{number}.a.example."), port: 27017, ttl: Duration::from_secs(60) };
            let records: Vec<SrvRecord> = (0..size).map(record).collect();
            Box::new(move || drop((srv::seeds("x.a.example", &records), srv::polled_hosts("x.a.example", &records))))
        }),
        parser("TXT record", 100, 3000, |size| {
            let record = vec!["authSource=a&".repeat(size).into_bytes()];
            Box::new(move || drop(apply_txt(&mut ClientOptions::default(), &mut Vec::new(), &[record])))
        }),
        parser("hosts file", 1000, 200_000, |size| {
            let line = |number: usize| format!("10.{}.{}.{} other name other\n", number >> 16, number >> 8 & 255, number & 255);
            let text: String = (0..size).map(line).collect();
            Box::new(move || drop(hosts_addresses(&text, "name")))
        }),
        parser("resolv.conf", 1000, 200_000, |size| {
            let text = "nameserver 10.0.0.1\nsearch a.example b.example\noptions ndots:1 unknown\nsortlist 1\n".repeat(size);
            Box::new(move || drop(ResolvConf::parse(&text, None)))
        }),
        parser("nsswitch.conf", 1000, 200_000, |size| {
            let text = format!("hosts:{}\n", " files [NOTFOUND=continue] dns".repeat(size)).repeat(2);
            let facts = SystemFacts {
                platform: Platform::NameServiceSwitch,
                nsswitch: ConfigText::Text(text),
                resolv_conf: ConfigText::Text("nameserver 10.0.0.1\n".to_owned()),
                has_mdns_allow: false,
                environment: Vec::new(),
                host_name: None,
            };
            Box::new(move || drop(decide(&facts)))
        }),
        parser("metadata", 1000, 1_000_000, |size| {
            let environment = Environment {
                os_type: "Linux".repeat(size),
                os_name: Some("name".repeat(size)),
                os_architecture: Some("x".repeat(size)),
                os_version: Some("é".repeat(size)),
                platform: "Rust é".repeat(size),
                docker: true,
                variables: Arc::new(move |name| (name == "AWS_REGION" || name == "AWS_LAMBDA_RUNTIME_API").then(|| "r".repeat(size))),
            };
            let library = DriverInfo::new("n".repeat(size)).with_version("v".repeat(size)).with_platform("é".repeat(size));
            Box::new(move || {
                let metadata = ClientMetadata::new(Some("app"), &environment).expect("a short name");
                let mut libraries = DriverInfos::default();
                // It may be refused for its size.
                drop(libraries.append(library));
                drop(metadata.document_with(&libraries));
            })
        }),
        #[cfg(feature = "cli")]
        parser("Extended JSON", 1000, 50_000, |size| {
            let fields: Vec<String> =
                (0..size).map(|number| format!(r#""key {number}":[{{"$numberLong":"1"}},{{"$date":0}},"é"]"#)).collect();
            let text = format!("{{{}}}", fields.join(","));
            Box::new(move || drop(crate::cli::extjson::parse(&text)))
        }),
    ]
}

#[cfg(feature = "sandbox")]
fn of_requests() -> [Parser; 4] {
    use std::time::Instant;

    use crate::sandbox::{Config, FakeDeployment};

    #[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
    fn send(bytes: Vec<u8>) -> Box<dyn FnOnce()> {
        let now = Instant::now();
        let mut cluster = FakeDeployment::new(Config::standalone("a:1"), 1, now).expect("a configuration");
        cluster.handle_connected(0, 1, now);
        Box::new(move || {
            cluster.handle_bytes(0, 1, &bytes, now);
            assert!(cluster.poll_action().is_some());
        })
    }
    [
        parser("sandbox: documents beside a command", 500, 50_000, |size| {
            send(encoded(rawdoc! { "insert": "things", "$db": "test" }, [("documents".into(), size)]))
        }),
        parser("sandbox: documents within a command", 500, 50_000, |size| {
            let documents: RawArrayBuf = (0..size).map(|_| rawdoc! { "x": 1 }).collect();
            send(encoded(rawdoc! { "insert": "things", "documents": documents, "$db": "test" }, []))
        }),
        parser("sandbox: a filter", 500, 100_000, |size| {
            send(encoded(rawdoc! { "find": "things", "filter": fields_of(size), "$db": "test" }, []))
        }),
        parser("sandbox: sequences", 4, 80_000, |size| {
            send(encoded(rawdoc! { "ping": 1, "$db": "test" }, (0..size).map(|number| (format!("sequence {number}"), 1))))
        }),
    ]
}

fn read_hello(reply: RawDocumentBuf) -> Box<dyn FnOnce()> {
    Box::new(move || drop(HelloReply::parse(&reply)))
}

fn read_uri(text: String) -> Box<dyn FnOnce()> {
    Box::new(move || {
        if let Ok(parsed) = ConnectionString::parse(&text) {
            drop(parsed.to_string());
        }
    })
}

fn read_host(text: String) -> Box<dyn FnOnce()> {
    Box::new(move || drop(ServerAddress::parse(&text)))
}

fn parse_message(bytes: Vec<u8>) -> Box<dyn FnOnce()> {
    Box::new(move || {
        let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
        decoder.buffer().extend_from_slice(&bytes);
        drop(decoder.next_frame().map(|frame| frame.map(Message::parse)));
    })
}

/// Encodes a message with sequences of so many documents.
fn encoded(body: RawDocumentBuf, sequences: impl IntoIterator<Item = (String, usize)>) -> Vec<u8> {
    let documents = |(identifier, count)| (identifier, (0..count).map(|_| InputDocument::from(rawdoc! {})).collect());
    let request = Request { body: body.into(), sequences: sequences.into_iter().map(documents).collect() };
    let mut out = WriteBuffer::default();
    encode_message(&mut out, 1, 0, Flags::default(), &request, |_| {});
    out.to_bytes()
}

fn fields_of(count: usize) -> RawDocumentBuf {
    (0..count).map(|number| (number.to_string(), i64::try_from(number).expect("small"))).fold(
        RawDocumentBuf::new(),
        |mut document, (key, value)| {
            document.append(<&bson::raw::CStr>::try_from(key.as_str()).expect("no zero"), value);
            document
        },
    )
}

fn tagged(count: usize) -> RawDocumentBuf {
    (0..count).fold(RawDocumentBuf::new(), |mut document, number| {
        document.append(<&bson::raw::CStr>::try_from(format!("tag {number}").as_str()).expect("no zero"), "value");
        document
    })
}

fn text_of(size: usize) -> RawDocumentBuf {
    rawdoc! { "text": "é\"".repeat(size / 3) }
}
