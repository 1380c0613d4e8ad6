//! What does a member do that says too much, and what may it cost?
//!
//! Streams without pause, lists with other members each time, names that are too long, hello replies and error messages that
//! are too large. The faults are drawn from a sequence of their own, so that the other seeds stay what they are. What must
//! hold of sockets, streams, reports and errors is here, too, and is asked in every world.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bson::{Document, RawDocumentBuf};
use mongolink::handshake::UNUSABLE_HOSTS_MAX;
use mongolink::race::ATTEMPTS_MAX;
use mongolink::reply::{ERROR_LABELS_MAX, ERROR_REPLY_SIZE_MAX, NAME_SIZE_MAX};
use mongolink::topology::liveness::{ANSWER_SLACK, limit};
use mongolink::topology::monitor::{STREAMED_BURST, STREAMED_EVERY};
use mongolink::wire::{Decoder, Flags, MESSAGE_SIZE_MAX, Message, Request, WriteBuffer, encode_message};
use mongolink::{ERROR_MESSAGE_SIZE_MAX, ERROR_TEXT_SIZE_MAX, Error, ServerAddress, TopologyEvent};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::invariants::violated;
use super::plan::{Fault, millis, pick};
use super::world::World;

/// What a member says too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// A stream's reply is followed by many others at once.
    Flood,
    /// So it is, and each names other members that do not exist.
    Strangers,
    /// Hello replies name members whose names are too long, others each time.
    LongNames,
    /// Hello replies are larger than any may be.
    LargeHello,
    /// Error replies have very long messages and labels.
    LongErrors,
}

/// The share of seeds with members that say too much.
const SHARE: f64 = 0.12;

/// How many replies follow at once: far more than are read.
const FLOOD: i32 = 100;

/// How long the replies of a stream are counted together.
const WINDOW: Duration = Duration::from_secs(10);

/// Draws which members say too much.
pub(crate) fn draw_faults(seed: u64, members: usize, moment: impl Fn(f64) -> Duration, faults: &mut Vec<(Duration, Fault)>) {
    let mut random = SmallRng::seed_from_u64(seed ^ 0x0e8c_e55a_u64);
    if !random.random_bool(SHARE) {
        return;
    }
    for _ in 0..random.random_range(1..4) {
        let at = moment(random.random_range(0.0..1.0));
        let kinds = [Excess::Flood, Excess::Strangers, Excess::LongNames, Excess::LargeHello, Excess::LongErrors];
        let (excess, member) = (pick(&mut random, &kinds), random.random_range(0..members));
        faults.push((at, Fault::Excess { member, excess, lasts: millis(&mut random, 500, 6_000) }));
    }
    // Commands that run long are no reason to ask their server for an answer to a liveness probe.
    let (at, command) = (moment(random.random_range(0.0..0.5)), pick(&mut random, &["find", "insert", "ping"]));
    let (member, delay, times) = (random.random_range(0..members), millis(&mut random, 6_000, 14_000), random.random_range(1..4));
    faults.push((at, Fault::FailPoint { member, command, code: None, delay, times }));
}

/// Makes of a member's reply what it says instead, and what follows at once; `number` is another one each time.
pub(crate) fn exceed(bytes: Vec<u8>, excess: Excess, number: u64) -> (Vec<u8>, Vec<Vec<u8>>) {
    exceeded(&bytes, excess, number).unwrap_or((bytes, Vec::new()))
}

fn exceeded(bytes: &[u8], excess: Excess, number: u64) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut decoder = Decoder::new(MESSAGE_SIZE_MAX);
    decoder.buffer().extend_from_slice(bytes);
    let message = Message::parse(decoder.next_frame().ok()??).ok()?;
    let mut body = Document::try_from(message.body()).ok()?;
    let (is_hello, is_streamed) = (body.contains_key("maxWireVersion"), message.flags.has(Flags::MORE_TO_COME));
    let hosts = body.get_array("hosts").ok().cloned();
    let follows = |body: &Document, place: i32| {
        let (id, response_to) = (message.request_id.wrapping_add(place), message.request_id.wrapping_add(place - 1));
        encode(&message, id, if place == 0 { message.response_to } else { response_to }, body)
    };
    match excess {
        Excess::Flood if is_hello && is_streamed => Some((bytes.to_vec(), (1..=FLOOD).filter_map(|place| follows(&body, place)).collect())),
        Excess::Strangers if is_hello && is_streamed && hosts.is_some() => {
            let hosts = hosts?;
            let with_others = |place: i32| {
                let others = (0..4).map(|other| format!("stranger{number}-{place}-{other}.sim:27017").into());
                let mut body = body.clone();
                body.insert("hosts", hosts.iter().cloned().chain(others).collect::<Vec<bson::Bson>>());
                follows(&body, place)
            };
            Some((with_others(0)?, (1..=FLOOD).filter_map(with_others).collect()))
        }
        Excess::LongNames if is_hello && hosts.is_some() => {
            let names: Vec<String> = (0..200).map(|name| format!("{number}-{name}-{}", "\u{4e00}".repeat(300))).collect();
            body.insert("passives", names);
            Some((follows(&body, 0)?, Vec::new()))
        }
        Excess::LargeHello if is_hello => {
            body.insert("padding", "x".repeat(600_000));
            Some((follows(&body, 0)?, Vec::new()))
        }
        Excess::LongErrors if body.get_f64("ok").is_ok_and(|ok| ok == 0.0) => {
            let text = "\u{fc}".repeat(100_000);
            body.insert("errmsg", text.as_str());
            body.insert("codeName", text.as_str());
            body.insert("errorLabels", vec![text; 3]);
            Some((follows(&body, 0)?, Vec::new()))
        }
        Excess::Flood | Excess::Strangers | Excess::LongNames | Excess::LargeHello | Excess::LongErrors => None,
    }
}

fn encode(message: &Message, id: i32, response_to: i32, body: &Document) -> Option<Vec<u8>> {
    let more = if message.flags.has(Flags::MORE_TO_COME) { Flags::MORE_TO_COME } else { Flags::default() };
    let mut out = WriteBuffer::default();
    encode_message(&mut out, id, response_to, more, &Request::from(RawDocumentBuf::try_from(body).ok()?), |_| {});
    Some(out.to_bytes())
}

/// Counts the replies of one monitor's stream.
#[derive(Debug, Default)]
pub(crate) struct StreamCount(VecDeque<Instant>);

impl StreamCount {
    /// A stream is read in measure, however fast it comes.
    pub(crate) fn take(&mut self, host: &ServerAddress, now: Instant) {
        self.0.push_back(now);
        while self.0.front().is_some_and(|first| *first + WINDOW < now) {
            self.0.pop_front();
        }
        let most = STREAMED_BURST as usize + 1 + (WINDOW.as_millis() / STREAMED_EVERY.as_millis()) as usize;
        if self.0.len() > most {
            violated("streams_are_read_in_measure", format!("{host}: {} streamed replies within {WINDOW:?}", self.0.len()));
        }
    }
}

/// Counts the reports of names that can't be used, of each server.
#[derive(Debug, Default)]
pub(crate) struct ReportCount(BTreeMap<ServerAddress, (Instant, u32)>);

impl ReportCount {
    /// What a server brings about by the names that it gives is limited; errors are within their limits.
    #[allow(clippy::wildcard_enum_match_arm, reason = "all other events name no host that can't be used")]
    pub(crate) fn take(&mut self, event: &TopologyEvent, now: Instant) {
        match event {
            TopologyEvent::HostUnusable { server, error, .. } => {
                error_is_small(error);
                let (since, count) = self.0.entry(server.clone()).or_insert((now, 0));
                *count += 1;
                let reports = 6 + (now - *since).as_secs() / 60;
                if u64::from(*count) > reports * UNUSABLE_HOSTS_MAX as u64 {
                    violated("reports_are_limited", format!("{server}: {count} names are reported within {:?}", now - *since));
                }
            }
            TopologyEvent::ServerClosed { host, .. } => drop(self.0.remove(host)),
            TopologyEvent::ServerDescriptionChanged { new, .. } => new.error.iter().for_each(error_is_small),
            _ => {}
        }
    }
}

/// An error keeps little of what a server says.
pub(crate) fn error_is_small(error: &Error) {
    let labels: usize = error.labels().iter().map(String::len).sum();
    let reply = error.command().map_or(0, |failure| failure.reply.as_bytes().len() + failure.message.len() + failure.code_name.len());
    let kept = error.message().len() + labels + reply;
    let most = 2 * ERROR_MESSAGE_SIZE_MAX + ERROR_REPLY_SIZE_MAX + (ERROR_LABELS_MAX + 1) * NAME_SIZE_MAX;
    let text = error.to_string().len();
    if kept > most || text > ERROR_TEXT_SIZE_MAX {
        violated("errors_are_small", format!("{kept} bytes are kept, {text} are printed: {:.200}", error.to_string()));
    }
}

impl World {
    /// A server costs no more sockets than its pools may have, and what opens connections to it: two monitors, two probes.
    pub(crate) fn look_at_sockets(&self, c: usize) {
        let settings = &self.clients[c].settings;
        let dials = settings.max_connecting as usize + 4;
        if self.net.conns.len() <= dials * ATTEMPTS_MAX {
            return;
        }
        let mut open: BTreeMap<&ServerAddress, usize> = BTreeMap::new();
        for conn in self.net.conns.values().filter(|conn| conn.client == c && !conn.client_closed) {
            *open.entry(&conn.host).or_default() += 1;
        }
        for (host, count) in open {
            let most = self.pools_of(c, host).len() * settings.max_pool_size as usize + dials * ATTEMPTS_MAX;
            if count > most {
                violated("sockets_are_bounded", format!("client {c}: {count} sockets to {host}, {most} are the most"));
            }
        }
    }

    /// A server that has answered its monitor in time, and could do so again, is not asked for an answer to a liveness probe.
    pub(crate) fn look_at_probe(&self, c: usize, host: &ServerAddress) {
        let Some(server) = self.clients[c].published.server(host).filter(|server| server.is_known()) else { return };
        let Some(truth) = self.member_of(host).and_then(|member| self.truths[c].get(member)) else { return };
        let expected = self.clients[c].settings.heartbeat_frequency + limit(ANSWER_SLACK, server.round_trip_time);
        let amiss = truth.amiss_until.max(truth.slow_until).max(truth.busy_until).max(truth.slower_at);
        // Of a link that something was amiss with, it is not known what has arrived.
        if amiss <= self.start && self.plan.loss == 0.0 {
            violated(
                "healthy_is_not_asked",
                format!("client {c}: {host} answers its monitor every {expected:?}, and is asked for an answer to a liveness probe"),
            );
        }
    }
}
