//! The fail point `failCommand` of mongod's `configureFailPoint`.
//!
//! Does not carry out its effects (`dispatch`).

use std::time::Duration;

use bson::{Bson, Document};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::call::{integer, truth};
use super::failure::{CommandRefusal, code};

/// An armed fail point.
pub(super) struct FailPoint {
    commands: Vec<String>,
    app_name: Option<String>,
    mode: Mode,
    verdict: FailPointEffect,
}

enum Mode {
    AlwaysOn,
    Times(u64),
    Skip(u64),
    Chance(f64),
}

/// The effect of a fail point on one command.
#[derive(Clone, Default)]
pub(super) struct FailPointEffect {
    /// It is delayed by this duration first.
    pub(super) delay: Option<Duration>,
    /// Its connection is closed without a reply.
    pub(super) close: bool,
    /// It is refused with this code.
    pub(super) error_code: Option<i32>,
    /// The labels of its reply, in place of the usual ones.
    pub(super) labels: Option<Vec<String>>,
    /// It is executed, and its reply has this write concern error.
    pub(super) write_concern_error: Option<Document>,
}

/// The maximum delay of a command by a fail point.
const DELAY_MAX: Duration = Duration::from_secs(24 * 3600);

impl FailPoint {
    /// Parses a `configureFailPoint` command; `None` if it turns the fail point off.
    pub(super) fn parse(command: &Document) -> Result<Option<Self>, CommandRefusal> {
        let name = command.get_str("configureFailPoint").unwrap_or_default();
        if name != "failCommand" {
            return Err(CommandRefusal::new(code::FAIL_POINT_SET_FAILED, format!("{name} not found")));
        }
        let Some(mode) = Mode::parse(command.get("mode"))? else { return Ok(None) };
        let empty = Document::new();
        let data = command.get_document("data").unwrap_or(&empty);
        if let Some(key) = data.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(CommandRefusal::unsupported(format_args!("{key:?} of failCommand")));
        }
        let is_set = |key: &str| data.get(key).is_some_and(truth);
        let number = |key: &str| data.get(key).and_then(integer);
        let error_code = match data.get("errorCode").map(integer) {
            None => None,
            Some(code) => {
                let code = code.and_then(|code| i32::try_from(code).ok());
                Some(code.ok_or_else(|| CommandRefusal::bad_value("errorCode is no 32-bit number"))?)
            }
        };
        let delay = number("blockTimeMS").and_then(|millis| u64::try_from(millis).ok()).unwrap_or(0);
        let delay = Duration::from_millis(delay).min(DELAY_MAX);
        let verdict = FailPointEffect {
            delay: (is_set("blockConnection") && !delay.is_zero()).then_some(delay),
            close: is_set("closeConnection"),
            error_code,
            labels: data.get_array("errorLabels").ok().map(|labels| texts(labels)),
            write_concern_error: data.get_document("writeConcernError").ok().cloned(),
        };
        let commands = data.get_array("failCommands").map(|names| texts(names)).unwrap_or_default();
        let app_name = data.get_str("appName").ok().map(str::to_owned);
        Ok(Some(Self { commands, app_name, mode, verdict }))
    }

    /// Returns the effect on a command.
    pub(super) fn effect_on(&mut self, name: &str, app_name: Option<&str>, random: &mut SmallRng) -> FailPointEffect {
        let name = if name == "ismaster" { "isMaster" } else { name };
        let named = self.commands.iter().any(|own| own == name || (own == "ismaster" && name == "isMaster"));
        let meant = self.app_name.is_none() || self.app_name.as_deref() == app_name;
        if named && meant && self.mode.strikes(random) { self.verdict.clone() } else { FailPointEffect::default() }
    }
}

impl Mode {
    fn parse(mode: Option<&Bson>) -> Result<Option<Self>, CommandRefusal> {
        let unknown = || CommandRefusal::bad_value("mode is \"off\", \"alwaysOn\", {times: n}, {skip: n} or {activationProbability: p}");
        let mode = mode.ok_or_else(unknown)?;
        match mode.as_str() {
            Some("off") => return Ok(None),
            Some("alwaysOn") => return Ok(Some(Self::AlwaysOn)),
            Some(_) | None => {}
        }
        let (key, value) = mode.as_document().and_then(|mode| mode.iter().next()).ok_or_else(unknown)?;
        let count = || integer(value).and_then(|count| u64::try_from(count).ok()).ok_or_else(unknown);
        match key.as_str() {
            "times" => Ok(Some(Self::Times(count()?))),
            "skip" => Ok(Some(Self::Skip(count()?))),
            "activationProbability" => {
                let chance = value.as_f64().or_else(|| integer(value).map(|whole| if whole == 0 { 0.0 } else { 1.0 }));
                let chance = chance.filter(|chance| (0.0..=1.0).contains(chance)).ok_or_else(unknown)?;
                Ok(Some(Self::Chance(chance)))
            }
            _ => Err(unknown()),
        }
    }

    fn strikes(&mut self, random: &mut SmallRng) -> bool {
        match self {
            Self::AlwaysOn => true,
            Self::Times(left) => {
                let strikes = *left > 0;
                *left = left.saturating_sub(1);
                strikes
            }
            Self::Skip(left) => {
                let strikes = *left == 0;
                *left = left.saturating_sub(1);
                strikes
            }
            Self::Chance(chance) => random.random_bool(*chance),
        }
    }
}

impl FailPointEffect {
    /// Returns the refusal, if the effect is one.
    pub(super) fn failure(&self) -> Option<CommandRefusal> {
        let code = self.error_code?;
        let mut failure = CommandRefusal::new(code, "Failing command via 'failCommand' failpoint");
        failure.labels = self.labels.clone().unwrap_or_default();
        Some(failure)
    }
}

fn texts(values: &[Bson]) -> Vec<String> {
    values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// The supported keys of `data`; the last two distinguish clients that the sandbox treats equally.
const KEYS: &[&str] = &[
    "failCommands",
    "errorCode",
    "closeConnection",
    "blockConnection",
    "blockTimeMS",
    "errorLabels",
    "writeConcernError",
    "appName",
    "failInternalCommands",
    "failLocalClients",
];
