//! The command line of a program.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Holds arguments of the form `--name value` and `--name`, and the words between them.
#[derive(Debug, Default)]
pub struct Args {
    words: Vec<String>,
    options: BTreeMap<String, Vec<String>>,
}

impl Args {
    /// Reads the program's arguments: what follows a `--name` belongs to it.
    pub fn read() -> Self {
        let mut args = Self::default();
        let mut open: Option<String> = None;
        for word in std::env::args().skip(1) {
            match (word.strip_prefix("--"), &open) {
                (Some(name), _) => {
                    args.options.entry(name.to_owned()).or_default();
                    open = Some(name.to_owned());
                }
                (None, Some(name)) => args.options.entry(name.clone()).or_default().push(word),
                (None, None) => args.words.push(word),
            }
        }
        args
    }

    /// Returns the words before the first `--name`.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Tells whether a name was given.
    pub fn has(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    /// Returns the words that follow a name.
    pub fn all(&self, name: &str) -> &[String] {
        self.options.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns the word that follows a name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.all(name).first().map(String::as_str)
    }

    /// Returns the word that follows a name, which can't be missing.
    ///
    /// # Panics
    /// If it is.
    pub fn needed(&self, name: &str) -> &str {
        self.text(name).unwrap_or_else(|| panic!("--{name} is missing"))
    }

    /// Returns the value that follows a name.
    ///
    /// # Panics
    /// If it can't be read.
    pub fn value<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).map(|text| text.parse().unwrap_or_else(|_| panic!("--{name} {text} can't be read")))
    }
}
