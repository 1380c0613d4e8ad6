//! The memory that an event holds.

use super::events::Event;
use crate::error::Error;
use crate::handshake::HelloReply;
use crate::host::ServerAddress;
use crate::operation::CommandEvent;
use crate::pool::PoolEvent;
use crate::topology::{MonitorEvent, ServerDescription, TopologyDescription, TopologyEvent};

/// Returns about how many bytes of memory an event holds. What several events share counts for each of them.
pub(super) fn size_bytes(event: &Event) -> usize {
    size_of::<Event>()
        + match event {
            Event::Topology(event) => of_topology(event),
            Event::Heartbeat { event, .. } => of_heartbeat(event),
            Event::Pool { event, .. } => of_pool(event),
            Event::Command(event) => of_command(event),
            Event::Missed(_) => 0,
        }
}

fn of_command(event: &CommandEvent) -> usize {
    match event {
        CommandEvent::Started { database, name, command, .. } => database.len() + name.len() + command.as_bytes().len(),
        CommandEvent::Succeeded { name, reply, .. } => name.len() + reply.as_bytes().len(),
        CommandEvent::Failed { name, error, .. } => name.len() + error.size_bytes(),
    }
}

pub(super) fn of_pool(event: &PoolEvent) -> usize {
    match event {
        PoolEvent::PoolCleared { cause, .. } => cause.size_bytes(),
        PoolEvent::ConnectionClosed { error, .. } => error.as_ref().map_or(0, Error::size_bytes),
        PoolEvent::CheckOutFailed { error, .. } => error.size_bytes(),
        PoolEvent::PoolCreated { .. }
        | PoolEvent::PoolReady
        | PoolEvent::PoolClosed
        | PoolEvent::ConnectionCreated { .. }
        | PoolEvent::ConnectionReady { .. }
        | PoolEvent::CheckOutStarted
        | PoolEvent::CheckedOut { .. }
        | PoolEvent::CheckedIn { .. } => 0,
    }
}

pub(super) fn of_heartbeat(event: &MonitorEvent) -> usize {
    match event {
        MonitorEvent::HeartbeatStarted { .. } => 0,
        MonitorEvent::HeartbeatSucceeded { reply, .. } => of_hello(reply),
        MonitorEvent::HeartbeatFailed { error, .. } => error.size_bytes(),
    }
}

pub(super) fn of_topology(event: &TopologyEvent) -> usize {
    match event {
        TopologyEvent::TopologyOpening
        | TopologyEvent::TopologyClosed
        | TopologyEvent::ServerOpening { .. }
        | TopologyEvent::ServerClosed { .. } => 0,
        TopologyEvent::ServerDescriptionChanged { previous, new } => of_server(previous) + of_server(new),
        // The previous description is the new one of an event before.
        TopologyEvent::TopologyDescriptionChanged { new, .. } => of_description(new),
        TopologyEvent::HostUnusable { name, error, .. } => name.len() + error.size_bytes(),
    }
}

/// Returns what a description holds beyond its servers' hello replies and errors, which [`of_server`] counts where they change.
fn of_description(description: &TopologyDescription) -> usize {
    let left_out = description.left_out().iter().filter_map(|reason| reason.error.as_ref());
    size_of::<TopologyDescription>()
        + description.servers().len() * (size_of::<ServerDescription>() + size_of::<usize>())
        + left_out.map(Error::size_bytes).sum::<usize>()
}

fn of_server(server: &ServerDescription) -> usize {
    let hello = server.hello.as_ref().map_or(0, |hello| of_hello(hello));
    size_of::<ServerDescription>() + hello + server.error.as_ref().map_or(0, Error::size_bytes)
}

fn of_hello(hello: &HelloReply) -> usize {
    let hosts = hello.hosts.iter().chain(&hello.passives).chain(&hello.arbiters).chain(&hello.primary).chain(&hello.me);
    let texts = hello.compressors.iter().chain(&hello.set_name).chain(hello.sasl_supported_mechs.iter().flatten());
    let tags = hello.tags.iter().map(|(name, value)| 2 * size_of::<String>() + name.len() + value.len());
    let unusable = hello.unusable_hosts.iter().map(|host| size_of_val(host) + host.name.len() + host.error.size_bytes());
    size_of::<HelloReply>()
        + hosts.map(of_host).sum::<usize>()
        + texts.map(|text| size_of::<String>() + text.len()).sum::<usize>()
        + tags.sum::<usize>()
        + unusable.sum::<usize>()
}

/// Returns what a host's name holds: it is kept in three forms.
fn of_host(host: &ServerAddress) -> usize {
    HOST_SIZE + 3 * host.canonical().len()
}

/// About how many bytes a host's name takes besides its text.
const HOST_SIZE: usize = 128;
