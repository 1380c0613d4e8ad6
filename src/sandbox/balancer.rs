//! The services behind the load balancer, and their identities.
//!
//! Running services take connections in turn (load-balancers, "Connection Establishment"). A service is a member of the
//! deployment with its own cursors, fail points and connections; the data is shared.

use bson::{Document, doc};

use super::call::{ReceivedCommand, truth};
use super::cluster::{At, FakeDeployment};
use super::failure::{CommandRefusal, code};
use super::member::ProcessState;

impl FakeDeployment {
    /// Returns the member that serves the next connection of `listener`: the listener's own, or behind a load balancer the next
    /// running service.
    pub fn route(&mut self, listener: usize) -> usize {
        if !self.config.load_balanced {
            return listener;
        }
        let count = self.members.len();
        let turns = (0..count).map(|turn| (self.next_service + turn) % count);
        let up = |service: &usize| self.members.get(*service).is_some_and(|member| member.process != ProcessState::Stopped);
        let service = turns.into_iter().find(up).unwrap_or(self.next_service);
        self.next_service = (service + 1) % count;
        service
    }

    /// Records that a hello has asked for the service id.
    ///
    /// # Errors
    /// [`code::LOAD_BALANCER_SUPPORT_MISMATCH`] if the client does not expect a load balancer, as in mongos.
    pub(super) fn ask_service(&mut self, at: At, call: &ReceivedCommand) -> Result<(), CommandRefusal> {
        if !self.config.load_balanced {
            return Ok(());
        }
        let asked = call.body.get("loadBalanced").is_some_and(truth);
        match self.connection(at) {
            Some(connection) if asked || connection.knows_service => connection.knows_service = true,
            Some(_) | None => {
                let text = "the client is connected through a load balancer, but does not set loadBalanced=true";
                return Err(CommandRefusal::new(code::LOAD_BALANCER_SUPPORT_MISMATCH, text));
            }
        }
        Ok(())
    }

    /// Returns the fields that a router behind a load balancer adds to its hello reply.
    pub(super) fn describe_service(&self, at: At) -> Document {
        match self.members.get(at.member) {
            Some(member) if self.config.load_balanced => {
                // A restarted process is another service.
                doc! { "msg": "isdbgrid", "isWritablePrimary": true, "serviceId": member.process_id }
            }
            Some(_) | None => Document::new(),
        }
    }
}
