//! The streams by which a user follows a client: its events, and the descriptions of its servers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::handle::Client;
use crate::error::Result;
use crate::io::topology::TopologyDriver;
use crate::observe::events::{Event, EventHub, Subscriber};
use crate::topology::{TopologyDescription, TopologyEvent};
use futures_util::{Stream, StreamExt, stream};

/// A stream of a client's events. It ends when the client is shut down or dropped, and at once if that has happened already.
pub struct Events(Option<Subscriber>);

/// A stream of topology descriptions: the current one first, then the newest after each change.
///
/// A slow reader gets fewer descriptions, never old ones. Ends when the client is shut down or dropped, and when the runtime of
/// its tasks has ended or one of its tasks has panicked: the client's next use starts everything anew, which requires a new
/// watch.
pub struct TopologyWatch(Pin<Box<dyn Stream<Item = Arc<TopologyDescription>> + Send + Sync>>);

impl Client {
    /// Watches the topology: a stream of descriptions, the newest first, each change replacing the last.
    ///
    /// # Errors
    /// Those of starting: the look-up of an SRV connection string, unreadable certificates.
    pub fn watch_topology(&self) -> impl Future<Output = Result<TopologyWatch>> + Send + use<> {
        let client = self.clone();
        async move {
            let driver = client.core().driver().await?;
            Ok(TopologyWatch::new(&driver))
        }
    }

    /// Returns a stream of the client's events from now on.
    ///
    /// A reader that is too slow gets the number of missed events ([`Event::Missed`](crate::Event::Missed)).
    pub fn events(&self) -> Events {
        Events::new(self.core().events())
    }
}

impl Events {
    fn new(hub: &EventHub) -> Self {
        Self(Some(hub.subscribe()))
    }

    /// Waits for the next event. Can be dropped at any moment; no event is lost by it.
    pub async fn next(&mut self) -> Option<Event> {
        StreamExt::next(self).await
    }
}

impl TopologyWatch {
    fn new(driver: &Arc<TopologyDriver>) -> Self {
        let mut receiver = driver.subscribe();
        receiver.mark_changed();
        // An open cursor may keep the driver, and with it the sender, after the end.
        let descriptions = stream::unfold((receiver, driver.lifeline()), |(mut receiver, lifeline)| async move {
            tokio::select! {
                biased;
                changed = receiver.changed() => changed.ok()?,
                () = lifeline.ended() => return None,
            }
            let description = Arc::clone(&receiver.borrow_and_update());
            Some((description, (receiver, lifeline)))
        });
        Self(Box::pin(descriptions.fuse()))
    }

    /// Waits for the next state.
    pub async fn next(&mut self) -> Option<Arc<TopologyDescription>> {
        self.0.next().await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let Some(listener) = &mut self.0 else { return Poll::Ready(None) };
        let event = ready!(listener.poll_next(context));
        if matches!(event, None | Some(Event::Topology(TopologyEvent::TopologyClosed))) {
            self.0 = None;
        }
        Poll::Ready(event)
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
