//! How much progress a publisher wants to receive: the `progress` member of a request.
//!
//! Absent or `{}` is the default of one event a second; `null` is quiet; otherwise `update_interval` (the least time
//! between two events) and `update_step` (units of progress after which the next is sent), whichever comes first.
//! Each key may also be spelt `updateInterval` or `update-interval`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::declared::declared;

/// The interval where the request names none.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// How much progress an execution reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Detail {
    /// One plain event a second.
    #[default]
    Default,
    /// Phases, messages and errors only.
    Quiet,
    /// At least `interval` apart, or every `step` units, whichever comes first. At least one is set.
    Negotiated { interval: Option<Duration>, step: Option<u64> },
}

#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, remote = "Self")]
struct WireDetail {
    #[serde(alias = "updateInterval", alias = "update-interval", with = "crate::duration::optional")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    update_interval: Option<Duration>,
    #[serde(alias = "updateStep", alias = "update-step", deserialize_with = "step")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    update_step: Option<u64>,
}

declared!(WireDetail);

fn step<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Option::<serde_json::Number>::deserialize(deserializer)? {
        None => Ok(None),
        Some(number) => match number.as_u64() {
            Some(step) if step >= 1 => Ok(Some(step)),
            _ => Err(serde::de::Error::custom(format!(
                "update_step is {number}: expected an integer of at least 1, or null"
            ))),
        },
    }
}

impl<'de> Deserialize<'de> for Detail {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Option::<WireDetail>::deserialize(deserializer)? {
            None => Self::Quiet,
            Some(WireDetail { update_interval: None, update_step: None }) => Self::Default,
            Some(WireDetail { update_interval, update_step }) => {
                Self::Negotiated { interval: update_interval, step: update_step }
            }
        })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Detail {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Detail".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        <Option<WireDetail>>::json_schema(generator)
    }
}

impl Serialize for Detail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Default => WireDetail::default().serialize(serializer),
            Self::Quiet => serializer.serialize_none(),
            Self::Negotiated { interval, step } => {
                WireDetail { update_interval: interval, update_step: step }.serialize(serializer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Request {
        #[serde(default)]
        progress: Detail,
    }

    fn read(json: &str) -> Result<Detail, serde_json::Error> {
        serde_json::from_str::<Request>(json).map(|request| request.progress)
    }

    #[test]
    fn the_three_spellings_mean_the_same() {
        let expected = Detail::Negotiated { interval: Some(Duration::from_millis(300)), step: Some(5) };
        for json in [
            r#"{"progress": {"update_interval": "300ms", "update_step": 5}}"#,
            r#"{"progress": {"updateInterval": "300ms", "updateStep": 5}}"#,
            r#"{"progress": {"update-interval": "300ms", "update-step": 5}}"#,
        ] {
            assert_eq!(read(json).expect(json), expected);
        }
    }

    #[test]
    fn absent_empty_and_null_are_told_apart() {
        assert_eq!(read("{}").expect("absent"), Detail::Default);
        assert_eq!(read(r#"{"progress": {}}"#).expect("empty"), Detail::Default);
        assert_eq!(read(r#"{"progress": {"update_interval": null}}"#).expect("nulls"), Detail::Default);
        assert_eq!(read(r#"{"progress": null}"#).expect("null"), Detail::Quiet);
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for step in ["0", "-1", "1.5"] {
            let error = read(&format!(r#"{{"progress": {{"update_step": {step}}}}}"#)).expect_err(step).to_string();
            assert!(error.contains("update_step"), "{error}");
        }
        assert!(read(r#"{"progress": {"update_interval": "soon"}}"#).is_err());
        assert!(read(r#"{"progress": 5}"#).is_err());
    }
}
