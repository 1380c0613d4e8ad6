use std::sync::Arc;

use bson::oid::ObjectId;

use super::*;
use crate::handshake::HelloReply;
use crate::selection::{Criteria, ReadPreference};
use crate::topology::{SelectId, ServerType, TopologyConfig, TopologyEvent};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn key(text: &str) -> ServerAddress {
    ServerAddress::parse(text).expect(text)
}

fn member() -> HelloReply {
    let hosts = ["a", "b", "c"].map(key).to_vec();
    HelloReply { set_name: Some("rs".into()), hosts, max_wire_version: 21, set_version: Some(1), ..HelloReply::default() }
}

fn secondary() -> HelloReply {
    HelloReply { secondary: true, ..member() }
}

fn primary(election: u8) -> HelloReply {
    HelloReply { is_writable_primary: true, election_id: Some(ObjectId::from([election; 12])), ..member() }
}

/// When the next answer to the monitor of a server nearby is overdue, after the last one.
const OVERDUE: Duration = Duration::from_millis(11_000);

/// A set of `a`, the primary, with `b` and `c`, and what it orders that has to do with silence.
struct Scene {
    topology: Topology,
    now: Instant,
    began: Instant,
    /// The id of the last probe of each server.
    id: ProbeId,
    /// What the pools are said to have received.
    traffic_checked: bool,
    /// Whether commands are in flight in pools that are closed.
    in_use: bool,
}

impl Scene {
    /// Every server's average round trip is this.
    fn with_round_trips(average: Duration) -> Self {
        let mut config = TopologyConfig::new(["a", "b", "c"].map(key).to_vec());
        config.set_name = Some("rs".into());
        Self::of(config, average)
    }

    fn of(config: TopologyConfig, average: Duration) -> Self {
        let now = Instant::now();
        let mut scene =
            Self { topology: Topology::new(config, 1, now), now, began: now, id: ProbeId(u64::MAX), traffic_checked: false, in_use: false };
        scene.topology.handle_hello(&key("a"), primary(1), Some(average), now);
        scene.topology.handle_hello(&key("b"), secondary(), Some(average), now);
        scene.topology.handle_hello(&key("c"), secondary(), Some(average), now);
        scene.orders();
        scene
    }

    fn settled() -> Self {
        Self::with_round_trips(ms(1))
    }

    /// `b` is elected; the address of `a` is at hand.
    fn deposed() -> Self {
        let mut scene = Self::settled();
        scene.elect();
        assert_eq!(scene.orders(), ["ask a"]);
        scene.named();
        scene
    }

    fn elect(&mut self) {
        self.topology.handle_hello(&key("b"), primary(2), None, self.now);
    }

    /// The address of `a` is at hand, and its kernel has accepted a connection at once.
    fn named(&mut self) {
        self.topology.handle_probe_resolved(&key("a"), self.id, self.now);
        self.reached(ms(1));
    }

    fn reached(&mut self, took: Duration) {
        self.topology.handle_probe_reached(&key("a"), self.id, took, self.now);
    }

    /// `b` says that it is the primary of a set without `a`.
    fn leave(&mut self) {
        let without = HelloReply { hosts: vec![key("b"), key("c")], ..primary(2) };
        self.topology.handle_hello(&key("b"), without, None, self.now);
    }

    fn answer(&mut self, outcome: Result<(), Error>) {
        self.topology.handle_probed(&key("a"), self.id, outcome, self.now);
    }

    fn unanswered(&mut self) {
        self.topology.handle_unanswered(&key("a"), self.now);
    }

    /// Lets time go on from timer to timer; returns the orders with the milliseconds since the beginning.
    fn run(&mut self, span: Duration) -> Vec<String> {
        let end = self.now + span;
        let mut orders = Vec::new();
        while let Some((at, _)) = self.topology.poll_timeout().filter(|(at, _)| *at <= end) {
            assert!(at >= self.now, "no timer lies in the past");
            self.now = at;
            self.topology.handle_timeout(at);
            let millis = at.duration_since(self.began).as_millis();
            orders.extend(self.orders().into_iter().map(|order| format!("{millis}: {order}")));
            assert!(self.topology.poll_timeout().is_none_or(|(next, _)| next > at));
        }
        self.now = end;
        orders
    }

    fn orders(&mut self) -> Vec<String> {
        let name = |host: &ServerAddress| host.to_string().replace(":27017", "");
        let mut orders = Vec::new();
        while let Some(action) = self.topology.poll_action() {
            match action {
                TopologyAction::Probe { host, id, again } => {
                    assert_eq!(id == self.id, again, "a second attempt belongs to the same probe");
                    self.id = id;
                    orders.push(format!("ask {}{}", name(&host), if again { " again" } else { "" }));
                }
                TopologyAction::CheckTraffic { host, id } => {
                    self.topology.handle_traffic_checked(&host, id, self.traffic_checked, self.now)
                }
                TopologyAction::EndProbe(host) => orders.push(format!("end {}", name(&host))),
                TopologyAction::ClearPool { host, interrupt, .. } => orders.push(format!("clear {} {interrupt}", name(&host))),
                TopologyAction::CancelCheck(host) => orders.push(format!("cancel {}", name(&host))),
                TopologyAction::ClosePool(host) => self.topology.handle_pool_closed(&host, self.in_use, self.now),
                TopologyAction::InterruptRetired { host, why } => {
                    assert!(why.kind() == ErrorKind::Interrupted && why.labels().is_empty() && why.is_network(), "{why}");
                    // Of a server that is there, all is interrupted.
                    if self.topology.description().server(&host).is_none() {
                        orders.push(format!("interrupt {}", name(&host)));
                    }
                }
                TopologyAction::StartMonitor(_)
                | TopologyAction::StopMonitor(_)
                | TopologyAction::CreatePool { .. }
                | TopologyAction::ReadyPool(_)
                | TopologyAction::ClearService { .. }
                | TopologyAction::CheckNow(_)
                | TopologyAction::Publish(_)
                | TopologyAction::Selected(_)
                | TopologyAction::NotSelected(..) => {}
            }
        }
        orders
    }

    fn error(&self) -> Error {
        self.topology.description().server(&key("a")).and_then(|server| server.error.clone()).expect("unknown, with a reason")
    }
}

const NOTHING: [&str; 0] = [];

fn timeout(stage: Stage) -> Error {
    Error::timeout(stage, "connectTimeoutMS", ms(300), ms(300))
}

#[test]
fn limit_is_a_multiple_of_the_round_trip_within_bounds() {
    assert_eq!(limit(DEPOSED_FLOOR, None), ms(1500));
    assert_eq!(limit(DEPOSED_FLOOR, Some(ms(1))), ms(1500));
    assert_eq!(limit(DEPOSED_FLOOR, Some(ms(300))), ms(2400));
    assert_eq!(limit(UNANSWERED_FLOOR, Some(ms(300))), ms(5000));
    assert_eq!(limit(DEPOSED_FLOOR, Some(Duration::from_secs(5))), CEILING);
    assert_eq!(limit(DEPOSED_FLOOR, Some(Duration::MAX)), CEILING);
    assert!(CEILING > 4 * Duration::from_secs(5), "opening with TLS over the slowest network that is served");
}

#[test]
fn deposed_primary_is_asked_twice_and_its_silence_interrupts_what_is_in_flight() {
    let mut scene = Scene::deposed();
    assert_eq!(scene.run(ms(10_000)), ["750: ask a again", "1500: end a", "1500: clear a true", "1500: cancel a"]);
    let error = scene.error();
    assert_eq!((error.kind(), error.stage(), error.host()), (ErrorKind::Silent, Some(Stage::Hello), Some(&key("a"))));
    assert_eq!((error.elapsed(), error.limit().map(|limit| limit.value)), (Some(ms(1500)), Some(LimitValue::Time(ms(1500)))));
    assert!(error.labels().is_empty() && error.is_network());
    assert_eq!(
        error.to_string(),
        "hello: a:27017: the server did not answer the liveness probe, after 1500 ms (limit LIVENESS_LIMIT of 1500 ms)"
    );
    assert_eq!(scene.topology.poll_timeout(), None);
}

#[test]
fn deposed_primary_that_answers_keeps_what_is_in_flight() {
    let mut scene = Scene::deposed();
    assert_eq!(scene.run(ms(1499)), ["750: ask a again"]);
    scene.answer(Ok(()));
    assert_eq!(scene.orders(), ["end a"]);
    assert_eq!(scene.run(ms(60_000)), NOTHING);
    assert!(scene.error().message().contains("discovery of newer primary"), "nothing else has changed");
    assert_eq!(scene.topology.generation(&key("a")), Some(0));
}

#[test]
fn any_word_of_the_process_shows_that_the_server_is_alive() {
    let said = crate::operation::command_error(&bson::rawdoc! { "ok": 0, "code": 91, "errmsg": "ending" }).expect("error");
    let closed = Error::new(ErrorKind::Closed, "closed");
    for (error, stage) in [
        (said, Stage::Hello),
        (closed.clone(), Stage::Hello),
        (closed, Stage::Tls),
        (Error::new(ErrorKind::CertificateExpired, "old"), Stage::Tls),
        (Error::new(ErrorKind::Protocol, "odd"), Stage::Hello),
    ] {
        let mut scene = Scene::deposed();
        scene.answer(Err(error.at(stage)));
        assert_eq!(scene.orders(), ["end a"], "{stage}");
        assert_eq!(scene.run(ms(60_000)), NOTHING);
    }
}

#[test]
fn accepted_connection_is_no_proof_of_life() {
    let refused = Error::io(Stage::Tcp, std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    for error in [timeout(Stage::Tcp), timeout(Stage::Tls), timeout(Stage::Hello), refused] {
        let mut scene = Scene::deposed();
        scene.answer(Err(error));
        assert_eq!(scene.orders(), NOTHING);
        assert_eq!(scene.run(ms(2000)).len(), 4, "the second attempt may still be answered, and then it is silence");
    }
}

#[test]
fn server_that_could_not_be_asked_is_not_judged() {
    let no_socket = Error::io(Stage::Tcp, std::io::Error::other("too many open files"));
    for error in [no_socket, timeout(Stage::Dns), Error::new(ErrorKind::DnsFailed, "down").at(Stage::Dns)] {
        let mut scene = Scene::deposed();
        scene.answer(Err(error));
        assert_eq!(scene.orders(), ["end a"]);
        assert_eq!(scene.run(ms(60_000)), NOTHING);
    }
}

#[test]
fn look_up_of_the_address_is_no_silence() {
    let mut scene = Scene::settled();
    scene.elect();
    assert_eq!(scene.orders(), ["ask a"]);
    assert_eq!(scene.run(ms(20_000)), NOTHING);
    scene.named();
    assert_eq!(scene.run(ms(2_000)), ["20750: ask a again", "21500: end a", "21500: clear a true", "21500: cancel a"]);

    let mut scene = Scene::settled();
    scene.elect();
    scene.orders();
    assert_eq!(scene.run(ms(90_000)), ["30000: end a"], "an address that never comes ends the probe without a verdict");
}

#[test]
fn byte_on_any_connection_of_the_pool_shows_that_the_server_is_alive() {
    let mut scene = Scene::deposed();
    scene.traffic_checked = true;
    assert_eq!(scene.run(ms(60_000)), ["750: ask a again", "1500: end a"]);
    assert_eq!(scene.topology.generation(&key("a")), Some(0));
}

#[test]
fn deposed_primary_that_answers_its_monitor_is_not_judged() {
    let mut scene = Scene::deposed();
    scene.run(ms(1000));
    scene.topology.handle_hello(&key("a"), secondary(), None, scene.now);
    assert_eq!(scene.orders(), ["end a"]);
    assert_eq!(scene.run(ms(60_000)), NOTHING);
    assert_eq!(scene.topology.description().server(&key("a")).map(|server| server.kind), Some(ServerType::RsSecondary));
}

#[test]
fn primary_that_steps_down_by_its_own_word_is_not_asked() {
    let mut scene = Scene::settled();
    scene.topology.handle_hello(&key("a"), secondary(), None, scene.now);
    scene.elect();
    assert_eq!(scene.orders(), NOTHING);
    // Nor is one that goes on calling itself primary after its time: it talks.
    scene.topology.handle_hello(&key("a"), primary(1), None, scene.now);
    assert_eq!(scene.orders(), NOTHING);
}

#[test]
fn member_that_was_removed_is_not_judged() {
    let mut scene = Scene::deposed();
    let old = scene.id;
    let without = HelloReply { hosts: vec![key("b"), key("c")], ..primary(2) };
    scene.topology.handle_hello(&key("b"), without, None, scene.now);
    assert_eq!(scene.orders(), ["end a"]);
    // The same name joins again: the old probe's outcome is nothing to it.
    scene.topology.handle_hello(&key("b"), primary(2), None, scene.now);
    scene.topology.handle_hello(&key("a"), primary(3), None, scene.now);
    assert_eq!(scene.orders(), ["ask b"]);
    scene.topology.handle_hello(&key("b"), primary(4), None, scene.now);
    assert_eq!(scene.orders(), ["end b", "ask a"]);
    scene.named();
    scene.topology.handle_probed(&key("a"), old, Ok(()), scene.now);
    scene.topology.handle_traffic_checked(&key("a"), old, false, scene.now);
    assert_eq!(scene.orders(), NOTHING);
    assert_eq!(scene.run(ms(2000)).len(), 4);
}

#[test]
fn member_that_leaves_with_commands_in_flight_is_asked_and_its_silence_interrupts_them() {
    let mut scene = Scene::settled();
    scene.in_use = true;
    scene.leave();
    assert_eq!(scene.orders(), ["ask a"]);
    scene.named();
    assert_eq!(scene.run(ms(60_000)), ["750: ask a again", "1500: end a", "1500: interrupt a"]);
    assert!(scene.topology.description().server(&key("a")).is_none() && scene.topology.description().primary().is_some());

    let mut scene = Scene::with_round_trips(ms(300));
    scene.in_use = true;
    scene.leave();
    scene.orders();
    scene.named();
    assert_eq!(scene.run(ms(60_000)), ["1200: ask a again", "2400: end a", "2400: interrupt a"], "as far away as it was");
}

#[test]
fn member_that_leaves_while_it_is_asked_is_judged_as_soon() {
    let mut scene = Scene::deposed();
    scene.in_use = true;
    scene.run(ms(1000));
    scene.leave();
    assert_eq!(scene.orders(), NOTHING);
    assert_eq!(scene.run(ms(60_000)), ["1500: end a", "1500: interrupt a"]);

    // One that was asked for less has less time from now on.
    let mut scene = Scene::settled();
    scene.in_use = true;
    scene.run(OVERDUE);
    scene.unanswered();
    scene.orders();
    scene.named();
    scene.leave();
    assert_eq!(scene.orders(), NOTHING);
    assert_eq!(scene.run(ms(60_000)), ["11750: ask a again", "12500: end a", "12500: interrupt a"]);
}

#[test]
fn member_that_leaves_and_lives_keeps_what_is_in_flight() {
    let mut scene = Scene::settled();
    scene.in_use = true;
    scene.leave();
    scene.orders();
    scene.named();
    scene.run(ms(1000));
    scene.answer(Ok(()));
    assert_eq!(scene.orders(), ["end a"]);
    assert_eq!(scene.run(ms(4000)), NOTHING);
    // It stands still later: its pool says that a command is unanswered, and there is no monitor that could know.
    scene.unanswered();
    assert_eq!(scene.orders(), ["ask a"]);
    scene.named();
    assert_eq!(scene.run(ms(60_000)), ["5750: ask a again", "6500: end a", "6500: interrupt a"]);
}

#[test]
fn member_that_comes_back_while_it_is_asked_is_judged_as_a_whole() {
    for silent in [true, false] {
        let mut scene = Scene::settled();
        scene.in_use = true;
        scene.leave();
        scene.orders();
        scene.named();
        scene.topology.handle_hello(&key("b"), primary(2), None, scene.now);
        assert_eq!(scene.orders(), NOTHING);
        if silent {
            assert_eq!(scene.run(ms(60_000)), ["750: ask a again", "1500: end a", "1500: clear a true", "1500: cancel a"]);
        } else {
            scene.topology.handle_hello(&key("a"), secondary(), None, scene.now);
            assert_eq!(scene.orders(), ["end a"]);
            assert_eq!(scene.run(ms(60_000)), NOTHING);
        }
    }
}

#[test]
fn network_that_has_become_slow_is_given_its_time() {
    // The round trips were of a millisecond; TCP, TLS 1.2 and the greeting take four of those that they are now.
    for millis in (0..=5000).step_by(50) {
        let mut scene = Scene::settled();
        scene.elect();
        scene.orders();
        scene.topology.handle_probe_resolved(&key("a"), scene.id, scene.now);
        assert!(scene.run(ms(millis)).iter().all(|order| order.ends_with("ask a again")), "a round trip of {millis} ms");
        scene.reached(ms(millis));
        assert!(scene.run(ms(3 * millis)).iter().all(|order| order.ends_with("ask a again")), "a round trip of {millis} ms");
        scene.answer(Ok(()));
        assert_eq!(scene.orders(), ["end a"], "a round trip of {millis} ms");
        assert_eq!(scene.run(ms(60_000)), NOTHING);
        assert_eq!(scene.topology.generation(&key("a")), Some(0));
    }
}

#[test]
fn silence_of_a_slow_network_counts_as_many_round_trips_later() {
    let mut scene = Scene::settled();
    scene.elect();
    scene.orders();
    scene.topology.handle_probe_resolved(&key("a"), scene.id, scene.now);
    assert_eq!(scene.run(ms(1000)), ["750: ask a again"]);
    scene.reached(ms(1000));
    // That the second one is accepted sooner, or later, changes nothing.
    scene.reached(ms(1));
    assert_eq!(scene.run(ms(60_000)), ["9000: end a", "9000: clear a true", "9000: cancel a"]);
}

#[test]
fn server_that_nothing_has_reached_is_given_more_time() {
    let mut scene = Scene::settled();
    scene.elect();
    scene.orders();
    scene.topology.handle_probe_resolved(&key("a"), scene.id, scene.now);
    assert_eq!(scene.run(ms(60_000)), ["750: ask a again", "6000: end a", "6000: clear a true", "6000: cancel a"]);
    assert_eq!(scene.error().limit().map(|limit| limit.value), Some(LimitValue::Time(UNREACHED)));
    // A refusal has come from it, or from its machine.
    let refused = Error::io(Stage::Tcp, std::io::Error::from(std::io::ErrorKind::ConnectionRefused)).after(ms(1));
    let mut scene = Scene::settled();
    scene.elect();
    scene.orders();
    scene.topology.handle_probe_resolved(&key("a"), scene.id, scene.now);
    scene.answer(Err(refused));
    assert_eq!(scene.run(ms(60_000)), ["750: ask a again", "1500: end a", "1500: clear a true", "1500: cancel a"]);
}

#[test]
fn false_alarm_ends_with_the_next_reply() {
    let mut scene = Scene::deposed();
    scene.run(ms(1500));
    scene.orders();
    scene.now += ms(1);
    scene.topology.handle_hello(&key("a"), secondary(), None, scene.now);
    let ready = |action| matches!(action, TopologyAction::ReadyPool(host) if host == key("a"));
    assert!(std::iter::from_fn(|| scene.topology.poll_action()).any(ready), "its pool lends again in the same moment");
    assert!(scene.topology.description().server(&key("a")).is_some_and(|server| server.kind == ServerType::RsSecondary));
    assert_eq!((scene.topology.generation(&key("a")), scene.topology.poll_timeout()), (Some(1), None), "nothing is held against it");
}

#[test]
fn slow_network_is_given_its_time() {
    let mut scene = Scene::with_round_trips(Duration::from_secs(5));
    scene.elect();
    assert_eq!(scene.orders(), ["ask a"]);
    scene.named();
    // A connection with TLS 1.2 and its greeting: four round trips.
    assert_eq!(scene.run(ms(20_000)), ["15000: ask a again"]);
    scene.answer(Ok(()));
    assert_eq!(scene.run(ms(60_000)), NOTHING);
    assert_eq!(scene.topology.generation(&key("a")), Some(0));
}

#[test]
fn no_round_trip_up_to_five_seconds_is_taken_for_silence() {
    for millis in (0..=5000).step_by(50) {
        let mut scene = Scene::with_round_trips(ms(millis));
        scene.elect();
        scene.orders();
        scene.named();
        // The dial, TLS 1.2 and the greeting; up to a round trip of 3.75 s, on a network that has just become twice as slow.
        let opening = ms(4 * millis) * if millis < 3750 { 2 } else { 1 };
        let before = opening.saturating_sub(ms(1));
        assert!(scene.run(before).iter().all(|order| order.ends_with("ask a again")), "a round trip of {millis} ms");
        scene.answer(Ok(()));
        assert_eq!(scene.run(ms(60_000)), NOTHING);
        assert_eq!(scene.topology.generation(&key("a")), Some(0), "a round trip of {millis} ms");
    }
}

#[test]
fn unanswered_command_counts_only_once_the_next_answer_to_the_monitor_is_overdue() {
    let mut scene = Scene::settled();
    scene.run(OVERDUE - ms(1));
    scene.unanswered();
    assert_eq!(scene.orders(), NOTHING, "its monitor expects an answer");
    scene.run(ms(1));
    scene.unanswered();
    assert_eq!(scene.orders(), ["ask a"]);
    scene.named();
    scene.unanswered();
    assert_eq!(scene.orders(), NOTHING, "one probe at a time");
    let orders = scene.run(ms(60_000));
    assert_eq!(orders, ["13500: ask a again", "16000: end a", "16000: clear a true", "16000: cancel a"]);
    assert_eq!(scene.error().kind(), ErrorKind::Silent);
}

#[test]
fn answer_of_a_far_server_is_overdue_as_many_round_trips_later() {
    let mut scene = Scene::with_round_trips(ms(500));
    scene.run(ms(13_999));
    scene.unanswered();
    assert_eq!(scene.orders(), NOTHING);
    scene.run(ms(1));
    scene.unanswered();
    assert_eq!(scene.orders(), ["ask a"]);
}

/// The pool says every five seconds that a command is unanswered, while the server streams to its monitor every ten.
#[test]
fn command_that_runs_long_on_a_server_that_streams_costs_no_probe() {
    for offset in (0..10_000).step_by(500) {
        let mut scene = Scene::settled();
        let (mut search, mut reply) = (5000, offset);
        for _ in 0..120 {
            let next = search.min(reply);
            scene.run(ms(next).saturating_sub(scene.now - scene.began));
            if next == reply {
                scene.topology.handle_hello(&key("a"), primary(1), None, scene.now);
                reply += 10_002;
            }
            if next == search {
                scene.unanswered();
                search += 5000;
            }
            assert_eq!(scene.orders(), NOTHING, "at {next} ms, replies from {offset} ms on");
        }
    }
}

#[test]
fn round_trips_are_answers_too() {
    let mut scene = Scene::settled();
    for _ in 0..20 {
        scene.run(ms(10_000));
        scene.unanswered();
        scene.topology.handle_rtt(&key("a"), ms(1), ms(1), scene.now);
        assert_eq!(scene.orders(), NOTHING);
    }
}

#[test]
fn no_server_is_asked_where_the_option_says_so() {
    let mut config = TopologyConfig::new(["a", "b", "c"].map(key).to_vec());
    (config.set_name, config.liveness_probes) = (Some("rs".into()), false);
    let mut scene = Scene::of(config, ms(1));
    scene.in_use = true;
    scene.run(ms(60_000));
    scene.unanswered();
    scene.elect();
    scene.leave();
    assert_eq!((scene.orders(), scene.run(ms(60_000))), (Vec::new(), Vec::new()));
}

#[test]
fn command_that_runs_long_on_a_healthy_server_whose_monitor_is_silent_is_left_alone() {
    let mut scene = Scene::settled();
    let mut asked = Vec::new();
    for second in (5..=60).step_by(5) {
        scene.run(ms(5000));
        scene.unanswered();
        if scene.orders() == ["ask a"] {
            asked.push(second);
            scene.named();
            scene.answer(Ok(()));
            assert_eq!(scene.orders(), ["end a"]);
        }
    }
    assert_eq!(asked, [15, 25, 35, 45, 55], "asked no more often than every ten seconds");
    assert_eq!(scene.topology.generation(&key("a")), Some(0));
    assert!(scene.topology.description().primary().is_some());
}

#[test]
fn newer_primary_shortens_a_probe_that_is_under_way() {
    let mut scene = Scene::settled();
    scene.run(OVERDUE);
    scene.unanswered();
    assert_eq!(scene.orders(), ["ask a"]);
    scene.named();
    scene.run(ms(1000));
    scene.elect();
    assert_eq!(scene.orders(), NOTHING);
    assert_eq!(scene.run(ms(10_000)), ["12750: ask a again", "13500: end a", "13500: clear a true", "13500: cancel a"]);
}

#[test]
fn newer_primary_shortens_a_probe_whose_address_is_still_looked_up() {
    let mut scene = Scene::settled();
    scene.run(OVERDUE);
    scene.unanswered();
    scene.elect();
    assert_eq!(scene.orders(), ["ask a"]);
    scene.named();
    assert_eq!(scene.run(ms(10_000)), ["11750: ask a again", "12500: end a", "12500: clear a true", "12500: cancel a"]);
}

#[test]
fn newer_primary_asks_though_the_server_has_just_been_asked() {
    let mut scene = Scene::settled();
    scene.run(OVERDUE);
    scene.unanswered();
    assert_eq!(scene.orders(), ["ask a"]);
    scene.named();
    scene.answer(Ok(()));
    assert_eq!(scene.orders(), ["end a"]);
    scene.unanswered();
    assert_eq!(scene.orders(), NOTHING);
    scene.elect();
    assert_eq!(scene.orders(), ["ask a"]);
}

#[test]
fn round_trip_shows_that_the_server_is_alive_while_the_server_is_known() {
    let mut scene = Scene::settled();
    scene.run(OVERDUE);
    scene.unanswered();
    assert_eq!(scene.orders(), ["ask a"]);
    scene.topology.handle_rtt(&key("a"), ms(1), ms(1), scene.now);
    assert_eq!(scene.orders(), ["end a"]);
}

#[test]
fn newer_primary_gives_no_probe_more_time() {
    let mut scene = Scene::settled();
    scene.run(OVERDUE);
    scene.unanswered();
    assert_eq!(scene.orders(), ["ask a"]);
    scene.named();
    assert_eq!(scene.run(ms(4000)), ["13500: ask a again"]);
    scene.elect();
    assert_eq!(scene.run(ms(10_000)), ["16000: end a", "16000: clear a true", "16000: cancel a"]);
}

#[test]
fn check_that_times_out_meanwhile_has_the_last_word() {
    let mut scene = Scene::deposed();
    scene.topology.handle_check_failed(&key("a"), timeout(Stage::Hello), scene.now);
    assert_eq!(scene.orders(), ["end a", "clear a true"]);
    assert_eq!(scene.run(ms(60_000)), NOTHING);
}

#[test]
fn shutdown_ends_a_probe() {
    let mut scene = Scene::deposed();
    scene.topology.handle_shutdown(scene.now);
    assert_eq!(scene.orders(), ["end a"]);
    scene.unanswered();
    scene.answer(Ok(()));
    assert_eq!((scene.orders().len(), scene.topology.poll_timeout()), (0, None));
}

#[test]
fn silence_has_every_server_checked_while_a_caller_waits() {
    let mut scene = Scene::deposed();
    let nowhere = ReadPreference::secondary().with_tag_sets(vec![vec![("room".to_owned(), "none".to_owned())]]);
    scene.topology.handle_select(SelectId(1), Arc::new(Criteria::read(nowhere)), None, scene.now);
    scene.run(ms(1499));
    scene.topology.handle_timeout(scene.now + ms(1));
    let mut checked = Vec::new();
    while let Some(action) = scene.topology.poll_action() {
        if let TopologyAction::CheckTraffic { host, id } = &action {
            scene.topology.handle_traffic_checked(host, *id, false, scene.now + ms(1));
        } else if let TopologyAction::CheckNow(host) = action {
            checked.push(host);
        }
    }
    assert_eq!(checked, ["a", "b", "c"].map(key));
}

#[test]
fn silence_is_an_event_and_ends_with_an_answer() {
    let mut scene = Scene::deposed();
    while scene.topology.poll_event().is_some() {}
    scene.run(ms(2000));
    let Some(TopologyEvent::ServerDescriptionChanged { new, .. }) = scene.topology.poll_event() else { panic!("no event") };
    assert_eq!(new.error.as_ref().map(Error::kind), Some(ErrorKind::Silent));
    scene.topology.handle_hello(&key("a"), secondary(), Some(ms(1)), scene.now);
    assert!(scene.topology.description().server(&key("a")).is_some_and(|server| server.is_known()));
    assert_eq!(scene.topology.generation(&key("a")), Some(1));
}
