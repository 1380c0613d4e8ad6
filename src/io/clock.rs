//! What time is it, and was the machine asleep?
//!
//! The only place that reads clocks. Time is tokio's, so that tests may pause it. The boot clock, which goes on while the
//! machine is suspended, is compared with it to notice a suspension; what is then done is decided in `topology` and `pool`.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;

/// Tells the time since some fixed moment, time in suspension included.
///
/// The client compares it with the monotonic clock, which stands still meanwhile; tests may bring their own.
pub trait BootClock: Send + Sync + 'static {
    /// Returns the time that has passed since a fixed moment.
    fn now(&self) -> Duration;
}

/// Returns the monotonic time.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How late it must be for a wait to be over late: the process was stopped, or starved.
const LATE: Duration = Duration::from_millis(50);

/// Is so short that only the runtime's next look at sockets and timers lies in between.
const NEXT_LOOK: Duration = Duration::from_millis(1);

/// Waits until a moment; for ever if there is none.
///
/// A process that was stopped may be told that the moment is past before it is told what has arrived meanwhile. So who is
/// late lets the runtime look at the sockets again, as it does before it ends a wait: whoever waits for both hears of what
/// has arrived first.
pub(crate) async fn sleep_until(moment: Option<Instant>) {
    let Some(moment) = moment else { return std::future::pending().await };
    sleep_across_runtimes(moment).await;
    if now().saturating_duration_since(moment) > LATE {
        sleep_across_runtimes(now() + NEXT_LOOK).await;
    }
}

/// Waits until a moment on the timers of the runtime that polls it.
///
/// A timer of tokio panics when it is polled after its runtime has ended, and a future of the caller's may be polled on one
/// runtime after another. A wait that is polled once only, as most are, does not ask which runtime it is on.
async fn sleep_across_runtimes(moment: Instant) {
    let moment = tokio::time::Instant::from_std(moment);
    let mut timer = pin!(tokio::time::sleep_until(moment));
    let (mut owner, mut is_first) = (None, true);
    poll_fn(|context| {
        if !std::mem::take(&mut is_first)
            && let Ok(current) = Handle::try_current()
            && owner != Some(current.id())
        {
            owner = Some(current.id());
            timer.set(tokio::time::sleep_until(moment));
        }
        timer.as_mut().poll(context)
    })
    .await;
}

/// Waits for a future until a moment; `None` if that comes first. May be polled on one runtime after another.
pub(crate) async fn until<T>(moment: Instant, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        outcome = future => Some(outcome),
        () = sleep_until(Some(moment)) => None,
    }
}

/// Is the machine's own boot clock.
///
/// The wall clock is cheap to read and shows that something happened; only then is the real boot clock asked, where the
/// platform has one that can be read. Elsewhere a wall clock that jumps forward counts as a suspension.
#[derive(Debug)]
pub(crate) struct SystemBootClock {
    /// The first look at the clocks.
    start: OnceLock<Marks>,
    slept: Mutex<Slept>,
}

#[derive(Debug)]
struct Marks {
    monotonic: Instant,
    wall: SystemTime,
    boot: Option<Duration>,
}

/// How long the machine slept as far as is known, and how far the wall clock was ahead when that was found out.
#[derive(Debug, Default)]
struct Slept {
    asleep: Duration,
    wall_ahead: Duration,
}

/// How far the wall clock must have moved ahead before the boot clock is asked.
const WALL_JUMP: Duration = Duration::from_secs(1);

impl SystemBootClock {
    #[allow(clippy::disallowed_methods, reason = "clocks that are compared must be read together")]
    pub(crate) fn new() -> Self {
        Self { start: OnceLock::new(), slept: Mutex::default() }
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that reads clocks")]
    fn start(&self) -> &Marks {
        self.start.get_or_init(|| Marks { monotonic: Instant::now(), wall: SystemTime::now(), boot: platform_boot_time() })
    }
}

impl BootClock for SystemBootClock {
    #[allow(clippy::disallowed_methods, reason = "clocks that are compared must be read together")]
    fn now(&self) -> Duration {
        let start = self.start();
        let monotonic = start.monotonic.elapsed();
        let wall = start.wall.elapsed().unwrap_or_default();
        let ahead = wall.saturating_sub(monotonic);
        let mut slept = self.slept.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead > slept.wall_ahead + WALL_JUMP {
            let jump = ahead.saturating_sub(slept.wall_ahead);
            slept.asleep = match (start.boot, platform_boot_time()) {
                (Some(start), Some(boot)) => boot.saturating_sub(start).saturating_sub(monotonic),
                _ => slept.asleep + jump,
            };
        }
        slept.wall_ahead = ahead;
        monotonic + slept.asleep
    }
}

#[cfg(target_os = "linux")]
fn platform_boot_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(not(target_os = "linux"))]
fn platform_boot_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Poll;

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    type Wait = Pin<Box<dyn Future<Output = ()>>>;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    /// Polls a wait some times on a runtime that then ends; tells whether it is still under way.
    fn goes_on(wait: &mut Wait, times: usize) -> bool {
        runtime().block_on(async {
            for _ in 0..times {
                if poll_fn(|context| Poll::Ready(wait.as_mut().poll(context))).await.is_ready() {
                    return false;
                }
            }
            true
        })
    }

    #[test]
    fn wait_goes_on_when_its_runtime_has_ended() {
        let make: [fn(Instant) -> Wait; 2] = [
            |moment| Box::pin(sleep_until(Some(moment))),
            |moment| Box::pin(async move { assert_eq!(until(moment, std::future::pending::<()>()).await, None) }),
        ];
        for (make, times) in make.into_iter().flat_map(|make| [(make, 1), (make, 3)]) {
            let moment = now() + Duration::from_millis(300);
            let mut wait = make(moment);
            if goes_on(&mut wait, times) && goes_on(&mut wait, times) {
                runtime().block_on(wait);
            }
            assert!(now() >= moment);
        }
    }
}
