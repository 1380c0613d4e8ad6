//! The clocks: monotonic time, waiting until a moment, and the boot clock.
//!
//! The only place that reads clocks. Monotonic time is tokio's, so that tests can pause it. The boot clock also counts time
//! in suspension. Does not decide what counts as a suspension and what follows from it (`topology`, `pool`).

use std::future::poll_fn;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// A clock that counts time in suspension.
///
/// The client notices a suspension of the machine by comparing it with the monotonic clock, which stops meanwhile. By
/// default this is exact on Linux, Android and Apple systems; elsewhere a wall clock that jumps forward counts as a
/// suspension. It is read often, up to 20,000 times a second for each thread that runs commands.
pub trait BootClock: Send + Sync + 'static {
    /// Returns the time since a fixed moment, time in suspension included.
    fn now(&self) -> Duration;
}

/// Returns the monotonic time.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// When a wait counts as ended late: the process was stopped, or got no processor.
const LATE: Duration = Duration::from_millis(50);

/// A time so short that only the runtime's next poll of sockets and timers happens meanwhile.
const NEXT_POLL: Duration = Duration::from_millis(1);

/// Waits until a moment; forever if there is none.
///
/// After a process was stopped, its timers may fire before its sockets are polled. A late wait therefore lets the runtime
/// poll the sockets once more, so that data that has arrived is seen before the time-out.
pub(crate) async fn sleep_until(moment: Option<Instant>) {
    let Some(moment) = moment else { return std::future::pending().await };
    sleep_across_runtimes(moment).await;
    if now().saturating_duration_since(moment) > LATE {
        sleep_across_runtimes(now() + NEXT_POLL).await;
    }
}

/// Waits until a moment on the timers of the runtime that polls it.
///
/// A timer of tokio panics if it is polled after its runtime has ended, and a caller's future may be polled on one runtime
/// after another. A wait that is polled only once, as most are, does not check its runtime.
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

/// Waits for a future until a moment. Returns `None` if the moment comes first. May be polled on one runtime after another.
pub(crate) async fn until<T>(moment: Instant, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        outcome = future => Some(outcome),
        () = sleep_until(Some(moment)) => None,
    }
}

/// The machine's boot clock.
///
/// On Linux, Android and Apple systems the kernel's clock that counts time in suspension is read, so that a suspension is
/// exactly this clock minus the monotonic one. Elsewhere a wall clock that jumps forward counts as a suspension.
#[derive(Debug, Default)]
pub(crate) struct SystemBootClock {
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    estimate: wall::Estimate,
}

impl SystemBootClock {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
impl BootClock for SystemBootClock {
    fn now(&self) -> Duration {
        // A kernel's clock is never negative.
        Duration::try_from(rustix::time::clock_gettime(BOOT_CLOCK)).unwrap_or_default()
    }
}

/// CLOCK_BOOTTIME counts time in suspension, unlike CLOCK_MONOTONIC, which `Instant` reads.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOT_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;

/// Apple's CLOCK_MONOTONIC counts time in suspension, unlike CLOCK_UPTIME_RAW, which `Instant` reads.
#[cfg(target_vendor = "apple")]
const BOOT_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
impl BootClock for SystemBootClock {
    fn now(&self) -> Duration {
        self.estimate.now()
    }
}

/// An estimate of the boot clock from the wall clock.
#[cfg(any(test, not(any(target_os = "linux", target_os = "android", target_vendor = "apple"))))]
mod wall {
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::{Duration, Instant, SystemTime};

    /// The monotonic clock plus the forward jumps of the wall clock.
    #[derive(Debug, Default)]
    pub(super) struct Estimate {
        /// Both clocks at the first reading.
        start: OnceLock<(Instant, SystemTime)>,
        jumps: Mutex<Jumps>,
    }

    /// The jumps so far, and how far the wall clock was ahead of the monotonic one at the last reading.
    #[derive(Debug, Default)]
    pub(super) struct Jumps {
        sum: Duration,
        ahead: Duration,
    }

    impl Estimate {
        #[allow(clippy::disallowed_methods, reason = "clocks that are compared must be read together")]
        #[cfg_attr(test, allow(dead_code, reason = "only other platforms use it"))]
        pub(super) fn now(&self) -> Duration {
            let (monotonic, wall) = self.start.get_or_init(|| (Instant::now(), SystemTime::now()));
            let awake = monotonic.elapsed();
            let passed = wall.elapsed().unwrap_or_default();
            awake + self.jumps.lock().unwrap_or_else(PoisonError::into_inner).record(awake, passed)
        }
    }

    impl Jumps {
        /// Records how much time has passed by the monotonic clock and by the wall clock. Returns the sum of the jumps.
        pub(super) fn record(&mut self, awake: Duration, passed: Duration) -> Duration {
            let ahead = passed.saturating_sub(awake);
            let jump = ahead.saturating_sub(self.ahead);
            if jump > JUMP_MIN {
                self.sum += jump;
            }
            self.ahead = ahead;
            self.sum
        }
    }

    /// Minimum of a jump: smaller ones are corrections of the wall clock.
    const JUMP_MIN: Duration = Duration::from_secs(1);
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

    /// Polls a wait some times on a runtime that then ends. Returns whether it is still pending.
    fn is_pending(wait: &mut Wait, times: usize) -> bool {
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
    fn wait_continues_after_its_runtime_has_ended() {
        let make: [fn(Instant) -> Wait; 2] = [
            |moment| Box::pin(sleep_until(Some(moment))),
            |moment| Box::pin(async move { assert_eq!(until(moment, std::future::pending::<()>()).await, None) }),
        ];
        for (make, times) in make.into_iter().flat_map(|make| [(make, 1), (make, 3)]) {
            let moment = now() + Duration::from_millis(300);
            let mut wait = make(moment);
            if is_pending(&mut wait, times) && is_pending(&mut wait, times) {
                runtime().block_on(wait);
            }
            assert!(now() >= moment);
        }
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    fn boot_clock_advances_with_the_monotonic_clock() {
        let clock = SystemBootClock::new();
        let (boot, start) = (clock.now(), now());
        assert!(boot > Duration::ZERO, "the time since the machine started");
        runtime().block_on(sleep_until(Some(start + Duration::from_millis(20))));
        // The span of the boot clock encloses the other.
        let awake = now() - start;
        let passed = clock.now() - boot;
        assert!(passed >= awake && passed < awake + Duration::from_secs(10), "{passed:?} of {awake:?}: the machine was not suspended");
    }

    #[test]
    fn jump_of_the_wall_clock_counts_once_and_corrections_do_not() {
        let seconds = Duration::from_secs;
        let mut jumps = wall::Jumps::default();
        assert_eq!(jumps.record(seconds(10), seconds(11)), seconds(0), "a correction");
        assert_eq!(jumps.record(seconds(20), seconds(3621)), seconds(3600));
        assert_eq!(jumps.record(seconds(30), seconds(3631)), seconds(3600), "the same jump");
        assert_eq!(jumps.record(seconds(40), seconds(41)), seconds(3600), "set back");
    }
}
