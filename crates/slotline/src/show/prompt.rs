//! The prompt of `watch` after Ctrl-C: a letter and Enter choose, so a stray key ends nothing.
//!
//! While it is open the terminal passes each key on at once and echoes none, since `screen` draws there; dropping the prompt
//! restores the terminal.

use std::io::{self, IsTerminal, Read};

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::sync::mpsc;

/// Keys that are read ahead.
const KEYS_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Stop watching; the execution goes on.
    Stop,
    Cancel,
    /// Close the prompt.
    GoOn,
}

/// The effect of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Press {
    /// Enter would confirm this.
    Selected(Option<Choice>),
    Confirmed(Choice),
}

/// The text of the prompt for a selection.
pub(crate) fn text(selected: Option<Choice>) -> &'static str {
    match selected {
        None | Some(Choice::GoOn) => "s: stop watching, c: cancel it, then Enter (Enter alone: go on)",
        Some(Choice::Stop) => "stop watching? Enter: yes, any other key: no",
        Some(Choice::Cancel) => "cancel the execution? Enter: yes, any other key: no",
    }
}

/// Turns the echo of keys off while `screen` draws; dropping it restores the terminal.
pub(crate) struct EchoOff(Termios);

impl EchoOff {
    /// `None` without a keyboard, or if another program is in the foreground of the terminal.
    pub(crate) fn new() -> Option<Self> {
        let is_ours = || tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp());
        if !is_interactive() || !is_ours() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &silent).ok()?;
        Some(Self(before))
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        // The terminal may be gone; then nothing is to be restored.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// An open prompt.
pub(crate) struct Prompt {
    presses: mpsc::Receiver<Press>,
    before: Termios,
}

/// Whether a person can answer a prompt.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

impl Prompt {
    pub(crate) fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut keys = before.clone();
        // Ctrl-C stays a signal.
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &keys)?;
        let (sender, presses) = mpsc::channel(KEYS_MAX);
        // A thread of its own, since reading a key may block for ever and must not delay the end of the program.
        std::thread::spawn(move || {
            let mut selected = None;
            for key in io::stdin().lock().bytes().map_while(Result::ok) {
                let press = press(selected, key);
                if sender.blocking_send(press).is_err() {
                    return;
                }
                match press {
                    Press::Selected(now) => selected = now,
                    Press::Confirmed(_) => return,
                }
            }
        });
        Ok(Self { presses, before })
    }

    /// The next key's effect; `None` if the keyboard is gone. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Press> {
        self.presses.recv().await
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        // The terminal may be gone; then nothing is to be restored.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn press(selected: Option<Choice>, key: u8) -> Press {
    match (selected, key.to_ascii_lowercase()) {
        (Some(answer), b'\n' | b'\r') => Press::Confirmed(answer),
        (None, b'\n' | b'\r') => Press::Confirmed(Choice::GoOn),
        (None, b's') => Press::Selected(Some(Choice::Stop)),
        (None, b'c') => Press::Selected(Some(Choice::Cancel)),
        (_, _) => Press::Selected(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str) -> Vec<Press> {
        let mut selected = None;
        let step = |key| {
            let press = press(selected, key);
            if let Press::Selected(now) = press {
                selected = now;
            }
            press
        };
        keys.bytes().map(step).collect()
    }

    #[test]
    fn a_letter_alone_answers_nothing_and_enter_confirms_it() {
        let (stop, cancel) = (Press::Selected(Some(Choice::Stop)), Press::Selected(Some(Choice::Cancel)));
        assert_eq!(typed("c\n"), [cancel, Press::Confirmed(Choice::Cancel)]);
        assert_eq!(typed("S\r"), [stop, Press::Confirmed(Choice::Stop)]);
        assert_eq!(typed("\n"), [Press::Confirmed(Choice::GoOn)]);
    }

    #[test]
    fn another_key_takes_a_choice_back() {
        let none = Press::Selected(None);
        assert_eq!(typed("cx\n"), [Press::Selected(Some(Choice::Cancel)), none, Press::Confirmed(Choice::GoOn)]);
        assert_eq!(typed("q"), [none]);
    }
}
