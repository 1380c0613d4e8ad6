//! Checks the source: pure modules, file sizes and heads; the order of modules (`layout`), and the words (`words`).
//!
//! Everything outside `src/observe`, `src/io`, `src/client`, `src/cli` and `src/bin` is pure: no runtime, no clock, no socket, no file, no
//! randomness of the operating system, nothing whose order is not the same in every run. Every file says which question it
//! answers, and is short enough to be read. Unit tests are exempt. What this scan of the text can't see, the types of a
//! call, `clippy.toml` looks after.

mod layout;
mod words;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders of the shell, in which the world is touched.
const SHELL: &[&str] = &["observe", "io", "client", "cli", "bin"];

/// Files that hold nothing but what unit tests share.
const TEST_FILES: &[&str] = &["tests.rs", "matrix.rs", "growth.rs"];

/// What a pure part never says.
const OFFENDERS: &[&str] = &[
    "tokio",
    "tokio_rustls",
    "hickory_resolver",
    "socket2",
    "async fn",
    "async move",
    ".await",
    "Instant::now",
    "SystemTime::now",
    "DateTime::now",
    "ObjectId::new",
    "HashMap",
    "HashSet",
    "thread_rng",
    "rand::rng(",
    "SystemRandom",
    "std::thread",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::env",
    "std::process",
];

/// What is not finished says so in one of these words, which no file has.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "TODO", "FIXME"];

/// The most lines of a file, its unit tests left out.
const LINES_MAX: usize = 450;

/// A scan that sees fewer files than this has looked in the wrong place.
const FILES_MIN: usize = 60;

#[test]
fn pure_parts_touch_neither_runtime_nor_world() {
    let mut findings = Vec::new();
    let mut scanned = 0;
    for file in sources().iter().filter(|file| !file.is_test() && !file.is_shell()) {
        scanned += 1;
        findings.extend(file.findings(&without_text(file.code()), OFFENDERS));
    }
    assert!(scanned >= FILES_MIN, "{scanned} pure files");
    assert!(findings.is_empty(), "{}", listed(&findings));
}

#[test]
fn planted_offenders_are_found_with_their_lines() {
    let planted = Source { path: PathBuf::from("planted.rs"), text: PLANTED.to_owned() };
    let found: Vec<(usize, &str)> =
        planted.findings(&without_text(planted.code()), OFFENDERS).into_iter().map(|finding| (finding.line, finding.word)).collect();
    let expected = [
        (4, "HashMap"),
        (8, "async fn"),
        (9, "tokio"),
        (9, ".await"),
        (10, "Instant::now"),
        (12, "rand::rng("),
        (13, "std::env"),
        (15, "SystemRandom"),
        (16, "std::fs"),
    ];
    assert_eq!(found, expected);
    let unfinished = Source { path: PathBuf::from("planted.rs"), text: "fn a() {\n    todo!()\n}\n// FIXME\n".to_owned() };
    assert_eq!(unfinished.findings(&unfinished.text, UNFINISHED).len(), 2);
}

#[test]
fn every_file_says_what_it_answers_and_is_short() {
    let files = sources();
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| !file.is_test()) {
        if !file.text.starts_with("//!") {
            findings.push(format!("{}: does not begin with `//!`", file.path.display()));
        }
        let lines = file.code().lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{}: {lines} lines, the limit is {LINES_MAX}", file.path.display()));
        }
    }
    assert!(files.len() >= FILES_MIN, "{} files", files.len());
    assert!(findings.is_empty(), "{}", listed(&findings));
}

#[test]
fn nothing_is_left_undone() {
    let findings: Vec<Finding> = sources().iter().flat_map(|file| file.findings(&file.text, UNFINISHED)).collect();
    assert!(findings.is_empty(), "{}", listed(&findings));
}

/// A file of `src`, its path relative to that.
struct Source {
    path: PathBuf,
    text: String,
}

/// A word where it does not belong.
struct Finding {
    path: PathBuf,
    /// Counted from 1.
    line: usize,
    word: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.path.display(), self.line, self.word)
    }
}

impl Source {
    fn is_shell(&self) -> bool {
        // `io.rs` would be as much of the shell as what lies in `io`.
        let first = self.path.components().next().and_then(|part| Path::new(part.as_os_str()).file_stem());
        first.is_some_and(|first| SHELL.iter().any(|part| first == *part))
    }

    fn is_test(&self) -> bool {
        let in_folder = self.path.parent().is_some_and(|folder| folder.components().any(|part| part.as_os_str() == "tests"));
        in_folder || self.path.file_name().is_some_and(|name| TEST_FILES.iter().any(|test| name == *test))
    }

    /// Returns the file without the unit tests at its end.
    fn code(&self) -> &str {
        let mut end = 0;
        for line in self.text.split_inclusive('\n') {
            if line.starts_with("mod tests {") {
                return &self.text[..end];
            }
            end += line.len();
        }
        &self.text
    }

    /// Finds words in a text of the same lines as the file's.
    fn findings(&self, text: &str, words: &[&'static str]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (index, line) in text.lines().enumerate() {
            for word in words.iter().copied().filter(|word| has_word(line, word)) {
                findings.push(Finding { path: self.path.clone(), line: index + 1, word });
            }
        }
        findings
    }
}

/// Whether a line has a word that is not just a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |char: char| char.is_alphanumeric() || char == '_';
    let begins_name = word.starts_with(is_name);
    let ends_name = word.ends_with(is_name);
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !(begins_name && before.is_some_and(is_name) || ends_name && after.is_some_and(is_name))
    })
}

/// What the scan is in the middle of.
enum Within {
    Code,
    LineComment,
    /// A block comment; they nest.
    BlockComment(usize),
    /// A string, or a raw one that ends with a quote and so many hashes.
    Text(Option<usize>),
}

/// Returns Rust code with its comments and the contents of its strings left out, and every line where it was.
fn without_text(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut within = Within::Code;
    let mut rest = code;
    while let Some(char) = rest.chars().next() {
        let (taken, next) = match within {
            Within::Code => {
                let (taken, next) = open(rest, kept.chars().next_back());
                if matches!(next, Within::Code) {
                    kept.push_str(&rest[..taken]);
                }
                (taken, next)
            }
            Within::LineComment if char == '\n' => (1, Within::Code),
            Within::LineComment => (char.len_utf8(), Within::LineComment),
            Within::BlockComment(depth) if rest.starts_with("/*") => (2, Within::BlockComment(depth + 1)),
            Within::BlockComment(1) if rest.starts_with("*/") => (2, Within::Code),
            Within::BlockComment(depth) if rest.starts_with("*/") => (2, Within::BlockComment(depth - 1)),
            Within::BlockComment(depth) => (char.len_utf8(), Within::BlockComment(depth)),
            Within::Text(None) if char == '\\' => (1 + rest[1..].chars().next().map_or(0, char::len_utf8), Within::Text(None)),
            Within::Text(None) if char == '"' => (1, Within::Code),
            Within::Text(Some(hashes)) if char == '"' && rest[1..].starts_with(&"#".repeat(hashes)) => (1 + hashes, Within::Code),
            Within::Text(hashes) => (char.len_utf8(), Within::Text(hashes)),
        };
        // Whatever is left out, its line breaks stay.
        if !matches!((&within, &next), (Within::Code, Within::Code)) {
            kept.extend(rest[..taken].chars().filter(|char| *char == '\n'));
        }
        within = next;
        rest = &rest[taken..];
    }
    kept
}

/// Says how much of some code comes next, and what it leads into; `before` is the character in front of it.
fn open(code: &str, before: Option<char>) -> (usize, Within) {
    if code.starts_with("//") {
        return (2, Within::LineComment);
    }
    if code.starts_with("/*") {
        return (2, Within::BlockComment(1));
    }
    if code.starts_with('"') {
        return (1, Within::Text(None));
    }
    if !before.is_some_and(|char| char.is_alphanumeric() || char == '_') {
        let raw = ["br", "cr", "r"].iter().find_map(|prefix| code.strip_prefix(prefix));
        if let Some(hashed) = raw {
            let quoted = hashed.trim_start_matches('#');
            if quoted.starts_with('"') {
                return (code.len() - quoted.len() + 1, Within::Text(Some(hashed.len() - quoted.len())));
            }
        }
    }
    if let Some(quoted) = code.strip_prefix('\'') {
        return (1 + literal(quoted), Within::Code);
    }
    (code.chars().next().map_or(0, char::len_utf8), Within::Code)
}

/// Returns the length of a character literal behind its first quote, or 0 if that begins a lifetime.
fn literal(quoted: &str) -> usize {
    let mut chars = quoted.chars();
    match chars.next() {
        Some('\\') => quoted.char_indices().skip(2).find(|(_, char)| *char == '\'').map_or(0, |(at, _)| at + 1),
        Some(char) if chars.next() == Some('\'') => char.len_utf8() + 1,
        Some(_) | None => 0,
    }
}

/// Reads all files of `src`.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let relative = |path: &Path| path.strip_prefix(&root).expect("a file of src").to_owned();
    files(&root, "rs").iter().map(|path| Source { path: relative(path), text: read(path) }).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{} can't be read: {error}", path.display()))
}

/// Returns the files of a folder with an extension, in order, without build output.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{} can't be read: {error}", folder.display()));
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.expect("an entry of a folder").path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Writes one a line.
fn listed<T: fmt::Display>(findings: &[T]) -> String {
    findings.iter().map(|finding| format!("\n  {finding}")).collect()
}

/// Offends in nine places, and seems to in others.
const PLANTED: &str = r##"//! Does not use tokio, whatever the comment says.
/* Neither does this: HashMap,
   /* std::fs, */ Instant::now */
use std::collections::{BTreeMap, HashMap};

/// `tokio::spawn` is only mentioned.
fn is_awaited() { self.awaiting(); "std::env"; r#"SystemTime::now "quoted" std::thread"#; }
async fn offends<'a>(text: &'a str) {
    tokio::task::yield_now().await;
    let now = std::time::Instant::now(); // '"'
    let (quote, url, escaped) = ('"', "mongodb://host", "\"HashSet\\");
    let random = rand::rng();
    let home = std::env::var("HOME"); let quote = '\'';
    let kept = MyHashMap::new(); let mine = tokio_like();
    let entropy = ring::rand::SystemRandom::new(); let line = "over
        HashSet lines"; let file = std::fs::read("x");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
}
"##;
