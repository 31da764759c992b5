//! Tables of text that fit 80 columns.
//!
//! Columns are as wide as their widest cell. If that is too much, those that may shrink are cut with an
//! ellipsis, the widest first; if that is not enough, columns of large numbers become rounded ones
//! (`12.3M`), and then any is cut. With `--wide` nothing is. Widths count characters, which is right for
//! names (ASCII) and close enough elsewhere.

use std::io::{self, Write};

use super::screen::Style;

/// What a terminal has at least.
pub(super) const WIDTH: usize = 80;
/// Between two columns.
const GAP: usize = 2;
/// A cut column keeps this much.
const CUT_MIN: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Table {
    heads: Vec<Head>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Head {
    title: &'static str,
    right: bool,
    shrinks: bool,
}

#[derive(Debug)]
struct Row {
    cells: Vec<String>,
    /// Lines below, indented.
    notes: Vec<String>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A column of words.
    pub(super) fn column(self, title: &'static str) -> Self {
        self.push(Head { title, right: false, shrinks: false })
    }

    /// A column of numbers, aligned right.
    pub(super) fn number(self, title: &'static str) -> Self {
        self.push(Head { title, right: true, shrinks: false })
    }

    /// A column that is cut if the table is too wide.
    pub(super) fn elastic(self, title: &'static str) -> Self {
        self.push(Head { title, right: false, shrinks: true })
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.heads.len(), "a cell for each column");
        self.rows.push(Row { cells, notes: Vec::new() });
    }

    /// A line below the last row.
    pub(super) fn note(&mut self, note: String) {
        if let Some(row) = self.rows.last_mut() {
            row.notes.push(note);
        }
    }

    pub(super) fn write(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let (widths, short) =
            if style.wide { (self.natural(&[]), Vec::new()) } else { self.fitted() };
        let titles: Vec<String> = self.heads.iter().map(|head| head.title.to_owned()).collect();
        writeln!(out, "{}", style.dim(&self.line(&titles, &widths)))?;
        for row in &self.rows {
            writeln!(out, "{}", self.line(&shortened(&row.cells, &short), &widths))?;
            for note in &row.notes {
                writeln!(out, "  {note}")?;
            }
        }
        Ok(())
    }

    fn push(mut self, head: Head) -> Self {
        self.heads.push(head);
        self
    }

    /// What fits, and which columns have rounded numbers for it.
    fn fitted(&self) -> (Vec<usize>, Vec<bool>) {
        let mut short = vec![false; self.heads.len()];
        loop {
            let mut widths = self.natural(&short);
            narrow(&mut widths, CUT_MIN, |column| self.heads[column].shrinks);
            if total(&widths) <= WIDTH {
                return (widths, short);
            }
            let numbers = (0..widths.len()).filter(|&n| self.heads[n].right && !short[n]);
            let Some(widest) = numbers.max_by_key(|&column| widths[column]) else {
                narrow(&mut widths, 1, |_| true);
                return (widths, short);
            };
            short[widest] = true;
        }
    }

    fn natural(&self, short: &[bool]) -> Vec<usize> {
        let mut widths: Vec<usize> =
            self.heads.iter().map(|head| head.title.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(shortened(&row.cells, short)) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((head, cell), &width) in self.heads.iter().zip(cells).zip(widths) {
            if !line.is_empty() {
                line.push_str(&" ".repeat(GAP));
            }
            let cell = cut(cell, width);
            if head.right {
                line.push_str(&format!("{cell:>width$}"));
            } else {
                line.push_str(&format!("{cell:<width$}"));
            }
        }
        line.trim_end().to_owned()
    }
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

/// Takes what is too much from the widest of the columns that `may` shrink, down to `least`.
fn narrow(widths: &mut [usize], least: usize, may: impl Fn(usize) -> bool) {
    while total(widths) > WIDTH {
        let wide = (0..widths.len()).filter(|&column| may(column) && widths[column] > least);
        let Some(widest) = wide.max_by_key(|&column| widths[column]) else { return };
        widths[widest] -= 1;
    }
}

fn shortened(cells: &[String], short: &[bool]) -> Vec<String> {
    let short = short.iter().chain(std::iter::repeat(&false));
    let cell = |(cell, short): (&String, &bool)| match cell.parse() {
        Ok(number) if *short => rounded(number),
        _ => cell.clone(),
    };
    cells.iter().zip(short).map(cell).collect()
}

/// Four figures and a letter at most: `999`, `12.3k`, `18.4E`.
fn rounded(number: u64) -> String {
    let mut unit = 1;
    for letter in ["", "k", "M", "G", "T", "P", "E"] {
        if number / unit < 1_000 {
            let tenths = number % unit / (unit / 10).max(1);
            return match letter {
                "" => number.to_string(),
                letter => format!("{}.{tenths}{letter}", number / unit),
            };
        }
        unit = unit.saturating_mul(1_000);
    }
    number.to_string()
}

/// At most `width` characters, the last an ellipsis if some are missing.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Words joined by `joint`, wrapped to the width behind `indent` blanks on every line but the first.
pub(super) fn wrap(words: &[String], joint: &str, indent: usize) -> String {
    let mut text = String::new();
    let mut column = indent;
    for (index, word) in words.iter().enumerate() {
        let piece = if index == 0 { word.clone() } else { format!("{joint}{word}") };
        let long = piece.chars().count();
        if index > 0 && column + long > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            let piece = piece.trim_start();
            column = indent + piece.chars().count();
            text.push_str(piece);
        } else {
            column += long;
            text.push_str(&piece);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_eighty_columns_whatever_is_in_it() {
        let mut table = Table::new().column("ID").elastic("PEER").number("RATE");
        table.row(vec!["peer-01:0123456789abcdef:1".into(), "p".repeat(63), "1 Mbit/s".into()]);
        table.row(vec!["x".into(), "y".into(), "1000 Mbit/s".into()]);
        table.note("path a > b".into());
        let mut out = Vec::new();
        table.write(&mut out, Style { colour: false, wide: false }).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("peer-01:0123456789abcdef:1"), "{text}");
        assert!(text.contains('…'), "{text}");
        assert!(text.ends_with("  path a > b\n"), "{text}");
    }

    #[test]
    fn large_numbers_are_rounded_only_where_they_have_no_room() {
        let of = |columns: usize, wide| {
            let heads =
                (0..columns).fold(Table::new().elastic("NAME"), |table, _| table.number("N"));
            let mut table = heads;
            let number = 12_345_678_901_234_567_890_u64.to_string();
            table.row(std::iter::once("n".repeat(63)).chain(vec![number; columns]).collect());
            let mut out = Vec::new();
            table.write(&mut out, Style { colour: false, wide }).expect("written");
            String::from_utf8(out).expect("text")
        };
        assert!(of(2, false).contains("12345678901234567890"), "{}", of(2, false));
        for columns in [4, 6, 12, 20] {
            let text = of(columns, false);
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
            assert!(columns > 6 || text.contains("12.3E"), "{text}");
            let wide = of(columns, true);
            assert!(
                wide.contains(&"n".repeat(63)) && wide.contains("12345678901234567890"),
                "{wide}"
            );
        }
        assert_eq!(
            [0, 999, 1_000, 999_999, 1_500_000].map(rounded),
            ["0", "999", "1.0k", "999.9k", "1.5M"]
        );
    }

    #[test]
    fn long_paths_wrap_behind_their_title() {
        let path: Vec<String> = (10..40).map(|n| format!("peer-{n}")).collect();
        let text = wrap(&path, " > ", 7);
        assert!(text.lines().count() > 1);
        for (index, line) in text.lines().enumerate() {
            let column = if index == 0 { 7 } else { 0 };
            assert!(column + line.chars().count() <= WIDTH, "{line}");
        }
        assert_eq!(text.matches("peer-").count(), 30);
    }
}
