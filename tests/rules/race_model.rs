//! The model of a race, on random sequences of facts.
//!
//! The model is a list of addresses with a state each, and the time of the next attempt; it predicts every action.

use std::time::{Duration, Instant};

use mongolink::race::{AttemptId, Race, RaceAction, RaceConfig, STAGGER};
use mongolink::{Address, Error, ErrorKind, Stage};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::support::{for_seeds, ms};

const SEEDS: u64 = 6_000;
const STEPS: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    Running { id: AttemptId },
    Failed,
    Over,
}

struct Track {
    race: Race,
    timeout: Option<Duration>,
    now: Instant,
    remembered: Option<Address>,
    lanes: Vec<(Address, State)>,
    dialled: Vec<AttemptId>,
    more_to_come: bool,
    deadline: Option<Instant>,
    next_at: Instant,
    last: Option<bool>,
    over: bool,
}

#[test]
fn race_is_run_by_its_rules() {
    let began = Instant::now();
    for_seeds(SEEDS, |rng| {
        let mut track = Track::new(rng, began);
        for _ in 0..STEPS {
            track.step(rng);
        }
        track.finish();
    });
}

impl Track {
    fn new(rng: &mut SmallRng, now: Instant) -> Self {
        let timeout = rng.random_bool(0.9).then(|| ms(rng.random_range(100..3_000)));
        let remembered = rng.random_bool(0.4).then(|| address(rng));
        let (first, more) = (addresses(rng), rng.random_bool(0.4));
        let config = RaceConfig { stagger: STAGGER, timeout };
        let race = Race::new(config, first.clone(), more, remembered.clone(), now);
        let mut track = Self {
            race,
            timeout,
            now,
            remembered,
            lanes: Vec::new(),
            dialled: Vec::new(),
            more_to_come: more,
            deadline: None,
            next_at: now,
            last: None,
            over: false,
        };
        track.join(first);
        track.look();
        track
    }

    fn step(&mut self, rng: &mut SmallRng) {
        let running: Vec<(usize, AttemptId)> = self.running().collect();
        let one = (!running.is_empty()).then(|| running[rng.random_range(0..running.len().max(1))]);
        match (rng.random_range(0..12), one) {
            (0, _) if self.more_to_come => {
                let (new, more) = (addresses(rng), rng.random_bool(0.5));
                self.race.handle_addresses(new.clone(), more, self.now);
                if !self.over {
                    self.more_to_come = more;
                    self.join(new);
                }
                self.look();
            }
            (1 | 2, Some((_, id))) => self.race.handle_opened(id, self.now),
            (3, Some((lane, id))) => {
                self.race.handle_connected(id, self.now);
                self.won(lane, id);
            }
            (4..=6, Some((lane, id))) => {
                self.race.handle_failed(id, failure(rng), self.now);
                let dead = self.race.poll_action();
                assert!(
                    matches!(dead, Some(RaceAction::Dead(address)) if address == self.lanes[lane].0),
                    "the resolver gets the dead address"
                );
                self.lanes[lane].1 = State::Failed;
                self.next_at = self.now;
                self.look();
            }
            (7, _) => self.stale_facts(),
            (8 | 9, _) => self.pass(self.race.poll_timeout().map_or(Duration::ZERO, |(at, _)| at.saturating_duration_since(self.now))),
            _ => self.pass(ms(rng.random_range(0..400))),
        }
        let timer = self.race.poll_timeout().map(|(at, _)| at);
        assert_eq!(timer, self.timer());
    }

    fn timer(&self) -> Option<Instant> {
        let queued = self.upcoming().filter(|_| self.has_room()).map(|_| self.next_at);
        if self.over || self.lanes.is_empty() { None } else { queued.into_iter().chain(self.deadline).min() }
    }

    /// Adds lanes for new addresses; the time-out begins with the first.
    fn join(&mut self, new: Vec<Address>) {
        for address in new {
            if self.lanes.iter().all(|(known, _)| *known != address) {
                if self.lanes.is_empty() {
                    self.deadline = self.timeout.map(|limit| self.now + limit);
                    self.next_at = self.now;
                }
                self.lanes.push((address, State::Queued));
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.race.handle_timeout(self.now);
        let expired = self.deadline.is_some_and(|deadline| deadline <= self.now) && !self.over && !self.lanes.is_empty();
        if !expired {
            self.look();
        } else if self.running().next().is_some() || self.upcoming().is_some() {
            let running: Vec<(usize, AttemptId)> = self.running().collect();
            for (lane, id) in running {
                assert!(matches!(self.race.poll_action(), Some(RaceAction::Abort(other)) if other == id), "what runs is given up");
                let dead = self.race.poll_action();
                assert!(
                    matches!(dead, Some(RaceAction::Dead(address)) if address == self.lanes[lane].0),
                    "the resolver gets the dead address"
                );
                self.lanes[lane].1 = State::Over;
            }
            self.lost(Some(ErrorKind::Timeout));
        } else {
            self.lost(None);
        }
        assert!(self.race.poll_timeout().is_none_or(|(at, _)| at > self.now), "a timer is due after time was looked at");
    }

    /// Checks that the right attempts begin, and that a race without remaining addresses ends.
    fn look(&mut self) {
        while let Some(lane) = self.upcoming().filter(|_| !self.over)
            && (self.running().next().is_none() || (self.next_at <= self.now && self.has_room()))
        {
            let Some(RaceAction::Dial(id, address)) = self.race.poll_action() else { panic!("{:?} is not dialled", self.lanes[lane]) };
            assert_eq!(address, self.lanes[lane].0, "the wrong address is dialled");
            self.lanes[lane].1 = State::Running { id };
            self.dialled.push(id);
            self.last = Some(is_v6(&address));
            self.next_at = self.now + STAGGER;
        }
        if !self.over && !self.more_to_come && self.upcoming().is_none() && self.running().next().is_none() {
            self.lost(None);
        }
        assert!(self.race.poll_action().is_none(), "no other action");
    }

    fn lost(&mut self, kind: Option<ErrorKind>) {
        let Some(RaceAction::Lost(error)) = self.race.poll_action() else { panic!("a lost race has an error") };
        let failed = self.lanes.iter().filter(|(_, state)| *state == State::Failed).count();
        let over = self.lanes.iter().filter(|(_, state)| *state == State::Over).count();
        match kind {
            Some(kind) => assert_eq!(error.kind(), kind, "{error}"),
            None if self.lanes.is_empty() => assert_eq!(error.kind(), ErrorKind::NoAddresses),
            None => assert!(failed > 0),
        }
        assert!(failed + over < 2 || error.causes().len() == failed + over, "each address has its cause: {error}");
        if kind.is_some() {
            let limit = error.limit().map(|limit| limit.name);
            assert_eq!(limit, Some("connectTimeoutMS"));
        }
        self.over = true;
        assert!(self.race.poll_action().is_none(), "nothing follows the end");
    }

    fn won(&mut self, winner: usize, id: AttemptId) {
        self.lanes[winner].1 = State::Over;
        let running: Vec<(usize, AttemptId)> = self.running().collect();
        for (lane, other) in running {
            assert!(matches!(self.race.poll_action(), Some(RaceAction::Abort(aborted)) if aborted == other), "the others are dropped");
            self.lanes[lane].1 = State::Over;
        }
        assert!(matches!(self.race.poll_action(), Some(RaceAction::Won(won)) if won == id), "one has won");
        self.over = true;
        assert!(self.race.poll_action().is_none(), "nothing follows the end");
    }

    /// Facts of attempts that are not running change nothing.
    fn stale_facts(&mut self) {
        let running: Vec<AttemptId> = self.running().map(|(_, id)| id).collect();
        let ended: Vec<AttemptId> = self.dialled.iter().filter(|id| !running.contains(id)).copied().collect();
        for id in ended {
            self.race.handle_opened(id, self.now);
            self.race.handle_connected(id, self.now);
            self.race.handle_failed(id, Error::new(ErrorKind::Closed, "closed").at(Stage::Tcp), self.now);
        }
        if self.over {
            self.race.handle_addresses(vec![v4(200)], false, self.now);
        }
        assert!(self.race.poll_action().is_none(), "a stale fact has an effect");
    }

    /// Lets time pass until the race is over, if it has a limit.
    fn finish(&mut self) {
        self.race.handle_addresses(Vec::new(), false, self.now);
        if !self.over {
            self.more_to_come = false;
            self.look();
        }
        while let Some((at, _)) = self.race.poll_timeout() {
            self.pass(at - self.now);
        }
        assert!(self.over || self.timeout.is_none(), "a race with a limit ends");
    }

    fn running(&self) -> impl Iterator<Item = (usize, AttemptId)> {
        self.lanes.iter().enumerate().filter_map(|(lane, (_, state))| match state {
            State::Running { id } => Some((lane, *id)),
            State::Queued | State::Failed | State::Over => None,
        })
    }

    /// Returns whether another attempt may run: at most eight run at once.
    fn has_room(&self) -> bool {
        self.running().count() < 8
    }

    /// Returns the next lane: the last winner, else the first of the other family, else the first.
    fn upcoming(&self) -> Option<usize> {
        let queued =
            |wanted: &dyn Fn(&Address) -> bool| self.lanes.iter().position(|(address, state)| *state == State::Queued && wanted(address));
        let remembered = queued(&|address| Some(address) == self.remembered.as_ref());
        let other = || self.last.and_then(|last| queued(&|address| is_v6(address) != last));
        remembered.or_else(other).or_else(|| queued(&|_| true))
    }
}

fn is_v6(address: &Address) -> bool {
    matches!(address, Address::Ip(ip) if ip.is_ipv6())
}

fn v4(last: u8) -> Address {
    Address::Ip(([192, 0, 2, last], 27017).into())
}

fn address(rng: &mut SmallRng) -> Address {
    let last = rng.random_range(1..6);
    if rng.random_bool(0.5) { v4(last) } else { Address::Ip(([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)], 27017).into()) }
}

fn addresses(rng: &mut SmallRng) -> Vec<Address> {
    (0..rng.random_range(0..6)).map(|_| address(rng)).collect()
}

fn failure(rng: &mut SmallRng) -> Error {
    match rng.random_range(0..3) {
        0 => Error::new(ErrorKind::Io(std::io::ErrorKind::ConnectionRefused), "refused").at(Stage::Tcp),
        1 => Error::new(ErrorKind::CertificateName, "another name").at(Stage::Tls),
        _ => Error::new(ErrorKind::Closed, "closed").at(Stage::Tls),
    }
}
