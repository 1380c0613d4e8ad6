//! The report of the suites: executed, passed, failed and skipped cases.
//!
//! Counts the cases of each suite, prints the failures, and writes `spec-report.json` into the target folder. Which suites
//! there are is said in `main`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Map, Value, json};

/// Collects the outcomes of all suites.
pub(crate) struct Report {
    root: PathBuf,
    filter: Option<String>,
    suites: BTreeMap<String, Tally>,
}

/// Records the cases of one suite.
pub(crate) struct Suite<'a> {
    name: String,
    filter: Option<&'a str>,
    tally: &'a mut Tally,
}

#[derive(Default)]
struct Tally {
    passed: usize,
    /// Case and reason.
    failed: Vec<(String, String)>,
    /// Case and reason.
    skipped: Vec<(String, String)>,
}

impl Report {
    /// Makes a report on the folder of the specifications; with a filter only on cases whose suite or name contains it.
    pub(crate) fn new(root: &Path, filter: Option<String>) -> Self {
        Self { root: root.to_owned(), filter, suites: BTreeMap::new() }
    }

    /// Opens a suite by its name, the folder as in COUNTS.md.
    pub(crate) fn suite(&mut self, name: &str) -> Suite<'_> {
        let tally = self.suites.entry(name.to_owned()).or_default();
        Suite { name: name.to_owned(), filter: self.filter.as_deref(), tally }
    }

    /// Opens the suite that a folder holds.
    pub(crate) fn suite_in(&mut self, folder: &Path) -> Suite<'_> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let relative = folder.strip_prefix(&self.root).or_else(|_| folder.strip_prefix(&fixtures)).unwrap_or(folder);
        let parts: Vec<String> = relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        self.suite(&parts.join("/"))
    }

    /// Returns the folder of the specifications' data.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Tells whether every case passed or was skipped, and there was one.
    pub(crate) fn is_success(&self) -> bool {
        let (passed, failed, skipped) = self.totals();
        failed == 0 && (passed + skipped > 0 || self.filter.is_some())
    }

    /// Prints failures, a line for each suite, and the totals.
    pub(crate) fn print(&self) {
        for (name, tally) in &self.suites {
            for (case, reason) in &tally.failed {
                println!("FAILED {name}: {case}\n       {}", reason.replace('\n', "\n       "));
            }
        }
        println!("{:<64} {:>8} {:>6} {:>6} {:>7}", "suite", "executed", "passed", "failed", "skipped");
        for (name, tally) in &self.suites {
            println!("{name:<64} {:>8} {:>6} {:>6} {:>7}", tally.executed(), tally.passed, tally.failed.len(), tally.skipped.len());
        }
        let (passed, failed, skipped) = self.totals();
        if passed + failed + skipped == 0 {
            println!("no case was found");
        }
        println!("spec: {passed} passed, {failed} failed, {skipped} skipped");
    }

    /// Writes the report to each of the paths; a filtered report is not written.
    pub(crate) fn write(&self, paths: &[PathBuf]) -> io::Result<()> {
        if self.filter.is_some() {
            return Ok(());
        }
        let suites: Map<String, Value> = self.suites.iter().map(|(name, tally)| (name.clone(), tally.to_json())).collect();
        let text = format!("{:#}\n", json!({ "suites": suites }));
        for path in paths {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, &text)?;
        }
        Ok(())
    }

    fn totals(&self) -> (usize, usize, usize) {
        self.suites.values().fold((0, 0, 0), |(passed, failed, skipped), tally| {
            (passed + tally.passed, failed + tally.failed.len(), skipped + tally.skipped.len())
        })
    }
}

impl Suite<'_> {
    /// Runs a case; an error and a panic are its failure.
    pub(crate) fn case(&mut self, name: impl Into<String>, run: impl FnOnce() -> Result<(), String>) {
        let name = name.into();
        if !self.is_wanted(&name) {
            return;
        }
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => self.tally.passed += 1,
            Ok(Err(reason)) => self.tally.failed.push((name, reason)),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                self.tally.failed.push((name, format!("panicked: {}", text.unwrap_or_default())));
            }
        }
    }

    /// Counts a case that is not run.
    #[allow(dead_code, reason = "not every state of the suites has something to skip")]
    pub(crate) fn skip(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        let name = name.into();
        if self.is_wanted(&name) {
            self.tally.skipped.push((name, reason.into()));
        }
    }

    fn is_wanted(&self, case: &str) -> bool {
        self.filter.is_none_or(|filter| self.name.contains(filter) || case.contains(filter))
    }
}

impl Tally {
    fn executed(&self) -> usize {
        self.passed + self.failed.len()
    }

    fn to_json(&self) -> Value {
        let skipped: Vec<Value> = self.skipped.iter().map(|(case, reason)| json!({ "case": case, "reason": reason })).collect();
        json!({
            "cases": self.executed() + self.skipped.len(),
            "executed": self.executed(),
            "passed": self.passed,
            "failed": self.failed.len(),
            "skipped": skipped,
        })
    }
}

/// Reads every JSON file of a folder, in the order of their names: name without ending, and content or what was wrong.
pub(crate) fn json_files(folder: &Path) -> Vec<(String, Result<Value, String>)> {
    let mut paths: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()).collect(),
        Err(error) => return vec![(folder.display().to_string(), Err(error.to_string()))],
    };
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    let read = |path: &Path| {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    };
    paths.iter().map(|path| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), read(path))).collect()
}
