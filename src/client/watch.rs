//! How does a user follow what happens?

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::broadcast::error::RecvError;

use crate::io::events::{Event, EventHub};
use crate::io::topology::Cluster;
use crate::topology::{TopologyDescription, TopologyEvent};

/// Is a stream of a client's events; ends with the client, or when it has been shut down.
pub struct Events(Pin<Box<dyn Stream<Item = Event> + Send + Sync>>);

/// Is a stream of what is known of the servers: the present state first, then the newest after each change.
///
/// A slow reader sees fewer states, never old ones. Ends when the client is shut down.
pub struct TopologyWatch(Pin<Box<dyn Stream<Item = Arc<TopologyDescription>> + Send + Sync>>);

impl Events {
    pub(super) fn new(hub: &EventHub) -> Self {
        let events = stream::unfold(Some(hub.subscribe()), |listener| async move {
            let mut listener = listener?;
            match listener.receiver.recv().await {
                Ok(event) => {
                    let event = Arc::unwrap_or_clone(event);
                    let last = matches!(event, Event::Topology(TopologyEvent::TopologyClosed));
                    Some((event, Some(listener).filter(|_| !last)))
                }
                Err(RecvError::Lagged(missed)) => Some((Event::Missed(missed), Some(listener))),
                Err(RecvError::Closed) => None,
            }
        });
        Self(Box::pin(events.fuse()))
    }

    /// Waits for the next event.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.next().await
    }
}

impl TopologyWatch {
    pub(super) fn new(cluster: &Arc<Cluster>) -> Self {
        let mut receiver = cluster.subscribe();
        receiver.mark_changed();
        let snapshots = stream::unfold(receiver, |mut receiver| async move {
            receiver.changed().await.ok()?;
            let description = Arc::clone(&receiver.borrow_and_update().description);
            Some((description, receiver))
        });
        Self(Box::pin(snapshots.fuse()))
    }

    /// Waits for the next state.
    pub async fn next(&mut self) -> Option<Arc<TopologyDescription>> {
        self.0.next().await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_next_unpin(context)
    }
}

impl Stream for TopologyWatch {
    type Item = Arc<TopologyDescription>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Arc<TopologyDescription>>> {
        self.0.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl std::fmt::Debug for TopologyWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TopologyWatch")
    }
}
