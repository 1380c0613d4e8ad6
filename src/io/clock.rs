//! What time is it, and was the machine asleep?
//!
//! The only place that reads clocks. Time is tokio's, so that tests may pause it. The boot clock, which goes on while the
//! machine is suspended, is compared with it to notice a suspension; what is then done is decided in `topology` and `pool`.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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
    tokio::time::sleep_until(tokio::time::Instant::from_std(moment)).await;
    if now().saturating_duration_since(moment) > LATE {
        tokio::time::sleep(NEXT_LOOK).await;
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
