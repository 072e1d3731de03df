//! Actions: added, changed, deleted, and their names used again.

use std::time::Duration;

use slotline_protocol::http::{self, TimeoutFrom};
use slotline_protocol::{ActionId, ActionRef, Policy, policy};
use slotline_store::{AcceptedRequest, ActionChange, Batch, Filter, PageRequest, Request};

use crate::world::{World, action, at, cases, queued, request, running};

cases!(
    an_action_reads_back_with_its_whole_policy,
    a_change_keeps_the_id_and_the_birth_of_an_action,
    a_deleted_action_is_not_listed_but_its_history_keeps_its_name,
    a_name_can_be_used_again_in_the_batch_that_freed_it,
    the_time_out_that_is_shown_is_the_one_in_force_and_says_whose_it_is,
);

fn actions(changes: Vec<ActionChange>) -> Batch {
    Batch { actions: changes, ..Batch::default() }
}

async fn an_action_reads_back_with_its_whole_policy(world: World) -> anyhow::Result<()> {
    let mut full = action(2, "a.first");
    full.paused = true;
    full.policy = serde_json::from_str(
        r#"{"limit": 3, "key_limit": 1, "key": "/tenant", "timeout": "60s", "queue_timeout": "1h", "start_timeout": 5,
            "stall_timeout": "300ms", "max_queue_length": 7, "max_lost_attempts": 2, "on_isolation": "continue",
            "retry": {"max_attempts": 3, "backoff": "1s", "backoff_max": "2m", "keep_place": true},
            "schema": {"type": "object", "description": "\u0000 'x'"}}"#,
    )?;
    let mut writer = world.lead().await?;
    writer.commit(actions(vec![ActionChange::Put(action(1, "z.last")), ActionChange::Put(full.clone())])).await?;
    assert_eq!(world.store.actions().await?, [full.clone(), action(1, "z.last")]);
    assert_eq!(world.store.action(&full.action_ref).await?, Some(full));
    assert_eq!(world.store.action(&ActionRef::new("not.there")?).await?, None);
    Ok(())
}

async fn a_change_keeps_the_id_and_the_birth_of_an_action(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let mut changed = action(1, "demo.echo");
    changed.policy = Policy {
        limit: Some(1),
        retry: policy::Retry { max_attempts: 9, ..policy::Retry::default() },
        ..Policy::default()
    };
    changed.paused = true;
    changed.updated_at = at(500);
    // Twice in one batch: the last change counts.
    writer.commit(actions(vec![ActionChange::Put(action(1, "demo.echo")), ActionChange::Put(changed.clone())])).await?;
    assert_eq!(world.store.actions().await?, [changed]);
    Ok(())
}

async fn a_deleted_action_is_not_listed_but_its_history_keeps_its_name(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    writer.accept([1]).await?;
    writer.settle([1]).await?;
    writer.commit(actions(vec![ActionChange::Delete { id: ActionId(1), at: at(9) }])).await?;
    assert_eq!(world.store.actions().await?, []);
    assert_eq!(world.store.action(&ActionRef::new("demo.echo")?).await?, None);
    assert_eq!(world.execution(1).await?.action_ref.as_str(), "demo.echo");

    // A new action of the name is independent of the old one, but the list by name shows both.
    writer.commit(actions(vec![ActionChange::Put(action(2, "demo.echo"))])).await?;
    assert_eq!(world.store.actions().await?, [action(2, "demo.echo")]);
    let filter = Filter { action_ref: Some(ActionRef::new("demo.echo")?), ..Filter::default() };
    let page = world.store.executions(&filter, PageRequest { cursor: None, limit: 10 }).await?;
    assert_eq!(page.data.iter().map(|e| e.action_id.0).collect::<Vec<_>>(), [1]);
    drop(writer);
    let recovered = world.recovered().await?;
    assert_eq!(recovered.actions.iter().map(|state| state.action.action_id.0).collect::<Vec<_>>(), [2]);
    Ok(())
}

async fn a_name_can_be_used_again_in_the_batch_that_freed_it(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let delete = |id| ActionChange::Delete { id: ActionId(id), at: at(9) };
    let put = |id| ActionChange::Put(action(id, "demo.echo"));
    writer.commit(actions(vec![delete(1), put(2), delete(2), put(3)])).await?;
    assert_eq!(world.store.actions().await?, [action(3, "demo.echo")]);
    writer.commit(actions(vec![put(3), delete(3)])).await?;
    assert_eq!(world.store.actions().await?, []);
    Ok(())
}

async fn the_time_out_that_is_shown_is_the_one_in_force_and_says_whose_it_is(world: World) -> anyhow::Result<()> {
    let mut writer = world.writer().await?;
    let with = |timeout: Option<u64>, second| {
        let policy = Policy { timeout: timeout.map(Duration::from_secs), ..Policy::default() };
        ActionChange::Put(http::Action { policy, updated_at: at(second), ..action(1, "demo.echo") })
    };
    let own = Request { timeout: Some(Duration::from_secs(5)), ..request() };
    let accept = |id, request: Request| AcceptedRequest { snapshot: queued(id), request: request.into() };
    let accepted = vec![accept(1, request()), accept(2, request()), accept(3, own), accept(4, request())];
    writer.commit(Batch { accepted, actions: vec![with(Some(60), 10)], ..Batch::default() }).await?;
    // Granted at second 1,001, before the policy changes, and settled after it has.
    writer.commit(Batch { live: vec![running(1)], ..Batch::default() }).await?;
    writer.commit(actions(vec![with(Some(60), 1_500)])).await?;
    writer.commit(actions(vec![with(None, 2_000)])).await?;
    writer.settle([1]).await?;
    let shown = async |id| -> anyhow::Result<_> {
        let execution = world.execution(id).await?;
        Ok((execution.timeout_seconds, execution.timeout_from))
    };
    assert_eq!(shown(1).await?, (Some(60.0), TimeoutFrom::Action), "as it was when it was granted");
    assert_eq!(shown(2).await?, (None, TimeoutFrom::Default), "what waits goes by the policy of the day");
    assert_eq!(shown(3).await?, (Some(5.0), TimeoutFrom::Request));
    writer.commit(actions(vec![with(Some(7), 3_000)])).await?;
    assert_eq!(shown(4).await?, (Some(7.0), TimeoutFrom::Action));
    assert_eq!(shown(1).await?, (Some(60.0), TimeoutFrom::Action));
    Ok(())
}
