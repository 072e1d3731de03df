//! Shows the events of an execution: drawn on a terminal, as lines to stderr, or as JSON lines to stdout.

use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use slotline_protocol::record::Event;
use slotline_protocol::{ExecutionId, Timestamp};

use crate::client::position::Position;
use crate::client::stream::RawEvent;
use crate::settings::Output;
use crate::show::terminal::{self, cut, wrapped};
use crate::show::view::{Frame, View};
use crate::show::{describe, output};

/// The bar moves in thousandths.
const WHOLE: u64 = 1000;
/// Time between two turns of the spinner, which shows that the program lives.
const TURN: Duration = Duration::from_millis(120);

/// Columns of a terminal whose width is unknown.
const COLUMNS: usize = 80;
/// Columns of the bar itself, where there is room.
const BAR: usize = 24;
const BAR_NARROW: usize = 10;
/// A terminal with fewer columns than this gets the narrow one.
const WIDE: usize = 70;
/// Columns beside bar and head: the spinner, brackets, spaces, and the elapsed time.
const BESIDE: usize = 16;

/// The most tasks that are drawn at once.
const TASKS_SHOWN: usize = 15;

pub(crate) struct Screen {
    with_logs: bool,
    kind: Kind,
}

enum Kind {
    Terminal(Box<Terminal>),
    Lines {
        /// The position that was printed last.
        shown: Option<(u64, String)>,
    },
    Json,
}

struct Terminal {
    bar: ProgressBar,
    /// No line that is drawn is wider: a line that wrapped could not be drawn over.
    columns: usize,
    view: View,
    /// Shown in place of the newest message.
    prompt: Option<&'static str>,
    started: Option<Timestamp>,
    layout: Layout,
}

/// Which parts the frame has.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Layout {
    has_share: bool,
    is_running: bool,
    has_message: bool,
    has_tasks: bool,
}

impl Screen {
    pub(crate) fn new(output: Output, id: ExecutionId, with_logs: bool) -> Self {
        let target = ProgressDrawTarget::stderr();
        let kind = match output {
            Output::Json => Kind::Json,
            // No terminal, or one that can't move its cursor.
            Output::Table | Output::Wide if target.is_hidden() => Kind::Lines { shown: None },
            Output::Table | Output::Wide => {
                let columns = terminal::Stdio::Err.columns().unwrap_or(COLUMNS);
                Kind::Terminal(Box::new(Terminal::new(target, id, columns)))
            }
        };
        Self { with_logs, kind }
    }

    pub(crate) fn event(&mut self, raw: &RawEvent) {
        let RawEvent { event, json } = raw;
        match &mut self.kind {
            Kind::Terminal(terminal) => terminal.event(event, self.with_logs),
            Kind::Lines { .. } => describe::all(event, self.with_logs).iter().for_each(output::note),
            // In JSON a line break between tokens is white space.
            Kind::Json => output::line(json.replace(['\n', '\r'], " ")),
        }
    }

    pub(crate) fn set_position(&mut self, position: Position) {
        match &mut self.kind {
            Kind::Terminal(terminal) => {
                terminal.view.set_position(position);
                terminal.draw();
            }
            Kind::Lines { shown } => {
                let now = (position.number, position.why.clone());
                // A new estimate alone is not printed.
                if shown.as_ref() != Some(&now) {
                    output::note(describe::position(&position));
                    *shown = Some(now);
                }
            }
            Kind::Json => {}
        }
    }

    /// A note about watching itself.
    pub(crate) fn note(&self, text: &str) {
        match &self.kind {
            Kind::Terminal(terminal) => terminal.print_above(&output::clean(text)),
            Kind::Lines { .. } | Kind::Json => output::note(text),
        }
    }

    /// Shows a prompt, or removes it.
    pub(crate) fn set_prompt(&mut self, prompt: Option<&'static str>) {
        if let Kind::Terminal(terminal) = &mut self.kind {
            terminal.prompt = prompt;
            terminal.draw();
        }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.kind, Kind::Terminal(_))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Kind::Terminal(terminal) = &self.kind {
            terminal.bar.finish_and_clear();
        }
    }
}

impl Terminal {
    fn new(target: ProgressDrawTarget, id: ExecutionId, columns: usize) -> Self {
        let layout = Layout { has_share: false, is_running: false, has_message: false, has_tasks: false };
        let bar = ProgressBar::with_draw_target(Some(WHOLE), target).with_style(layout.style(columns));
        bar.enable_steady_tick(TURN);
        Self { bar, columns, view: View::new(id), prompt: None, started: None, layout }
    }

    fn event(&mut self, event: &Event, with_logs: bool) {
        self.view.take(event);
        for line in describe::notable(event, with_logs) {
            self.print_above(&line);
        }
        self.draw();
    }

    /// Prints above the bar, wrapped.
    fn print_above(&self, text: &str) {
        for line in wrapped(text, self.columns) {
            self.bar.println(line);
        }
    }

    fn draw(&mut self) {
        let Frame { share, head, message, tasks, started } = self.view.frame();
        let message = self.prompt.map_or(message, str::to_owned);
        let layout = Layout {
            has_share: share.is_some(),
            is_running: started.is_some(),
            has_message: !message.is_empty(),
            has_tasks: !tasks.is_empty(),
        };
        let message = match layout.has_tasks {
            // The newest tasks, as many as a small terminal has room for.
            true => [message]
                .into_iter()
                .chain(tasks.into_iter().rev().take(TASKS_SHOWN).rev())
                .map(|line| cut(&line, self.columns.saturating_sub(INDENT)))
                .collect::<Vec<_>>()
                .join("\n  "),
            false => message,
        };
        if layout != self.layout {
            self.layout = layout;
            self.bar.set_style(layout.style(self.columns));
        }
        if started != self.started {
            self.started = started;
            self.bar.set_elapsed(started.map(age).unwrap_or_default());
        }
        self.bar.set_position((share.unwrap_or_default() * WHOLE as f64) as u64);
        let bar = if layout.has_share { bar_of(self.columns) } else { 0 };
        self.bar.set_prefix(cut(&head, self.columns.saturating_sub(bar + BESIDE)));
        self.bar.set_message(message);
    }
}

fn bar_of(columns: usize) -> usize {
    if columns < WIDE { BAR_NARROW } else { BAR }
}

impl Layout {
    fn style(self, columns: usize) -> ProgressStyle {
        let bar = if self.has_share { format!(" [{{bar:{}}}]", bar_of(columns)) } else { String::new() };
        let elapsed = if self.is_running { "  {elapsed}" } else { "" };
        let message = match (self.has_tasks, self.has_message) {
            (true, _) => "\n  {msg}",
            (false, true) => "\n  {wide_msg}",
            (false, false) => "",
        };
        let template = format!("{{spinner}}{bar} {{prefix}}{elapsed}{message}");
        ProgressStyle::with_template(&template).expect("every layout has a sound template").progress_chars("=> ")
    }
}

/// Spaces before each line below the bar.
const INDENT: usize = 2;

/// The time since `moment`, by this machine's clock.
fn age(moment: Timestamp) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (Timestamp::from_micros(0) + now).since(moment)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;
    use slotline_protocol::Status;
    use slotline_protocol::message::{Level, Report};
    use slotline_protocol::record::What;

    use super::*;
    use crate::show::describe::tests::{event, moved};

    /// A terminal that keeps only the text.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl Paper {
        /// The text since the last call.
        fn take(&self) -> String {
            std::mem::take(&mut self.0.lock().expect("no thread panicked"))
        }

        fn write(&self, text: &str) -> io::Result<()> {
            self.0.lock().expect("no thread panicked").push_str(text);
            Ok(())
        }
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write(text)?;
            self.write("\n")
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.write(text)
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_terminal_shows_a_bar_with_the_newest_message_and_errors_above_it() {
        let paper = Paper::default();
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let mut terminal = Terminal::new(target, ExecutionId(42), 100);
        let report = |message: &str, level| {
            What::Progress(Report {
                percent: Some(50.0),
                message: Some(message.to_owned()),
                level,
                ..Report::default()
            })
        };
        terminal.event(&event(1, moved(Status::Scheduled, Status::Running)), false);
        terminal.event(&event(2, report("half of it", Level::Info)), false);
        terminal.bar.force_draw();
        let shown = paper.take();
        assert!(shown.contains("[============>           ] execution 42 is running  50 %"), "{shown:?}");
        assert!(shown.contains("  half of it"), "{shown:?}");
        terminal.event(&event(3, report("the disk is slow", Level::Error)), false);
        let shown = paper.take();
        assert!(shown.contains("error: 50 %: the disk is slow"), "{shown:?}");
        terminal.prompt = Some("stop?");
        terminal.draw();
        terminal.bar.force_draw();
        let shown = paper.take();
        assert!(shown.contains("  stop?"), "{shown:?}");
    }

    #[test]
    fn every_layout_has_a_template_that_can_be_drawn() {
        for bits in 0..16 {
            let (has_share, is_running) = (bits & 1 > 0, bits & 2 > 0);
            Layout { has_share, is_running, has_message: bits & 4 > 0, has_tasks: bits & 8 > 0 }.style(80);
        }
    }
}
