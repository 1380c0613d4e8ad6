//! The round-trip times of a server: average and minimum.
//!
//! Follows server-selection, "Calculation of Average Round Trip Times", and server-monitoring, "minimum RTT". Does not decide
//! which replies are measured (`monitor`).

use std::collections::VecDeque;
use std::time::Duration;

/// The round-trip times of one server.
#[derive(Clone, Debug, Default)]
pub struct RoundTrips {
    average: Option<Duration>,
    recent: VecDeque<Duration>,
}

/// The weight of a new sample.
const ALPHA: f64 = 0.2;

/// The number of samples of which the minimum is taken.
const RECENT_MAX: usize = 10;

/// With fewer samples the minimum is reported as zero.
const RECENT_MIN: usize = 2;

impl RoundTrips {
    /// Starts without samples, or with a known average.
    #[cfg(feature = "internals")]
    pub fn new(average: Option<Duration>) -> Self {
        Self { average, recent: VecDeque::new() }
    }

    /// Adds a sample.
    pub fn handle_sample(&mut self, sample: Duration) {
        self.average = Some(match self.average {
            None => sample,
            Some(average) => average.mul_f64(1.0 - ALPHA) + sample.mul_f64(ALPHA),
        });
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
    }

    /// Removes all samples: the server was unreachable.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Returns the exponentially weighted average.
    pub fn average(&self) -> Option<Duration> {
        self.average
    }

    /// Returns the minimum of the last samples; zero until there are enough.
    pub fn minimum(&self) -> Duration {
        match self.recent.iter().min() {
            Some(minimum) if self.recent.len() >= RECENT_MIN => *minimum,
            Some(_) | None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sample_is_the_average_and_reset_forgets() {
        let mut trips = RoundTrips::default();
        assert_eq!(trips.average(), None);
        trips.handle_sample(Duration::from_millis(100));
        assert_eq!((trips.average(), trips.minimum()), (Some(Duration::from_millis(100)), Duration::ZERO));
        trips.handle_sample(Duration::from_millis(200));
        assert_eq!((trips.average(), trips.minimum()), (Some(Duration::from_millis(120)), Duration::from_millis(100)));
        trips.reset();
        assert_eq!((trips.average(), trips.minimum()), (None, Duration::ZERO));
    }

    #[test]
    fn minimum_is_of_the_last_ten() {
        let mut trips = RoundTrips::default();
        for millis in 1..=11 {
            trips.handle_sample(Duration::from_millis(millis));
        }
        assert_eq!(trips.minimum(), Duration::from_millis(2));
    }
}
