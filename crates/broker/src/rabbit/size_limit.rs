//! How large a message this RabbitMQ takes.
//!
//! AMQP has no query for `max_message_size`, and a larger message ends the channel that it was sent on, with everything
//! else on that channel. So a probe as large as Slotline's messages become is sent beforehand, to no queue, on a
//! channel of its own: once per process if it is taken, and for each session if it is not, since the setting may have
//! been raised. RabbitMQ's refusal names the bound; if it does not, smaller probes are tried.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection};
use slotline_protocol::Sizes;

use super::wire;
use crate::over::Over;
use crate::{BODY_BYTES_MAX, Error};

/// No queue has this name, so that the default exchange drops it.
const NOWHERE: &str = "slotline.nowhere";
/// The words before the bound in RabbitMQ's refusal of a message that is too large.
const TOO_LARGE: &str = "max size";
/// How long to wait for an answer: a broker that blocks publishers gives none.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The bound that was found, or 0.
#[derive(Debug, Default)]
pub(super) struct SizeLimit(AtomicUsize);

enum ProbeResult {
    Taken,
    Refused(String),
    /// No answer in time.
    Silence,
}

impl SizeLimit {
    /// The most bytes of a message; an error if they are too few for a session to work.
    pub(super) async fn find(&self, connection: &Connection, over: &Over) -> Result<usize, Error> {
        let known = self.0.load(Ordering::Relaxed);
        if known >= Sizes::MESSAGE_FULL {
            return Ok(known);
        }
        let mut tried = Sizes::MESSAGE_FULL;
        let found = loop {
            let words = match send(connection, over, tried).await? {
                // More was not tried. A later refusal sets the bound.
                ProbeResult::Taken if tried == Sizes::MESSAGE_FULL => break BODY_BYTES_MAX,
                ProbeResult::Taken => break tried,
                ProbeResult::Silence if known > 0 => return Ok(known),
                ProbeResult::Silence => return Ok(BODY_BYTES_MAX),
                ProbeResult::Refused(words) => words,
            };
            match bound_in(&words) {
                Some(bound) if bound >= Sizes::MESSAGE_MIN => break bound,
                None if tried / 2 >= Sizes::MESSAGE_MIN => tried /= 2,
                Some(_) | None => {
                    let least = Sizes::MESSAGE_MIN;
                    return Err(Error::Refused(format!(
                        "{words}; Slotline needs {least} bytes at least, and is not limited by it from {} on: set \
                         max_message_size in rabbitmq.conf",
                        Sizes::MESSAGE_FULL
                    )));
                }
            }
        };
        self.0.store(found, Ordering::Relaxed);
        Ok(found)
    }

    /// Remembers the bound that a refusal names: the setting may be changed while the broker runs.
    pub(super) fn learn(&self, error: &Error) {
        if let Error::Lost(words) = error
            && let Some(bound) = bound_in(words)
        {
            self.0.store(bound, Ordering::Relaxed);
        }
    }
}

async fn send(connection: &Connection, over: &Over, bytes: usize) -> Result<ProbeResult, Error> {
    let channel = super::ask(over, "channel.open", connection.create_channel()).await?;
    super::ask(over, "confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let (body, options) = (vec![0; bytes], BasicPublishOptions::default());
    let sent = async {
        channel.basic_publish("".into(), NOWHERE.into(), options, &body, BasicProperties::default()).await?.await
    };
    Ok(match tokio::time::timeout(PROBE_TIMEOUT, sent).await.map(|sent| sent.map_err(|error| wire::error(&error))) {
        Ok(Err(Error::Lost(words))) if words.contains(TOO_LARGE) => ProbeResult::Refused(words),
        // Some users may not publish to the default exchange.
        Ok(_) => ProbeResult::Taken,
        Err(_) => ProbeResult::Silence,
    })
}

/// "message size 4194304 is larger than configured max size 1048576".
fn bound_in(words: &str) -> Option<usize> {
    let (_, after) = words.split_once(TOO_LARGE)?;
    let digits: String = after.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_read_from_a_refusal_and_from_nothing_else() {
        let words = "PRECONDITION_FAILED - message size 4194304 is larger than configured max size 1048576";
        assert_eq!(bound_in(words), Some(1 << 20));
        for other in ["PRECONDITION_FAILED - message size 9 is larger than max size", "ACCESS_REFUSED - 17", ""] {
            assert_eq!(bound_in(other), None, "{other}");
        }
        let limit = SizeLimit::default();
        limit.learn(&Error::Lost(words.to_owned()));
        limit.learn(&Error::Lost("connection reset".to_owned()));
        assert_eq!(limit.0.into_inner(), 1 << 20);
    }
}
