//! The Rust files of the repository as `tests/tidy.rs` looks at them: which characters are code, which
//! comment, which the content of a string; which lines belong to unit tests; which paths of the crate
//! a file uses.
//!
//! A scanner of characters, not a parser of Rust: it knows comments, strings, raw strings and
//! character literals, and takes the layout that `cargo fmt` makes for granted.

use std::fs;
use std::path::{Path, PathBuf};

/// What a character of a source file is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Code,
    Comment,
    /// Between the quotes of a string.
    Text,
}

#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the repository, as in `src/proto/node.rs`.
    pub(crate) path: String,
    pub(crate) raw: Vec<String>,
    /// The lines with comments and contents of strings blanked.
    pub(crate) code: Vec<String>,
    /// Characters of each line that are not the content of a string.
    pub(crate) widths: Vec<usize>,
    /// Lines before the `#[cfg(test)] mod tests` at the end of the file.
    pub(crate) production: usize,
}

impl Source {
    pub(crate) fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = path.strip_prefix(root).expect("below the root").to_string_lossy();
        Self::new(name.into_owned(), &text)
    }

    pub(crate) fn new(path: String, text: &str) -> Self {
        let classes = classify(text);
        let (mut code, mut widths, mut line, mut width) = (vec![], vec![], String::new(), 0);
        for (character, class) in text.chars().zip(classes) {
            if character == '\n' {
                code.push(std::mem::take(&mut line));
                widths.push(std::mem::take(&mut width));
                continue;
            }
            line.push(if class == Class::Code { character } else { ' ' });
            width += usize::from(class != Class::Text);
        }
        if !line.is_empty() {
            code.push(line);
            widths.push(width);
        }
        let raw: Vec<String> = text.lines().map(str::to_owned).collect();
        let tests = |at: &usize| {
            code[*at].trim() == "#[cfg(test)]"
                && code.get(at + 1).is_some_and(|next| next.starts_with("mod "))
        };
        let all_tests = path.starts_with("tests/") || path.ends_with("/tests.rs");
        let first = (0..code.len()).find(tests).unwrap_or(code.len());
        let production = if all_tests { 0 } else { first };
        Self { path, raw, code, widths, production }
    }

    /// `proto::node` for `src/proto/node.rs`, `proto` for `src/proto/mod.rs`.
    pub(crate) fn module(&self) -> Option<String> {
        let inner = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        Some(inner.trim_end_matches("/mod").replace('/', "::"))
    }

    /// Lines outside unit tests, counted from 1.
    pub(crate) fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code[..self.production].iter().map(String::as_str))
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.iter().map(String::as_str))
    }

    /// Every path below the crate that production code names, `types::Label` for
    /// `use crate::types::{Label, ...}` and the like, with the line it begins at.
    pub(crate) fn crate_paths(&self) -> Vec<(usize, String)> {
        let module = self.module().unwrap_or_default();
        let own: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
        let text = self.code[..self.production].join("\n");
        let mut found = Vec::new();
        for (prefix, base) in [
            ("crate::", vec![]),
            ("spanway::", vec![]),
            ("super::", own[..own.len().saturating_sub(1)].to_vec()),
            ("self::", own.clone()),
        ] {
            for (at, _) in text.match_indices(prefix) {
                let before = text[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let line = text[..at].matches('\n').count() + 1;
                let base: Vec<String> = base.iter().map(|&part| part.to_owned()).collect();
                for path in use_tree(&text[at + prefix.len()..], &base) {
                    found.push((line, path));
                }
            }
        }
        found
    }
}

/// All Rust files below the folders, sorted, without build output.
pub(crate) fn sources(root: &Path, folders: &[&str]) -> Vec<Source> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in folders {
        collect(&root.join(folder), &mut paths);
    }
    paths.sort();
    paths.iter().map(|path| Source::read(root, path)).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.map(|entry| entry.expect("a readable folder").path()) {
        if entry.is_dir() {
            if entry.file_name().is_some_and(|name| name != "target") {
                collect(&entry, paths);
            }
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            paths.push(entry);
        }
    }
}

/// The paths of one `use` tree or one path expression, each at most until its first item.
fn use_tree(text: &str, base: &[String]) -> Vec<String> {
    let (paths, _) = tree(text, base);
    paths
}

/// Reads one tree and says how many bytes it took.
fn tree(text: &str, base: &[String]) -> (Vec<String>, usize) {
    let mut path = base.to_vec();
    let mut at = text.len() - text.trim_start().len();
    loop {
        let rest = &text[at..];
        if rest.starts_with('{') {
            return group(text, at, &path);
        }
        let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        match &rest[..length] {
            "super" => drop(path.pop()),
            "" => {}
            segment => path.push(segment.to_owned()),
        }
        at += length;
        if text[at..].starts_with("::") && length > 0 {
            at += 2;
        } else {
            return (vec![path.join("::")], at);
        }
    }
}

fn group(text: &str, open: usize, base: &[String]) -> (Vec<String>, usize) {
    let mut paths = Vec::new();
    let mut at = open + 1;
    while at < text.len() {
        let rest = &text[at..];
        let first = rest.chars().next().unwrap_or('}');
        if first == '}' {
            return (paths, at + 1);
        }
        if first == ',' || first == '*' || first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (inner, used) = tree(rest, base);
        paths.extend(inner);
        // `as NAME` and anything unknown is skipped up to the next item.
        at += used.max(1);
        let skipped = text[at..].find([',', '}']).unwrap_or(0);
        at += skipped;
    }
    (paths, at)
}

fn classify(text: &str) -> Vec<Class> {
    let characters: Vec<char> = text.chars().collect();
    let mut classes = vec![Class::Code; characters.len()];
    let mut at = 0;
    while at < characters.len() {
        let next = match characters[at] {
            '/' if characters.get(at + 1) == Some(&'/') => {
                mark(&characters, &mut classes, at, Class::Comment, |c, i| c[i] == '\n')
            }
            '/' if characters.get(at + 1) == Some(&'*') => {
                let end = |c: &[char], i: usize| i > at + 3 && c[i - 2] == '*' && c[i - 1] == '/';
                mark(&characters, &mut classes, at, Class::Comment, end)
            }
            '"' => string(&characters, &mut classes, at),
            'r' | 'b' if starts_raw(&characters, at) => raw_string(&characters, &mut classes, at),
            '\'' => character(&characters, &mut classes, at),
            _ => at + 1,
        };
        at = next;
    }
    classes
}

fn mark(
    characters: &[char],
    classes: &mut [Class],
    from: usize,
    class: Class,
    ends: impl Fn(&[char], usize) -> bool,
) -> usize {
    let mut at = from;
    while at < characters.len() && !ends(characters, at) {
        classes[at] = class;
        at += 1;
    }
    at
}

fn string(characters: &[char], classes: &mut [Class], from: usize) -> usize {
    let mut at = from + 1;
    while at < characters.len() && characters[at] != '"' {
        let step = if characters[at] == '\\' { 2 } else { 1 };
        classes[at..characters.len().min(at + step)].fill(Class::Text);
        at += step;
    }
    at + 1
}

fn starts_raw(characters: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).map(|i| characters[i]);
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return false;
    }
    let r = if characters[at] == 'b' { at + 1 } else { at };
    if characters.get(r) != Some(&'r') {
        return false;
    }
    let quote = characters[r + 1..].iter().position(|&c| c != '#').map(|hashes| r + 1 + hashes);
    quote.is_some_and(|quote| characters[quote] == '"')
}

fn raw_string(characters: &[char], classes: &mut [Class], from: usize) -> usize {
    let open = from + characters[from..].iter().position(|&c| c == '"').expect("it starts raw");
    let hashes = characters[from..open].iter().filter(|&&c| c == '#').count();
    let closes = |c: &[char], i: usize| {
        c[i] == '"' && i + hashes < c.len() && c[i + 1..=i + hashes].iter().all(|&c| c == '#')
    };
    mark(characters, classes, open + 1, Class::Text, closes) + 1 + hashes
}

/// A character literal or, if it is none, the quote of a lifetime.
fn character(characters: &[char], classes: &mut [Class], from: usize) -> usize {
    let escaped = characters.get(from + 1) == Some(&'\\');
    let end = if escaped {
        characters[from + 3..].iter().position(|&c| c == '\'').map(|i| from + 3 + i)
    } else {
        (characters.get(from + 2) == Some(&'\'')).then_some(from + 2)
    };
    let Some(end) = end else { return from + 1 };
    classes[from + 1..end].fill(Class::Text);
    end + 1
}
