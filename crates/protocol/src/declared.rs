//! Objects that have only declared members, and a publisher's own.
//!
//! A misspelt member must not count as left out: the action would run without it. So an unknown member is refused, with
//! the name that was probably meant. Names that begin with `x-` are the publisher's own and are skipped. An array in an
//! object's place is refused, too; serde would take its elements as the members in order.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};

use crate::text::Text;

/// The prefix of a publisher's own members.
const OWN: &str = "x-";

/// Makes the two implementations of a struct with `#[serde(remote = "Self")]`: read through [`Strict`], written as
/// derived.
macro_rules! declared {
    ($($struct:ty),*) => {$(
        impl<'de> serde::Deserialize<'de> for $struct {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$struct>::deserialize($crate::declared::Strict(deserializer))
            }
        }

        impl serde::Serialize for $struct {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                <$struct>::serialize(self, serializer)
            }
        }
    )*};
}
pub(crate) use declared;

/// The least likeness of a name that is suggested.
const ALIKE: f64 = 0.6;
/// The same among many names, where one is always somewhat alike.
const ALIKE_AMONG_MANY: f64 = 0.85;

/// `: did you mean ...`, or the names that there are.
pub fn did_you_mean(unknown: &str, known: &[&str]) -> String {
    match most_alike(unknown, known.iter().copied()) {
        Some((alike, name)) if alike >= ALIKE => format!(": did you mean `{name}`?"),
        Some(_) => format!(": expected one of {}", known.join(", ")),
        None => String::new(),
    }
}

/// `: did you mean ...`, or nothing; for long lists of names.
pub fn perhaps_meant<'n>(unknown: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    match most_alike(unknown, known) {
        Some((alike, name)) if alike >= ALIKE_AMONG_MANY => format!(": did you mean `{name}`?"),
        Some(_) | None => String::new(),
    }
}

fn most_alike<'n>(unknown: &str, known: impl IntoIterator<Item = &'n str>) -> Option<(f64, &'n str)> {
    let unknown = unknown.to_lowercase();
    let alike = known.into_iter().map(|name| (strsim::jaro_winkler(&unknown, name), name));
    alike.max_by(|a, b| a.0.total_cmp(&b.0))
}

/// Wraps a deserializer so that a struct is given its declared members only.
pub(crate) struct Strict<D>(pub(crate) D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Object { visitor, names })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Takes an object, and nothing else.
struct Object<V> {
    visitor: V,
    names: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Object<V> {
    type Value = V::Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Other spellings of a member are accepted but not listed.
        let is_snake_case = |name: &&str| !name.contains(|c: char| c == '-' || c.is_ascii_uppercase());
        let names: Vec<&str> = self.names.iter().copied().filter(is_snake_case).collect();
        write!(out, "an object with {}", names.join(", "))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(DeclaredMembers { members, names: self.names })
    }
}

struct DeclaredMembers<A> {
    members: A,
    names: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for DeclaredMembers<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(Text(name)) = self.members.next_key()? {
            if self.names.contains(&&*name) {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            if name.starts_with(OWN) {
                let IgnoredAny = self.members.next_value()?;
                continue;
            }
            // As an error of the value, it gets the path of the member.
            self.members.next_value_seed(UnknownMember { name: &name, names: self.names })?;
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.members.next_value_seed(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.members.size_hint()
    }
}

/// Refuses the value of an unknown member.
struct UnknownMember<'n> {
    name: &'n str,
    names: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for UnknownMember<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        let meant = did_you_mean(self.name, self.names);
        Err(D::Error::custom(format_args!("unknown member `{}`{meant}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use crate::envelope::parse;
    use crate::message::{CancelRequested, Requested};

    fn refused(json: &str) -> (String, String) {
        let (path, error) = parse::<Requested>(json).expect_err(json);
        (path.unwrap_or_default(), error.to_string())
    }

    #[test]
    fn an_unknown_member_is_refused_by_name_with_the_nearest_valid_one() {
        for (name, path, meant) in [
            ("params", "params", "parameters"),
            ("paramters", "paramters", "parameters"),
            ("timeout", "timeout", "timeout_seconds"),
            ("concurencyKey", "concurencyKey", "concurrency_key"),
        ] {
            let (found, message) = refused(&format!(r#"{{"action_ref": "a.b", "{name}": {{"app": "web"}}}}"#));
            let expected = format!("unknown member `{name}`: did you mean `{meant}`?");
            assert!(found == path && message.starts_with(&expected), "{found}: {message}");
        }
        let (found, message) = refused(r#"{"action_ref": "a.b", "progress": {"interval": "1s"}}"#);
        let meant = "unknown member `interval`: did you mean `update";
        assert!(found == "progress.interval" && message.starts_with(meant), "{found}: {message}");
        for name in ["priority", "run_at", "", "X-Own"] {
            let (_, message) = refused(&format!(r#"{{"action_ref": "a.b", "{name}": 1}}"#));
            assert!(message.starts_with(&format!("unknown member `{name}`: ")), "{message}");
        }
        assert!(serde_json::from_str::<CancelRequested>(r#"{"id": 1}"#).is_err());
    }

    #[test]
    fn members_of_the_publishers_own_are_skipped() {
        let json = r#"{"x-team": {"a": [1]}, "action_ref": "a.b", "parameters": {"app": "web"}, "x-": null}"#;
        let request: Requested = serde_json::from_str(json).expect(json);
        assert_eq!((request.action_ref.as_str(), request.parameters.get()), ("a.b", r#"{"app": "web"}"#));
    }

    #[test]
    fn an_array_is_no_request_whatever_stands_in_it() {
        let (_, message) = refused(r#"["demo.echo", {}, null, null, {}, "accepted"]"#);
        assert!(message.starts_with("invalid type: sequence, expected an object"), "{message}");
    }

    #[test]
    fn a_member_twice_is_refused() {
        assert!(refused(r#"{"action_ref": "a.b", "action_ref": "a.c"}"#).1.starts_with("duplicate field `action_ref`"));
    }
}
