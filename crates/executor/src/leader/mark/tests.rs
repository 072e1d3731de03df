use super::hand::{Hand, RESERVE, UNLOOKED_MAX};
use super::*;

pub(crate) fn standing() -> Standing {
    let counters = Counters { next_id: 100, next_fence: 100, next_action: 3 };
    Standing {
        lineage: Lineage { identity: uuid::Uuid::from_u128(7), generation: 1 },
        former: (Epoch(5), 40),
        doubt: Some(String::new()),
        counters,
        floor: counters,
        settled: Vec::new(),
        lease: Duration::from_secs(60),
        site: "one".to_owned(),
        life: "first".to_owned(),
        log: 1_000,
    }
}

pub(crate) fn hand(standing: &Standing, epoch: Epoch, marks: &Marks) -> Hand {
    Hand::new(standing, epoch, Duration::from_secs(60), marks, RESERVE, UNLOOKED_MAX)
}

pub(crate) fn mark() -> Mark {
    let now = Standing { former: (Epoch(4), 9), ..standing() };
    let mut hand = hand(&now, Epoch(5), &Marks::default());
    hand.committed(40, Counters { next_id: 100, next_fence: 100, next_action: 3 });
    hand.progress(false)
}

fn judge(change: impl FnOnce(&mut Standing, &mut Mark)) -> Judgement {
    let (mut standing, mut mark) = (standing(), mark());
    change(&mut standing, &mut mark);
    Marks(vec![mark]).judge(&standing, None, false).expect("there is one copy of it")
}

fn is_doubted(change: impl FnOnce(&mut Standing, &mut Mark)) -> bool {
    matches!(judge(change), Judgement::Doubted(_))
}

#[test]
fn a_journal_that_has_all_that_its_last_leader_left_is_sound_and_skips_nothing() {
    assert_eq!(judge(|_, _| {}), Judgement::Sound { skips: false });
    assert_eq!(judge(|standing, _| standing.former.1 += 1), Judgement::Sound { skips: false });
    assert_eq!(judge(|_, mark| mark.batch -= 7), Judgement::Sound { skips: false });
}

#[test]
fn a_journal_that_falls_short_of_a_mark_is_doubted() {
    assert!(is_doubted(|standing, _| standing.former.1 -= 1));
    assert!(is_doubted(|standing, _| standing.former.0 = Epoch(4)));
    assert!(is_doubted(|standing, _| standing.counters.next_fence -= 1));
    assert!(is_doubted(|_, mark| mark.journal.generation = 2));
    assert!(is_doubted(|standing, _| standing.log -= 1));
}

#[test]
fn a_copy_of_the_journal_is_doubted_unless_it_is_proven_to_have_all() {
    assert!(is_doubted(|standing, _| standing.site = "other".to_owned()));
    let last = |standing: &mut Standing, mark: &mut Mark| {
        standing.site = "other".to_owned();
        mark.is_last = true;
    };
    let has_all = Judgement::Sound { skips: true };
    assert_eq!(judge(last), has_all, "but for what the other may yet commit");
    let witness = |batch| Witness { journal: standing().lineage, epoch: Epoch(5), batch };
    let copy = Standing { site: "other".to_owned(), ..standing() };
    let marks = Marks(vec![mark()]);
    assert_eq!(marks.judge(&copy, Some(witness(40)), false), Ok(has_all));
    assert!(matches!(marks.judge(&copy, Some(witness(41)), false), Ok(Judgement::Doubted(_))));
}

#[test]
fn another_journal_or_a_broker_without_a_mark_is_doubted_unless_all_is_new() {
    assert!(is_doubted(|standing, _| standing.lineage.identity = uuid::Uuid::nil()));
    let none = Marks::default();
    assert!(matches!(none.judge(&standing(), None, false), Ok(Judgement::Doubted(_))));
    assert_eq!(none.judge(&standing(), None, true), Ok(Judgement::Sound { skips: false }));
    let new = Standing { former: (Epoch(0), 0), ..standing() };
    assert_eq!(none.judge(&new, None, false), Ok(Judgement::Sound { skips: false }));
}

#[test]
fn a_server_that_was_restarted_with_its_leader_dead_costs_the_reserve_and_no_time() {
    assert_eq!(judge(|standing, _| standing.life = "second".to_owned()), Judgement::Sound { skips: true });
}

#[test]
fn a_doubt_that_was_not_settled_goes_on() {
    let doubt = Some("a worker shows more".to_owned());
    let again = judge(|standing, _| standing.doubt = doubt.clone());
    assert_eq!(again, Judgement::Doubted("a worker shows more".to_owned()));
}

#[test]
fn of_two_copies_only_the_one_that_was_led_on_last_is_led_on() {
    let old = standing();
    let new = Standing { site: "two".to_owned(), ..standing() };
    let marks = Marks(vec![mark()]);
    assert!(matches!(marks.judge(&new, None, false), Ok(Judgement::Doubted(_))));
    let claim = hand(&new, Epoch(6), &marks).claim();
    assert!(is_foreign(&claim, &mark()), "the leader on the old one stands down");
    let marks = Marks(vec![mark(), claim]);
    assert!(marks.judge(&old, None, false).is_err());
    let doubted = Standing { doubt: Some("a copy".to_owned()), ..new };
    assert!(matches!(marks.judge(&doubted, None, false), Ok(Judgement::Doubted(_))));
}

#[test]
fn nothing_is_given_that_no_confirmed_mark_covers() {
    let next = Counters { next_id: 100, next_fence: 100, next_action: 3 };
    let mut hand = hand(&standing(), Epoch(6), &Marks::default());
    assert_eq!(hand.confirmed(), next, "nothing may be given");
    let mark = hand.renewal(next).expect("due");
    assert_eq!(hand.renewal(next), None, "one is on its way");
    assert_eq!(hand.confirmed(), next);
    hand.renewed(Some(mark.reserved.into()));
    assert_eq!(hand.confirmed().next_id, 100 + RESERVE);
    assert_eq!(hand.renewal(next), None, "enough is left");
    assert!(hand.renewal(Counters { next_fence: 100 + RESERVE / 2 + 1, ..next }).is_some());
}
