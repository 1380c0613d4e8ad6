//! Reads and writes.
//!
//! insert, update, delete and drop; find, getMore, killCursors, count and listCollections, with the features that clients and
//! tests need. Does not decide whether a member may execute them (`dispatch`).

use std::collections::VecDeque;
use std::time::Instant;

use bson::{Bson, Document, doc};

use super::call::{ReceivedCommand, integer, truth};
use super::cluster::{At, FakeDeployment};
use super::failure::{CommandRefusal, code};
use super::hello::WRITE_BATCH_MAX;
use super::query::{Filter, Sort};
use super::retried::Retried;
use super::store::{OpenCursor, Tail};
use crate::wire::DOCUMENT_SIZE_MAX;

/// The default number of documents in the first batch.
const FIRST_BATCH: usize = 101;

/// The result of a write with several statements.
#[derive(Default)]
struct Tally {
    matched: i32,
    modified: i32,
    upserted: Vec<Document>,
    errors: Vec<Document>,
}

impl FakeDeployment {
    pub(super) fn run_write(&mut self, database: &str, call: &mut ReceivedCommand, now: Instant) -> Result<Document, CommandRefusal> {
        let namespace = namespace(database, call, &call.name)?;
        let write = Retried::id_of(call)?;
        if let Some(write) = &write
            && let Some(reply) = self.retried.reply(write)?
        {
            return Ok(reply);
        }
        let mut reply = match call.name.as_str() {
            "insert" => self.insert(&namespace, call)?,
            "update" => self.update(&namespace, call)?,
            "delete" => self.delete(&namespace, call)?,
            _ => self.drop_collection(&namespace)?,
        };
        self.time.advance(now);
        if let Some(error) = self.check_write_concern(call) {
            reply.insert("writeConcernError", error);
        }
        if let Some(write) = write {
            self.retried.remember(write, &reply);
        }
        Ok(reply)
    }

    pub(super) fn run_read(
        &mut self,
        at: At,
        database: &str,
        call: &mut ReceivedCommand,
        now: Instant,
    ) -> Result<Document, CommandRefusal> {
        match call.name.as_str() {
            "find" => self.find(at, database, call, now),
            "getMore" => self.get_more(at, database, call, now),
            "killCursors" => self.kill_cursors(at, call),
            "count" => self.count(database, call),
            _ => Ok(self.list_collections(database)),
        }
    }

    fn insert(&mut self, namespace: &str, call: &mut ReceivedCommand) -> Result<Document, CommandRefusal> {
        let documents = statements(call, "documents")?;
        let ordered = call.body.get("ordered").is_none_or(truth);
        let mut inserted = 0;
        let mut tally = Tally::default();
        for (index, document) in documents.into_iter().enumerate() {
            match self.store.insert(namespace, document, &mut self.random) {
                Ok(()) => inserted += 1,
                Err(failure) => {
                    tally.fail(index, &failure);
                    if ordered {
                        break;
                    }
                }
            }
        }
        tally.matched = inserted;
        Ok(tally.into_reply(false))
    }

    fn update(&mut self, namespace: &str, call: &mut ReceivedCommand) -> Result<Document, CommandRefusal> {
        let updates = statements(call, "updates")?;
        let ordered = call.body.get("ordered").is_none_or(truth);
        let mut tally = Tally::default();
        for (index, update) in updates.iter().enumerate() {
            if let Err(failure) = self.update_one(namespace, index, update, &mut tally) {
                tally.fail(index, &failure);
                if ordered {
                    break;
                }
            }
        }
        Ok(tally.into_reply(true))
    }

    fn update_one(&mut self, namespace: &str, index: usize, update: &Document, tally: &mut Tally) -> Result<(), CommandRefusal> {
        let empty = Document::new();
        let filter = Filter::parse(update.get_document("q").unwrap_or(&empty))?;
        let change = update.get_document("u").map_err(|_| CommandRefusal::unsupported("an update that is no document"))?;
        let multi = update.get("multi").is_some_and(truth);
        let mut places = self.store.select(namespace, &filter, None);
        if !multi {
            places.truncate(1);
        }
        if places.is_empty() && update.get("upsert").is_some_and(truth) {
            let mut document = changed(&filter.equalities(), change)?;
            let id = document.entry("_id").or_insert_with(|| super::store::random_id(&mut self.random).into()).clone();
            self.store.insert(namespace, document, &mut self.random)?;
            tally.matched += 1;
            tally.upserted.push(doc! { "index": count(index), "_id": id });
            return Ok(());
        }
        for place in places {
            let Some(before) = self.store.get(namespace, place) else { continue };
            let after = changed(before, change)?;
            let differs = *before != after;
            tally.matched += 1;
            if differs {
                self.store.replace(namespace, place, after)?;
                tally.modified += 1;
            }
        }
        Ok(())
    }

    fn delete(&mut self, namespace: &str, call: &mut ReceivedCommand) -> Result<Document, CommandRefusal> {
        let mut tally = Tally::default();
        let ordered = call.body.get("ordered").is_none_or(truth);
        let empty = Document::new();
        for (index, delete) in statements(call, "deletes")?.iter().enumerate() {
            let filter = match Filter::parse(delete.get_document("q").unwrap_or(&empty)) {
                Ok(filter) => filter,
                Err(failure) => {
                    tally.fail(index, &failure);
                    if ordered {
                        break;
                    }
                    continue;
                }
            };
            let mut places = self.store.select(namespace, &filter, None);
            if delete.get("limit").and_then(integer) == Some(1) {
                places.truncate(1);
            }
            for place in places {
                self.store.remove(namespace, place);
                tally.matched = tally.matched.saturating_add(1);
            }
        }
        Ok(tally.into_reply(false))
    }

    fn drop_collection(&mut self, namespace: &str) -> Result<Document, CommandRefusal> {
        if self.store.drop_collection(namespace) {
            Ok(doc! { "nIndexesWas": 1, "ns": namespace, "ok": 1.0 })
        } else {
            Err(CommandRefusal::new(code::NAMESPACE_NOT_FOUND, "ns not found"))
        }
    }

    fn find(&mut self, at: At, database: &str, call: &ReceivedCommand, now: Instant) -> Result<Document, CommandRefusal> {
        let namespace = namespace(database, call, "find")?;
        for field in ["projection", "collation", "min", "max", "awaitData", "returnKey", "showRecordId"] {
            let asked =
                call.body.get(field).is_some_and(|value| truth(value) || value.as_document().is_some_and(|value| !value.is_empty()));
            if asked {
                return Err(CommandRefusal::unsupported(format_args!("{field:?} of find")));
            }
        }
        let empty = Document::new();
        let filter = Filter::parse(call.body.get_document("filter").unwrap_or(&empty))?;
        let sort = Sort::parse(call.body.get_document("sort").unwrap_or(&empty))?;
        let skip = size(call, "skip")?.unwrap_or(0);
        let limit = size(call, "limit")?.filter(|limit| *limit > 0);
        let batch = size(call, "batchSize")?.unwrap_or(FIRST_BATCH);
        let mut places = self.store.select(&namespace, &filter, sort.as_ref());
        places.drain(..skip.min(places.len()));
        if let Some(limit) = limit {
            places.truncate(limit);
        }
        let last = places.back().copied();
        let first = self.batch(&namespace, &mut places, batch);
        let single = call.body.get("singleBatch").is_some_and(truth);
        let tailable = call.body.get("tailable").is_some_and(truth);
        let exhausted = single || (places.is_empty() && batch > 0 && !tailable);
        let mut cursor = OpenCursor::new(&namespace, places, call.session().map(<[u8]>::to_vec), now);
        cursor.tail = tailable.then_some(Tail { filter, last });
        let id = match self.members.get_mut(at.member) {
            Some(member) if !exhausted => member.cursors.open(cursor, &mut self.random, now)?,
            Some(_) | None => 0,
        };
        Ok(doc! { "cursor": { "firstBatch": first, "id": id, "ns": namespace }, "ok": 1.0 })
    }

    fn get_more(&mut self, at: At, database: &str, call: &ReceivedCommand, now: Instant) -> Result<Document, CommandRefusal> {
        let id =
            call.body.get("getMore").and_then(integer).ok_or_else(|| CommandRefusal::new(code::TYPE_MISMATCH, "getMore is no number"))?;
        let namespace = namespace(database, call, "collection")?;
        let batch = size(call, "batchSize")?.filter(|batch| *batch > 0).unwrap_or(usize::MAX);
        let unknown = || CommandRefusal::new(code::CURSOR_NOT_FOUND, format!("cursor id {id} not found"));
        let member = self.members.get_mut(at.member).ok_or_else(unknown)?;
        let mut cursor = member.cursors.take(id).ok_or_else(unknown)?;
        if cursor.namespace != namespace {
            let text =
                format!("Requested getMore on namespace '{namespace}', but cursor belongs to a different namespace {}", cursor.namespace);
            member.cursors.put_back(id, cursor, now);
            return Err(CommandRefusal::new(code::UNAUTHORIZED, text));
        }
        if let Err(refusal) = cursor.check_session(id, call.session()) {
            member.cursors.put_back(id, cursor, now);
            return Err(refusal);
        }
        if let Some(tail) = &mut cursor.tail {
            let found = self.store.select(&namespace, &tail.filter, None);
            cursor.places.extend(found.into_iter().filter(|place| Some(*place) > tail.last));
            tail.last = cursor.places.back().copied().or(tail.last);
        }
        let next = self.batch(&namespace, &mut cursor.places, batch);
        let open = !cursor.places.is_empty() || cursor.tail.is_some();
        if open && let Some(member) = self.members.get_mut(at.member) {
            member.cursors.put_back(id, cursor, now);
        }
        Ok(doc! { "cursor": { "nextBatch": next, "id": if open { id } else { 0 }, "ns": namespace }, "ok": 1.0 })
    }

    fn kill_cursors(&mut self, at: At, call: &ReceivedCommand) -> Result<Document, CommandRefusal> {
        let ids = call.body.get_array("cursors").map_err(|_| CommandRefusal::new(code::TYPE_MISMATCH, "cursors is no array"))?;
        let (mut killed, mut missing) = (Vec::new(), Vec::new());
        for id in ids.iter().filter_map(integer) {
            let found = self.members.get_mut(at.member).is_some_and(|member| member.cursors.take(id).is_some());
            if found { killed.push(id) } else { missing.push(id) }
        }
        let none: Vec<Bson> = Vec::new();
        Ok(doc! { "cursorsKilled": killed, "cursorsNotFound": missing, "cursorsAlive": none.clone(), "cursorsUnknown": none, "ok": 1.0 })
    }

    fn count(&self, database: &str, call: &ReceivedCommand) -> Result<Document, CommandRefusal> {
        let namespace = namespace(database, call, "count")?;
        let empty = Document::new();
        let filter = Filter::parse(call.body.get_document("query").unwrap_or(&empty))?;
        let skip = size(call, "skip")?.unwrap_or(0);
        let limit = size(call, "limit")?.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let found = self.store.select(&namespace, &filter, None).len().saturating_sub(skip).min(limit);
        Ok(doc! { "n": count(found), "ok": 1.0 })
    }

    fn list_collections(&self, database: &str) -> Document {
        let names = self.store.collection_names(database).into_iter();
        let batch: Vec<Document> =
            names.map(|name| doc! { "name": name, "type": "collection", "options": {}, "info": { "readOnly": false } }).collect();
        doc! { "cursor": { "firstBatch": batch, "id": 0_i64, "ns": format!("{database}.$cmd.listCollections") }, "ok": 1.0 }
    }

    /// Takes the next documents of a cursor: at most the requested number, and no more than fit into one reply.
    fn batch(&self, namespace: &str, places: &mut VecDeque<u64>, count_max: usize) -> Vec<Bson> {
        let size_max = usize::try_from(DOCUMENT_SIZE_MAX).unwrap_or(usize::MAX);
        let mut batch = Vec::new();
        let mut size = 0_usize;
        while batch.len() < count_max
            && let Some(place) = places.front()
        {
            if let Some((document, size_bytes)) = self.store.get_sized(namespace, *place) {
                size = size.saturating_add(size_bytes);
                if size > size_max && !batch.is_empty() {
                    break;
                }
                batch.push(Bson::from(document));
            }
            places.pop_front();
        }
        batch
    }

    /// Returns the error of a write concern that a set of this size can't satisfy.
    fn check_write_concern(&self, call: &ReceivedCommand) -> Option<Document> {
        let wanted = integer(call.body.get_document("writeConcern").ok()?.get("w")?)?;
        let members = i64::try_from(self.members.len()).unwrap_or(i64::MAX);
        (wanted > members).then(|| {
            let code = code::UNSATISFIABLE_WRITE_CONCERN;
            doc! { "code": code, "codeName": "UnsatisfiableWriteConcern", "errmsg": "Not enough data-bearing nodes" }
        })
    }
}

impl Tally {
    fn fail(&mut self, index: usize, failure: &CommandRefusal) {
        self.errors.push(doc! { "index": count(index), "code": failure.code, "errmsg": failure.message.as_str() });
    }

    fn into_reply(self, update: bool) -> Document {
        let mut reply = doc! { "n": self.matched };
        if update {
            reply.insert("nModified", self.modified);
        }
        if !self.upserted.is_empty() {
            reply.insert("upserted", self.upserted);
        }
        if !self.errors.is_empty() {
            reply.insert("writeErrors", self.errors);
        }
        reply.insert("ok", 1.0);
        reply
    }
}

/// Takes the statements of a write, within the allowed number.
fn statements(call: &mut ReceivedCommand, key: &str) -> Result<Vec<Document>, CommandRefusal> {
    let text = format!("BSON field '{key}' is missing or no list of documents");
    let statements = call.take_documents(key).ok_or_else(|| CommandRefusal::new(code::TYPE_MISMATCH, text))?;
    if statements.is_empty() || statements.len() > WRITE_BATCH_MAX {
        let text = format!("Write batch sizes must be between 1 and {WRITE_BATCH_MAX}. Got {} operations.", statements.len());
        return Err(CommandRefusal::new(code::INVALID_LENGTH, text));
    }
    Ok(statements)
}

/// Applies an update: a whole document, or `$set`, `$unset`, `$inc` and `$setOnInsert` on top-level fields.
fn changed(before: &Document, change: &Document) -> Result<Document, CommandRefusal> {
    if !change.keys().next().is_some_and(|key| key.starts_with('$')) {
        let mut after = Document::new();
        if let Some(id) = before.get("_id") {
            after.insert("_id", id.clone());
        }
        after.extend(change.clone());
        return Ok(after);
    }
    let mut after = before.clone();
    for (operator, fields) in change {
        let fields = fields.as_document().ok_or_else(|| CommandRefusal::bad_value(format!("{operator} needs a document")))?;
        for (field, value) in fields {
            if field.contains('.') {
                return Err(CommandRefusal::unsupported(format_args!("the nested field {field:?} in an update")));
            }
            match operator.as_str() {
                "$set" => drop(after.insert(field.clone(), value.clone())),
                "$unset" => drop(after.remove(field)),
                "$inc" => {
                    let old = after.get(field).map_or(Some(0), integer);
                    let sum = old.zip(integer(value)).and_then(|(old, step)| old.checked_add(step));
                    let sum =
                        sum.ok_or_else(|| CommandRefusal::new(code::TYPE_MISMATCH, "Cannot apply $inc to what is no whole number"))?;
                    after.insert(field.clone(), i32::try_from(sum).map_or(Bson::Int64(sum), Bson::Int32));
                }
                "$setOnInsert" if before.contains_key("_id") => {}
                "$setOnInsert" => drop(after.insert(field.clone(), value.clone())),
                _ => return Err(CommandRefusal::unsupported(format_args!("the update operator {operator}"))),
            }
        }
    }
    Ok(after)
}

/// Reads the collection's name from an argument.
fn namespace(database: &str, call: &ReceivedCommand, key: &str) -> Result<String, CommandRefusal> {
    let collection = call.body.get_str(key).unwrap_or_default();
    if collection.is_empty() || collection.contains('\0') {
        return Err(CommandRefusal::new(code::INVALID_NAMESPACE, format!("collection name has invalid type or is empty in {key:?}")));
    }
    Ok(format!("{database}.{collection}"))
}

/// Reads an argument that is a count.
fn size(call: &ReceivedCommand, key: &str) -> Result<Option<usize>, CommandRefusal> {
    let Some(value) = call.body.get(key) else { return Ok(None) };
    let number = integer(value).and_then(|number| usize::try_from(number).ok());
    number.map(Some).ok_or_else(|| CommandRefusal::bad_value(format!("BSON field '{key}' must be a whole number >= 0")))
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
