//! An error with everything that caused it, for a log or a person.

use std::error::Error;
use std::fmt;

/// Shows `error` and its causes in one line, each once: `database unavailable: error returned from database: ...`.
///
/// Every log of an error uses this: the message of the outermost error alone rarely names what went wrong.
pub fn chain<'e>(error: &'e (dyn Error + 'e)) -> Chain<'e> {
    Chain(error)
}

#[derive(Clone, Copy, Debug)]
pub struct Chain<'e>(&'e (dyn Error + 'e));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let words = cause.to_string();
            // Many errors repeat the words of their cause.
            if !text.contains(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            next = cause.source();
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Layered {
        #[error("database unavailable")]
        Outer(#[source] Box<Layered>),
        #[error("error returned from database: {0}")]
        Middle(#[source] Box<Layered>),
        #[error("no room")]
        Inner,
    }

    #[test]
    fn an_error_is_shown_with_all_its_causes_each_once() {
        let error = Layered::Outer(Box::new(Layered::Middle(Box::new(Layered::Inner))));
        assert_eq!(chain(&error).to_string(), "database unavailable: error returned from database: no room");
        assert_eq!(chain(&Layered::Inner).to_string(), "no room");
    }
}
