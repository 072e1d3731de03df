//! From deliveries of the requests queue to checked requests, in order.
//!
//! What needs a look into the journal or costs time is done here, beside the leader's loop: reading envelopes, schemas,
//! and whether a request's name is known. The loop decides; a batch has the number of the commit that its look-ups saw.
//!
//! Nothing is acked here: a delivery is acked once the batch that took it is committed and its dead copies are
//! confirmed.

pub mod examiner;
pub(crate) mod member;
pub(crate) mod probation;
mod reading;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use slotline_broker::{Consumer, Delivery, Tag};
use slotline_protocol::{Reason, RequestName, Sizes, chain};
use slotline_store::{Known, Store};
use tokio::sync::{mpsc, watch};

use super::clock;
use super::gate::Gate;
use super::registry::Registry;
use crate::leader::request::{Checked, Member, Target};
use examiner::examine;
use member::member;
use probation::{Probation, Trial};
use reading::Reading;

/// Deliveries that are taken at once.
const DELIVERIES_MAX: usize = 500;
/// Members that are checked together, if all are small. A number of deliveries would be no bound, since each may bring
/// thousands: such a delivery is taken in pieces, so that a commit stays within what the database does in its time.
const WEIGHT_MAX: usize = 500;
/// Wait before a look-up that failed is tried again.
const LOOK_UP_AGAIN: Duration = Duration::from_millis(500);

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
            Trial::ReadAlone(digest) => {
                let reading = Some(Reading::begin(suspect, self.sizes, clock::wall()));
                self.pass_on(reading, std::iter::empty(), checked).await
                    && self.probation.end(digest, tag, &mut self.acked).await
            }
            Trial::PutAside { readings } => {
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
            && let Some(mut reading) =
                opened.take().or_else(|| Some(Reading::begin(deliveries.next()?, self.sizes, clock::wall())))
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
