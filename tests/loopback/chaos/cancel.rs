//! Calls that are cancelled at every point where they wait.

use std::pin::Pin;
use std::task::Poll;

use mongolink::bson::{RawDocumentBuf, doc, rawdoc};
use mongolink::{Client, ErrorKind, Result, Sandbox, ServerAddress};

use super::{Guest, soon};
use crate::peers::host_of;
use crate::support::{at_rest, totals, until};

/// When a future is given up that has been polled often enough.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// At once: what it waits for has not happened.
    Waiting,
    /// When it is woken: what it waits for has happened, and it has not seen it.
    Woken,
}

/// More than any call is polled.
const POLLS_MAX: usize = 500;

const POOL_SIZE: usize = 2;

/// How many sessions a client may need: one for each connection, and one for a cursor that is kept or killed meanwhile.
const SESSIONS_MAX: usize = POOL_SIZE + 1;

const THINGS: i32 = 7;

/// Polls a future so often, then drops it; `None` if it had not completed.
async fn give_up<F: Future>(future: F, polls: usize, cut: Cut) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match (future.as_mut().poll(context), cut) {
            (Poll::Ready(output), _) => Poll::Ready(Some(output)),
            (Poll::Pending, Cut::Waiting) if left == 0 => Poll::Ready(None),
            (Poll::Pending, Cut::Waiting | Cut::Woken) => Poll::Pending,
        }
    })
    .await
}

/// Makes an attempt for 0, 1, 2, … polls, until one completes.
async fn everywhere(what: &str, attempt: impl AsyncFn(usize, Cut) -> bool) {
    for cut in [Cut::Waiting, Cut::Woken] {
        let mut polls = 0;
        while !attempt(polls, cut).await {
            polls += 1;
            assert!(polls < POLLS_MAX, "{what} never completes");
        }
        assert!(polls > 0, "{what} was never given up");
    }
}

/// Starts a set of one member with some documents, where every find takes a while.
async fn deployment() -> Sandbox {
    let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
    let client = Client::new(sandbox.uri()).expect("client");
    let documents: Vec<RawDocumentBuf> = (0..THINGS).map(|id| rawdoc! { "_id": id }).collect();
    let insert = client.database("test").run_command(doc! { "insert": "things" }).documents("documents", documents);
    soon("an insert", insert.into_future()).await.expect("inserted");
    soon("shutdown", client.shutdown()).await;
    let slow = doc! {
        "configureFailPoint": "failCommand", "mode": "alwaysOn",
        "data": { "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 10 },
    };
    sandbox.fail_point(0, &slow).expect("a fail point");
    until("no connection is left", || sandbox.connections(0) == 0).await;
    sandbox
}

fn guest(sandbox: &Sandbox) -> Guest {
    Guest::of(Client::builder(format!("{}&maxPoolSize={POOL_SIZE}", sandbox.uri())).expect("a connection string"))
}

type Call = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Makes a call.
type Make = fn(Client, ServerAddress) -> Call;

/// The calls that can be made at any time, by name.
const CALLS: [(&str, Make); 6] = [
    ("run_command", run_command),
    ("run_command that takes a while", run_slow_command),
    ("run_cursor_command", run_cursor_command),
    ("warm_up", warm_up),
    ("watch_topology", watch_topology),
    ("probe", probe),
];

fn run_command(client: Client, _: ServerAddress) -> Call {
    Box::pin(async move { client.database("admin").run_command(doc! { "ping": 1 }).await.map(drop) })
}

fn run_slow_command(client: Client, _: ServerAddress) -> Call {
    Box::pin(async move { client.database("test").run_command(doc! { "find": "things" }).raw().await.map(drop) })
}

fn run_cursor_command(client: Client, _: ServerAddress) -> Call {
    Box::pin(async move { client.database("test").run_cursor_command(doc! { "find": "things", "batchSize": 2 }).await.map(drop) })
}

fn warm_up(client: Client, _: ServerAddress) -> Call {
    Box::pin(async move { client.warm_up().await })
}

fn watch_topology(client: Client, _: ServerAddress) -> Call {
    Box::pin(async move {
        let known = client.watch_topology().await?.next().await.expect("a description");
        assert_eq!(known.servers().len(), 1, "{known}");
        Ok(())
    })
}

fn probe(client: Client, host: ServerAddress) -> Call {
    Box::pin(async move {
        let probe = client.probe(&host).await?;
        assert!(probe.error.is_none() && probe.ping.is_some(), "{probe:?}");
        Ok(())
    })
}

/// Gives a call up, and sees that the client works all the same; tells whether the call had completed.
async fn given_up(
    guest: &Guest,
    host: &ServerAddress,
    what: &str,
    call: fn(Client, ServerAddress) -> Call,
    polls: usize,
    cut: Cut,
) -> bool {
    let outcome = soon(what, give_up(call(guest.client.clone(), host.clone()), polls, cut)).await;
    let at = format!("{what}, given up after {polls} polls, {cut:?}");
    guest.ping().await.unwrap_or_else(|error| panic!("{at}: {error}"));
    assert!(totals(&guest.client).total() <= POOL_SIZE, "{at}");
    outcome.map(|outcome| outcome.unwrap_or_else(|error| panic!("{at}: {error}"))).is_some()
}

#[tokio::test]
async fn every_public_future_is_cancel_safe() {
    let sandbox = deployment().await;
    let host = host_of(sandbox.addresses()[0]);
    for (what, call) in CALLS {
        let guest = guest(&sandbox);
        soon("a connection", guest.client.warm_up()).await.expect("a connection");
        everywhere(what, async |polls: usize, cut: Cut| given_up(&guest, &host, what, call, polls, cut).await).await;
        // Cursors of late replies and dropped cursors are killed in the background.
        until("no cursor is left", || sandbox.cursors(0) == 0).await;
        at_rest(&guest.client).await;
        assert!(totals(&guest.client).total() <= POOL_SIZE, "{what}");
        assert!(sandbox.sessions() <= SESSIONS_MAX, "{what}: {} sessions", sandbox.sessions());
        guest.end().await;
        assert_eq!(sandbox.sessions(), 0, "{what}");
        until("no connection is left", || sandbox.connections(0) == 0).await;
    }
}

#[tokio::test]
async fn every_public_future_can_be_given_up_while_the_client_starts() {
    let sandbox = deployment().await;
    let host = host_of(sandbox.addresses()[0]);
    for (what, call) in CALLS {
        everywhere(what, async |polls: usize, cut: Cut| {
            let guest = guest(&sandbox);
            let completed = given_up(&guest, &host, what, call, polls, cut).await;
            guest.end().await;
            assert_eq!(sandbox.sessions(), 0, "{what}, given up after {polls} polls, {cut:?}");
            completed
        })
        .await;
    }
    until("no connection is left", || sandbox.connections(0) == 0).await;
}

#[tokio::test]
async fn cursor_loses_nothing_when_its_next_is_given_up() {
    let sandbox = deployment().await;
    let guest = guest(&sandbox);
    let attempt = async |polls: usize, cut: Cut| {
        let find = guest.client.database("test").run_cursor_command(doc! { "find": "things", "batchSize": 2 }).batch_size(2);
        let mut cursor = soon("find", find.into_future()).await.expect("a cursor");
        let (mut seen, mut completed) = (Vec::new(), true);
        loop {
            let next = match soon("next", give_up(cursor.next(), polls, cut)).await {
                Some(next) => next,
                None => {
                    completed = false;
                    soon("next again", cursor.next()).await
                }
            };
            let Some(document) = next else { break };
            seen.push(document.expect("a document").get_i32("_id").expect("a number"));
        }
        assert_eq!(seen, (0..THINGS).collect::<Vec<_>>(), "given up after {polls} polls, {cut:?}");
        completed
    };
    everywhere("next", attempt).await;
    at_rest(&guest.client).await;
    assert_eq!(sandbox.cursors(0), 0);
    guest.end().await;
}

#[tokio::test]
async fn cursor_dropped_while_it_fetches_is_killed() {
    let sandbox = deployment().await;
    let guest = guest(&sandbox);
    let attempt = async |polls: usize, cut: Cut| {
        let find = guest.client.database("test").run_cursor_command(doc! { "find": "things", "batchSize": 2 }).batch_size(2);
        let mut cursor = soon("find", find.into_future()).await.expect("a cursor");
        for _ in 0..2 {
            soon("next", cursor.next()).await.expect("some").expect("a document");
        }
        let completed = soon("next", give_up(cursor.next(), polls, cut)).await.is_some();
        drop(cursor);
        until("the cursor is gone", || sandbox.cursors(0) == 0).await;
        guest.ping().await.expect("works on");
        completed
    };
    everywhere("next", attempt).await;
    at_rest(&guest.client).await;
    assert!(totals(&guest.client).total() <= POOL_SIZE);
    guest.end().await;
}

#[tokio::test]
async fn shutdown_can_be_given_up_and_asked_for_again() {
    let sandbox = deployment().await;
    let attempt = async |polls: usize, cut: Cut| {
        let guest = guest(&sandbox);
        guest.ping().await.expect("works");
        let completed = soon("shutdown", give_up(guest.client.shutdown(), polls, cut)).await.is_some();
        match guest.ping().await {
            Ok(_) => assert!(!completed, "works on after its end"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Shutdown, "given up after {polls} polls, {cut:?}: {error}"),
        }
        guest.end().await;
        completed
    };
    everywhere("shutdown", attempt).await;
    until("no connection is left", || sandbox.connections(0) == 0).await;
}
