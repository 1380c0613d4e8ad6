//! The specifications' prose tests, against the sandbox and peers of the tests' own.

mod faults;
mod handshake;
mod monitoring;
mod selection;

use mongolink::{Client, Event, Events, MonitorEvent, PoolEvent, Sandbox, ServerDescription, TopologyEvent, TopologyType};

/// Waits for an event and returns what was looked for in it.
async fn event<T>(events: &mut Events, wanted: impl Fn(&Event) -> Option<T>) -> T {
    loop {
        let event = events.next().await.expect("the client runs");
        if let Some(found) = wanted(&event) {
            return found;
        }
    }
}

/// Finds a server's new description in an event.
fn server_changed(event: &Event) -> Option<&ServerDescription> {
    if let Event::Topology(TopologyEvent::ServerDescriptionChanged { new, .. }) = event { Some(new) } else { None }
}

/// Finds the topology's new type in an event.
fn topology_type(event: &Event) -> Option<TopologyType> {
    if let Event::Topology(TopologyEvent::TopologyDescriptionChanged { new, .. }) = event { Some(new.kind()) } else { None }
}

/// Finds a heartbeat in an event.
fn heartbeat(event: &Event) -> Option<&MonitorEvent> {
    if let Event::Heartbeat { event, .. } = event { Some(event) } else { None }
}

/// Finds a pool's event in an event.
fn pool(event: &Event) -> Option<&PoolEvent> {
    if let Event::Pool { event, .. } = event { Some(event) } else { None }
}

/// Returns all events so far.
async fn told_so_far(events: &mut Events) -> Vec<Event> {
    let mut told = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(std::time::Duration::from_millis(50), events.next()).await {
        told.push(event);
    }
    told
}

/// Waits until a client knows all members of a set.
async fn settled(client: &Client, sandbox: &Sandbox) {
    crate::support::ping(client).await.expect("ping");
    crate::support::until("all members are known", || {
        client.topology().servers().iter().filter(|server| server.kind.is_data_bearing()).count() == sandbox.addresses().len()
    })
    .await;
}
