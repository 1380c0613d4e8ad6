//! What does a fault do?

use std::time::Duration;

use bson::doc;

use super::net::Place;
use super::plan::Fault;
use super::queue::{CallKind, Event};
use super::servers::{End, names};
use super::world::{TCP_GIVES_UP, World};

impl World {
    /// Does what the plan has at this place.
    pub(crate) fn strike(&mut self, index: usize) {
        let Some((_, fault)) = self.plan.faults.get(index).cloned() else { return };
        self.befall(fault);
    }

    /// Does what a fault does.
    pub(crate) fn befall(&mut self, fault: Fault) {
        self.note(|_| format!("fault: {fault:?}"));
        self.note_truth(&fault);
        let now = self.now;
        let cluster = &mut self.servers.cluster;
        match fault {
            Fault::Crash { member, lasts } => {
                cluster.stop(member, now);
                self.queue.push(now + lasts, Event::Mend(End::Start(member)));
            }
            Fault::Freeze { member, lasts } => {
                cluster.freeze(member, now);
                self.queue.push(now + lasts, Event::Mend(End::Thaw(member)));
            }
            // What a deployment refuses, does not happen.
            Fault::StepDown => drop(cluster.step_down(now)),
            Fault::Elect { member } => drop(cluster.elect(member, now)),
            Fault::Rename { member, name } => {
                if let Some(name) = names(member).get(name).filter(|_| !self.plan.standalone) {
                    drop(cluster.rename(member, name.clone(), now));
                }
            }
            Fault::Remove { member, lasts } => {
                if !self.plan.standalone && cluster.remove(member, now).is_ok() {
                    self.queue.push(now + lasts, Event::Mend(End::Restore(member)));
                }
            }
            Fault::Upgrade { member, newest } => cluster.set_wire_versions(member, 0, newest, now),
            Fault::Lie { member, lie, lasts } => self.servers.lies[member] = Some((lie, now + lasts)),
            Fault::Excess { member, excess, lasts } => self.servers.excess[member] = Some((excess, now + lasts)),
            Fault::FailPoint { member, command, code, delay, times } => {
                let mut data = doc! { "failCommands": [command] };
                match code {
                    Some(code) => drop(data.insert("errorCode", code)),
                    None => drop(data.insert("closeConnection", delay.is_zero())),
                }
                if !delay.is_zero() {
                    data.insert("blockConnection", true);
                    data.insert("blockTimeMS", delay.as_millis() as i64);
                }
                let command = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
                cluster.set_fail_point(member, &command).expect("a fail point");
            }
            Fault::CutToServer { client, member, lasts } => self.net.links[client][member].to_server_cut_until = now + lasts,
            Fault::CutToClient { client, member, lasts } => self.net.links[client][member].to_client_cut_until = now + lasts,
            Fault::Slow { client, member, delay, lasts } => {
                let link = &mut self.net.links[client][member];
                (link.extra, link.slow_until) = (delay, now + lasts);
            }
            Fault::SlowAccept { member, delay, lasts } => self.net.accept_delay[member] = (delay, now + lasts),
            Fault::Silence { client, member } => {
                for (id, conn) in &mut self.net.conns {
                    if conn.client == client && conn.place == Place::Member(member) && !conn.silent {
                        conn.silent = true;
                        self.queue.push(now + TCP_GIVES_UP, Event::TcpGivesUp { conn: *id });
                    }
                }
            }
            Fault::Reply { client, member, harm } => self.net.links[client][member].harms.push_back(harm),
            Fault::Request { client, member, harm } => self.net.links[client][member].request_harms.push_back(harm),
            Fault::Login(fault) => self.disturb_logins(fault),
            Fault::Move { member, silent } => self.relocate(member, silent),
            Fault::DnsFails { lasts } => self.zone.fails_until = Some(now + lasts),
            Fault::DnsHangs { lasts } => self.zone.hangs_until = Some(now + lasts),
            Fault::DnsForgets { lasts } => self.zone.forgets_until = Some(now + lasts),
            Fault::DnsSlow { delay, lasts } => self.zone.slow = Some((delay, now + lasts)),
            Fault::Suspend { client, lasts } => self.suspend(client, lasts),
            Fault::Burst { client, callers, patience } => {
                for number in 0..callers {
                    let kind = if number % 2 == 0 { CallKind::Insert } else { CallKind::Ping };
                    self.queue.push(now, Event::Call { client, kind, patience: Some(patience) });
                }
            }
            Fault::Srv(fault) => self.strike_srv(fault),
            Fault::Balancer(fault) => self.strike_balancer(fault),
        }
        self.drain_servers();
    }

    /// A fault of a member is over; what is well already stays as it is.
    pub(crate) fn mend(&mut self, end: End) {
        let now = self.now;
        let cluster = &mut self.servers.cluster;
        match end {
            End::Start(member) => cluster.start(member, now),
            End::Thaw(member) => cluster.thaw(member, now),
            End::Restore(member) => drop(cluster.restore(member, names(member).remove(0), now)),
        }
        self.note(|_| format!("over: {end:?}"));
        self.drain_servers();
    }

    /// All faults are over: from now on the clients have to be usable, soon.
    pub(crate) fn quiet(&mut self) {
        self.note(|_| "all faults are over".to_owned());
        for member in 0..self.plan.members {
            self.mend(End::Start(member));
            self.mend(End::Thaw(member));
            self.mend(End::Restore(member));
            let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
            self.servers.cluster.set_fail_point(member, &off).expect("a fail point");
            self.servers.lies[member] = None;
            self.servers.excess[member] = None;
        }
        for link in self.net.links.iter_mut().flatten() {
            link.harms.clear();
            link.request_harms.clear();
        }
        self.mend_srv();
        self.clear_snares();
        for c in 0..self.clients.len() {
            // After those whom the end of a sleep lets in at this moment.
            self.queue.push(self.now, Event::Recovering { client: c });
        }
    }

    /// The member is to be found elsewhere: DNS says so, at the old addresses nobody answers, or nobody listens.
    fn relocate(&mut self, member: usize, silent: bool) {
        self.leave_addresses(member, silent);
        let addresses = self.new_addresses(member);
        for name in names(member) {
            let key = mongolink::ServerAddress::parse(&name).expect("a name");
            let name = key.name().expect("a name").to_owned();
            self.zone.records.insert(name, addresses.clone());
        }
    }

    fn suspend(&mut self, c: usize, lasts: Duration) {
        let client = &mut self.clients[c];
        if client.asleep_until.is_some_and(|until| until > self.now) {
            return;
        }
        client.asleep_until = Some(self.now + lasts);
        client.slept += lasts;
        self.queue.delay_timers(c, lasts);
    }
}
