//! server-monitoring: the times of checks, and the effect of silence.

use std::time::Instant;

use bson::rawdoc;
use mongolink::handshake::monitor_hello;
use mongolink::topology::{Monitor, MonitorAction, MonitorConfig, RoundTrips};
use mongolink::{Error, ErrorKind, HelloReply, MonitorEvent, Stage};

use crate::support::{Scene, closed_by_peer, member, ms, parsed, timed_out, version};

fn config() -> MonitorConfig {
    MonitorConfig { heartbeat_frequency: ms(10_000), connect_timeout: Some(ms(2_000)), open_timeout: Some(ms(20_000)), streaming: true }
}

fn plain() -> HelloReply {
    member(true)
}

fn streamable() -> HelloReply {
    let mut reply = member(true);
    reply.topology_version = Some(version(1, 1));
    reply
}

fn wishes(monitor: &mut Monitor) -> String {
    let wishes = std::iter::from_fn(|| monitor.poll_action()).map(|action| match action {
        MonitorAction::Open => "open".to_owned(),
        MonitorAction::Send { awaited, .. } => awaited.map_or("send".to_owned(), |(_, time)| format!("send awaited {time:?}")),
        MonitorAction::Read => "read".to_owned(),
        MonitorAction::Close => "close".to_owned(),
        MonitorAction::Answered { round_trip, .. } => format!("answered {round_trip:?}"),
        MonitorAction::Failed(error) => format!("failed {:?}", error.kind()),
        MonitorAction::MeasureRoundTrips(on) => format!("measure {on}"),
        MonitorAction::WarnOfFlood => "warn".to_owned(),
    });
    wishes.collect::<Vec<_>>().join(", ")
}

fn told(monitor: &mut Monitor) -> String {
    let events = std::iter::from_fn(|| monitor.poll_event()).map(|event| match event {
        MonitorEvent::HeartbeatStarted { awaited, .. } => format!("started {awaited}"),
        MonitorEvent::HeartbeatSucceeded { awaited, .. } => format!("succeeded {awaited}"),
        MonitorEvent::HeartbeatFailed { awaited, .. } => format!("failed {awaited}"),
        _ => "unknown".to_owned(),
    });
    events.collect::<Vec<_>>().join(", ")
}

fn opened(reply: HelloReply, config: MonitorConfig) -> (Monitor, Instant) {
    let now = Instant::now();
    let mut monitor = Monitor::new(config, now);
    assert_eq!((wishes(&mut monitor), told(&mut monitor)), ("open".into(), "started false".into()), "told before the socket is made");
    monitor.handle_opened(reply, ms(3), now);
    (monitor, now)
}

#[test]
fn hello_of_a_new_connection_is_the_check() {
    let (mut monitor, now) = opened(plain(), config());
    assert_eq!((wishes(&mut monitor), told(&mut monitor)), ("answered Some(3ms)".into(), "succeeded false".into()));
    assert_eq!(monitor.poll_timeout(), Some((now + ms(10_000), "heartbeatFrequencyMS")));
}

#[test]
fn awaited_hello_has_topology_version_and_max_await_time() {
    let (mut monitor, _) = opened(streamable(), config());
    assert_eq!(wishes(&mut monitor), "measure true, answered Some(3ms), send awaited 10s");
    let awaited = monitor_hello(true, Some((version(1, 1), ms(10_000))));
    assert_eq!(awaited, rawdoc! { "hello": 1, "topologyVersion": version(1, 1).to_document(), "maxAwaitTimeMS": 10_000_i64 });
    assert_eq!(monitor_hello(true, None), rawdoc! { "hello": 1 });
}

#[test]
fn heartbeat_started_event_comes_before_each_read_of_a_stream() {
    let (mut monitor, now) = opened(streamable(), config());
    assert_eq!(told(&mut monitor), "succeeded false", "the next check starts when the outcome of this one was taken");
    wishes(&mut monitor);
    assert_eq!(told(&mut monitor), "started true");
    for step in 1..4 {
        monitor.handle_reply(streamable(), true, now + ms(10_000 * step));
        assert_eq!((wishes(&mut monitor), told(&mut monitor)), ("answered None, read".into(), "succeeded true, started true".into()));
    }
}

#[test]
fn stream_times_out_after_connect_timeout_plus_heartbeat_and_never_without_connect_timeout() {
    let (mut monitor, now) = opened(streamable(), config());
    wishes(&mut monitor);
    assert_eq!(monitor.poll_timeout(), Some((now + ms(12_000), "connectTimeoutMS + heartbeatFrequencyMS")));
    monitor.handle_timeout(now + ms(12_000));
    assert_eq!(wishes(&mut monitor), "close, measure false, failed Timeout, open");
    let (mut monitor, _) = opened(streamable(), MonitorConfig { connect_timeout: None, ..config() });
    wishes(&mut monitor);
    assert_eq!(monitor.poll_timeout(), None);
}

#[test]
fn round_trips_are_measured_apart_and_only_while_streaming() {
    let (mut monitor, now) = opened(plain(), config());
    assert_eq!(wishes(&mut monitor), "answered Some(3ms)");
    monitor.handle_timeout(now + ms(10_000));
    monitor.handle_reply(streamable(), false, now + ms(10_004));
    assert_eq!(wishes(&mut monitor), "send, measure true, answered Some(4ms), send awaited 10s");
    monitor.handle_reply(streamable(), false, now + ms(20_004));
    assert_eq!(wishes(&mut monitor), "answered None, send awaited 10s", "what was awaited is not measured");
    monitor.handle_failed(closed_by_peer(Stage::Read), now + ms(20_005));
    assert_eq!(wishes(&mut monitor), "close, measure false, failed Closed, open");
}

#[test]
fn minimum_is_zero_until_two_samples_and_of_the_last_ten() {
    let mut trips = RoundTrips::default();
    trips.handle_sample(ms(1));
    assert_eq!((trips.average(), trips.minimum()), (Some(ms(1)), ms(0)));
    trips.handle_sample(ms(9));
    assert_eq!(trips.minimum(), ms(1));
    for _ in 0..9 {
        trips.handle_sample(ms(9));
    }
    assert_eq!(trips.minimum(), ms(9));
}

#[test]
fn known_server_is_asked_again_at_once_and_an_unknown_one_after_a_heartbeat() {
    let (mut monitor, now) = opened(plain(), config());
    wishes(&mut monitor);
    monitor.handle_timeout(now + ms(10_000));
    wishes(&mut monitor);
    monitor.handle_failed(closed_by_peer(Stage::Read), now + ms(10_001));
    assert_eq!(wishes(&mut monitor), "close, failed Closed, open");
    monitor.handle_failed(closed_by_peer(Stage::Tcp), now + ms(10_002));
    assert_eq!(wishes(&mut monitor), "close, failed Closed");
    assert_eq!(monitor.poll_timeout(), Some((now + ms(20_002), "heartbeatFrequencyMS")));
    monitor.handle_check_now(now + ms(10_003));
    assert_eq!(monitor.poll_timeout(), Some((now + ms(10_502), "heartbeatFrequencyMS")), "500 ms, if somebody asks");
}

#[test]
fn request_for_a_check_during_a_check_is_ignored() {
    let (mut monitor, now) = opened(streamable(), config());
    wishes(&mut monitor);
    let due = monitor.poll_timeout();
    monitor.handle_check_now(now + ms(100));
    assert_eq!((wishes(&mut monitor), monitor.poll_timeout()), (String::new(), due));
}

#[test]
fn stop_interrupts_the_stream() {
    let (mut monitor, now) = opened(streamable(), config());
    wishes(&mut monitor);
    told(&mut monitor);
    monitor.handle_stop(now + ms(100));
    assert_eq!((wishes(&mut monitor), told(&mut monitor)), ("close, measure false".into(), "failed true".into()));
    assert_eq!(monitor.poll_timeout(), None);
}

#[test]
fn polling_mode_never_awaits() {
    let (mut monitor, now) = opened(streamable(), MonitorConfig { streaming: false, ..config() });
    assert_eq!(wishes(&mut monitor), "answered Some(3ms)");
    monitor.handle_timeout(now + ms(10_000));
    assert_eq!(wishes(&mut monitor), "send");
}

#[test]
fn refused_check_clears_the_pool_and_silence_interrupts_too() {
    let refused = HelloReply::parse(&rawdoc! { "ok": 0, "code": 1234, "errmsg": "no" }).expect_err("refusal");
    assert_eq!(refused.kind(), ErrorKind::Command);
    let cases: [(Error, &str); 3] =
        [(refused, "clear a"), (closed_by_peer(Stage::Read), "clear a"), (timed_out(Stage::Hello), "clear a and interrupt")];
    for (error, order) in cases {
        let mut scene = Scene::settled();
        scene.failed("a", error.clone());
        assert_eq!(scene.orders(), [order], "{error}");
    }
}

#[test]
fn average_round_trip_is_reset_when_the_server_becomes_unknown() {
    let mut scene = Scene::settled();
    assert_eq!(scene.server("a").round_trip_time, Some(ms(5)));
    scene.failed("a", closed_by_peer(Stage::Read));
    assert_eq!(scene.server("a").round_trip_time, None);
    scene.hello("a", parsed(&rawdoc! { "ok": 1, "setName": "rs", "hosts": ["a", "b"], "isWritablePrimary": true, "maxWireVersion": 21 }));
    assert_eq!(scene.server("a").round_trip_time, Some(ms(5)));
}

#[test]
fn five_refused_checks_delay_a_caller_by_two_and_a_half_seconds() {
    let began = Instant::now();
    let mut monitor = Monitor::new(config(), began);
    let mut now = began;
    for _ in 0..5 {
        assert_eq!(wishes(&mut monitor), "open");
        monitor.handle_failed(Error::new(ErrorKind::Command, "refused").at(Stage::Hello), now);
        assert_eq!(wishes(&mut monitor), "close, failed Command");
        // A caller waits, and asks for a check again and again.
        monitor.handle_check_now(now);
        monitor.handle_check_now(now + ms(1));
        now = monitor.poll_timeout().expect("a check is due").0;
        monitor.handle_timeout(now);
    }
    assert_eq!((wishes(&mut monitor), now - began), ("open".into(), ms(2_500)), "between 2.0 and 3.5 s");
    monitor.handle_opened(plain(), ms(3), now);
    assert_eq!(wishes(&mut monitor), "answered Some(3ms)");
}
