//! TOML files of the program: every error names the file, the line, the key, and the key that was probably meant.
//!
//! Not here: which keys there are (`file`, `actions`).

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use slotline_protocol::did_you_mean;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::show::output::clean;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A file and its text.
pub(crate) struct TomlFile {
    path: PathBuf,
    text: String,
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("can't read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {message}", path.display())]
    Wrong { path: PathBuf, line: usize, message: String },
}

impl TomlFile {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let read = || {
            if fs::metadata(path)?.len() > FILE_BYTES_MAX {
                return Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
            }
            fs::read_to_string(path)
        };
        let text = read().map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok(Self::new(path, text))
    }

    pub(crate) fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text }
    }

    pub(crate) fn table(&self) -> Result<Spanned<DeTable<'_>>, Error> {
        DeTable::parse(&self.text).map_err(|error| self.wrong(error.span(), first_line(error.message())))
    }

    /// Reads `table`, found in the file under `name` (empty: the file itself).
    pub(crate) fn parse<T: DeserializeOwned>(&self, table: Spanned<DeTable<'_>>, name: &str) -> Result<T, Error> {
        let whole = table.span();
        serde_path_to_error::deserialize(toml::Deserializer::from(table)).map_err(|error| {
            let path = error.path().to_string();
            let span = error.inner().span().or(Some(whole));
            let key = match (name, path.as_str()) {
                ("", "." | "?") => String::new(),
                (name, "." | "?") => format!("{name}: "),
                ("", path) => format!("{path}: "),
                (name, path) => format!("{name}.{path}: "),
            };
            self.wrong(span, format!("{key}{}", suggest(error.inner().message())))
        })
    }

    /// An error at `span`; without one, at the first line.
    pub(crate) fn wrong(&self, span: Option<Range<usize>>, message: impl Into<String>) -> Error {
        let line = span.map_or(1, |span| self.line(span.start));
        // A key in quotes may have any character.
        let message = clean(&message.into());
        Error::Wrong { path: self.path.clone(), line, message }
    }

    /// The 1-based line of a byte.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }
}

/// Where `path` (`retry.max_attempts`) stands in `table`, as far as it is spelt out there.
pub(crate) fn locate(table: &DeTable<'_>, path: &str) -> Option<Range<usize>> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    match (value.get_ref(), rest) {
        (DeValue::Table(inner), Some(rest)) => locate(inner, rest).or_else(|| Some(key.span())),
        _ => Some(key.span()),
    }
}

/// Turns serde's "unknown field `a`, expected one of `b`, `c`" into the one name that was probably meant.
fn suggest(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else { return plain(message) };
    let mut names = rest.split('`').step_by(2);
    let unknown = names.next().unwrap_or_default();
    let known: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    format!("unknown key `{unknown}`{}", did_you_mean(unknown, &known))
}

/// Replaces serde's names of types by those of TOML.
fn plain(message: &str) -> String {
    let Some((found, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.split_once(", expected "))
    else {
        return message.to_owned();
    };
    let (kind, value) = match found.split_once(' ') {
        Some((kind, value)) => (kind, value.trim_matches('`')),
        None => (found, ""),
    };
    let found = match kind {
        "string" => format!("the text {value}"),
        "integer" | "floating" => format!("the number {}", value.trim_start_matches("point `")),
        "map" => "a table".to_owned(),
        "sequence" => "a list".to_owned(),
        "boolean" => value.to_owned(),
        _ => found.to_owned(),
    };
    let expected = match (expected, kind) {
        ("a sequence", "string") => format!("a list, such as {}", as_list(value)),
        ("a sequence", _) => "a list".to_owned(),
        ("a map", _) => "a table".to_owned(),
        ("a string", _) => "a text in quotes".to_owned(),
        ("a boolean", _) => "true or false".to_owned(),
        ("u8" | "u16" | "u32" | "u64" | "usize", _) => "a whole number, not below zero".to_owned(),
        (other, _) => other.strip_prefix("struct ").map_or_else(|| other.to_owned(), |_| "a table".to_owned()),
    };
    format!("found {found}, expected {expected}")
}

/// `["echo", "hello"]` of `"echo hello"`.
fn as_list(quoted: &str) -> String {
    let words = quoted.trim_matches('"').split_whitespace().map(|word| format!("\"{word}\""));
    format!("[{}]", words.collect::<Vec<_>>().join(", "))
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}
