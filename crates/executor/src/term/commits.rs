//! From what has gathered to a commit, and from the commit to what leaves. Not here: what gathers (`term`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use slotline_api::hub::LiveEvent;
use slotline_broker::{Publication, Tag, crash};
use slotline_protocol::record::Event;
use slotline_protocol::{Timestamp, chain};
use slotline_store::{Batch, CommitError, Culprit, Part};
use tokio::sync::Mutex;

use super::{End, FAREWELL, LAZY, Term, WORTH_A_BATCH};
use crate::ask::{Answer, Answered, Asker};
use crate::change::refused_policy;
use crate::errands::Handled;
use crate::feed::Source;
use crate::flight::{Cargo, Crew, Error, Flight, fly};
use crate::lookout::log_departed;
use crate::mail::{Mail, Purpose};
use crate::noted;
use crate::outbox::pack;

/// What a commit has made true and nobody waits for.
pub(super) struct Rest {
    publications: Vec<(Publication, Purpose)>,
    probe: Option<Timestamp>,
    acks: Vec<(Source, Tag)>,
    requests: Option<Tag>,
    dead: Vec<Publication>,
    /// Of the session that the deliveries came by.
    generation: Option<u64>,
    pub(super) told: Told,
}

/// Events of a batch that is committed.
pub(super) struct Told {
    batch: i64,
    events: Vec<Arc<Event>>,
    is_noted: bool,
}

impl Term {
    /// Hands what has gathered to a commit, if something is due: at once if none is under way, behind that one if it is
    /// much.
    pub(super) fn cut(&mut self) {
        let now = self.clock.now();
        let lazily_due = self.lazy_since.is_some_and(|since| since + LAZY <= now);
        let has_room = match self.flights.len() {
            0 => true,
            1 => self.pending.inputs + self.pending.members >= WORTH_A_BATCH,
            _ => false,
        };
        if !has_room || !(self.is_urgent || lazily_due) {
            return;
        }
        self.is_urgent = false;
        self.lazy_since = None;
        let (mut batch, mut letters, told) =
            pack(&mut self.scheduler, &mut self.record, &mut self.pending, &mut self.bodies, &mut self.awaited, now);
        (self.pending.inputs, self.pending.members) = (0, 0);
        self.gate.refuse_wild(letters.wild);
        batch.announced = self.announcer.ranges(&told);
        let mut cargo = Cargo {
            batch: self.batch + 1,
            next: self.scheduler.counters(),
            probe: letters.probe.then_some(now),
            answers: std::mem::take(&mut self.pending.answers),
            acks: std::mem::take(&mut self.acks),
            requests: self.requests.take(),
            generation: self.feed.as_ref().map(|feed| feed.session.generation()),
            audit: batch.audit.clone(),
            departed: std::mem::take(&mut letters.departed),
            grants: std::mem::take(&mut letters.grants),
            told,
            is_noted: !batch.announced.is_empty(),
        };
        let speaks_for_itself = batch.is_empty() && !letters.has_orders() && letters.ended.is_empty();
        // What it says may rest on a batch that is under way.
        if speaks_for_itself && self.flights.is_empty() {
            cargo.batch = self.batch;
            let mail = self.postman.write(letters, |_| None, now);
            self.release(mail, cargo);
            return;
        }
        let Some(leadership) = self.leadership.clone() else { return };
        self.batch += 1;
        let batch = Batch { number: self.batch, ..batch };
        let (store, postman, registry) = (self.store.clone(), self.postman.clone(), self.registry.clone());
        let crew = Crew { store, leadership, postman, registry, quarantine: self.quarantine.clone() };
        self.flights.push_back(tokio::spawn(fly(crew, batch, letters, cargo, now)));
    }

    pub(super) fn land(&mut self, flight: Flight) -> Result<(), End> {
        match flight.result {
            Ok(mail) => {
                self.committed.store(flight.cargo.batch, Ordering::Release);
                self.note_committed(flight.cargo.batch, flight.cargo.next);
                if flight.cargo.requests.is_some() {
                    self.journal.proved();
                }
                self.release(mail, flight.cargo);
                Ok(())
            }
            Err(error) => {
                let epoch = self.epoch;
                match &error {
                    Error::Commit(CommitError::Refused { culprits, .. }) => {
                        tracing::error!(error = %chain(&error), culprits = culprits.len(), %epoch, "the database refuses \
                            what a batch holds; it is done again without that, by the next epoch");
                        self.turn_down(flight.cargo.answers, culprits);
                    }
                    _ => {
                        tracing::warn!(error = %chain(&error), %epoch, "a batch is not known to be committed; \
                            leadership is over");
                    }
                }
                if let Some(cause) = error.journal() {
                    self.journal.failed(chain(cause).to_string());
                }
                Err(End::Over)
            }
        }
    }

    /// Tells those who put an action that the database refuses it. Whatever else was asked is asked again.
    fn turn_down(&self, answers: Vec<(Asker, Answered)>, culprits: &[Culprit]) {
        for (asker, answer) in answers {
            let ids: Vec<_> = match &answer {
                Ok(Answer::Action { action, .. }) => vec![action.action_id],
                Ok(Answer::Applied(applied)) => applied.iter().filter_map(|applied| applied.action_id).collect(),
                Ok(_) | Err(_) => continue,
            };
            let is_of = |culprit: &&Culprit| matches!(culprit.part, Part::Action(id) if ids.contains(&id));
            let Some(culprit) = culprits.iter().find(is_of) else { continue };
            self.tell(asker, Err(refused_policy(&culprit.words)));
        }
    }

    fn tell(&self, asker: Asker, answer: Answered) {
        match asker {
            // Whoever asked may have gone away.
            Asker::Here(sender) => drop(sender.send(answer)),
            Asker::Elsewhere(properties) => {
                if let (Some(feed), Some(publication)) = (&self.feed, self.postman.answer(&properties, &answer)) {
                    drop(feed.session.publish(publication));
                }
            }
        }
    }

    /// Lets out what a commit has made true.
    fn release(&mut self, mail: Mail, cargo: Cargo) {
        self.show(&cargo.told);
        cargo.audit.iter().for_each(noted::log);
        cargo.departed.iter().for_each(log_departed);
        mail.dead.iter().for_each(noted::log_put_aside);
        for (asker, answer) in cargo.answers {
            self.tell(asker, answer);
        }
        // Numbers of orders rise along the queue of each worker.
        self.release_rest();
        crash::point("executor.publish.before");
        let has_orders = mail.publications.iter().any(|(_, purpose)| matches!(purpose, Purpose::Order(_)));
        self.publish(mail.publications);
        let Cargo { batch, probe, acks, requests, generation, told: events, is_noted, .. } = cargo;
        let told = Told { batch, events, is_noted };
        self.rest = Some(Rest { publications: mail.later, probe, acks, requests, dead: mail.dead, generation, told });
        if !has_orders {
            self.release_rest();
        }
    }

    /// Lets out what nobody waits for. While an order is on its way to the broker this stays behind, so that the broker
    /// has nothing else to do.
    pub(super) fn release_rest(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        self.publish(rest.publications);
        crash::point("executor.publish.after");
        self.announce(rest.told);
        let Some(feed) = &self.feed else { return };
        if let Some(published_at) = rest.probe {
            for publication in self.postman.probes(self.mark, published_at) {
                drop(feed.session.publish(publication));
            }
        }
        if rest.generation != Some(feed.session.generation()) {
            // Those deliveries belong to a session that is over; they come again.
            return;
        }
        crash::point("executor.ack.before");
        for (from, tag) in rest.acks {
            feed.ack(from, tag);
        }
        crash::point("executor.ack.after");
        if let Some(requests_out) = &self.requests_out
            && (rest.requests.is_some() || !rest.dead.is_empty())
        {
            self.unstored += rest.dead.len();
            drop(requests_out.send(Handled { tag: rest.requests, dead: rest.dead }));
        }
    }

    /// Has the public told, which waits for all else.
    pub(super) fn announce(&self, told: Told) {
        crash::point("executor.announce.before");
        self.announcer.announce(told.batch, told.events, told.is_noted);
    }

    fn publish(&self, publications: Vec<(Publication, Purpose)>) {
        let Some(feed) = &self.feed else { return };
        for (publication, purpose) in publications {
            let receipt = feed.session.publish(publication);
            if let (Purpose::Order(incarnation), Some(watch)) = (purpose, &self.watch) {
                crash::point("executor.publish.order");
                drop(watch.send((receipt, incarnation)));
            }
        }
    }

    /// Shows committed events to who watches.
    fn show(&mut self, told: &[Arc<Event>]) {
        if !self.hub.is_idle() {
            let wanted = told.iter().filter(|event| self.hub.wants(event.execution_id));
            let live: Vec<_> = wanted.map(|event| Arc::new(LiveEvent::new(Event::clone(event)))).collect();
            self.hub.publish(&live);
        }
        if let Some(feed) = &self.feed {
            for (queue, events) in self.followers.news(told, self.clock.now()) {
                for publication in self.postman.news(&queue, &events) {
                    drop(feed.session.publish(publication));
                }
            }
        }
    }

    /// Ends the term: what is under way lands, and leadership goes to the next in line.
    pub(super) async fn finish(&mut self, end: &End) {
        // Handed over while it could still be held.
        let mut lands = matches!(end, End::Shutdown | End::Settled | End::Brokerless);
        while let Some(flight) = self.flights.pop_front() {
            if let Ok(flight) = flight.await {
                // Behind one that failed, nothing is let out.
                lands = lands && self.land(flight).is_ok();
            }
        }
        let epoch = self.epoch;
        let leadership = self.leadership.take().and_then(Arc::into_inner).map(Mutex::into_inner);
        let leadership = self.take_leave(end, leadership).await;
        // At once, and not after a farewell that the broker may draw out: nothing more is committed under this epoch, and
        // what a deposed leader still has to say is dropped by whoever has heard the next.
        let without_broker = self.feedless_since.elapsed();
        let hand_over = async {
            if let Some(leadership) = leadership {
                leadership.release().await;
                match end {
                    End::Shutdown => tracing::info!(%epoch, "handed leadership over: this executor ends"),
                    End::Brokerless => {
                        tracing::warn!(%epoch, "handed leadership over: no broker for {without_broker:.1?}");
                    }
                    // Why has its own line.
                    End::Over | End::Doubted { .. } | End::Settled => {
                        tracing::debug!(%epoch, "handed leadership over");
                    }
                }
            }
        };
        tokio::join!(hand_over, self.say_farewell());
    }

    /// What was taken is acked, what left last gets confirmed, and the rest goes back to its place.
    async fn say_farewell(&mut self) {
        self.release_rest();
        let session = self.feed.as_ref().map(|feed| feed.session.clone());
        if let Some(session) = session {
            self.requests_out = None;
            let acked = self.requests_acked.take();
            let farewell = async {
                if let Some(acked) = acked {
                    drop(acked.await);
                }
                session.close().await;
            };
            if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
                tracing::warn!("the session did not close in time; what it did not ack comes again");
            }
            self.feed = None;
        }
    }
}
