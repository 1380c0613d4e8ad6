use bson::rawdoc;

use super::decode::{SEQUENCE_DOCUMENTS_MAX, SEQUENCES_MAX};
use super::*;
use crate::error::{Error, ErrorKind};

fn encoded(request: &Request, flags: Flags) -> Vec<u8> {
    let mut out = WriteBuffer::default();
    encode_message(&mut out, 7, 3, flags, request, |body| {
        body.string(c"$db", "admin");
        body.document(c"lsid", &rawdoc! { "id": 1 });
    });
    assert_eq!(out.pieces().map(<[u8]>::len).sum::<usize>(), out.len());
    out.to_bytes()
}

fn decoded(bytes: &[u8]) -> Result<Message, Error> {
    let mut decoder = Decoder::new(1000);
    decoder.buffer().extend_from_slice(bytes);
    Message::parse(decoder.next_frame()?.expect("whole frame"))
}

fn with_sequence() -> Request {
    let documents = (0..3).map(|n| InputDocument::from(rawdoc! { "n": n })).collect();
    Request { body: rawdoc! { "insert": "things" }.into(), sequences: vec![("documents".to_owned(), documents)] }
}

fn refusal(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> String {
    change(&mut bytes);
    let length = u32::try_from(bytes.len()).expect("short");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let error = decoded(&bytes).expect_err("refusal");
    assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unsupported), "{error}");
    error.to_string()
}

#[test]
fn message_survives_the_round_trip() {
    let message = decoded(&encoded(&with_sequence(), Flags::default())).expect("message");
    assert_eq!((message.request_id, message.response_to), (7, 3));
    assert_eq!(message.body(), &*rawdoc! { "insert": "things", "$db": "admin", "lsid": { "id": 1 } });
    assert_eq!(message.sequences[0].identifier, "documents");
    assert_eq!(message.sequences[0].documents.len(), 3);
}

#[test]
fn large_documents_are_written_from_where_they_are() {
    let text = "x".repeat(20_000);
    let small = || InputDocument::from(rawdoc! { "n": 1 });
    let large = || InputDocument::from(rawdoc! { "text": text.as_str() });
    let request = Request { body: large(), sequences: vec![("documents".to_owned(), vec![small(), large(), large(), small()])] };
    let mut out = WriteBuffer::default();
    encode_message(&mut out, 7, 3, Flags::default(), &request, |body| body.string(c"$db", "admin"));
    assert!(out.own_mut().len() < 200 && out.whole().is_none());
    assert!(out.pieces().all(|piece| !piece.is_empty()));
    let InputDocument::Large(shared) = &request.body else { panic!("copied") };
    assert!(out.pieces().any(|piece| std::ptr::eq(piece, &shared[4..shared.len() - 1])));
    let mut decoder = Decoder::new(100_000);
    decoder.buffer().extend_from_slice(&out.to_bytes());
    let message = Message::parse(decoder.next_frame().expect("frame").expect("whole")).expect("message");
    assert_eq!(message.body(), &*rawdoc! { "text": text.as_str(), "$db": "admin" });
    let documents: Vec<&[u8]> = message.sequences[0].documents.iter().map(|document| &document[..]).collect();
    assert_eq!(documents, request.sequences[0].1.iter().map(|document| document.document().as_bytes()).collect::<Vec<_>>());
    out.clear();
    assert!(out.is_empty() && out.pieces().next().is_none());
}

#[test]
fn every_split_of_the_bytes_gives_the_same_frames() {
    let one = encoded(&with_sequence(), Flags::default());
    let bytes = [one.clone(), one.clone()].concat();
    for size in 1..bytes.len() {
        let mut decoder = Decoder::new(1000);
        let mut frames = 0;
        for chunk in bytes.chunks(size) {
            decoder.buffer().extend_from_slice(chunk);
            while let Some(frame) = decoder.next_frame().expect("frames") {
                frames += 1;
                assert_eq!(Message::parse(frame).expect("message").sequences[0].documents.len(), 3);
            }
        }
        assert_eq!(frames, 2, "chunks of {size}");
        assert!(decoder.is_empty());
    }
}

/// Messages up to 1024 bytes are copied out of the buffer, larger ones share it.
#[test]
fn small_and_large_frames_follow_each_other_in_any_split() {
    let frame = |size: usize, id: i32| {
        let words = [i32::try_from(size).expect("short"), id, -id, op_code::MSG].map(i32::to_le_bytes);
        [words.as_flattened(), &vec![0xa5; size - HEADER_SIZE]].concat()
    };
    let sizes = [16, 1024, 1025, 17, 3000, 1024];
    let bytes: Vec<u8> = sizes.iter().zip(1..).flat_map(|(size, id)| frame(*size, id)).collect();
    for chunk_size in (1..70).chain([1023, 1024, 1025, bytes.len()]) {
        let mut decoder = Decoder::new(5000);
        let mut frames = Vec::new();
        for chunk in bytes.chunks(chunk_size) {
            decoder.buffer().extend_from_slice(chunk);
            while let Some(frame) = decoder.next_frame().expect("frames") {
                assert!(frame.op_code == op_code::MSG && frame.payload.iter().all(|byte| *byte == 0xa5));
                frames.push((frame.payload.len() + HEADER_SIZE, frame.request_id, frame.response_to));
            }
        }
        let expected: Vec<_> = sizes.iter().zip(1..).map(|(size, id)| (*size, id, -id)).collect();
        assert_eq!(frames, expected, "chunks of {chunk_size}");
        assert!(decoder.is_empty());
    }
}

#[test]
fn lengths_are_checked_before_anything_is_allocated() {
    for (length, text) in
        [(0x7fff_ffff_u32, "limit maxMessageSizeBytes of 1000 bytes"), (15, "length 15"), (0xffff_ffff, "length -1"), (0, "length 0")]
    {
        let mut decoder = Decoder::new(1000);
        decoder.buffer().extend_from_slice(&length.to_le_bytes());
        let error = decoder.next_frame().expect_err("refusal");
        assert!(error.to_string().contains(text), "{error}");
        assert!(decoder.buffer().capacity() < 1000);
    }
}

#[test]
fn required_flags_are_checked() {
    let plain = encoded(&with_sequence(), Flags::default());
    assert!(refusal(plain.clone(), |bytes| bytes[16] = 4).contains("unknown required flags 0x4"));
    let optional = Flags::EXHAUST_ALLOWED.and(Flags(1 << 30)).and(Flags::MORE_TO_COME);
    let message = decoded(&encoded(&with_sequence(), optional)).expect("optional flags are ignored");
    assert!(message.flags.has(Flags::MORE_TO_COME));
    let mut summed = encoded(&with_sequence(), Flags::CHECKSUM_PRESENT);
    summed.extend_from_slice(&[1, 2, 3, 4]);
    let length = u32::try_from(summed.len()).expect("short");
    summed[..4].copy_from_slice(&length.to_le_bytes());
    assert_eq!(decoded(&summed).expect("checksum").sequences.len(), 1);
}

#[test]
fn broken_sections_are_refused() {
    let plain = encoded(&rawdoc! { "ping": 1 }.into(), Flags::default());
    assert!(refusal(plain.clone(), |bytes| bytes[20] = 9).contains("unknown kind 9"));
    assert!(refusal(plain.clone(), |bytes| bytes.truncate(20)).contains("without a body"));
    assert!(refusal(plain.clone(), |bytes| bytes.truncate(18)).contains("before its flags"));
    assert!(refusal(plain.clone(), |bytes| bytes.truncate(23)).contains("before a document's length"));
    assert!(refusal(plain.clone(), |bytes| bytes.truncate(30)).contains("bytes are left"));
    assert!(refusal(plain.clone(), |bytes| bytes.extend_from_within(20..)).contains("two bodies"));
    assert!(refusal(plain.clone(), |bytes| bytes[12] = 1).contains("op code"));
    let two = encoded(&with_sequence(), Flags::default());
    let sequence = two.len() - 1 - 4 - 10 - 3 * 12;
    assert!(refusal(two, |bytes| bytes.extend_from_within(sequence..)).contains("two sequences"));
}

#[test]
fn sequences_are_counted() {
    let with = |sequences: usize, documents: usize| {
        let list = || (0..documents).map(|_| InputDocument::from(rawdoc! {})).collect();
        let sequences = (0..sequences).map(|number| (number.to_string(), list())).collect();
        let bytes = encoded(&Request { body: rawdoc! { "x": 1 }.into(), sequences }, Flags::default());
        let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
        decoder.buffer().extend_from_slice(&bytes);
        Message::parse(decoder.next_frame().expect("a frame").expect("whole")).map(|message| message.sequences.len())
    };
    assert_eq!(with(SEQUENCES_MAX, 1).expect("as many as may be"), SEQUENCES_MAX);
    assert!(with(80_000, 0).expect_err("too many").to_string().contains("limit SEQUENCES_MAX of 16"));
    let error = with(1, SEQUENCE_DOCUMENTS_MAX + 1).expect_err("too many");
    assert!(error.to_string().contains("limit SEQUENCE_DOCUMENTS_MAX of 200000"), "{error}");
}

#[test]
fn random_bytes_never_panic() {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::SmallRng::seed_from_u64(1);
    let plain = encoded(&with_sequence(), Flags::default());
    for _ in 0..20_000 {
        let mut bytes = plain.clone();
        for _ in 0..random.random_range(1..6) {
            let place = random.random_range(4..bytes.len());
            bytes[place] = random.random();
        }
        drop(decoded(&bytes));
    }
}
