//! Are the documents true?
//!
//! The README's program is built and run in a fresh project, with the README's dependencies. Links, paths of files and names of
//! limits in the documents must exist. The other examples run as doc tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most lines of the README: one or two screens beside its program.
const README_LINES_MAX: usize = 170;

/// A check of paths that sees fewer than this has read the wrong text.
const PATHS_MIN: usize = 50;

#[test]
fn program_of_the_readme_runs_in_a_fresh_project() {
    let readme = read("README.md");
    let dependencies = block(&readme, "toml");
    let program = block(&readme, "rust");
    let root = root();
    let crate_path = format!("path = {:?}", root.display().to_string());
    assert!(dependencies.contains("version = \"0.1\""), "{dependencies}");
    let dependencies = dependencies.replace("version = \"0.1\"", &crate_path);

    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme");
    fs::create_dir_all(project.join("src")).expect("a folder");
    // The profile is that of this workspace, so that what is built already is not built again.
    let manifest = format!(
        "[package]\nname = \"fresh\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n{dependencies}\n\
         [workspace]\n\n[profile.dev]\ndebug = false\n[profile.dev.package.\"*\"]\ndebug = false\nopt-level = 1\n[profile.dev.package.mongolink]\nopt-level = 0\n"
    );
    fs::write(project.join("Cargo.toml"), manifest).expect("a file");
    fs::write(project.join("src/main.rs"), program).expect("a file");
    let lock = root.join("Cargo.lock");
    if lock.exists() {
        fs::copy(lock, project.join("Cargo.lock")).expect("a copy");
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--offline"]).current_dir(&project).env("CARGO_TARGET_DIR", target_folder());
    let output = cargo.output().expect("cargo runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("\"item\": \"tea\""), "{shown}");
}

#[test]
fn examples_have_no_hidden_lines() {
    for (page, text) in pages() {
        let mut within_rust = false;
        for line in text.lines() {
            if let Some(language) = line.strip_prefix("```") {
                within_rust = language.starts_with("rust");
            }
            assert!(!(within_rust && (line == "#" || line.starts_with("# "))), "{page}: {line}");
        }
    }
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES_MAX, "the README has {lines} lines");
}

#[test]
fn links_lead_to_files() {
    if is_packed() {
        return;
    }
    let mut missing = Vec::new();
    for (page, text) in pages() {
        let folder = Path::new(&page).parent().unwrap_or(Path::new(""));
        for link in links(&text) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !root().join(folder).join(file).exists() {
                missing.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert_eq!(links("a [b](c.md) and\n[d]: e.md#f\n"), ["c.md", "e.md#f"]);
}

#[test]
fn paths_in_the_documents_exist() {
    if is_packed() {
        return;
    }
    let mut seen = 0;
    let mut missing = Vec::new();
    for (page, text) in pages() {
        for path in paths(&text) {
            seen += 1;
            if ![root(), root().join("src")].iter().any(|folder| folder.join(&path).exists()) {
                missing.push(format!("{page}: {path}"));
            }
        }
    }
    assert!(seen >= PATHS_MIN, "{seen} paths");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert_eq!(paths("`io/pool.rs`, `tests/run`, `a/{b,c}.rs::d`, `x.y`, `\"z/w\"`"), ["io/pool.rs", "tests/run", "a/b.rs", "a/c.rs"]);
}

#[test]
fn limits_in_the_guide_exist() {
    let sources = sources();
    let page = read("docs/limits.md");
    let names: BTreeSet<&str> = quoted(&page).filter(|name| name.contains('_') && name.to_uppercase() == **name).collect();
    assert!(names.len() >= PATHS_MIN, "{} names", names.len());
    let missing: Vec<&&str> =
        names.iter().filter(|name| !sources.contains(&format!("const {name}:")) && !sources.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whether this is the packed crate, which is without the benchmarks, the fuzz targets and the tests on real servers.
fn is_packed() -> bool {
    !root().join("benches").exists()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the target folder of this build, in which `CARGO_TARGET_TMPDIR` lies.
fn target_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target folder").to_owned()
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page} can't be read: {error}"))
}

/// Reads all documents: name and text.
fn pages() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned(), "CHANGELOG.md".to_owned()];
    if !is_packed() {
        names.push("benches/RESULTS.md".to_owned());
    }
    for folder in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            if name.ends_with(".md") {
                names.push(format!("{folder}/{name}"));
            }
        }
    }
    names.sort();
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

/// Returns the text of all files of `src`.
fn sources() -> String {
    let mut folders = vec![root().join("src")];
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                text.push_str(&fs::read_to_string(path).expect("a source"));
            }
        }
    }
    text
}

/// Returns the first block of code in a language.
fn block(text: &str, language: &str) -> String {
    let fence = format!("```{language}\n");
    let (_, rest) = text.split_once(&fence).expect("a block of code");
    let (code, _) = rest.split_once("```").expect("its end");
    code.to_owned()
}

/// Returns the targets of links: `[..](target)` and `[..]: target`.
fn links(text: &str) -> Vec<&str> {
    let inline = text.match_indices("](").filter_map(|(at, _)| text[at + 2..].split(')').next());
    let defined = text.lines().filter(|line| line.starts_with('[')).filter_map(|line| line.split_once("]: ").map(|(_, target)| target));
    inline.chain(defined).filter(|target| !target.contains(' ')).collect()
}

/// Returns what stands between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with("```")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns the quoted paths of files and folders of the project, alternatives in braces one by one.
fn paths(text: &str) -> Vec<String> {
    let is_path = |word: &&str| {
        let known = word.chars().all(|char| char.is_alphanumeric() || "._-/{},".contains(char));
        known
            && !word.starts_with("../")
            && !word.starts_with("target/")
            && !word.starts_with('/')
            && (word.contains('/') || word.ends_with(".rs"))
    };
    let words = quoted(text).map(|word| word.split("::").next().unwrap_or(word)).filter(is_path);
    words.flat_map(alternatives).collect()
}

fn alternatives(word: &str) -> Vec<String> {
    match word.split_once('{').and_then(|(front, rest)| rest.split_once('}').map(|(inner, back)| (front, inner, back))) {
        Some((front, inner, back)) => inner.split(',').map(|part| format!("{front}{part}{back}")).collect(),
        None => vec![word.to_owned()],
    }
}
