//! What else than one set may a world be?
//!
//! The routers of a sharded cluster, some of them found by SRV records, or services behind one load balancer. The last
//! digit of a seed says which, and all that only these worlds have is drawn from a sequence of its own: the others stay what
//! they are. What SRV records and load balancers do is in `srv` and `balancer`.

use std::time::Duration;

use mongolink::ServerAddress;
use mongolink::sandbox::Config;
use mongolink::topology::TopologyConfig;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::balancer::BalancerFault;
use super::net::Place;
use super::plan::{CALM, ClientPlan, Fault, Plan, Settings, millis, pick};
use super::queue::CallKind;
use super::srv::{SrvFault, SrvPlan};

/// Names what the servers of a world are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deployment {
    /// One replica set, or a standalone.
    Members,
    /// The routers of a sharded cluster.
    Routers,
    /// Routers behind one load balancer.
    Balanced,
}

/// Makes a seed's plan one of its kind of world.
pub(crate) struct Variation {
    pub(crate) deployment: Deployment,
    found_by_srv: bool,
    random: SmallRng,
}

impl Variation {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed ^ 0x05ee_d0f5_ca1e_u64);
        let (deployment, found_by_srv) = match seed % 10 {
            7 => (Deployment::Routers, false),
            // SRV records may lead to a replica set, too, which has no use for them after that.
            8 if random.random_bool(0.15) => (Deployment::Members, true),
            8 => (Deployment::Routers, true),
            9 => (Deployment::Balanced, random.random_bool(0.15)),
            _ => (Deployment::Members, false),
        };
        Self { deployment, found_by_srv, random }
    }

    /// Tells whether this is a world like all those that were there before.
    fn is_plain(&self) -> bool {
        self.deployment == Deployment::Members && !self.found_by_srv
    }

    /// Tells whether a server that belongs to no set may be alone.
    pub(crate) fn allows_standalone(&self) -> bool {
        self.is_plain()
    }

    /// Puts faults of this kind of world into the place of those that it does not know, and adds some.
    pub(crate) fn change_faults(&mut self, faults: &mut Vec<(Duration, Fault)>, members: usize, clients: usize, span: Duration) {
        if self.is_plain() {
            return;
        }
        if self.deployment != Deployment::Members {
            for (_, fault) in faults.iter_mut() {
                self.change_fault(fault, members, clients);
            }
        }
        if self.found_by_srv {
            for _ in 0..self.random.random_range(1..7) {
                let at = CALM + span.mul_f64(self.random.random_range(0.0..1.0));
                let fault = SrvFault::draw(&mut self.random, members);
                if self.random.random_bool(0.3) {
                    // Routers that leave the records may end, too.
                    let lasts = millis(&mut self.random, 500, 8_000);
                    faults.push((at, Fault::Crash { member: self.random.random_range(0..members), lasts }));
                }
                faults.push((at, Fault::Srv(fault)));
            }
        }
    }

    fn change_fault(&mut self, fault: &mut Fault, members: usize, clients: usize) {
        let random = &mut self.random;
        let is_of_sets = matches!(
            fault,
            Fault::StepDown | Fault::Elect { .. } | Fault::Rename { .. } | Fault::Remove { .. } | Fault::Lie { .. } | Fault::Upgrade { .. }
        );
        let (member, client, lasts) = (random.random_range(0..members), random.random_range(0..clients), millis(random, 20, 6_000));
        if self.deployment == Deployment::Balanced {
            // There is one address to move, and it is the load balancer's.
            if let Fault::Move { member, .. } = fault {
                *member = 0;
            }
            if random.random_bool(0.25) {
                *fault = Fault::Balancer(BalancerFault::draw(random, lasts));
                return;
            }
        }
        if is_of_sets {
            *fault = match random.random_range(0..4) {
                0 => Fault::Freeze { member, lasts },
                1 => Fault::Slow { client, member, delay: millis(random, 5, 800), lasts },
                2 => Fault::FailPoint { member, command: "find", code: Some(91), delay: Duration::ZERO, times: 2 },
                _ => Fault::Crash { member, lasts },
            };
        }
    }

    /// How much farther away than the nearest each member is.
    pub(crate) fn distances(&mut self, members: usize) -> Vec<Duration> {
        if self.deployment != Deployment::Routers {
            return Vec::new();
        }
        (0..members).map(|_| Duration::from_micros(pick(&mut self.random, &[0, 0, 1_000, 6_000, 9_000, 40_000]))).collect()
    }

    /// Draws what the clients know of SRV records, and lets callers behind a load balancer use cursors.
    pub(crate) fn change_clients(&mut self, clients: &mut [ClientPlan], members: usize) -> Option<SrvPlan> {
        if self.deployment == Deployment::Balanced {
            let finds = clients.iter_mut().flat_map(|client| &mut client.calls).filter(|(_, kind, _)| *kind == CallKind::Find);
            for (_, kind, _) in finds {
                if self.random.random_bool(0.6) {
                    *kind = CallKind::Scroll;
                }
            }
        }
        let limited = self.deployment == Deployment::Routers;
        self.found_by_srv.then(|| SrvPlan::draw(&mut self.random, clients.len(), members, limited))
    }
}

impl Plan {
    /// Describes a deployment that is not one set to the sandbox.
    pub(crate) fn config_of_routers(&self, names: &[&str]) -> Option<Config> {
        match self.deployment {
            Deployment::Members => None,
            Deployment::Routers => Some(Config::sharded(names.iter().copied())),
            Deployment::Balanced => names.first().map(|name| Config::load_balanced(*name, self.members)),
        }
    }

    /// Describes a client's topology to the rules; it was told of the seeds, or finds them by SRV records.
    pub(crate) fn topology_config(&self, client: usize, settings: &Settings, known: Vec<ServerAddress>, draws: u64) -> TopologyConfig {
        let seeds = match (&self.srv, self.deployment) {
            (Some(srv), _) => srv.first_seeds(self, client, draws),
            (None, Deployment::Balanced) => known.into_iter().take(1).collect(),
            (None, Deployment::Members | Deployment::Routers) => known,
        };
        let mut config = TopologyConfig::new(seeds);
        config.heartbeat_frequency = settings.heartbeat_frequency;
        let in_a_set = self.deployment == Deployment::Members && !self.standalone;
        config.set_name = (settings.names_the_set && in_a_set).then(|| "rs0".to_owned());
        config.load_balanced = self.is_balanced();
        if let Some(srv) = &self.srv {
            config.srv = true;
            config.srv_max_hosts = srv.max_hosts(client);
        }
        config
    }

    pub(crate) fn is_balanced(&self) -> bool {
        self.deployment == Deployment::Balanced
    }

    /// Says where the address of a member leads.
    pub(crate) fn place_of(&self, member: usize) -> Place {
        if self.is_balanced() { Place::Balancer } else { Place::Member(member) }
    }

    /// One way to a member, without jitter and bad luck.
    pub(crate) fn delay_to(&self, member: usize) -> Duration {
        self.delay + self.far.get(member).copied().unwrap_or_default()
    }

    /// One way to the farthest member.
    pub(crate) fn delay_max(&self) -> Duration {
        self.delay + self.far.iter().max().copied().unwrap_or_default()
    }
}
