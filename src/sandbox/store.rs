//! The documents in memory, shared by all members of a set, and the cursors of one member.
//!
//! Bounded: a document beyond a limit is refused with the limit's name. Does not decide which member may read or write
//! (`dispatch`).

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::failure::{CommandRefusal, code};
use super::query::{Filter, Sort};
use super::{COLLECTIONS_MAX, CURSORS_MAX, STORE_DOCUMENTS_MAX, STORE_SIZE_MAX};
use crate::wire::DOCUMENT_SIZE_MAX;

/// The documents of all collections.
#[derive(Default)]
pub(super) struct Store {
    collections: BTreeMap<String, Collection>,
    documents: usize,
    size_bytes: usize,
    next_place: u64,
}

#[derive(Default)]
struct Collection {
    documents: BTreeMap<u64, Stored>,
    ids: BTreeMap<Vec<u8>, u64>,
}

struct Stored {
    document: Document,
    size_bytes: usize,
}

impl Store {
    /// Inserts a document, and prepends an `_id` if it has none.
    pub(super) fn insert(&mut self, namespace: &str, mut document: Document, random: &mut SmallRng) -> Result<(), CommandRefusal> {
        if !document.contains_key("_id") {
            let mut whole = doc! { "_id": random_id(random) };
            whole.extend(document);
            document = whole;
        }
        let id = document.get("_id").map(id_key).unwrap_or_default();
        let size_bytes = self.admit(namespace, &document, 1)?;
        let collection = self.collections.entry(namespace.to_owned()).or_default();
        if collection.ids.contains_key(&id) {
            let id = document.get("_id").cloned().unwrap_or(Bson::Null);
            let text = format!("E11000 duplicate key error collection: {namespace} index: _id_ dup key: {{ _id: {id} }}");
            return Err(CommandRefusal::new(code::DUPLICATE_KEY, text));
        }
        collection.ids.insert(id, self.next_place);
        collection.documents.insert(self.next_place, Stored { document, size_bytes });
        self.next_place += 1;
        self.documents += 1;
        self.size_bytes += size_bytes;
        Ok(())
    }

    /// Replaces a document; `_id` stays.
    pub(super) fn replace(&mut self, namespace: &str, place: u64, document: Document) -> Result<(), CommandRefusal> {
        let size_bytes = self.admit(namespace, &document, 0)?;
        let Some(stored) = self.collections.get_mut(namespace).and_then(|collection| collection.documents.get_mut(&place)) else {
            return Ok(());
        };
        if stored.document.get("_id") != document.get("_id") {
            return Err(CommandRefusal::new(66, "Performing an update on the path '_id' would modify the immutable field '_id'"));
        }
        self.size_bytes = self.size_bytes.saturating_sub(stored.size_bytes) + size_bytes;
        *stored = Stored { document, size_bytes };
        Ok(())
    }

    pub(super) fn remove(&mut self, namespace: &str, place: u64) {
        let Some(collection) = self.collections.get_mut(namespace) else { return };
        if let Some(stored) = collection.documents.remove(&place) {
            if let Some(id) = stored.document.get("_id") {
                collection.ids.remove(&id_key(id));
            }
            self.documents -= 1;
            self.size_bytes = self.size_bytes.saturating_sub(stored.size_bytes);
        }
    }

    /// Drops a collection; returns whether it existed.
    pub(super) fn drop_collection(&mut self, namespace: &str) -> bool {
        let Some(collection) = self.collections.remove(namespace) else { return false };
        self.documents -= collection.documents.len();
        let size: usize = collection.documents.values().map(|stored| stored.size_bytes).sum();
        self.size_bytes = self.size_bytes.saturating_sub(size);
        true
    }

    /// Returns the names of a database's collections.
    pub(super) fn collection_names(&self, database: &str) -> Vec<String> {
        let names = self.collections.keys().filter_map(|namespace| namespace.strip_prefix(database)?.strip_prefix('.'));
        names.map(str::to_owned).collect()
    }

    pub(super) fn get(&self, namespace: &str, place: u64) -> Option<&Document> {
        Some(&self.collections.get(namespace)?.documents.get(&place)?.document)
    }

    /// Returns a copy of a document, and its size in bytes.
    pub(super) fn get_sized(&self, namespace: &str, place: u64) -> Option<(Document, usize)> {
        let stored = self.collections.get(namespace)?.documents.get(&place)?;
        Some((stored.document.clone(), stored.size_bytes))
    }

    /// Returns the positions of the matching documents, in order.
    pub(super) fn select(&self, namespace: &str, filter: &Filter, sort: Option<&Sort>) -> VecDeque<u64> {
        let Some(collection) = self.collections.get(namespace) else { return VecDeque::new() };
        let matching = |place: &u64| collection.documents.get(place).is_some_and(|stored| filter.matches(&stored.document));
        if let Some(id) = filter.id() {
            return collection.ids.get(&id_key(id)).copied().filter(|place| matching(place)).into_iter().collect();
        }
        let Some(sort) = sort else { return collection.documents.keys().copied().filter(|place| matching(place)).collect() };
        let mut found: Vec<(u64, &Document)> = collection
            .documents
            .iter()
            .filter(|(_, stored)| filter.matches(&stored.document))
            .map(|(place, stored)| (*place, &stored.document))
            .collect();
        found.sort_by(|(_, left), (_, right)| sort.order(left, right));
        found.into_iter().map(|(place, _)| place).collect()
    }

    /// Checks the limits for a document to be stored, and returns its size.
    fn admit(&self, namespace: &str, document: &Document, more: usize) -> Result<usize, CommandRefusal> {
        let size = document.to_vec().map(|bytes| bytes.len()).map_err(|error| CommandRefusal::bad_value(error.to_string()))?;
        let size_max = usize::try_from(DOCUMENT_SIZE_MAX).unwrap_or(usize::MAX);
        if size > size_max {
            let text = format!("object to insert too large. size in bytes: {size}, max size: {size_max}");
            return Err(CommandRefusal::new(code::DOCUMENT_TOO_LARGE, text));
        }
        let full = |limit: &str, value: usize| {
            Err(CommandRefusal::new(code::OUT_OF_DISK_SPACE, format!("the sandbox is full (limit {limit} of {value})")))
        };
        if self.documents + more > STORE_DOCUMENTS_MAX {
            return full("STORE_DOCUMENTS_MAX", STORE_DOCUMENTS_MAX);
        }
        if self.size_bytes + size > STORE_SIZE_MAX {
            return full("STORE_SIZE_MAX", STORE_SIZE_MAX);
        }
        if !self.collections.contains_key(namespace) && self.collections.len() >= COLLECTIONS_MAX {
            return full("COLLECTIONS_MAX", COLLECTIONS_MAX);
        }
        Ok(size)
    }
}

/// Returns the key of an `_id`; integers of all types compare equal.
fn id_key(id: &Bson) -> Vec<u8> {
    match super::call::integer(id) {
        Some(number) => number.to_be_bytes().to_vec(),
        None => doc! { "": id.clone() }.to_vec().unwrap_or_default(),
    }
}

pub(super) fn random_id(random: &mut SmallRng) -> ObjectId {
    ObjectId::from_bytes(random.random())
}

/// The open cursors of one member.
#[derive(Default)]
pub(super) struct Cursors {
    open: BTreeMap<i64, OpenCursor>,
    sweep_due: Option<Instant>,
}

/// An open cursor with its remaining documents.
pub(super) struct OpenCursor {
    pub(super) namespace: String,
    pub(super) places: VecDeque<u64>,
    /// The position of a tailable cursor.
    pub(super) tail: Option<Tail>,
    /// The session in which it was opened.
    pub(super) session: Option<Vec<u8>>,
    idle_since: Instant,
}

/// The position of a tailable cursor, which stays open at the end.
pub(super) struct Tail {
    pub(super) filter: Filter,
    /// The last document that it has found.
    pub(super) last: Option<u64>,
}

/// The lifetime of an idle cursor, as in mongod.
pub(super) const CURSOR_IDLE_MAX: Duration = Duration::from_secs(600);

impl OpenCursor {
    pub(super) fn new(namespace: &str, places: VecDeque<u64>, session: Option<Vec<u8>>, now: Instant) -> Self {
        Self { namespace: namespace.to_owned(), places, tail: None, session, idle_since: now }
    }

    /// Returns mongod's refusal of a getMore that does not run in the session of its cursor; killCursors may run in any.
    pub(super) fn check_session(&self, id: i64, session: Option<&[u8]>) -> Result<(), CommandRefusal> {
        let refusal = |code, text| Err(CommandRefusal::new(code, format!("Cannot run getMore on cursor {id}, which was {text}")));
        match (self.session.as_deref(), session) {
            (own, other) if own == other => Ok(()),
            (Some(own), Some(other)) => {
                let text = format!("created in session {}, in session {}", session_text(own), session_text(other));
                refusal(code::CURSOR_IN_ANOTHER_SESSION, text)
            }
            (Some(own), None) => {
                refusal(code::GET_MORE_WITHOUT_SESSION, format!("created in session {}, without an lsid", session_text(own)))
            }
            (None, other) => {
                let session = session_text(other.unwrap_or_default());
                refusal(code::CURSOR_WITHOUT_SESSION, format!("not created in a session, in session {session}"))
            }
        }
    }
}

/// Returns a session id as mongod writes it: a UUID where it has the length of one.
fn session_text(id: &[u8]) -> String {
    match <[u8; 16]>::try_from(id) {
        Ok(bytes) => bson::Uuid::from_bytes(bytes).to_string(),
        Err(_) => format!("{id:02x?}"),
    }
}

impl Cursors {
    /// Opens a cursor, and returns its id.
    pub(super) fn open(&mut self, cursor: OpenCursor, random: &mut SmallRng, now: Instant) -> Result<i64, CommandRefusal> {
        if self.open.len() >= CURSORS_MAX {
            let text = format!("too many open cursors (limit CURSORS_MAX of {CURSORS_MAX})");
            return Err(CommandRefusal::new(code::OUT_OF_DISK_SPACE, text));
        }
        let id = loop {
            let id = random.random_range(1..i64::MAX);
            if !self.open.contains_key(&id) {
                break id;
            }
        };
        self.put_back(id, cursor, now);
        Ok(id)
    }

    /// Removes a cursor; the caller puts it back if it has more documents.
    pub(super) fn take(&mut self, id: i64) -> Option<OpenCursor> {
        self.open.remove(&id)
    }

    pub(super) fn put_back(&mut self, id: i64, cursor: OpenCursor, now: Instant) {
        self.open.insert(id, OpenCursor { idle_since: now, ..cursor });
        self.sweep_due.get_or_insert(now + CURSOR_IDLE_MAX);
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Closes the cursors of a session.
    pub(super) fn end_session(&mut self, session: &[u8]) {
        self.open.retain(|_, cursor| cursor.session.as_deref() != Some(session));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.sweep_due
    }

    /// Closes the cursors that have been idle for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.sweep_due.is_none_or(|due| due > now) {
            return;
        }
        self.open.retain(|_, cursor| cursor.idle_since + CURSOR_IDLE_MAX > now);
        self.sweep_due = self.open.values().map(|cursor| cursor.idle_since + CURSOR_IDLE_MAX).min();
    }
}
