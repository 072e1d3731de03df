//! Actions: added, changed, deleted, and their names used again.

use slotline_protocol::{ActionId, ActionRef, Policy, policy};
use slotline_store::{ActionChange, Batch, Filter, PageRequest};

use crate::world::{World, action, at, cases};

cases!(
    an_action_reads_back_with_its_whole_policy,
    a_change_keeps_the_id_and_the_birth_of_an_action,
    a_deleted_action_is_not_listed_but_its_history_keeps_its_name,
    a_name_can_be_used_again_in_the_batch_that_freed_it,
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
    // Twice in one batch: the last word counts.
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

    // A new action of the name has nothing to do with the old one, but the list by name shows both.
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
