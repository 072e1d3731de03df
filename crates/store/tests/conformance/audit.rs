//! The audit: written with the change, read by pages that stay, kept longer than history where grants are judged by it.

use std::time::Duration;

use slotline_protocol::audit::{By, Changed, Entry, Via};
use slotline_protocol::change::{Difference, override_difference, pause_difference};
use slotline_protocol::{ActionId, ActionRef, ExecutionId, Fence, LimitOverride, http};
use slotline_store::{ActionChange, Audit, AuditFilter, Batch, PageRequest};

use crate::world::{World, action, at, cases, ends};

cases!(
    an_entry_reads_back_whole_with_the_change_that_it_tells_of,
    pages_stay_and_filters_find_what_they_name,
    a_batch_that_is_not_committed_leaves_no_entry,
    entries_of_executions_go_with_history_and_those_of_actions_stay_a_year,
);

fn temporary() -> LimitOverride {
    LimitOverride {
        limit: Some(4),
        until: at(900),
        since: at(7),
        actor: "alice".to_owned(),
        reason: Some("\0".to_owned()),
    }
}

fn of_action(second: i64, changed: Changed, by: By, changes: Vec<Difference>) -> Audit {
    Audit::of_action(at(second), changed, by, &action(1, "demo.echo"), Fence(second), changes)
}

fn of_cancel(second: i64, id: i64) -> Audit {
    let by = By::publisher(Some("shop"), Some("late".to_owned()));
    let action = (ActionId(1), ActionRef::new("demo.echo").expect("a name"));
    Audit::of_cancel(at(second), by, ExecutionId(id), action)
}

async fn listed(world: &World, filter: &AuditFilter) -> anyhow::Result<Vec<Entry>> {
    let (mut entries, mut cursor) = (Vec::new(), None);
    loop {
        let page = world.store.audit(filter, &PageRequest { cursor, limit: 2 }).await?;
        assert!(page.data.len() <= 2);
        entries.extend(page.data);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(entries);
        }
    }
}

async fn an_entry_reads_back_whole_with_the_change_that_it_tells_of(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let changed = http::Action { limit_override: Some(temporary()), ..action(1, "demo.echo") };
    let by = By { actor: "al\0ice".to_owned(), via: Via::Http, reason: Some("'why'\0 \u{1f980}".to_owned()) };
    let changes = vec![override_difference(None, Some(&temporary()))];
    let entry = of_action(7, Changed::LimitOverridden, by.clone(), changes.clone());
    let actions = vec![ActionChange::Put(changed.clone())];
    writer.commit(Batch { actions, audit: vec![entry, of_cancel(8, 3)], ..Batch::default() }).await?;
    assert_eq!(world.store.actions().await?, std::slice::from_ref(&changed));
    let found = listed(&world, &AuditFilter::default()).await?;
    let expected = Entry {
        id: 1,
        at: at(7),
        changed: Changed::LimitOverridden,
        by,
        action_ref: Some(changed.action_ref.clone()),
        execution_id: None,
        dead_letter: None,
        changes,
    };
    assert_eq!(found[1], expected);
    assert_eq!((found[0].execution_id, &found[0].by.actor), (Some(ExecutionId(3)), &"shop".to_owned()));
    drop(writer);
    assert_eq!(world.recovered().await?.actions[0].action, changed, "the next leader knows it");
    Ok(())
}

async fn pages_stay_and_filters_find_what_they_name(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let alice = || By::http("alice", None);
    for second in 1..=5 {
        let entry = of_action(second, Changed::Paused, alice(), vec![pause_difference(true)]);
        writer.commit(Batch { audit: vec![entry, of_cancel(second, second)], ..Batch::default() }).await?;
    }
    let ids = |entries: &[Entry]| entries.iter().map(|entry| entry.id).collect::<Vec<_>>();
    assert_eq!(ids(&listed(&world, &AuditFilter::default()).await?), (1..=10).rev().collect::<Vec<_>>());
    let page = world.store.audit(&AuditFilter::default(), &PageRequest { cursor: None, limit: 3 }).await?;
    writer.commit(Batch { audit: vec![of_cancel(6, 6)], ..Batch::default() }).await?;
    let next = world.store.audit(&AuditFilter::default(), &PageRequest { cursor: page.next_cursor, limit: 2 }).await?;
    assert_eq!(ids(&next.data), [7, 6], "what comes shifts no page");

    let by_actor = AuditFilter { actor: Some("alice".to_owned()), ..AuditFilter::default() };
    assert_eq!(ids(&listed(&world, &by_actor).await?), [9, 7, 5, 3, 1]);
    let of_one = AuditFilter { execution_id: Some(ExecutionId(4)), ..AuditFilter::default() };
    assert_eq!(ids(&listed(&world, &of_one).await?), [8]);
    let of_action = |name| AuditFilter { action_ref: ActionRef::new(name).ok(), ..AuditFilter::default() };
    assert_eq!(listed(&world, &of_action("demo.echo")).await?.len(), 11);
    assert_eq!(listed(&world, &of_action("demo.other")).await?.len(), 0);
    Ok(())
}

async fn a_batch_that_is_not_committed_leaves_no_entry(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.accept([1]).await?;
    writer.settle([1]).await?;
    let wrong = Batch { settled: ends([crate::world::settled(1)]), audit: vec![of_cancel(1, 1)], ..Batch::default() };
    writer.commit(wrong).await.expect_err("it has settled before");
    assert_eq!(listed(&world, &AuditFilter::default()).await?, []);
    Ok(())
}

async fn entries_of_executions_go_with_history_and_those_of_actions_stay_a_year(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let change = |second| of_action(second, Changed::Paused, By::default(), vec![pause_difference(true)]);
    let gone = Audit { action: Some((ActionId(9), ActionRef::new("gone.one")?)), ..change(3) };
    let audit = vec![change(1), change(2), of_cancel(2, 7), gone, change(900)];
    writer.commit(Batch { audit, ..Batch::default() }).await?;
    let epoch = writer.lead.epoch();
    let kept = async || anyhow::Ok(listed(&world, &AuditFilter::default()).await?.len());
    world.store.prune(epoch, at(10), 100).await?;
    assert_eq!(kept().await?, 4, "the execution's went with its history");
    let year = Duration::from_secs(365 * 24 * 3600);
    world.store.prune(epoch, at(10) + year, 100).await?;
    // The newest of the first two is the rule until the third; nothing of a deleted action is judged.
    let ids: Vec<i64> = listed(&world, &AuditFilter::default()).await?.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [5, 2]);
    Ok(())
}
