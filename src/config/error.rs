//! What is wrong with a configuration, where, and what to write instead: one line for a person.

use std::fmt;
use std::path::{Path, PathBuf};

/// Longest piece of a file that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// One mistake in a configuration file.
///
/// `peer-01.toml:7:12: link.capacity: "10" has no unit: write a number and a unit, as in ...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// Missing where the file as a whole is the trouble (it cannot be read, a reload is refused).
    pub position: Option<Position>,
    /// Path of the key, as in `service.video.listen`; empty if no key is to blame.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub text: String,
}

/// A place in a text, both counted from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl ConfigError {
    /// An error of the whole file.
    pub(super) fn of_file(file: &Path, key: &str, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), position: None, key: key.to_owned(), text: text.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}

impl std::error::Error for ConfigError {}

/// The position of the byte `at` of `text`; a place behind the end is the end.
pub(super) fn position(text: &str, at: usize) -> Position {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

/// A piece of the file for an error line: cut, and nothing in it can break the line.
pub(super) fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut.push_str("...");
    }
    cut.escape_debug().to_string()
}

/// The word of `words` that is nearest to what was written, if it can have been meant.
pub(super) fn nearest<'w>(written: &str, words: &[&'w str]) -> Option<&'w str> {
    if written.chars().count() > SHOWN_CHARS_MAX {
        return None;
    }
    let far = |word: &str| word.chars().count().div_ceil(3);
    words
        .iter()
        .map(|word| (distance(written, word), *word))
        .filter(|(distance, word)| *distance <= far(word))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Least number of letters to insert, remove or replace (Levenshtein), case ignored.
fn distance(one: &str, other: &str) -> usize {
    let letters = |text: &str| text.to_lowercase().chars().collect::<Vec<_>>();
    let (one, other) = (letters(one), letters(other));
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_stranger_has_none() {
        let words = ["name", "listen", "capacity", "heartbeats_missed"];
        assert_eq!(nearest("capasity", &words), Some("capacity"));
        assert_eq!(nearest("Listen", &words), Some("listen"));
        assert_eq!(nearest("heartbeat_missed", &words), Some("heartbeats_missed"));
        assert_eq!(nearest("colour", &words), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), &words), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "a = 1\nb\u{e4} = 2\n";
        assert_eq!(position(text, 0), Position { line: 1, column: 1 });
        assert_eq!(position(text, text.find('2').unwrap_or(0)), Position { line: 2, column: 6 });
        assert_eq!(position(text, 8), Position { line: 2, column: 2 });
        assert_eq!(position(text, 1_000), Position { line: 3, column: 1 });
    }

    #[test]
    fn an_error_is_one_line_whatever_the_file_says() {
        assert_eq!(shown("a\nb\u{202e}"), "a\\nb\\u{202e}");
        assert_eq!(shown(&"x".repeat(100)), format!("{}...", "x".repeat(60)));
    }
}
