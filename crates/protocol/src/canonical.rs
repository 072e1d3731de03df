//! One spelling for all JSON of the same meaning: members in the order of their names, no spaces, no needless escapes,
//! and all digits of a number, however many.
//!
//! It decides whether two requests with one `message_id` are the same request, and whether two concurrency keys are the
//! same key. RFC 8785 is close, but reads numbers as floats: two different integers beyond 2^53 would be equal.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::value::RawValue;

/// The most zeros written before or after the digits of a number. With more, it is written with an exponent, so that no
/// spelling is much longer than its source.
const ZEROS_MAX: i64 = 40;

/// The one spelling of `json`, which is valid JSON and no deeper than [`crate::envelope::DEPTH_MAX`].
pub fn canonical(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    JsonReader { json, at: 0 }.value(&mut out);
    out
}

/// The one spelling of a number: `7` for `7.0`, `70e-1` and `7`.
pub fn number(text: &str) -> String {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0').trim_end_matches('0');
    if digits.is_empty() {
        return "0".to_owned();
    }
    let is_small = exponent.starts_with('-');
    let exponent: i64 = exponent.parse().unwrap_or(if is_small { i64::MIN / 2 } else { i64::MAX / 2 });
    // The zeros after the digits; if negative, the number of digits after the point.
    let behind = (all.len() - all.trim_end_matches('0').len()) as i64;
    let zeros = exponent.saturating_sub(fraction.len() as i64).saturating_add(behind);
    let before_the_point = digits.len() as i64 + zeros;
    if zeros > ZEROS_MAX || before_the_point < -ZEROS_MAX {
        return format!("{sign}{digits}e{zeros}");
    }
    match usize::try_from(zeros) {
        Ok(zeros) => format!("{sign}{digits}{}", "0".repeat(zeros)),
        Err(_) => match usize::try_from(before_the_point) {
            Ok(point @ 1..) => format!("{sign}{}.{}", &digits[..point], &digits[point..]),
            Ok(0) | Err(_) => format!("{sign}0.{}{digits}", "0".repeat(before_the_point.unsigned_abs() as usize)),
        },
    }
}

/// The text of the value at a JSON pointer (RFC 6901), if there is one.
pub fn at<'j>(json: &'j str, pointer: &str) -> Option<&'j str> {
    let mut value: &RawValue = serde_json::from_str(json).ok()?;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        value = match value.get().as_bytes().first()? {
            b'{' => {
                let members: BTreeMap<String, &RawValue> = serde_json::from_str(value.get()).ok()?;
                members.get(&step).copied()?
            }
            _ => {
                let members: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
                members.get(step.parse::<usize>().ok()?).copied()?
            }
        };
    }
    Some(value.get())
}

struct JsonReader<'j> {
    json: &'j str,
    at: usize,
}

impl<'j> JsonReader<'j> {
    /// Reads the next value, and writes its one spelling.
    fn value(&mut self, out: &mut String) {
        match self.peek() {
            b'{' => self.object(out),
            b'[' => self.array(out),
            b'"' => {
                let text = self.string();
                if text.contains('\\') {
                    let unescaped: String = serde_json::from_str(text).unwrap_or_default();
                    out.push_str(&serde_json::to_string(&unescaped).unwrap_or_default());
                } else {
                    out.push_str(text);
                }
            }
            first => {
                let rest = &self.json[self.at..];
                let end = rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
                let token = &rest[..end];
                // No token of valid JSON is empty; on anything else the reader still moves on.
                self.at += end.max(1);
                match first {
                    b'-' | b'0'..=b'9' => out.push_str(&number(token)),
                    _ => out.push_str(token),
                }
            }
        }
    }

    fn object(&mut self, out: &mut String) {
        self.at += 1;
        let begin = out.len();
        let mut members: Vec<(Cow<'j, str>, Range<usize>)> = Vec::new();
        while self.peek() == b'"' {
            let text = self.string();
            let name = match text.contains('\\') {
                true => Cow::Owned(serde_json::from_str(text).unwrap_or_default()),
                false => Cow::Borrowed(text.trim_matches('"')),
            };
            // The colon.
            self.peek();
            self.at += 1;
            let from = out.len();
            out.push_str(&serde_json::to_string(&name).unwrap_or_default());
            out.push(':');
            self.value(out);
            members.push((name, from..out.len()));
            if self.peek() == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        members.sort_by(|one, other| one.0.cmp(&other.0));
        let sorted: Vec<&str> = members.iter().map(|(_, range)| &out[range.clone()]).collect();
        let object = format!("{{{}}}", sorted.join(","));
        out.replace_range(begin.., &object);
    }

    fn array(&mut self, out: &mut String) {
        self.at += 1;
        out.push('[');
        while !matches!(self.peek(), b']' | 0) {
            self.value(out);
            if self.peek() == b',' {
                self.at += 1;
                out.push(',');
            }
        }
        self.at += 1;
        out.push(']');
    }

    /// The string that begins here, with its quotes.
    fn string(&mut self) -> &'j str {
        let from = self.at;
        let bytes = self.json.as_bytes();
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += match byte {
                b'\\' => 2,
                _ => 1,
            };
            if *byte == b'"' {
                break;
            }
        }
        &self.json[from..self.at.min(self.json.len())]
    }

    /// The next byte that is no space; 0 at the end.
    fn peek(&mut self) -> u8 {
        let rest = &self.json.as_bytes()[self.at.min(self.json.len())..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.json.as_bytes().get(self.at).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_means_the_same_has_one_spelling() {
        for (one, other) in [
            (r#"{"a":1,"b":2}"#, "{ \"b\" : 2.0,\n\t\"a\" : 10e-1 }"),
            (r#"{"a":{"x":1,"y":[1,2]},"b":""}"#, r#"{"b":"","a":{"y":[1, 2],"x":1}}"#),
            (r#"["a/b", "é"]"#, r#"["a\/b", "\u00e9"]"#),
            ("[-0, 0.0, 0e9]", "[0,0,0]"),
            (r#"{"a\"b":1,"a":2}"#, r#"{"a":2,"a\u0022b":1}"#),
            ("{}", " { } "),
        ] {
            assert_eq!(canonical(one), canonical(other));
        }
    }

    #[test]
    fn what_means_something_else_has_another_spelling() {
        for (one, other) in [
            ("12345678901234567890123", "12345678901234567890124"),
            ("[1,2]", "[2,1]"),
            ("1", "\"1\""),
            ("null", "\"null\""),
            ("[[1],2]", "[1,[2]]"),
            (r#"{"a":"b","c":"d"}"#, r#"{"a":"d","c":"b"}"#),
            (r#"{"a":{}}"#, r#"{"a":[]}"#),
            ("0.1", "0.10000000000000000001"),
        ] {
            assert_ne!(canonical(one), canonical(other));
        }
    }

    #[test]
    fn a_number_is_its_digits() {
        for (text, expected) in [
            ("7", "7"),
            ("7.0", "7"),
            ("70e-1", "7"),
            ("7E0", "7"),
            ("-7.50", "-7.5"),
            ("0.001", "0.001"),
            ("1e-3", "0.001"),
            ("1.5e2", "150"),
            ("12.34e1", "123.4"),
            ("-0.0", "0"),
            ("12345678901234567890123", "12345678901234567890123"),
            ("1e22", "10000000000000000000000"),
            ("1e1000", "1e1000"),
            ("25e-1000", "25e-1000"),
            ("1e99999999999999999999", &format!("1e{}", i64::MAX / 2)),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn a_value_is_found_as_it_is_written() {
        let json = r#"{"a": {"b/c": [1, 2.50]}, "~": 7, "": {"": true}}"#;
        for (pointer, expected) in [
            ("/a/b~1c/1", Some("2.50")),
            ("/~0", Some("7")),
            ("//", Some("true")),
            ("", Some(json)),
            ("/a/b", None),
            ("/a/b~1c/2", None),
            ("/~0/x", None),
        ] {
            assert_eq!(at(json, pointer), expected, "{pointer}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..6).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_written_keeps_its_meaning_and_is_its_own_spelling(value in json()) {
            let once = canonical(&value.to_string());
            prop_assert_eq!(&canonical(&serde_json::to_string_pretty(&value).expect("JSON")), &once);
            prop_assert_eq!(&canonical(&once), &once);
            let read: Value = serde_json::from_str(&once).expect("JSON");
            prop_assert_eq!(canonical(&read.to_string()), once);
        }
    }
}
