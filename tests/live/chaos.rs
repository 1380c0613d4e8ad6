//! Faults on real sockets: their effect on callers, how soon it ends, and what is left.
//!
//! Between client and mongod is a proxy that cuts, freezes, delays and breaks. In each scenario no call passes its
//! deadline, no call gets a reply to another's request, all calls succeed from a second after the fault on, and no
//! task, connection or descriptor is left. Scenarios run one after the other, in a process of their own.
#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "tests spawn and look at the clock")]

mod load;
mod machine;
mod members;
mod proxy;
mod site;
#[allow(dead_code, unused_imports, reason = "shared with the other live tests")]
mod support;

use std::time::{Duration, Instant};

use mongolink::{ClientBuilder, ReadPreference, ServerMonitoringMode};

use load::{BESIDE, CALLERS, Load, STILL, with_pause};
use proxy::{Flow, Links, Rules, Welcome};
use site::{Site, alone, totals};
use support::{Authority, CHANGE, Folder, eventually};

/// How long a fault lasts: longer than a call.
const LASTS: Duration = Duration::from_secs(2);

/// How long something lasts that is to end all links there are.
const MOMENT: Duration = Duration::from_millis(50);

/// The time limit of a new connection under an unresponsive server: with the interval between two checks, less than a second.
const SHORT: Duration = Duration::from_millis(300);

/// Says what callers notice of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Some calls fail.
    Fails,
    /// Connections are lost; whether calls fail is a matter of when they began.
    Breaks,
    /// Nothing fails, unless the machine itself stands still.
    Slows,
}

/// Lets callers call while the rules hold one after the other, and sees that all is well a second later.
async fn endure(site: &Site, callers: usize, faults: &[(Rules, Duration)], effect: Effect) {
    let load = Load::start(&site.client, callers, ReadPreference::primary());
    let beside = Load::start(&site.beside, BESIDE, ReadPreference::primary());
    let before = load.rate(&beside).await;
    let closed = totals(&site.client).closed;
    let fault = async {
        for (rules, lasts) in faults {
            site.proxy.set(*rules);
            tokio::time::sleep(*lasts).await;
        }
        site.proxy.set(Rules::default());
        load.is_back(before, Instant::now(), &beside).await;
        beside.end().await;
        load.end().await
    };
    let (failures, pause) = with_pause(fault).await;
    let lost = totals(&site.client).closed - closed;
    match effect {
        Effect::Fails => assert!(failures > 0, "no call failed"),
        Effect::Breaks => assert!(lost > 0, "no connection was lost"),
        Effect::Slows => {
            assert_eq!(lost, 0, "connections were lost");
            assert!(failures == 0 || pause > STILL, "{failures} calls failed, the machine stood still for {pause:?} at the most");
        }
    }
}

/// Runs a scenario of one fault.
fn survives(faults: &[(Rules, Duration)], effect: Effect, change: impl Fn(ClientBuilder) -> ClientBuilder) {
    alone(async |program| {
        let site = Site::start(program, &[], change).await;
        endure(&site, CALLERS, faults, effect).await;
        site.end().await;
    });
}

/// Changes nothing.
fn as_it_is(builder: ClientBuilder) -> ClientBuilder {
    builder
}

#[test]
fn links_that_are_reset() {
    survives(&[(Rules::links(Links::Reset), LASTS)], Effect::Fails, as_it_is);
}

#[test]
fn links_that_are_closed() {
    survives(&[(Rules::links(Links::Closed), LASTS)], Effect::Fails, as_it_is);
}

#[test]
fn links_that_are_reset_for_a_moment() {
    survives(&[(Rules::links(Links::Reset), MOMENT)], Effect::Breaks, as_it_is);
}

#[test]
fn frozen_either_way() {
    survives(&[(Rules::both(Flow::Frozen), LASTS)], Effect::Fails, as_it_is);
}

#[test]
fn frozen_requests() {
    survives(&[(Rules::up(Flow::Frozen), LASTS)], Effect::Fails, as_it_is);
}

#[test]
fn frozen_replies() {
    survives(&[(Rules::down(Flow::Frozen), LASTS)], Effect::Fails, as_it_is);
}

#[test]
fn frozen_until_the_monitor_gives_up() {
    let impatient = |builder: ClientBuilder| builder.connect_timeout(SHORT).heartbeat_frequency(Duration::from_millis(500));
    survives(&[(Rules::both(Flow::Frozen), 2 * LASTS)], Effect::Fails, impatient);
}

#[test]
fn frozen_for_longer_than_late_replies_are_waited_for() {
    survives(&[(Rules::both(Flow::Frozen), Duration::from_secs(12))], Effect::Fails, as_it_is);
}

#[test]
fn delayed_either_way() {
    survives(&[(Rules::both(Flow::Delayed(Duration::from_millis(150))), LASTS)], Effect::Slows, as_it_is);
}

#[test]
fn delayed_for_longer_than_callers_wait() {
    survives(&[(Rules::both(Flow::Delayed(Duration::from_millis(1200))), 2 * LASTS)], Effect::Fails, as_it_is);
}

#[test]
fn half_closed_by_the_server() {
    survives(&[(Rules::down(Flow::HalfClosed), LASTS)], Effect::Fails, as_it_is);
}

#[test]
fn half_closed_towards_the_server() {
    survives(&[(Rules::up(Flow::HalfClosed), LASTS)], Effect::Fails, as_it_is);
}

#[test]
fn one_byte_at_a_time() {
    alone(async |program| {
        let site = Site::start(program, &[], as_it_is).await;
        // Each byte wakes everybody on its way: fewer callers are as much work.
        endure(&site, 6, &[(Rules::both(Flow::Crumbs), LASTS)], Effect::Slows).await;
        site.end().await;
    });
}

#[test]
fn reset_in_the_middle_of_a_reply() {
    alone(async |program| {
        let site = Site::start(program, &[], as_it_is).await;
        // Within the length, at the end of the header, within the document.
        for bytes in [3, 16, 150] {
            endure(&site, CALLERS, &[(Rules::down(Flow::ResetAfter(bytes)), LASTS)], Effect::Fails).await;
        }
        site.end().await;
    });
}

#[test]
fn reset_in_the_middle_of_a_request() {
    survives(&[(Rules::up(Flow::ResetAfter(50)), LASTS)], Effect::Fails, as_it_is);
}

#[test]
fn accepted_and_silent() {
    let faults = [(Rules::links(Links::Reset), MOMENT), (Rules::welcome(Welcome::Silent), LASTS)];
    survives(&faults, Effect::Breaks, |builder| builder.connect_timeout(SHORT));
}

#[test]
fn accepted_slowly() {
    let slow = Rules::welcome(Welcome::Slow(Duration::from_millis(200)));
    survives(&[(Rules::links(Links::Reset), MOMENT), (slow, LASTS)], Effect::Breaks, as_it_is);
}

/// Runs a scenario over TLS.
fn survives_with_tls(callers: usize, faults: &[(Rules, Duration)], effect: Effect) {
    alone(async |program| {
        let folder = Folder::new();
        let authority = Authority::new("mongolink bad luck");
        let trusted = folder.file("authority.pem", &authority.pem());
        let own = folder.file("server.pem", &authority.server_pem());
        let mut further: Vec<String> = ["--tlsAllowConnectionsWithoutCertificates", "--tlsMode", "requireTLS"].map(str::to_owned).to_vec();
        for (switch, file) in [("--tlsCertificateKeyFile", &own), ("--tlsCAFile", &trusted)] {
            further.extend([switch.to_owned(), file.display().to_string()]);
        }
        let site = Site::start(program, &further, |builder| builder.tls(true).tls_ca_file(trusted.clone())).await;
        endure(&site, callers, faults, effect).await;
        site.end().await;
    });
}

#[test]
fn links_with_tls_that_are_reset() {
    survives_with_tls(CALLERS, &[(Rules::links(Links::Reset), LASTS)], Effect::Fails);
}

#[test]
fn links_with_tls_that_are_closed() {
    // Without the alert that TLS says good-bye with.
    survives_with_tls(CALLERS, &[(Rules::links(Links::Closed), LASTS)], Effect::Fails);
}

#[test]
fn tls_one_byte_at_a_time() {
    survives_with_tls(6, &[(Rules::both(Flow::Crumbs), LASTS)], Effect::Slows);
}

#[test]
fn tls_handshakes_one_byte_at_a_time() {
    let faults = [(Rules::links(Links::Reset), MOMENT), (Rules::both(Flow::Crumbs), LASTS)];
    survives_with_tls(6, &faults, Effect::Breaks);
}

#[test]
fn tls_reset_in_the_middle_of_a_record() {
    survives_with_tls(CALLERS, &[(Rules::down(Flow::ResetAfter(100)), LASTS)], Effect::Fails);
}

/// A burst of callers opens a pool, and opens it again when all is lost, never more than `maxConnecting` at a time.
#[test]
fn connect_storms_keep_to_max_connecting() {
    for limit in [1_u32, 2, 5] {
        alone(async |program| {
            let poll = |builder: ClientBuilder| builder.max_connecting(limit).server_monitoring_mode(ServerMonitoringMode::Poll);
            let site = Site::start(program, &[], poll).await;
            let limit = limit as usize;
            // Calls take long enough for all connections to be in use.
            let slow = Rules { welcome: Welcome::Slow(Duration::from_millis(20)), ..Rules::up(Flow::Delayed(Duration::from_millis(40))) };
            site.proxy.set(slow);
            site.proxy.dials_max();
            storm(&site).await;
            assert_eq!(site.proxy.dials_max(), limit, "the monitor's connection was there before");

            site.proxy.set(Rules { links: Links::Closed, ..slow });
            eventually("all links are gone", CHANGE, async || site.proxy.open() == 0).await;
            site.proxy.set(slow);
            site.proxy.dials_max();
            storm(&site).await;
            let dials = site.proxy.dials_max();
            assert!((limit..=limit + 1).contains(&dials), "{dials} at once, one of them is the monitor's");
            site.proxy.set(Rules::default());
            site.end().await;
        });
    }
}

/// Lets many more callers come at once than there are connections, until the pool is full.
async fn storm(site: &Site) {
    let opened = totals(&site.client).created;
    let load = Load::start(&site.client, 5 * site::POOL as usize, ReadPreference::primary());
    let full = async || {
        let now = totals(&site.client);
        now.idle + now.in_use == site::POOL as usize && now.created + 1 >= opened + u64::from(site::POOL)
    };
    eventually("the pool is full of new connections", CHANGE, full).await;
    load.end().await;
}
