//! The report of an examination, as text and as the JSON object that [`JSON_HELP`] describes.
//!
//! Does not examine (`doctor`) or advise (`advice`).

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::USAGE;
use super::output::{Paint, printable};
use crate::client::Probe;
use crate::error::{Error, Span, Stage};
use crate::host::{Address, ServerAddress};
use crate::options::ClientOptions;
use crate::topology::{ServerDescription, ServerType, TopologyDescription};

/// The description of the JSON object, for `doctor --help`.
pub(super) const JSON_HELP: &str = r#"With --json, standard output is one JSON object:
  usable    whether a primary, standalone or mongos answered a ping
  uri       the connection string without secrets; null if it can't be read
  warnings  [text]: options of the connection string without effect, or with an unexpected one
  stages    [{host, stage, address, duration_ms, ok, error}]: every completed stage, per host. Stages are uri, srv, dns,
            tcp, tls, hello, auth, ping, topology, and probe for a host that --timeout cut short; host is null for uri and
            topology, address is null for look-ups, error is null or a text
  topology  {type, set_name, compatible, left_out: [{host, reason}]}; null if not reached
  servers   [{host, type, round_trip_ms, error}]: the state of each server in the topology
  ping      {ok, host, duration_ms, error}: the last ping, sent as an application would; null if not reached
  advice    [text]: what to do"#;

/// The result of an examination.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) outcome: ExaminationOutcome,
    /// The connection string without secrets.
    pub(super) uri: Option<String>,
    /// The options in effect; `None` if they could not be read.
    pub(super) options: Option<ClientOptions>,
    pub(super) warnings: Vec<String>,
    /// The stages before the first server: uri, and srv or other preparations.
    pub(super) start: Vec<StageLine>,
    /// One probe per host, in the order of discovery.
    pub(super) probes: Vec<Probe>,
    /// The final state of the topology, and the stage of discovering it.
    pub(super) topology: Option<(Arc<TopologyDescription>, StageLine)>,
    pub(super) ping: Option<StageLine>,
    pub(super) advice: Vec<String>,
}

/// The outcome of an examination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExaminationOutcome {
    /// A primary, standalone or mongos answered a ping.
    Usable,
    /// No server answered a ping.
    Unusable,
    /// The arguments are unusable.
    Misused,
}

/// The result of one stage.
#[derive(Clone, Debug)]
pub(super) struct StageLine {
    pub(super) host: Option<String>,
    pub(super) stage: String,
    pub(super) address: Option<Address>,
    pub(super) elapsed: Duration,
    pub(super) error: Option<Error>,
}

/// The stages of a connection, in their order.
const STAGES: [&str; 6] = ["dns", "tcp", "tls", "hello", "auth", "ping"];

impl ExaminationOutcome {
    pub(super) fn exit_code(self) -> ExitCode {
        match self {
            Self::Usable => ExitCode::SUCCESS,
            Self::Unusable => ExitCode::FAILURE,
            Self::Misused => ExitCode::from(USAGE),
        }
    }
}

impl StageLine {
    /// Creates the result of a stage without a host.
    pub(super) fn new(stage: impl ToString, elapsed: Duration, error: Option<Error>) -> Self {
        Self { host: None, stage: stage.to_string(), address: None, elapsed, error }
    }

    fn json(&self) -> Value {
        json!({
            "host": self.host,
            "stage": self.stage,
            "address": self.address.as_ref().map(ToString::to_string),
            "duration_ms": millis(self.elapsed),
            "ok": self.error.is_none(),
            "error": self.error.as_ref().map(ToString::to_string),
        })
    }

    fn row(&self, indent: &str, detail: &str, paint: Paint) -> String {
        let address = self.address.as_ref().map(ToString::to_string).unwrap_or_default();
        let text = match &self.error {
            Some(error) => brief(error),
            None => detail.to_owned(),
        };
        let gap = if address.is_empty() || text.is_empty() { "" } else { "  " };
        let state = if self.error.is_none() { paint.good("ok    ") } else { paint.bad("FAILED") };
        let head = format!("{indent}{:<width$}", self.stage, width = 12 - indent.len().min(12));
        printable_row(&format!("{:>9}  ", Span(self.elapsed).to_string()), &head, &state, &format!("{address}{gap}{text}"))
    }
}

impl Report {
    /// Creates an empty report.
    pub(super) fn new(uri: Option<String>) -> Self {
        Self {
            outcome: ExaminationOutcome::Unusable,
            uri,
            options: None,
            warnings: Vec::new(),
            start: Vec::new(),
            probes: Vec::new(),
            topology: None,
            ping: None,
            advice: Vec::new(),
        }
    }

    /// Returns the error of the arguments, if they are unusable.
    pub(super) fn misuse(&self) -> Option<&Error> {
        self.start.iter().find_map(|line| line.error.as_ref()).filter(|_| self.outcome == ExaminationOutcome::Misused)
    }

    /// Returns the JSON object.
    pub(super) fn to_json(&self) -> Value {
        let probed = self.probes.iter().flat_map(probe_lines);
        let last = self.topology.iter().map(|(_, line)| line.clone()).chain(self.ping.clone());
        let stages: Vec<Value> = self.start.iter().cloned().chain(probed).chain(last).map(|line| line.json()).collect();
        let topology = self.topology.as_ref().map(|(topology, _)| topology);
        json!({
            "usable": self.outcome == ExaminationOutcome::Usable,
            "uri": self.uri,
            "warnings": self.warnings,
            "stages": stages,
            "topology": topology.map(|topology| topology_json(topology)),
            "servers": topology.map_or_else(|| json!([]), |topology| servers_json(topology)),
            "ping": self.ping.as_ref().map(|ping| json!({
                "ok": ping.error.is_none(),
                "host": ping.host,
                "duration_ms": millis(ping.elapsed),
                "error": ping.error.as_ref().map(ToString::to_string),
            })),
            "advice": self.advice,
        })
    }

    /// Returns the text.
    pub(super) fn to_text(&self, paint: Paint) -> String {
        let mut lines = Vec::new();
        let uri = self.uri.as_deref().unwrap_or_default();
        for line in &self.start {
            lines.push(line.row("", if line.stage == "uri" { uri } else { line.host.as_deref().unwrap_or_default() }, paint));
        }
        lines.extend(self.warnings.iter().map(|warning| format!("  {} {}", paint.bad("warning"), printable(warning))));
        for probe in &self.probes {
            lines.push(String::new());
            self.put_probe(&mut lines, probe, paint);
        }
        if let Some((topology, line)) = &self.topology {
            lines.push(String::new());
            let name = topology.set_name().map(|name| format!(" {name:?}")).unwrap_or_default();
            lines.push(line.row("", &format!("{}{name}", topology.kind().name()), paint));
            let width = topology.servers().iter().map(|server| server.host.to_string().chars().count()).max().unwrap_or(0);
            lines.extend(topology.servers().iter().map(|server| server_row(server, width)));
            lines.extend(topology.left_out().iter().map(|reason| format!("  left out: {}", printable(&reason.to_string()))));
        }
        if let Some(ping) = &self.ping {
            lines.push(ping.row("", ping.host.as_deref().unwrap_or_default(), paint));
        }
        lines.push(String::new());
        lines.push(if self.outcome == ExaminationOutcome::Usable { paint.good("usable") } else { paint.bad("not usable") });
        lines.extend(self.advice.iter().map(|advice| format!("  * {}", printable(advice))));
        lines.push(String::new());
        lines.join("\n")
    }

    fn put_probe(&self, lines: &mut Vec<String>, probe: &Probe, paint: Paint) {
        lines.push(paint.bold(&printable(&probe.host.to_string())));
        let ended = probe_lines(probe);
        for stage in STAGES {
            let mut own = ended.iter().filter(|line| line.stage == stage).peekable();
            if own.peek().is_none() {
                lines.push(paint.dim(&format!("  {stage:<10}{:<8}{:>9}  {}", "-", "", self.why_absent(stage, probe))));
            }
            let detail = if stage == "hello" { role(probe) } else { String::new() };
            lines.extend(own.map(|line| line.row("  ", &detail, paint)));
        }
        lines.extend(ended.iter().filter(|line| !STAGES.contains(&line.stage.as_str())).map(|line| line.row("  ", "", paint)));
    }

    /// Returns why a stage was skipped.
    fn why_absent(&self, stage: &str, probe: &Probe) -> &'static str {
        let Some(options) = &self.options else { return "not reached" };
        match stage {
            "dns" if probe.host.name().is_none() => "not needed, the host is an address",
            "dns" if options.resolve_override(&probe.host).is_some() => "not needed, the address is fixed",
            "tls" if !options.tls_or_default() => "not enabled",
            "auth" if matches!(options.credential(), Ok(None)) => "no user",
            "auth" if probe.hello.as_ref().is_some_and(|hello| hello.arbiter_only) => "not on an arbiter",
            _ => "not reached",
        }
    }
}

/// Returns the stages of a probe, including the ping and an error before any stage.
pub(super) fn probe_lines(probe: &Probe) -> Vec<StageLine> {
    let host = Some(probe.host.to_string());
    let mut lines: Vec<StageLine> = probe
        .stages
        .iter()
        .map(|report| StageLine {
            host: host.clone(),
            stage: report.stage.to_string(),
            address: report.address.clone(),
            elapsed: report.elapsed,
            error: report.error.clone(),
        })
        .collect();
    let line = |stage: String, elapsed, error| StageLine { host: host.clone(), stage, address: probe.address.clone(), elapsed, error };
    if let Some(elapsed) = probe.ping {
        lines.push(line("ping".to_owned(), elapsed, None));
    }
    let is_included = lines.last().is_some_and(|last| last.error.is_some());
    if let Some(error) = probe.error.as_ref().filter(|_| !is_included) {
        let stage = match error.stage() {
            None => "probe".to_owned(),
            Some(Stage::Read | Stage::Write | Stage::Server) => "ping".to_owned(),
            Some(stage) => stage.to_string(),
        };
        lines.push(line(stage, error.elapsed().unwrap_or_default(), Some(error.clone())));
    }
    lines
}

/// Returns the JSON of a topology, without its servers.
pub(super) fn topology_json(topology: &TopologyDescription) -> Value {
    let left_out: Vec<Value> = topology
        .left_out()
        .iter()
        .map(|left_out| {
            let reason = left_out.error.as_ref().map_or_else(|| left_out.reason.to_string(), |error| error.message().to_owned());
            json!({ "host": left_out.host.to_string(), "reason": reason })
        })
        .collect();
    json!({
        "type": topology.kind().name(),
        "set_name": topology.set_name(),
        "compatible": topology.is_compatible(),
        "left_out": left_out,
    })
}

/// Returns the JSON of a topology's servers.
pub(super) fn servers_json(topology: &TopologyDescription) -> Value {
    let server = |server: &Arc<ServerDescription>| {
        json!({
            "host": server.host.to_string(),
            "type": server.kind.name(),
            "round_trip_ms": server.round_trip_time.map(millis),
            "error": server.error.as_ref().map(ToString::to_string),
        })
    };
    topology.servers().iter().map(server).collect()
}

/// Converts a duration to milliseconds, with microsecond resolution.
pub(super) fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

/// Creates the report of a probe with an error only.
pub(super) fn failed_probe(host: ServerAddress, error: Error) -> Probe {
    Probe { host, address: None, stages: Vec::new(), hello: None, ping: None, error: Some(error) }
}

/// Returns the type and set of a server, as it announces them.
fn role(probe: &Probe) -> String {
    let Some(hello) = &probe.hello else { return String::new() };
    let kind = ServerType::of_hello(hello).name();
    match &hello.set_name {
        Some(name) => format!("{kind} of {name:?}"),
        None => kind.to_owned(),
    }
}

fn server_row(server: &ServerDescription, width: usize) -> String {
    let host = server.host.to_string();
    let round_trip = server.round_trip_time.map(|span| Span(span).to_string()).unwrap_or_default();
    let error = server.error.as_ref().map(brief).unwrap_or_default();
    let row = format!("  {host:<width$}  {:<12}{round_trip:>9}  {error}", server.kind.name());
    printable(row.trim_end()).replace('\n', " ")
}

/// Returns the text of an error without stage and host, which are printed beside it.
fn brief(error: &Error) -> String {
    let mut text = error.message().to_owned();
    if let Some(limit) = error.limit() {
        text.push_str(&format!(" ({limit})"));
    }
    let causes = error.causes().iter().map(ToString::to_string);
    let servers = error.servers().iter().map(ToString::to_string);
    for (index, cause) in causes.chain(servers).enumerate() {
        text.push_str(if index == 0 { ": " } else { "; " });
        text.push_str(&cause);
    }
    text
}

/// Formats a row; control characters of texts from outside are replaced.
fn printable_row(elapsed: &str, head: &str, state: &str, text: &str) -> String {
    format!("{head}{state}  {elapsed}{}", printable(text).replace('\n', " ")).trim_end().to_owned()
}
