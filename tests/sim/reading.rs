//! How is a reply read?
//!
//! Does what `io/conn.rs` does: bytes into the decoder, one reply to one request, and an error leaves the connection broken.

use mongolink::wire::{Flags, Message};
use mongolink::{Error, ErrorKind, Stage};

use super::client::socket_error;
use super::net::{Conn, Exchange, User};
use super::openings::Purpose;
use super::queue::Parcel;
use super::world::World;

impl World {
    /// Something arrives at a client.
    pub(crate) fn arrive_at_client(&mut self, c: usize, id: u64, parcel: Parcel) {
        let Some(conn) = self.net.conns.get_mut(&id).filter(|conn| !conn.client_closed && !conn.silent) else { return };
        if !matches!(parcel, Parcel::Accepted | Parcel::Refused) {
            self.clients[c].deposed.remove(&conn.host);
        }
        match conn.user {
            User::Attempt { opening, attempt } => self.attempt_hears(c, opening, attempt, id, &parcel),
            User::Greeting { .. } | User::Monitor { .. } | User::Idle { .. } | User::Call { .. } | User::Drain { .. } => {
                conn.inbox.push_back(parcel);
                self.read(c, id);
            }
            User::Nobody => {}
        }
    }

    /// A connection of a pool has received something, which its server did not do if it stands still.
    fn hear(&mut self, c: usize, user: User) {
        let place = match user {
            User::Call { pool, lease, .. } | User::Drain { pool, lease } => Some((pool, lease)),
            User::Greeting { opening } => match self.clients[c].openings.get(&opening).map(|opening| opening.purpose) {
                Some(Purpose::Pool { pool, lease }) => Some((pool, lease)),
                Some(Purpose::Watch { .. } | Purpose::Probe { .. }) | None => None,
            },
            User::Attempt { .. } | User::Monitor { .. } | User::Idle { .. } | User::Nobody => None,
        };
        if let Some((pool, lease)) = place
            && let Some(server) = self.clients[c].pools.get_mut(&pool)
        {
            server.hear(lease.slot);
        }
    }

    /// Somebody wants to read: one reply at the most.
    pub(crate) fn read(&mut self, c: usize, id: u64) {
        let Some(conn) = self.net.conns.get_mut(&id).filter(|conn| !conn.client_closed) else { return };
        let user = conn.user;
        let before = conn.inbox.len();
        let outcome = next_reply(conn);
        if conn.inbox.len() < before {
            self.hear(c, user);
        }
        let Some(outcome) = outcome else { return };
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        let outcome = outcome.map_err(|error| {
            conn.exchange = Exchange::Broken;
            error.on(&conn.host)
        });
        if let Err(error) = &outcome {
            self.trace.note(self.now, || format!("client {c}: conn {id}: {error}"));
        }
        match user {
            User::Greeting { opening } => self.greeting_read(c, opening, outcome),
            User::Monitor { watch } => self.watch_read(c, watch, outcome),
            User::Call { pool, lease, call } => self.call_read(c, call, pool, lease, id, outcome),
            User::Drain { pool, lease } => self.drained(c, pool, lease, id, outcome),
            User::Attempt { .. } | User::Idle { .. } | User::Nobody => {}
        }
    }
}

/// Returns the next reply or what is in its way; nothing if nothing is awaited, or it is not there yet.
fn next_reply(conn: &mut Conn) -> Option<Result<Message, Error>> {
    let Exchange::Awaiting(expected) = conn.exchange else { return None };
    if let Some(error) = &conn.interrupted {
        return Some(Err(error.clone().at(Stage::Read)));
    }
    loop {
        match conn.decoder.next_frame().and_then(|frame| frame.map(Message::parse).transpose()) {
            Ok(Some(message)) if message.response_to != expected => {
                let text = format!("reply to request {}, expected one to {expected}", message.response_to);
                return Some(Err(Error::new(ErrorKind::Protocol, text).at(Stage::Read)));
            }
            Ok(Some(message)) => {
                let more = message.flags.has(Flags::MORE_TO_COME);
                conn.exchange = if more { Exchange::Awaiting(message.request_id) } else { Exchange::Idle };
                return Some(Ok(message));
            }
            Ok(None) => {}
            Err(error) => return Some(Err(error)),
        }
        match conn.inbox.pop_front()? {
            Parcel::Bytes(bytes) => conn.decoder.buffer().extend_from_slice(&bytes),
            Parcel::Fin => return Some(Err(Error::new(ErrorKind::Closed, "connection closed by the server").at(Stage::Read))),
            Parcel::Reset => return Some(Err(socket_error(Stage::Read, std::io::ErrorKind::ConnectionReset))),
            Parcel::Accepted | Parcel::Refused | Parcel::Tls | Parcel::Cut { .. } => {}
        }
    }
}
