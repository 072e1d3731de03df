//! The names of a type's members as serde spells them: a type passes them to its deserializer.

use std::collections::BTreeSet;

use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

/// The members of `T`, a struct.
pub(crate) fn of<'de, T: Deserialize<'de>>() -> BTreeSet<String> {
    let mut names = None;
    let read = T::deserialize(Asked(&mut names));
    assert!(read.is_err(), "nothing was given to read");
    names.unwrap_or_else(|| panic!("{} is no plain struct", std::any::type_name::<T>()))
}

/// The members of a struct that refuses unknown ones: it names those that it knows.
pub(crate) fn of_strict<T: for<'de> Deserialize<'de>>(known: &str) -> BTreeSet<String> {
    let text = format!(r#"{{{known}"zzz": 1}}"#);
    let message = match serde_json::from_str::<T>(&text) {
        Ok(_) => panic!("{} takes what it does not know", std::any::type_name::<T>()),
        Err(error) => error.to_string(),
    };
    let (_, names) = message.split_once("expected one of ").unwrap_or_else(|| panic!("{message}"));
    let (names, _) = names.split_once(" at line").unwrap_or((names, ""));
    names.split(", ").map(|name| name.trim_matches('`').to_owned()).collect()
}

struct Asked<'a>(&'a mut Option<BTreeSet<String>>);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("there is nothing to read"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = Some(fields.iter().map(|&name| name.to_owned()).collect());
        Err(Error::custom("the names are known"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
