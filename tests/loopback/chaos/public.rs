//! What is public can be shared between threads, and awaited on any.

use std::sync::Arc;

use mongolink::bson::{Document, doc};
use mongolink::*;

/// A compile-time check of a type.
const fn shared<T: Send + Sync + ?Sized>() {}

const _: () = {
    shared::<Client>();
    shared::<ClientBuilder>();
    shared::<Database>();
    shared::<RunCommand>();
    shared::<RunCommand<Reply>>();
    shared::<RunCursorCommand>();
    shared::<RunCursorCommand<Reply>>();
    shared::<Cursor>();
    shared::<Cursor<Reply>>();
    shared::<Reply>();
    shared::<Events>();
    shared::<TopologyWatch>();
    shared::<Probe>();
    shared::<StageReport>();
};

const _: () = {
    shared::<Error>();
    shared::<ErrorKind>();
    shared::<Stage>();
    shared::<Limit>();
    shared::<LimitValue>();
    shared::<CommandFailure>();
    shared::<ServerReason>();
    shared::<Ineligible>();
    shared::<Warning>();
};

const _: () = {
    shared::<Event>();
    shared::<CommandEvent>();
    shared::<PoolEvent>();
    shared::<PoolStats>();
    shared::<CheckOutFailure>();
    shared::<CloseReason>();
    shared::<MonitorEvent>();
    shared::<TopologyEvent>();
    shared::<TopologyDescription>();
    shared::<TopologyType>();
    shared::<ServerDescription>();
    shared::<ServerType>();
    shared::<HelloReply>();
    shared::<TopologyVersion>();
    shared::<UnusableHost>();
};

const _: () = {
    shared::<ConnectionString>();
    shared::<ClientOptions>();
    shared::<Credential>();
    shared::<Mechanism>();
    shared::<Secret>();
    shared::<Host>();
    shared::<ServerAddress>();
    shared::<Address>();
    shared::<DnsConfig>();
    shared::<ServerMonitoringMode>();
    shared::<ReadConcern>();
    shared::<WriteConcern>();
    shared::<W>();
    shared::<ReadPreference>();
    shared::<ReadPreferenceMode>();
    shared::<TagSet>();
    shared::<dyn BootClock>();
    shared::<dyn Resolve>();
    shared::<Sandbox>();
    shared::<SandboxBuilder>();
};

/// Takes what may be awaited on any thread.
fn sent<F: Future + Send>(future: F) {
    drop(future);
}

/// Compiled, but never run.
const _: fn(&Client, &ServerAddress, &mut Cursor) = |client, host, cursor| {
    let database = client.database("test");
    sent(database.run_command(doc! { "ping": 1 }).into_future());
    sent(database.run_command(doc! { "ping": 1 }).raw().into_future());
    sent(database.run_cursor_command(doc! { "find": "things" }).into_future());
    sent(database.run_cursor_command(doc! { "find": "things" }).typed::<Document>().into_future());
    sent(cursor.next());
    sent(client.watch_topology());
    sent(client.warm_up());
    sent(client.probe(host));
    sent(client.shutdown());
};

/// Compiled, but never run.
const _: fn(&mut Events, &mut TopologyWatch, &Arc<dyn Resolve>) = |events, watch, resolve| {
    sent(events.next());
    sent(watch.next());
    sent(resolve.resolve("db.example"));
};

/// Compiled, but never run.
const _: fn(&Sandbox, Sandbox) = |sandbox, owned| {
    sent(Sandbox::builder().start());
    sent(sandbox.start(0));
    sent(sandbox.stop(0));
    sent(owned.shutdown());
};
