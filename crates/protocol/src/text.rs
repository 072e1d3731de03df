//! A string as it stands in the JSON text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Copied only where an escape makes it differ from what is in the text. (`Cow` by itself is always copied, and
/// `&str` does not take escapes.)
pub(crate) struct Text<'t>(pub(crate) Cow<'t, str>);

impl<'de: 't, 't> Deserialize<'de> for Text<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Take;

        impl<'de> Visitor<'de> for Take {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                self.visit_string(text.to_owned())
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }

        deserializer.deserialize_str(Take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_escape_is_copied() {
        let Text(plain) = serde_json::from_str(r#""plain""#).expect("a string");
        assert!(matches!(plain, Cow::Borrowed("plain")));
        let Text(escaped) = serde_json::from_str(r#""two\nlines""#).expect("a string");
        assert_eq!(escaped, "two\nlines");
        let Text(owned) = Text::deserialize(serde_json::Value::from("a value's own")).expect("a string");
        assert_eq!(owned, "a value's own");
    }
}
