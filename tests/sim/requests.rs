//! What happens to a request on its way?
//!
//! Harm on the way from a client to a server: cut off, or with a length that is not its own. What the server makes of it is
//! the sandbox's business; what happens to replies is in `servers`. The faults are drawn from a sequence of their own, so
//! that the other seeds stay what they are.

use std::time::Duration;

use mongolink::wire::MESSAGE_SIZE_MAX;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::net::User;
use super::plan::Fault;
use super::queue::Parcel;
use super::world::World;

/// What happens to a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestHarm {
    /// So many bytes arrive, then both sides see a reset.
    ResetAt(usize),
    /// So many bytes arrive, then each side sees the other close.
    CutAt(usize),
    /// Its length is beyond every limit.
    Oversized,
    /// Its length is too short for a header.
    Undersized,
    /// Its length is shorter than it is.
    Shortened,
    /// Its length is longer than it is: the server waits for the rest.
    Lengthened,
}

/// The share of seeds with harm to requests.
const SHARE: f64 = 0.25;

/// Draws what happens to requests.
pub(crate) fn draw_faults(
    seed: u64,
    members: usize,
    clients: usize,
    moment: impl Fn(f64) -> Duration,
    faults: &mut Vec<(Duration, Fault)>,
) {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x0af7_e12d_u64);
    if !random.random_bool(SHARE) {
        return;
    }
    for _ in 0..random.random_range(1..6) {
        let at = moment(random.random_range(0.0..1.0));
        let (member, client) = (random.random_range(0..members), random.random_range(0..clients));
        let harm = match random.random_range(0..6) {
            0 => RequestHarm::ResetAt(random.random_range(0..400)),
            1 => RequestHarm::CutAt(random.random_range(0..400)),
            2 => RequestHarm::Oversized,
            3 => RequestHarm::Undersized,
            4 => RequestHarm::Shortened,
            _ => RequestHarm::Lengthened,
        };
        faults.push((at, Fault::Request { client, member, harm }));
    }
}

impl World {
    /// Sends a request, to which harm may come.
    pub(crate) fn send_request(&mut self, id: u64, mut bytes: Vec<u8>) {
        let Some(harm) = self.next_harm(id) else { return self.send_to_server(id, Parcel::Bytes(bytes)) };
        self.note(|_| format!("conn {id}: a request of {} bytes comes to harm: {harm:?}", bytes.len()));
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let told = match harm {
            RequestHarm::ResetAt(at) | RequestHarm::CutAt(at) => {
                bytes.truncate(at);
                self.send_to_server(id, Parcel::Bytes(bytes));
                return self.send_to_server(id, Parcel::Cut { reset: matches!(harm, RequestHarm::ResetAt(_)) });
            }
            RequestHarm::Oversized => MESSAGE_SIZE_MAX + 1,
            RequestHarm::Undersized => 15,
            RequestHarm::Shortened => length - 1,
            RequestHarm::Lengthened => length + 1,
        };
        bytes[..4].copy_from_slice(&told.to_le_bytes());
        self.send_to_server(id, Parcel::Bytes(bytes));
    }

    fn next_harm(&mut self, id: u64) -> Option<RequestHarm> {
        let conn = self.net.conns.get(&id)?;
        let (client, user) = (conn.client, conn.user);
        let super::net::Place::Member(member) = conn.place else { return None };
        let harm = self.net.links[client][member].request_harms.pop_front()?;
        let settings = &self.clients[client].settings;
        let has_limit = settings.call_timeout.is_some() || settings.socket_timeout.is_some();
        match (harm, user) {
            // Whoever waits without any limit for a server that lives would wait for ever.
            (RequestHarm::Lengthened, User::Call { .. }) if !has_limit => Some(RequestHarm::Oversized),
            _ => Some(harm),
        }
    }
}
