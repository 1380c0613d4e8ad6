//! The command `doctor`: an examination of a deployment.
//!
//! Uses the library's own path, in one future: it follows the topology, and probes every seed and every discovered member in
//! parallel; at the end it sends a ping as an application would. Does not decide the output (`report`, which also documents the
//! JSON object) or the advice (`advice`).

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::rawdoc;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::advice::{Findings, advise};
use super::args::DoctorArguments;
use super::output::{Output, Paint, is_watched, print_stderr};
use super::report::{ExaminationOutcome, Report, StageLine, failed_probe};
use super::{Failure, UriInput, builder, is_misuse, shut_down, since, within};
use crate::client::{Client, Probe};
use crate::error::{Error, ErrorKind, LimitValue, Stage};
use crate::host::ServerAddress;
use crate::io::clock;
use crate::io::sandbox::Sandbox;
use crate::topology::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use crate::uri::ConnectionString;

/// How long to wait for the election of a primary.
const ELECTION_GRACE: Duration = Duration::from_secs(5);

/// The maximum part of the time limit that is reserved for the last ping.
const PING_RESERVE: Duration = Duration::from_secs(1);

/// User and password of the built-in sandbox, so that the examination shows every stage that needs no certificates.
const SANDBOX_USER: (&str, &str) = ("doctor", "not a secret");

/// Examines a deployment, prints the report, and returns an exit code that says whether it is usable.
pub(super) async fn doctor(mut arguments: DoctorArguments) -> Result<ExitCode, Failure> {
    let (uri, sandbox) = match UriInput::read(arguments.uri.take())? {
        Some(uri) => (uri, None),
        None => {
            let (user, password) = SANDBOX_USER;
            let started = Sandbox::builder().members(3).user(user, password).start().await;
            let sandbox = started.map_err(|error| Failure::Failed(format!("the built-in sandbox can't start: {error}")))?;
            (UriInput::own(sandbox.uri()), Some(sandbox))
        }
    };
    let report = examine(&uri, &arguments).await;
    if let Some(sandbox) = sandbox {
        sandbox.shutdown().await;
    }
    let shown = if arguments.json {
        show(&format!("{:#}\n", report.to_json()))
    } else if report.misuse().is_none() {
        show(&report.to_text(Paint::for_output()))
    } else {
        Ok(())
    };
    if let Some(error) = report.misuse() {
        return Err(Failure::Usage(uri.fault(error)));
    }
    // A reader that closed the pipe can still check the exit code.
    shown.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
    Ok(report.outcome.exit_code())
}

fn show(text: &str) -> io::Result<()> {
    let mut output = Output::new();
    output.text(text)?;
    output.flush()
}

/// Examines a deployment.
pub(super) async fn examine(uri: &UriInput, arguments: &DoctorArguments) -> Report {
    let began = clock::now();
    let mut report = Report::new(ConnectionString::parse(uri.text()).ok().map(|read| read.to_string()));
    let prepared = prepare(uri, arguments);
    report.start.push(StageLine::new(Stage::Uri, since(began), prepared.as_ref().err().cloned()));
    let Ok(client) = prepared else {
        report.outcome = ExaminationOutcome::Misused;
        return report;
    };
    report.options = Some(client.options().clone());
    report.warnings = client.warnings().iter().map(ToString::to_string).collect();
    let mut examination = Examination { client, began, limit: arguments.timeout, shows_progress: is_watched(), seeds: Vec::new(), report };
    examination.run().await;
    shut_down(&examination.client).await;
    examination.conclude()
}

/// Creates the client, with limits that let three stages of a host end within the time limit.
fn prepare(uri: &UriInput, arguments: &DoctorArguments) -> Result<Client, Error> {
    let share = arguments.timeout.mul_f64(0.3);
    let least = |given: Option<Duration>| Some(given.map_or(share, |given| given.min(share)));
    builder(uri, &arguments.overrides.resolve)?
        .options(|options| {
            options.connect_timeout = least(options.connect_timeout_or_default());
            options.dns_timeout = least(Some(options.dns_timeout_or_default()));
        })
        .build()
}

/// An examination in progress.
struct Examination {
    client: Client,
    began: Instant,
    limit: Duration,
    /// Whether progress is shown.
    shows_progress: bool,
    seeds: Vec<ServerAddress>,
    report: Report,
}

/// The progress of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopologyProgress {
    /// A server has not been checked yet.
    Checking,
    /// A server accepts writes.
    Writable,
    /// A replica set answers, but has no primary.
    WithoutPrimary,
    /// No server accepts writes, and waiting won't change that.
    NeverWritable,
}

impl Examination {
    async fn run(&mut self) {
        let began = clock::now();
        let started = within(self.deadline(), self.client.watch_topology()).await;
        let srv = self.client.options().srv.clone();
        let (started, stage) = match started {
            Some(started) => (started, if srv.is_some() { Stage::Srv } else { Stage::Tls }),
            None => (Err(self.cut_short()), Stage::Srv),
        };
        let error = started.as_ref().err().cloned();
        if srv.is_some() || error.is_some() {
            let stage = error.as_ref().and_then(Error::stage).unwrap_or(stage);
            self.report.start.push(StageLine { host: srv, ..StageLine::new(stage, since(began), error.clone()) });
        }
        let Ok(mut watch) = started else {
            // Certificate files are arguments; other failures here are those of the deployment or the network.
            if error.is_some_and(|error| is_misuse(&error) && error.stage() == Some(Stage::Tls)) {
                self.report.outcome = ExaminationOutcome::Misused;
            }
            return;
        };
        let mut topology = self.client.topology();
        let configured = self.client.options().hosts.clone();
        self.seeds = if configured.is_empty() { hosts(&topology) } else { configured };
        let mut found = self.seeds.clone();
        let mut probes: FuturesUnordered<_> = found.iter().cloned().map(|host| probe(self.client.clone(), host)).collect();
        let mut settled_at: Option<Instant> = None;
        let mut grace: Option<Instant> = None;
        loop {
            for host in hosts(&topology).into_iter().filter(|host| !found.contains(host)).collect::<Vec<_>>() {
                self.show_progress(&format!("found {host}"));
                probes.push(probe(self.client.clone(), host.clone()));
                found.push(host);
            }
            let progress = progress_of(&topology);
            if progress == TopologyProgress::Writable {
                settled_at.get_or_insert_with(clock::now);
            }
            let mut until = self.probing_deadline();
            match progress {
                TopologyProgress::Writable | TopologyProgress::NeverWritable if probes.is_empty() => break,
                TopologyProgress::WithoutPrimary if probes.is_empty() => {
                    until = until.min(*grace.get_or_insert_with(|| clock::now() + ELECTION_GRACE));
                }
                TopologyProgress::Checking
                | TopologyProgress::Writable
                | TopologyProgress::NeverWritable
                | TopologyProgress::WithoutPrimary => {}
            }
            tokio::select! {
                biased;
                Some(probe) = probes.next(), if !probes.is_empty() => self.take(probe),
                next = watch.next() => match next {
                    Some(next) => topology = next,
                    None => break,
                },
                () = clock::sleep_until(Some(until)) => break,
            }
        }
        drop(probes);
        self.account_for(&found);
        self.record_topology(&topology, settled_at.map_or_else(|| since(began), |at| at.saturating_duration_since(began)));
        self.ping(&topology).await;
    }

    /// Stores the report of a probe that has ended.
    fn take(&mut self, probe: Probe) {
        match &probe.error {
            Some(error) => self.show_progress(&error.to_string()),
            None => self.show_progress(&format!("{} answers", probe.host)),
        }
        self.report.probes.push(probe);
    }

    /// Adds the probes that did not end, and sorts all by discovery.
    fn account_for(&mut self, found: &[ServerAddress]) {
        for host in found {
            if !self.report.probes.iter().any(|probe| probe.host == *host) {
                self.report.probes.push(failed_probe(host.clone(), self.cut_short().on(host)));
            }
        }
        self.report.probes.sort_by_key(|probe| found.iter().position(|host| *host == probe.host));
    }

    /// Records the final state of the topology.
    fn record_topology(&mut self, topology: &Arc<TopologyDescription>, elapsed: Duration) {
        let error = match topology.compatibility_error() {
            Some(error) => Some(error.clone()),
            None if writable(topology).is_none() => {
                Some(Error::new(ErrorKind::ServerSelection, format!("{}: no known server accepts writes", topology.kind().name())))
            }
            None => None,
        };
        self.report.topology = Some((Arc::clone(topology), StageLine::new("topology", elapsed, error)));
    }

    /// Sends a ping as an application would.
    async fn ping(&mut self, topology: &TopologyDescription) {
        let began = clock::now();
        if writable(topology).is_none() {
            let error = Error::new(ErrorKind::ServerSelection, "not sent: no primary, standalone or mongos is known");
            self.report.ping = Some(StageLine::new("ping", Duration::ZERO, Some(error)));
            return;
        }
        let left = self.deadline().saturating_duration_since(began);
        let answer = self.client.database("admin").run_command(rawdoc! { "ping": 1 }).raw().timeout(left).await;
        let line = StageLine::new("ping", since(began), answer.as_ref().err().cloned());
        let host = match &answer {
            Ok(reply) => Some(reply.host()),
            Err(error) => error.host(),
        };
        self.report.ping = Some(StageLine { host: host.map(ToString::to_string), ..line });
        if answer.is_ok() {
            self.report.outcome = ExaminationOutcome::Usable;
        }
    }

    fn conclude(mut self) -> Report {
        let options = self.client.options();
        let findings = Findings {
            options,
            seeds: &self.seeds,
            start: self.report.start.iter().find_map(|line| line.error.as_ref()),
            topology: self.report.topology.as_ref().map(|(topology, _)| &**topology),
            probes: &self.report.probes,
            ping: self.report.ping.as_ref().and_then(|ping| ping.error.as_ref()),
        };
        self.report.advice = advise(&findings);
        self.report
    }

    fn deadline(&self) -> Instant {
        self.began + self.limit
    }

    fn probing_deadline(&self) -> Instant {
        self.began + self.limit.saturating_sub(PING_RESERVE.min(self.limit / 5))
    }

    /// Returns the error of work that the end of the examination cut short.
    fn cut_short(&self) -> Error {
        let elapsed = since(self.began);
        Error::new(ErrorKind::Timeout, "not complete within the time limit")
            .after(elapsed)
            .against("--timeout", LimitValue::Time(self.limit))
    }

    fn show_progress(&self, text: &str) {
        if self.shows_progress {
            print_stderr(&format!("{:>9.3} s  {text}", since(self.began).as_secs_f64()));
        }
    }
}

async fn probe(client: Client, host: ServerAddress) -> Probe {
    let outcome = client.probe(&host).await;
    outcome.unwrap_or_else(|error| failed_probe(host, error))
}

/// Returns the hosts of a topology, including those that were left out.
fn hosts(topology: &TopologyDescription) -> Vec<ServerAddress> {
    let left_out = topology.left_out().iter().map(|reason| &reason.host);
    topology.servers().iter().map(|server| &server.host).chain(left_out).cloned().collect()
}

/// Finds a server that accepts writes.
fn writable(topology: &TopologyDescription) -> Option<&Arc<ServerDescription>> {
    let kinds = [ServerType::RsPrimary, ServerType::Standalone, ServerType::Mongos, ServerType::LoadBalancer];
    topology.servers().iter().find(|server| kinds.contains(&server.kind))
}

/// Returns the progress of a topology.
pub(super) fn progress_of(topology: &TopologyDescription) -> TopologyProgress {
    let servers = topology.servers();
    if servers.iter().any(|server| !server.is_known() && server.error.is_none()) {
        TopologyProgress::Checking
    } else if writable(topology).is_some() {
        TopologyProgress::Writable
    } else if topology.kind() != TopologyType::Single && servers.iter().any(|server| server.is_known()) {
        TopologyProgress::WithoutPrimary
    } else {
        TopologyProgress::NeverWritable
    }
}
