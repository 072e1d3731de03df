//! A sound journal is found sound; each change behind its back is found by the check that is there for it.

use slotline_protocol::{ActionId, Fence, Policy, Status};
use slotline_scheduler::{Counters, Lease, Settled, Snapshot};
use slotline_store::{ActionChange, Batch, Check, JournalVerdict};

use crate::world::{World, accepted, action, at, cases, ended, ends, lease, log, queued, settled, story};

cases!(a_sound_journal_holds, what_was_enqueued_earlier_is_left_out, whatever_is_tampered_with_is_seen);

/// Granted and started at once, at this second.
fn held(fence: i64, started: i64) -> Lease {
    Lease { fence: Fence(fence), scheduled_at: at(started), started_at: Some(at(started)), ..lease(fence) }
}

fn ran(id: i64, fence: i64, attempt: u32, started: i64, ended: i64) -> Settled {
    Settled { attempt, lease: Some(held(fence, started)), ended_at: at(ended), ..settled(id) }
}

/// A line of one slot: 1 completed, 2 was lost and then completed, 3 runs, 4 waits.
async fn sound(world: &World) -> anyhow::Result<()> {
    let mut writer = world.lead().await?;
    let policy = Policy { limit: Some(1), ..Policy::default() };
    let change = ActionChange::Put(slotline_protocol::http::Action { policy, ..action(1, "demo.echo") });
    writer.commit(Batch { actions: vec![change], ..Batch::default() }).await?;
    let counters = Counters { next_id: 5, next_fence: 5, next_action: 2 };
    let accepted = (1..=4).map(accepted).collect();
    let totals = vec![(ActionId(1), 4, 0)];
    writer.commit(Batch { accepted, totals, counters, ..Batch::default() }).await?;
    let lost = ended(2, 1, held(2, 20), at(30));
    let running = Snapshot { status: Status::Running, attempt: 1, lease: Some(held(4, 40)), ..queued(3) };
    let batch = Batch {
        attempts: vec![lost],
        settled: ends([ran(1, 1, 1, 10, 20), ran(2, 3, 2, 30, 40)]),
        live: vec![running],
        totals: vec![(ActionId(1), 0, 2)],
        events: (1..=5).map(|number| log(2, number)).collect(),
        stories: vec![story(2, 1, 6)],
        counters,
        ..Batch::default()
    };
    Ok(writer.commit(batch).await?)
}

fn examined(verdict: &JournalVerdict) -> Vec<(Check, u64)> {
    verdict.checks.iter().map(|checked| (checked.check, checked.examined)).collect()
}

async fn a_sound_journal_holds(world: World) -> anyhow::Result<()> {
    let verdict = world.store.verify(None).await?;
    assert!(verdict.holds() && verdict.executions == 0, "{verdict:?}");
    sound(&world).await?;
    let verdict = world.store.verify(None).await?;
    assert!(verdict.holds() && verdict.violations.is_empty(), "{verdict:?}");
    assert_eq!((verdict.executions, verdict.attempts), (4, 4));
    let expected = [
        (Check::Limits, 4),
        (Check::Order, 3),
        (Check::Fences, 4),
        (Check::Attempts, 4),
        (Check::Ends, 3),
        (Check::Slots, 2),
        (Check::Records, 1),
        (Check::Totals, 1),
        (Check::Counters, 6),
    ];
    assert_eq!(examined(&verdict), expected);
    Ok(())
}

async fn what_was_enqueued_earlier_is_left_out(world: World) -> anyhow::Result<()> {
    sound(&world).await?;
    let verdict = world.store.verify(Some(at(3))).await?;
    assert_eq!((verdict.executions, verdict.attempts), (2, 1));
    assert!(verdict.holds(), "{verdict:?}");
    Ok(())
}

/// A change behind the program's back, how it is undone, and the check that finds it with its words.
type Tampering = (&'static str, &'static str, Check, &'static str);

const OF_EXECUTIONS: &[Tampering] = &[
    (
        "UPDATE history SET started_at = (SELECT scheduled_at FROM attempts) WHERE id = 2",
        "UPDATE history SET started_at = scheduled_at WHERE id = 2",
        Check::Limits,
        "demo.echo: 2 ran at",
    ),
    (
        "UPDATE history SET fence = 9 - fence WHERE id = 1",
        "UPDATE history SET fence = 9 - fence WHERE id = 1",
        Check::Order,
        "got its slot before 1",
    ),
    (
        "UPDATE history SET fence = 2 WHERE id = 1",
        "UPDATE history SET fence = 1 WHERE id = 1",
        Check::Fences,
        "fence 2 was given to execution 1 and to 2",
    ),
    (
        "UPDATE history SET fence = 1 WHERE id = 2",
        "UPDATE history SET fence = 3 WHERE id = 2",
        Check::Fences,
        "fence 1 was given to execution 1 and to 2",
    ),
    (
        "UPDATE history SET attempt = 1 WHERE id = 2",
        "UPDATE history SET attempt = 2 WHERE id = 2",
        Check::Attempts,
        "attempt 1 of execution 2 was granted twice",
    ),
    (
        "UPDATE history SET status = 'running' WHERE id = 1",
        "UPDATE history SET status = 'completed' WHERE id = 1",
        Check::Ends,
        "execution 1 has settled without a terminal status",
    ),
    (
        "UPDATE live SET id = 1 WHERE id = 4",
        "UPDATE live SET id = 4 WHERE id = 1",
        Check::Ends,
        "execution 1 has settled and lives",
    ),
    (
        "UPDATE live SET status = 'queued' WHERE id = 3",
        "UPDATE live SET status = 'running' WHERE id = 3",
        Check::Slots,
        "execution 3 is out without a slot",
    ),
    (
        "UPDATE live SET status = 'completed' WHERE id = 4",
        "UPDATE live SET status = 'queued' WHERE id = 4",
        Check::Slots,
        "execution 4 is out without a slot",
    ),
];

const OF_RECORDS_AND_NUMBERS: &[Tampering] = &[
    (
        "UPDATE events SET number = 9 WHERE number = 3",
        "UPDATE events SET number = 3 WHERE number = 9",
        Check::Records,
        "should have events 1 to 5, and has 5 from 1 to 9",
    ),
    ("UPDATE stories SET last = 7", "UPDATE stories SET last = 6", Check::Records, "should have events 1 to 6"),
    ("UPDATE stories SET awaits = 3", "UPDATE stories SET awaits = NULL", Check::Records, "should have events 1 to 6"),
    ("UPDATE stories SET first = 3", "UPDATE stories SET first = 1", Check::Records, "should have events 3 to 5"),
    (
        "UPDATE stories SET execution_id = 77",
        "UPDATE stories SET execution_id = 2",
        Check::Records,
        "the record of execution 77 is of no execution",
    ),
    ("UPDATE events SET execution_id = 1", "UPDATE events SET execution_id = 2", Check::Records, "and has none"),
    (
        "UPDATE action_totals SET completed = 1",
        "UPDATE action_totals SET completed = 2",
        Check::Totals,
        "demo.echo: 4 were taken, 1 settled and 2 live, which leaves 1",
    ),
    (
        "UPDATE live SET place = 5 WHERE id = 4",
        "UPDATE live SET place = 4 WHERE id = 4",
        Check::Counters,
        "the next place is 5, but 5 was given away",
    ),
    (
        "UPDATE leadership SET next_id = 4",
        "UPDATE leadership SET next_id = 5",
        Check::Counters,
        "the next id is 4, but 4 was given away",
    ),
    (
        "UPDATE leadership SET next_fence = 4",
        "UPDATE leadership SET next_fence = 5",
        Check::Counters,
        "the next fence is 4",
    ),
    (
        "UPDATE leadership SET next_action = 1",
        "UPDATE leadership SET next_action = 2",
        Check::Counters,
        "the next action is 1",
    ),
    ("UPDATE leadership SET epoch = 0", "UPDATE leadership SET epoch = 1", Check::Counters, "in which nobody led"),
];

async fn whatever_is_tampered_with_is_seen(world: World) -> anyhow::Result<()> {
    sound(&world).await?;
    // No other process can reach a database in memory.
    if world.url.contains(":memory:") {
        return Ok(());
    }
    for (tamper, undo, check, words) in OF_EXECUTIONS.iter().chain(OF_RECORDS_AND_NUMBERS).copied() {
        world.tamper(tamper).await?;
        let verdict = world.store.verify(None).await?;
        let accused = verdict.checks.iter().any(|checked| checked.check == check && checked.violations > 0);
        assert!(accused && !verdict.holds(), "{tamper}: {verdict:?}");
        assert!(verdict.violations.iter().any(|violation| violation.contains(words)), "{tamper}: {verdict:?}");
        world.tamper(undo).await?;
        let verdict = world.store.verify(None).await?;
        assert!(verdict.holds(), "{undo}: {verdict:?}");
    }
    Ok(())
}
