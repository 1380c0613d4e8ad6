use super::*;
use crate::error::{ErrorKind, Ineligible};
use crate::selection::ReadPreference;

const LIMIT: &str = "serverSelectionTimeoutMS";

fn after(scene: &Scene, millis: u64) -> Deadline {
    Deadline::new(LIMIT, Duration::from_millis(millis), scene.now)
}

fn refusal(scene: &mut Scene) -> Error {
    match scene.topology.poll_action() {
        Some(TopologyAction::NotSelected(_, error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn caller_whose_server_is_there_is_answered_at_once() {
    let mut scene = Scene::settled();
    scene.select(1, None);
    assert_eq!(scene.orders(), ["selected 1"]);
    assert_eq!(scene.topology.waiting(), 0);
}

#[test]
fn caller_without_server_has_all_servers_checked() {
    let mut scene = Scene::of_set(&["a", "b"]);
    scene.drain();
    scene.select(1, None);
    assert_eq!(scene.orders(), ["check a", "check b"]);
    assert_eq!(scene.topology.poll_timeout(), None);
}

#[test]
fn callers_wake_in_order_when_a_server_suits() {
    let mut scene = Scene::of_set(&["a"]);
    scene.select(2, None);
    scene.select(1, None);
    let reader = Arc::new(Criteria::read(ReadPreference::secondary()));
    scene.topology.handle_select(SelectId(3), reader, None, scene.now);
    scene.drain();
    scene.hello("a", primary(&["a"]));
    assert_eq!(
        scene.orders(),
        ["ready a", "publish ReplicaSetWithPrimary", "selected 1", "selected 2", "check a"],
        "the third still waits"
    );
    assert_eq!(scene.topology.waiting(), 1);
}

#[test]
fn cancelled_caller_is_forgotten() {
    let mut scene = Scene::of_set(&["a"]);
    let deadline = after(&scene, 100);
    scene.select(1, Some(deadline));
    scene.drain();
    scene.topology.handle_cancel_select(SelectId(1));
    assert_eq!((scene.topology.waiting(), scene.topology.poll_timeout()), (0, None));
    scene.hello("a", primary(&["a"]));
    assert!(!scene.orders().contains(&"selected 1".to_owned()));
}

#[test]
fn every_server_is_checked_after_every_change_while_a_caller_waits() {
    let mut scene = Scene::settled();
    scene.failed("a", refused());
    scene.select(1, None);
    scene.drain();
    scene.failed("b", refused());
    assert_eq!(scene.orders(), ["publish ReplicaSetNoPrimary", "clear b", "check a", "check b"]);
}

#[test]
fn caller_that_asks_for_something_else_is_answered_once() {
    let mut scene = Scene::settled();
    scene.failed("a", refused());
    scene.select(1, None);
    scene.drain();
    scene.topology.handle_select(SelectId(1), Arc::new(Criteria::any_readable()), None, scene.now);
    assert_eq!((scene.orders(), scene.topology.waiting()), (vec!["selected 1".to_owned()], 0));
}

#[test]
fn deadline_is_exact() {
    let mut scene = Scene::of_set(&["a"]);
    let (first, second) = (after(&scene, 100), after(&scene, 200));
    scene.select(1, Some(second));
    scene.select(2, Some(first));
    scene.drain();
    assert_eq!(scene.topology.poll_timeout(), Some((first.at, LIMIT)));
    scene.topology.handle_timeout(first.at - Duration::from_nanos(1));
    assert_eq!(scene.orders(), [""; 0]);
    scene.topology.handle_timeout(first.at);
    assert_eq!(scene.orders(), ["not selected 2: ServerSelection"]);
    assert_eq!(scene.topology.poll_timeout(), Some((second.at, LIMIT)));
}

#[test]
fn refusal_names_servers_reasons_and_time() {
    let mut scene = Scene::settled();
    scene.failed("a", refused());
    let deadline = after(&scene, 100);
    scene.select(1, Some(deadline));
    scene.drain();
    scene.topology.handle_timeout(deadline.at);
    let error = refusal(&mut scene);
    let reasons: Vec<_> = error.servers().iter().map(|server| server.reason.clone()).collect();
    assert_eq!(reasons, [Ineligible::Unknown, Ineligible::Type("RSSecondary")]);
    assert_eq!(
        (error.kind(), error.stage(), error.elapsed()),
        (ErrorKind::ServerSelection, Some(Stage::Selection), Some(Duration::from_millis(100)))
    );
    let text = error.to_string();
    for part in [
        "no server for a write",
        "ReplicaSetNoPrimary",
        "limit serverSelectionTimeoutMS of 100 ms",
        "a:27017 is not reachable [tcp:",
        "b:27017 is RSSecondary",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!text.contains("internal host names"), "{text}");
}

#[test]
fn names_that_lead_nowhere_get_a_hint() {
    for seed_fails in [true, false] {
        let mut scene = Scene::of_set(&["a"]);
        scene.hello("a", secondary(&["internal-1", "internal-2"]));
        if seed_fails {
            scene.failed("a", refused());
        }
        for name in ["internal-1", "internal-2"] {
            scene.failed(name, Error::new(ErrorKind::NoSuchName, "no such name").at(Stage::Dns));
        }
        let deadline = after(&scene, 100);
        scene.select(1, Some(deadline));
        scene.drain();
        scene.topology.handle_timeout(deadline.at);
        let text = "no server for a write in a topology of type ReplicaSetNoPrimary (\"rs\"); \
                    is the replica set configured with internal host names?";
        assert_eq!(refusal(&mut scene).message(), text);
    }
}

#[test]
fn names_that_lead_somewhere_get_no_hint() {
    let broken = Error::new(ErrorKind::Closed, "closed").at(Stage::Hello);
    for outcome in [Ok(secondary(&["internal"])), Err(Some(broken)), Err(None)] {
        let mut scene = Scene::of_set(&["a"]);
        scene.hello("a", secondary(&["internal", "lost"]));
        scene.failed("lost", Error::new(ErrorKind::NoSuchName, "no such name").at(Stage::Dns));
        match outcome {
            Ok(hello) => scene.hello("internal", hello),
            Err(Some(error)) => scene.failed("internal", error),
            Err(None) => {}
        }
        scene.failed("a", refused());
        let deadline = after(&scene, 100);
        scene.select(1, Some(deadline));
        scene.drain();
        scene.topology.handle_timeout(deadline.at);
        let error = refusal(&mut scene);
        assert!(!error.message().contains("internal host names"), "{error}");
    }
}

#[test]
fn refusal_names_the_wrong_set_name() {
    let mut scene = Scene::of_set(&["a"]);
    scene.hello("a", HelloReply { set_name: Some("other".into()), ..primary(&["a"]) });
    scene.drain();
    let deadline = after(&scene, 0);
    scene.select(1, Some(deadline));
    let text = refusal(&mut scene).to_string();
    assert!(text.contains("a:27017 is RSPrimary") && text.contains("replica set \"other\", wanted is \"rs\""), "{text}");
}

#[test]
fn incompatible_server_ends_the_wait() {
    let mut scene = Scene::of_set(&["a"]);
    scene.select(1, None);
    scene.drain();
    scene.hello("a", HelloReply { max_wire_version: 7, ..primary(&["a"]) });
    assert_eq!(scene.orders().last().map(String::as_str), Some("not selected 1: Incompatible"));
}

#[test]
fn impossible_criteria_are_refused_at_once() {
    let mut scene = Scene::of_set(&["a"]);
    scene.drain();
    let preference = ReadPreference::nearest().with_max_staleness(Duration::from_secs(1));
    scene.topology.handle_select(SelectId(1), Arc::new(Criteria::read(preference)), None, scene.now);
    assert_eq!(scene.orders(), ["not selected 1: InvalidOption"]);
}

/// The selector is foreign: it runs in the caller, and the rules only say when there is something new to choose from.
#[test]
fn caller_whose_selector_kept_no_server_is_called_again_for_another_description_only() {
    let mut config = TopologyConfig::new(keys(&["a", "b"]));
    config.set_name = Some("rs".into());
    config.server_selector = Some(crate::description::ServerSelector::new(|_, _| panic!("the rules ran the selector")));
    let mut scene = Scene::new(config);
    scene.hello("a", primary(&["a", "b"]));
    scene.drain();
    let select = |scene: &mut Scene, judged, deadline| {
        scene.topology.handle_select_judged(SelectId(1), Arc::new(Criteria::write()), judged, deadline, scene.now);
    };
    let judged = Arc::clone(scene.topology.description());
    select(&mut scene, Arc::clone(&judged), None);
    assert_eq!(scene.orders(), ["check a", "check b"], "the same description has nothing new");
    scene.hello("b", secondary(&["a", "b"]));
    let orders = scene.orders();
    assert!(orders.contains(&"selected 1".to_owned()), "{orders:?}");
    // Its description was an older one.
    select(&mut scene, judged, None);
    assert_eq!(scene.orders(), ["selected 1"]);
    let (judged, deadline) = (Arc::clone(scene.topology.description()), after(&scene, 100));
    select(&mut scene, judged, Some(deadline));
    scene.drain();
    scene.now += Duration::from_millis(100);
    scene.topology.handle_timeout(scene.now);
    let error = refusal(&mut scene);
    assert_eq!(error.servers()[0].reason, Ineligible::Selector, "{error}");
}

#[test]
fn check_that_lacked_local_resources_leaves_a_known_server_as_it_is() {
    let shortage = || Error::new(ErrorKind::LocalResources, "too many open files").at(Stage::Tcp);
    let mut scene = Scene::settled();
    scene.failed("a", shortage());
    assert_eq!((scene.orders(), scene.take_events()), (vec![], vec![]));
    // Of one that is unknown, the error says why.
    let mut scene = Scene::of_set(&["a"]);
    scene.failed("a", shortage());
    let description = Arc::clone(scene.topology.description());
    assert_eq!(description.servers()[0].error.as_ref().map(Error::kind), Some(ErrorKind::LocalResources));
}
