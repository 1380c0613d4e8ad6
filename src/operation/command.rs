//! The checks of a user's command: its name, and the sizes that a server takes.
//!
//! run-command; server limits of mongodb-handshake. Does not decide what the driver adds (`fields`).

use bson::RawDocument;

use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::wire::scan::Fields;
use crate::wire::{COMMAND_OVERHEAD_MAX, Request};

/// Returns the name of a command, its first key; nothing if it [can't have](check_name) one.
pub fn command_name(body: &RawDocument) -> &str {
    let first = Fields::of(body.as_bytes()).next().and_then(Result::ok);
    first.and_then(|field| std::str::from_utf8(field.key).ok()).unwrap_or_default()
}

/// Checks that a command has a name.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if the document is empty or malformed.
pub fn check_name(body: &RawDocument) -> Result<(), Error> {
    match Fields::of(body.as_bytes()).next() {
        Some(Ok(field)) if field.key.is_ascii() => Ok(()),
        Some(Ok(field)) => std::str::from_utf8(field.key).map(drop).map_err(|error| not_bson(error.to_string())),
        Some(Err(_)) => Err(not_bson("its first field can't be read".into())),
        None => Err(Error::new(ErrorKind::InvalidArgument, "command is empty: its first key is its name").at(Stage::Write)),
    }
}

fn not_bson(why: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("command is not BSON: {why}")).at(Stage::Write)
}

/// Checks a command, and each document beside it, against the server's limits before anything is sent.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] naming the size and the limit.
#[inline]
pub fn check_size(request: &Request, document_size_bytes_max: u32) -> Result<(), Error> {
    let size = request.body.size_bytes() as u64;
    let limit = u64::from(document_size_bytes_max) + u64::from(COMMAND_OVERHEAD_MAX);
    if size > limit {
        return Err(Error::new(ErrorKind::InvalidArgument, format!("command of {size} bytes"))
            .at(Stage::Write)
            .against("maxBsonObjectSize + COMMAND_OVERHEAD_MAX", LimitValue::Bytes(limit)));
    }
    for (identifier, documents) in &request.sequences {
        // Statements wrap a user's document in fields of their own.
        let room = if identifier == "documents" { 0 } else { COMMAND_OVERHEAD_MAX };
        let limit = u64::from(document_size_bytes_max) + u64::from(room);
        let largest = documents.iter().map(|document| document.size_bytes() as u64).max();
        if let Some(size) = largest.filter(|size| *size > limit) {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("document of {size} bytes in {identifier:?}"))
                .at(Stage::Write)
                .against("maxBsonObjectSize", LimitValue::Bytes(limit)));
        }
    }
    Ok(())
}
