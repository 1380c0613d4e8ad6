use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const LIMIT: Duration = Duration::from_secs(1);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[allow(clippy::disallowed_methods, reason = "any moment will do as the start of virtual time")]
fn start() -> Instant {
    Instant::now()
}

fn v6(last: u16) -> Address {
    Address::Ip(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 27017).into())
}

fn v4(last: u8) -> Address {
    Address::Ip(([192, 0, 2, last], 27017).into())
}

fn config() -> RaceConfig {
    RaceConfig { stagger: STAGGER, timeout: Some(LIMIT) }
}

fn refused() -> Error {
    Error::io(Stage::Tcp, io::ErrorKind::ConnectionRefused.into())
}

/// The addresses that the race dials now; panics on any other action.
fn dialled(race: &mut Race) -> Vec<Address> {
    let mut dialled = Vec::new();
    while let Some(action) = race.poll_action() {
        match action {
            RaceAction::Dial(_, address) => dialled.push(address),
            RaceAction::Dead(_) => {}
            RaceAction::Abort(_) | RaceAction::Won(_) | RaceAction::Lost(_) => panic!("{action:?}"),
        }
    }
    dialled
}

/// The error of a race that must be lost by now.
fn lost(race: &mut Race) -> Error {
    while let Some(action) = race.poll_action() {
        if let RaceAction::Lost(error) = action {
            return error;
        }
    }
    panic!("the race goes on");
}

fn id_of(race: &Race, address: &Address) -> AttemptId {
    AttemptId(race.candidates.iter().position(|known| known.address == *address).unwrap_or(99))
}

fn fail(race: &mut Race, address: &Address, now: Instant) {
    let id = id_of(race, address);
    race.handle_failed(id, refused(), now);
}

#[test]
fn families_take_turns_and_keep_their_order() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v6(2), v6(3), v4(1), v4(2)], false, None, t0);
    let mut order = dialled(&mut race);
    for _ in 0..4 {
        let last = order.last().cloned().expect("something is dialled");
        fail(&mut race, &last, t0);
        order.extend(dialled(&mut race));
    }
    assert_eq!(order, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
}

#[test]
fn first_family_is_that_of_the_first_address() {
    let mut race = Race::new(config(), vec![v4(1), v4(2), v6(1)], false, None, start());
    assert_eq!(dialled(&mut race), [v4(1)]);
    race.handle_timeout(race.poll_timeout().expect("stagger").0);
    assert_eq!(dialled(&mut race), [v6(1)]);
}

#[test]
fn next_address_joins_after_the_stagger_exactly() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v4(1), v6(2)], false, None, t0);
    assert_eq!(dialled(&mut race), [v6(1)]);
    assert_eq!(race.poll_timeout(), Some((t0 + STAGGER, "stagger")));
    race.handle_timeout(t0 + ms(249));
    assert_eq!(dialled(&mut race), []);
    race.handle_timeout(t0 + ms(250));
    assert_eq!(dialled(&mut race), [v4(1)]);
    assert_eq!(race.poll_timeout(), Some((t0 + ms(500), "stagger")));
    race.handle_timeout(t0 + ms(510));
    assert_eq!(dialled(&mut race), [v6(2)]);
    assert_eq!(race.poll_timeout(), Some((t0 + LIMIT, "connectTimeoutMS")), "nothing is queued any more");
}

#[test]
fn failure_starts_the_next_one_at_once() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v4(1), v6(2)], false, None, t0);
    assert_eq!(dialled(&mut race), [v6(1)]);
    fail(&mut race, &v6(1), t0 + ms(7));
    assert_eq!(dialled(&mut race), [v4(1)]);
    assert_eq!(race.poll_timeout(), Some((t0 + ms(257), "stagger")));
}

#[test]
fn remembered_winner_is_tried_first() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v6(2), v4(1), v4(2)], false, Some(v4(2)), t0);
    let mut order = dialled(&mut race);
    for at in [250, 500, 750] {
        race.handle_timeout(t0 + ms(at));
        order.extend(dialled(&mut race));
    }
    assert_eq!(order, [v4(2), v6(1), v4(1), v6(2)]);
}

#[test]
fn remembered_winner_that_is_gone_is_ignored() {
    let mut race = Race::new(config(), vec![v6(1)], false, Some(v4(9)), start());
    assert_eq!(dialled(&mut race), [v6(1)]);
}

#[test]
fn late_address_joins_the_queue() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v6(2)], true, None, t0);
    assert_eq!(dialled(&mut race), [v6(1)]);
    race.handle_addresses(vec![v6(1), v6(2), v4(1)], false, t0 + ms(60));
    assert_eq!(dialled(&mut race), [], "the first is still alone");
    race.handle_timeout(t0 + STAGGER);
    assert_eq!(dialled(&mut race), [v4(1)], "the other family is next");
}

#[test]
fn late_address_is_dialled_at_once_if_nothing_else_runs() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1)], true, None, t0);
    fail(&mut race, &v6(1), t0 + ms(1));
    assert_eq!(dialled(&mut race), [v6(1)]);
    race.handle_addresses(vec![v4(1)], false, t0 + ms(2));
    assert_eq!(dialled(&mut race), [v4(1)]);
}

#[test]
fn failed_race_waits_for_addresses_to_come() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1)], true, None, t0);
    fail(&mut race, &v6(1), t0 + ms(1));
    assert_eq!(dialled(&mut race), [v6(1)]);
    race.handle_addresses(Vec::new(), false, t0 + ms(40));
    assert_eq!(lost(&mut race).kind(), ErrorKind::Io(io::ErrorKind::ConnectionRefused));
}

#[test]
fn look_up_that_outlasts_the_limit_does_not_hide_why_the_addresses_failed() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v4(1)], true, None, t0);
    fail(&mut race, &v6(1), t0 + ms(1));
    fail(&mut race, &v4(1), t0 + ms(2));
    assert_eq!(dialled(&mut race), [v6(1), v4(1)]);
    race.handle_timeout(t0 + LIMIT);
    let error = lost(&mut race);
    assert_eq!((error.kind(), error.elapsed()), (ErrorKind::Io(io::ErrorKind::ConnectionRefused), Some(LIMIT)));
    assert_eq!(error.causes().len(), 2);
}

#[test]
fn connect_timer_starts_with_the_first_address() {
    let t0 = start();
    let mut race = Race::new(config(), Vec::new(), true, None, t0);
    assert_eq!(race.poll_timeout(), None, "a look-up is not the race's time");
    race.handle_timeout(t0 + ms(60_000));
    race.handle_addresses(vec![v4(1)], false, t0 + ms(60_000));
    assert_eq!(race.poll_timeout(), Some((t0 + ms(60_000) + LIMIT, "connectTimeoutMS")));
}

#[test]
fn name_without_address_is_lost_at_dns() {
    let error = lost(&mut Race::new(config(), Vec::new(), false, None, start()));
    assert_eq!((error.kind(), error.stage()), (ErrorKind::NoAddresses, Some(Stage::Dns)));
    assert!(error.labels().is_empty());
}

#[test]
fn deadline_is_exact_and_names_limit_and_address() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v4(1)], false, None, t0);
    race.handle_timeout(t0 + ms(999));
    assert_eq!(dialled(&mut race), [v4(1)]);
    race.handle_timeout(t0 + LIMIT);
    let error = lost(&mut race);
    assert_eq!(error.to_string(), "tcp: 192.0.2.1:27017: timed out after 1000 ms (limit connectTimeoutMS of 1000 ms)");
    assert!(error.has_label("SystemOverloadedError") && error.has_label("RetryableError"));
    assert_eq!(race.poll_timeout(), None);
}

#[test]
fn deadline_in_tls_says_so_and_keeps_all_causes() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v4(1), v6(2)], false, None, t0);
    fail(&mut race, &v6(1), t0 + ms(1));
    race.handle_opened(id_of(&race, &v4(1)), t0 + ms(2));
    race.handle_timeout(t0 + ms(251));
    race.handle_timeout(t0 + LIMIT);
    let error = lost(&mut race);
    assert_eq!((error.kind(), error.stage()), (ErrorKind::Timeout, Some(Stage::Tls)));
    let causes: Vec<_> = error.causes().iter().map(|cause| (cause.stage(), cause.address().cloned())).collect();
    let expected = [(Stage::Tcp, v6(1)), (Stage::Tls, v4(1)), (Stage::Tcp, v6(2))];
    assert_eq!(causes, expected.map(|(stage, address)| (Some(stage), Some(address))));
}

#[test]
fn no_limit_means_no_deadline() {
    let unlimited = |timeout| Race::new(RaceConfig { stagger: STAGGER, timeout }, vec![v4(1)], false, None, start());
    assert_eq!(unlimited(None).poll_timeout(), None);
    assert_eq!(unlimited(Some(Duration::MAX)).poll_timeout(), None);
}

#[test]
fn winner_ends_the_others() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v4(1), v4(2)], false, None, t0);
    race.handle_timeout(t0 + STAGGER);
    assert_eq!(dialled(&mut race), [v6(1), v4(1)]);
    let (first, second) = (id_of(&race, &v6(1)), id_of(&race, &v4(1)));
    race.handle_connected(second, t0 + ms(300));
    assert!(matches!(race.poll_action(), Some(RaceAction::Abort(id)) if id == first));
    assert!(matches!(race.poll_action(), Some(RaceAction::Won(id)) if id == second));
    race.handle_connected(first, t0 + ms(300));
    race.handle_timeout(t0 + LIMIT);
    assert!(race.poll_action().is_none());
}

#[test]
fn single_address_is_lost_with_its_own_cause() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v4(1)], false, None, t0);
    fail(&mut race, &v4(1), t0 + ms(3));
    let error = lost(&mut race);
    assert_eq!(error.kind(), ErrorKind::Io(io::ErrorKind::ConnectionRefused));
    assert_eq!((error.address(), error.elapsed()), (Some(&v4(1)), Some(ms(3))));
    assert!(error.causes().is_empty() && error.has_label("SystemOverloadedError"));
}

#[test]
fn several_causes_are_kept_and_the_most_informative_is_named() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v4(1), v4(2)], false, None, t0);
    fail(&mut race, &v6(1), t0);
    let second = id_of(&race, &v4(1));
    race.handle_failed(second, Error::new(ErrorKind::CertificateName, "for another name").at(Stage::Tls), t0);
    fail(&mut race, &v4(2), t0);
    let error = lost(&mut race);
    assert_eq!((error.kind(), error.stage()), (ErrorKind::CertificateName, Some(Stage::Tls)));
    assert!(error.labels().is_empty(), "a certificate is not overload");
    let addresses: Vec<_> = error.causes().iter().filter_map(|cause| cause.address().cloned()).collect();
    assert_eq!(addresses, [v6(1), v4(1), v4(2)]);
    assert!(error.causes()[0].has_label("RetryableError") && error.causes()[1].labels().is_empty());
}

#[test]
fn cause_of_the_latest_stage_is_the_most_informative() {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, HostUnreachable, TimedOut};
    let ranks: &[(u8, &[ErrorKind])] = &[
        (6, &[ErrorKind::Certificate, ErrorKind::CertificateName, ErrorKind::CertificateExpired, ErrorKind::CertificateUnknownIssuer]),
        (5, &[ErrorKind::Tls]),
        (4, &[ErrorKind::Closed, ErrorKind::Io(ConnectionReset)]),
        (3, &[ErrorKind::Io(ConnectionRefused)]),
        (2, &[ErrorKind::Timeout, ErrorKind::Io(TimedOut)]),
        (1, &[ErrorKind::Io(HostUnreachable), ErrorKind::Io(BrokenPipe), ErrorKind::Shutdown]),
        (0, &[ErrorKind::LocalResources]),
    ];
    for (rank, kinds) in ranks {
        assert!(kinds.iter().all(|kind| informative_rank(*kind) == *rank), "{rank}: {kinds:?}");
    }
}

#[test]
fn addresses_are_bounded() {
    let many = (0..200).map(v4).collect();
    let race = Race::new(config(), many, false, None, start());
    assert_eq!(race.candidates.len(), ADDRESSES_MAX);
}

#[test]
fn addresses_tried_at_once_are_bounded() {
    let t0 = start();
    let patient = RaceConfig { timeout: Some(ms(10_000)), ..config() };
    let mut race = Race::new(patient, (1..=12).map(v4).collect(), false, None, t0);
    let mut tried = dialled(&mut race);
    while let Some((at, "stagger")) = race.poll_timeout() {
        race.handle_timeout(at);
        tried.extend(dialled(&mut race));
    }
    assert_eq!(tried.len(), ATTEMPTS_MAX, "then only the limit of the whole is left");
    fail(&mut race, &v4(3), t0 + ms(5000));
    assert_eq!(dialled(&mut race), [v4(9)], "one that fails makes room at once");
    assert!(race.poll_timeout().is_none_or(|(_, name)| name != "stagger"));
}

#[test]
fn random_sequences_keep_the_invariants() {
    for seed in 0..300 {
        random_race(seed);
    }
}

/// Drives one race at random: it must end, once, with every attempt accounted for and no address tried twice.
fn random_race(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut now = start();
    let pool: Vec<Address> = (0..4).map(v4).chain((0..4).map(v6)).collect();
    let pick = |rng: &mut SmallRng| -> Vec<Address> { pool.iter().filter(|_| rng.random_range(0..3) == 0).cloned().collect() };
    let remembered = pool.get(rng.random_range(0..12)).cloned();
    let mut race = Race::new(config(), pick(&mut rng), true, remembered, now);
    let (mut running, mut tried, mut ends) = (BTreeSet::new(), BTreeSet::new(), 0);
    for step in 0..200 {
        while let Some(action) = race.poll_action() {
            assert_eq!(ends, 0, "seed {seed}: {action:?} after the end");
            match action {
                RaceAction::Dial(id, address) => assert!(running.insert(id) && tried.insert(address), "seed {seed}: dialled twice"),
                RaceAction::Abort(id) => assert!(running.remove(&id), "seed {seed}: aborted what does not run"),
                RaceAction::Dead(address) => assert!(tried.contains(&address), "seed {seed}: dead without a try"),
                RaceAction::Won(id) => {
                    assert!(running.remove(&id), "seed {seed}: winner does not run");
                    ends += 1;
                }
                RaceAction::Lost(_) => ends += 1,
            }
        }
        if ends > 0 {
            assert!(running.is_empty() && race.poll_timeout().is_none(), "seed {seed}: something is left over");
        }
        let id = AttemptId(rng.random_range(0..9));
        match rng.random_range(0..9) {
            0 => race.handle_addresses(pick(&mut rng), step < 100, now),
            8 => race.handle_newer(pick(&mut rng), step < 100, now),
            1 => race.handle_opened(id, now),
            2 if rng.random_range(0..4) == 0 => race.handle_connected(id, now),
            3 | 4 => {
                running.remove(&id);
                race.handle_failed(id, refused(), now);
            }
            _ => {
                now += ms(rng.random_range(0..120));
                race.handle_timeout(now);
                assert!(race.poll_timeout().is_none_or(|(at, _)| at > now), "seed {seed}: a timer is left in the past");
            }
        }
    }
    assert_eq!(ends, 1, "seed {seed}: the race does not end");
}

#[test]
fn newer_answer_replaces_untried_addresses() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1), v4(1), v6(2), v4(2)], false, None, t0);
    assert_eq!(dialled(&mut race), [v6(1)]);
    race.handle_newer(vec![v6(7), v4(2), v4(2), v4(7)], false, t0 + ms(100));
    // The first attempt is alone until its delay is over, and goes on after it.
    assert!(dialled(&mut race).is_empty());
    race.handle_timeout(t0 + STAGGER);
    assert_eq!(dialled(&mut race), [v4(2)]);
    fail(&mut race, &v4(2), t0 + STAGGER);
    assert_eq!(dialled(&mut race), [v6(7)]);
    fail(&mut race, &v6(7), t0 + STAGGER);
    assert_eq!(dialled(&mut race), [v4(7)]);
    fail(&mut race, &v4(7), t0 + STAGGER);
    assert!(dialled(&mut race).is_empty());
    fail(&mut race, &v6(1), t0 + ms(300));
    assert_eq!(lost(&mut race).causes().len(), 4);
}

#[test]
fn newer_answer_is_dialled_at_once_beside_an_unresponsive_attempt() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v4(1)], false, None, t0);
    assert_eq!(dialled(&mut race), [v4(1)]);
    race.handle_newer(vec![v4(2)], false, t0 + ms(600));
    assert_eq!(dialled(&mut race), [v4(2)]);
    let winner = id_of(&race, &v4(1));
    race.handle_connected(winner, t0 + ms(700));
    let over = std::iter::from_fn(|| race.poll_action()).any(|action| matches!(action, RaceAction::Won(id) if id == winner));
    assert!(over, "what runs may win all the same");
}

#[test]
fn withdrawn_address_comes_back_with_an_answer_that_has_it() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v4(1), v4(2)], true, None, t0);
    assert_eq!(dialled(&mut race), [v4(1)]);
    race.handle_newer(Vec::new(), true, t0 + ms(10));
    fail(&mut race, &v4(1), t0 + ms(20));
    assert!(dialled(&mut race).is_empty());
    race.handle_addresses(vec![v4(2)], false, t0 + ms(30));
    assert_eq!(dialled(&mut race), [v4(2)]);
}

#[test]
fn newer_answers_never_exceed_the_limit() {
    let t0 = start();
    let mut race = Race::new(config(), vec![v6(1)], true, None, t0);
    for round in 0..100_u16 {
        let answer = (0..40).map(|number| v6(100 * round + number)).collect();
        race.handle_newer(answer, true, t0 + ms(1));
    }
    assert_eq!(race.candidates.len(), ADDRESSES_MAX);
}

#[test]
fn every_state_and_event_is_as_recorded() {
    let mut text = String::new();
    for setup in SETUPS {
        for event in EVENTS {
            let (mut race, t0, now) = setup();
            while race.poll_action().is_some() {}
            let before = name(&race);
            apply(&mut race, event, t0, now);
            let actions = actions(&mut race);
            writeln!(text, "{before:<16} + {event:<10} -> {:<16} {actions}", name(&race)).expect("a string takes all");
        }
    }
    crate::matrix::compare("race", &text);
}

type Setup = fn() -> (Race, Instant, Instant);

/// One race for each state that the address `b` and the race can be in; `a` is the address before it.
const SETUPS: [Setup; 10] = [
    || {
        let t0 = start();
        (Race::new(config(), Vec::new(), true, None, t0), t0, t0 + ms(300))
    },
    || {
        let t0 = start();
        (Race::new(config(), vec![a()], true, None, t0), t0, t0 + ms(300))
    },
    || {
        let t0 = start();
        (Race::new(config(), vec![a(), b()], true, None, t0), t0, t0 + ms(100))
    },
    || {
        let t0 = start();
        let mut race = Race::new(config(), vec![a(), b()], true, None, t0);
        race.handle_newer(Vec::new(), true, t0 + ms(50));
        (race, t0, t0 + ms(100))
    },
    || both_dialling(|_, _, _| {}),
    || both_dialling(|race, b, now| race.handle_opened(b, now)),
    || both_dialling(|race, b, now| race.handle_failed(b, refused(), now)),
    || both_dialling(|race, _, now| race.handle_connected(id_of(race, &a()), now)),
    || both_dialling(|race, b, now| race.handle_connected(b, now)),
    || {
        both_dialling(|race, b, now| {
            race.handle_failed(b, refused(), now);
            race.handle_failed(id_of(race, &a()), refused(), now);
            race.handle_addresses(Vec::new(), false, now);
        })
    },
];

const EVENTS: [&str; 11] =
    ["addresses b", "addresses c", "newer b", "newer c", "no more", "opened", "connected", "failed", "tick", "stagger", "deadline"];

fn a() -> Address {
    v6(0xa)
}

fn b() -> Address {
    v4(0xb)
}

fn c() -> Address {
    v4(0xc)
}

fn both_dialling(then: fn(&mut Race, AttemptId, Instant)) -> (Race, Instant, Instant) {
    let t0 = start();
    let now = t0 + ms(300);
    let mut race = Race::new(config(), vec![a(), b()], true, None, t0);
    race.handle_timeout(t0 + STAGGER);
    let id = id_of(&race, &b());
    then(&mut race, id, now);
    (race, t0, now)
}

fn apply(race: &mut Race, event: &str, t0: Instant, now: Instant) {
    let id = id_of(race, &b());
    match event {
        "addresses b" => race.handle_addresses(vec![b()], true, now),
        "addresses c" => race.handle_addresses(vec![c()], true, now),
        "newer b" => race.handle_newer(vec![b()], true, now),
        "newer c" => race.handle_newer(vec![c()], true, now),
        "no more" => race.handle_addresses(Vec::new(), false, now),
        "opened" => race.handle_opened(id, now),
        "connected" => race.handle_connected(id, now),
        "failed" => race.handle_failed(id, refused(), now),
        "tick" => race.handle_timeout(now),
        "stagger" => race.handle_timeout(t0 + ms(600)),
        "deadline" => race.handle_timeout(t0 + LIMIT),
        other => panic!("unknown event {other}"),
    }
}

/// The state of `b`, and of the race.
fn name(race: &Race) -> String {
    let state = match race.candidates.iter().find(|known| known.address == b()).map(|known| &known.state) {
        None => "Absent",
        Some(RaceState::Queued) => "Queued",
        Some(RaceState::Withdrawn) => "Withdrawn",
        Some(RaceState::Dialling { .. }) => "Dialling",
        Some(RaceState::Securing { .. }) => "Securing",
        Some(RaceState::Failed(_)) => "Failed",
        Some(RaceState::Aborted) => "Aborted",
        Some(RaceState::Won) => "Won",
    };
    let phase = match race.phase {
        AddressPhase::Waiting => "Waiting",
        AddressPhase::Racing { .. } => "Racing",
        AddressPhase::Settled => "Settled",
    };
    format!("{state}/{phase}")
}

fn actions(race: &mut Race) -> String {
    let names = [(a(), "a"), (b(), "b"), (c(), "c")];
    let letter = |address: &Address| names.iter().find(|(known, _)| known == address).map_or("?", |(_, name)| *name);
    let mut actions = Vec::new();
    while let Some(action) = race.poll_action() {
        let of = |id: AttemptId| race.candidates.get(id.0).map_or("?", |known| letter(&known.address));
        actions.push(match action {
            RaceAction::Dial(_, address) => format!("dial {}", letter(&address)),
            RaceAction::Abort(id) => format!("abort {}", of(id)),
            RaceAction::Dead(address) => format!("dead {}", letter(&address)),
            RaceAction::Won(id) => format!("won {}", of(id)),
            RaceAction::Lost(error) => format!("lost: {:?}", error.kind()),
        });
    }
    if actions.is_empty() { "none".into() } else { actions.join(", ") }
}
