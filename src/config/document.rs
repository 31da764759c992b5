//! TOML as tables and values that know their key and their place, so that every error can name both.
//!
//! Knows no key of Spanway; [`super::file`] does. The `toml` crate reads the text.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, nearest, position, shown};
use super::values;
use crate::types::Bandwidth;

/// The text an error points into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'d> {
    pub(super) file: &'d Path,
    pub(super) text: &'d str,
}

impl<'d> Source<'d> {
    /// Reads the syntax; keys and values come later.
    pub(super) fn read(self) -> Result<Spanned<DeTable<'d>>, ConfigError> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        // The first in the file: those behind it are often only its consequences.
        let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
        let Some(error) = errors.iter().min_by_key(|error| start(error)) else {
            return Ok(table);
        };
        if error.message() == "duplicate key" {
            let written = error.span().and_then(|span| self.text.get(span)).unwrap_or_default();
            let text = "is written twice here: keep one of them";
            return Err(self.error(start(error), &shown(written), text));
        }
        let text = format!("this is not TOML: {}", error.message().replace('\n', " "));
        Err(self.error(start(error), "", text))
    }

    pub(super) fn error(&self, at: usize, key: &str, text: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            position: Some(position(self.text, at)),
            key: key.to_owned(),
            text: text.into(),
        }
    }

    pub(super) fn line(&self, at: usize) -> usize {
        position(self.text, at).line
    }
}

/// A table: the file itself, a `[section]`, or one of several `[[section]]`.
#[derive(Clone, Debug)]
pub(super) struct Section<'d> {
    source: Source<'d>,
    /// Path of the table's keys, with the point behind it; empty for the file itself.
    prefix: String,
    at: usize,
    table: &'d DeTable<'d>,
}

impl<'d> Section<'d> {
    pub(super) fn root(source: Source<'d>, table: &'d DeTable<'d>) -> Self {
        Self { source, prefix: String::new(), at: 0, table }
    }

    /// Refuses every key that is none of `keys`.
    pub(super) fn only(&self, keys: &[&str]) -> Result<(), ConfigError> {
        let unknown = |key: &&Spanned<_>| !keys.contains(&AsRef::<str>::as_ref(key.get_ref()));
        let first = |key: &&Spanned<_>| key.span().start;
        let Some(key) = self.table.keys().filter(unknown).min_by_key(first) else {
            return Ok(());
        };
        let meant = match nearest(key.get_ref(), keys) {
            Some(near) => format!("did you mean `{near}`?"),
            None if keys.is_empty() => "none are allowed here".to_owned(),
            None => format!("allowed here: {}", keys.join(", ")),
        };
        let path = format!("{}{}", self.prefix, shown(key.get_ref()));
        Err(self.source.error(key.span().start, &path, format!("unknown key: {meant}")))
    }

    pub(super) fn item(&self, key: &str) -> Option<Item<'d>> {
        let value = self.table.get(key)?;
        Some(Item {
            source: self.source,
            key: format!("{}{key}", self.prefix),
            at: value.span().start,
            value: value.get_ref(),
        })
    }

    /// `example` is a whole line that would do.
    pub(super) fn required(&self, key: &str, example: &str) -> Result<Item<'d>, ConfigError> {
        self.item(key).ok_or_else(|| {
            let path = format!("{}{key}", self.prefix);
            self.source.error(self.at, &path, format!("is missing: write {example}"))
        })
    }

    /// The tables of `[[key]]`, in the order of the file.
    pub(super) fn sections(&self, key: &str) -> Result<Vec<Self>, ConfigError> {
        let Some(item) = self.item(key) else { return Ok(Vec::new()) };
        let wrong = |item: &Item<'_>| item.error(format!("is a list of tables: write [[{key}]]"));
        item.list().map_err(|_| wrong(&item))?.iter().map(|one| one.section(wrong)).collect()
    }

    /// The table `[key]`.
    pub(super) fn section(&self, key: &str) -> Result<Option<Self>, ConfigError> {
        let wrong = |item: &Item<'_>| item.error(format!("is a table: write [{key}]"));
        self.item(key).map(|item| item.section(wrong)).transpose()
    }

    /// The tables `[key.NAME]` with the NAME of each.
    pub(super) fn named_sections(&self, key: &str) -> Result<Vec<(Item<'d>, Self)>, ConfigError> {
        let wrong = |item: &Item<'_>| item.error(format!("is a table: write [{key}.NAME]"));
        let Some(all) = self.section(key).map_err(|mut error| {
            error.text = format!("is a table of tables: write [{key}.NAME]");
            error
        })?
        else {
            return Ok(Vec::new());
        };
        let mut entries: Vec<_> = all.table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let entry = |(name, value): &(&'d Spanned<_>, &'d Spanned<DeValue<'d>>)| {
            let name: &'d Spanned<std::borrow::Cow<'d, str>> = name;
            let key = format!("{}{}", all.prefix, shown(name.get_ref()));
            let at = value.span().start;
            let item = Item { source: self.source, key, at, value: value.get_ref() };
            let section = item.section(wrong)?;
            Ok((Item { at: name.span().start, ..item }, section))
        };
        entries.iter().map(entry).collect()
    }

    pub(super) fn file(&self) -> &'d Path {
        self.source.file
    }

    /// An error of the table itself.
    pub(super) fn error(&self, text: impl Into<String>) -> ConfigError {
        self.source.error(self.at, self.prefix.trim_end_matches('.'), text)
    }
}

/// A value with its key and its place.
#[derive(Clone, Debug)]
pub(super) struct Item<'d> {
    source: Source<'d>,
    key: String,
    at: usize,
    value: &'d DeValue<'d>,
}

impl<'d> Item<'d> {
    pub(super) fn error(&self, text: impl Into<String>) -> ConfigError {
        self.source.error(self.at, &self.key, text)
    }

    pub(super) fn line(&self) -> usize {
        self.source.line(self.at)
    }

    /// The last part of the key: NAME of `[service.NAME]`.
    pub(super) fn last_key(&self) -> &str {
        self.key.split_once('.').map_or(self.key.as_str(), |(_, last)| last)
    }

    pub(super) fn text(&self, example: &str) -> Result<&'d str, ConfigError> {
        self.value.as_str().ok_or_else(|| {
            self.error(format!("{} is no text: write {example}, in quotes", self.written()))
        })
    }

    pub(super) fn parse<T>(&self, example: &str) -> Result<T, ConfigError>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.text(example)?.parse().map_err(|error: T::Err| self.error(error.to_string()))
    }

    /// A rate; a bare number is told that it needs a unit, not that it is no text.
    pub(super) fn rate(&self) -> Result<Bandwidth, ConfigError> {
        let number = match self.value {
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.to_string()),
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                None
            }
        };
        match number {
            Some(text) => text
                .parse()
                .map_err(|error: crate::types::BandwidthError| self.error(error.to_string())),
            None => Err(self.error(format!(
                "{} is no rate: write a number and a unit, as in \"25 Mbit/s\"",
                self.written()
            ))),
        }
    }

    pub(super) fn address(&self, example: &str) -> Result<SocketAddr, ConfigError> {
        values::address(self.text(example)?).map_err(|text| self.error(text))
    }

    pub(super) fn prefix(&self) -> Result<(IpAddr, u8), ConfigError> {
        values::prefix(self.text("\"192.168.1.0/24\"")?).map_err(|text| self.error(text))
    }

    pub(super) fn duration(&self, from: Duration, to: Duration) -> Result<Duration, ConfigError> {
        let example = "a number and a unit, as in \"25ms\" or \"5s\"";
        let written = match self.value.as_integer() {
            // Told that it needs a unit, not that it is no text.
            Some(number) => number.to_string(),
            None => self.text(example)?.to_owned(),
        };
        let duration = values::duration(&written).map_err(|text| self.error(text))?;
        if duration < from || duration > to {
            let text = format!("{} is out of range: {from:?} to {to:?}", self.written());
            return Err(self.error(text));
        }
        Ok(duration)
    }

    /// The value as a number, if it is one that is not negative.
    pub(super) fn integer(&self) -> Option<u64> {
        let integer = self.value.as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    /// A whole number of a range.
    pub(super) fn number<T: TryFrom<u64>>(&self, from: u64, to: u64) -> Result<T, ConfigError> {
        let fits = self.integer().filter(|number| (from..=to).contains(number));
        fits.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            self.error(format!(
                "{} does not fit: write a whole number from {from} to {to}, without quotes",
                self.written()
            ))
        })
    }

    pub(super) fn flag(&self) -> Result<bool, ConfigError> {
        self.value.as_bool().ok_or_else(|| {
            self.error(format!(
                "{} is neither: write true or false, without quotes",
                self.written()
            ))
        })
    }

    pub(super) fn list(&self) -> Result<Vec<Self>, ConfigError> {
        let Some(values) = self.value.as_array() else {
            return Err(self.error(format!("{} is no list: write [ ... ]", self.written())));
        };
        let item = |value: &'d Spanned<DeValue<'d>>| Self {
            source: self.source,
            key: self.key.clone(),
            at: value.span().start,
            value: value.get_ref(),
        };
        Ok(values.iter().map(item).collect())
    }

    fn section(&self, wrong: impl Fn(&Self) -> ConfigError) -> Result<Section<'d>, ConfigError> {
        self.table().ok_or_else(|| wrong(self))
    }

    /// The value as a table, if it is one.
    pub(super) fn table(&self) -> Option<Section<'d>> {
        let table = self.value.as_table()?;
        Some(Section { source: self.source, prefix: format!("{}.", self.key), at: self.at, table })
    }

    /// The value as the file has it, for an error.
    pub(super) fn written(&self) -> String {
        match self.value {
            DeValue::String(text) => format!("\"{}\"", shown(text)),
            DeValue::Integer(number) => shown(&number.to_string()),
            DeValue::Float(number) => shown(&number.to_string()),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        }
    }
}
