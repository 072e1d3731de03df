//! One question at a terminal, answered by one key.
//!
//! While it is open the terminal hands on each key at once and shows none; dropping the question restores it.

use std::io::{self, IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// Keys that are read ahead.
const KEYS_MAX: usize = 8;

pub(crate) const QUESTION: &str = "stop watching or cancel? [s/c]";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Stop watching; the execution goes on.
    Stop,
    Cancel,
}

/// An open question.
pub(crate) struct Question {
    answers: mpsc::Receiver<Answer>,
    before: Termios,
}

/// Whether there is somebody to answer.
pub(crate) fn can_be_asked() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

impl Question {
    pub(crate) fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut keys = before.clone();
        // Ctrl-C stays a signal.
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &keys)?;
        let (sender, answers) = mpsc::channel(KEYS_MAX);
        // A thread of its own: it may wait for a key for ever, and must not keep the program from its end.
        std::thread::spawn(move || {
            let keys = io::stdin().lock().bytes().map_while(Result::ok);
            for answer in keys.filter_map(meant) {
                if sender.blocking_send(answer).is_err() {
                    return;
                }
            }
        });
        Ok(Self { answers, before })
    }

    /// The next answer; `None` if there can be none. Nothing is lost if it is dropped while it waits.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // The terminal may be gone, and then needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn meant(key: u8) -> Option<Answer> {
    match key.to_ascii_lowercase() {
        b's' => Some(Answer::Stop),
        b'c' => Some(Answer::Cancel),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_answers_and_others_are_not_taken_for_an_answer() {
        let answers: Vec<Option<Answer>> = b"sScC\nyq".iter().map(|key| meant(*key)).collect();
        let (stop, cancel) = (Some(Answer::Stop), Some(Answer::Cancel));
        assert_eq!(answers, [stop, stop, cancel, cancel, None, None, None]);
    }
}
