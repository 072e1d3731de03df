//! Proofs on what travels, where somebody may lie: the executors' [`Ring`] and the workers' [`Trust`] at work, on bodies that
//! are written as text.
//!
//! As `crates/executor/src/{gate,inbox,mail}.rs` and `crates/worker/src/{trust,run}.rs` use them. Where nobody lies, nothing is
//! proved, and everything is believed.

use slotline_protocol::Incarnation;
use slotline_protocol::message::{Completed, Ended, Heartbeat, Message, Progress, Returned, StatusChanged};
use slotline_protocol::proof::{Letter, Ring, SECRET_BYTES, Secret, Trust, Verdict, Worth};

use crate::history::Fact;
use crate::plan::Mistake;
use crate::stage::Stage;
use crate::wire::Body;

/// A body, and what its headers prove.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) body: Body,
    pub(crate) proof: Option<String>,
    pub(crate) nonce: Option<String>,
    pub(crate) token: Option<String>,
    /// What only the history may know.
    pub(crate) is_lie: bool,
}

/// The journal's.
pub(crate) fn secret() -> Secret {
    Secret::new(&[7; SECRET_BYTES]).expect("long enough")
}

pub(crate) fn bytes(body: &Body) -> Vec<u8> {
    format!("{body:?}").into_bytes()
}

impl Sealed {
    fn bare(body: Body) -> Self {
        Self { body, proof: None, nonce: None, token: None, is_lie: false }
    }

    fn sealed(self) -> Body {
        Body::Sealed(Box::new(self))
    }
}

/// What a worker sends; `None` if that must wait until it is known.
pub(crate) fn report(trust: Option<&Trust>, body: Body) -> Option<Body> {
    let Some(trust) = trust else { return Some(body) };
    let proof = trust.proof(&bytes(&body));
    let nonce = matches!(body, Body::Heartbeat(_)).then(|| trust.nonce().to_owned());
    if proof.is_none() && nonce.is_none() {
        return None;
    }
    Some(Sealed { proof, nonce, ..Sealed::bare(body) }.sealed())
}

/// What a leader sends to one incarnation. `nonce`: it introduces itself.
pub(crate) fn order(ring: Option<&Ring>, incarnation: Incarnation, nonce: Option<String>, body: Body) -> Body {
    let Some(ring) = ring else { return body };
    let proof = Some(ring.order(incarnation, &bytes(&body)));
    let token = nonce.is_some().then(|| ring.token(incarnation).to_string());
    Sealed { proof, nonce, token, ..Sealed::bare(body) }.sealed()
}

/// What a leader makes of a body.
pub(crate) enum Heard<'a> {
    Believed(&'a Body),
    /// Its incarnation is to be introduced by this nonce.
    Stranger(Incarnation, String),
    Nothing,
}

pub(crate) fn hear<'a>(ring: Option<&Ring>, body: &'a Body, stage: &mut Stage) -> Heard<'a> {
    let Some(ring) = ring else { return Heard::Believed(body) };
    // Probes bear the leader's own nonce, and what publishers say is theirs to say.
    let Body::Sealed(sealed) = body else { return Heard::Believed(body) };
    let (message_type, of) = match &sealed.body {
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
        | Body::Sealed(_) => return Heard::Nothing,
    };
    let speaker = ring.speaker(sealed.proof.as_deref(), sealed.nonce.as_deref(), &bytes(&sealed.body));
    let verdict = match (stage.mistake, ring.verdict(speaker, message_type, of)) {
        (Some(Mistake::BelievesStrangers), Verdict::Refused) => Verdict::Believed,
        (_, verdict) => verdict,
    };
    match (verdict, of) {
        (Verdict::Believed, _) => {
            if sealed.is_lie {
                stage.record(Fact::Believed { lie: crate::broker::kind(&sealed.body) });
            }
            Heard::Believed(&sealed.body)
        }
        (Verdict::Introduced { nonce }, Some(of)) => Heard::Stranger(of, nonce.to_owned()),
        (Verdict::Introduced { .. } | Verdict::Refused, _) => Heard::Nothing,
    }
}

/// What an incarnation makes of what came through its queue.
pub(crate) fn judge<'a>(trust: Option<&mut Trust>, body: &'a Body, stage: &mut Stage) -> (Worth, &'a Body) {
    let is_to_all = matches!(body, Body::Greeting(_));
    let Some(trust) = trust else { return (if is_to_all { Worth::Hint } else { Worth::Order }, body) };
    let bare;
    let (sealed, body) = match body {
        Body::Sealed(sealed) => (&**sealed, &sealed.body),
        body => {
            bare = Sealed::bare(body.clone());
            (&bare, body)
        }
    };
    let text = bytes(body);
    let letter = Letter {
        is_to_all,
        proof: sealed.proof.as_deref(),
        nonce: sealed.nonce.as_deref(),
        token: sealed.token.as_deref(),
        body: &text,
    };
    let worth = match (stage.mistake, trust.judge(letter)) {
        (Some(Mistake::ObeysStrangers), Worth::Nothing) => Worth::Order,
        (_, worth) => worth,
    };
    if sealed.is_lie && matches!(worth, Worth::Order | Worth::Introduction) {
        stage.record(Fact::Believed { lie: crate::broker::kind(body) });
    }
    (worth, body)
}
