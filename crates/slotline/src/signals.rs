//! SIGTERM, SIGINT and SIGHUP: the first asks to end in order, the second to end at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// From here on the first signal calls `first`, and the second `second`; `asked` says what the first one leads to.
pub(crate) fn on_stop(
    asked: &'static str,
    first: impl FnOnce() + Send + 'static,
    second: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let mut signals = Signals::catch()?;
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("asked to end; {asked}");
        first();
        signals.next().await;
        tracing::warn!("asked twice; ends at once");
        second();
    });
    Ok(())
}

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopSignal {
    Terminate,
    /// Ctrl-C.
    Interrupt,
    /// The terminal is gone.
    HangUp,
}

pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Option<Signal>,
}

impl Signals {
    /// From here on none of them ends the process.
    pub(crate) fn catch() -> io::Result<Self> {
        // What was started with `nohup` is to outlive its terminal.
        let hang_up = if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())?, hang_up })
    }

    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            Some(_) = next_if_caught(&mut self.hang_up) => StopSignal::HangUp,
        }
    }
}

async fn next_if_caught(signal: &mut Option<Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}

/// Whether this process was started with SIGHUP ignored.
fn ignores_hang_up() -> bool {
    const HANG_UP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & HANG_UP != 0)
}
