//! Fuzzing: sound inputs, mutated for as long as there is time, after all inputs of the corpus.
//!
//! An input that takes a new way through the code is mutated in turn. One that fails is made smaller and written to
//! `tests/corpus/<target>` of its package: commit it with the mend, since the corpus is tried first from then on.
//!
//! | variable | meaning | where it is not set |
//! | --- | --- | --- |
//! | `FUZZ_SECONDS` | time for each target | 2 |
//! | `FUZZ_SEED` | where chance begins | 1: every run the same |
//! | `FUZZ_KEEP` | set: what took a new way is written to the corpus too | not written |
//!
//! Deliberately absent: knowledge of any format but JSON's brackets. A target brings seeds and a check.

mod chance;
mod mutate;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chance::Chance;
use mutate::Mutator;

const SECONDS_DEFAULT: u64 = 2;
/// Inputs that are mutated further; past it a new one takes the place of another.
const POOL_MAX: usize = 4096;
/// Bytes of an input that is mutated further.
const POOLED_BYTES_MAX: usize = 64 << 10;
/// Bytes of an input that is worth keeping for others.
const KEPT_BYTES_MAX: usize = 600;
/// Inputs that one run adds to the corpus.
const KEPT_MAX: usize = 12;
/// Mutations on top of each other.
const MUTATIONS_MAX: usize = 4;
/// No input may take longer, however busy the machine: the shortest of [`TIMES`] tries counts.
const INPUT_WITHIN: Duration = Duration::from_secs(2);
const TIMES: usize = 3;
/// Characters of a way that count.
const WAY_CHARS_MAX: usize = 60;
/// Of a failing input, and of what is wrong with it.
const SHOWN_CHARS_MAX: usize = 1000;
/// Tries to make a failing input smaller.
const SHRINKS_MAX: usize = 2000;

/// The fuzzing of one target. See the module.
pub struct Fuzz {
    target: &'static str,
    corpus: PathBuf,
    seeds: Vec<Vec<u8>>,
}

impl Fuzz {
    /// `package` is the target's own `env!("CARGO_MANIFEST_DIR")`.
    pub fn new(package: &str, target: &'static str) -> Self {
        let corpus = PathBuf::from(package).join("tests/corpus").join(target);
        Self { target, corpus, seeds: Vec::new() }
    }

    /// Adds sound inputs, or others that lead far into the code.
    pub fn seeds<S: Into<Vec<u8>>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Tries inputs until the time is over. `check` returns the way of an input, the same text for all inputs that take
    /// the same way, or an error if its result must not be. A panic is a failure too.
    pub fn run(self, check: impl Fn(&[u8]) -> Result<String, String>) {
        let seconds = number("FUZZ_SECONDS").unwrap_or(SECONDS_DEFAULT);
        let seed = number("FUZZ_SEED").unwrap_or(1);
        // Printed before the first input: after a stack overflow nothing else is printed.
        println!("{}: FUZZ_SEED={seed} FUZZ_SECONDS={seconds}", self.target);
        let mut pool = self.kept();
        pool.extend(self.seeds.iter().cloned());
        assert!(!pool.is_empty(), "{}: nothing to begin with", self.target);
        let mut ways = BTreeSet::new();
        for input in &pool {
            ways.insert(self.judge(&check, input));
        }
        let mut mutator = Mutator::new(&pool);
        let mut chance = Chance::new(seed);
        let (begun, mut tried, mut kept) = (Instant::now(), 0_u64, 0);
        while begun.elapsed() < Duration::from_secs(seconds) {
            let mut input = chance.one(&pool).clone();
            for _ in 0..=chance.below(MUTATIONS_MAX) {
                input = mutator.mutate(input, &pool, &mut chance);
            }
            tried += 1;
            let way = self.judge(&check, &input);
            if ways.insert(way) && input.len() <= POOLED_BYTES_MAX {
                if kept < KEPT_MAX && self.keep(&input) {
                    kept += 1;
                }
                match pool.len() {
                    POOL_MAX => *chance.one_mut(&mut pool) = input,
                    _ => pool.push(input),
                }
            }
        }
        println!("{}: {tried} inputs took {} ways, none wrong", self.target, ways.len());
    }

    /// Which way the input took; a failure ends the test.
    fn judge(&self, check: &impl Fn(&[u8]) -> Result<String, String>, input: &[u8]) -> String {
        match outcome(check, input) {
            Ok(way) => way,
            Err(failure) => {
                let small = shrink(input, |candidate| outcome(check, candidate).is_err());
                let failure = outcome(check, &small).err().unwrap_or(failure);
                let path = self.corpus.join(name(&small));
                let _ = fs::create_dir_all(&self.corpus).and_then(|()| fs::write(&path, &small));
                let shown: String = String::from_utf8_lossy(&small).chars().take(SHOWN_CHARS_MAX).collect();
                let failure: String = failure.chars().take(SHOWN_CHARS_MAX).collect();
                panic!("{}: {failure}\n{shown:?}\nwritten to {}", self.target, path.display());
            }
        }
    }

    fn kept(&self) -> Vec<Vec<u8>> {
        let Ok(folder) = fs::read_dir(&self.corpus) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = folder.map(|entry| entry.expect("readable").path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).expect("a file of the corpus is readable")).collect()
    }

    fn keep(&self, input: &[u8]) -> bool {
        let is_kept = std::env::var_os("FUZZ_KEEP").is_some() && input.len() <= KEPT_BYTES_MAX;
        if is_kept {
            let written =
                fs::create_dir_all(&self.corpus).and_then(|()| fs::write(self.corpus.join(name(input)), input));
            written.expect("the corpus can be written to");
        }
        is_kept
    }
}

/// The message of an error without its quotations: the same for all inputs that are wrong in the same way.
pub fn way(said: impl std::fmt::Display) -> String {
    let said = said.to_string().replace("\\\"", "");
    let unquoted = said.split(['"', '`']).step_by(2).flat_map(str::chars);
    unquoted.filter(|c| c.is_ascii_alphabetic() || *c == ' ').take(WAY_CHARS_MAX).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: expected a number")))
}

fn outcome(check: &impl Fn(&[u8]) -> Result<String, String>, input: &[u8]) -> Result<String, String> {
    let mut shortest = Duration::MAX;
    for _ in 0..TIMES {
        let begun = Instant::now();
        let told = catch_unwind(AssertUnwindSafe(|| check(input)))
            .map_err(|panic| format!("it panicked: {}", said(&*panic)))??;
        shortest = shortest.min(begun.elapsed());
        if shortest <= INPUT_WITHIN {
            return Ok(told);
        }
    }
    Err(format!("it took {shortest:?}"))
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

/// Takes away what is not needed for `fails`, first much at once and then little.
fn shrink(input: &[u8], fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let (mut small, mut tries) = (input.to_vec(), 0);
    let mut size = (small.len() / 2).max(1);
    while tries < SHRINKS_MAX {
        let (mut at, before) = (0, small.len());
        while at < small.len() && tries < SHRINKS_MAX {
            let mut candidate = small.clone();
            candidate.drain(at..(at + size).min(small.len()));
            tries += 1;
            if fails(&candidate) { small = candidate } else { at += size }
        }
        match size {
            1 if small.len() == before => break,
            size_now => size = (size_now / 2).max(1),
        }
    }
    small
}

/// The same input has the same name.
fn name(input: &[u8]) -> String {
    let hash = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_behind_two_conditions_is_found_made_small_and_tried_first_the_next_time() {
        let package = tempfile::tempdir().expect("a folder");
        let root = package.path().to_str().expect("UTF-8");
        let target = || Fuzz::new(root, "fault").seeds([r#"{"depth": 1, "name": "x"}"#]);
        let check = |input: &[u8]| {
            let Ok(value) = serde_json::from_slice::<serde_json::Value>(input) else { return Ok("no JSON".to_owned()) };
            match (value["depth"].as_i64(), &value["name"]) {
                (Some(depth), serde_json::Value::Null) if depth < 0 => panic!("there it is"),
                (depth, name) => Ok(format!("{} {}", depth.is_some_and(|depth| depth < 0), name.is_null())),
            }
        };
        let found = catch_unwind(AssertUnwindSafe(|| target().run(check))).expect_err("there is a fault");
        assert!(said(&*found).contains("there it is"), "{}", said(&*found));
        let kept = target().kept();
        let [small] = kept.as_slice() else { panic!("{} files", kept.len()) };
        assert!(small.len() <= 16, "{}", String::from_utf8_lossy(small));
        let again = catch_unwind(AssertUnwindSafe(|| target().run(check))).expect_err("it is still there");
        assert!(said(&*again).contains("there it is"));
    }

    #[test]
    fn what_is_not_needed_is_taken_away() {
        assert_eq!(shrink(b"aaaaaXaaaaYaaa", |input| input.contains(&b'X') && input.contains(&b'Y')), b"XY");
    }
}
