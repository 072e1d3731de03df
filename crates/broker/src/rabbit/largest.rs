//! Whether this RabbitMQ takes messages as large as Slotline's become.
//!
//! AMQP has no question for `max_message_size`, and a larger message ends the channel that it was sent on, whatever else
//! goes that way. So one is sent beforehand, to nowhere, on a channel of its own; once per process and broker.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection};

use super::wire;
use crate::Error;
use crate::over::Over;

/// As large as a body becomes: one that is all but full, and the largest envelope between executors and workers after it.
const NEEDED: usize = 4 << 20;
/// No queue has this name, so that the default exchange drops it.
const NOWHERE: &str = "slotline.nowhere";
/// What RabbitMQ's words about a message that is too large hold.
const TOO_LARGE: &str = "max size";
/// A broker that lets no publisher through says nothing either way.
const PATIENCE: Duration = Duration::from_secs(3);

/// An error if it does not; `false` if it did not say.
pub(super) async fn fits(connection: &Connection, over: &Over) -> Result<bool, Error> {
    let channel = super::ask(over, "channel.open", connection.create_channel()).await?;
    super::ask(over, "confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let (body, options) = (vec![0; NEEDED], BasicPublishOptions::default());
    let sent = async {
        channel.basic_publish("".into(), NOWHERE.into(), options, &body, BasicProperties::default()).await?.await
    };
    match tokio::time::timeout(PATIENCE, sent).await.map(|sent| sent.map_err(|error| wire::error(&error))) {
        Ok(Err(Error::Lost(words))) if words.contains(TOO_LARGE) => Err(Error::Refused(format!(
            "{words}; Slotline's messages have up to {NEEDED} bytes: set max_message_size in rabbitmq.conf to that at least"
        ))),
        // Some users may not publish to the default exchange.
        Ok(_) => Ok(true),
        Err(_) => Ok(false),
    }
}
