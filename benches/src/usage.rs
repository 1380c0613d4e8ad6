//! The CPU time and memory of this process.

use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Returns the time on processors, in user and in kernel mode.
pub fn cpu() -> Duration {
    let usage = usage();
    span(usage.user_time()) + span(usage.system_time())
}

/// Returns how often its threads gave up the processor to wait, the ended ones included.
pub fn waits() -> u64 {
    u64::try_from(usage().voluntary_context_switches()).unwrap_or_default()
}

/// Returns the most memory that it has had resident, in KiB.
pub fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Counts its threads.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Counts its open sockets.
pub fn sockets() -> usize {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

fn usage() -> Usage {
    getrusage(UsageWho::RUSAGE_SELF).expect("every process may ask for its own usage")
}

fn span(value: TimeVal) -> Duration {
    Duration::from_secs(value.tv_sec() as u64) + Duration::from_micros(value.tv_usec() as u64)
}
