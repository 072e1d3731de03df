//! Waiting for a condition with a deadline, in place of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const PAUSE: Duration = Duration::from_millis(20);

/// Repeats `look` until it returns something. Fails past `deadline`, with `what` was waited for and the last error.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    eventually_every(PAUSE, what, deadline, look).await
}

/// [`eventually`] with so long a pause between two looks, where looking disturbs what is looked at.
pub async fn eventually_every<T>(
    pause: Duration,
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        let seen = look().await;
        match seen {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if begun.elapsed() > deadline => bail!("waited {deadline:?} in vain: {what}"),
            Err(error) if begun.elapsed() > deadline => {
                return Err(error).with_context(|| format!("waited {deadline:?} in vain: {what}"));
            }
            Ok(None) | Err(_) => tokio::time::sleep(pause).await,
        }
    }
}

/// [`eventually`] for code that is not async.
pub fn eventually_blocking<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if begun.elapsed() > deadline => bail!("waited {deadline:?} in vain: {what}"),
            Err(error) if begun.elapsed() > deadline => {
                return Err(error).with_context(|| format!("waited {deadline:?} in vain: {what}"));
            }
            Ok(None) | Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
