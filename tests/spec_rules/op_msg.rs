//! OP_MSG: messages that are sent, and messages that are accepted.

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use mongolink::operation::{DriverFields, check_size};
use mongolink::wire::{Decoder, Flags, Message, Request, WriteBuffer, encode_message};
use mongolink::{Error, ErrorKind};

/// A message of flags and sections.
fn message(flags: u32, sections: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for number in [7_i32, 0, 2013] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend(sections.concat());
    let length = u32::try_from(bytes.len()).expect("short");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn body(document: &RawDocumentBuf) -> Vec<u8> {
    [&[0], document.as_bytes()].concat()
}

fn sequence(identifier: &str, documents: &[RawDocumentBuf]) -> Vec<u8> {
    let mut section = vec![0; 4];
    section.extend_from_slice(identifier.as_bytes());
    section.push(0);
    for document in documents {
        section.extend_from_slice(document.as_bytes());
    }
    let length = u32::try_from(section.len()).expect("short");
    section[..4].copy_from_slice(&length.to_le_bytes());
    [vec![1], section].concat()
}

fn read(bytes: &[u8]) -> Result<Message, Error> {
    let mut decoder = Decoder::new(48_000_000);
    decoder.buffer().extend_from_slice(bytes);
    Message::parse(decoder.next_frame()?.expect("whole"))
}

fn encoded(request: &Request, fields: &DriverFields<'_>) -> Vec<u8> {
    let mut bytes = WriteBuffer::default();
    encode_message(&mut bytes, 7, 0, Flags::default(), request, |body| fields.write(body));
    bytes.to_bytes()
}

#[test]
fn required_flags_must_be_known_and_optional_ones_are_ignored() {
    let section = body(&rawdoc! { "ok": 1 });
    for bit in 0..32_u32 {
        // A checksum is four bytes at the end.
        let tail = if bit == 0 { vec![1, 2, 3, 4] } else { Vec::new() };
        let outcome = read(&message(1 << bit, &[section.clone(), tail]));
        assert_eq!(outcome.is_ok(), !(2..16).contains(&bit), "bit {bit}");
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Protocol);
        }
    }
}

#[test]
fn unknown_kinds_of_sections_are_errors() {
    for kind in 2..=255_u8 {
        let mut section = body(&rawdoc! { "ok": 1 });
        section[0] = kind;
        assert_eq!(read(&message(0, &[body(&rawdoc! {}), section])).expect_err("refusal").kind(), ErrorKind::Protocol);
    }
}

#[test]
fn sections_come_in_any_order_with_one_body_and_distinct_identifiers() {
    let one = body(&rawdoc! { "ok": 1 });
    let (first, second) = (sequence("x", &[rawdoc! { "n": 1 }, rawdoc! { "n": 2 }]), sequence("y", &[]));
    for sections in
        [[one.clone(), first.clone(), second.clone()], [first.clone(), one.clone(), second.clone()], [second, first.clone(), one.clone()]]
    {
        let message = read(&message(0, &sections)).expect("message");
        assert_eq!((message.body(), message.sequences.len()), (RawDocument::from_bytes(rawdoc! { "ok": 1 }.as_bytes()).expect("body"), 2));
    }
    for sections in [vec![], vec![first.clone()], vec![one.clone(), one.clone()], vec![one, first.clone(), first]] {
        assert_eq!(read(&message(0, &sections)).expect_err("refusal").kind(), ErrorKind::Protocol);
    }
}

#[test]
fn message_of_sixteen_megabytes_beside_its_command_is_read_and_written() {
    let large = rawdoc! { "text": "x".repeat(16 * 1024 * 1024 - 100) };
    let request =
        Request { body: rawdoc! { "insert": "things" }.into(), sequences: vec![("documents".to_owned(), vec![large.clone().into()])] };
    check_size(&request, 16 * 1024 * 1024).expect("within the limit");
    let message = read(&encoded(&request, &DriverFields { database: "test", ..DriverFields::default() })).expect("message");
    assert_eq!(message.sequences[0].documents[0].len(), large.as_bytes().len());
}

#[test]
fn database_and_session_are_appended_to_a_copy() {
    let own = rawdoc! { "ping": 1 };
    let request = Request::from(own.clone());
    let lsid = rawdoc! { "id": 1 };
    let fields = DriverFields { database: "admin", lsid: Some(&lsid), ..DriverFields::default() };
    let message = read(&encoded(&request, &fields)).expect("message");
    let expected = rawdoc! { "ping": 1, "$db": "admin", "lsid": { "id": 1 } };
    assert_eq!(message.body().as_bytes(), expected.as_bytes());
    assert_eq!(request.body.document(), &*own);
    assert_eq!(message.flags, Flags::default(), "unused bits are 0");
}

#[test]
fn several_documents_of_one_list_go_as_a_section_of_kind_1() {
    let documents: Vec<RawDocumentBuf> = (0..3).map(|n| rawdoc! { "n": n }).collect();
    let request = Request {
        body: rawdoc! { "insert": "things" }.into(),
        sequences: vec![("documents".to_owned(), documents.into_iter().map(Into::into).collect())],
    };
    let bytes = encoded(&request, &DriverFields { database: "test", ..DriverFields::default() });
    let message = read(&bytes).expect("message");
    assert_eq!((message.sequences[0].identifier.as_str(), message.sequences[0].documents.len()), ("documents", 3));
    assert!(message.body().get("documents").expect("document").is_none());
}

#[test]
fn message_above_the_servers_limit_is_refused_before_it_is_read() {
    let mut decoder = Decoder::new(1_000);
    decoder.buffer().extend_from_slice(&1_001_u32.to_le_bytes());
    let error = decoder.next_frame().expect_err("refusal");
    assert!(error.limit().is_some_and(|limit| limit.name == "maxMessageSizeBytes"), "{error}");
}
