//! How many messages a second the broker confirms, and how many it carries through, with enough of them on their way.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Consumer};

use super::MEASURE;
use super::amqp::{Kind, channel, connect, consume, declare, delete, publish};
use crate::figure::{Book, Figure, MACHINE};
use crate::scale::Scale;

const QUEUE: &str = "limits.rate";
/// Messages in one round, those that may be unconfirmed, and those that are acked at once.
const ROUND: usize = 60_000;
const WINDOW: usize = 500;
const ACKED_AT_ONCE: usize = 250;
const PREFETCH: u16 = 1000;

pub(super) async fn measure(url: &str, scale: &Scale, book: &mut Book) -> Result<()> {
    let (publishing, consuming) = (connect(url).await?, connect(url).await?);
    for kind in Kind::ALL {
        for consumed in [false, true] {
            let round = scale.of(ROUND);
            let (mut rounds, mut seconds) = (0, 0.0);
            while seconds < scale.floor.as_secs_f64() {
                // New channels, whose delivery tags count from 1.
                let (from, to) = (channel(&publishing).await?, channel(&consuming).await?);
                declare(&from, QUEUE, kind).await?;
                let consumer = if consumed { Some(consume(&to, QUEUE, PREFETCH).await?) } else { None };
                let begun = Instant::now();
                let drained = async {
                    match consumer {
                        Some(consumer) => drain(consumer, round).await,
                        None => Ok(()),
                    }
                };
                tokio::try_join!(fill(&from, kind, round), drained)?;
                seconds += begun.elapsed().as_secs_f64();
                rounds += 1;
                // The consumer's channel first: a queue that goes under its consumer would cancel it.
                to.close(200, "".into()).await?;
                delete(&from, QUEUE).await?;
                from.close(200, "".into()).await?;
            }
            let through = if consumed { " and consumed" } else { "" };
            let case = format!("broker: published with confirms{through}, {}", kind.told());
            book.add(Figure::new(MACHINE, MEASURE, case, rounds * round).rate(rounds, seconds));
        }
    }
    Ok(())
}

async fn fill(channel: &Channel, kind: Kind, count: usize) -> Result<()> {
    let mut unconfirmed = VecDeque::with_capacity(WINDOW);
    for _ in 0..count {
        if unconfirmed.len() == WINDOW {
            unconfirmed.pop_front().context("the window is full")?.await?;
        }
        unconfirmed.push_back(publish(channel, QUEUE, kind).await?);
    }
    for confirm in unconfirmed {
        confirm.await?;
    }
    Ok(())
}

async fn drain(mut consumer: Consumer, count: usize) -> Result<()> {
    for seen in 1..=count {
        let delivery = consumer.next().await.context("the consumer goes on")??;
        if seen % ACKED_AT_ONCE == 0 || seen == count {
            delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    Ok(())
}
