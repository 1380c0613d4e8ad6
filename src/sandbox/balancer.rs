//! Which service takes a connection that comes through the load balancer, and what does it say of itself?
//!
//! Each in turn that runs (load-balancers, "Connection Establishment"). A service is a member of the deployment: its
//! cursors, fail points and connections are its own, only the data is everybody's.

use bson::{Document, doc};

use super::call::{ReceivedCommand, truth};
use super::cluster::{At, FakeDeployment};
use super::failure::{CommandRefusal, code};
use super::member::Life;

impl FakeDeployment {
    /// Returns which member takes the next connection that `listener` accepts: its own, or behind a load balancer the next
    /// service that is not stopped.
    pub fn route(&mut self, listener: usize) -> usize {
        if !self.config.load_balanced {
            return listener;
        }
        let count = self.members.len();
        let turns = (0..count).map(|turn| (self.next_service + turn) % count);
        let up = |service: &usize| self.members.get(*service).is_some_and(|member| member.life != Life::Stopped);
        let service = turns.into_iter().find(up).unwrap_or(self.next_service);
        self.next_service = (service + 1) % count;
        service
    }

    /// Takes note of a hello that asks for the service.
    ///
    /// # Errors
    /// [`code::LOAD_BALANCER_SUPPORT_MISMATCH`] if the client does not know of the load balancer, as mongos has it.
    pub(super) fn ask_service(&mut self, at: At, call: &ReceivedCommand) -> Result<(), CommandRefusal> {
        if !self.config.load_balanced {
            return Ok(());
        }
        let asked = call.body.get("loadBalanced").is_some_and(truth);
        match self.connection(at) {
            Some(connection) if asked || connection.knows_service => connection.knows_service = true,
            Some(_) | None => {
                let text = "the client came through a load balancer, and does not know that";
                return Err(CommandRefusal::new(code::LOAD_BALANCER_SUPPORT_MISMATCH, text));
            }
        }
        Ok(())
    }

    /// Returns what a router behind a load balancer adds to its hello.
    pub(super) fn describe_service(&self, at: At) -> Document {
        match self.members.get(at.member) {
            Some(member) if self.config.load_balanced => {
                // A process that starts anew is another service.
                doc! { "msg": "isdbgrid", "isWritablePrimary": true, "serviceId": member.process_id }
            }
            Some(_) | None => Document::new(),
        }
    }
}
