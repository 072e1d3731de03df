//! A part of the state that many states have in common: kept once in all of a search, and hashed once for each step.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Debug, Write};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// A value and its fingerprint. Two are equal if their fingerprints are, which is what the search goes by as well.
#[derive(Clone)]
pub(crate) struct Shared<T> {
    value: Arc<T>,
    /// `None` between a change and the end of the step.
    fingerprint: Option<u64>,
}

/// What is kept in one place.
pub(crate) trait Part: Clone + Hash + Send + Sync + 'static {
    fn kept() -> &'static Kept<Self>;

    /// Puts away the parts of this part.
    fn put_away(&mut self) {}
}

/// Every value of one kind that a search has come upon. It has no bound of its own: the world that is searched has one.
pub(crate) struct Kept<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
}

type Shard<T> = HashMap<u64, Arc<T>, BuildHasherDefault<Folding>>;

const SHARDS: usize = 64;

impl<T: Part> Kept<T> {
    pub(crate) const fn new() -> LazyLock<Self> {
        LazyLock::new(|| Self { shards: std::array::from_fn(|_| Mutex::default()) })
    }

    /// Lets go of everything. Whoever still has a part of it keeps that.
    pub(crate) fn forget(&self) {
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) = Shard::default();
        }
    }

    /// The one that is kept of those that are equal to this one.
    fn keep(&self, fingerprint: u64, value: &mut Arc<T>) {
        let shard = usize::try_from(fingerprint % SHARDS as u64).expect("a small number");
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        *value = shard.entry(fingerprint).or_insert_with(|| value.clone()).clone();
    }
}

impl<T: Part> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Arc::new(value), fingerprint: None }
    }

    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        self.fingerprint = None;
        change(Arc::make_mut(&mut self.value))
    }

    /// Ends a step: from here on it can be compared.
    pub(crate) fn put_away(&mut self) {
        if self.fingerprint.is_none() {
            Arc::make_mut(&mut self.value).put_away();
            let fingerprint = fingerprint(&*self.value);
            T::kept().keep(fingerprint, &mut self.value);
            self.fingerprint = Some(fingerprint);
        }
    }
}

impl<T> Shared<T> {
    fn fingerprint(&self) -> u64 {
        self.fingerprint.expect("a step puts away what it changed")
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Debug> Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint());
    }
}

pub(crate) fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = Folding::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Folds eight bytes at a time into both halves of a product. States are hashed far more often than anything else is
/// done, and nobody here chooses them to collide.
pub(crate) struct Folding(u64);

impl Default for Folding {
    fn default() -> Self {
        Self(SEED)
    }
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xa076_1d64_78bd_642f;

impl Folding {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        self.0 = (product as u64 ^ (product >> 64) as u64).wrapping_add(SEED);
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.fold(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.fold(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_left(56));
    }

    fn write_u8(&mut self, number: u8) {
        self.fold(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.fold(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.fold(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.fold(number as u64);
    }

    fn finish(&self) -> u64 {
        let mut last = Self(self.0);
        last.fold(FACTOR);
        last.0
    }
}

/// Hashes what shows everything of itself but can't be hashed: the scheduler holds results as they were written.
pub(crate) fn hash_as_shown<H: Hasher>(value: &impl Debug, state: &mut H) {
    thread_local! {
        // What is shown comes in hundreds of pieces, which are hashed far faster as one.
        static SHOWN: RefCell<String> = const { RefCell::new(String::new()) };
    }
    SHOWN.with_borrow_mut(|shown| {
        shown.clear();
        write!(shown, "{value:?}").expect("a text takes everything");
        state.write(shown.as_bytes());
    });
}
