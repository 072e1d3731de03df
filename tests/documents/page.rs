//! One page of Markdown: its sections by heading, the first cells of their tables, its blocks of code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the workspace").to_owned()
}

pub(crate) struct Page {
    pub(crate) path: &'static str,
    pub(crate) sections: Vec<Section>,
}

/// What stands below one heading, down to the next.
pub(crate) struct Section {
    pub(crate) heading: String,
    pub(crate) lines: Vec<String>,
}

/// A block of code: `language` is empty for one that is indented.
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn read(path: &'static str) -> Self {
        let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut sections = vec![Section { heading: String::new(), lines: Vec::new() }];
        let mut is_code = false;
        for line in text.lines() {
            is_code ^= line.starts_with("```");
            match line.trim_start_matches('#') {
                heading if !is_code && line.starts_with('#') => {
                    sections.push(Section { heading: heading.trim().to_owned(), lines: Vec::new() });
                }
                _ => sections.last_mut().expect("there is one").lines.push(line.to_owned()),
            }
        }
        Self { path, sections }
    }

    pub(crate) fn section(&self, heading: &str) -> &Section {
        let found = self.sections.iter().find(|section| section.heading == heading);
        found.unwrap_or_else(|| panic!("{}: there is no heading {heading:?}", self.path))
    }

    pub(crate) fn headings(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|section| section.heading.as_str())
    }
}

impl Section {
    /// The rows of its tables without their heads: the cells of each.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let cells = |line: &str| -> Vec<String> {
            let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
            inner.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let is_rule = |line: &str| line.starts_with("| ---") || line.starts_with("|---");
        let mut rows = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            let is_head = self.lines.get(index + 1).is_some_and(|next| is_rule(next));
            if line.starts_with('|') && !is_rule(line) && !is_head {
                rows.push(cells(line));
            }
        }
        rows
    }

    /// What the first cells of its rows spell as code.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.rows().iter().flat_map(|row| spans(&row[0])).collect()
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut is_fenced = false;
        let mut was_indented = false;
        for line in &self.lines {
            match (line.strip_prefix("```"), line.strip_prefix("    ")) {
                (Some(language), _) => {
                    is_fenced = !is_fenced;
                    if is_fenced {
                        blocks.push(Block { language: language.to_owned(), text: String::new() });
                    }
                }
                (None, _) if is_fenced => push(&mut blocks, line),
                (None, Some(code)) => {
                    if !was_indented {
                        blocks.push(Block { language: String::new(), text: String::new() });
                    }
                    push(&mut blocks, code);
                }
                (None, None) => {}
            }
            was_indented = !is_fenced && line.starts_with("    ");
        }
        blocks
    }
}

fn push(blocks: &mut [Block], line: &str) {
    let block = blocks.last_mut().expect("a line of code is in a block");
    block.text.push_str(line);
    block.text.push('\n');
}

/// The code spans of a text.
pub(crate) fn spans(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
