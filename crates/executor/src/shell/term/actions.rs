//! What the leader has decided, carried out: batches into the journal, and what leaves after them. Not here: what leaves
//! when (`leader`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use slotline_api::hub::LiveEvent;
use slotline_broker::{Publication, Session, crash};
use slotline_protocol::chain;
use slotline_protocol::record::Event;
use slotline_store::CommitError;

use super::{End, Term};
use crate::leader::ask::{Answered, Asker};
use crate::leader::letters::Purpose;
use crate::leader::lookout::log_departed;
use crate::leader::{Commit, Input, LeaderAction, Mark};
use crate::shell::errands::Fate;
use crate::shell::flight::{Crew, Error, Flight, fly};
use crate::shell::{mark, noted};

impl Term {
    pub(super) fn carry_out(&mut self) {
        self.carry_out_in(None);
    }

    /// `opening`: a session whose queues are not consumed yet.
    pub(super) fn carry_out_in(&mut self, opening: Option<&Session>) {
        while let Some(action) = self.leader.next_action() {
            self.act(action, opening);
        }
    }

    fn act(&mut self, action: LeaderAction<Publication>, opening: Option<&Session>) {
        match action {
            LeaderAction::Commit(commit) => self.commit(*commit),
            LeaderAction::Encode(letters) => {
                let mail = self.postman.write(*letters, |_| None, self.clock.now());
                self.leader.handle(Input::Encoded(mail), self.clock.now());
            }
            LeaderAction::Publish { publications, is_deferred } => self.publish(publications, is_deferred),
            LeaderAction::Probe { published_at } => {
                if let Some(feed) = &self.feed {
                    for publication in self.postman.probes(self.mark, published_at) {
                        drop(feed.session.publish(publication));
                    }
                }
            }
            LeaderAction::Ack(acks) => {
                crash::point("executor.ack.before");
                if let Some(feed) = &self.feed {
                    acks.into_iter().for_each(|(from, tag)| feed.ack(from, tag));
                }
                crash::point("executor.ack.after");
            }
            LeaderAction::AckRequests(handled) => {
                if let Some(requests_out) = &self.requests_out {
                    drop(requests_out.send(handled));
                }
            }
            LeaderAction::Answer(asker, answer) => self.answer(asker, *answer),
            LeaderAction::Show(events) => self.show(&events),
            LeaderAction::SendNews { queue, events } => {
                if let Some(feed) = &self.feed {
                    for publication in self.postman.news(&queue, &events) {
                        drop(feed.session.publish(publication));
                    }
                }
            }
            LeaderAction::Announce { batch, events, is_noted } => {
                crash::point("executor.announce.before");
                self.announcer.announce(batch, Arc::unwrap_or_clone(events), is_noted);
            }
            LeaderAction::Note { audit, departed } => {
                audit.iter().for_each(noted::log);
                departed.iter().for_each(log_departed);
                self.metrics.departed(&departed);
            }
            LeaderAction::Register { action_ref, registered } => self.registry.set(action_ref, registered),
            LeaderAction::Refuse { what, count } => self.gate.refuse_all(what, count),
            LeaderAction::ClaimMark(mark) => self.claim_mark(*mark, opening),
            LeaderAction::RenewMark(mark) => self.renew_mark(*mark),
            LeaderAction::LeaveMark(mark) => {
                if let Some(feed) = &self.feed {
                    drop(feed.session.publish(mark::publication(&self.postman.prefix, &mark)));
                }
            }
        }
    }

    fn claim_mark(&self, mark: Mark, opening: Option<&Session>) {
        let Some(session) = opening.or(self.feed.as_ref().map(|feed| &feed.session)) else { return };
        let fates = self.fates.0.clone();
        let left = mark::claim(session, &self.postman.prefix, mark);
        // The other end of the channel goes with the term.
        tokio::spawn(async move { drop(fates.send(Fate::Marked(left.await))) });
    }

    fn renew_mark(&self, mark: Mark) {
        let Some(feed) = &self.feed else { return };
        let (session, prefix) = (feed.session.clone(), self.postman.prefix.clone());
        let fates = self.fates.0.clone();
        // The other end of the channel goes with the term.
        tokio::spawn(async move { drop(fates.send(Fate::Marked(mark::renew(session, prefix, mark).await))) });
    }

    fn commit(&mut self, commit: Commit) {
        let Some(leadership) = self.leadership.clone() else { return };
        let (store, postman, registry) = (self.store.clone(), self.postman.clone(), self.registry.clone());
        let metrics = self.metrics.clone();
        let crew = Crew { store, leadership, postman, registry, metrics };
        self.flights.push_back(tokio::spawn(fly(crew, commit)));
    }

    pub(super) fn land(&mut self, flight: Flight) -> Result<(), End> {
        let Flight { batch, takes_requests, result, rejected } = flight;
        match result {
            Ok(mail) => {
                self.committed.store(batch.number, Ordering::Release);
                if takes_requests {
                    self.journal.proved();
                }
                for dead in &mail.dead {
                    noted::log_put_aside(&dead.letter);
                    self.metrics.put_aside(noted::reason(&dead.letter));
                }
                self.handle(Input::Committed(mail));
                // Last: nothing that leaves waits for it.
                rejected.iter().for_each(|reason| self.metrics.rejected(reason.as_str()));
                self.metrics.count(&batch);
                Ok(())
            }
            Err(error) => {
                let epoch = self.leader.epoch();
                let mut culprits = Vec::new();
                if let Error::Commit(CommitError::Refused { culprits: found, .. }) = &error {
                    tracing::error!(error = %chain(&error), culprits = found.len(), %epoch, "the database refuses \
                        what a batch holds; it is done again without that, by the next epoch");
                    culprits.clone_from(found);
                } else {
                    tracing::warn!(error = %chain(&error), %epoch, "a batch is not known to be committed; \
                        leadership is over");
                }
                let is_refused = matches!(error, Error::Commit(CommitError::Refused { .. }));
                self.handle(Input::CommitFailed(is_refused.then_some((batch, culprits))));
                if let Some(cause) = error.journal() {
                    self.journal.failed(chain(cause).to_string());
                }
                Err(End::Over)
            }
        }
    }

    fn answer(&mut self, asker: Asker, answer: Answered) {
        match asker {
            // The client may have gone away.
            Asker::Here(number) => drop(self.calls.remove(&number).map(|reply| reply.send(answer))),
            Asker::Elsewhere(properties) => {
                if let (Some(feed), Some(publication)) = (&self.feed, self.postman.answer(&properties, &answer)) {
                    drop(feed.session.publish(publication));
                }
            }
        }
    }

    fn publish(&self, publications: Vec<(Publication, Purpose)>, is_deferred: bool) {
        if !is_deferred {
            crash::point("executor.publish.before");
        }
        let Some(feed) = &self.feed else { return };
        for (publication, purpose) in publications {
            let receipt = feed.session.publish(publication);
            if let (Purpose::Order(incarnation), Some(watch)) = (purpose, &self.watch) {
                crash::point("executor.publish.order");
                drop(watch.send((receipt, incarnation)));
            }
        }
        if is_deferred {
            crash::point("executor.publish.after");
        }
    }

    /// Shows committed events to the clients that watch.
    fn show(&self, events: &[Arc<Event>]) {
        if !self.hub.is_idle() {
            let wanted = events.iter().filter(|event| self.hub.wants(event.execution_id));
            let live: Vec<_> = wanted.map(|event| Arc::new(LiveEvent::new(event.clone()))).collect();
            self.hub.publish(&live);
        }
    }
}
