use super::super::limits::UNTIMED_TTL;
use super::super::query::RESOLUTION_DELAY;
use super::*;

const BUDGET: Duration = Duration::from_secs(15);
const DAY: Duration = Duration::from_secs(86_400);
const NAME: &str = "db.example";

/// A cache on virtual time.
struct Scene {
    cache: Cache,
    start: Instant,
    now: Instant,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn down() -> LookupFailure {
    LookupFailure::Other(Error::new(ErrorKind::DnsFailed, "server failure"))
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Scene {
    fn new() -> Self {
        let start = Instant::now();
        Self { cache: Cache::new(BUDGET), start, now: start }
    }

    fn ask(&mut self, waiter: u64, mode: LookupMode) -> &mut Self {
        self.cache.handle_ask(LookupId(waiter), NAME, mode, self.now);
        self
    }

    fn pass(&mut self, span: Duration) -> &mut Self {
        self.now += span;
        self
    }

    fn found(&mut self, query: u64, texts: &[&str]) -> &mut Self {
        let family = if ip(texts[0]).is_ipv4() { AddressFamily::V4 } else { AddressFamily::V6 };
        self.cache.handle_answered(NAME, QueryId(query), family, ips(texts), seconds(60), self.now);
        self
    }

    fn failed(&mut self, query: u64, family: AddressFamily, failure: LookupFailure) -> &mut Self {
        self.cache.handle_failed(NAME, QueryId(query), family, failure, self.now);
        self
    }

    fn both_failed(&mut self, query: u64, failure: &LookupFailure) -> &mut Self {
        self.failed(query, AddressFamily::V4, failure.clone()).failed(query, AddressFamily::V6, failure.clone())
    }

    fn timeout(&mut self) -> &mut Self {
        self.cache.handle_timeout(self.now);
        assert!(self.cache.poll_timeout().is_none_or(|(at, _)| at > self.now), "a timer is due after handle_timeout");
        self
    }

    fn dead(&mut self, text: &str) -> &mut Self {
        self.cache.handle_dead(NAME, ip(text), self.now);
        self
    }

    /// The actions since the last call, as text.
    fn actions(&mut self) -> Vec<String> {
        self.is_consistent();
        let mut actions = Vec::new();
        while let Some(action) = self.cache.poll_action() {
            let numbers = |waiters: &[LookupId]| waiters.iter().map(|waiter| waiter.0.to_string()).collect::<Vec<_>>().join("+");
            actions.push(match action {
                CacheAction::Query(name, query) => format!("query {name} #{}", query.0),
                CacheAction::Refuse(waiters, error) => format!("{} refused {:?}", numbers(&waiters), error.kind()),
                CacheAction::Answer(waiters, answer) => {
                    let addresses = answer.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
                    let partial = if answer.complete { "" } else { " so far" };
                    let stale = if answer.stale { " stale" } else { "" };
                    format!("{} gets {addresses}{partial}{stale}", numbers(&waiters))
                }
            });
        }
        actions
    }

    /// Every name has one place in the order of use, and only names with a query have callers.
    fn is_consistent(&self) {
        let Cache { entries, querying, recency, waiters, .. } = &self.cache;
        assert!(entries.iter().all(|(name, entry)| recency.get(&entry.used) == Some(name)) && recency.len() == entries.len());
        let is_querying = |name: &String| matches!(entries.get(name).map(|entry| &entry.state), Some(NameState::Querying { .. }));
        assert!(querying.iter().all(is_querying) && waiters.values().all(|name| querying.contains(name)));
    }

    fn timer(&self) -> Option<(Duration, &'static str)> {
        self.cache.poll_timeout().map(|(at, name)| (at - self.start, name))
    }

    fn state(&self) -> &'static str {
        match self.cache.entries.get(NAME).map(|entry| &entry.state) {
            None => "Absent",
            Some(NameState::Querying { last: None, .. }) => "Querying",
            Some(NameState::Querying { last: Some(_), .. }) => "Querying again",
            Some(NameState::Fresh(_)) => "Fresh",
            Some(NameState::Stale { .. }) => "Stale",
            Some(NameState::Failed { .. }) => "Failed",
        }
    }

    /// A name with two fresh IPv4 addresses and one IPv6 address, from query 1.
    fn fresh() -> Self {
        let mut scene = Self::new();
        scene.ask(1, LookupMode::All).found(1, &["10.0.0.1", "10.0.0.2"]).found(1, &["::1"]);
        scene.actions();
        scene
    }

    /// A name whose answer has expired.
    fn stale() -> Self {
        let mut scene = Self::fresh();
        scene.pass(seconds(60));
        scene
    }
}

#[test]
fn one_query_answers_all_callers() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::All).ask(2, LookupMode::All).ask(3, LookupMode::All);
    assert_eq!(scene.actions(), ["query db.example #1"]);
    scene.found(1, &["10.0.0.1"]);
    assert_eq!(scene.actions(), [] as [&str; 0]);
    scene.failed(1, AddressFamily::V6, LookupFailure::NoAddresses);
    assert_eq!(scene.actions(), ["1+2+3 gets 10.0.0.1"]);
    scene.ask(4, LookupMode::First);
    assert_eq!(scene.actions(), ["4 gets 10.0.0.1"]);
    assert_eq!(scene.timer(), None);
}

#[test]
fn ipv6_answers_at_once() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).ask(2, LookupMode::All).pass(seconds(3)).found(1, &["::1"]);
    assert_eq!(scene.actions(), ["query db.example #1", "1 gets ::1 so far"]);
    scene.ask(3, LookupMode::First);
    assert_eq!(scene.actions(), ["3 gets ::1 so far"]);
    scene.found(1, &["10.0.0.1"]);
    assert_eq!(scene.actions(), ["2 gets ::1 10.0.0.1"]);
}

#[test]
fn ipv4_waits_for_ipv6_until_the_resolution_delay_is_over() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).pass(seconds(3)).found(1, &["10.0.0.1"]);
    assert_eq!(scene.actions(), ["query db.example #1"]);
    assert_eq!(scene.timer(), Some((seconds(3) + RESOLUTION_DELAY, "resolution delay")));
    scene.pass(RESOLUTION_DELAY - Duration::from_millis(1)).timeout();
    assert_eq!(scene.actions(), [] as [&str; 0]);
    scene.pass(Duration::from_millis(1)).timeout();
    assert_eq!(scene.actions(), ["1 gets 10.0.0.1 so far"]);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
    scene.ask(2, LookupMode::First);
    assert_eq!(scene.actions(), ["2 gets 10.0.0.1 so far"]);
}

#[test]
fn ipv6_within_the_resolution_delay_comes_first() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).found(1, &["10.0.0.1"]).pass(Duration::from_millis(49)).found(1, &["::1"]);
    assert_eq!(scene.actions(), ["query db.example #1", "1 gets ::1 10.0.0.1"]);
}

#[test]
fn ipv4_does_not_wait_once_ipv6_has_failed() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).failed(1, AddressFamily::V6, down()).found(1, &["10.0.0.1"]);
    assert_eq!(scene.actions(), ["query db.example #1", "1 gets 10.0.0.1"]);
}

#[test]
fn whole_answer_is_used_for_its_stated_time() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).ask(2, LookupMode::All);
    scene.cache.handle_whole(NAME, QueryId(1), Ok(ips(&["10.0.0.9"])), scene.now);
    assert_eq!(scene.actions(), ["query db.example #1", "1+2 gets 10.0.0.9"]);
    scene.pass(UNTIMED_TTL - Duration::from_nanos(1)).ask(3, LookupMode::First);
    assert_eq!(scene.actions(), ["3 gets 10.0.0.9"]);
    scene.pass(Duration::from_nanos(1)).ask(4, LookupMode::First);
    assert_eq!(scene.actions(), ["query db.example #2"]);
}

#[test]
fn name_that_does_not_exist_is_refused_and_remembered_shortly() {
    let by_dns: fn(&mut Scene) = |scene| {
        scene.both_failed(1, &LookupFailure::NoSuchName);
    };
    let by_system: fn(&mut Scene) = |scene| {
        let unknown = Error::new(ErrorKind::NoSuchName, "name or service not known");
        scene.cache.handle_whole(NAME, QueryId(1), Err(unknown), scene.now);
    };
    for deny in [by_dns, by_system] {
        let mut scene = Scene::new();
        scene.ask(1, LookupMode::First);
        deny(&mut scene);
        scene.ask(2, LookupMode::First);
        assert_eq!(scene.actions()[1..], ["1 refused NoSuchName", "2 refused NoSuchName"]);
        scene.pass(NOT_THERE_TTL - Duration::from_nanos(1)).ask(3, LookupMode::First);
        assert_eq!(scene.actions(), ["3 refused NoSuchName"]);
        scene.pass(Duration::from_nanos(1)).ask(4, LookupMode::First);
        assert_eq!(scene.actions(), ["query db.example #2"]);
    }
}

#[test]
fn system_that_denies_a_name_is_the_cause() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First);
    scene.cache.handle_whole(NAME, QueryId(1), Err(Error::new(ErrorKind::NoSuchName, "Name or service not known")), scene.now);
    scene.cache.poll_action();
    let Some(CacheAction::Refuse(_, error)) = scene.cache.poll_action() else { panic!("no error") };
    assert_eq!(error.message(), "the name \"db.example\" does not exist");
    assert_eq!(error.causes().iter().map(Error::message).collect::<Vec<_>>(), ["Name or service not known"]);
}

#[test]
fn last_good_answer_outlives_an_outage_of_the_system_only() {
    for (kind, outcome) in [
        (ErrorKind::DnsFailed, "2 gets ::1 10.0.0.1 10.0.0.2 stale"),
        (ErrorKind::NoSuchName, "2 refused NoSuchName"),
        (ErrorKind::NoAddresses, "2 refused NoAddresses"),
    ] {
        let mut scene = Scene::stale();
        scene.ask(2, LookupMode::First);
        scene.cache.handle_whole(NAME, QueryId(2), Err(Error::new(kind, "the system's text")), scene.now);
        assert_eq!(scene.actions()[1..], [outcome]);
    }
}

#[test]
fn whole_answer_without_addresses_is_refused() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First);
    scene.cache.handle_whole(NAME, QueryId(1), Ok(Vec::new()), scene.now);
    assert_eq!(scene.actions()[1..], ["1 refused NoAddresses"]);
    assert_eq!(scene.state(), "Failed");
}

#[test]
fn time_out_says_what_the_query_waited_for() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First);
    scene.cache.handle_waiting(NAME, QueryId(1), "there is no thread".to_owned());
    scene.pass(BUDGET).timeout();
    scene.cache.poll_action();
    let Some(CacheAction::Refuse(_, error)) = scene.cache.poll_action() else { panic!("no error") };
    assert!(error.is_timeout() && error.to_string().contains("there is no thread"), "{error}");
    assert_eq!(error.limit().map(|limit| limit.name), Some("dnsTimeoutMS"));
    // A restarted query waits for something else.
    scene.pass(DOWN_TTL).ask(2, LookupMode::First);
    scene.cache.handle_waiting(NAME, QueryId(2), "there is no thread".to_owned());
    scene.cache.handle_resumed(scene.now);
    scene.pass(BUDGET).timeout();
    let refused = std::iter::from_fn(|| scene.cache.poll_action()).find_map(|action| match action {
        CacheAction::Refuse(_, error) => Some(error),
        CacheAction::Query(..) | CacheAction::Answer(..) => None,
    });
    let error = refused.expect("no error");
    assert!(!error.to_string().contains("there is no thread"), "{error}");
}

#[test]
fn name_that_exists_without_addresses_is_refused() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).failed(1, AddressFamily::V4, LookupFailure::NoAddresses).failed(
        1,
        AddressFamily::V6,
        LookupFailure::NoSuchName,
    );
    assert_eq!(scene.actions()[1..], ["1 refused NoAddresses"]);
}

#[test]
fn empty_answer_is_no_answer() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First);
    for family in [AddressFamily::V4, AddressFamily::V6] {
        scene.cache.handle_answered(NAME, QueryId(1), family, Vec::new(), seconds(60), scene.now);
    }
    assert_eq!(scene.actions()[1..], ["1 refused NoAddresses"]);
}

#[test]
fn unanswered_query_ends_at_the_budget() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).pass(seconds(4)).ask(2, LookupMode::All);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
    scene.pass(seconds(11)).timeout();
    scene.cache.poll_action();
    let Some(CacheAction::Refuse(waiters, error)) = scene.cache.poll_action() else { panic!("nobody was refused") };
    assert_eq!(waiters, [LookupId(1), LookupId(2)]);
    assert_eq!(error.to_string(), "dns: timed out after 15.0 s (limit dnsTimeoutMS of 15.0 s)");
    assert_eq!(scene.state(), "Failed");
}

#[test]
fn budget_is_at_most_a_year() {
    let mut scene = Scene::new();
    scene.cache = Cache::new(Duration::MAX);
    scene.ask(1, LookupMode::First);
    assert_eq!(scene.timer(), Some((365 * DAY, "dnsTimeoutMS")));
}

#[test]
fn partial_answer_is_served_at_the_budget() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::All).found(1, &["10.0.0.1"]).pass(BUDGET).timeout();
    assert_eq!(scene.actions()[1..], ["1 gets 10.0.0.1 so far"]);
    scene.pass(TTL_MIN).ask(2, LookupMode::All);
    assert_eq!(scene.actions(), ["query db.example #2"]);
}

#[test]
fn partial_new_answer_is_served_before_an_expired_one() {
    let mut scene = Scene::stale();
    scene.ask(2, LookupMode::All).found(2, &["10.0.0.7"]).pass(STALE_ANSWER_DELAY).timeout();
    assert_eq!(scene.actions(), ["query db.example #2", "2 gets 10.0.0.7 so far"]);
}

#[test]
fn failure_is_remembered_for_a_second() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).both_failed(1, &down()).pass(DOWN_TTL - Duration::from_nanos(1)).ask(2, LookupMode::First);
    assert_eq!(scene.actions()[1..], ["1 refused DnsFailed", "2 refused DnsFailed"]);
    scene.pass(Duration::from_nanos(1)).ask(3, LookupMode::First);
    assert_eq!(scene.actions(), ["query db.example #2"]);
}

#[test]
fn times_to_live_are_clamped() {
    for (given, used) in [(seconds(0), TTL_MIN), (seconds(86_400), TTL_MAX), (seconds(300), seconds(300))] {
        let mut scene = Scene::new();
        scene.ask(1, LookupMode::All).failed(1, AddressFamily::V6, LookupFailure::NoAddresses);
        scene.cache.handle_answered(NAME, QueryId(1), AddressFamily::V4, ips(&["10.0.0.1"]), given, scene.now);
        scene.pass(used - Duration::from_nanos(1)).ask(2, LookupMode::First);
        assert_eq!(scene.actions()[1..], ["1 gets 10.0.0.1", "2 gets 10.0.0.1"]);
        scene.pass(Duration::from_nanos(1)).ask(3, LookupMode::First);
        assert_eq!(scene.actions(), ["query db.example #2"]);
    }
}

#[test]
fn shorter_time_to_live_of_both_families_counts() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::All).found(1, &["::1"]);
    scene.cache.handle_answered(NAME, QueryId(1), AddressFamily::V4, ips(&["10.0.0.1"]), seconds(7), scene.now);
    scene.actions();
    scene.pass(seconds(7)).ask(2, LookupMode::All);
    assert_eq!(scene.actions(), ["query db.example #2"]);
}

#[test]
fn last_good_answer_is_served_when_dns_fails() {
    let mut scene = Scene::stale();
    scene.ask(2, LookupMode::First).both_failed(2, &down());
    assert_eq!(scene.actions(), ["query db.example #2", "2 gets ::1 10.0.0.1 10.0.0.2 stale"]);
    scene.pass(STALE_RETRY - Duration::from_nanos(1)).ask(3, LookupMode::All);
    assert_eq!(scene.actions(), ["3 gets ::1 10.0.0.1 10.0.0.2 stale"]);
    scene.pass(Duration::from_nanos(1)).ask(4, LookupMode::All);
    assert_eq!(scene.actions(), ["query db.example #3"]);
}

#[test]
fn last_good_answer_is_served_when_dns_is_slow() {
    let mut scene = Scene::stale();
    scene.ask(2, LookupMode::All);
    assert_eq!(scene.timer(), Some((seconds(60) + STALE_ANSWER_DELAY, "stale answer")));
    scene.pass(STALE_ANSWER_DELAY).timeout().ask(3, LookupMode::First);
    let served = ["query db.example #2", "2 gets ::1 10.0.0.1 10.0.0.2 stale", "3 gets ::1 10.0.0.1 10.0.0.2 stale"];
    assert_eq!(scene.actions(), served);
    scene.found(2, &["10.0.0.7"]).failed(2, AddressFamily::V6, LookupFailure::NoAddresses).ask(4, LookupMode::First);
    assert_eq!(scene.actions(), ["4 gets 10.0.0.7"]);
}

#[test]
fn last_good_answer_is_gone_after_a_day() {
    let mut scene = Scene::stale();
    scene.pass(DAY).ask(2, LookupMode::First).both_failed(2, &down());
    assert_eq!(scene.actions(), ["query db.example #2", "2 refused DnsFailed"]);
}

#[test]
fn last_good_answer_ends_exactly_though_dns_was_asked_before() {
    for (left, outcome) in [(Duration::from_nanos(1), "2 gets ::1 10.0.0.1 10.0.0.2 stale"), (Duration::ZERO, "2 refused DnsFailed")] {
        let mut scene = Scene::stale();
        scene.pass(DAY - seconds(1)).ask(2, LookupMode::First).pass(seconds(1) - left).both_failed(2, &down());
        assert_eq!(scene.actions(), ["query db.example #2", outcome]);
    }
}

#[test]
fn callers_wait_for_dns_once_all_addresses_are_dead() {
    let mut scene = Scene::stale();
    scene.ask(2, LookupMode::All).dead("10.0.0.1").dead("10.0.0.2").dead("::1");
    assert_eq!(scene.timer(), Some((seconds(60) + BUDGET, "dnsTimeoutMS")));
    scene.pass(STALE_ANSWER_DELAY).timeout();
    assert_eq!(scene.actions(), ["query db.example #2"]);
    scene.both_failed(2, &down());
    assert_eq!(scene.actions(), ["2 gets ::1 10.0.0.1 10.0.0.2 stale"]);
}

#[test]
fn pause_after_a_failure_ends_when_an_address_dies_or_the_machine_was_suspended() {
    let ends: [fn(&mut Scene); 2] = [
        |scene| {
            scene.dead("10.0.0.1");
        },
        |scene| scene.cache.handle_resumed(scene.now),
    ];
    for end in ends {
        let mut scene = Scene::stale();
        scene.ask(2, LookupMode::First).both_failed(2, &down()).ask(3, LookupMode::First);
        let served = "gets ::1 10.0.0.1 10.0.0.2 stale";
        assert_eq!(scene.actions(), ["query db.example #2".to_owned(), format!("2 {served}"), format!("3 {served}")]);
        end(&mut scene);
        scene.ask(4, LookupMode::First);
        assert_eq!(scene.actions(), ["query db.example #3"]);
    }
}

#[test]
fn answer_with_a_dead_address_is_stale_after_a_suspension() {
    let mut scene = Scene::fresh();
    scene.dead("10.0.0.1");
    scene.cache.handle_resumed(scene.now);
    scene.ask(2, LookupMode::First);
    assert_eq!(scene.actions(), ["query db.example #2"]);
    scene.pass(STALE_ANSWER_DELAY).timeout();
    assert_eq!(scene.actions(), ["2 gets ::1 10.0.0.2 stale"]);
}

#[test]
fn timer_is_the_earliest_of_all_names() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).pass(seconds(1));
    scene.cache.handle_ask(LookupId(2), "a.example", LookupMode::First, scene.now);
    scene.cache.handle_ask(LookupId(3), "z.example", LookupMode::First, scene.now);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
}

#[test]
fn no_waiter_is_left_after_the_query() {
    for end in [Ok(()), Err(down()), Err(LookupFailure::NoAddresses)] {
        let mut scene = Scene::new();
        scene.ask(1, LookupMode::First).ask(2, LookupMode::All);
        match end {
            Ok(()) => scene.found(1, &["::1"]).found(1, &["10.0.0.1"]),
            Err(failure) => scene.both_failed(1, &failure),
        };
        assert!(scene.cache.querying.is_empty() && scene.cache.waiters.is_empty());
    }
}

#[test]
fn fresh_answer_without_its_dead_addresses_is_served_before_a_partial_new_one() {
    let mut scene = Scene::fresh();
    scene.dead("10.0.0.1").ask(2, LookupMode::All).found(2, &["10.0.0.7"]).ask(3, LookupMode::All);
    assert_eq!(scene.actions(), ["query db.example #2", "2 gets ::1 10.0.0.2", "3 gets ::1 10.0.0.2"]);
}

#[test]
fn last_good_answer_is_dropped_once_the_name_has_no_addresses() {
    let mut scene = Scene::stale();
    scene.ask(2, LookupMode::First).both_failed(2, &LookupFailure::NoAddresses);
    assert_eq!(scene.actions(), ["query db.example #2", "2 refused NoAddresses"]);
}

#[test]
fn dead_address_is_left_out_and_starts_a_query() {
    let mut scene = Scene::fresh();
    scene.dead("10.0.0.1").ask(2, LookupMode::First);
    assert_eq!(scene.actions(), ["query db.example #2", "2 gets ::1 10.0.0.2"]);
    scene.ask(3, LookupMode::All);
    assert_eq!(scene.actions(), ["3 gets ::1 10.0.0.2"]);
    scene.found(2, &["10.0.0.1"]).found(2, &["::1"]).ask(4, LookupMode::All);
    assert_eq!(scene.actions(), ["4 gets ::1 10.0.0.1"]);
}

#[test]
fn dead_addresses_are_served_only_if_dns_is_down() {
    let mut scene = Scene::fresh();
    scene.dead("10.0.0.1").dead("10.0.0.2").dead("::1").ask(2, LookupMode::First).pass(STALE_ANSWER_DELAY).timeout();
    assert_eq!(scene.actions(), ["query db.example #2"]);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
    scene.both_failed(2, &down());
    assert_eq!(scene.actions(), ["2 gets ::1 10.0.0.1 10.0.0.2 stale"]);
}

#[test]
fn unknown_dead_address_changes_nothing() {
    let mut scene = Scene::fresh();
    scene.dead("10.9.9.9").ask(2, LookupMode::All);
    assert_eq!(scene.actions(), ["2 gets ::1 10.0.0.1 10.0.0.2"]);
}

#[test]
fn resumption_expires_answers_and_restarts_queries() {
    let mut scene = Scene::fresh();
    scene.cache.handle_resumed(scene.now);
    scene.ask(2, LookupMode::First);
    assert_eq!(scene.actions(), ["query db.example #2"]);
    scene.cache.handle_resumed(scene.now);
    assert_eq!(scene.actions(), ["query db.example #3"]);
    scene.found(2, &["10.0.0.7"]).found(2, &["::7"]);
    assert_eq!(scene.actions(), [] as [&str; 0]);
    scene.found(3, &["::8"]);
    assert_eq!(scene.actions(), ["2 gets ::8 so far"]);
}

#[test]
fn restarted_query_keeps_its_deadline() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).pass(seconds(10));
    scene.cache.handle_resumed(scene.now);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
    let left = |name: &str| scene.cache.deadline(name).map(|by| by.saturating_duration_since(scene.now));
    assert_eq!((left("db.example"), left("other.example")), (Some(BUDGET - seconds(10)), None));
}

#[test]
fn late_answers_are_ignored() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).pass(BUDGET).timeout().found(1, &["10.0.0.1"]);
    assert_eq!(scene.actions(), ["query db.example #1", "1 refused Timeout"]);
    assert_eq!(scene.state(), "Failed");
    scene.pass(DOWN_TTL).ask(2, LookupMode::First).found(1, &["::1"]);
    assert_eq!(scene.actions(), ["query db.example #2"]);
}

#[test]
fn first_result_of_a_family_counts() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::All).found(1, &["10.0.0.1"]).found(1, &["10.0.0.2"]).failed(1, AddressFamily::V6, down());
    assert_eq!(scene.actions()[1..], ["1 gets 10.0.0.1"]);
}

#[test]
fn cancelled_caller_gets_nothing_and_the_query_continues() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).ask(2, LookupMode::All);
    scene.cache.handle_cancel(LookupId(1));
    scene.cache.handle_cancel(LookupId(2));
    scene.cache.handle_cancel(LookupId(2));
    scene.found(1, &["10.0.0.1"]).found(1, &["::1"]);
    assert_eq!(scene.actions(), ["query db.example #1"]);
    assert_eq!(scene.state(), "Fresh");
    assert!(scene.cache.waiters.is_empty());
}

#[test]
fn abandoned_query_refuses_and_leaves_no_trace() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First);
    scene.cache.handle_abandoned(NAME, QueryId(1), scene.now);
    assert_eq!(scene.actions()[1..], ["1 refused Shutdown"]);
    assert_eq!((scene.state(), scene.timer()), ("Absent", None));
    scene.ask(2, LookupMode::First);
    assert_eq!(scene.actions(), ["query db.example #2"]);
}

#[test]
fn abandoned_query_with_one_family_serves_it_for_a_short_time() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::First).found(1, &["10.0.0.1"]).failed(1, AddressFamily::V6, LookupFailure::NoAddresses);
    scene.pass(seconds(61)).ask(2, LookupMode::All).found(2, &["10.0.0.2"]);
    assert_eq!(scene.actions(), ["query db.example #1", "1 gets 10.0.0.1", "query db.example #2"]);
    scene.cache.handle_abandoned(NAME, QueryId(2), scene.now);
    assert_eq!(scene.actions(), ["2 gets 10.0.0.2 so far"]);
    // The other family may have addresses.
    scene.pass(TTL_MIN).ask(3, LookupMode::All);
    assert_eq!(scene.actions(), ["query db.example #3"]);
}

#[test]
fn abandoned_query_with_one_family_keeps_a_fresh_answer() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::All).found(1, &["10.0.0.1", "10.0.0.2"]).found(1, &["::1"]).dead("10.0.0.1");
    scene.ask(2, LookupMode::All).found(2, &["10.0.0.3"]).actions();
    scene.cache.handle_abandoned(NAME, QueryId(2), scene.now);
    scene.ask(3, LookupMode::All);
    assert_eq!(scene.actions(), ["query db.example #3", "3 gets ::1 10.0.0.2"]);
}

#[test]
fn least_recently_used_name_makes_room() {
    let mut scene = Scene::new();
    for number in 0..NAMES_MAX {
        let name = format!("host{number}.example");
        scene.cache.handle_ask(LookupId(number as u64), &name, LookupMode::First, scene.now);
        scene.cache.handle_whole(&name, QueryId(number as u64 + 1), Ok(ips(&["10.0.0.1"])), scene.now);
    }
    scene.cache.handle_ask(LookupId(5000), "host0.example", LookupMode::First, scene.now);
    scene.ask(5001, LookupMode::First);
    assert_eq!(scene.cache.entries.len(), NAMES_MAX);
    assert!(scene.cache.entries.contains_key("host0.example") && !scene.cache.entries.contains_key("host1.example"));
    assert_eq!(scene.cache.recency.len(), NAMES_MAX);
}

#[test]
fn too_many_names_are_refused() {
    let mut scene = Scene::new();
    for number in 0..NAMES_MAX {
        scene.cache.handle_ask(LookupId(number as u64), &format!("host{number}.example"), LookupMode::First, scene.now);
    }
    scene.actions();
    scene.ask(5000, LookupMode::First);
    assert_eq!(scene.actions(), ["5000 refused DnsFailed"]);
    assert_eq!(scene.state(), "Absent");
}

#[test]
fn too_many_callers_are_refused() {
    let mut scene = Scene::new();
    for number in 0..=WAITERS_MAX {
        scene.ask(number as u64, LookupMode::First);
    }
    assert_eq!(scene.actions(), ["query db.example #1".to_owned(), format!("{WAITERS_MAX} refused TooManyWaiters")]);
}

#[test]
fn newer_addresses_are_returned_as_they_arrive() {
    let mut scene = Scene::new();
    let newer = |scene: &Scene, than: u64| scene.cache.newer(NAME, than, scene.now);
    scene.ask(1, LookupMode::First);
    assert_eq!(newer(&scene, 0), None);
    scene.found(1, &["::1"]);
    let (first, answer) = newer(&scene, 0).expect("a partial answer");
    assert_eq!((answer.addresses, answer.complete), (ips(&["::1"]), false));
    assert_eq!(newer(&scene, first), None);
    scene.found(1, &["10.0.0.1"]);
    let (second, answer) = newer(&scene, first).expect("the whole answer");
    assert_eq!((answer.addresses, answer.complete), (ips(&["::1", "10.0.0.1"]), true));
    // Expired addresses are not returned.
    scene.pass(seconds(60));
    assert_eq!(newer(&scene, 0), None);
    scene.ask(2, LookupMode::All).found(2, &["::2"]);
    let (third, answer) = newer(&scene, second).expect("a part of the next");
    assert_eq!((answer.addresses, answer.complete), (ips(&["::2"]), false));
    scene.failed(2, AddressFamily::V4, LookupFailure::NoAddresses);
    let (fourth, answer) = newer(&scene, third).expect("the next");
    assert_eq!((answer.addresses, answer.complete), (ips(&["::2"]), true));
    assert_eq!(scene.cache.arrivals, fourth);
}

#[test]
fn partial_answer_keeps_the_fresh_addresses_of_the_other_family() {
    let mut scene = Scene::new();
    scene.ask(1, LookupMode::All).found(1, &["::1"]).found(1, &["10.0.0.1"]);
    // The query starts because of a dead address, not because of the time.
    scene.dead("::1").ask(2, LookupMode::All).found(2, &["::2"]);
    let answer = scene.cache.newer(NAME, 0, scene.now).expect("addresses").1;
    assert_eq!((answer.addresses, answer.complete), (ips(&["::2", "10.0.0.1"]), false));
}

#[test]
fn each_state_handles_each_event() {
    type Event = fn(&mut Scene, QueryId);
    let events: [(&str, Event); 8] = [
        ("ask", |scene, _| {
            scene.ask(9, LookupMode::First);
        }),
        ("cancel", |scene, _| scene.cache.handle_cancel(LookupId(2))),
        ("answered", |scene, query| {
            scene.found(query.0, &["10.0.0.5"]).found(query.0, &["::5"]);
        }),
        ("no such name", |scene, query| {
            scene.both_failed(query.0, &LookupFailure::NoSuchName);
        }),
        ("failed", |scene, query| {
            scene.both_failed(query.0, &down());
        }),
        ("dead", |scene, _| {
            scene.dead("::1");
        }),
        ("resumed", |scene, _| scene.cache.handle_resumed(scene.now)),
        ("timeout", |scene, _| {
            scene.pass(BUDGET).timeout();
        }),
    ];
    let states: [fn() -> Scene; 6] = [
        Scene::new,
        || {
            let mut scene = Scene::new();
            scene.ask(2, LookupMode::All).actions();
            scene
        },
        || {
            let mut scene = Scene::stale();
            scene.ask(2, LookupMode::All).actions();
            scene
        },
        Scene::fresh,
        || {
            let mut scene = Scene::stale();
            scene.cache.expire(NAME, scene.now);
            scene
        },
        || {
            let mut scene = Scene::new();
            scene.ask(2, LookupMode::All).both_failed(1, &down()).actions();
            scene
        },
    ];
    let mut table = String::new();
    for make in states {
        for (event, apply) in events {
            let mut scene = make();
            let before = scene.state();
            let query = QueryId(scene.cache.queries_made);
            apply(&mut scene, query);
            let actions = scene.actions().join(", ");
            table.push_str(&format!("{before} + {event} = {}: {actions}\n", scene.state()));
        }
    }
    assert_eq!(table, MATRIX, "\n{table}");
}

const MATRIX: &str = "\
Absent + ask = Querying: query db.example #1
Absent + cancel = Absent: 
Absent + answered = Absent: 
Absent + no such name = Absent: 
Absent + failed = Absent: 
Absent + dead = Absent: 
Absent + resumed = Absent: 
Absent + timeout = Absent: 
Querying + ask = Querying: 
Querying + cancel = Querying: 
Querying + answered = Fresh: 2 gets ::5 10.0.0.5
Querying + no such name = Failed: 2 refused NoSuchName
Querying + failed = Failed: 2 refused DnsFailed
Querying + dead = Querying: 
Querying + resumed = Querying: query db.example #2
Querying + timeout = Failed: 2 refused Timeout
Querying again + ask = Querying again: 
Querying again + cancel = Querying again: 
Querying again + answered = Fresh: 2 gets ::5 10.0.0.5
Querying again + no such name = Failed: 2 refused NoSuchName
Querying again + failed = Stale: 2 gets ::1 10.0.0.1 10.0.0.2 stale
Querying again + dead = Querying again: 
Querying again + resumed = Querying again: query db.example #3
Querying again + timeout = Stale: 2 gets ::1 10.0.0.1 10.0.0.2 stale
Fresh + ask = Fresh: 9 gets ::1 10.0.0.1 10.0.0.2
Fresh + cancel = Fresh: 
Fresh + answered = Fresh: 
Fresh + no such name = Fresh: 
Fresh + failed = Fresh: 
Fresh + dead = Stale: 
Fresh + resumed = Stale: 
Fresh + timeout = Fresh: 
Stale + ask = Querying again: query db.example #2
Stale + cancel = Stale: 
Stale + answered = Stale: 
Stale + no such name = Stale: 
Stale + failed = Stale: 
Stale + dead = Stale: 
Stale + resumed = Stale: 
Stale + timeout = Stale: 
Failed + ask = Failed: 9 refused DnsFailed
Failed + cancel = Failed: 
Failed + answered = Failed: 
Failed + no such name = Failed: 
Failed + failed = Failed: 
Failed + dead = Failed: 
Failed + resumed = Absent: 
Failed + timeout = Failed: 
";
