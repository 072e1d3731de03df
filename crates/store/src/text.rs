//! Text from outside that PostgreSQL would refuse: U+0000 is a valid character, but not in a `text` column.
//!
//! Hidden reversibly, so that one hostile string neither spoils a batch nor collides with another. Ordinary text is
//! stored as it is. JSON needs none of this: it spells the character `\u0000`.

use std::borrow::Cow;

/// Opens a text that holds hidden characters, and each hidden character in it.
const MARK: char = '\u{1}';

/// What to store for `text`. Different texts give different results.
pub(crate) fn hide(text: &str) -> Cow<'_, str> {
    if !text.contains('\0') && !text.starts_with(MARK) {
        return Cow::Borrowed(text);
    }
    let mut hidden = String::from(MARK);
    for character in text.chars() {
        match character {
            '\0' => hidden.extend([MARK, '0']),
            MARK => hidden.extend([MARK, '1']),
            other => hidden.push(other),
        }
    }
    Cow::Owned(hidden)
}

/// The text that was stored as `stored`.
pub(crate) fn show(stored: &str) -> String {
    let Some(hidden) = stored.strip_prefix(MARK) else {
        return stored.to_owned();
    };
    let mut text = String::with_capacity(hidden.len());
    let mut characters = hidden.chars();
    while let Some(character) = characters.next() {
        match character {
            MARK => text.push(if characters.next() == Some('0') { '\0' } else { MARK }),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_text_is_stored_as_it_is() {
        for text in ["", "plain", "'; DROP TABLE live; --", "\\u0000", "ünïcödé 🦀", "a\u{1}b"] {
            assert_eq!(hide(text), text);
        }
    }

    proptest! {
        #[test]
        fn every_text_reads_back_and_is_stored_without_nul(text in "[\\x00\\x01a0\\\\é]{0,12}") {
            let hidden = hide(&text);
            prop_assert!(!hidden.contains('\0'));
            prop_assert_eq!(show(&hidden), text);
        }
    }
}
