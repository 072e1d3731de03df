//! Proofs on what is written out: the executors' [`Ring`] at work. That of workers is in their driver.
//!
//! As `crates/executor/src/{gate,inbox,mail}.rs` use it. Where messages travel as values nothing is proved, and everything
//! is believed.

use slotline_protocol::Incarnation;
use slotline_protocol::message::{Completed, Ended, Heartbeat, Message, Progress, Returned, StatusChanged};
use slotline_protocol::proof::{Ring, SECRET_BYTES, Secret, Speaker, Verdict};
use slotline_worker::duty::Order;

use crate::codec::{self, Written};
use crate::history::Fact;
use crate::plan::Mistake;
use crate::stage::Stage;
use crate::wire::Body;

/// The journal's.
pub(crate) fn secret() -> Secret {
    Secret::new(&[7; SECRET_BYTES]).expect("long enough")
}

/// What a leader sends to one incarnation. `nonce`: it introduces itself.
pub(crate) fn order(ring: Option<&Ring>, incarnation: Incarnation, nonce: Option<String>, orders: Vec<Order>) -> Body {
    let orders = Body::Orders(orders);
    let Some(ring) = ring else { return orders };
    let written = codec::write(&orders);
    let proof = Some(ring.order(incarnation, &written.text));
    let token = nonce.is_some().then(|| ring.token(incarnation).to_string());
    Body::Written(Box::new(Written { proof, nonce, token, ..written }))
}

/// What a leader makes of a report.
pub(crate) enum Heard {
    /// By this incarnation, if any has proved to have said it.
    Believed(Box<Body>, Option<Incarnation>),
    /// Its incarnation is to be introduced by this nonce.
    Stranger(Incarnation, String),
}

/// What a leader makes of a message that is written out.
pub(crate) fn hear(ring: &Ring, written: &Written, stage: &mut Stage) -> Vec<Heard> {
    let speaker = ring.speaker(written.proof.as_deref(), written.nonce.as_deref(), &written.text);
    let mut heard = Vec::new();
    for body in codec::read(written) {
        let (message_type, of) = speaks_of(&body);
        let verdict = match (stage.mistake, ring.verdict(speaker, message_type, of)) {
            (Some(Mistake::BelievesStrangers), Verdict::Refused) => Verdict::Believed,
            (_, verdict) => verdict,
        };
        match (verdict, of) {
            (Verdict::Believed, _) => {
                if written.is_lie {
                    stage.record(Fact::Believed { lie: crate::broker::kind(&body) });
                }
                let by = match speaker {
                    Speaker::Worker(by) => Some(by),
                    _ => of,
                };
                heard.push(Heard::Believed(body.into(), by));
            }
            (Verdict::Introduced { nonce }, Some(of)) => heard.push(Heard::Stranger(of, nonce.to_owned())),
            (Verdict::Introduced { .. } | Verdict::Refused, _) => {}
        }
    }
    heard
}

/// The type of a report, and the incarnation that it names.
fn speaks_of(body: &Body) -> (&'static str, Option<Incarnation>) {
    match body {
        Body::Completed(word) => (Completed::TYPE, Some(word.incarnation)),
        Body::Returned(word) => (Returned::TYPE, Some(word.incarnation)),
        Body::Heartbeat(word) => (Heartbeat::TYPE, Some(word.incarnation)),
        Body::Ended(word) => (Ended::TYPE, Some(word.told_by.unwrap_or(word.incarnation))),
        Body::StatusChanged(_) => (StatusChanged::TYPE, None),
        Body::Progress(_) => (Progress::TYPE, None),
        Body::Request { .. }
        | Body::Cancel { .. }
        | Body::Greeting(_)
        | Body::Orders(_)
        | Body::Probe(_)
        | Body::Several(_)
        | Body::Of(..)
        | Body::Written(_) => unreachable!("that is no report: {body:?}"),
    }
}
