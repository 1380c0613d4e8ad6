//! The comparison of state × event matrices with recorded ones.
//!
//! The matrices are in `fixtures/transitions/`, one line per state and event. `MONGOLINK_RECORD=1` rewrites them: a changed
//! line is a changed rule that needs a review.

use std::path::Path;

/// Compares a matrix with the one recorded under `name`, line by line.
///
/// # Panics
/// Panics if they differ, or if none has been recorded.
pub(crate) fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/transitions").join(format!("{name}.txt"));
    if std::env::var_os("MONGOLINK_RECORD").is_some_and(|value| value == "1") {
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{} can't be written: {error}", path.display()));
        return;
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} can't be read: {error}", path.display()));
    let recorded: Vec<&str> = recorded.lines().collect();
    let actual: Vec<&str> = text.lines().collect();
    for (index, line) in actual.iter().enumerate() {
        assert_eq!(recorded.get(index), Some(line), "{}: line {}", path.display(), index + 1);
    }
    assert_eq!(recorded.len(), actual.len(), "{}: recorded lines that no longer occur", path.display());
}
