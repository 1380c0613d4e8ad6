use std::fmt::Write as _;

use bson::oid::ObjectId;

use super::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config() -> MonitorConfig {
    MonitorConfig { heartbeat_frequency: ms(10_000), connect_timeout: Some(ms(2_000)), open_timeout: Some(ms(20_000)), streaming: true }
}

fn plain() -> HelloReply {
    HelloReply::default()
}

fn streamable() -> HelloReply {
    HelloReply {
        topology_version: Some(TopologyVersion { process_id: ObjectId::from_bytes([1; 12]), counter: 1 }),
        ..HelloReply::default()
    }
}

fn network() -> Error {
    Error::new(ErrorKind::Closed, "closed").at(Stage::Read)
}

fn texts(monitor: &mut Monitor) -> String {
    let actions: Vec<_> = std::iter::from_fn(|| monitor.poll_action())
        .map(|action| match action {
            MonitorAction::Open => "open".to_owned(),
            MonitorAction::Send { awaited: Some(_), .. } => "send awaited".to_owned(),
            MonitorAction::Send { awaited: None, .. } => "send".to_owned(),
            MonitorAction::Read => "read".to_owned(),
            MonitorAction::Close => "close".to_owned(),
            MonitorAction::Answered { round_trip, .. } => format!("answered {round_trip:?}"),
            MonitorAction::Failed(error) => format!("failed {:?}", error.kind()),
            MonitorAction::MeasureRoundTrips(on) => format!("measure {on}"),
            MonitorAction::WarnOfFlood => "warn".to_owned(),
        })
        .collect();
    actions.join(", ")
}

fn opened(reply: HelloReply, config: MonitorConfig) -> (Monitor, Instant) {
    let now = Instant::now();
    let mut monitor = Monitor::new(config, now);
    assert_eq!(texts(&mut monitor), "open");
    monitor.handle_opened(reply, ms(3), now);
    (monitor, now)
}

#[test]
fn polled_server_is_checked_every_heartbeat() {
    let (mut monitor, now) = opened(plain(), config());
    assert_eq!(texts(&mut monitor), "answered Some(3ms)");
    assert_eq!(monitor.poll_timeout(), Some((now + ms(10_000), "heartbeatFrequencyMS")));
    monitor.handle_timeout(now + ms(9_999));
    assert_eq!(texts(&mut monitor), "");
    monitor.handle_timeout(now + ms(10_000));
    assert_eq!(texts(&mut monitor), "send");
    monitor.handle_reply(plain(), false, now + ms(10_007));
    assert_eq!(texts(&mut monitor), "answered Some(7ms)");
}

#[test]
fn requested_check_waits_for_the_minimum_interval() {
    let (mut monitor, now) = opened(plain(), config());
    texts(&mut monitor);
    monitor.handle_check_now(now + ms(100));
    assert_eq!(texts(&mut monitor), "");
    assert_eq!(monitor.poll_timeout(), Some((now + ms(500), "heartbeatFrequencyMS")));
    monitor.handle_timeout(now + ms(500));
    assert_eq!(texts(&mut monitor), "send");
    monitor.handle_check_now(now + ms(600));
    assert_eq!(texts(&mut monitor), "", "a running check serves the request");
}

#[test]
fn stream_is_read_until_it_fails_and_then_tried_again_once() {
    let (mut monitor, now) = opened(streamable(), config());
    assert_eq!(texts(&mut monitor), "measure true, answered Some(3ms), send awaited");
    assert_eq!(monitor.poll_timeout(), Some((now + ms(12_000), "connectTimeoutMS + heartbeatFrequencyMS")));
    monitor.handle_reply(streamable(), true, now + ms(10_000));
    assert_eq!(texts(&mut monitor), "answered None, read");
    monitor.handle_reply(streamable(), false, now + ms(20_000));
    assert_eq!(texts(&mut monitor), "answered None, send awaited");
    monitor.handle_failed(network(), now + ms(20_001));
    assert_eq!(texts(&mut monitor), "close, measure false, failed Closed, open");
    monitor.handle_failed(network(), now + ms(20_002));
    assert_eq!(texts(&mut monitor), "close, failed Closed");
    assert_eq!(monitor.poll_timeout(), Some((now + ms(30_002), "heartbeatFrequencyMS")));
}

/// The events of a reply or a failure come before those of the next check.
#[test]
fn next_check_starts_after_the_outcome_of_the_last_was_taken() {
    let now = Instant::now();
    let mut monitor = Monitor::new(config(), now);
    let events = |monitor: &mut Monitor| -> Vec<&'static str> {
        let name = |event| match event {
            MonitorEvent::HeartbeatStarted { .. } => "started",
            MonitorEvent::HeartbeatSucceeded { .. } => "succeeded",
            MonitorEvent::HeartbeatFailed { .. } => "failed",
        };
        std::iter::from_fn(|| monitor.poll_event()).map(name).collect()
    };
    assert_eq!(events(&mut monitor), ["started"]);
    assert!(matches!(monitor.poll_action(), Some(MonitorAction::Open)));
    monitor.handle_opened(streamable(), ms(3), now);
    assert_eq!(events(&mut monitor), ["succeeded"]);
    assert!(matches!(monitor.poll_action(), Some(MonitorAction::MeasureRoundTrips(true))));
    assert!(events(&mut monitor).is_empty());
    assert!(matches!(monitor.poll_action(), Some(MonitorAction::Answered { .. })));
    assert_eq!(events(&mut monitor), ["started"], "before its hello is sent");
    assert!(matches!(monitor.poll_action(), Some(MonitorAction::Send { .. })));
    monitor.handle_failed(network(), now + ms(1));
    assert_eq!(events(&mut monitor), ["failed"]);
    while !matches!(monitor.poll_action(), Some(MonitorAction::Failed(_)) | None) {}
    assert_eq!(events(&mut monitor), ["started"], "before its connection is opened");
    assert!(matches!(monitor.poll_action(), Some(MonitorAction::Open)));
}

#[test]
fn silent_dial_and_silent_check_time_out_exactly() {
    let now = Instant::now();
    let mut monitor = Monitor::new(config(), now);
    assert_eq!(texts(&mut monitor), "open");
    monitor.handle_timeout(now + ms(19_999));
    assert_eq!(texts(&mut monitor), "");
    monitor.handle_timeout(now + ms(20_000));
    assert_eq!(texts(&mut monitor), "close, failed Timeout");

    let (mut monitor, now) = opened(plain(), config());
    monitor.handle_timeout(now + ms(10_000));
    assert_eq!(texts(&mut monitor), "answered Some(3ms), send");
    monitor.handle_timeout(now + ms(11_999));
    assert_eq!(texts(&mut monitor), "");
    monitor.handle_timeout(now + ms(12_000));
    assert_eq!(texts(&mut monitor), "close, failed Timeout, open");
}

#[test]
fn server_that_once_understood_hello_is_greeted_so_from_then_on() {
    let (mut monitor, mut now) = opened(plain(), config());
    let mut greetings = Vec::new();
    for hello_ok in [true, false, false] {
        now += ms(10_000);
        monitor.handle_timeout(now);
        let sent = std::iter::from_fn(|| monitor.poll_action())
            .find_map(|action| if let MonitorAction::Send { hello_ok, .. } = action { Some(hello_ok) } else { None });
        greetings.extend(sent);
        monitor.handle_reply(HelloReply { hello_ok, ..plain() }, false, now);
    }
    assert_eq!(greetings, [false, true, true]);
    // On a new connection it must say so again.
    now += ms(10_000);
    monitor.handle_timeout(now);
    monitor.handle_failed(network(), now);
    monitor.handle_opened(plain(), ms(3), now);
    assert_eq!(texts(&mut monitor), "answered Some(0ns), send, close, failed Closed, open, answered Some(3ms)");
    monitor.handle_timeout(now + ms(10_000));
    assert!(matches!(monitor.poll_action(), Some(MonitorAction::Send { hello_ok: false, .. })));
}

#[test]
fn silent_stream_times_out_exactly() {
    let (mut monitor, now) = opened(streamable(), config());
    texts(&mut monitor);
    monitor.handle_timeout(now + ms(11_999));
    assert_eq!(texts(&mut monitor), "");
    monitor.handle_timeout(now + ms(12_000));
    assert_eq!(texts(&mut monitor), "close, measure false, failed Timeout, open");
}

#[test]
fn stream_without_pause_is_polled_for_a_while() {
    let (mut monitor, now) = opened(streamable(), config());
    texts(&mut monitor);
    for _ in 0..STREAMED_BURST {
        monitor.handle_reply(streamable(), true, now);
        assert_eq!(texts(&mut monitor), "answered None, read", "a burst is read at once");
    }
    monitor.handle_reply(streamable(), true, now);
    assert_eq!(texts(&mut monitor), "answered None, warn, close, measure false", "the reply still counts");
    // From now on it is polled: its news is late by a second at the most.
    let mut at = now + FLOOD_POLL;
    assert_eq!(monitor.poll_timeout(), Some((at, "heartbeatFrequencyMS")));
    monitor.handle_timeout(at);
    assert_eq!(texts(&mut monitor), "open");
    monitor.handle_opened(streamable(), ms(3), at);
    let mut polls = 0;
    while at < now + FLOOD_PAUSE {
        assert_eq!(texts(&mut monitor), "answered Some(3ms)");
        assert_eq!(monitor.poll_timeout(), Some((at + FLOOD_POLL, "heartbeatFrequencyMS")));
        at += FLOOD_POLL;
        monitor.handle_timeout(at);
        assert_eq!(texts(&mut monitor), "send");
        monitor.handle_reply(streamable(), false, at + ms(3));
        at += ms(3);
        polls += 1;
    }
    assert!(polls < 60, "{polls}");
    assert_eq!(texts(&mut monitor), "measure true, answered Some(3ms), send awaited", "then it may stream again");
}

#[test]
fn stream_at_its_own_pace_is_never_taken_for_a_flood() {
    let fast = MonitorConfig { heartbeat_frequency: ms(500), ..config() };
    let (mut monitor, mut now) = opened(streamable(), fast);
    texts(&mut monitor);
    for _ in 0..1000 {
        now += ms(500);
        monitor.handle_reply(streamable(), true, now);
        assert_eq!(texts(&mut monitor), "answered None, read");
    }
}

#[test]
fn replies_that_were_not_asked_for_fail_the_check() {
    let (mut monitor, now) = opened(plain(), config());
    monitor.handle_timeout(now + ms(10_000));
    texts(&mut monitor);
    monitor.handle_reply(streamable(), true, now + ms(10_001));
    assert_eq!(texts(&mut monitor), "close, failed Protocol, open");
}

#[test]
fn server_that_answers_and_fails_in_turns_is_tried_again_with_pauses() {
    let (mut monitor, now) = opened(streamable(), config());
    let (mut at, mut dials) = (now, 0);
    texts(&mut monitor);
    while at < now + ms(10_000) {
        monitor.handle_failed(network(), at);
        if monitor.poll_timeout().is_some_and(|(_, name)| name == "heartbeatFrequencyMS") {
            at += MIN_HEARTBEAT_FREQUENCY;
            monitor.handle_timeout(at);
        }
        assert!(texts(&mut monitor).ends_with("failed Closed, open"));
        monitor.handle_opened(streamable(), ms(1), at);
        dials += 1;
        assert!(dials <= 41, "{dials} connections within {:?}", at - now);
    }
    assert!((20..=41).contains(&dials), "{dials} connections in ten seconds");
}

#[test]
fn limit_of_opening_counts_from_when_it_begins() {
    let now = Instant::now();
    let mut monitor = Monitor::new(config(), now);
    monitor.handle_queued();
    assert_eq!(monitor.poll_timeout(), None);
    monitor.handle_timeout(now + ms(100_000));
    assert_eq!(texts(&mut monitor), "open");
    monitor.handle_dialling(now + ms(100_000));
    assert_eq!(monitor.poll_timeout(), Some((now + ms(120_000), "opening")));
}

#[test]
fn command_error_is_not_tried_again_at_once() {
    let (mut monitor, now) = opened(plain(), config());
    monitor.handle_timeout(now + ms(10_000));
    texts(&mut monitor);
    monitor.handle_failed(Error::new(ErrorKind::Command, "no"), now + ms(10_001));
    assert_eq!(texts(&mut monitor), "close, failed Command");
    monitor.handle_check_now(now + ms(10_002));
    assert_eq!(monitor.poll_timeout(), Some((now + ms(10_501), "heartbeatFrequencyMS")));
}

#[test]
fn cancelled_check_begins_no_other_at_once() {
    let (mut monitor, now) = opened(streamable(), config());
    texts(&mut monitor);
    monitor.handle_cancel_check(now + ms(100));
    assert_eq!(texts(&mut monitor), "close, measure false");
    monitor.handle_check_now(now + ms(101));
    assert_eq!(monitor.poll_timeout(), Some((now + ms(500), "heartbeatFrequencyMS")));
}

#[test]
fn suspension_asks_at_once_on_a_fresh_connection() {
    let (mut monitor, now) = opened(streamable(), config());
    texts(&mut monitor);
    monitor.handle_resumed(now + ms(1));
    assert_eq!(texts(&mut monitor), "close, measure false, open");
}

#[test]
fn zero_connect_timeout_means_no_deadline() {
    let (mut monitor, _) = opened(streamable(), MonitorConfig { connect_timeout: None, ..config() });
    texts(&mut monitor);
    assert_eq!(monitor.poll_timeout(), None);
}

#[test]
fn polling_mode_never_streams() {
    let (mut monitor, _) = opened(streamable(), MonitorConfig { streaming: false, ..config() });
    assert_eq!(texts(&mut monitor), "answered Some(3ms)");
}

/// Every fact in every state, against the recorded matrix; each start of a check has one end.
#[test]
fn states_and_events_match_the_recorded_matrix() {
    type Make = fn() -> (Monitor, Instant);
    type Step = fn(&mut Monitor, Instant);
    let states: [(&str, Make); 5] = [
        ("Resting", || opened(plain(), config())),
        ("Opening", || {
            let now = Instant::now();
            (Monitor::new(config(), now), now)
        }),
        ("Polling", || {
            let (mut monitor, now) = opened(plain(), config());
            monitor.handle_timeout(now + ms(10_000));
            (monitor, now + ms(10_000))
        }),
        ("Streaming", || opened(streamable(), config())),
        ("Stopped", || {
            let (mut monitor, now) = opened(plain(), config());
            monitor.handle_stop(now);
            (monitor, now)
        }),
    ];
    let steps: [(&str, Step); 11] = [
        ("opened", |monitor, now| monitor.handle_opened(plain(), ms(3), now)),
        ("opened, can stream", |monitor, now| monitor.handle_opened(streamable(), ms(3), now)),
        ("reply", |monitor, now| monitor.handle_reply(plain(), false, now)),
        ("reply, can stream", |monitor, now| monitor.handle_reply(streamable(), false, now)),
        ("reply, more to come", |monitor, now| monitor.handle_reply(streamable(), true, now)),
        ("failed, network", |monitor, now| monitor.handle_failed(network(), now)),
        ("check now", |monitor, now| monitor.handle_check_now(now)),
        ("cancel check", |monitor, now| monitor.handle_cancel_check(now)),
        ("resumed", |monitor, now| monitor.handle_resumed(now)),
        ("timeout", |monitor, now| monitor.handle_timeout(now + ms(20_000))),
        ("stop", |monitor, now| monitor.handle_stop(now)),
    ];
    let mut matrix = String::new();
    for (state, make) in states {
        for (name, step) in steps {
            let (mut monitor, now) = make();
            texts(&mut monitor);
            step(&mut monitor, now);
            let after = format!("{:?}", monitor.state);
            let after = after.split([' ', '{']).next().unwrap_or_default().to_owned();
            writeln!(matrix, "{state} x {name}: [{}] -> {after}", texts(&mut monitor)).expect("string");
            let (mut begun, mut ended) = (0, 0);
            while let Some(event) = monitor.poll_event() {
                match event {
                    MonitorEvent::HeartbeatStarted { .. } => begun += 1,
                    MonitorEvent::HeartbeatSucceeded { .. } | MonitorEvent::HeartbeatFailed { .. } => ended += 1,
                }
            }
            let running =
                matches!(monitor.state, MonitorState::Opening { .. } | MonitorState::Polling { .. } | MonitorState::Streaming { .. });
            assert_eq!(begun, ended + u32::from(running), "{state} x {name}");
        }
    }
    crate::matrix::compare("monitor", &matrix);
}
