use super::super::flight::RESOLUTION_DELAY;
use super::*;

const BUDGET: Duration = Duration::from_secs(15);
const DAY: Duration = Duration::from_secs(86_400);
const NAME: &str = "db.example";

/// A cache on virtual time, with who got what.
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

    fn ask(&mut self, waiter: u64, want: Want) -> &mut Self {
        self.cache.handle_ask(LookupId(waiter), NAME, want, self.now);
        self
    }

    fn pass(&mut self, span: Duration) -> &mut Self {
        self.now += span;
        self
    }

    fn found(&mut self, flight: u64, texts: &[&str]) -> &mut Self {
        let family = if ip(texts[0]).is_ipv4() { AddressFamily::V4 } else { AddressFamily::V6 };
        self.cache.handle_answered(NAME, QueryId(flight), family, ips(texts), seconds(60), self.now);
        self
    }

    fn failed(&mut self, flight: u64, family: AddressFamily, failure: LookupFailure) -> &mut Self {
        self.cache.handle_failed(NAME, QueryId(flight), family, failure, self.now);
        self
    }

    fn both_failed(&mut self, flight: u64, failure: &LookupFailure) -> &mut Self {
        self.failed(flight, AddressFamily::V4, failure.clone()).failed(flight, AddressFamily::V6, failure.clone())
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

    /// The wishes since the last look, as text.
    fn wishes(&mut self) -> Vec<String> {
        self.holds_nothing_that_is_over();
        let mut wishes = Vec::new();
        while let Some(action) = self.cache.poll_action() {
            let numbers = |waiters: &[LookupId]| waiters.iter().map(|waiter| waiter.0.to_string()).collect::<Vec<_>>().join("+");
            wishes.push(match action {
                CacheAction::Query(name, flight) => format!("query {name} #{}", flight.0),
                CacheAction::QuerySystem(name, flight) => format!("system {name} #{}", flight.0),
                CacheAction::Refuse(waiters, error) => format!("{} refused {:?}", numbers(&waiters), error.kind()),
                CacheAction::Answer(waiters, answer) => {
                    let addresses = answer.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
                    let partial = if answer.complete { "" } else { " so far" };
                    let stale = if answer.stale { " stale" } else { "" };
                    format!("{} gets {addresses}{partial}{stale}", numbers(&waiters))
                }
            });
        }
        wishes
    }

    /// Every name has one place in the order of use, and only names that are asked for have callers.
    fn holds_nothing_that_is_over(&self) {
        let Cache { entries, asking, recency, waiters, .. } = &self.cache;
        assert!(entries.iter().all(|(name, entry)| recency.get(&entry.used) == Some(name)) && recency.len() == entries.len());
        let is_asked = |name: &String| matches!(entries.get(name).map(|entry| &entry.state), Some(NameState::Asking { .. }));
        assert!(asking.iter().all(is_asked) && waiters.values().all(|name| asking.contains(name)));
    }

    fn timer(&self) -> Option<(Duration, &'static str)> {
        self.cache.poll_timeout().map(|(at, name)| (at - self.start, name))
    }

    fn state(&self) -> &'static str {
        match self.cache.entries.get(NAME).map(|entry| &entry.state) {
            None => "Absent",
            Some(NameState::Asking { last: None, .. }) => "Asking",
            Some(NameState::Asking { last: Some(_), .. }) => "Asking again",
            Some(NameState::Fresh(_)) => "Fresh",
            Some(NameState::Stale { .. }) => "Stale",
            Some(NameState::Failed { .. }) => "Failed",
        }
    }

    /// A name with two fresh IPv4 addresses and one IPv6 address, from flight 1.
    fn fresh() -> Self {
        let mut scene = Self::new();
        scene.ask(1, Want::All).found(1, &["10.0.0.1", "10.0.0.2"]).found(1, &["::1"]);
        scene.wishes();
        scene
    }

    /// A fresh name whose time is over.
    fn stale() -> Self {
        let mut scene = Self::fresh();
        scene.pass(seconds(60));
        scene
    }
}

#[test]
fn one_query_answers_all_who_ask() {
    let mut scene = Scene::new();
    scene.ask(1, Want::All).ask(2, Want::All).ask(3, Want::All);
    assert_eq!(scene.wishes(), ["query db.example #1"]);
    scene.found(1, &["10.0.0.1"]);
    assert_eq!(scene.wishes(), [] as [&str; 0]);
    scene.failed(1, AddressFamily::V6, LookupFailure::NoAddresses);
    assert_eq!(scene.wishes(), ["1+2+3 gets 10.0.0.1"]);
    scene.ask(4, Want::First);
    assert_eq!(scene.wishes(), ["4 gets 10.0.0.1"]);
    assert_eq!(scene.timer(), None);
}

#[test]
fn ipv6_answers_at_once() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).ask(2, Want::All).pass(seconds(3)).found(1, &["::1"]);
    assert_eq!(scene.wishes(), ["query db.example #1", "1 gets ::1 so far"]);
    scene.ask(3, Want::First);
    assert_eq!(scene.wishes(), ["3 gets ::1 so far"]);
    scene.found(1, &["10.0.0.1"]);
    assert_eq!(scene.wishes(), ["2 gets ::1 10.0.0.1"]);
}

#[test]
fn ipv4_waits_for_ipv6_until_the_resolution_delay_is_over() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).pass(seconds(3)).found(1, &["10.0.0.1"]);
    assert_eq!(scene.wishes(), ["query db.example #1"]);
    assert_eq!(scene.timer(), Some((seconds(3) + RESOLUTION_DELAY, "resolution delay")));
    scene.pass(RESOLUTION_DELAY - Duration::from_millis(1)).timeout();
    assert_eq!(scene.wishes(), [] as [&str; 0]);
    scene.pass(Duration::from_millis(1)).timeout();
    assert_eq!(scene.wishes(), ["1 gets 10.0.0.1 so far"]);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
    scene.ask(2, Want::First);
    assert_eq!(scene.wishes(), ["2 gets 10.0.0.1 so far"]);
}

#[test]
fn ipv6_within_the_resolution_delay_comes_first() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).found(1, &["10.0.0.1"]).pass(Duration::from_millis(49)).found(1, &["::1"]);
    assert_eq!(scene.wishes(), ["query db.example #1", "1 gets ::1 10.0.0.1"]);
}

#[test]
fn ipv4_does_not_wait_once_ipv6_has_failed() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).failed(1, AddressFamily::V6, down()).found(1, &["10.0.0.1"]);
    assert_eq!(scene.wishes(), ["query db.example #1", "1 gets 10.0.0.1"]);
}

#[test]
fn name_that_does_not_exist_goes_to_the_system_second() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).both_failed(1, &LookupFailure::NoSuchName);
    assert_eq!(scene.wishes(), ["query db.example #1", "system db.example #2"]);
    scene.ask(2, Want::All);
    // Whoever asked DNS is done, and goes.
    scene.cache.handle_abandoned(NAME, QueryId(1), scene.now);
    scene.cache.handle_system(NAME, QueryId(2), Ok(ips(&["10.0.0.9"])), scene.now);
    assert_eq!(scene.wishes(), ["1+2 gets 10.0.0.9"]);
    scene.pass(UNTIMED_TTL).ask(3, Want::First);
    assert_eq!(scene.wishes(), ["query db.example #3"]);
}

#[test]
fn name_that_nobody_knows_is_refused_and_remembered_shortly() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).both_failed(1, &LookupFailure::NoSuchName);
    let unknown = Error::new(ErrorKind::DnsFailed, "name or service not known");
    scene.cache.handle_system(NAME, QueryId(2), Err(unknown), scene.now);
    scene.ask(2, Want::First);
    assert_eq!(scene.wishes()[2..], ["1 refused NoSuchName", "2 refused NoSuchName"]);
    scene.pass(NOT_THERE_TTL - Duration::from_nanos(1)).ask(3, Want::First);
    assert_eq!(scene.wishes(), ["3 refused NoSuchName"]);
    scene.pass(Duration::from_nanos(1)).ask(4, Want::First);
    assert_eq!(scene.wishes(), ["query db.example #3"]);
}

#[test]
fn without_dns_servers_the_system_is_asked() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).both_failed(1, &LookupFailure::NoServer);
    assert_eq!(scene.wishes()[1..], ["system db.example #2"]);
    scene.cache.handle_system(NAME, QueryId(2), Err(Error::new(ErrorKind::DnsFailed, "try again")), scene.now);
    assert_eq!(scene.wishes(), ["1 refused DnsFailed"]);
}

#[test]
fn system_that_knows_a_name_without_addresses_refuses_it() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).both_failed(1, &LookupFailure::NoSuchName);
    scene.cache.handle_system(NAME, QueryId(2), Ok(Vec::new()), scene.now);
    assert_eq!(scene.wishes()[1..], ["system db.example #2", "1 refused NoAddresses"]);
    assert_eq!(scene.state(), "Failed");
}

#[test]
fn name_without_addresses_never_goes_to_the_system() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).failed(1, AddressFamily::V4, LookupFailure::NoAddresses).failed(
        1,
        AddressFamily::V6,
        LookupFailure::NoSuchName,
    );
    assert_eq!(scene.wishes()[1..], ["1 refused NoAddresses"]);
}

#[test]
fn empty_answer_is_no_answer() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First);
    for family in [AddressFamily::V4, AddressFamily::V6] {
        scene.cache.handle_answered(NAME, QueryId(1), family, Vec::new(), seconds(60), scene.now);
    }
    assert_eq!(scene.wishes()[1..], ["1 refused NoAddresses"]);
}

#[test]
fn silence_ends_at_the_budget_with_its_name() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).pass(seconds(4)).ask(2, Want::All);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
    scene.pass(seconds(11)).timeout();
    scene.cache.poll_action();
    let Some(CacheAction::Refuse(waiters, error)) = scene.cache.poll_action() else { panic!("nobody was refused") };
    assert_eq!(waiters, [LookupId(1), LookupId(2)]);
    assert_eq!(error.to_string(), "dns: timed out after 15.0 s (limit dnsTimeoutMS of 15.0 s)");
    assert_eq!(scene.state(), "Failed");
}

#[test]
fn endless_budget_is_a_year() {
    let mut scene = Scene::new();
    scene.cache = Cache::new(Duration::MAX);
    scene.ask(1, Want::First);
    assert_eq!(scene.timer(), Some((365 * DAY, "dnsTimeoutMS")));
}

#[test]
fn half_an_answer_is_served_at_the_budget() {
    let mut scene = Scene::new();
    scene.ask(1, Want::All).found(1, &["10.0.0.1"]).pass(BUDGET).timeout();
    assert_eq!(scene.wishes()[1..], ["1 gets 10.0.0.1 so far"]);
    scene.pass(TTL_MIN).ask(2, Want::All);
    assert_eq!(scene.wishes(), ["query db.example #2"]);
}

#[test]
fn half_a_new_answer_is_served_before_an_expired_one() {
    let mut scene = Scene::stale();
    scene.ask(2, Want::All).found(2, &["10.0.0.7"]).pass(STALE_ANSWER_DELAY).timeout();
    assert_eq!(scene.wishes(), ["query db.example #2", "2 gets 10.0.0.7 so far"]);
}

#[test]
fn outage_is_remembered_for_a_second() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).both_failed(1, &down()).pass(DOWN_TTL - Duration::from_nanos(1)).ask(2, Want::First);
    assert_eq!(scene.wishes()[1..], ["1 refused DnsFailed", "2 refused DnsFailed"]);
    scene.pass(Duration::from_nanos(1)).ask(3, Want::First);
    assert_eq!(scene.wishes(), ["query db.example #2"]);
}

#[test]
fn lifetimes_are_clamped() {
    for (given, used) in [(seconds(0), TTL_MIN), (seconds(86_400), TTL_MAX), (seconds(300), seconds(300))] {
        let mut scene = Scene::new();
        scene.ask(1, Want::All).failed(1, AddressFamily::V6, LookupFailure::NoAddresses);
        scene.cache.handle_answered(NAME, QueryId(1), AddressFamily::V4, ips(&["10.0.0.1"]), given, scene.now);
        scene.pass(used - Duration::from_nanos(1)).ask(2, Want::First);
        assert_eq!(scene.wishes()[1..], ["1 gets 10.0.0.1", "2 gets 10.0.0.1"]);
        scene.pass(Duration::from_nanos(1)).ask(3, Want::First);
        assert_eq!(scene.wishes(), ["query db.example #2"]);
    }
}

#[test]
fn shorter_lifetime_of_both_families_counts() {
    let mut scene = Scene::new();
    scene.ask(1, Want::All).found(1, &["::1"]);
    scene.cache.handle_answered(NAME, QueryId(1), AddressFamily::V4, ips(&["10.0.0.1"]), seconds(7), scene.now);
    scene.wishes();
    scene.pass(seconds(7)).ask(2, Want::All);
    assert_eq!(scene.wishes(), ["query db.example #2"]);
}

#[test]
fn last_good_answer_is_served_when_dns_fails() {
    let mut scene = Scene::stale();
    scene.ask(2, Want::First).both_failed(2, &down());
    assert_eq!(scene.wishes(), ["query db.example #2", "2 gets ::1 10.0.0.1 10.0.0.2 stale"]);
    scene.pass(STALE_RETRY - Duration::from_nanos(1)).ask(3, Want::All);
    assert_eq!(scene.wishes(), ["3 gets ::1 10.0.0.1 10.0.0.2 stale"]);
    scene.pass(Duration::from_nanos(1)).ask(4, Want::All);
    assert_eq!(scene.wishes(), ["query db.example #3"]);
}

#[test]
fn last_good_answer_is_served_when_dns_is_slow() {
    let mut scene = Scene::stale();
    scene.ask(2, Want::All);
    assert_eq!(scene.timer(), Some((seconds(60) + STALE_ANSWER_DELAY, "stale answer")));
    scene.pass(STALE_ANSWER_DELAY).timeout().ask(3, Want::First);
    let served = ["query db.example #2", "2 gets ::1 10.0.0.1 10.0.0.2 stale", "3 gets ::1 10.0.0.1 10.0.0.2 stale"];
    assert_eq!(scene.wishes(), served);
    scene.found(2, &["10.0.0.7"]).failed(2, AddressFamily::V6, LookupFailure::NoAddresses).ask(4, Want::First);
    assert_eq!(scene.wishes(), ["4 gets 10.0.0.7"]);
}

#[test]
fn last_good_answer_is_gone_after_a_day() {
    let mut scene = Scene::stale();
    scene.pass(DAY).ask(2, Want::First).both_failed(2, &down());
    assert_eq!(scene.wishes(), ["query db.example #2", "2 refused DnsFailed"]);
}

#[test]
fn last_good_answer_ends_exactly_though_dns_was_asked_before() {
    for (left, outcome) in [(Duration::from_nanos(1), "2 gets ::1 10.0.0.1 10.0.0.2 stale"), (Duration::ZERO, "2 refused DnsFailed")] {
        let mut scene = Scene::stale();
        scene.pass(DAY - seconds(1)).ask(2, Want::First).pass(seconds(1) - left).both_failed(2, &down());
        assert_eq!(scene.wishes(), ["query db.example #2", outcome]);
    }
}

#[test]
fn last_good_answer_whose_last_address_dies_meanwhile_waits_for_dns() {
    let mut scene = Scene::stale();
    scene.ask(2, Want::All).dead("10.0.0.1").dead("10.0.0.2").dead("::1");
    assert_eq!(scene.timer(), Some((seconds(60) + BUDGET, "dnsTimeoutMS")));
    scene.pass(STALE_ANSWER_DELAY).timeout();
    assert_eq!(scene.wishes(), ["query db.example #2"]);
    scene.both_failed(2, &down());
    assert_eq!(scene.wishes(), ["2 gets ::1 10.0.0.1 10.0.0.2 stale"]);
}

#[test]
fn pause_after_an_outage_ends_when_an_address_dies_or_the_machine_slept() {
    let ends: [fn(&mut Scene); 2] = [
        |scene| {
            scene.dead("10.0.0.1");
        },
        |scene| scene.cache.handle_resumed(scene.now),
    ];
    for end in ends {
        let mut scene = Scene::stale();
        scene.ask(2, Want::First).both_failed(2, &down()).ask(3, Want::First);
        let served = "gets ::1 10.0.0.1 10.0.0.2 stale";
        assert_eq!(scene.wishes(), ["query db.example #2".to_owned(), format!("2 {served}"), format!("3 {served}")]);
        end(&mut scene);
        scene.ask(4, Want::First);
        assert_eq!(scene.wishes(), ["query db.example #3"]);
    }
}

#[test]
fn what_was_fresh_but_for_its_dead_is_not_fresh_after_the_machine_slept() {
    let mut scene = Scene::fresh();
    scene.dead("10.0.0.1");
    scene.cache.handle_resumed(scene.now);
    scene.ask(2, Want::First);
    assert_eq!(scene.wishes(), ["query db.example #2"]);
    scene.pass(STALE_ANSWER_DELAY).timeout();
    assert_eq!(scene.wishes(), ["2 gets ::1 10.0.0.2 stale"]);
}

#[test]
fn timer_is_the_earliest_of_all_names() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).pass(seconds(1));
    scene.cache.handle_ask(LookupId(2), "a.example", Want::First, scene.now);
    scene.cache.handle_ask(LookupId(3), "z.example", Want::First, scene.now);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
}

#[test]
fn nobody_waits_any_more_when_all_questions_are_over() {
    for end in [Ok(()), Err(down()), Err(LookupFailure::NoAddresses)] {
        let mut scene = Scene::new();
        scene.ask(1, Want::First).ask(2, Want::All);
        match end {
            Ok(()) => scene.found(1, &["::1"]).found(1, &["10.0.0.1"]),
            Err(failure) => scene.both_failed(1, &failure),
        };
        assert!(scene.cache.asking.is_empty() && scene.cache.waiters.is_empty());
    }
}

#[test]
fn fresh_answer_without_its_dead_is_served_before_half_a_new_one() {
    let mut scene = Scene::fresh();
    scene.dead("10.0.0.1").ask(2, Want::All).found(2, &["10.0.0.7"]).ask(3, Want::All);
    assert_eq!(scene.wishes(), ["query db.example #2", "2 gets ::1 10.0.0.2", "3 gets ::1 10.0.0.2"]);
}

#[test]
fn last_good_answer_does_not_outlive_the_name() {
    let mut scene = Scene::stale();
    scene.ask(2, Want::First).both_failed(2, &LookupFailure::NoAddresses);
    assert_eq!(scene.wishes(), ["query db.example #2", "2 refused NoAddresses"]);
}

#[test]
fn dead_address_is_left_out_and_asked_about() {
    let mut scene = Scene::fresh();
    scene.dead("10.0.0.1").ask(2, Want::First);
    assert_eq!(scene.wishes(), ["query db.example #2", "2 gets ::1 10.0.0.2"]);
    scene.ask(3, Want::All);
    assert_eq!(scene.wishes(), ["3 gets ::1 10.0.0.2"]);
    scene.found(2, &["10.0.0.1"]).found(2, &["::1"]).ask(4, Want::All);
    assert_eq!(scene.wishes(), ["4 gets ::1 10.0.0.1"]);
}

#[test]
fn name_without_living_addresses_is_forgotten_unless_dns_is_down() {
    let mut scene = Scene::fresh();
    scene.dead("10.0.0.1").dead("10.0.0.2").dead("::1").ask(2, Want::First).pass(STALE_ANSWER_DELAY).timeout();
    assert_eq!(scene.wishes(), ["query db.example #2"]);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
    scene.both_failed(2, &down());
    assert_eq!(scene.wishes(), ["2 gets ::1 10.0.0.1 10.0.0.2 stale"]);
}

#[test]
fn unknown_dead_address_changes_nothing() {
    let mut scene = Scene::fresh();
    scene.dead("10.9.9.9").ask(2, Want::All);
    assert_eq!(scene.wishes(), ["2 gets ::1 10.0.0.1 10.0.0.2"]);
}

#[test]
fn resumption_doubts_everything() {
    let mut scene = Scene::fresh();
    scene.cache.handle_resumed(scene.now);
    scene.ask(2, Want::First);
    assert_eq!(scene.wishes(), ["query db.example #2"]);
    scene.cache.handle_resumed(scene.now);
    assert_eq!(scene.wishes(), ["query db.example #3"]);
    scene.found(2, &["10.0.0.7"]).found(2, &["::7"]);
    assert_eq!(scene.wishes(), [] as [&str; 0]);
    scene.found(3, &["::8"]);
    assert_eq!(scene.wishes(), ["2 gets ::8 so far"]);
}

#[test]
fn restarted_question_keeps_its_deadline() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).pass(seconds(10));
    scene.cache.handle_resumed(scene.now);
    assert_eq!(scene.timer(), Some((BUDGET, "dnsTimeoutMS")));
    let left = |name: &str| scene.cache.deadline(name).map(|by| by.saturating_duration_since(scene.now));
    assert_eq!((left("db.example"), left("other.example")), (Some(BUDGET - seconds(10)), None));
}

#[test]
fn late_answers_are_ignored() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).pass(BUDGET).timeout().found(1, &["10.0.0.1"]);
    assert_eq!(scene.wishes(), ["query db.example #1", "1 refused Timeout"]);
    assert_eq!(scene.state(), "Failed");
    scene.pass(DOWN_TTL).ask(2, Want::First).found(1, &["::1"]);
    assert_eq!(scene.wishes(), ["query db.example #2"]);
}

#[test]
fn first_word_of_a_family_counts() {
    let mut scene = Scene::new();
    scene.ask(1, Want::All).found(1, &["10.0.0.1"]).found(1, &["10.0.0.2"]).failed(1, AddressFamily::V6, down());
    assert_eq!(scene.wishes()[1..], ["1 gets 10.0.0.1"]);
}

#[test]
fn cancelled_caller_gets_nothing_and_the_question_goes_on() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).ask(2, Want::All);
    scene.cache.handle_cancel(LookupId(1));
    scene.cache.handle_cancel(LookupId(2));
    scene.cache.handle_cancel(LookupId(2));
    scene.found(1, &["10.0.0.1"]).found(1, &["::1"]);
    assert_eq!(scene.wishes(), ["query db.example #1"]);
    assert_eq!(scene.state(), "Fresh");
    assert!(scene.cache.waiters.is_empty());
}

#[test]
fn abandoned_question_refuses_and_leaves_no_trace() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First);
    scene.cache.handle_abandoned(NAME, QueryId(1), scene.now);
    assert_eq!(scene.wishes()[1..], ["1 refused Shutdown"]);
    assert_eq!((scene.state(), scene.timer()), ("Absent", None));
    scene.ask(2, Want::First);
    assert_eq!(scene.wishes(), ["query db.example #2"]);
}

#[test]
fn abandoned_question_with_one_family_known_serves_it_shortly() {
    let mut scene = Scene::new();
    scene.ask(1, Want::First).found(1, &["10.0.0.1"]).failed(1, AddressFamily::V6, LookupFailure::NoAddresses);
    scene.pass(seconds(61)).ask(2, Want::All).found(2, &["10.0.0.2"]);
    assert_eq!(scene.wishes(), ["query db.example #1", "1 gets 10.0.0.1", "query db.example #2"]);
    scene.cache.handle_abandoned(NAME, QueryId(2), scene.now);
    assert_eq!(scene.wishes(), ["2 gets 10.0.0.2 so far"]);
    // The other family may have addresses.
    scene.pass(TTL_MIN).ask(3, Want::All);
    assert_eq!(scene.wishes(), ["query db.example #3"]);
}

#[test]
fn abandoned_question_with_one_family_known_leaves_an_answer_that_is_still_good() {
    let mut scene = Scene::new();
    scene.ask(1, Want::All).found(1, &["10.0.0.1", "10.0.0.2"]).found(1, &["::1"]).dead("10.0.0.1");
    scene.ask(2, Want::All).found(2, &["10.0.0.3"]).wishes();
    scene.cache.handle_abandoned(NAME, QueryId(2), scene.now);
    scene.ask(3, Want::All);
    assert_eq!(scene.wishes(), ["query db.example #3", "3 gets ::1 10.0.0.2"]);
}

#[test]
fn least_recently_used_name_makes_room() {
    let mut scene = Scene::new();
    for number in 0..NAMES_MAX {
        let name = format!("host{number}.example");
        scene.cache.handle_ask(LookupId(number as u64), &name, Want::First, scene.now);
        scene.cache.handle_system(&name, QueryId(number as u64 + 1), Ok(ips(&["10.0.0.1"])), scene.now);
    }
    scene.cache.handle_ask(LookupId(5000), "host0.example", Want::First, scene.now);
    scene.ask(5001, Want::First);
    assert_eq!(scene.cache.entries.len(), NAMES_MAX);
    assert!(scene.cache.entries.contains_key("host0.example") && !scene.cache.entries.contains_key("host1.example"));
    assert_eq!(scene.cache.recency.len(), NAMES_MAX);
}

#[test]
fn too_many_names_at_once_are_refused() {
    let mut scene = Scene::new();
    for number in 0..NAMES_MAX {
        scene.cache.handle_ask(LookupId(number as u64), &format!("host{number}.example"), Want::First, scene.now);
    }
    scene.wishes();
    scene.ask(5000, Want::First);
    assert_eq!(scene.wishes(), ["5000 refused DnsFailed"]);
    assert_eq!(scene.state(), "Absent");
}

#[test]
fn too_many_callers_are_refused() {
    let mut scene = Scene::new();
    for number in 0..=WAITERS_MAX {
        scene.ask(number as u64, Want::First);
    }
    assert_eq!(scene.wishes(), ["query db.example #1".to_owned(), format!("{WAITERS_MAX} refused TooManyWaiters")]);
}

/// Every state meets every event; the flight of the two Asking states is the one last started.
#[test]
fn newer_addresses_are_known_as_they_arrive() {
    let mut scene = Scene::new();
    let newer = |scene: &Scene, than: u64| scene.cache.newer(NAME, than, scene.now);
    scene.ask(1, Want::First);
    assert_eq!(newer(&scene, 0), None);
    scene.found(1, &["::1"]);
    let (first, answer) = newer(&scene, 0).expect("half an answer");
    assert_eq!((answer.addresses, answer.complete), (ips(&["::1"]), false));
    assert_eq!(newer(&scene, first), None);
    scene.found(1, &["10.0.0.1"]);
    let (second, answer) = newer(&scene, first).expect("the whole");
    assert_eq!((answer.addresses, answer.complete), (ips(&["::1", "10.0.0.1"]), true));
    // What is past its time is not known any more.
    scene.pass(seconds(60));
    assert_eq!(newer(&scene, 0), None);
    scene.ask(2, Want::All).found(2, &["::2"]);
    let (third, answer) = newer(&scene, second).expect("half of the next");
    assert_eq!((answer.addresses, answer.complete), (ips(&["::2"]), false));
    scene.failed(2, AddressFamily::V4, LookupFailure::NoAddresses);
    let (fourth, answer) = newer(&scene, third).expect("the next");
    assert_eq!((answer.addresses, answer.complete), (ips(&["::2"]), true));
    assert_eq!(scene.cache.arrivals(), fourth);
}

#[test]
fn half_an_answer_leaves_the_other_family_as_it_was_while_that_is_good() {
    let mut scene = Scene::new();
    scene.ask(1, Want::All).found(1, &["::1"]).found(1, &["10.0.0.1"]);
    // The question is asked again because an address is dead, and not because of the time.
    scene.dead("::1").ask(2, Want::All).found(2, &["::2"]);
    let answer = scene.cache.newer(NAME, 0, scene.now).expect("addresses").1;
    assert_eq!((answer.addresses, answer.complete), (ips(&["::2", "10.0.0.1"]), false));
}

#[test]
fn every_state_knows_every_event() {
    type Event = fn(&mut Scene, QueryId);
    let events: [(&str, Event); 8] = [
        ("ask", |scene, _| {
            scene.ask(9, Want::First);
        }),
        ("cancel", |scene, _| scene.cache.handle_cancel(LookupId(2))),
        ("answered", |scene, flight| {
            scene.found(flight.0, &["10.0.0.5"]).found(flight.0, &["::5"]);
        }),
        ("no such name", |scene, flight| {
            scene.both_failed(flight.0, &LookupFailure::NoSuchName);
        }),
        ("failed", |scene, flight| {
            scene.both_failed(flight.0, &down());
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
            scene.ask(2, Want::All).wishes();
            scene
        },
        || {
            let mut scene = Scene::stale();
            scene.ask(2, Want::All).wishes();
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
            scene.ask(2, Want::All).both_failed(1, &down()).wishes();
            scene
        },
    ];
    let mut table = String::new();
    for make in states {
        for (event, apply) in events {
            let mut scene = make();
            let before = scene.state();
            let flight = QueryId(scene.cache.flights);
            apply(&mut scene, flight);
            let wishes = scene.wishes().join(", ");
            table.push_str(&format!("{before} + {event} = {}: {wishes}\n", scene.state()));
        }
    }
    assert_eq!(table, MATRIX, "\n{table}");
}

const MATRIX: &str = "\
Absent + ask = Asking: query db.example #1
Absent + cancel = Absent: 
Absent + answered = Absent: 
Absent + no such name = Absent: 
Absent + failed = Absent: 
Absent + dead = Absent: 
Absent + resumed = Absent: 
Absent + timeout = Absent: 
Asking + ask = Asking: 
Asking + cancel = Asking: 
Asking + answered = Fresh: 2 gets ::5 10.0.0.5
Asking + no such name = Asking: system db.example #2
Asking + failed = Failed: 2 refused DnsFailed
Asking + dead = Asking: 
Asking + resumed = Asking: query db.example #2
Asking + timeout = Failed: 2 refused Timeout
Asking again + ask = Asking again: 
Asking again + cancel = Asking again: 
Asking again + answered = Fresh: 2 gets ::5 10.0.0.5
Asking again + no such name = Asking again: system db.example #3
Asking again + failed = Stale: 2 gets ::1 10.0.0.1 10.0.0.2 stale
Asking again + dead = Asking again: 
Asking again + resumed = Asking again: query db.example #3
Asking again + timeout = Stale: 2 gets ::1 10.0.0.1 10.0.0.2 stale
Fresh + ask = Fresh: 9 gets ::1 10.0.0.1 10.0.0.2
Fresh + cancel = Fresh: 
Fresh + answered = Fresh: 
Fresh + no such name = Fresh: 
Fresh + failed = Fresh: 
Fresh + dead = Stale: 
Fresh + resumed = Stale: 
Fresh + timeout = Fresh: 
Stale + ask = Asking again: query db.example #2
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
