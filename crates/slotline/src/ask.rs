//! One question at a terminal, answered by a letter and Enter: a stray key ends nothing.
//!
//! While it is open the terminal hands on each key at once and shows none, since what is drawn there is ours; dropping the
//! question restores it.

use std::io::{self, IsTerminal, Read};

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::sync::mpsc;

/// Keys that are read ahead.
const KEYS_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Stop watching; the execution goes on.
    Stop,
    Cancel,
    /// As if nothing had been asked.
    GoOn,
}

/// What the keys so far come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// This is chosen, once Enter is pressed.
    Chosen(Option<Answer>),
    Answered(Answer),
}

/// The question, with what is chosen so far.
pub(crate) fn words(chosen: Option<Answer>) -> &'static str {
    match chosen {
        None | Some(Answer::GoOn) => "s: stop watching, c: cancel it, then Enter (Enter alone: go on)",
        Some(Answer::Stop) => "stop watching? Enter: yes, any other key: no",
        Some(Answer::Cancel) => "cancel the execution? Enter: yes, any other key: no",
    }
}

/// A terminal that shows no keys while something is drawn there; dropping it restores the terminal.
pub(crate) struct Quiet(Termios);

impl Quiet {
    /// `None` where no keyboard is, or the terminal is another program's for now, which it is left to.
    pub(crate) fn new() -> Option<Self> {
        let is_ours = || tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp());
        if !can_be_asked() || !is_ours() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &silent).ok()?;
        Some(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // The terminal may be gone, and then needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// An open question.
pub(crate) struct Question {
    heard: mpsc::Receiver<Heard>,
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
        let (sender, heard) = mpsc::channel(KEYS_MAX);
        // A thread of its own: it may wait for a key for ever, and must not keep the program from its end.
        std::thread::spawn(move || {
            let mut chosen = None;
            for key in io::stdin().lock().bytes().map_while(Result::ok) {
                let heard = press(chosen, key);
                if sender.blocking_send(heard).is_err() {
                    return;
                }
                match heard {
                    Heard::Chosen(now) => chosen = now,
                    Heard::Answered(_) => return,
                }
            }
        });
        Ok(Self { heard, before })
    }

    /// What is heard next; `None` if there can be nothing. Nothing is lost if it is dropped while it waits.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // The terminal may be gone, and then needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn press(chosen: Option<Answer>, key: u8) -> Heard {
    match (chosen, key.to_ascii_lowercase()) {
        (Some(answer), b'\n' | b'\r') => Heard::Answered(answer),
        (None, b'\n' | b'\r') => Heard::Answered(Answer::GoOn),
        (None, b's') => Heard::Chosen(Some(Answer::Stop)),
        (None, b'c') => Heard::Chosen(Some(Answer::Cancel)),
        (_, _) => Heard::Chosen(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str) -> Vec<Heard> {
        let mut chosen = None;
        let press = |key| {
            let heard = press(chosen, key);
            if let Heard::Chosen(now) = heard {
                chosen = now;
            }
            heard
        };
        keys.bytes().map(press).collect()
    }

    #[test]
    fn a_letter_alone_answers_nothing_and_enter_confirms_it() {
        let (stop, cancel) = (Heard::Chosen(Some(Answer::Stop)), Heard::Chosen(Some(Answer::Cancel)));
        assert_eq!(typed("c\n"), [cancel, Heard::Answered(Answer::Cancel)]);
        assert_eq!(typed("S\r"), [stop, Heard::Answered(Answer::Stop)]);
        assert_eq!(typed("\n"), [Heard::Answered(Answer::GoOn)]);
    }

    #[test]
    fn another_key_takes_a_choice_back() {
        let none = Heard::Chosen(None);
        assert_eq!(typed("cx\n"), [Heard::Chosen(Some(Answer::Cancel)), none, Heard::Answered(Answer::GoOn)]);
        assert_eq!(typed("q"), [none]);
    }
}
