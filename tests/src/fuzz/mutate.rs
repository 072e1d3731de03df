//! One step away from an input: of its bytes, or of its values where it is JSON.

use std::collections::BTreeSet;

use serde_json::Value;

use super::chance::Chance;

/// Words of the seeds, to be put where they do not belong.
const WORDS_MAX: usize = 2000;
const WORD_BYTES_MAX: usize = 60;
/// An input never grows beyond it.
const INPUT_BYTES_MAX: usize = 256 << 10;

/// Values that broke readers before, as JSON; also their parts.
const HOSTILE: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-1",
    "1",
    "1.5",
    "-1.5",
    "0.1",
    "1e3",
    "1e15",
    "1e300",
    "1e999",
    "-1e999",
    "1e-400",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890",
    "00",
    "+1",
    ".5",
    "1.",
    "0x10",
    "NaN",
    "Infinity",
    "\"\"",
    "\" \"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\uffff\"",
    "\"\\ud83d\\ude00\"",
    "\"\u{202e}\u{feff}\"",
    "\"a\\nb\"",
    "\"-1\"",
    "\"0\"",
    "\"1e300\"",
    "\"NaN\"",
    "\"1ns\"",
    "\"-1s\"",
    "\"1000years\"",
    "\"18446744073709551616s\"",
    "\"366days\"",
    "\"9999-12-31T23:59:59.9999999-23:59\"",
    "\"0000-01-01T00:00:00+23:59\"",
    "\"2016-12-31T23:59:60Z\"",
    "\"2026-01-01T00:00:00.123456789Z\"",
    "\"a.b\"",
    "\"..\"",
    "\"a..b\"",
    "\"\u{e4}.b\"",
    "\"00000000-0000-0000-0000-000000000000\"",
    "[]",
    "{}",
    "[null]",
    "[[]]",
    "{\"\":{}}",
    "[1,2]",
    "[1,null]",
    "[2,1]",
    "[1,2,3]",
    "[-1,1]",
    "{\"a\":1,\"a\":2}",
];

/// Bytes with a meaning in some format.
const BYTES: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\r\n",
    b"\n",
    b"\t",
    b"\"",
    b"\\",
    b"\\u",
    b"'",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"=",
    b".",
    b"#",
    b"%00",
    b"..",
    b"/",
    b"-",
    b" ",
    b"\x1b[2J",
    b"\x7f",
];

pub(super) struct Mutator {
    words: Vec<Vec<u8>>,
}

impl Mutator {
    pub(super) fn new(seeds: &[Vec<u8>]) -> Self {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
        let words: BTreeSet<&[u8]> = seeds
            .iter()
            .flat_map(|seed| seed.split(move |byte| !is_word(byte)))
            .filter(|word| (1..=WORD_BYTES_MAX).contains(&word.len()))
            .take(WORDS_MAX)
            .collect();
        Self { words: words.into_iter().map(<[u8]>::to_vec).collect() }
    }

    pub(super) fn mutate(&mut self, input: Vec<u8>, pool: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
        let mut mutated = match chance.below(3) {
            0 => self.bytes(input, pool, chance),
            _ => match serde_json::from_slice(&input) {
                Ok(value) => values(value, chance),
                Err(_) => self.bytes(input, pool, chance),
            },
        };
        mutated.truncate(INPUT_BYTES_MAX);
        mutated
    }

    fn bytes(&self, mut input: Vec<u8>, pool: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
        let part = chance.range(input.len());
        let mut replace = |with: Vec<u8>, part| {
            input.splice(part, with);
        };
        match chance.below(10) {
            0 => {
                if let Some(byte) = input.get_mut(part.start) {
                    *byte ^= 1 << chance.below(8);
                }
            }
            1 => input.truncate(part.start),
            2 => replace(Vec::new(), part),
            3 => {
                let copy = input[part.clone()].repeat(1 + chance.below(3));
                input.splice(part.end..part.end, copy);
            }
            4 => {
                let other = chance.one(pool);
                let from = chance.range(other.len());
                replace(other[from].to_vec(), part);
            }
            5 => replace(chance.one(BYTES).to_vec(), part),
            6 => replace(chance.one(HOSTILE).as_bytes().to_vec(), part),
            7 => replace(if self.words.is_empty() { Vec::new() } else { chance.one(&self.words).clone() }, part),
            8 => {
                let count = [2, 99, 100, 101, 128, 1000, 20_000][chance.below(7)];
                replace(chance.one(BYTES).repeat(count), part);
            }
            _ => {
                // A number, if there is one behind the place.
                let start = (part.start..input.len()).find(|at| input[*at].is_ascii_digit());
                if let Some(start) = start {
                    let end = (start..input.len()).find(|at| !input[*at].is_ascii_digit()).unwrap_or(input.len());
                    let number = HOSTILE[3 + chance.below(26)];
                    input.splice(start..end, number.bytes());
                }
            }
        }
        input
    }
}

/// Stands in a value for text that is no value.
const PLACE: &str = "\u{1}here\u{1}";

/// Changes one value within another.
fn values(mut whole: Value, chance: &mut Chance) -> Vec<u8> {
    let nodes = count(&whole);
    let chosen = chance.below(nodes);
    let other = find(&mut whole, &mut chance.below(nodes)).cloned().unwrap_or_default();
    let mut index = chosen;
    let Some(node) = find(&mut whole, &mut index) else { return Vec::new() };
    let mut instead = None;
    match chance.below(8) {
        // A member less, or twice, or under another's name.
        0 => match node {
            Value::Object(members) => {
                if let Some(key) = members.keys().nth(chance.below(members.len())).cloned() {
                    members.remove(&key);
                }
            }
            Value::Array(items) if !items.is_empty() => drop(items.remove(chance.below(items.len()))),
            other => *other = Value::Null,
        },
        1 => match node {
            Value::Object(members) => {
                if let Some(key) = members.keys().nth(chance.below(members.len())).cloned() {
                    let key = Value::from(key).to_string();
                    let twice = format!("{},{key}:{}", chance.one(HOSTILE), chance.one(HOSTILE));
                    instead = Some(twice);
                    let key: String = serde_json::from_str(&key).unwrap_or_default();
                    members.insert(key, Value::from(PLACE));
                }
            }
            Value::Array(items) => items.push(other),
            scalar => *scalar = Value::Array(vec![scalar.clone(), other]),
        },
        2 => *node = other,
        3 => {
            let depth = [3, 50, 98, 99, 100, 101, 127, 128, 129, 5000][chance.below(10)];
            let (open, close) = [("[", "]"), ("{\"a\":", "}")][chance.below(2)];
            instead = Some(format!("{}{}{}", open.repeat(depth), chance.one(HOSTILE), close.repeat(depth)));
            *node = Value::from(PLACE);
        }
        4 => {
            let size = [1, 63, 64, 65, 127, 128, 129, 255, 256, 257, 5000][chance.below(11)];
            let unit = *chance.one(&["x", "\u{e4}", "\0", "9", ".a", "\n", "\u{1F600}"]);
            *node = Value::from(unit.repeat(size));
        }
        _ => {
            instead = Some((*chance.one(HOSTILE)).to_owned());
            *node = Value::from(PLACE);
        }
    }
    let text = whole.to_string();
    let text = match instead {
        Some(instead) => text.replace(&Value::from(PLACE).to_string(), &instead),
        None => text,
    };
    text.into_bytes()
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The value that comes `index` values after the outermost.
fn find<'v>(value: &'v mut Value, index: &mut usize) -> Option<&'v mut Value> {
    if *index == 0 {
        return Some(value);
    }
    *index -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| find(item, index)),
        Value::Object(members) => members.values_mut().find_map(|member| find(member, index)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
