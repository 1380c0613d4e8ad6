//! The order of the modules: each one imports only from those before it, and no files import each other in a ring.
//!
//! Design section 5. All paths count: imports, and paths within the code, from `crate::` or up by `super::`. Unit tests are exempt.
//! There is no list of exceptions.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, listed, sources, without_text};

/// The modules, from left to right: each may import only from those left of it.
const ORDER: &[&str] = &[
    "note",
    "machine",
    "address",
    "error",
    "host",
    "options",
    "deadline",
    "race",
    "uri",
    "dns",
    "wire",
    "reply",
    "auth",
    "handshake",
    "pool",
    "description",
    "selection",
    "topology",
    "cursor",
    "operation",
    "sandbox",
    "observe",
    "io",
    "client",
    "cli",
];

/// Modules that exist in unit tests or in the documentation only, and the crate's root.
const EXEMPT: &[&str] = &["growth", "matrix", "guide", "lib", "bin"];

/// The folders whose files do not import each other in a ring.
const SHELL_FOLDERS: &[&str] = &["io", "client"];

/// A path from one file to a module.
struct Path {
    line: usize,
    /// From the crate's root.
    segments: Vec<String>,
}

#[test]
fn modules_import_only_from_their_left() {
    let files = sources();
    let findings: Vec<String> = files.iter().flat_map(forbidden_edges).collect();
    assert!(findings.is_empty(), "{}", listed(&findings));
    let known: BTreeSet<String> = files.iter().map(|file| top(&module(file))).collect();
    let missing: Vec<&&str> = ORDER.iter().filter(|name| !known.contains(**name)).collect();
    assert!(missing.is_empty(), "not in src: {missing:?}");
}

#[test]
fn files_of_the_shell_import_without_rings() {
    for folder in SHELL_FOLDERS {
        let findings = rings(&sources(), folder);
        assert!(findings.is_empty(), "src/{folder}:{}", listed(&findings));
    }
}

#[test]
fn planted_edges_and_rings_are_found() {
    let plant = |path: &str, text: &str| Source { path: path.into(), text: text.to_owned() };
    let planted = plant(
        "dns/cache.rs",
        "use crate::error::Error;\nuse crate::{host::Host, io::{self, clock}};\n// crate::cli\nfn a() {\n    super::super::pool::b(\"crate::client\");\n    \
         super::names::c();\n    crate::nowhere::d();\n}\nmod tests {\n    use crate::io;\n}\n",
    );
    let expected = [
        "src/dns/cache.rs:2: dns -> io is to the right",
        "src/dns/cache.rs:5: dns -> pool is to the right",
        "src/dns/cache.rs:7: dns -> nowhere has no place in the order",
    ];
    assert_eq!(forbidden_edges(&planted), expected);
    let ring = [
        plant("io/a.rs", "use super::b::B;\n"),
        plant("io/b.rs", "use super::c;\n"),
        plant("io/c/d.rs", "\nfn f() { crate::io::a::g() }\n"),
        plant("io/c.rs", "use self::d::D;\n"),
        plant("io/e.rs", "use super::a;\n"),
    ];
    let expected = [
        "src/io/a.rs:1: io::a -> io::b is part of a ring",
        "src/io/b.rs:1: io::b -> io::c is part of a ring",
        "src/io/c/d.rs:2: io::c -> io::a is part of a ring",
    ];
    assert_eq!(rings(&ring, "io"), expected);
}

fn forbidden_edges(file: &Source) -> Vec<String> {
    let from = top(&module(file));
    if file.is_test() || EXEMPT.contains(&from.as_str()) {
        return Vec::new();
    }
    let rank = |name: &str| ORDER.iter().position(|known| *known == name);
    let mut findings = Vec::new();
    for path in paths(file) {
        let to = path.segments.first().cloned().unwrap_or_default();
        let fault = match (rank(&from), rank(&to)) {
            _ if to == from || EXEMPT.contains(&to.as_str()) => continue,
            (Some(from), Some(to)) if to < from => continue,
            (Some(_), Some(_)) => "is to the right",
            (Some(_) | None, _) => "has no place in the order",
        };
        findings.push(format!("src/{}:{}: {from} -> {to} {fault}", file.path.display(), path.line));
    }
    findings.dedup();
    findings
}

/// Finds the imports within a folder that are part of a ring. A file and the files of its own folder count as one.
fn rings(files: &[Source], folder: &str) -> Vec<String> {
    let mut edges: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let units: BTreeSet<String> =
        files.iter().map(module).filter(|module| top(module) == folder).filter_map(|module| module.get(1).cloned()).collect();
    for file in files.iter().filter(|file| !file.is_test()) {
        let module = module(file);
        let Some(from) = module.get(1).filter(|_| top(&module) == folder) else { continue };
        for path in paths(file).into_iter().filter(|path| path.segments.first().is_some_and(|first| first == folder)) {
            let Some(to) = path.segments.get(1).filter(|to| *to != from && units.contains(*to)) else { continue };
            let text = format!("src/{}:{}: {folder}::{from} -> {folder}::{to} is part of a ring", file.path.display(), path.line);
            edges.entry(from.clone()).or_default().entry(to.clone()).or_insert(text);
        }
    }
    let mut findings = Vec::new();
    for (from, targets) in &edges {
        for (to, text) in targets {
            if reaches(&edges, to, from) {
                findings.push(text.clone());
            }
        }
    }
    findings
}

fn reaches(edges: &BTreeMap<String, BTreeMap<String, String>>, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(next) = open.pop() {
        if next == to {
            return true;
        }
        if seen.insert(next) {
            open.extend(edges.get(next).into_iter().flat_map(|targets| targets.keys().map(String::as_str)));
        }
    }
    false
}

/// Returns a file's module, from the crate's root.
fn module(file: &Source) -> Vec<String> {
    let mut module: Vec<String> = file.path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

fn top(module: &[String]) -> String {
    module.first().cloned().unwrap_or_default()
}

/// Finds the paths of a file that begin with `crate`, `self` or `super`.
fn paths(file: &Source) -> Vec<Path> {
    let code = without_text(file.code());
    let own = module(file);
    let mut paths = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            // `super::super::` is read from its first part.
            if before.is_some_and(|char| char.is_alphanumeric() || char == '_' || char == ':') {
                continue;
            }
            let mut rest = &code[at..];
            let mut base: Vec<String> = if start == "crate::" { Vec::new() } else { own.clone() };
            rest = rest.strip_prefix("crate::").or_else(|| rest.strip_prefix("self::")).unwrap_or(rest);
            while let Some(behind) = rest.strip_prefix("super::") {
                base.pop();
                rest = behind;
            }
            let line = code[..at].matches('\n').count() + 1;
            for tail in tails(rest) {
                let segments = base.iter().cloned().chain(tail).collect();
                paths.push(Path { line, segments });
            }
        }
    }
    paths.sort_by_key(|path| path.line);
    paths
}

/// Returns the paths that a path's rest stands for: one, or those of a group in braces.
fn tails(rest: &str) -> Vec<Vec<String>> {
    let Some(group) = rest.strip_prefix('{') else {
        let end = rest.find(|char: char| !(char.is_alphanumeric() || char == '_' || char == ':')).unwrap_or(rest.len());
        return vec![rest[..end].split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()];
    };
    let (mut tails, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                tails.extend(Some(&group[begin..at]).filter(|item| !item.trim().is_empty()).map(|item| self::tails(item.trim()).concat()));
                begin = at + 1;
                if char == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    tails
}
