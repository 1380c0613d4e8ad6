//! Shards: what one thread takes, no other thread has.

use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use crate::SCHEDULES;
use crate::io::shards::Sharded;

const THREADS: usize = 3;

#[test]
fn value_taken_from_a_shard_belongs_to_one_thread() {
    shuttle::check_random(
        || {
            let shards = Arc::new(Sharded::new(|_| Vec::<usize>::new()));
            let in_use: Arc<[AtomicBool; THREADS]> = Arc::new(std::array::from_fn(|_| AtomicBool::new(false)));
            shards.own().extend(0..THREADS - 1);
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    let (shards, in_use) = (Arc::clone(&shards), Arc::clone(&in_use));
                    thread::spawn(move || {
                        let own = shards.own().pop();
                        let Some(taken) = own.or_else(|| shards.idle().find_map(|mut shard| shard.pop())) else { return };
                        assert!(!in_use[taken].swap(true, Ordering::SeqCst), "{taken} was in use");
                        in_use[taken].store(false, Ordering::SeqCst);
                        shards.own().push(taken);
                    })
                })
                .collect();
            for thread in threads {
                thread.join().expect("a thread");
            }
            let mut left: Vec<usize> = shards.each().flat_map(|shard| shard.clone()).collect();
            left.sort_unstable();
            assert_eq!(left, (0..THREADS - 1).collect::<Vec<_>>(), "every value came back once");
        },
        SCHEDULES,
    );
}
