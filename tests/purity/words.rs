//! The words of the code and the documents: standard terms, comments that are noun phrases or begin with a verb.
//!
//! Refuses doc comments that begin with "Is", module heads that are questions, and a short list of private terms.

use std::path::{Path, PathBuf};

use super::{files, read};

/// Terms that have a standard name instead. Matched as whole words, in identifiers also as whole parts.
const PRIVATE_WORDS: [(&str, &str); 11] = [
    ("desk", "thread cache"),
    ("apart", "padded"),
    ("hall", "event bus"),
    ("speaker", "publisher"),
    ("deed", "effect"),
    ("former", "retired"),
    ("overhear", "traffic check"),
    ("bury", "mark dead"),
    ("gossip", "hello"),
    ("sign of life", "liveness"),
    ("stripes", "shards"),
];

/// The places in which only the form of doc comments is checked, beside `src`.
const CODE: [&str; 4] = ["tests", "benches", "examples", "fuzz"];

/// The documents, beside every file in `docs`.
const DOCUMENTS: [&str; 2] = ["README.md", "ARCHITECTURE.md"];

#[test]
fn source_and_documents_use_standard_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = files(&root.join("src"), "rs");
    let documents: Vec<PathBuf> = DOCUMENTS.iter().map(|name| root.join(name)).chain(files(&root.join("docs"), "md")).collect();
    // The packed crate has not all of these folders.
    let code = CODE.iter().map(|folder| root.join(folder)).filter(|folder| folder.exists()).flat_map(|folder| files(&folder, "rs"));
    let mut faults = Vec::new();
    let mut add = |path: &Path, found: Vec<String>| {
        let path = path.strip_prefix(root).unwrap_or(path).display();
        faults.extend(found.into_iter().map(|fault| format!("{path}:{fault}")));
    };
    for path in source.iter().chain(&documents) {
        add(path, words(&read(path)));
    }
    for path in &source {
        add(path, question(&read(path)).into_iter().collect());
    }
    for path in source.iter().cloned().chain(code) {
        add(&path, sentences(&read(&path)));
    }
    assert!(source.len() > 100 && documents.len() > 2, "the files are elsewhere");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn planted_words_are_found_with_their_lines() {
    let planted = "//! What is\n//! a pool?\n/// Is a pool.\nstruct SpeakerDesk;\nfn take_deed(stripes: u8) {} // the former\n/// A liveness probe, once a sign of life.\n";
    let found: Vec<String> = question(planted).into_iter().chain(sentences(planted)).chain(words(planted)).collect();
    let lines: Vec<(usize, &str)> =
        vec![(2, "?"), (3, "/// Is"), (4, "speaker"), (4, "desk"), (5, "deed"), (5, "stripes"), (5, "former"), (6, "sign of life")];
    for (line, word) in &lines {
        assert!(found.iter().any(|fault| fault.starts_with(&format!("{line}: ")) && fault.contains(word)), "{word}: {found:?}");
    }
    assert_eq!(found.len(), lines.len(), "{found:?}");
    for innocent in
        ["/// Issues a command.\n", "// Is this so?\n", "let information = performer; // partly", "fn is_a() {}", "Hello, Halle\n"]
    {
        assert!(question(innocent).is_none() && sentences(innocent).is_empty() && words(innocent).is_empty(), "{innocent}");
    }
}

/// Returns the doc comments of a text that begin with "Is": `line: fault`.
fn sentences(text: &str) -> Vec<String> {
    let is_sentence = |(_, line): &(usize, &str)| line.trim_start().starts_with("/// Is ");
    text.lines().enumerate().filter(is_sentence).map(|(index, line)| format!("{}: {}", index + 1, line.trim())).collect()
}

/// Returns the head of a file if it is a question: `line: fault`.
fn question(text: &str) -> Option<String> {
    let head: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//! ")).collect();
    head.last().filter(|end| end.ends_with('?')).map(|end| format!("{}: {end}", head.len()))
}

/// Returns the private words of a text: `line: word: standard term`.
fn words(text: &str) -> Vec<String> {
    let of_line = |(index, line): (usize, &str)| {
        let spaced = format!(" {} ", spaced(line));
        let found = PRIVATE_WORDS.iter().filter(move |(word, _)| spaced.contains(&format!(" {word} ")));
        found.map(move |(word, standard)| format!("{}: {word}: say {standard}", index + 1))
    };
    text.lines().enumerate().flat_map(of_line).collect()
}

/// Splits a line into words and identifiers into their parts, in lower case, separated by one blank.
fn spaced(line: &str) -> String {
    let mut out = String::new();
    let mut was_lower = false;
    for char in line.chars() {
        let is_start = char.is_uppercase() && was_lower;
        if (is_start || !char.is_alphanumeric()) && !out.ends_with(' ') {
            out.push(' ');
        }
        if char.is_alphanumeric() {
            out.extend(char.to_lowercase());
        }
        was_lower = char.is_lowercase();
    }
    out
}
