//! The retry policy: gives an operation up, or repeats it after a delay.
//!
//! client-backpressure ("Overload retry policy"): a command that an overloaded server refused before executing it is repeated,
//! with a back-off. Nothing else is repeated. A pure decision: the executor waits.
//! Does not decide whether a command may have been executed (`failure`).

use std::time::{Duration, Instant};

use bson::RawDocument;

use super::{Failure, RetryClass, Rules, Sent};
use crate::deadline::Deadline;
use crate::error::{Error, RETRYABLE_ERROR};
use crate::host::ServerAddress;
use crate::wire::scan::Fields;

/// Which failures a client repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a command is repeated that an overloaded server refused (`maxAdaptiveRetries`); 0 for never.
    overload_retries_max: u32,
    /// Whether a repeated command avoids the server that was overloaded (`enableOverloadRetargeting`).
    overload_retargeting: bool,
}

/// The failed attempts of one operation.
#[derive(Debug, Default)]
pub struct AttemptHistory {
    failures: u32,
    /// The error that is returned if the operation is given up now.
    reported: Option<Error>,
}

/// The decision about a failed attempt.
#[derive(Debug)]
pub enum Verdict {
    /// The operation ends with this error.
    GiveUp(Error),
    /// The operation is repeated after a delay.
    Retry {
        /// How long to wait.
        after: Duration,
        /// The server that the next attempt avoids while another suits.
        avoid: Option<ServerAddress>,
    },
}

/// The label of an error of an overloaded server.
const OVERLOADED: &str = "SystemOverloadedError";

/// The label of an error after which nothing was written.
const NO_WRITES_PERFORMED: &str = "NoWritesPerformed";

/// The base of the back-off, unless the error names another (client-backpressure, "BASE_BACKOFF").
const BASE_BACKOFF: Duration = Duration::from_millis(100);

/// The longest back-off (client-backpressure, "MAX_BACKOFF").
const BACKOFF_MAX: Duration = Duration::from_secs(10);

impl RetryPolicy {
    /// The policy that repeats nothing.
    pub const NEVER: Self = Self { overload_retries_max: 0, overload_retargeting: false };

    /// Makes the policy that repeats what overloaded servers refuse. No client uses it: retries are left to the caller.
    #[cfg(any(test, feature = "internals"))]
    pub fn overload(retries_max: u32, retargeting: bool) -> Self {
        Self { overload_retries_max: retries_max, overload_retargeting: retargeting }
    }

    /// Decides about a failed attempt. `random` is uniform over all values.
    pub fn decide(
        self,
        history: &mut AttemptHistory,
        failure: Failure,
        rules: Rules,
        deadline: Option<Deadline>,
        random: u32,
        now: Instant,
    ) -> Verdict {
        history.failures = history.failures.saturating_add(1);
        let retry = self.back_off(history.failures, &failure, rules, random);
        let retry = retry.filter(|after| deadline.is_none_or(|deadline| now + *after < deadline.at));
        let avoid = failure.server.clone().filter(|_| self.overload_retargeting);
        let reported = history.report(failure);
        match retry {
            Some(after) => Verdict::Retry { after, avoid },
            None => Verdict::GiveUp(reported.clone()),
        }
    }

    /// Returns the delay before the attempt is repeated, if it may be.
    fn back_off(self, failures: u32, failure: &Failure, rules: Rules, random: u32) -> Option<Duration> {
        if rules.retry == RetryClass::Never || failures > self.overload_retries_max {
            return None;
        }
        let reply = failure.reply.as_ref()?;
        // Both labels, and only from the server: it refused the command before it executed any of it.
        let is_refused = failure.error.has_label(OVERLOADED) && failure.error.has_label(RETRYABLE_ERROR);
        is_refused.then(|| back_off(failures, base_back_off(reply.document()), random))
    }
}

impl AttemptHistory {
    /// Returns the error that is returned in the end: of the newest failure that may have written, else of the first.
    fn report(&mut self, failure: Failure) -> &Error {
        let may_have_written = failure.sent != Sent::Nothing && !failure.error.has_label(NO_WRITES_PERFORMED);
        let reported = match self.reported.take() {
            Some(earlier) if !may_have_written => earlier,
            Some(_) | None => failure.error,
        };
        self.reported.insert(reported)
    }
}

/// Returns the base that a server asks for with `baseBackoffMS`, or the specification's.
fn base_back_off(reply: &RawDocument) -> Duration {
    let asked = Fields::find(reply, "baseBackoffMS").and_then(|field| field.integer()).and_then(|asked| u64::try_from(asked).ok());
    asked.filter(|asked| *asked > 0).map_or(BASE_BACKOFF, Duration::from_millis)
}

/// Returns `random * min(BACKOFF_MAX, base * 2^failures)`.
fn back_off(failures: u32, base: Duration, random: u32) -> Duration {
    let limit = 2_u32.checked_pow(failures).map_or(BACKOFF_MAX, |factor| base.saturating_mul(factor)).min(BACKOFF_MAX);
    limit.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins at any moment")]
mod tests {
    use bson::rawdoc;
    use bytes::Bytes;

    use super::*;
    use crate::error::{ErrorKind, Stage};
    use crate::operation::failure::ConnFate;
    use crate::operation::{Reply, SessionRule, command_error};
    use crate::wire::Request;

    const RETRIED: Rules = Rules { retry: RetryClass::Overload, session: SessionRule::Implicit };
    const NEVER: Rules = Rules { retry: RetryClass::Never, session: SessionRule::OfCursor };
    /// The largest draw: the back-off is its limit.
    const MOST: u32 = u32::MAX;

    fn insert() -> Request {
        Request::from(rawdoc! { "insert": "a", "documents": [{}] })
    }

    fn refused(code: i32, labels: &[&str], base_ms: Option<i32>) -> Failure {
        let labels: bson::RawArrayBuf = labels.iter().copied().collect();
        let mut reply = rawdoc! { "ok": 0, "code": code, "errmsg": "busy" };
        reply.append(bson::raw::cstr!("errorLabels"), labels);
        if let Some(base_ms) = base_ms {
            reply.append(bson::raw::cstr!("baseBackoffMS"), base_ms);
        }
        let (error, host) = (command_error(&reply).expect("an error"), ServerAddress::parse("a.example").expect("a host"));
        Failure::refused(error, Reply::new(Bytes::from(reply.into_bytes()), host), 21, &insert())
    }

    fn overloaded() -> Failure {
        refused(462, &["SystemOverloadedError", "RetryableError"], None)
    }

    fn closed(sent: Sent) -> Failure {
        let error = Error::new(ErrorKind::Closed, "closed").at(Stage::Read).with_label("SystemOverloadedError");
        Failure::unanswered(error, sent, ConnFate::Closed, 21, &insert())
    }

    fn decide(policy: RetryPolicy, history: &mut AttemptHistory, failure: Failure, rules: Rules) -> Verdict {
        policy.decide(history, failure, rules, None, MOST, Instant::now())
    }

    fn delays(mut next: impl FnMut() -> Failure) -> Vec<u128> {
        let mut history = AttemptHistory::default();
        std::iter::from_fn(|| match decide(RetryPolicy::overload(10, false), &mut history, next(), RETRIED) {
            Verdict::Retry { after, avoid: None } => Some(after.as_millis()),
            Verdict::Retry { .. } | Verdict::GiveUp(_) => None,
        })
        .collect()
    }

    #[test]
    fn only_what_an_overloaded_server_refused_is_repeated() {
        let policy = RetryPolicy::overload(2, false);
        for (failure, rules, is_repeated) in [
            (overloaded(), RETRIED, true),
            (overloaded(), NEVER, false),
            (refused(462, &["SystemOverloadedError"], None), RETRIED, false),
            (refused(462, &["RetryableError"], None), RETRIED, false),
            (refused(91, &["RetryableWriteError"], None), RETRIED, false),
            (closed(Sent::Nothing), RETRIED, false),
            (closed(Sent::Partly), RETRIED, false),
            (closed(Sent::Whole), RETRIED, false),
            (Failure::before_sending(Error::new(ErrorKind::PoolCleared, "x"), &insert()), RETRIED, false),
        ] {
            let text = format!("{failure:?} {rules:?}");
            let verdict = decide(policy, &mut AttemptHistory::default(), failure, rules);
            assert_eq!(matches!(verdict, Verdict::Retry { .. }), is_repeated, "{text}");
        }
        let verdict = decide(RetryPolicy::NEVER, &mut AttemptHistory::default(), overloaded(), RETRIED);
        assert!(matches!(verdict, Verdict::GiveUp(error) if error.code() == Some(462) && !error.may_have_executed()));
    }

    #[test]
    fn back_off_doubles_up_to_its_limit_and_follows_the_server() {
        assert_eq!(delays(overloaded), [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000, 10_000]);
        assert_eq!(delays(|| refused(462, &["SystemOverloadedError", "RetryableError"], Some(50)))[..3], [100, 200, 400]);
        assert_eq!(delays(|| refused(462, &["SystemOverloadedError", "RetryableError"], Some(-5)))[..1], [200]);
        assert_eq!(back_off(1, BASE_BACKOFF, 0), Duration::ZERO);
        assert_eq!(back_off(1, BASE_BACKOFF, MOST / 2).as_millis(), 100);
        assert_eq!(back_off(u32::MAX, Duration::MAX, MOST), BACKOFF_MAX);
    }

    #[test]
    fn operation_is_given_up_if_the_deadline_comes_first() {
        let now = Instant::now();
        for (limit, is_repeated) in [(200, false), (201, true)] {
            let deadline = Deadline::new("timeout", Duration::from_millis(limit), now);
            let policy = RetryPolicy::overload(2, false);
            let verdict = policy.decide(&mut AttemptHistory::default(), overloaded(), RETRIED, Some(deadline), MOST, now);
            assert_eq!(matches!(verdict, Verdict::Retry { .. }), is_repeated, "{limit} ms");
        }
    }

    #[test]
    fn error_of_the_newest_attempt_that_may_have_written_is_returned() {
        let unwritten = |code| refused(code, &["SystemOverloadedError", "RetryableError", "NoWritesPerformed"], None);
        let unsent = || Failure::before_sending(Error::new(ErrorKind::ServerSelection, "none").at(Stage::Selection), &insert());
        for (failures, code) in [
            (vec![unwritten(462), unwritten(463), unwritten(464)], 462),
            (vec![unwritten(462), overloaded(), refused(91, &["NoWritesPerformed"], None)], 462),
            (vec![unwritten(463), refused(91, &[], None)], 91),
            (vec![unwritten(463), unsent()], 463),
        ] {
            let (mut history, text) = (AttemptHistory::default(), format!("{failures:?}"));
            let verdicts: Vec<Verdict> =
                failures.into_iter().map(|failure| decide(RetryPolicy::overload(2, false), &mut history, failure, RETRIED)).collect();
            let (last, before) = verdicts.split_last().expect("some");
            assert!(before.iter().all(|verdict| matches!(verdict, Verdict::Retry { .. })), "{text}");
            assert!(matches!(last, Verdict::GiveUp(error) if error.code() == Some(code)), "{text}: {last:?}");
        }
    }

    #[test]
    fn overloaded_server_is_avoided_only_if_asked_for() {
        let verdict = decide(RetryPolicy::overload(2, true), &mut AttemptHistory::default(), overloaded(), RETRIED);
        assert!(matches!(verdict, Verdict::Retry { avoid: Some(_), .. }));
    }
}
