//! Limits hold and lines keep their order.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::json;
use slotline_tests::{Stamp, check_line, most_at_once};

use crate::actions::Action;
use crate::message::{Message, tags};
use crate::world::{LATER, World};

#[tokio::test]
async fn with_one_slot_a_thousand_executions_start_exactly_in_the_published_order() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.one", "limit = 1")]).executors(2).workers(3, 4).start().await?;
    let tags = tags(1000);
    let messages: Vec<_> = tags.iter().map(|tag| Message::request("line.one", json!({"tag": tag}))).collect();
    world.publish(&messages).await?;
    world.settled("line.one", tags.len(), LATER).await?;
    world.check_line("line.one", &tags, 1).await
}

#[tokio::test]
async fn a_request_with_a_priority_is_refused_by_name_and_the_rest_run_in_order() -> anyhow::Result<()> {
    let mut world = World::with([Action::stamp("line.one", "limit = 1")]).start().await?;
    // All of them wait for an executor, so that a broker that obeys the property would bring the wrong ones first.
    world.executors[0].kill()?;
    let tags = tags(60);
    let has_priority = |n: usize| n % 10 == 9;
    let message = |(n, tag): (usize, &String)| {
        let message = Message::request("line.one", json!({"tag": tag})).id(tag);
        match n {
            n if has_priority(n) => message.priority(9),
            // What stands for none on every version.
            n if n % 10 == 4 => message.priority(4),
            _ => message,
        }
    };
    world.publish(&tags.iter().enumerate().map(message).collect::<Vec<_>>()).await?;
    world.start_executor_again(0)?;
    let (refused, expected): (Vec<_>, Vec<_>) = tags.into_iter().enumerate().partition(|(n, _)| has_priority(*n));
    let expected: Vec<String> = expected.into_iter().map(|(_, tag)| tag).collect();
    world.settled("line.one", expected.len(), LATER).await?;
    world.check_line("line.one", &expected, 1).await?;

    let dead = world.dead().await?;
    assert_eq!(dead.len(), refused.len(), "{dead:?}");
    for letter in &dead {
        assert_eq!(letter["reason"], "priority_not_supported", "{letter}");
        assert!(letter["detail"].as_str().is_some_and(|detail| detail.contains("priority is 9")), "{letter}");
    }
    // A publisher with an address is answered, and what an operator sends again has no priority any more.
    let late = Message::request("line.one", json!({"tag": "late"})).priority(0);
    let replies = world.publish_for_replies(&[late], 1).await?;
    assert_eq!(replies[0]["payload"]["error"]["code"], "priority_not_supported", "{replies:?}");
    let letter = dead[0]["id"].as_str().unwrap_or_default();
    let replayed = world.slotline(&["dead", "replay", letter]).await?;
    assert!(replayed.status.success(), "{replayed:?}");
    world.settled("line.one", expected.len() + 1, LATER).await
}

#[tokio::test]
async fn with_three_slots_never_four_run_and_they_are_granted_in_order() -> anyhow::Result<()> {
    let world = World::with([Action::stamp("line.three", "limit = 3")]).workers(3, 4).start().await?;
    let tags = tags(150);
    let request = |tag: &String| Message::request("line.three", json!({"tag": tag, "sleep_ms": 50}));
    world.publish(&tags.iter().map(request).collect::<Vec<_>>()).await?;
    world.settled("line.three", tags.len(), LATER).await?;
    world.check_line("line.three", &tags, 3).await?;
    // Otherwise a limit of 1 would pass as well.
    assert_eq!(most_at_once(&world.stamps.read()?), 3);
    Ok(())
}

#[tokio::test]
async fn a_hundred_keys_keep_their_order_each_and_run_side_by_side() -> anyhow::Result<()> {
    const KEYS: usize = 100;
    const EACH: usize = 4;
    let world =
        World::with([Action::stamp("tenant.job", "key_limit = 1\nkey = \"/tenant\"")]).workers(2, 12).start().await?;
    // Every other request names its key; the rest leave it to the action's pointer.
    let request = |n: usize| {
        let (key, tag) = (format!("k{:03}", n % KEYS), format!("k{:03}-{}", n % KEYS, n / KEYS));
        let parameters = json!({"tag": tag, "tenant": key, "sleep_ms": 20});
        if n.is_multiple_of(2) {
            Message::keyed("tenant.job", &key, parameters)
        } else {
            Message::request("tenant.job", parameters)
        }
    };
    world.publish(&(0..KEYS * EACH).map(request).collect::<Vec<_>>()).await?;
    world.settled("tenant.job", KEYS * EACH, LATER).await?;

    let stamps = world.stamps.read()?;
    let mut by_key: BTreeMap<&str, Vec<&Stamp>> = BTreeMap::new();
    for stamp in &stamps {
        let (key, _) = stamp.tag.split_once('-').expect("the tag names the key");
        by_key.entry(key).or_default().push(stamp);
    }
    assert_eq!(by_key.len(), KEYS);
    for (key, stamps) in by_key {
        let order: Vec<_> = stamps.iter().map(|stamp| stamp.tag.clone()).collect();
        assert_eq!(order, (0..EACH).map(|n| format!("{key}-{n}")).collect::<Vec<_>>());
        assert_eq!(most_at_once(stamps), 1, "of {key}");
    }
    let most = most_at_once(&stamps);
    assert!(most > 4, "keys that wait for nothing ran only {most} at a time");
    Ok(())
}

#[tokio::test]
async fn a_blocked_key_holds_up_no_other_key_behind_it() -> anyhow::Result<()> {
    let action = Action::stamp("tenant.job", "limit = 2\nkey_limit = 1\nkey = \"/tenant\"");
    let world = World::with([action]).workers(1, 4).start().await?;
    let request = |tenant: &str, tag: &str, sleep: u64| {
        Message::request("tenant.job", json!({"tag": tag, "tenant": tenant, "sleep_ms": sleep}))
    };
    let mut messages = vec![request("slow", "slow-0", 120_000), request("slow", "slow-1", 0)];
    messages.extend((0..10).map(|n| request("fast", &format!("fast-{n}"), 0)));
    world.publish(&messages).await?;
    world.stamps.ended(10, LATER).await?;
    let slow = &world.executions("tenant.job").await?[0]["execution_id"];
    world.ask("POST", &format!("/api/v1/executions/{slow}/cancel"), None).await?;
    world.settled("tenant.job", messages.len(), LATER).await?;
    let order: Vec<_> = world.stamps.read()?.into_iter().map(|stamp| stamp.tag).collect();
    let mut expected: Vec<_> = (0..10).map(|n| format!("fast-{n}")).collect();
    expected.insert(0, "slow-0".to_owned());
    expected.push("slow-1".to_owned());
    // The first two are granted together, and either may be up first.
    assert_eq!(order[2..], expected[2..]);
    Ok(())
}

#[tokio::test]
async fn fast_and_slow_executions_of_several_actions_neither_deadlock_nor_starve() -> anyhow::Result<()> {
    const KINDS: &[(&str, usize, u64, usize)] =
        // action, limit, sleep in ms, executions; 0 is no limit
        &[("mix.slow", 1, 1200, 10), ("mix.pair", 2, 100, 30), ("mix.five", 5, 20, 60), ("mix.free", 0, 0, 100)];
    let policy = |limit: &usize| if *limit == 0 { String::new() } else { format!("limit = {limit}") };
    let actions = KINDS.iter().map(|(name, limit, ..)| Action::stamp(name, &policy(limit)));
    let world = World::with(actions).executors(2).workers(2, 4).start().await?;
    let mut messages: Vec<(usize, Message)> = Vec::new();
    for (name, _, sleep, count) in KINDS {
        let short = name.strip_prefix("mix.").expect("as above");
        messages.extend((0..*count).map(|n| {
            // Each kind is spread over the whole stream.
            let parameters = json!({"tag": format!("{short}-{n:05}"), "sleep_ms": sleep});
            (n * 1000 / count, Message::request(name, parameters))
        }));
    }
    messages.sort_by_key(|(at, _)| *at);
    world.publish(&messages.into_iter().map(|(_, message)| message).collect::<Vec<_>>()).await?;
    for (name, _, _, count) in KINDS {
        world.settled(name, *count, LATER).await?;
    }
    let stamps = world.stamps.read()?;
    let of = |kind: &str| stamps.iter().filter(|stamp| stamp.tag.starts_with(kind)).cloned().collect::<Vec<_>>();
    for (name, limit, _, count) in KINDS {
        let short = name.strip_prefix("mix.").expect("as above");
        let tags: Vec<_> = (0..*count).map(|n| format!("{short}-{n:05}")).collect();
        let mine = of(&format!("{short}-"));
        if *limit > 0 {
            check_line(&mine, &tags, *limit)?;
        }
        ensure!(mine.len() == *count, "{name} ran {} times", mine.len());
    }
    let last = |kind: &str| of(kind).iter().map(|stamp| stamp.last_seen).max();
    ensure!(last("free-") < last("slow-"), "fast work waited for the slow line's end");
    Ok(())
}
