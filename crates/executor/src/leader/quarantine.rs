//! What the journal's database has refused for its content, and so must not come into a batch again.
//!
//! A refused batch ends the term of its leader, and all of it comes again to the next one: requests from the broker,
//! completions and events from their workers. Each culprit is recognized here by its content, and is put aside: a
//! request among the dead letters, a result for a failure with the reason, an event for a gap.
//!
//! For a minute only: once the database is mended, what was put aside may be tried again. Pure: time is an argument,
//! that of the leader's clock.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use slotline_protocol::message::{AttemptKey, Failure, GapReason, Report, Stream};
use slotline_protocol::record::{Event, What};
use slotline_protocol::{ActionRef, ExecutionId, OutcomeKind, Policy, Reason, Timestamp};
use slotline_scheduler::Input;
use slotline_store::{ActionChange, Batch, Culprit, CulpritPart, Request};

use super::item::Item;
use crate::record::AttemptEventKind;

/// How long a culprit is remembered. What comes again comes within a second or two of the next leader.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// The most culprits that are remembered. A forgotten one costs another batch.
const KNOWN_MAX: usize = 10_000;

/// Nearly always empty.
#[derive(Clone, Debug, Default)]
pub struct Quarantine(BTreeMap<Content, Known>);

/// What is refused, by its content or by the attempt that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Action([u8; 32]),
    Request([u8; 32]),
    Ending(AttemptKey),
    Event([u8; 32]),
}

#[derive(Clone, Debug)]
struct Known {
    /// The database's own words; `None` if it refused even those.
    words: Option<String>,
    since: Timestamp,
}

impl Known {
    /// The next leader's clock may be somewhat behind the one that `since` was read from.
    fn holds(&self, now: Timestamp) -> bool {
        now < self.since + KNOWN_FOR && self.since < now + KNOWN_FOR
    }
}

impl Quarantine {
    /// Takes the culprits of a batch that was refused. `grants`: of events whose attempt counts as another number.
    pub(crate) fn put(
        &mut self,
        batch: &Batch,
        grants: &BTreeMap<(ExecutionId, u64), u32>,
        culprits: &[Culprit],
        now: Timestamp,
    ) {
        self.0.retain(|_, known| known.holds(now));
        for culprit in culprits {
            tracing::error!(part = ?culprit.part, words = culprit.words, "the database refuses this; it is put aside");
            for content in contents(batch, grants, culprit.part) {
                if self.0.len() < KNOWN_MAX {
                    let words = (!self.0.contains_key(&content)).then(|| culprit.words.clone());
                    self.0.insert(content, Known { words, since: now });
                }
            }
        }
    }

    fn find(&self, content: impl FnOnce() -> Content, now: Timestamp) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let known = self.0.get(&content()).filter(|known| known.holds(now))?;
        Some(known.words.clone().unwrap_or_else(|| "and it refuses its own words on that as well".to_owned()))
    }

    /// Forgets what may be tried again.
    pub(crate) fn forget(&mut self, now: Timestamp) {
        self.0.retain(|_, known| known.holds(now));
    }

    /// Why this request can't be taken, if it can't.
    pub(crate) fn request(&self, key: Option<&str>, request: &Request, now: Timestamp) -> Option<String> {
        self.find(|| Content::Request(of_request(key, request)), now)
    }

    /// Why this policy can't be taken, if it can't.
    pub(crate) fn action(&self, action_ref: &ActionRef, policy: &Policy, now: Timestamp) -> Option<String> {
        self.find(|| Content::Action(digest(&(action_ref, policy))), now)
    }

    /// Whether the database has refused the report of the end of an attempt of this execution.
    fn has_ending(&self, id: ExecutionId) -> bool {
        let attempts = Content::Ending((id, 0))..=Content::Ending((id, u32::MAX));
        self.0.range(attempts).next().is_some()
    }

    /// The reason of a cancellation, unless an ending of that execution was refused: its reason may be why.
    pub(crate) fn reason(&self, id: ExecutionId, reason: Option<String>) -> Option<String> {
        reason.filter(|_| !self.has_ending(id))
    }

    /// Takes out of a worker's report what the database has refused.
    pub(crate) fn cleanse(&self, item: Item, now: Timestamp) -> Item {
        if self.0.is_empty() {
            return item;
        }
        match item {
            Item::Event(mut word) => {
                let content = of_said(word.key, &word.said);
                if content.is_some_and(|content| self.find(|| content, now).is_some()) {
                    word.said = AttemptEventKind::Gap { count: 1, reason: GapReason::Refused };
                }
                Item::Event(word)
            }
            Item::Ended(mut end, input) => {
                let Some(words) = self.find(|| Content::Ending(end.key), now) else { return Item::Ended(end, input) };
                let failure = failure(&words);
                end.message = Some(failure.message.clone());
                end.outcome = end.outcome.map(failed);
                Item::Ended(end, refused(input, failure))
            }
            Item::Parting { teller, worker, incarnation, items } => {
                let items = items.into_iter().map(|item| self.cleanse(item, now)).collect();
                Item::Parting { teller, worker, incarnation, items }
            }
            item @ (Item::Input(_) | Item::Stranger { .. }) => item,
        }
    }
}

/// The end of an attempt whose own outcome can't be written.
fn failure(words: &str) -> Failure {
    let code = Reason::JournalRefused.as_str();
    Failure::new(code, format!("the attempt ended, but the database refuses its result or error: {words}"))
}

fn failed(outcome: OutcomeKind) -> OutcomeKind {
    match outcome {
        OutcomeKind::Completed => OutcomeKind::Failed,
        other => other,
    }
}

fn refused(input: Input, failure: Failure) -> Input {
    match input {
        Input::Completed { key, fence, incarnation, mut outcome } => {
            outcome.kind = failed(outcome.kind);
            outcome.result = None;
            outcome.error = Some(failure);
            Input::Completed { key, fence, incarnation, outcome }
        }
        Input::Returned { key, fence, incarnation, started, reason: _ } => {
            Input::Returned { key, fence, incarnation, started, reason: failure.message }
        }
        other => other,
    }
}

/// The contents of a part of a batch.
fn contents(batch: &Batch, grants: &BTreeMap<(ExecutionId, u64), u32>, part: CulpritPart) -> Vec<Content> {
    match part {
        CulpritPart::Action(action) => {
            let put = batch.actions.iter().filter_map(|change| match change {
                ActionChange::Put(put) if put.action_id == action => {
                    Some(Content::Action(digest(&(&put.action_ref, &put.policy))))
                }
                ActionChange::Put(_) | ActionChange::Delete { .. } => None,
            });
            put.collect()
        }
        CulpritPart::Request(id) => {
            let accepted = batch.accepted.iter().filter(|accepted| accepted.snapshot.id == id);
            let request = |it: &slotline_store::AcceptedRequest| of_request(it.snapshot.key.as_deref(), &it.request);
            accepted.map(|accepted| Content::Request(request(accepted))).collect()
        }
        CulpritPart::Ending(id, attempt) => vec![Content::Ending((id, attempt))],
        CulpritPart::Event(id, number) => {
            let events = batch.events.iter().filter(|event| (event.execution_id, event.number) == (id, number));
            // A worker names an attempt by its grant, and so does its end.
            let grant = |event: &Event| grants.get(&(id, number)).copied().unwrap_or(event.attempt);
            events.filter_map(|event| of_event((id, grant(event)), &event.what)).collect()
        }
    }
}

fn of_event(key: AttemptKey, what: &What) -> Option<Content> {
    match what {
        What::Progress(report) => Some(of_progress(key, report)),
        What::Log { stream, lines } => Some(of_log(key, *stream, lines)),
        What::Finished { .. } | What::Settled { .. } => Some(Content::Ending(key)),
        // These have no text from outside.
        What::Status { .. } | What::Started | What::Gap { .. } => None,
    }
}

fn of_said(key: AttemptKey, said: &AttemptEventKind) -> Option<Content> {
    match said {
        AttemptEventKind::Progress(report) => Some(of_progress(key, report)),
        AttemptEventKind::Log { stream, lines } => Some(of_log(key, *stream, lines)),
        AttemptEventKind::Running
        | AttemptEventKind::Started
        | AttemptEventKind::Gap { .. }
        | AttemptEventKind::Finished => None,
    }
}

fn of_progress(key: AttemptKey, report: &Report) -> Content {
    Content::Event(digest(&(key, report)))
}

fn of_log(key: AttemptKey, stream: Stream, lines: &[String]) -> Content {
    Content::Event(digest(&(key, stream, lines)))
}

fn of_request(key: Option<&str>, request: &Request) -> [u8; 32] {
    let Request { name, parameters, correlation_id, trace_id, source, reply_to, .. } = request;
    digest(&(key, name, parameters, correlation_id, trace_id, source, reply_to))
}

fn digest(content: &impl Serialize) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(content).expect("plain data with string keys")).into()
}

#[cfg(test)]
mod tests {
    use slotline_protocol::Incarnation;

    use super::*;
    use crate::record::AttemptEvent;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn word(message: &str) -> AttemptEvent {
        let report = Report { message: Some(message.to_owned()), ..Report::default() };
        let (key, by, at) = ((ExecutionId(1), 1), Incarnation(uuid::Uuid::nil()), Timestamp::from_micros(0));
        AttemptEvent { key, by, sequence: Some(4), at, said: AttemptEventKind::Progress(report) }
    }

    fn event(word: &AttemptEvent) -> std::sync::Arc<Event> {
        let AttemptEventKind::Progress(report) = &word.said else { unreachable!("made above") };
        std::sync::Arc::new(Event {
            execution_id: word.key.0,
            action_ref: ActionRef::new("demo.echo").expect("a name"),
            number: 9,
            attempt: word.key.1,
            timestamp: word.at,
            what: What::Progress(report.clone()),
        })
    }

    #[test]
    fn a_refused_event_becomes_a_gap_until_it_is_forgotten_and_its_neighbours_stay() {
        let mut quarantine = Quarantine::default();
        let batch = Batch { events: vec![event(&word("bad"))], ..Batch::default() };
        let culprit = Culprit { part: CulpritPart::Event(ExecutionId(1), 9), words: "no".to_owned() };
        quarantine.put(&batch, &BTreeMap::new(), std::slice::from_ref(&culprit), NOW);
        let is_gap = |quarantine: &Quarantine, message| {
            let item = quarantine.cleanse(Item::Event(word(message)), NOW);
            matches!(
                item,
                Item::Event(AttemptEvent { said: AttemptEventKind::Gap { count: 1, reason: GapReason::Refused }, .. })
            )
        };
        assert!(is_gap(&quarantine, "bad"));
        assert!(!is_gap(&quarantine, "good"));
        quarantine.put(&batch, &BTreeMap::new(), &[culprit], NOW - KNOWN_FOR);
        assert!(!is_gap(&quarantine, "bad"), "the database may have been mended");
    }

    #[test]
    fn an_event_is_known_by_its_grant_whatever_its_attempt_counts_as() {
        let mut quarantine = Quarantine::default();
        let granted = AttemptEvent { key: (ExecutionId(1), 3), ..word("bad") };
        // The two grants before came to no attempt, so people count this one as the first.
        let batch = Batch { events: vec![event(&word("bad"))], ..Batch::default() };
        let culprit = Culprit { part: CulpritPart::Event(ExecutionId(1), 9), words: "no".to_owned() };
        quarantine.put(&batch, &BTreeMap::from([((ExecutionId(1), 9), 3)]), &[culprit], NOW);
        let is_gap = |word| {
            matches!(
                quarantine.cleanse(Item::Event(word), NOW),
                Item::Event(AttemptEvent { said: AttemptEventKind::Gap { .. }, .. })
            )
        };
        assert!(is_gap(granted));
        assert!(!is_gap(word("bad")), "that is another grant's");
    }

    #[test]
    fn what_is_refused_with_the_databases_words_is_told_without_them() {
        let mut quarantine = Quarantine::default();
        let culprit = Culprit { part: CulpritPart::Ending(ExecutionId(7), 2), words: "no \"x\"".to_owned() };
        let words = |quarantine: &Quarantine| {
            quarantine.find(|| Content::Ending((ExecutionId(7), 2)), NOW).expect("it is known")
        };
        quarantine.put(&Batch::default(), &BTreeMap::new(), std::slice::from_ref(&culprit), NOW);
        assert_eq!(words(&quarantine), "no \"x\"");
        quarantine.put(&Batch::default(), &BTreeMap::new(), &[culprit], NOW);
        assert!(!words(&quarantine).contains('x'), "{}", words(&quarantine));
        assert_eq!(quarantine.reason(ExecutionId(7), Some("why".to_owned())), None);
        assert_eq!(quarantine.reason(ExecutionId(8), Some("why".to_owned())), Some("why".to_owned()));
    }
}
