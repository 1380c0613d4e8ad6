//! The parts that share memory, under many schedules: `tests/schedules` is a workspace of its own, run from here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a planted fault's tree consists of.
const TREE: &[&str] = &[
    "src/io",
    "src/machine.rs",
    "src/note.rs",
    "src/observe",
    "tests/schedules/src",
    "tests/schedules/Cargo.toml",
    "tests/schedules/Cargo.lock",
];

#[test]
fn shared_memory_holds_under_many_schedules() {
    let output = run(root(), "schedules");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("test result: ok."), "{}", text(&output));
}

#[test]
fn planted_lost_wake_ups_are_found() {
    let faults: Vec<PathBuf> = fs::read_dir(root().join("tests/schedules/faults"))
        .expect("the folder of faults")
        .map(|entry| entry.expect("a fault").path())
        .collect();
    assert!(!faults.is_empty());
    for fault in faults {
        let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schedules");
        if tree.exists() {
            fs::remove_dir_all(&tree).expect("the last tree");
        }
        for part in TREE {
            copy(&root().join(part), &tree.join(part));
        }
        // The tree is no repository, though it lies in one.
        let mut apply = Command::new("git");
        apply.args(["apply", "-C1"]).arg(&fault).env("GIT_CEILING_DIRECTORIES", env!("CARGO_TARGET_TMPDIR"));
        let applied = apply.current_dir(&tree).output().expect("git");
        assert!(applied.status.success(), "{} does not apply: {}", fault.display(), text(&applied));
        // Cargo takes two trees of one package for the same, so this one has a target folder of its own.
        let output = run(&tree, "schedules-planted");
        assert!(!output.status.success(), "{} was not found", fault.display());
        assert!(text(&output).contains("test result: FAILED"), "{}: {}", fault.display(), text(&output));
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the tests of a tree. The unit tests within the library's files need real threads, and run with the library's.
fn run(tree: &Path, target: &str) -> Output {
    Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--manifest-path"])
        .arg(tree.join("tests/schedules/Cargo.toml"))
        .arg("--target-dir")
        .arg(root().join("target").join(target))
        .args(["--", "--skip", "shards::tests", "--skip", "machine::tests"])
        .output()
        .expect("cargo")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::copy(from, to).expect("a file");
    }
}
