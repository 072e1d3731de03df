//! The name of a request.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The first character of a name that is more than a `message_id`.
const MARK: char = '\u{1f}';

/// A request's `message_id`, and the broker's user that published it, if the broker vouches for that: two publishers
/// that log in as different users and set the AMQP property `user_id` can't take each other's names.
///
/// One text stands for both, in the journal and between executors and workers. Without a user it is the `message_id`
/// alone; no `message_id` can be taken for the name of another user's request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestName(String);

impl RequestName {
    pub fn new(user: Option<&str>, message_id: &str) -> Self {
        match user {
            None if !message_id.starts_with(MARK) => Self(message_id.to_owned()),
            _ => {
                let user = user.unwrap_or_default();
                Self(format!("{MARK}{}:{user}{message_id}", user.len()))
            }
        }
    }

    /// A name from its text.
    pub fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The text that stands for the name.
    pub fn as_text(&self) -> &str {
        &self.0
    }

    pub fn message_id(&self) -> &str {
        self.parts().1
    }

    /// The user, if the broker vouched for one.
    pub fn user(&self) -> Option<&str> {
        Some(self.parts().0).filter(|user| !user.is_empty())
    }

    fn parts(&self) -> (&str, &str) {
        let parts = || {
            let (length, rest) = self.0.strip_prefix(MARK)?.split_once(':')?;
            rest.split_at_checked(length.parse().ok()?)
        };
        parts().unwrap_or(("", &self.0))
    }

    /// How many bytes its text takes in memory.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

/// For people: the `message_id`, with the user before it if there is one.
impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user().map_or(Cow::Borrowed(""), |user| Cow::Owned(format!("{user}/")));
        write!(f, "{user}{}", self.message_id())
    }
}

/// The name of a request without a user.
impl From<&str> for RequestName {
    fn from(message_id: &str) -> Self {
        Self::new(None, message_id)
    }
}

impl From<String> for RequestName {
    fn from(message_id: String) -> Self {
        Self::new(None, &message_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_user_is_its_message_id() {
        let name = RequestName::new(None, "m-1");
        assert_eq!((name.as_text(), name.message_id(), name.user()), ("m-1", "m-1", None));
        assert_eq!(name.to_string(), "m-1");
    }

    #[test]
    fn one_users_names_are_not_anothers_whatever_the_message_id_is() {
        let mut seen = std::collections::BTreeSet::new();
        let odd = format!("{MARK}5:alicem-1");
        let ids = ["m-1", "", "1", "1:m-1", odd.as_str(), "\u{1f}", "\u{1f}0:", "é"];
        for user in [None, Some("alice"), Some("alicem"), Some("bob"), Some("é"), Some("\u{1f}5:alice")] {
            for id in ids {
                let name = RequestName::new(user, id);
                assert_eq!((name.user(), name.message_id()), (user, id));
                assert_eq!(RequestName::from_text(name.as_text().to_owned()), name);
                assert!(seen.insert(name), "{user:?} {id:?} is another's");
            }
        }
    }
}
