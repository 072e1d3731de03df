//! Random batches against a small model of the journal: a few maps, and a rule for each kind of change.

use std::sync::Arc;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use slotline_protocol::{ActionId, ExecutionId, RequestName, Status};
use slotline_scheduler::{Settled, Snapshot};
use slotline_store::{AcceptedRequest, Batch, Filter, PageRequest, Request, Story};

use crate::record::{numbers, told};
use crate::world::{World, lease, log, queued, request, settled, story};

/// Batches in one history.
const BATCHES_MAX: usize = 12;
/// Histories on each database.
const HISTORIES: u32 = 16;

/// One step of one execution, whose number is brought into range when the step is taken.
#[derive(Clone, Debug)]
enum Step {
    Accept {
        named: bool,
        key: Option<u8>,
    },
    Change {
        which: usize,
        attempt: u32,
        leased: bool,
        to_the_back: bool,
    },
    Settle {
        which: usize,
        status: Status,
    },
    /// So many events happen, of which only the newest `kept` stay.
    Tell {
        which: usize,
        count: u64,
        kept: u64,
    },
}

/// The expected content of the journal.
#[derive(Default)]
struct Model {
    live: BTreeMap<i64, Snapshot>,
    ended: BTreeMap<i64, Status>,
    messages: BTreeMap<RequestName, i64>,
    /// The first and the last number of each record that is written.
    told: BTreeMap<i64, (u64, u64)>,
    next: i64,
    completed: u64,
}

impl Model {
    fn nth_live(&self, which: usize, untouched: &BTreeSet<i64>) -> Option<i64> {
        let free: Vec<i64> = self.live.keys().copied().filter(|id| !untouched.contains(id)).collect();
        (!free.is_empty()).then(|| free[which % free.len()])
    }

    /// Takes the steps, and returns the batch that does the same.
    fn take(&mut self, steps: &[Step]) -> Batch {
        let mut batch = Batch::default();
        // An execution changes once a batch; one accepted by it may settle, but not change.
        let (mut changed, mut fresh) = (BTreeSet::new(), BTreeSet::new());
        let mut told = BTreeSet::new();
        for step in steps {
            match *step {
                Step::Accept { named, key } => {
                    self.next += 1;
                    let id = self.next;
                    let snapshot = Snapshot { key: key.map(|key| format!("k{key}").into()), ..queued(id) };
                    let name = named.then(|| RequestName::from(format!("m{id}")));
                    if let Some(name) = &name {
                        self.messages.insert(name.clone(), id);
                    }
                    self.live.insert(id, snapshot.clone());
                    fresh.insert(id);
                    let request = Request { name, ..request() };
                    batch.accepted.push(AcceptedRequest { snapshot, request: request.into() });
                }
                Step::Change { which, attempt, leased, to_the_back } => {
                    let untouchable = &changed | &fresh;
                    let Some(id) = self.nth_live(which, &untouchable) else { continue };
                    changed.insert(id);
                    if to_the_back {
                        self.next += 1;
                    }
                    let snapshot = self.live.get_mut(&id).expect("chosen among the living");
                    snapshot.attempt = attempt;
                    snapshot.status = if leased { Status::Running } else { Status::Queued };
                    snapshot.lease = leased.then(|| lease(i64::from(attempt)));
                    if to_the_back {
                        snapshot.place = self.next;
                    }
                    batch.live.push(snapshot.clone());
                }
                Step::Settle { which, status } => {
                    let Some(id) = self.nth_live(which, &changed) else { continue };
                    changed.insert(id);
                    self.live.remove(&id);
                    self.ended.insert(id, status);
                    self.completed += 1;
                    batch.settled.push(Arc::new(Settled { status, ..settled(id) }));
                    if let Some((_, last)) = self.told.get_mut(&id) {
                        // The event that settles it has a number, and no row.
                        *last += 1;
                        told.insert(id);
                    }
                }
                Step::Tell { which, count, kept } => {
                    let Some(id) = self.nth_live(which, &BTreeSet::new()) else { continue };
                    let (first, last) = self.told.entry(id).or_insert((1, 0));
                    batch.events.extend((*last + 1..=*last + count).map(|number| log(id, number)));
                    *last += count;
                    *first = (*first).max((*last + 1).saturating_sub(kept));
                    told.insert(id);
                }
            }
        }
        batch.stories = told.iter().map(|id| self.story(*id)).collect();
        batch.totals.push((ActionId(1), batch.accepted.len() as u64, batch.settled.len() as u64));
        batch
    }

    fn story(&self, id: i64) -> Story {
        let (first, last) = self.told[&id];
        story(id, first, last)
    }

    /// The numbers of an execution's events; where some are forgotten, the first is that of the gap.
    fn numbers(&self, id: i64) -> Vec<u64> {
        let (first, last) = self.told[&id];
        (first.saturating_sub(1).max(1)..=last).collect()
    }

    /// The stories a new leader reads.
    fn stories(&self) -> Vec<Story> {
        self.told.keys().filter(|id| self.live.contains_key(*id)).map(|id| self.story(*id)).collect()
    }

    fn by_place(&self) -> Vec<Snapshot> {
        let mut live: Vec<Snapshot> = self.live.values().cloned().collect();
        live.sort_by_key(|snapshot| snapshot.place);
        live
    }

    fn newest_first(&self) -> Vec<(i64, Status)> {
        let mut all: Vec<(i64, Status)> = self.live.iter().map(|(id, live)| (*id, live.status)).collect();
        all.extend(self.ended.iter().map(|(id, status)| (*id, *status)));
        all.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        all
    }
}

fn step() -> impl Strategy<Value = Step> {
    let status = prop::sample::select(vec![Status::Completed, Status::Failed, Status::Timeout, Status::Cancelled]);
    prop_oneof![
        4 => (any::<bool>(), prop::option::of(0u8..3)).prop_map(|(named, key)| Step::Accept { named, key }),
        3 => (any::<usize>(), 0u32..5, any::<bool>(), any::<bool>())
            .prop_map(|(which, attempt, leased, to_the_back)| Step::Change { which, attempt, leased, to_the_back }),
        3 => (any::<usize>(), status).prop_map(|(which, status)| Step::Settle { which, status }),
        3 => (any::<usize>(), 1u64..6, 1u64..8).prop_map(|(which, count, kept)| Step::Tell { which, count, kept }),
    ]
}

fn histories() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(step(), 0..20), 1..BATCHES_MAX)
}

/// Commits the history and compares all that can be read.
async fn follow(world: World, history: Vec<Vec<Step>>) -> anyhow::Result<()> {
    let mut model = Model::default();
    let mut writer = world.writer().await?;
    for (round, steps) in history.iter().enumerate() {
        writer.commit(model.take(steps)).await?;
        // Leaders come and go.
        if round % 4 == 3 {
            drop(writer);
            writer = world.lead().await?;
            let recovered = writer.lead.recover().await?;
            assert_eq!(recovered.live, model.by_place());
            assert_eq!(recovered.stories.into_iter().map(|open| open.story).collect::<Vec<_>>(), model.stories());
        }
    }
    let names: Vec<RequestName> = (1..=model.next).map(|id| format!("m{id}").into()).collect();
    let known = world.store.find_messages(&names).await?;
    let known: BTreeMap<RequestName, i64> = known.into_iter().map(|k| (k.name, k.execution_id.0)).collect();
    assert_eq!(known, model.messages);

    let mut listed = Vec::new();
    let mut cursor = None;
    loop {
        let page = world.store.executions(&Filter::default(), PageRequest { cursor, limit: 7 }).await?;
        listed.extend(page.data.iter().map(|execution| (execution.execution_id.0, execution.status)));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, model.newest_first());
    for id in model.ended.keys() {
        assert!(world.store.requests(&[ExecutionId(*id)]).await?.is_empty());
    }
    for id in 1..=model.next {
        if !model.live.contains_key(&id) && !model.ended.contains_key(&id) {
            continue;
        }
        let (mut found, mut page) = (Vec::new(), told(&world, id, 0, 4).await?);
        while let Some(event) = page.events.last() {
            let after = event.number;
            found.extend(numbers(&page));
            page = told(&world, id, after, 4).await?;
        }
        assert_eq!(page.is_over, model.ended.contains_key(&id));
        let expected = match model.told.contains_key(&id) {
            true => model.numbers(id),
            false => slotline_store::plain(&world.execution(id).await?).iter().map(|event| event.number).collect(),
        };
        assert_eq!(found, expected, "of {id}");
    }
    drop(writer);
    let recovered = world.recovered().await?;
    assert_eq!(recovered.live, model.by_place());
    assert_eq!(recovered.actions[0].total_completed, model.completed);
    Ok(())
}

/// Runs the same random histories on a journal that `open` makes.
fn check<F: Future<Output = anyhow::Result<World>>>(open: impl Fn() -> F) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut runner = TestRunner::new(Config { cases: HISTORIES, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&histories(), |history| {
        let done = runtime.block_on(async { follow(open().await?, history).await });
        done.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    Ok(outcome?)
}

#[test]
fn random_histories_on_postgres_agree_with_the_model() -> anyhow::Result<()> {
    check(World::postgres)
}

#[test]
fn random_histories_in_a_file_agree_with_the_model() -> anyhow::Result<()> {
    check(World::sqlite_file)
}

#[test]
fn random_histories_in_memory_agree_with_the_model() -> anyhow::Result<()> {
    check(World::sqlite_memory)
}
