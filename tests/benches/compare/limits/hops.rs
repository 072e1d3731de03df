//! One hop through the broker: from a publication to its consumer, with one message on its way at a time.

use std::time::Instant;

use anyhow::Result;

use super::MEASURE;
use super::amqp::{Kind, channel, connect, consume, declare, delete, publish, take};
use crate::figure::{Book, Figure, MACHINE};
use crate::scale::Scale;

const QUEUE: &str = "limits.hop";
const PREFETCH: u16 = 256;

pub(super) async fn measure(url: &str, scale: &Scale, book: &mut Book) -> Result<()> {
    let (publishing, consuming) = (connect(url).await?, connect(url).await?);
    for kind in Kind::ALL {
        let channels = (channel(&publishing).await?, channel(&consuming).await?);
        declare(&channels.0, QUEUE, kind).await?;
        let mut consumer = consume(&channels.1, QUEUE, PREFETCH).await?;
        let (begun, mut took) = (Instant::now(), Vec::new());
        while begun.elapsed() < scale.floor {
            let hop = Instant::now();
            let confirm = publish(&channels.0, QUEUE, kind).await?;
            take(&mut consumer).await?;
            took.push(u64::try_from(hop.elapsed().as_nanos())?);
            confirm.await?;
        }
        delete(&channels.0, QUEUE).await?;
        let figure = Figure::new(MACHINE, MEASURE, format!("broker: one hop, {}", kind.told()), took.len());
        book.add(figure.rate(1, begun.elapsed().as_secs_f64()).percentiles(took));
    }
    Ok(())
}
