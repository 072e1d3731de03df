//! Which parts of a batch the database refuses for their content.
//!
//! The database names the rule that was broken, not the row that broke it. So parts of the refused batch are written
//! and rolled back, half by half, down to one execution or action, and then to its refused part. Nothing of that stays
//! in the journal.

use std::time::{Duration, Instant};

use slotline_protocol::{ActionId, ExecutionId};

use crate::{Audit, Batch, Error};

/// The most culprits that are looked for in one batch: further ones are found in the next.
pub const CULPRITS_MAX: usize = 100;
/// How long the search may take. A leader that searches commits nothing.
const SEARCH_MAX: Duration = Duration::from_secs(5);

/// A part that the database refuses at every try, whatever is written beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    pub part: CulpritPart,
    /// The database's own error.
    pub words: String,
}

/// A part of a batch with content that came from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CulpritPart {
    /// The policy of an action.
    Action(ActionId),
    /// The request that became this execution.
    Request(ExecutionId),
    /// How this attempt of the execution ended: its result or its error.
    Ending(ExecutionId, u32),
    /// The event of this number in the record of the execution.
    Event(ExecutionId, u64),
}

/// Writes batches and rolls them back.
pub(crate) trait Rehearsal {
    /// The error with which the database refuses the content of `batch`; `None` if it takes it.
    fn refusal(&mut self, batch: &Batch) -> impl Future<Output = Result<Option<String>, Error>> + Send;
}

/// The units into which a batch is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Action(ActionId),
    Execution(ExecutionId),
}

/// The culprits of a batch that was refused, as many as are found in time. None is found where the database went away,
/// or where no part alone is refused.
pub(crate) async fn find(batch: &Batch, mut rehearsal: impl Rehearsal) -> Vec<Culprit> {
    let until = Instant::now() + SEARCH_MAX;
    let mut culprits = Vec::new();
    let subjects = subjects(batch);
    let mut suspects = vec![subjects.as_slice()];
    while let Some(some) = suspects.pop() {
        if culprits.len() >= CULPRITS_MAX || Instant::now() >= until {
            break;
        }
        let part = part(batch, some);
        let words = match rehearsal.refusal(&part).await {
            Ok(None) => continue,
            Ok(Some(words)) => words,
            Err(_) => break,
        };
        match some {
            [] => {}
            [Subject::Action(id)] => culprits.push(Culprit { part: CulpritPart::Action(*id), words }),
            [Subject::Execution(id)] => match narrow(&part, *id, words, &mut rehearsal).await {
                Ok(found) => culprits.extend(found),
                Err(_) => break,
            },
            [..] => {
                let (first, second) = some.split_at(some.len() / 2);
                suspects.extend([second, first]);
            }
        }
    }
    culprits
}

/// Which part of one execution is refused. `one` is all that the batch has of it.
async fn narrow(
    one: &Batch,
    id: ExecutionId,
    words: String,
    rehearsal: &mut impl Rehearsal,
) -> Result<Vec<Culprit>, Error> {
    let request = Batch { accepted: one.accepted.clone(), ..numbered(one) };
    if let Some(words) = rehearsal.refusal(&request).await? {
        return Ok(vec![Culprit { part: CulpritPart::Request(id), words }]);
    }
    let endings = || {
        let earlier = one.attempts.iter().map(|ended| ended.attempt);
        let attempts = earlier.chain(one.settled.iter().map(|settled| settled.attempt));
        attempts.map(|attempt| CulpritPart::Ending(id, attempt))
    };
    let silent = Batch { events: Vec::new(), stories: Vec::new(), ..one.clone() };
    if let Some(words) = rehearsal.refusal(&silent).await? {
        return Ok(endings().map(|part| Culprit { part, words: words.clone() }).collect());
    }
    let mut found = Vec::new();
    for event in &one.events {
        let alone = Batch { events: vec![event.clone()], ..numbered(one) };
        if let Some(words) = rehearsal.refusal(&alone).await? {
            found.push(Culprit { part: CulpritPart::Event(id, event.number), words });
        }
    }
    if found.is_empty() {
        // Refused only together: all that came from outside is left out.
        let events = one.events.iter().map(|event| CulpritPart::Event(id, event.number));
        found.extend(endings().chain(events).map(|part| Culprit { part, words: words.clone() }));
    }
    Ok(found)
}

/// A batch of nothing, in the same place.
fn numbered(batch: &Batch) -> Batch {
    Batch { number: batch.number, counters: batch.counters, ..Batch::default() }
}

fn subjects(batch: &Batch) -> Vec<Subject> {
    let actions = batch.actions.iter().map(|change| Subject::Action(change.id()));
    let executions = batch
        .accepted
        .iter()
        .map(|accepted| accepted.snapshot.id)
        .chain(batch.live.iter().map(|snapshot| snapshot.id))
        .chain(batch.attempts.iter().map(|ended| ended.id))
        .chain(batch.settled.iter().map(|settled| settled.id))
        .chain(batch.events.iter().map(|event| event.execution_id))
        .chain(batch.stories.iter().map(|story| story.id));
    let mut subjects: Vec<Subject> = actions.chain(executions.map(Subject::Execution)).collect();
    subjects.extend(batch.audit.iter().filter_map(subject));
    subjects.sort_unstable();
    subjects.dedup();
    subjects
}

/// The action or execution of an entry of the audit.
fn subject(entry: &Audit) -> Option<Subject> {
    let of_action = entry.action.as_ref().map(|(id, _)| Subject::Action(*id));
    entry.execution_id.map(Subject::Execution).or(of_action)
}

/// The parts of `batch` that belong to `subjects`, which are sorted. Totals are left out: they hold nothing from
/// outside.
fn part(batch: &Batch, subjects: &[Subject]) -> Batch {
    let has = |subject| subjects.binary_search(&subject).is_ok();
    let is_of = |id| has(Subject::Execution(id));
    Batch {
        actions: batch.actions.iter().filter(|change| has(Subject::Action(change.id()))).cloned().collect(),
        accepted: batch.accepted.iter().filter(|accepted| is_of(accepted.snapshot.id)).cloned().collect(),
        live: batch.live.iter().filter(|snapshot| is_of(snapshot.id)).cloned().collect(),
        attempts: batch.attempts.iter().filter(|ended| is_of(ended.id)).cloned().collect(),
        settled: batch.settled.iter().filter(|settled| is_of(settled.id)).cloned().collect(),
        events: batch.events.iter().filter(|event| is_of(event.execution_id)).cloned().collect(),
        stories: batch.stories.iter().filter(|story| is_of(story.id)).cloned().collect(),
        audit: batch.audit.iter().filter(|entry| subject(entry).is_some_and(has)).cloned().collect(),
        ..numbered(batch)
    }
}
