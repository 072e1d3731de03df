//! From deliveries of the requests queue to checked requests, in order.
//!
//! What needs a look into the journal or costs time is done here, beside the leader's loop: reading envelopes, schemas,
//! and whether a request's name is known. The loop decides; a batch has the number of the commit that its look-ups saw.
//!
//! Nothing is acked here: a delivery is acked once the batch that took it is committed and its dead copies are
//! confirmed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use slotline_broker::{Consumer, Delivery, Tag, crash};
use slotline_protocol::envelope::{Envelope, LABEL_CHARS_MAX};
use slotline_protocol::message::{CancelRequested, Message, Requested};
use slotline_protocol::{ActionId, By, Reason, RequestName, Sizes, Unreadable, canonical, chain, did_you_mean};
use slotline_store::{Known, Request, Store};
use tokio::sync::{mpsc, watch};

use crate::examiner::examine;
use crate::gate::Gate;
use crate::outbox::{Asked, Came};
use crate::probation::{Probation, Verdict};
use crate::reading::{PutAside, Reading, Rejection};
use crate::registry::Registry;

/// Deliveries that are taken at once.
const DELIVERIES_MAX: usize = 500;
/// Members that are checked together, if all are small. A number of deliveries would be no bound, since each may bring
/// thousands: such a delivery is taken in pieces, so that a commit stays within what the database does in its time.
const WEIGHT_MAX: usize = 500;
/// Each so many bytes count as one member, or one input, more.
pub(crate) const BYTES_PER_WEIGHT: usize = 16 << 10;
/// Wait before a look-up that failed is tried again.
const LOOK_UP_AGAIN: Duration = Duration::from_millis(500);

/// Deliveries, checked, in the order of the queue.
#[derive(Debug)]
pub struct Checked {
    pub generation: u64,
    /// The last batch that was committed before the look-ups.
    pub seen_batch: i64,
    pub members: Vec<Member>,
    /// Of the last delivery that is taken whole; acks it and all before.
    pub tag: Option<Tag>,
}

/// What one envelope requests.
#[derive(Debug)]
pub enum Member {
    Request {
        action: ActionId,
        asked: Asked,
        known: Option<Known>,
    },
    Cancel {
        target: Target,
        by: By,
    },
    /// Its publisher gets an answer; the letter that puts it aside comes after the last member of its delivery.
    Rejected(Box<Rejection>),
    Refused(Box<PutAside>),
}

impl Member {
    /// What it adds to a batch, in members of common size.
    pub(crate) fn weight(&self) -> usize {
        let bytes = match self {
            Self::Request { asked, .. } => asked.request.parameters.get().len(),
            Self::Cancel { by, .. } => by.reason.as_ref().map_or(0, String::len),
            Self::Rejected(rejection) => rejection.detail.len(),
            Self::Refused(refusal) => refusal.body.len(),
        };
        1 + bytes / BYTES_PER_WEIGHT
    }
}

/// The execution that is to be cancelled.
#[derive(Debug)]
pub struct Target {
    pub name: RequestName,
    pub known: Option<Known>,
}

pub(crate) struct Intake {
    pub(crate) store: Store,
    pub(crate) registry: Arc<Registry>,
    /// The last committed batch of this leader.
    pub(crate) committed: Arc<AtomicI64>,
    pub(crate) generation: u64,
    /// What the broker of this session takes: a request must be small enough to be dispatched.
    pub(crate) sizes: Sizes,
    pub(crate) probation: Probation,
    /// The last request that was acked.
    pub(crate) acked: watch::Receiver<Option<Tag>>,
    pub(crate) gate: Arc<Gate>,
}

impl Intake {
    /// Reads the requests queue until its session or the leader is gone.
    pub(crate) async fn run(mut self, mut consumer: Consumer, checked: mpsc::Sender<Checked>) {
        let mut deliveries = Vec::new();
        while consumer.next_batch(&mut deliveries, DELIVERIES_MAX).await {
            for Delivery { properties, body, .. } in &mut deliveries {
                self.gate.restore_user(properties, body);
            }
            let mut poisoned: BTreeMap<_, _> = examine(&deliveries, &self.registry).await.into_iter().collect();
            let mut deliveries = deliveries.drain(..).peekable();
            while let Some(next) = deliveries.peek() {
                let goes_on = if let Some(how) = poisoned.remove(&next.tag) {
                    match deliveries.next() {
                        Some(poisoned) => self.put_aside(poisoned, &how, &checked).await,
                        None => true,
                    }
                } else if Probation::concerns(next) {
                    match deliveries.next() {
                        Some(suspect) => self.read_alone(suspect, &checked).await,
                        None => true,
                    }
                } else {
                    let is_other = |next: &Delivery| !Probation::concerns(next) && !poisoned.contains_key(&next.tag);
                    let others = std::iter::from_fn(|| deliveries.next_if(is_other));
                    self.pass_on(None, others, &checked).await
                };
                if !goes_on {
                    return;
                }
            }
        }
    }

    /// Checks deliveries and gives them to the loop; `false` once the loop is gone.
    async fn pass_on(
        &self,
        mut opened: Option<Reading>,
        mut deliveries: impl Iterator<Item = Delivery>,
        checked: &mpsc::Sender<Checked>,
    ) -> bool {
        while let Some((mut members, tag)) = self.some(&mut opened, &mut deliveries) {
            let seen_batch = self.committed.load(Ordering::Acquire);
            while let Err(error) = self.look_up(&mut members).await {
                tracing::warn!(error = %chain(&error), "requests can't be looked up; they wait for the database");
                if !waits(checked).await {
                    return false;
                }
            }
            let batch = Checked { generation: self.generation, seen_batch, members, tag };
            if checked.send(batch).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Puts a request aside that killed the processes which examined it.
    async fn put_aside(&self, poisoned: Delivery, how: &str, checked: &mpsc::Sender<Checked>) -> bool {
        let detail =
            format!("a process that was to read it alone ended in its midst ({how}); this one did not read it");
        let reading = Some(Reading::refuse(poisoned, Reason::Poisoned, detail));
        self.pass_on(reading, std::iter::empty(), checked).await
    }

    /// Reads a request that may have killed a process, and nothing beside it until it is committed.
    async fn read_alone(&mut self, suspect: Delivery, checked: &mpsc::Sender<Checked>) -> bool {
        let tag = suspect.tag;
        let verdict = loop {
            match self.probation.begin(&suspect).await {
                Ok(verdict) => break verdict,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "a request that came again waits for the database to be noted")
                }
            }
            if !waits(checked).await {
                return false;
            }
        };
        match verdict {
            Verdict::ReadAlone(digest) => {
                let reading = Some(Reading::begin(suspect, self.sizes));
                self.pass_on(reading, std::iter::empty(), checked).await
                    && self.probation.end(digest, tag, &mut self.acked).await
            }
            Verdict::PutAside { readings } => {
                let detail = format!("{readings} processes in a row ended while they read it; it was not read again");
                let reading = Some(Reading::refuse(suspect, Reason::Poisoned, detail));
                self.pass_on(reading, std::iter::empty(), checked).await
            }
        }
    }

    /// Reads deliveries until they have brought enough members to check; `None` once there are no more.
    fn some(
        &self,
        opened: &mut Option<Reading>,
        deliveries: &mut impl Iterator<Item = Delivery>,
    ) -> Option<(Vec<Member>, Option<Tag>)> {
        let (mut members, mut weight, mut tag) = (Vec::new(), 0, None);
        while weight < WEIGHT_MAX
            && let Some(mut reading) = opened.take().or_else(|| Some(Reading::begin(deliveries.next()?, self.sizes)))
        {
            while weight < WEIGHT_MAX
                && let Some(member) = reading.next(|envelope, came| member(&self.registry, envelope, came))
            {
                weight += member.weight();
                members.push(member);
            }
            if reading.is_over() {
                tag = Some(reading.tag);
            } else {
                *opened = Some(reading);
            }
        }
        (tag.is_some() || !members.is_empty()).then_some((members, tag))
    }

    /// Finds every `message_id` of the batch in the journal at once.
    async fn look_up(&self, members: &mut [Member]) -> Result<(), slotline_store::Error> {
        let names: Vec<RequestName> = members.iter().filter_map(name_of).cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let found = self.store.find_messages(&names).await?;
        let found: BTreeMap<&RequestName, &Known> = found.iter().map(|known| (&known.name, known)).collect();
        for member in members {
            let known_now = name_of(member).and_then(|name| found.get(name)).map(|known| (*known).clone());
            match member {
                Member::Request { known, .. } | Member::Cancel { target: Target { known, .. }, .. } => {
                    *known = known_now;
                }
                Member::Rejected(_) | Member::Refused(_) => {}
            }
        }
        Ok(())
    }
}

/// What an envelope requests, checked against its action. An examiner does the same, to see whether it survives.
pub(crate) fn member(registry: &Registry, envelope: &Envelope<'_>, came: &Arc<Came>) -> Result<Member, Unreadable> {
    match &*envelope.message_type {
        Requested::TYPE => request(registry, envelope, came),
        CancelRequested::TYPE => cancel(envelope, came),
        other => {
            let meant = did_you_mean(other, &[Requested::TYPE, CancelRequested::TYPE]);
            let detail = format!("message_type: {other:?} is not read here{meant}");
            Err(unreadable(envelope, Reason::UnknownType, detail))
        }
    }
}

fn request(registry: &Registry, envelope: &Envelope<'_>, came: &Arc<Came>) -> Result<Member, Unreadable> {
    let requested: Requested = envelope.open()?;
    requested.check().map_err(|invalid| unreadable(envelope, invalid.reason(), format!("payload.{invalid}")))?;
    for (field, text) in [
        ("correlation_id", envelope.correlation_id.as_deref()),
        ("trace_id", envelope.trace_id.as_deref()),
        ("source", envelope.source.as_deref()),
    ] {
        if text.is_some_and(|text| text.chars().count() > LABEL_CHARS_MAX || text.contains('\0')) {
            let detail = format!("{field}: expected at most {LABEL_CHARS_MAX} characters and no NUL");
            return Err(unreadable(envelope, Reason::Malformed, detail));
        }
    }
    let digest = match envelope.message_id {
        Some(_) => digest(&requested),
        None => [0; 32],
    };
    let registered = registry.get(&requested.action_ref).ok_or_else(|| {
        let (unknown, meant) = (&requested.action_ref, registry.perhaps_meant(&requested.action_ref));
        let detail = format!("payload.action_ref: no action is called {unknown}{meant}");
        unreadable(envelope, Reason::UnknownAction, detail)
    })?;
    crash::on_poison("admit", requested.parameters.get().as_bytes());
    let key = registered
        .admit(requested.parameters.get(), requested.concurrency_key)
        .map_err(|detail| unreadable(envelope, Reason::InvalidParameters, format!("payload.{detail}")))?;
    let name = envelope.message_id.as_deref().map(|message_id| name(message_id, came));
    let request = Request {
        name,
        digest,
        parameters: requested.parameters,
        timeout: requested.timeout_seconds,
        detail: requested.progress,
        correlation_id: envelope.correlation_id.clone(),
        trace_id: envelope.trace_id.clone(),
        source: envelope.source.as_deref().map(str::to_owned),
        reply_to: came.properties.reply_to.clone(),
        reply: requested.reply,
    };
    let asked = Asked { action_ref: requested.action_ref, key, request: Arc::new(request), came: came.clone() };
    Ok(Member::Request { action: registered.action.action_id, asked, known: None })
}

/// Equal for two requests that ask for the same, however each is spelt.
fn digest(requested: &Requested) -> [u8; 32] {
    let json = serde_json::to_string(requested).expect("plain data with string keys");
    Sha256::digest(canonical(&json)).into()
}

/// Waits for the database to come back; `false` once the loop is gone.
async fn waits(checked: &mpsc::Sender<Checked>) -> bool {
    tokio::select! {
        () = checked.closed() => false,
        () = tokio::time::sleep(LOOK_UP_AGAIN) => true,
    }
}

fn name_of(member: &Member) -> Option<&RequestName> {
    match member {
        Member::Request { asked, .. } => asked.request.name.as_ref(),
        Member::Cancel { target: Target { name, .. }, .. } => Some(name),
        Member::Rejected(_) | Member::Refused(_) => None,
    }
}

/// The name of a request: its publisher's `message_id`, with the user if the broker names one.
fn name(message_id: &str, came: &Came) -> RequestName {
    RequestName::new(came.properties.user_id.as_deref().filter(|user| !user.is_empty()), message_id)
}

/// A cancellation names the `message_id` of the publisher's own request only: numbers are easily guessed, and any
/// publisher may send this.
fn cancel(envelope: &Envelope<'_>, came: &Came) -> Result<Member, Unreadable> {
    let asked: CancelRequested = envelope.open()?;
    let Some(message_id) = asked.message_id.filter(|_| asked.execution_id.is_none()) else {
        let detail =
            "payload: expected the message_id of the request that is to be cancelled, and no execution_id: by its \
                      number an operator cancels an execution over HTTP"
                .to_owned();
        return Err(unreadable(envelope, Reason::InvalidPayload, detail));
    };
    let target = Target { name: name(&message_id, came), known: None };
    let user = came.properties.user_id.as_deref().filter(|user| !user.is_empty());
    Ok(Member::Cancel { target, by: By::publisher(user, asked.reason) })
}

fn unreadable(envelope: &Envelope<'_>, reason: Reason, detail: String) -> Unreadable {
    Unreadable { reason, detail, message_id: envelope.message_id.clone() }
}
