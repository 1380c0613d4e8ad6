//! Checks the tables of rules and tests.
//!
//! Every test that `tests/spec/RULES.md` or `docs/threat-model.md` names must exist, and every rule must name one.

use std::path::Path;

/// The parts of the table of rules, one for each specification.
const PARTS: &[&str] = &[
    "SDAM",
    "server-monitoring",
    "SDAM events",
    "server-selection",
    "max-staleness",
    "handshake",
    "dns-seedlist",
    "polling-srv",
    "CMAP",
    "OP_MSG",
    "load-balancers",
];

/// Whether a rule may name an area instead of a test.
const MAY_BE_PENDING: bool = false;

/// How many lines above a function its attribute may be.
const ATTRIBUTE_LINES_MAX: usize = 4;

/// The parts of the threat model, one for each attacker, and what is not defended.
const ATTACKERS: &[&str] =
    &["The server", "The network", "The program's own callbacks", "Input of users", "A neighbour on the machine", "What is not defended"];

#[test]
fn every_rule_names_tests_that_exist() {
    check("tests/spec/RULES.md", PARTS);
    check("docs/threat-model.md", ATTACKERS);
}

fn check(page: &str, parts: &[&str]) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(project.join(page)).expect("the page");
    // The packed crate is without the tests on real servers.
    let is_packed = |path: &str| path.starts_with("tests/live/") && !project.join("tests/live").is_dir();
    let faults = faults(&table, MAY_BE_PENDING, |path| if is_packed(path) { Source::Absent } else { Source::of(&project.join(path)) });
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let headings: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(headings, parts);
}

#[test]
fn planted_faults_are_found() {
    let read = |path: &str| match path {
        "a.rs" => Source::Text("#[test]\nfn one() {}\n\n#[tokio::test]\nasync fn two() {}\n\n\n\n\nfn helper() {}\n".to_owned()),
        "tests/spec/x.rs" => Source::Text("pub(crate) fn run(folder: &Path) {}\n".to_owned()),
        "packed.rs" => Source::Absent,
        _ => Source::Missing,
    };
    let check = |row: &str| faults(&format!("| rule | tests |\n|---|---|\n{row}\n"), true, read);
    for good in ["| x | `a.rs::one` |", "| x | `a.rs::one`, `a.rs::two` |", "| x | `tests/spec/x.rs::run` |", "| x | `packed.rs::any` |"] {
        assert_eq!(check(good), [""; 0], "{good}");
    }
    assert_eq!(check("| x | pending: somebody |"), [""; 0]);
    let bad = [
        "| x | |",
        "| x | later |",
        "| x | pending: |",
        "| | `a.rs::one` |",
        "| x | `a.rs::three` |",
        "| x | `a.rs::on` |",
        "| x | `a.rs::helper` |",
        "| x | `b.rs::one` |",
        "| x | `a.rs` |",
        "| x | `a.rs::one` and more |",
        "| x | `a.rs::one` | y |",
        "| x | `a.rs::one` |\n| x | `a.rs::two` |",
    ];
    for bad in bad {
        assert_eq!(check(bad).len(), 1, "{bad}");
    }
    assert_eq!(faults("| rule | tests |\n|---|---|\n| x | pending: somebody |", false, read).len(), 1);
}

/// The content of a file.
enum Source {
    Text(String),
    /// It should be there.
    Missing,
    /// It need not be there.
    Absent,
}

impl Source {
    fn of(path: &Path) -> Self {
        std::fs::read_to_string(path).map_or(Self::Missing, Self::Text)
    }

    /// Tells whether there is a test of this name; the runners of the specifications' data are no functions with attributes.
    fn has(&self, name: &str, needs_attribute: bool) -> bool {
        let Self::Text(text) = self else { return matches!(self, Self::Absent) };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.iter().enumerate().any(|(place, line)| {
            let named = line.split_once("fn ").is_some_and(|(_, rest)| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with('(')));
            let above = &lines[place.saturating_sub(ATTRIBUTE_LINES_MAX)..place];
            named && (!needs_attribute || above.iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test")))
        })
    }
}

/// Finds what is wrong with a table.
fn faults(table: &str, may_be_pending: bool, read: impl Fn(&str) -> Source) -> Vec<String> {
    let mut faults = Vec::new();
    let mut part = String::new();
    let mut known: Vec<(String, &str)> = Vec::new();
    for line in table.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            part = heading.to_owned();
        }
        if !line.starts_with('|') || line.starts_with("|---") || line == "| rule | tests |" {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let fault = match cells.as_slice() {
            ["", _] => Some("no rule".to_owned()),
            [rule, _] if known.contains(&(part.clone(), rule)) => Some("the rule is there twice".to_owned()),
            [rule, tests] => {
                known.push((part.clone(), rule));
                fault(tests, may_be_pending, &read)
            }
            _ => Some("a row has two cells".to_owned()),
        };
        faults.extend(fault.map(|fault| format!("{part}: {line}: {fault}")));
    }
    faults
}

fn fault(tests: &str, may_be_pending: bool, read: &impl Fn(&str) -> Source) -> Option<String> {
    if let Some(area) = tests.strip_prefix("pending:") {
        return match (area.trim(), may_be_pending) {
            ("", _) => Some("pending, but on nothing".to_owned()),
            (_, true) => None,
            (_, false) => Some("no test is named yet".to_owned()),
        };
    }
    tests.split(", ").find_map(|test| {
        let place = test.strip_prefix('`').and_then(|test| test.strip_suffix('`')).and_then(|test| test.rsplit_once("::"));
        let Some((path, name)) = place else { return Some(format!("{test:?} is no `file::test`")) };
        let needs_attribute = !path.starts_with("tests/spec/");
        (!read(path).has(name, needs_attribute)).then(|| format!("there is no test {name} in {path}"))
    })
}
