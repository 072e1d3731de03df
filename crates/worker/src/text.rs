//! Texts that are cut to a size.

/// Cuts at a character, and marks the cut.
pub(crate) fn clip(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        truncate(text, bytes_max);
        text.push('…');
    }
}

/// Cuts at a character.
pub(crate) fn truncate(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
}
