//! Durations as people write them: `"1m 30s"`, or a number of seconds. For `#[serde(with = "duration")]`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// No duration in a policy or message may be longer: 366 days.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The most characters of an invalid text that an error repeats.
const SHOWN_CHARS_MAX: usize = 40;

/// Reads `"300ms"`, `"1h 5m"`, or seconds as a bare number (`"60"`).
pub fn parse(text: &str) -> Result<Duration, String> {
    let parsed = match text.trim().parse::<f64>() {
        Ok(seconds) => return from_seconds(seconds),
        Err(_) => humantime::parse_duration(text.trim()),
    };
    parsed
        .map_err(|_| {
            let shown = clip(text);
            format!("{shown:?} is no duration: expected for example \"300ms\", \"60s\" or \"1h 30m\"")
        })
        .and_then(bounded)
}

/// The text, shortened for an error.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// A duration of so many seconds.
pub fn from_seconds(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| format!("{seconds} is no duration: expected a number of seconds, not negative"))
        .and_then(bounded)
}

fn bounded(duration: Duration) -> Result<Duration, String> {
    if duration <= LONGEST { Ok(duration) } else { Err("a duration can't be longer than 366 days".to_owned()) }
}

/// The shortest spelling that [`parse`] reads back.
pub fn format(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a duration such as \"300ms\" or \"60s\", or a number of seconds")]
enum Spelling {
    Text(String),
    Seconds(f64),
}

impl Spelling {
    fn read<E: serde::de::Error>(self) -> Result<Duration, E> {
        match self {
            Self::Text(text) => parse(&text),
            Self::Seconds(seconds) => from_seconds(seconds),
        }
        .map_err(E::custom)
    }
}

pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Spelling::deserialize(deserializer)?.read()
}

/// The same for `Option<Duration>`; `null` is `None`.
pub mod optional {
    use super::{Deserialize, Deserializer, Duration, Serializer, Spelling};

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<Spelling>::deserialize(deserializer)?.map(Spelling::read).transpose()
    }
}

/// `Option<Duration>` as a JSON number of seconds, for the wire fields named `..._seconds`.
pub mod seconds {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) if duration.subsec_nanos() == 0 => serializer.serialize_u64(duration.as_secs()),
            Some(duration) => serializer.serialize_f64(duration.as_secs_f64()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<f64>::deserialize(deserializer)?.map(super::from_seconds).transpose().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_words_or_seconds_and_bounded() {
        assert_eq!(parse("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("60"), Ok(Duration::from_secs(60)));
        for bad in ["", "soon", "-1s", "-1", "NaN", "inf", "1000years"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_repeats_no_more_of_a_long_text_than_tells_it() {
        let error = parse(&"ü".repeat(100_000)).expect_err("no duration");
        assert!(error.contains(&format!("{}...", "ü".repeat(SHOWN_CHARS_MAX))), "{error}");
        assert!(error.chars().count() < SHOWN_CHARS_MAX + 100, "{error}");
        assert!(parse(&"x".repeat(SHOWN_CHARS_MAX)).is_err_and(|error| !error.contains("...")));
    }
}
