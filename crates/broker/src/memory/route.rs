//! Topic routing: which queues the routing key of a message leads to.
//!
//! Words are joined by dots; in a pattern `*` stands for one word and `#` for any number of them, none included.

use std::collections::HashMap;
use std::sync::Arc;

/// The bindings of one topic exchange.
#[derive(Default)]
pub(super) struct Routes {
    /// Most bindings name one key exactly, and most exchanges have many of them.
    exact: HashMap<String, Vec<Arc<str>>>,
    patterns: Vec<(String, Arc<str>)>,
}

impl Routes {
    /// Idempotent.
    pub(super) fn bind(&mut self, pattern: &str, queue: &str) {
        if pattern.split('.').any(|word| word == "*" || word == "#") {
            if !self.patterns.iter().any(|(known, bound)| known == pattern && **bound == *queue) {
                self.patterns.push((pattern.to_owned(), queue.into()));
            }
        } else {
            let queues = self.exact.entry(pattern.to_owned()).or_default();
            if !queues.iter().any(|bound| **bound == *queue) {
                queues.push(queue.into());
            }
        }
    }

    /// Removes one binding.
    pub(super) fn unbind_pattern(&mut self, pattern: &str, queue: &str) {
        if let Some(queues) = self.exact.get_mut(pattern) {
            queues.retain(|bound| **bound != *queue);
        }
        self.patterns.retain(|(known, bound)| known != pattern || **bound != *queue);
    }

    /// Removes the bindings of a queue.
    pub(super) fn unbind(&mut self, queue: &str) {
        self.exact.retain(|_, queues| {
            queues.retain(|bound| **bound != *queue);
            !queues.is_empty()
        });
        self.patterns.retain(|(_, bound)| **bound != *queue);
    }

    /// The queues `key` leads to, each once.
    pub(super) fn resolve(&self, key: &str) -> Vec<Arc<str>> {
        let mut queues = self.exact.get(key).cloned().unwrap_or_default();
        for (pattern, queue) in &self.patterns {
            if !queues.contains(queue) && matches(pattern, key) {
                queues.push(Arc::clone(queue));
            }
        }
        queues
    }
}

fn matches(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = if key.is_empty() { Vec::new() } else { key.split('.').collect() };
    // `reached[n]`: the first `n` words of the pattern match the words of the key so far; a `#` may match none.
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    let skip_hashes = |reached: &mut Vec<bool>| {
        for (at, word) in pattern.iter().enumerate() {
            if reached[at] && *word == "#" {
                reached[at + 1] = true;
            }
        }
    };
    skip_hashes(&mut reached);
    for word in key {
        let mut next = vec![false; pattern.len() + 1];
        for (at, expected) in pattern.iter().enumerate() {
            if reached[at] {
                match *expected {
                    "#" => next[at] = true,
                    "*" => next[at + 1] = true,
                    expected => next[at + 1] |= expected == word,
                }
            }
        }
        skip_hashes(&mut next);
        reached = next;
    }
    reached[pattern.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_word_and_a_hash_any_number() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("a.#", "b", false),
            ("#", "", true),
            ("#", "a.b", true),
            ("#.c", "a.b.c", true),
            ("#.c", "c", true),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.b.b.c", true),
            ("a.#.c", "a.b.b", false),
            ("a.#.*", "a.b", true),
            ("a.#.*", "a", false),
            ("#.#", "a", true),
        ] {
            let mut routes = Routes::default();
            routes.bind(pattern, "q");
            assert_eq!(!routes.resolve(key).is_empty(), expected, "{pattern} against {key}");
        }
    }

    #[test]
    fn a_queue_bound_twice_gets_a_message_once_and_an_unbound_one_none() {
        let mut routes = Routes::default();
        routes.bind("a.b", "q");
        routes.bind("a.*", "q");
        routes.bind("a.*", "q");
        routes.bind("a.b", "r");
        assert_eq!(routes.resolve("a.b"), ["q".into(), "r".into()] as [Arc<str>; 2]);
        routes.unbind("q");
        assert_eq!(routes.resolve("a.b"), ["r".into()] as [Arc<str>; 1]);
        assert_eq!(routes.resolve("a.x"), [] as [Arc<str>; 0]);
    }
}
