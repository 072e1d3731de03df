//! Dead letters: bounded, in order, read without a trace, and taken one by one.

use bytes::Bytes;
use slotline_protocol::audit::{By, Changed};
use slotline_store::{AuditFilter, DeadBounds, PageRequest, StoredLetter};
use uuid::Uuid;

use crate::world::{World, at, cases};

cases!(
    letters_are_listed_by_pages_that_stay_and_read_without_a_trace,
    one_letter_is_shown_whole_and_dropped_alone,
    who_replayed_or_dropped_a_letter_is_noted_with_it,
    a_letter_that_comes_twice_is_kept_once,
    the_oldest_letters_go_when_there_are_too_many_or_too_many_bytes,
    each_process_that_begins_to_read_a_message_alone_is_counted_until_one_has_ended,
);

const BOUNDS: DeadBounds = DeadBounds { letters: 1000, bytes: 1 << 30 };

fn letter(number: usize, body: Bytes) -> StoredLetter {
    StoredLetter {
        id: format!("letter-{number}"),
        dead_at: at(number as i64),
        reason: "malformed".to_owned(),
        detail: "a NUL: \0".to_owned(),
        message_id: Some(format!("m-{number}")),
        routing_key: "execution.requested".to_owned(),
        properties: format!(r#"{{"number":{number},"nul":"\u0000"}}"#),
        body,
    }
}

async fn letters_are_listed_by_pages_that_stay_and_read_without_a_trace(world: World) -> anyhow::Result<()> {
    let letters: Vec<_> = (0..25).map(|number| letter(number, Bytes::from_static(b"\xff\0body"))).collect();
    for some in letters.chunks(8) {
        assert_eq!(world.store.put_dead(some, BOUNDS).await?, 0);
    }
    let ids = async || {
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let page = world.store.dead_letters(&PageRequest { cursor, limit: 10 }).await?;
            assert!(page.data.iter().all(|letter| letter.body.is_none() && letter.body_bytes == 6));
            ids.extend(page.data.into_iter().map(|letter| letter.id));
            cursor = page.next_cursor;
            if cursor.is_none() {
                return anyhow::Ok(ids);
            }
        }
    };
    let expected: Vec<_> = letters.iter().map(|letter| letter.id.clone()).collect();
    assert_eq!(ids().await?, expected);
    assert_eq!(ids().await?, expected, "they are in the same order at each reading");
    let first = world.store.dead_letters(&PageRequest { cursor: None, limit: 10 }).await?;
    assert!(world.store.drop_dead("letter-3", Changed::DeadLetterDropped, &By::default()).await?);
    let second = world.store.dead_letters(&PageRequest { cursor: first.next_cursor, limit: 10 }).await?;
    assert_eq!(second.data[0].id, "letter-10", "what goes shifts no page");
    Ok(())
}

async fn one_letter_is_shown_whole_and_dropped_alone(world: World) -> anyhow::Result<()> {
    let letters: Vec<_> = (0..3).map(|number| letter(number, vec![number as u8; 100_000].into())).collect();
    world.store.put_dead(&letters, BOUNDS).await?;
    let shown = world.store.dead_letter("letter-1").await?.expect("it is there");
    assert_eq!((&shown.body, &shown.properties), (&letters[1].body, &letters[1].properties));
    assert_eq!(shown.letter.detail, letters[1].detail);
    assert_eq!((shown.letter.dead_at, shown.letter.body_bytes), (Some(letters[1].dead_at), 100_000));
    assert!(world.store.drop_dead("letter-1", Changed::DeadLetterDropped, &By::default()).await?);
    assert!(!world.store.drop_dead("letter-1", Changed::DeadLetterDropped, &By::default()).await?, "it is gone");
    assert!(world.store.dead_letter("letter-1").await?.is_none());
    let left = world.store.dead_letters(&PageRequest { cursor: None, limit: 10 }).await?;
    assert_eq!(left.data.len(), 2);
    Ok(())
}

async fn a_letter_that_comes_twice_is_kept_once(world: World) -> anyhow::Result<()> {
    for _ in 0..2 {
        world.store.put_dead(&[letter(1, Bytes::from_static(b"once")), letter(2, Bytes::new())], BOUNDS).await?;
    }
    let kept = world.store.dead_letters(&PageRequest { cursor: None, limit: 10 }).await?;
    assert_eq!(kept.data.len(), 2);
    Ok(())
}

async fn the_oldest_letters_go_when_there_are_too_many_or_too_many_bytes(world: World) -> anyhow::Result<()> {
    let letters: Vec<_> = (0..20).map(|number| letter(number, vec![b'x'; 100].into())).collect();
    let few = DeadBounds { letters: 15, bytes: 1 << 20 };
    assert_eq!(world.store.put_dead(&letters, few).await?, 5);
    let each = 100 + letters[10].properties.len() as i64;
    let small = DeadBounds { letters: 15, bytes: 10 * each };
    // A letter that was dropped by hand counts until the bounds would have dropped it.
    assert!(world.store.drop_dead("letter-15", Changed::DeadLetterDropped, &By::default()).await?);
    assert_eq!(world.store.put_dead(&[letter(20, vec![b'x'; 100].into())], small).await?, 6);
    let kept = world.store.dead_letters(&PageRequest { cursor: None, limit: 100 }).await?;
    let kept: Vec<_> = kept.data.into_iter().map(|letter| letter.id).collect();
    let expected: Vec<_> = (11..=20).filter(|number| *number != 15).map(|number| format!("letter-{number}")).collect();
    assert_eq!(kept, expected);
    Ok(())
}

async fn each_process_that_begins_to_read_a_message_alone_is_counted_until_one_has_ended(
    world: World,
) -> anyhow::Result<()> {
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let (poison, other) = ([7; 32], [8; 32]);
    assert_eq!(world.store.suspect(poison, one).await?, 1);
    assert_eq!(world.store.suspect(poison, one).await?, 1, "the same process begins again");
    assert_eq!(world.store.suspect(poison, two).await?, 2);
    assert_eq!(world.store.suspect(other, two).await?, 1);
    world.store.clear_suspect(other).await?;
    assert_eq!(world.store.suspect(other, one).await?, 1);
    assert_eq!(world.store.suspect(poison, one).await?, 3);
    world.store.clear_suspects_of(one).await?;
    assert_eq!(world.store.suspect(poison, two).await?, 1);
    Ok(())
}

async fn who_replayed_or_dropped_a_letter_is_noted_with_it(world: World) -> anyhow::Result<()> {
    world.store.put_dead(&[letter(1, Bytes::new()), letter(2, Bytes::new())], BOUNDS).await?;
    let by = By::http("alice", Some("rub\0bish".to_owned()));
    assert!(world.store.drop_dead("letter-1", Changed::DeadLetterReplayed, &by).await?);
    assert!(!world.store.drop_dead("letter-1", Changed::DeadLetterDropped, &by).await?);
    let page = PageRequest { cursor: None, limit: 10 };
    let entries = world.store.audit(&AuditFilter::default(), &page).await?.data;
    let [entry] = entries.as_slice() else { panic!("one entry: {entries:?}") };
    assert_eq!((entry.changed, entry.dead_letter.as_deref()), (Changed::DeadLetterReplayed, Some("letter-1")));
    assert_eq!(entry.by, by);
    Ok(())
}
