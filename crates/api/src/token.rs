//! The secrets that open the API, each with the name that the audit records for it.

use std::collections::BTreeSet;
use std::fmt;

use subtle::ConstantTimeEq;

use slotline_protocol::audit::{EXECUTOR, LOCAL, PUBLISHER};

/// The fewest characters of a token when the API listens beyond this machine: it must not be guessable from the
/// network.
pub const EXPOSED_TOKEN_CHARS_MIN: usize = 20;
/// The longest token.
const TOKEN_CHARS_MAX: usize = 1024;
/// The most tokens of one API: each request is compared with all of them.
pub const TOKENS_MAX: usize = 100;
/// The longest name of a token.
const NAME_CHARS_MAX: usize = 64;
/// The name of a token without one.
const UNNAMED: &str = "token";

/// A secret of the API. Never shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiToken(String);

/// Why a token can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API token must be 1 to {TOKEN_CHARS_MAX} visible ASCII characters without spaces")]
pub struct InvalidToken;

impl ApiToken {
    /// Takes `text` without the white space around it, so that a file may end in a newline.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() || text.len() > TOKEN_CHARS_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        Ok(Self(text.to_owned()))
    }

    /// For the header of a request.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn chars(&self) -> usize {
        self.0.len()
    }

    /// Takes the same time for every wrong token.
    fn matches(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(***)")
    }
}

/// The tokens of one API by their names. Without any, the API is for this machine only.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<(String, ApiToken)>);

/// Why tokens can't be taken. No secret is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTokens {
    #[error(transparent)]
    Token(#[from] InvalidToken),
    #[error("line {line}: {problem}; of several tokens each has a line of its own: its name, a space, and the token")]
    Line { line: usize, problem: String },
    #[error("there are more than {TOKENS_MAX} tokens")]
    TooMany,
}

impl Tokens {
    /// Reads one token as it is, or several, each in a line with its name before it. Empty lines and those that begin with
    /// `#` are skipped then.
    pub fn parse(text: &str) -> Result<Self, InvalidTokens> {
        let lines: Vec<(usize, &str)> = text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with("# ") && *line != "#")
            .collect();
        match lines.as_slice() {
            [] => Err(InvalidToken.into()),
            [(_, line)] if !line.contains(char::is_whitespace) => Ok(Self::from(ApiToken::new(line)?)),
            lines => Self::named(lines),
        }
    }

    fn named(lines: &[(usize, &str)]) -> Result<Self, InvalidTokens> {
        let (mut tokens, mut names, mut secrets) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for (line, text) in lines {
            let refuse = |problem: String| InvalidTokens::Line { line: *line, problem };
            let (name, secret) =
                text.split_once(char::is_whitespace).ok_or_else(|| refuse("it has no name".to_owned()))?;
            check_name(name).map_err(refuse)?;
            let token = ApiToken::new(secret).map_err(|error| refuse(error.to_string()))?;
            if !names.insert(name) {
                return Err(refuse(format!("{name} is there twice")));
            }
            if !secrets.insert(token.clone()) {
                return Err(refuse(format!("the token of {name} has another name, too")));
            }
            tokens.push((name.to_owned(), token));
        }
        if tokens.len() > TOKENS_MAX { Err(InvalidTokens::TooMany) } else { Ok(Self(tokens)) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The first, for a client in the same process.
    pub fn first(&self) -> Option<&ApiToken> {
        self.0.first().map(|(_, token)| token)
    }

    /// The token that is guessed most easily.
    pub(crate) fn shortest(&self) -> Option<&ApiToken> {
        self.0.iter().map(|(_, token)| token).min_by_key(|token| token.chars())
    }

    /// The name of the token that was given. Takes the same time for all of them.
    pub(crate) fn name_of(&self, given: &[u8]) -> Option<&str> {
        self.0.iter().fold(None, |found, (name, token)| if token.matches(given) { Some(name.as_str()) } else { found })
    }
}

impl From<ApiToken> for Tokens {
    fn from(token: ApiToken) -> Self {
        Self(vec![(UNNAMED.to_owned(), token)])
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if name.len() > NAME_CHARS_MAX || !name.chars().all(is_known) {
        return Err(format!("a name has 1 to {NAME_CHARS_MAX} letters, digits and -_.@"));
    }
    if [LOCAL, PUBLISHER, EXECUTOR].contains(&name) {
        return Err(format!("{name} has a meaning of its own in the audit: choose another name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed_checked_and_never_shown() {
        let token = ApiToken::new(" s3cret\n").expect("a token");
        assert_eq!(format!("{token:?}"), "ApiToken(***)");
        assert!(token.matches(b"s3cret"));
        for wrong in ["", "s3cre", "s3cret ", "S3cret", "s3crets"] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong:?}");
        }
        for bad in ["", "  ", "two words", "schlüssel", &"x".repeat(TOKEN_CHARS_MAX + 1)] {
            assert!(ApiToken::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_holds_one_token_as_it_is_or_several_with_their_names() {
        let one = Tokens::parse("s3cret\n").expect("one token");
        assert_eq!((one.len(), one.name_of(b"s3cret"), one.name_of(b"other")), (1, Some("token"), None));
        let commented = Tokens::parse("# of all people\n#s3cret\n").expect("one token");
        assert_eq!(commented.name_of(b"#s3cret"), Some("token"));
        let named = Tokens::parse("# people\nalice  3f9c\n\nci@build\t77ab\r\n").expect("two tokens");
        assert_eq!((named.name_of(b"3f9c"), named.name_of(b"77ab")), (Some("alice"), Some("ci@build")));
        assert_eq!((named.len(), named.name_of(b"alice")), (2, None));
        assert!(!format!("{named:?}").contains("3f9c"));
        assert_eq!(Tokens::parse("alice 3f9c").expect("one token").name_of(b"3f9c"), Some("alice"));
    }

    #[test]
    fn a_file_that_holds_no_tokens_is_refused_by_its_line_without_a_secret() {
        for (text, expected) in [
            ("", "the API token must be"),
            ("\n# nothing\n", "the API token must be"),
            ("alice 3f9c\n77ab\n", "line 2: it has no name"),
            ("al/ice 3f9c\n", "line 1: a name has"),
            ("alice 3f9c\nalice 77ab\n", "line 2: alice is there twice"),
            ("alice 3f9c\nbob 3f9c\n", "line 2: the token of bob has another name, too"),
            ("alice 3f9c 77ab\n", "line 1: the API token must be"),
            ("local 3f9c\n", "line 1: local has a meaning of its own"),
        ] {
            let error = Tokens::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(expected) && !error.contains("3f9c") && !error.contains("77ab"), "{error}");
        }
        let many: String = (0..=TOKENS_MAX).map(|number| format!("n{number} t{number}\n")).collect();
        assert_eq!(Tokens::parse(&many).expect_err("too many"), InvalidTokens::TooMany);
    }
}
