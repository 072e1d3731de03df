//! What a line is called within its action.

use std::sync::Arc;

/// The concurrency key of a line, the name of the line that executions without one share, or that of the only line
/// where keys do not matter.
///
/// Compared by a digest first: among a million lines, most comparisons then need not go where the text is. The order
/// means nothing, but is the same every time; keys of one digest are compared by their text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LineKey {
    digest: u64,
    text: Option<Arc<str>>,
}

impl LineKey {
    /// Of all executions, where the action has no limit for each key.
    pub(crate) const WHOLE: Self = Self { digest: 0, text: None };
    /// Of the executions without a key, where it has one: they share a line, and the limit.
    pub(crate) const KEYLESS: Self = Self { digest: 1, text: None };

    pub(crate) fn new(text: Arc<str>) -> Self {
        Self { digest: digest(text.as_bytes()), text: Some(text) }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    pub(crate) fn digest(&self) -> u32 {
        (self.digest ^ (self.digest >> u32::BITS)) as u32
    }

    /// Whether the limit of each key is that of this line as well.
    pub(crate) fn has_limit(&self) -> bool {
        *self != Self::WHOLE
    }
}

/// FNV-1a (Fowler, Noll, Vo).
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_by_their_text_whatever_their_digest() {
        let key = |text: &str| LineKey::new(Arc::from(text));
        assert_eq!(key("a"), key("a"));
        assert_ne!(key("a").cmp(&key("b")), std::cmp::Ordering::Equal);
        let collided = LineKey { digest: key("a").digest, ..key("b") };
        assert_ne!(collided.cmp(&key("a")), std::cmp::Ordering::Equal);
        assert!(!LineKey::WHOLE.has_limit() && LineKey::KEYLESS.has_limit() && key("").has_limit());
        assert_ne!(LineKey::KEYLESS, key(""), "an empty key is one");
        assert_eq!(digest(b"foobar"), 0x8594_4171_f739_67e8, "as its authors have it");
    }
}
