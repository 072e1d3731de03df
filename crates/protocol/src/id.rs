//! Names of things: small `Copy` numbers for what the executor counts, checked strings for what people choose.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidNumber;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self).map_err(|_| InvalidNumber)
            }
        }
    };
}

number! {
    /// One request to run an action. Ascends in the order in which the journal took the requests.
    ExecutionId
}
number! {
    /// An action's key in the journal.
    ActionId
}
number! {
    /// The fencing token: rises with every grant of a slot, never repeats. An attempt passes it on to the systems it
    /// writes to.
    Fence
}
number! {
    /// One term of one leader. Rises with every change of leadership and guards every commit.
    Epoch
}

/// One life of one worker process: a new process, or a process past its fence, is a new incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Incarnation(pub Uuid);

/// Compares the bytes as one number, since every decision looks incarnations up.
impl Ord for Incarnation {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_u128().cmp(&other.0.as_u128())
    }
}

impl PartialOrd for Incarnation {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not the number of an execution, an action, an epoch or a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a whole number such as 42")]
pub struct InvalidNumber;

/// Why a string is not a valid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no valid {what}: expected {expected}")]
pub struct InvalidName {
    what: &'static str,
    found: String,
    expected: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and takes it as a name.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    let found = text.chars().take(160).collect();
                    Err(InvalidName { what: $what, found, expected: $expected })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let crate::text::Text(text) = serde::Deserialize::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

name! {
    /// What people call an action: `pack.name`, two or more words joined by dots, at most 128 characters.
    ActionRef, "action_ref",
    "pack.name: words of letters, digits, '_' and '-' joined by dots, at most 128 characters",
    |text| text.len() <= 128 && text.contains('.') && text.split('.').all(is_word)
}
name! {
    /// What people call a worker; part of its queue's name. At most 64 characters.
    WorkerName, "worker name",
    "letters, digits, '_', '-' and '.', at most 64 characters",
    |text| text.len() <= 64 && text.split('.').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_ref_is_a_pack_and_a_name() {
        for good in ["deploy.app", "a.b.c", "A-1.b_2"] {
            assert_eq!(ActionRef::new(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "deploy", ".app", "deploy.", "a..b", "a b.c", "ä.b", &format!("a.{}", "b".repeat(127))] {
            let error = ActionRef::new(bad).expect_err(bad).to_string();
            assert!(error.contains("action_ref") && error.contains("pack.name"), "{error}");
        }
    }
}
