//! Runs the fuzz targets on the kept inputs.
//!
//! `fuzz/run` searches for new inputs; those in `fuzz/corpus`, a folder for each target, run here as an ordinary test.

use std::fs;
use std::path::Path;

#[path = "../fuzz/lib.rs"]
#[allow(unreachable_pub, reason = "a library of its own in `fuzz`")]
mod targets;

use targets::TARGETS;

#[test]
fn every_kept_input_holds() {
    let mut failures = Vec::new();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in TARGETS {
        let mut inputs: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap_or_else(|error| panic!("no corpus of {name}: {error}"))
            .map(|entry| entry.expect("an entry").path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for path in inputs {
            let input = fs::read(&path).expect("an input");
            if std::panic::catch_unwind(|| target(&input)).is_err() {
                failures.push(path.display().to_string());
            }
        }
    }
    assert!(failures.is_empty(), "these inputs break their targets:\n{}", failures.join("\n"));
}

#[test]
fn every_target_has_a_program() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).expect("the manifest");
    let mut programs: Vec<_> = manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/")?.strip_suffix(".rs\"")).collect();
    programs.sort_unstable();
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, names);
}
