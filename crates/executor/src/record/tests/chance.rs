//! A worker whose events are lost, doubled and overtaken.

use slotline_protocol::record::What;

use super::world::{World, says};
use crate::record::word::{ASK_AGAIN, ASKS_MAX};
use crate::record::*;

/// The events of one attempt that a worker sent, and may send again.
struct Talker {
    id: ExecutionId,
    said: Vec<String>,
}

impl Talker {
    fn word(&self, sequence: u64) -> AttemptEventKind {
        match sequence {
            1 => AttemptEventKind::Running,
            2 => AttemptEventKind::Started,
            n if n == self.last() => AttemptEventKind::Finished,
            n => says(&self.said[usize::try_from(n - 3).expect("few")]),
        }
    }

    fn last(&self) -> u64 {
        u64::try_from(self.said.len()).expect("few") + 3
    }
}

proptest::proptest! {
    /// Whatever is lost, doubled or overtaken on the way: what is published is whole, in order, and written as it was
    /// published.
    #[test]
    fn whatever_happens_on_the_way_the_record_is_whole(
        reports in 0..12_usize,
        way in proptest::collection::vec((0..100_u8, 0..16_u64), 0..60),
        completes_after in 0..60_usize,
        answers in proptest::collection::vec(proptest::bool::ANY, 8),
    ) {
        let mut world = World::new();
        let id = world.submits();
        let talker = Talker { id, said: (0..reports).map(|i| format!("report {i}")).collect() };
        let mut answers = answers.into_iter();
        let mut is_over = false;
        let mut sent = Vec::new();
        for (step, (chance, sequence)) in way.iter().enumerate() {
            // In any order, some twice, some never.
            if *sequence >= 1 && *sequence <= talker.last() {
                world.hears(talker.id, 1, *sequence, talker.word(*sequence));
                sent.push(*sequence);
            }
            if *chance < 30 {
                world.commits();
            }
            if step == completes_after {
                world.completes(id, 1, world.now, talker.last());
                is_over = true;
            }
        }
        if !is_over {
            world.completes(id, 1, world.now, talker.last());
        }
        world.commits();
        // Resends are answered, or not, until the record goes on without the events.
        for _ in 0..=ASKS_MAX {
            world.passes(ASK_AGAIN);
            for missing in std::mem::take(&mut world.missing) {
                if answers.next().unwrap_or(false) {
                    for sequence in missing.first..=missing.last.unwrap_or(missing.first) {
                        world.hears(id, 1, sequence, talker.word(sequence));
                    }
                    world.commits();
                }
            }
        }
        let numbers: Vec<u64> = world.told.iter().map(|event| event.number).collect();
        let expected: Vec<u64> = (1..=world.told.last().expect("events").number).collect();
        proptest::prop_assert_eq!(numbers, expected);
        proptest::prop_assert!(world.told(id).last().expect("events").ends_with("settled completed"));
        // Each report is published once and in its place, or is one of those that a gap counts.
        let mut sequence = 0;
        for event in &world.told {
            match &event.what {
                What::Status { new: Status::Running, .. } | What::Started => sequence += 1,
                What::Progress(report) => {
                    sequence += 1;
                    let expected = &talker.said[usize::try_from(sequence - 3).expect("few")];
                    proptest::prop_assert_eq!(report.message.as_ref(), Some(expected));
                }
                What::Gap { count, .. } => sequence += count,
                What::Status { .. } | What::Log { .. } | What::Finished { .. } | What::Settled { .. } => {}
            }
        }
        proptest::prop_assert!(sequence + 1 >= talker.last() && sequence <= talker.last());
        let written: Vec<String> = world.written(id);
        if !written.is_empty() {
            proptest::prop_assert_eq!(&written[..], &world.told(id)[..written.len()]);
        }
        proptest::prop_assert!(world.record.tales.is_empty() && world.record.due.is_empty());
    }
}
