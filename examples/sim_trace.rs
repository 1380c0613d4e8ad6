//! Prints one failover, second by second, without a network: `cargo run --features sandbox,internals --example sim_trace`.
//!
//! A client writes ten times a second to a replica set of three. After 5 s the primary freezes, and is thawed 12 s later. It
//! all happens on virtual time, with the shipped rules against the sandbox's servers, and takes no time at all.

#[path = "../tests/sim/simulation.rs"]
mod simulation;

use std::time::Duration;

use simulation::plan::{ClientPlan, Fault, Plan, Settings};
use simulation::queue::CallKind;
use simulation::trace;
use simulation::world::World;

const SECONDS: u64 = 24;

fn main() {
    let settings = Settings {
        heartbeat_frequency: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        dns_timeout: Duration::from_secs(5),
        selection_timeout: Duration::from_secs(30),
        wait_queue_timeout: None,
        call_timeout: None,
        socket_timeout: None,
        max_pool_size: 100,
        min_pool_size: 0,
        max_connecting: 2,
        max_idle_time: None,
        streaming: true,
        tls: false,
        names_the_set: true,
        wake_delay: Duration::ZERO,
    };
    let calls = (0..SECONDS * 10).map(|tenth| (Duration::from_millis(tenth * 100), CallKind::Insert, None)).collect();
    let freeze = Fault::Freeze { member: 0, lasts: Duration::from_secs(12) };
    let plan = Plan {
        clients: vec![ClientPlan { settings, calls }],
        faults: vec![(Duration::from_secs(5), freeze)],
        quiet_at: Duration::from_secs(SECONDS),
        ..Plan::plain()
    };
    let mut world = World::new(plan, 1, trace::Trace::default());
    println!("{:>6}  {:>9}  {:>7}  {:>7}  members", "second", "succeeded", "failed", "waiting");
    world.begin();
    let mut before = world.figures;
    for second in 1..=SECONDS {
        world.run_until(world.start + Duration::from_secs(second));
        let now = world.figures;
        let members: Vec<String> = world.kinds(0).into_iter().map(|(host, kind)| format!("{host} {kind}")).collect();
        println!(
            "{second:>6}  {:>9}  {:>7}  {:>7}  {}",
            now.succeeded - before.succeeded,
            now.failed - before.failed,
            world.clients[0].calls.len(),
            members.join(", ")
        );
        before = now;
    }
}
