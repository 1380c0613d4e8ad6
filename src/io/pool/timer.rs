//! Who wakes a pool when it has something to do by itself?

use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use super::ServerPool;
use crate::io::clock;

/// Lets the waiters go when the pool's tasks end, with their client or their runtime.
pub(super) struct Keeper(pub(super) Weak<ServerPool>);

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            let mut guarded = pool.lock();
            guarded.abandoned = true;
            let waiters = std::mem::take(&mut guarded.waiters);
            drop(guarded);
            drop(waiters);
        }
    }
}

/// Ends with the pool, which wakes it a last time.
pub(super) async fn run(keeper: Keeper, timer: Arc<Notify>) {
    let pool = &keeper.0;
    loop {
        let Some(armed) = pool.upgrade().map(|pool| pool.lock().armed) else { return };
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
