//! A histogram of latencies.
//!
//! Buckets whose width grows with the value: 64 for each doubling, so that what is read off is at most 1.6 % too large.

use std::time::Duration;

/// Counts latencies.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
    largest: Duration,
}

/// The number of significant bits of a value.
const BITS: u32 = 6;

/// Values from 2^36 nanoseconds on, more than a minute, share the last bucket.
const DOUBLINGS: u32 = 36;

const BUCKETS: usize = ((DOUBLINGS - BITS + 1) << BITS) as usize;

impl Histogram {
    /// Makes one that is empty; counting allocates nothing.
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, largest: Duration::ZERO }
    }

    /// Counts a latency.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.largest = self.largest.max(latency);
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (own, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *own += theirs;
        }
        self.total += other.total;
        self.largest = self.largest.max(other.largest);
    }

    /// Returns how many latencies were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// Returns the largest, in microseconds.
    pub fn largest_micros(&self) -> f64 {
        self.largest.as_secs_f64() * 1e6
    }

    /// Returns what a share of the latencies, such as 0.99, does not exceed, in microseconds.
    pub fn quantile_micros(&self, share: f64) -> f64 {
        let wanted = (share * self.total as f64).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted && seen > 0 {
                return upper_nanos(bucket) as f64 / 1e3;
            }
        }
        0.0
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

fn bucket(nanos: u64) -> usize {
    let Some(shift) = nanos.checked_ilog2().and_then(|log| log.checked_sub(BITS)) else { return nanos as usize };
    let within = (nanos >> shift) as usize - (1 << BITS);
    ((((shift + 1) << BITS) as usize) + within).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper_nanos(bucket: usize) -> u64 {
    let (doubling, within) = ((bucket >> BITS) as u32, (bucket & ((1 << BITS) - 1)) as u64);
    match doubling.checked_sub(1) {
        None => within,
        Some(shift) => (((1 << BITS) + within + 1) << shift) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for nanos in (0..5000).chain([65_535, 65_536, 1_000_000, 59_999_999_999]) {
            let upper = upper_nanos(bucket(nanos));
            assert!(upper >= nanos && upper as f64 <= nanos as f64 * 1.016 + 1.0, "{nanos}: {upper}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut histogram = Histogram::new();
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = histogram.quantile_micros(share);
            assert!((expected..expected * 1.02).contains(&found), "{share}: {found}");
        }
        assert_eq!(Histogram::new().quantile_micros(0.5), 0.0);
    }
}
