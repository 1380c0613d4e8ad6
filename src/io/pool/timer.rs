//! Who wakes a pool when it has something to do by itself?

use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use super::ServerPool;
use crate::io::clock;

/// Closes the pool when its tasks end, with their client or their runtime: nothing is opened or drained any more, the sockets
/// are dead, and nobody else would answer those who wait.
pub(super) struct Keeper(pub(super) Weak<ServerPool>);

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.close_now(&pool.lost());
        }
    }
}

/// Ends when the pool is over, or gone; either wakes it a last time.
pub(super) async fn run(keeper: Keeper, timer: Arc<Notify>) {
    let pool = &keeper.0;
    loop {
        let Some((armed, is_over)) = pool.upgrade().map(|pool| {
            let guarded = pool.lock();
            (guarded.armed, guarded.pool.is_over())
        }) else {
            return;
        };
        if is_over {
            return;
        }
        tokio::select! {
            () = clock::sleep_until(armed) => {
                let Some(pool) = pool.upgrade() else { return };
                pool.lock().armed = None;
                pool.act(|guarded, now| guarded.pool.handle_timeout(now));
            }
            () = timer.notified() => {}
        }
    }
}
