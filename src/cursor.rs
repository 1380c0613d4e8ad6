//! Cursor replies, and the getMore and killCursors commands.
//!
//! Follows run-command ("Cursors") and find_getmore_killcursors_commands: id and namespace are taken from every reply; an empty
//! batch with an id is not the end. Does not decide when a batch is fetched (`client::cursor`).

use std::time::Duration;

use bson::{Bson, RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Stage};
use crate::wire::scan::Fields;

/// One batch of a cursor's documents, within its reply.
#[derive(Debug)]
pub struct Batch {
    reply: Bytes,
    /// The offsets in the reply of the next document and of the batch's end.
    next: usize,
    end: usize,
    remaining: usize,
}

/// The state of a cursor on the server: its id and namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorState {
    /// The cursor's id; 0 once the server has closed it.
    pub id: i64,
    /// Its database.
    pub database: String,
    /// Its collection.
    pub collection: String,
}

/// The options of each getMore; nothing is inherited from the command that opened the cursor.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GetMoreOptions {
    /// The maximum number of documents in a batch.
    pub batch_size: Option<u32>,
    /// How long the server waits for documents (`maxTimeMS`), for tailable cursors that await data.
    pub max_time: Option<Duration>,
    /// A comment.
    pub comment: Option<Bson>,
}

/// The pauses between a cursor's getMore commands while its batches are empty, as at the end of a tailable cursor.
#[derive(Debug, Default)]
pub struct EmptyBatches {
    /// The last pause.
    pause: Option<Duration>,
}

/// The pause after the first empty batch: longer than a round trip, and hardly noticeable.
pub const EMPTY_BATCH_PAUSE_MIN: Duration = Duration::from_millis(10);

/// The longest pause after an empty batch: two getMore commands a second are cheap for a server.
pub const EMPTY_BATCH_PAUSE_MAX: Duration = Duration::from_millis(500);

impl EmptyBatches {
    /// Handles a batch and the time that the server took for it. Returns the pause before the next getMore.
    ///
    /// The pause doubles with each empty batch. The server's time counts: a server that awaits data needs no pause, nor does
    /// one that waited as long as `max_time`.
    pub fn handle_batch(&mut self, is_empty: bool, took: Duration, max_time: Option<Duration>) -> Option<Duration> {
        if !is_empty {
            self.pause = None;
            return None;
        }
        if max_time.is_some_and(|asked| !asked.is_zero() && took >= asked.max(EMPTY_BATCH_PAUSE_MIN)) {
            return None;
        }
        let pause = self.pause.map_or(EMPTY_BATCH_PAUSE_MIN, |last| (last * 2).min(EMPTY_BATCH_PAUSE_MAX));
        self.pause = Some(pause);
        pause.checked_sub(took).filter(|rest| !rest.is_zero())
    }
}

impl CursorState {
    /// Parses the cursor of a reply, and its batch.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if the reply has no `cursor`, or an invalid one.
    pub fn parse(reply: Bytes) -> Result<(Self, Batch), Error> {
        let document = RawDocument::from_bytes(&reply).map_err(|error| malformed(error.to_string()))?;
        let cursor = Fields::find(document, "cursor").and_then(|cursor| cursor.document()).ok_or_else(|| malformed("no cursor"))?;
        let field = |key: &str| Fields::find(cursor, key).ok_or_else(|| malformed(format!("cursor.{key} is missing")));
        let id = field("id")?.integer().ok_or_else(|| malformed("cursor.id is not a number"))?;
        let namespace = field("ns")?.text().ok_or_else(|| malformed("cursor.ns is not a string"))?;
        let (database, collection) = namespace.split_once('.').ok_or_else(|| malformed("cursor.ns has no dot"))?;
        let state = Self { id, database: database.to_owned(), collection: collection.to_owned() };
        let batch = field("firstBatch").or_else(|_| field("nextBatch"))?;
        let mut remaining = 0;
        for element in batch.elements().ok_or_else(|| malformed("the batch is not an array"))? {
            let element = element.map_err(|_| malformed("the batch is not valid BSON"))?;
            element.document().ok_or_else(|| malformed("an element of the batch is not a document"))?;
            remaining += 1;
        }
        let start = offset(&reply, batch.value).ok_or_else(|| malformed("the batch lies outside of its reply"))?;
        Ok((state, Batch { next: start + 4, end: start + batch.value.len(), remaining, reply }))
    }

    /// Returns the cursor that a reply opens and leaves open; `None` for the reply of a getMore.
    pub fn opened_by(reply: &RawDocument) -> Option<Self> {
        let cursor = Fields::find(reply, "cursor")?.document()?;
        Fields::find(cursor, "firstBatch")?;
        let id = Fields::find(cursor, "id")?.integer().filter(|id| *id != 0)?;
        let namespace = Fields::find(cursor, "ns")?.text()?;
        let (database, collection) = namespace.split_once('.')?;
        Some(Self { id, database: database.to_owned(), collection: collection.to_owned() })
    }

    /// Builds the getMore command.
    pub fn get_more(&self, options: &GetMoreOptions) -> RawDocumentBuf {
        let mut command = rawdoc! { "getMore": self.id, "collection": self.collection.as_str() };
        if let Some(size) = options.batch_size.filter(|size| *size > 0) {
            command.append(bson::raw::cstr!("batchSize"), i64::from(size));
        }
        if let Some(span) = options.max_time {
            command.append(bson::raw::cstr!("maxTimeMS"), i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
        }
        if let Some(comment) = options.comment.clone().and_then(|comment| bson::RawBson::try_from(comment).ok()) {
            command.append(bson::raw::cstr!("comment"), comment);
        }
        command
    }

    /// Builds the killCursors command.
    pub fn kill(&self) -> RawDocumentBuf {
        let mut ids = RawArrayBuf::new();
        ids.push(self.id);
        rawdoc! { "killCursors": self.collection.as_str(), "cursors": ids }
    }
}

impl Batch {
    /// Takes the next document; its bytes share the reply's buffer.
    pub fn next_document(&mut self) -> Option<Bytes> {
        if self.remaining == 0 {
            return None;
        }
        // An array is a document with numeric keys: type, key, terminator, value. `parse` has scanned it before.
        let element = self.reply.get(self.next..self.end)?;
        let key = element.get(1..)?.iter().position(|byte| *byte == 0)?;
        let start = self.next + 1 + key + 1;
        let length = self.reply.get(start..)?.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize)?;
        let end = start.checked_add(length).filter(|end| *end <= self.end)?;
        self.next = end;
        self.remaining -= 1;
        Some(self.reply.slice(start..end))
    }

    /// Returns the number of remaining documents.
    #[cfg(any(test, feature = "internals"))]
    pub fn len(&self) -> usize {
        self.remaining
    }

    /// Returns whether no document is left.
    pub fn is_empty(&self) -> bool {
        self.remaining == 0
    }
}

/// Returns the offsets of `part` within `whole`.
fn offset(whole: &[u8], part: &[u8]) -> Option<usize> {
    let range = whole.as_ptr_range();
    let start = part.as_ptr();
    (range.contains(&start)).then(|| start.addr() - range.start.addr())
}

fn malformed(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, format!("not a cursor's reply: {}", why.into())).at(Stage::Read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: i64, key: &str) -> Bytes {
        let mut batch = RawArrayBuf::new();
        for n in 0..12 {
            batch.push(rawdoc! { "n": n });
        }
        let mut cursor = rawdoc! { "id": id, "ns": "db.some.things" };
        cursor.append(if key == "firstBatch" { bson::raw::cstr!("firstBatch") } else { bson::raw::cstr!("nextBatch") }, batch);
        Bytes::from(rawdoc! { "ok": 1, "cursor": cursor, "tail": "x" }.into_bytes())
    }

    #[test]
    fn documents_are_slices_of_the_reply() {
        for key in ["firstBatch", "nextBatch"] {
            let (state, mut batch) = CursorState::parse(reply(7, key)).expect("cursor");
            assert_eq!(state, CursorState { id: 7, database: "db".into(), collection: "some.things".into() });
            let numbers: Vec<i32> = std::iter::from_fn(|| batch.next_document())
                .map(|bytes| RawDocument::from_bytes(&bytes).map(|document| document.get_i32("n").expect("n")).expect("document"))
                .collect();
            assert_eq!(numbers, (0..12).collect::<Vec<_>>());
            assert!(batch.is_empty());
        }
    }

    #[test]
    fn next_commands_name_cursor_and_collection() {
        let (state, _) = CursorState::parse(reply(7, "firstBatch")).expect("cursor");
        assert_eq!(
            state.get_more(&GetMoreOptions { batch_size: Some(3), ..Default::default() }),
            rawdoc! { "getMore": 7_i64, "collection": "some.things", "batchSize": 3_i64 }
        );
        assert_eq!(
            state.get_more(&GetMoreOptions { batch_size: Some(0), ..Default::default() }),
            rawdoc! { "getMore": 7_i64, "collection": "some.things" }
        );
        assert_eq!(state.kill(), rawdoc! { "killCursors": "some.things", "cursors": [7_i64] });
    }

    #[test]
    fn cursor_is_read_whatever_stands_beside_it() {
        let mut bytes = rawdoc! { "QQ": "QQ", "ok": 1, "cursor": { "x": "QQ", "id": 7.0, "ns": "db.things", "firstBatch": [{ "x": "QQ" }, { "n": 1 }] } }.into_bytes();
        while let Some(place) = bytes.windows(2).position(|bytes| bytes == b"QQ") {
            bytes[place] = 0xff;
        }
        let (state, batch) = CursorState::parse(Bytes::from(bytes)).expect("cursor");
        assert_eq!((state.id, batch.len()), (7, 2));
    }

    #[test]
    fn pause_after_empty_batches_grows_until_a_document_comes() {
        let (ms, at_once) = (Duration::from_millis, Duration::ZERO);
        let mut batches = EmptyBatches::default();
        let pauses = |batches: &mut EmptyBatches| (0..8).map(|_| batches.handle_batch(true, at_once, None)).collect::<Vec<_>>();
        let grown = [10, 20, 40, 80, 160, 320, 500, 500].map(|pause| Some(ms(pause)));
        assert_eq!(pauses(&mut batches), grown);
        assert_eq!(batches.handle_batch(false, at_once, None), None);
        assert_eq!(pauses(&mut batches), grown);
    }

    #[test]
    fn time_that_the_server_waits_is_part_of_the_pause() {
        let ms = Duration::from_millis;
        let mut batches = EmptyBatches::default();
        assert_eq!(batches.handle_batch(true, ms(3), None), Some(ms(7)));
        assert_eq!(batches.handle_batch(true, ms(1000), None), None);
        // A server that waits as long as it was asked to is asked again at once; one that does not is not.
        for _ in 0..100 {
            assert_eq!(batches.handle_batch(true, ms(50), Some(ms(50))), None);
        }
        assert_eq!(batches.handle_batch(true, ms(4), Some(ms(50))), Some(ms(36)));
        assert_eq!(batches.handle_batch(true, ms(1), Some(ms(1))), Some(ms(79)));
        assert_eq!(batches.handle_batch(true, ms(0), Some(ms(0))), Some(ms(160)));
    }

    #[test]
    fn only_a_reply_that_opens_a_cursor_names_one_to_kill() {
        let cursor = |reply: &Bytes| CursorState::opened_by(RawDocument::from_bytes(reply).expect("a document"));
        let opened = CursorState { id: 7, database: "db".into(), collection: "some.things".into() };
        assert_eq!(cursor(&reply(7, "firstBatch")), Some(opened));
        for other in [reply(0, "firstBatch"), reply(7, "nextBatch"), Bytes::from(rawdoc! { "ok": 0, "cursor": 1 }.into_bytes())] {
            assert_eq!(cursor(&other), None);
        }
    }

    #[test]
    fn replies_without_a_cursor_are_refused() {
        for document in [
            rawdoc! { "ok": 1 },
            rawdoc! { "cursor": 1 },
            rawdoc! { "cursor": { "id": 1_i64, "ns": "x.y" } },
            rawdoc! { "cursor": { "id": "a", "ns": "x.y", "firstBatch": [] } },
            rawdoc! { "cursor": { "id": 0_i64, "ns": "x.y", "firstBatch": [1] } },
            rawdoc! { "cursor": { "id": 0_i64, "ns": "xy", "firstBatch": [] } },
        ] {
            let error = CursorState::parse(Bytes::from(document.into_bytes())).expect_err("refusal");
            assert_eq!(error.kind(), ErrorKind::Protocol);
        }
    }
}
