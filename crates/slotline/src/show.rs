//! What people see: text, tables, and the drawing of `watch`.
//!
//! `output` is the only way out; all else makes text for it. Not here: asking the API (`client`).

pub(crate) mod describe;
pub(crate) mod end;
pub(crate) mod format;
pub(crate) mod output;
pub(crate) mod prompt;
pub(crate) mod screen;
pub(crate) mod style;
mod table;
pub(crate) mod terminal;
mod view;
