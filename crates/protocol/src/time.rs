//! A moment, in microseconds since the Unix epoch; RFC 3339 in UTC on the wire.
//!
//! Microseconds, because a hand-off takes well under a millisecond and the journal must still distinguish an end from
//! the start that follows it. Not here: reading a clock. Code that decides is given `now`.

use std::fmt;
use std::ops::{Add, Range, Sub};
use std::time::Duration;

use chrono::{DateTime, Datelike, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::Text;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(description = "RFC 3339, in UTC."))]
pub struct Timestamp(#[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "date-time")))] i64);

impl Timestamp {
    /// The earliest moment RFC 3339 can spell: 0000-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_167_219_200_000_000);

    /// The latest moment RFC 3339 can spell: 9999-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// `YYYY-MM-DDThh:mm:ss.uuuuuuZ`, in ASCII; what RFC 3339 can't spell is the nearest moment that it can.
    ///
    /// Digit by digit, since every message carries several moments: chrono's general formatter took a twentieth of an
    /// executor's time.
    fn written(self) -> [u8; 27] {
        let moment = DateTime::<Utc>::from(self.clamp(Self::MIN, Self::MAX));
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |digits: Range<usize>, mut number: u32| {
            for digit in text[digits].iter_mut().rev() {
                *digit += (number % 10) as u8;
                number /= 10;
            }
        };
        put(0..4, moment.year().unsigned_abs());
        put(5..7, moment.month());
        put(8..10, moment.day());
        put(11..13, moment.hour());
        put(14..16, moment.minute());
        put(17..19, moment.second());
        put(20..26, moment.timestamp_subsec_micros());
        text
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(moment: DateTime<Utc>) -> Self {
        Self(moment.timestamp_micros())
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(moment: Timestamp) -> Self {
        DateTime::from_timestamp_micros(moment.0).unwrap_or(DateTime::UNIX_EPOCH)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros)).min(Self::MAX)
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(as_str(&self.written()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(as_str(&self.written()))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        DateTime::parse_from_rfc3339(&text)
            .ok()
            .map(|moment| Self::from(moment.with_timezone(&Utc)))
            // Its offset may have carried it out of the years that can be written.
            .filter(|moment| (Self::MIN..=Self::MAX).contains(moment))
            .ok_or_else(|| {
                let shown = crate::duration::clip(&text);
                serde::de::Error::custom(format!("{shown:?} is no RFC 3339 time such as 2026-11-21T08:30:00Z"))
            })
    }
}

fn as_str(written: &[u8; 27]) -> &str {
    std::str::from_utf8(written).expect("digits and marks are ASCII")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_moment_is_written_as_chrono_writes_it(micros in Timestamp::MIN.0..=Timestamp::MAX.0) {
            let moment = Timestamp(micros);
            let expected = DateTime::<Utc>::from(moment).to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            prop_assert_eq!(moment.to_string(), expected);
        }
    }

    #[test]
    fn a_moment_is_rfc_3339_on_the_wire_and_keeps_its_microseconds() {
        let moment = Timestamp::from_micros(1_763_713_800_000_123);
        let json = serde_json::to_string(&moment).expect("a string");
        assert_eq!(json, "\"2025-11-21T08:30:00.000123Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("reads back"), moment);
        let offset: Timestamp = serde_json::from_str("\"2025-11-21T09:30:00+01:00\"").expect("offsets are understood");
        assert_eq!(offset.as_micros(), 1_763_713_800_000_000);
    }

    #[test]
    fn sums_stop_at_the_last_moment_that_can_be_written() {
        assert_eq!(Timestamp::from_micros(0) + Duration::MAX, Timestamp::MAX);
        assert!(Timestamp::MAX.to_string().starts_with("9999-12-31"));
    }

    #[test]
    fn a_moment_that_could_not_be_written_again_is_not_read() {
        assert_eq!(Timestamp::MIN.to_string(), "0000-01-01T00:00:00.000000Z");
        for beyond in ["0000-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"] {
            assert!(serde_json::from_str::<Timestamp>(&format!("\"{beyond}\"")).is_err(), "{beyond}");
        }
    }
}
