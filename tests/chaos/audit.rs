//! The history of the journal, noted by triggers: each change is noted by the transaction that makes it.
//!
//! So a commit is noted if and only if it is durable, and in the order of the commits: each begins by locking the one
//! row of `leadership`. Not here: what may follow what (`checker`).

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use slotline_protocol::policy::{OnIsolation, Policy};
use slotline_protocol::{ActionRef, Epoch, ExecutionId, Fence, Status};
use slotline_tests::Postgres;

use crate::checker::{Checker, Rule};
use crate::clock::Clocks;
use crate::history::{Entry, Fact, Rules};

const INSTALL: &str = "
create schema chaos;
create table chaos.notes (
    number bigserial primary key,
    at     timestamptz not null default clock_timestamp(),
    what   text not null,
    row    jsonb not null
);
create function chaos.note() returns trigger language plpgsql as $$
begin
    insert into chaos.notes (what, row) values (tg_table_name, to_jsonb(new) - 'parameters' - 'digest' - 'result' - 'body');
    return null;
end $$;
create trigger noted after update on leadership for each row
    when ((old.epoch, old.batch) is distinct from (new.epoch, new.batch)) execute function chaos.note();
create trigger noted after insert or update on actions for each row execute function chaos.note();
create trigger noted after insert or update on live for each row execute function chaos.note();
create trigger noted after insert on history for each row execute function chaos.note();
create trigger noted after insert on events for each row execute function chaos.note();
";

const READ: &str = "select jsonb_build_object('at', (extract(epoch from at) * 1000000)::bigint, 'what', what, 'row', row) \
    from chaos.notes order by number";

/// From here on every change of this database is noted. It must be migrated, and no executor may lead yet.
pub(crate) async fn install(postgres: &Postgres, database: &str) -> anyhow::Result<()> {
    postgres.psql_in(database, INSTALL).await.map(drop)
}

/// All that was noted, as facts.
pub(crate) async fn read(postgres: &Postgres, database: &str, clocks: &Clocks) -> anyhow::Result<Vec<Entry>> {
    let text = postgres.psql_in(database, READ).await?;
    replay(&text, |wall| clocks.since_boot(wall))
}

fn replay(text: &str, since_boot: impl Fn(i64) -> u64) -> anyhow::Result<Vec<Entry>> {
    let mut replay = Replay::default();
    for line in text.lines() {
        let note: Note = serde_json::from_str(line).with_context(|| line.to_owned())?;
        replay.take(note, &since_boot).with_context(|| line.to_owned())?;
    }
    replay.end_batch();
    Ok(replay.history)
}

#[derive(Deserialize)]
struct Note {
    at: i64,
    what: String,
    row: Value,
}

#[derive(Deserialize)]
struct LeadershipRow {
    epoch: i64,
    batch: i64,
}

#[derive(Deserialize)]
struct ActionRow {
    id: i64,
    #[serde(rename = "ref")]
    action_ref: String,
    policy: String,
    paused: bool,
}

#[derive(Clone, Deserialize)]
struct LiveRow {
    id: i64,
    place: i64,
    fence: Option<i64>,
    after_fence: Option<i64>,
    attempt: u32,
    status: String,
    not_before: Option<String>,
    keeps_slot: bool,
    action_id: i64,
    concurrency_key: Option<String>,
    message_id: Option<String>,
}

#[derive(Deserialize)]
struct HistoryRow {
    id: i64,
    status: String,
}

#[derive(Deserialize)]
struct EventRow {
    execution_id: i64,
    number: u64,
}

#[derive(Clone, Copy, PartialEq)]
struct Held {
    fence: i64,
    /// The fence of the attempt that it starts after, if it was sent ahead of its slot.
    after: Option<i64>,
}

/// What a live execution was as of the batch before.
#[derive(Clone, Copy, Default)]
struct Stood {
    attempt: u32,
    held: Option<Held>,
}

#[derive(Default)]
struct Replay {
    history: Vec<Entry>,
    epoch: i64,
    actions: BTreeMap<i64, ActionRef>,
    stood: BTreeMap<i64, Stood>,
    at: u64,
    put: Vec<Fact>,
    /// As the batch left them, each once.
    moved: BTreeMap<i64, LiveRow>,
    settled: Vec<(i64, Status)>,
    numbered: Vec<Fact>,
}

impl Replay {
    fn take(&mut self, note: Note, since_boot: impl Fn(i64) -> u64) -> anyhow::Result<()> {
        match note.what.as_str() {
            "leadership" => {
                self.end_batch();
                // A clock that is set may go back; a later note is later all the same.
                self.at = self.at.max(since_boot(note.at));
                let LeadershipRow { epoch, batch } = row(note.row)?;
                if epoch == self.epoch {
                    self.say(Fact::Committed { epoch: Epoch(epoch), batch });
                } else {
                    self.epoch = epoch;
                    self.say(Fact::Led { epoch: Epoch(epoch) });
                }
            }
            "actions" => {
                let ActionRow { id, action_ref, policy, paused } = row(note.row)?;
                let policy: Policy = serde_json::from_str(&policy)?;
                let action = ActionRef::new(&action_ref)?;
                let runs_on = policy.on_isolation == OnIsolation::Continue;
                let rules = Rules { limit: policy.limit, key_limit: policy.key_limit, paused, runs_on };
                self.actions.insert(id, action.clone());
                self.put.push(Fact::ActionPut { action, rules });
            }
            "live" => {
                let row: LiveRow = row(note.row)?;
                self.moved.insert(row.id, row);
            }
            "history" => {
                let HistoryRow { id, status } = row(note.row)?;
                self.settled.push((id, status.parse()?));
            }
            "events" => {
                let EventRow { execution_id, number } = row(note.row)?;
                self.numbered.push(Fact::Numbered { execution: ExecutionId(execution_id), number });
            }
            other => bail!("nobody looks at {other}"),
        }
        Ok(())
    }

    fn say(&mut self, fact: Fact) {
        self.history.push(Entry { at: self.at, fact });
    }

    /// Adds the facts of a batch in their order of meaning, whatever the order of its statements: actions that were
    /// put, executions that were accepted, that ended, that were granted in order of the grants, and that wait.
    fn end_batch(&mut self) {
        for fact in std::mem::take(&mut self.put) {
            self.say(fact);
        }
        let mut moved: Vec<LiveRow> = std::mem::take(&mut self.moved).into_values().collect();
        for row in &moved {
            if !self.stood.contains_key(&row.id) {
                self.accepted(row);
            }
        }
        let mut left = Vec::new();
        for (id, status) in std::mem::take(&mut self.settled) {
            moved.retain(|row| row.id != id);
            if let Some(held) = self.stood.remove(&id).and_then(|stood| stood.held) {
                left.extend((status == Status::Completed).then_some(held.fence));
                self.released(id, held);
            }
            self.say(Fact::Settled { execution: ExecutionId(id), status });
        }
        for row in &moved {
            let stood = self.stood.get(&row.id).copied().unwrap_or_default();
            let over = stood.held.filter(|held| row.fence != Some(held.fence));
            if let Some(held) = over {
                self.stood.insert(row.id, Stood { held: None, ..stood });
                self.released(row.id, held);
            }
            let has_begun = over.and_then(|held| held.after).is_some_and(|after| left.contains(&after));
            if has_begun || stood.attempt + u32::from(row.fence.is_some()) < row.attempt {
                // It was sent ahead, and began and ended within this batch; or it was granted and lost within it. So it
                // was before no other execution any more.
                self.say(Fact::Stands { execution: ExecutionId(row.id) });
            }
        }
        moved.sort_by_key(|row| row.fence.unwrap_or(i64::MAX));
        for row in moved {
            self.stands(&row);
            let held = row.fence.map(|fence| Held { fence, after: row.after_fence });
            self.stood.insert(row.id, Stood { attempt: row.attempt, held });
        }
        for fact in std::mem::take(&mut self.numbered) {
            self.say(fact);
        }
    }

    fn released(&mut self, id: i64, held: Held) {
        let (execution, fence) = (ExecutionId(id), Fence(held.fence));
        self.say(match held.after {
            Some(_) => Fact::TakenBack { execution, fence },
            None => Fact::Released { execution, fence },
        });
    }

    fn accepted(&mut self, row: &LiveRow) {
        let execution = ExecutionId(row.id);
        self.stood.insert(row.id, Stood::default());
        self.say(Fact::Accepted {
            execution,
            request: Arc::from(row.message_id.as_deref().unwrap_or_default()),
            action: self.actions.get(&row.action_id).cloned().unwrap_or_else(nameless),
            key: row.concurrency_key.as_deref().map(Arc::from),
        });
        // An execution that was granted and lost within a batch has no plain order among the others of the batch.
        if row.attempt == u32::from(row.fence.is_some()) {
            self.say(Fact::Waits { execution, place: row.place });
        }
    }

    fn stands(&mut self, row: &LiveRow) {
        let (execution, attempt, place) = (ExecutionId(row.id), row.attempt, row.place);
        let held = self.stood.get(&row.id).and_then(|stood| stood.held);
        let before = held.map(|held| (held.fence, held.after.is_some()));
        match (row.fence.map(Fence), row.after_fence.map(Fence)) {
            (Some(fence), Some(after)) if before != Some((fence.0, true)) => {
                self.say(Fact::SentAhead { execution, attempt, fence, place, after });
            }
            (Some(fence), None) if before != Some((fence.0, false)) => {
                self.say(Fact::Granted { execution, attempt, fence, place });
            }
            (Some(_), _) => {}
            (None, _) if row.status == Status::Queued.as_str() && row.not_before.is_none() && !row.keeps_slot => {
                self.say(Fact::Waits { execution, place });
            }
            (None, _) => self.say(Fact::Stands { execution }),
        }
    }
}

/// Two wait; within one batch the first is granted and lost, the second is granted, and then the first is once more:
/// only the attempt number in the rows shows its first grant.
const LOST_WITHIN_A_BATCH: &str = r#"
{"at":1,"what":"leadership","row":{"epoch":1,"batch":0}}
{"at":1,"what":"actions","row":{"id":1,"ref":"chaos.lost","policy":"{\"limit\":2}","paused":false}}
{"at":2,"what":"leadership","row":{"epoch":1,"batch":1}}
{"at":2,"what":"live","row":{"id":1,"place":1,"attempt":0,"status":"queued","keeps_slot":false,"action_id":1,"message_id":"a"}}
{"at":2,"what":"live","row":{"id":2,"place":2,"attempt":0,"status":"queued","keeps_slot":false,"action_id":1,"message_id":"b"}}
{"at":3,"what":"leadership","row":{"epoch":1,"batch":2}}
{"at":3,"what":"live","row":{"id":1,"place":1,"fence":3,"attempt":2,"status":"scheduled","keeps_slot":false,"action_id":1}}
{"at":3,"what":"live","row":{"id":2,"place":2,"fence":2,"attempt":1,"status":"scheduled","keeps_slot":false,"action_id":1}}
"#;

/// Tests the notes: a grant that was undone within its batch is no overtaking, and without the undoing it is one.
pub(crate) fn is_understood() -> anyhow::Result<()> {
    let judged = |notes: &str| -> anyhow::Result<Option<Rule>> {
        let requests = ["a", "b"].map(|request| Entry { at: 0, fact: Fact::Enqueued { request: request.into() } });
        let history: Vec<Entry> = requests.into_iter().chain(replay(notes.trim(), i64::unsigned_abs)?).collect();
        Ok(Checker::check(&history).err().map(|violation| violation.rule))
    };
    let found = judged(LOST_WITHIN_A_BATCH)?;
    ensure!(found.is_none(), "a grant that is lost within its batch: expected no complaint, found {found:?}");
    let found = judged(&LOST_WITHIN_A_BATCH.replace("\"attempt\":2", "\"attempt\":1"))?;
    ensure!(found == Some(Rule::GrantsAreInOrder), "the second is granted first: found {found:?}");
    Ok(())
}

fn row<T: DeserializeOwned>(row: Value) -> anyhow::Result<T> {
    Ok(serde_json::from_value(row)?)
}

/// The name of an action that the notes do not have, which the checker then finds.
fn nameless() -> ActionRef {
    ActionRef::new("chaos.nameless").expect("a word, a dot, a word")
}
