use super::*;
use crate::description::TopologyType;

const HEARTBEAT: Duration = Duration::from_secs(10);
const LOOK_UP_LIMIT: Duration = Duration::from_secs(15);
const FLOOR: Duration = RESCAN_FLOOR;

/// A poll on virtual time.
struct Scene {
    rescan: Rescan,
    now: Instant,
}

impl Scene {
    fn new(ttl: Option<u64>) -> Self {
        let now = Instant::now();
        let config =
            RescanConfig { host: "cluster.example.com".into(), floor: FLOOR, heartbeat_frequency: HEARTBEAT, look_up_limit: LOOK_UP_LIMIT };
        Self { rescan: Rescan::new(config, ttl.map(Duration::from_secs), now), now }
    }

    /// Returns a scene with its first query running.
    fn querying() -> Self {
        let mut scene = Self::new(None);
        scene.pass(FLOOR);
        assert_eq!(scene.actions(), [RescanAction::Query]);
        scene
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.rescan.handle_timeout(self.now);
    }

    fn answer(&mut self, records: &[SrvRecord]) {
        self.rescan.handle_answered(records, self.now);
    }

    fn fail(&mut self) {
        self.rescan.handle_failed(&Error::new(ErrorKind::DnsFailed, "down").at(Stage::Srv), self.now);
    }

    fn actions(&mut self) -> Vec<RescanAction> {
        std::iter::from_fn(|| self.rescan.poll_action()).collect()
    }

    /// Returns how long the timer runs, and its name.
    fn waits(&self) -> Option<(Duration, &'static str)> {
        self.rescan.poll_timeout().map(|(due, name)| (due - self.now, name))
    }
}

fn record(target: &str, ttl: u64) -> SrvRecord {
    SrvRecord { target: target.into(), port: 27017, ttl: Duration::from_secs(ttl) }
}

fn hosts(names: &[&str]) -> Vec<RescanAction> {
    vec![RescanAction::Hosts(names.iter().map(|name| ServerAddress::new(name, 27017).expect("host")).collect())]
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn interval_is_the_shortest_time_to_live_but_at_least_the_floor() {
    for (ttl, interval) in [(None, 60), (Some(0), 60), (Some(59), 60), (Some(61), 61), (Some(86_400), 86_400)] {
        assert_eq!(Scene::new(ttl).waits(), Some((seconds(interval), RESCAN_INTERVAL)), "{ttl:?}");
    }
    let mut scene = Scene::querying();
    scene.answer(&[record("a.example.com", 300), record("b.example.com", 200), record("c.example.com", 400)]);
    assert_eq!(scene.waits(), Some((seconds(200), RESCAN_INTERVAL)));
}

#[test]
fn interval_starts_at_the_end_of_the_last_poll() {
    let mut scene = Scene::querying();
    scene.pass(seconds(7));
    assert_eq!(scene.actions(), [], "the query is still running");
    scene.answer(&[record("a.example.com", 0)]);
    assert_eq!(scene.waits(), Some((FLOOR, RESCAN_INTERVAL)));
    scene.pass(FLOOR - Duration::from_nanos(1));
    assert_eq!(scene.actions(), hosts(&["a.example.com"]));
    scene.pass(Duration::from_nanos(1));
    assert_eq!(scene.actions(), [RescanAction::Query]);
}

#[test]
fn interval_is_at_most_a_year() {
    assert_eq!(Scene::new(Some(u64::MAX)).waits(), Some((Duration::from_secs(31_536_000), RESCAN_INTERVAL)));
}

#[test]
fn floor_has_a_minimum() {
    let now = Instant::now();
    let config = RescanConfig {
        host: "cluster.example.com".into(),
        floor: Duration::ZERO,
        heartbeat_frequency: Duration::ZERO,
        look_up_limit: LOOK_UP_LIMIT,
    };
    let rescan = Rescan::new(config, Some(Duration::ZERO), now);
    assert_eq!(rescan.poll_timeout(), Some((now + FLOOR_MIN, RESCAN_INTERVAL)));
}

#[test]
fn interval_after_a_failure_is_the_heartbeat_until_an_answer_is_valid() {
    let mut scene = Scene::querying();
    scene.fail();
    assert_eq!((scene.actions(), scene.waits()), (vec![], Some((HEARTBEAT, HEARTBEAT_FREQUENCY))));
    scene.pass(HEARTBEAT);
    assert_eq!(scene.actions(), [RescanAction::Query]);
    scene.answer(&[]);
    assert_eq!((scene.actions(), scene.waits()), (vec![], Some((HEARTBEAT, HEARTBEAT_FREQUENCY))));
    scene.pass(HEARTBEAT);
    assert_eq!(scene.actions(), [RescanAction::Query]);
    scene.answer(&[record("a.example.com", 90)]);
    assert_eq!(scene.actions(), hosts(&["a.example.com"]));
    assert_eq!(scene.waits(), Some((seconds(90), RESCAN_INTERVAL)));
}

#[test]
fn late_answer_is_abandoned() {
    let mut scene = Scene::querying();
    assert_eq!(scene.waits(), Some((LOOK_UP_LIMIT, BUDGET)));
    scene.pass(LOOK_UP_LIMIT);
    assert_eq!(scene.actions(), [RescanAction::Abandon]);
    assert_eq!(scene.waits(), Some((HEARTBEAT, HEARTBEAT_FREQUENCY)));
    scene.answer(&[record("a.example.com", 90)]);
    assert_eq!(scene.actions(), [], "nothing was asked");
    assert_eq!(scene.waits(), Some((HEARTBEAT, HEARTBEAT_FREQUENCY)));
}

#[test]
fn invalid_targets_are_left_out() {
    let mut scene = Scene::querying();
    let records = [record("a.example.com", 90), record("evil.example.org", 90), record("", 90), record("A.example.com.", 90)];
    scene.answer(&records);
    assert_eq!(scene.actions(), hosts(&["a.example.com"]));
    assert_eq!(scene.waits(), Some((seconds(90), RESCAN_INTERVAL)));
}

#[test]
fn answer_without_a_valid_target_changes_nothing() {
    let mut scene = Scene::querying();
    scene.answer(&[record("evil.example.org", 90), record("example.com", 90)]);
    assert_eq!((scene.actions(), scene.waits()), (vec![], Some((HEARTBEAT, HEARTBEAT_FREQUENCY))));
}

#[test]
fn answer_beyond_the_limit_changes_nothing() {
    let mut scene = Scene::querying();
    scene.answer(&vec![record("a.example.com", 90); 1001]);
    assert_eq!((scene.actions(), scene.waits()), (vec![], Some((HEARTBEAT, HEARTBEAT_FREQUENCY))));
}

#[test]
fn only_unknown_and_sharded_topologies_follow_srv_records() {
    let all = [
        (TopologyType::Unknown, true),
        (TopologyType::Sharded, true),
        (TopologyType::Single, false),
        (TopologyType::ReplicaSetNoPrimary, false),
        (TopologyType::ReplicaSetWithPrimary, false),
        (TopologyType::LoadBalanced, false),
    ];
    for (kind, follows) in all {
        let mut resting = Scene::new(None);
        resting.rescan.handle_topology(kind.name(), kind.follows_srv());
        assert_eq!((resting.rescan.is_stopped(), resting.waits().is_some()), (!follows, follows), "{kind:?}");
        assert_eq!(resting.actions(), []);
        let mut querying = Scene::querying();
        querying.rescan.handle_topology(kind.name(), kind.follows_srv());
        assert_eq!(querying.rescan.is_stopped(), !follows, "{kind:?}");
        assert_eq!(querying.actions(), if follows { vec![] } else { vec![RescanAction::Abandon] });
    }
}

#[test]
fn stopped_is_final() {
    let mut scene = Scene::new(None);
    scene.rescan.handle_topology(TopologyType::ReplicaSetNoPrimary.name(), TopologyType::ReplicaSetNoPrimary.follows_srv());
    scene.rescan.handle_topology(TopologyType::Sharded.name(), TopologyType::Sharded.follows_srv());
    scene.pass(seconds(1_000_000));
    scene.answer(&[record("a.example.com", 90)]);
    scene.fail();
    scene.rescan.handle_slept(seconds(1_000_000), scene.now);
    assert_eq!((scene.actions(), scene.waits(), scene.rescan.is_stopped()), (vec![], None, true));
}

#[test]
fn records_age_while_the_machine_is_suspended() {
    let mut scene = Scene::new(Some(300));
    scene.pass(seconds(100));
    scene.rescan.handle_slept(seconds(50), scene.now);
    assert_eq!(scene.waits(), Some((seconds(150), RESCAN_INTERVAL)));
    scene.rescan.handle_slept(seconds(86_400), scene.now);
    assert_eq!(scene.waits(), Some((Duration::ZERO, RESCAN_INTERVAL)), "due, and not in the past");
    scene.pass(Duration::ZERO);
    assert_eq!(scene.actions(), [RescanAction::Query]);
    scene.rescan.handle_slept(seconds(5), scene.now);
    assert_eq!(scene.waits(), Some((LOOK_UP_LIMIT, BUDGET)), "a running query keeps its limit");
}

#[test]
fn spurious_timer_does_nothing() {
    let mut scene = Scene::new(None);
    scene.pass(seconds(1));
    assert_eq!((scene.actions(), scene.waits()), (vec![], Some((seconds(59), RESCAN_INTERVAL))));
}
