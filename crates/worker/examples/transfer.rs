//! A file transfer that reports its bytes, and resumes where it was when the connection breaks.
//!
//! `cargo run -p slotline-worker --example transfer` plays one in this process and prints what it reports. With
//! `SLOTLINE_AMQP_URL` set it is a worker of that installation.

mod stage;

use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use slotline_worker::{Builder, Context, HandlerError, Report, Worker};

/// Bytes taken at once.
const CHUNK_BYTES: u64 = 64 << 10;
/// How often a broken connection is built anew.
const TRIES_MAX: u32 = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let parameters = json!({"name": "backup.tar", "bytes": 100_000_000, "breaks_at": 60_000_000});
    stage::play(serve(Worker::builder("mover")), "file.transfer", [parameters], Duration::from_secs(60)).await
}

pub(crate) fn serve(builder: Builder) -> Builder {
    builder.action("file.transfer", transfer)
}

/// What is to be moved: the execution's parameters.
#[derive(Deserialize)]
struct Transfer {
    name: String,
    bytes: u64,
    /// Where the connection breaks, once.
    breaks_at: Option<u64>,
    /// How long the wait before another try is; doubles with each.
    #[serde(default = "back_off")]
    back_off_milliseconds: u64,
}

fn back_off() -> u64 {
    500
}

async fn transfer(context: Context) -> Result<Value, HandlerError> {
    let Transfer { name, bytes, breaks_at, back_off_milliseconds } = context.parameters()?;
    let mut source = Source { bytes, breaks_at };
    let mut back_off = Duration::from_millis(back_off_milliseconds);
    let (mut done, mut tried) = (0, 1);
    context.info(format!("Copying {name}"));
    while done < bytes {
        match source.read(done).await {
            Ok(read) => {
                done += read;
                // One call for each chunk, thousands a second: one report is sent in each interval that the publisher
                // asked for.
                let (progress, unit) = (Some((done, Some(bytes))), Some("Bytes".to_owned()));
                context.progress(Report { progress, unit, ..Report::default() });
            }
            Err(error) if tried < TRIES_MAX => {
                tried += 1;
                context.error(format!("{error} after {done} of {bytes} bytes"));
                context.info(format!("Trying again in {back_off:?} (try {tried} of {TRIES_MAX})"));
                tokio::time::sleep(back_off).await;
                back_off *= 2;
            }
            Err(error) => return Err(error.into()),
        }
    }
    context.info(format!("{name} is there"));
    Ok(json!({ "bytes": done, "tries": tried }))
}

/// Stands for the real source of the bytes.
struct Source {
    bytes: u64,
    breaks_at: Option<u64>,
}

impl Source {
    async fn read(&mut self, offset: u64) -> io::Result<u64> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if self.breaks_at.take_if(|at| offset >= *at).is_some() {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "connection reset"));
        }
        Ok(CHUNK_BYTES.min(self.bytes - offset))
    }
}
