//! What the parameters of a request may hold: only what every later reader reads as the publisher wrote it.
//!
//! They travel as text and are read again and again: by the action's schema, by the reader of the concurrency key, by
//! handlers, by scripts in any language, and as the environment of commands. Readers differ in what they make of half a
//! character, of a number beyond their range, of a member that is there twice: some fail, some take the first, some the
//! last. So such parameters are refused on arrival, by name.
//!
//! One pass over the text; only the names in objects that are still open are kept.

use std::borrow::Cow;
use std::fmt::Write;

/// The most levels of arrays and objects: readers of JSON give up at 100 (Ruby) or soon after (128 levels here).
pub const DEPTH_MAX: usize = 100;
/// What the environment variables of parameters start with.
pub const VARIABLE_PREFIX: &str = "SLOTLINE_PARAM_";
/// The most members of an object that are compared pair by pair; with more, the names are sorted first.
const FEW: usize = 16;
/// The longest number without an exponent that needs no closer look: a float has up to 309 digits before the point.
const DIGITS_MAX: usize = 300;
/// The most characters of a number that are shown.
const SHOWN_CHARS_MAX: usize = 40;

/// Which parameter is refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameters{pointer}: {message}")]
pub struct InvalidParameters {
    /// JSON pointer to the value.
    pub pointer: String,
    pub message: String,
}

/// The environment variable in which a command finds its parameter of this name, without [`VARIABLE_PREFIX`]: upper
/// case, and `_` for each character that a shell does not allow in a name.
pub fn variable(name: &str) -> String {
    characters(name).collect()
}

fn characters(name: &str) -> impl Iterator<Item = char> {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
}

/// Whether every reader reads these parameters alike. `json` is valid JSON already.
pub fn check(json: &str) -> Result<(), InvalidParameters> {
    if json == "{}" {
        return Ok(());
    }
    Scan { json, at: 0, levels: Vec::new(), names: Vec::new() }.run()
}

struct Scan<'j> {
    json: &'j str,
    at: usize,
    levels: Vec<OpenLevel>,
    /// The names in all objects that are open; the last is that of the member being read.
    names: Vec<Cow<'j, str>>,
}

/// An array or object that is open.
enum OpenLevel {
    Array {
        index: usize,
    },
    Object {
        /// Where its names begin.
        names: usize,
        /// The next string is a name.
        expects_name: bool,
    },
}

impl<'j> Scan<'j> {
    fn run(mut self) -> Result<(), InvalidParameters> {
        while let Some(byte) = self.json.as_bytes().get(self.at).copied() {
            match byte {
                b'{' | b'[' => self.open(byte)?,
                b'}' | b']' => self.close()?,
                b',' => self.next_member(),
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    fn open(&mut self, byte: u8) -> Result<(), InvalidParameters> {
        if self.levels.len() == DEPTH_MAX {
            return Err(self.refuse(format!("expected at most {DEPTH_MAX} levels of arrays and objects")));
        }
        self.at += 1;
        self.levels.push(match byte {
            b'[' => OpenLevel::Array { index: 0 },
            _ => OpenLevel::Object { names: self.names.len(), expects_name: true },
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), InvalidParameters> {
        self.at += 1;
        if let Some(OpenLevel::Object { names, .. }) = self.levels.pop() {
            let members = self.names.split_off(names);
            if let Some(name) = twice(&members, |one, other| one.cmp(other)) {
                let message = "the member is there twice, and readers differ in which of them they take; send it once";
                return Err(self.refuse_member(name, message.to_owned()));
            }
            if self.levels.is_empty()
                && let Some(name) = twice(&members, |one, other| characters(one).cmp(characters(other)))
            {
                let is_other = |other: &&Cow<'_, str>| **other != *name && characters(other).eq(characters(name));
                let other = members.iter().find(is_other).map_or("", |other| other);
                let variable = variable(name);
                return Err(self.refuse_member(
                    name,
                    format!(
                        "{name:?} and {other:?} would both be {VARIABLE_PREFIX}{variable} for a command; rename one"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn next_member(&mut self) {
        self.at += 1;
        match self.levels.last_mut() {
            Some(OpenLevel::Array { index }) => *index += 1,
            Some(OpenLevel::Object { expects_name, .. }) => *expects_name = true,
            None => {}
        }
    }

    fn string(&mut self) -> Result<(), InvalidParameters> {
        let begin = self.at;
        let mut is_plain = true;
        self.at += 1;
        loop {
            match self.json.as_bytes().get(self.at).copied() {
                None => break,
                Some(b'"') => {
                    self.at += 1;
                    break;
                }
                Some(b'\\') => {
                    is_plain = false;
                    self.escape()?;
                }
                Some(_) => self.at += 1,
            }
        }
        if let Some(OpenLevel::Object { expects_name: expects_name @ true, .. }) = self.levels.last_mut() {
            *expects_name = false;
            let text = self.json.get(begin..self.at).unwrap_or_default();
            let name = match is_plain {
                true => Cow::Borrowed(text.trim_matches('"')),
                false => Cow::Owned(serde_json::from_str(text).unwrap_or_default()),
            };
            self.names.push(name);
        }
        Ok(())
    }

    /// Skips an escape; two of them if it takes two to spell a character.
    fn escape(&mut self) -> Result<(), InvalidParameters> {
        let unit = self.unit(self.at);
        self.at += match unit {
            None => 2,
            Some(0xd800..=0xdbff) if matches!(self.unit(self.at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(half @ 0xd800..=0xdfff) => {
                let what = if self.is_name() { "a name with" } else { "found" };
                return Err(self.refuse(format!(
                    "expected whole characters, {what} half of a surrogate pair, \\u{half:04x}; send both halves or none"
                )));
            }
            Some(_) => 6,
        };
        Ok(())
    }

    /// The UTF-16 unit that `\uXXXX` at this place spells.
    fn unit(&self, at: usize) -> Option<u16> {
        let escape = self.json.as_bytes().get(at..at + 6)?;
        let digits = escape.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    fn number(&mut self) -> Result<(), InvalidParameters> {
        let rest = &self.json[self.at..];
        let end = rest.bytes().position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        let text = &rest[..end.unwrap_or(rest.len())];
        let has_exponent = text.bytes().any(|byte| matches!(byte, b'e' | b'E'));
        if has_exponent || text.len() > DIGITS_MAX {
            let digits = text.split(['e', 'E']).next().unwrap_or_default();
            let is_zero = !digits.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
            let fits = |value: f64| value.is_finite() && (value != 0.0 || is_zero);
            if !text.parse().is_ok_and(fits) {
                let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
                let more = if shown.len() < text.len() { "..." } else { "" };
                return Err(self.refuse(format!(
                    "the number {shown}{more} is beyond what a 64-bit float holds; send it as a string"
                )));
            }
        }
        self.at += text.len();
        Ok(())
    }

    fn is_name(&self) -> bool {
        matches!(self.levels.last(), Some(OpenLevel::Object { expects_name: true, .. }))
    }

    /// Refuses the value that is being read.
    fn refuse(&self, message: String) -> InvalidParameters {
        let mut pointer = String::new();
        for (index, level) in self.levels.iter().enumerate() {
            match level {
                OpenLevel::Array { index } => {
                    let _ = write!(pointer, "/{index}");
                }
                OpenLevel::Object { expects_name: true, .. } => {}
                OpenLevel::Object { names, .. } => {
                    let after = self.levels[index + 1..].iter().find_map(|level| match level {
                        OpenLevel::Object { names, .. } => Some(*names),
                        OpenLevel::Array { .. } => None,
                    });
                    let own = self.names.get(*names..after.unwrap_or(self.names.len()));
                    push(&mut pointer, own.and_then(<[_]>::last).map_or("", |name| name));
                }
            }
        }
        InvalidParameters { pointer, message }
    }

    /// Refuses a member of the object that was just closed.
    fn refuse_member(&self, name: &str, message: String) -> InvalidParameters {
        let mut refused = self.refuse(message);
        push(&mut refused.pointer, name);
        refused
    }
}

fn push(pointer: &mut String, name: &str) {
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
}

/// A name that compares as equal to another.
fn twice<'n>(names: &'n [Cow<'_, str>], compare: impl Fn(&str, &str) -> std::cmp::Ordering) -> Option<&'n str> {
    if names.len() <= FEW {
        let again =
            |(index, name): (usize, &Cow<'_, str>)| names[..index].iter().any(|other| compare(name, other).is_eq());
        return names.iter().enumerate().find(|(index, name)| again((*index, name))).map(|(_, name)| &**name);
    }
    let mut sorted: Vec<&str> = names.iter().map(|name| &**name).collect();
    sorted.sort_unstable_by(|one, other| compare(one, other));
    sorted.windows(2).find(|pair| compare(pair[0], pair[1]).is_eq()).map(|pair| pair[1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_readers_read_differently_is_refused_by_its_pointer() {
        let deep = |levels: usize| format!("{{\"a\": {}1{}}}", "[".repeat(levels), "]".repeat(levels));
        for (json, pointer, words) in [
            (r#"{"app": "web", "note": "cut \ud83d"}"#, "/note", "\\ud83d"),
            (r#"{"a": [1, {"b": "\udc00\ud800"}]}"#, "/a/1/b", "\\udc00"),
            (r#"{"a": {"x\ud83d": 1}}"#, "/a", "a name with"),
            (r#"{"n": 1e400}"#, "/n", "1e400"),
            (r#"{"n": [0, -1E+999]}"#, "/n/1", "-1E+999"),
            (r#"{"n": 1e-400}"#, "/n", "1e-400"),
            (r#"{"a": 1, "a": 2}"#, "/a", "twice"),
            (r#"{"x": {"b": {}, "a": [{"c": 1}], "\u0061": 2}}"#, "/x/a", "twice"),
            (r#"{"my_app": "good", "my~app": "EVIL"}"#, "/my~0app", "SLOTLINE_PARAM_MY_APP"),
            (r#"{"app": 1, "App": 2}"#, "/App", "\"app\""),
            (&deep(DEPTH_MAX), &format!("/a{}", "/0".repeat(DEPTH_MAX - 1)), "levels"),
            (&format!("{{\"n\": {}}}", "9".repeat(400)), "/n", "999..."),
        ] {
            let refused = check(json).expect_err(json);
            assert_eq!(refused.pointer, pointer, "{json}: {refused}");
            assert!(refused.message.contains(words), "{json}: {refused}");
        }
    }

    #[test]
    fn what_every_reader_reads_alike_is_taken() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(DEPTH_MAX - 1), "]".repeat(DEPTH_MAX - 1));
        for json in [
            "{}",
            r#"{"a": "\ud83d\ude00", "b": "\u0000\"\\", "c": "{\"a\":1,\"a\":2}", "d": [1.5e300, 0e999, -0, null, true]}"#,
            r#"{"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1}], "": 1}"#,
            // Readers that keep the text have it whole; others take the nearest float, as for any JSON number.
            r#"{"n": 123456789012345678901234567890.123456789}"#,
            // Only members at the top level become variables of a command.
            r#"{"x": {"my_app": 1, "my~app": 2}}"#,
            &deep,
        ] {
            assert_eq!(check(json), Ok(()), "{json}");
            serde_json::from_str::<Value>(json).expect("a later reader reads it");
        }
    }

    #[test]
    fn many_members_are_told_apart_as_few_are() {
        let members = |count: u32| (0..count).map(|n| format!("\"m{n}\": {n}")).collect::<Vec<_>>();
        let object = |members: &[String]| format!("{{{}}}", members.join(","));
        let mut many = members(5_000);
        assert_eq!(check(&object(&many)), Ok(()));
        many.push("\"m77\": 1".to_owned());
        assert_eq!(check(&object(&many)).expect_err("one is there twice").pointer, "/m77");
        many.pop();
        many.push("\"M-\": 1, \"m_\": 1".to_owned());
        assert!(check(&object(&many)).expect_err("two are named alike").message.contains("SLOTLINE_PARAM_M_"));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_a_reader_wrote_is_taken(inner in value()) {
            let json = serde_json::json!({ "inner": inner }).to_string();
            prop_assert_eq!(check(&json), Ok(()));
        }

        /// Any text is taken or refused, also one that is no JSON.
        #[test]
        fn any_text_is_scanned_to_its_end(json in ".{0,60}|[\\[\\]{}\",:\\\\u0-9dDeE+.-]{0,40}") {
            let _ = check(&json);
        }
    }
}
