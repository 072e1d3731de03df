//! An executor gets messages of a sender under a false name: none of them changes anything.
//!
//! The liar has read everything that is public: which execution runs, as which attempt, under which fence.

use anyhow::{Context, Result, ensure};
use slotline_broker::{Properties, Publication, Topology, topology};
use slotline_protocol::envelope::{self, Envelope};
use slotline_protocol::message::{
    Accepted, Completed, EndReason, Ended, Event, Heartbeat, Message, Progress, Report, Returned, Scheduled,
    StatusChanged,
};
use slotline_protocol::proof::{self, Channel, Key, PROOF_HEADER};
use slotline_protocol::{ActionRef, Epoch, Fence, OutcomeKind, Status, Timestamp};
use uuid::Uuid;

use super::installation::Installation;
use super::played::{PlayedWorker, publish_report};

const POLICY: &str = r#"{"limit": 1, "run_ahead": 0}"#;

/// The first of two runs at the honest worker, the second waits; the liar is a worker as well.
struct Stand {
    slotline: Installation,
    honest: PlayedWorker,
    liar: PlayedWorker,
    /// The order of the running attempt.
    scheduled: Scheduled,
}

impl Stand {
    async fn start() -> Result<Self> {
        let mut slotline = Installation::start(&[("demo.echo", POLICY)]).await?;
        let mut honest = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
        for message_id in ["m1", "m2"] {
            slotline.request("demo.echo", message_id).await?;
            let _: Accepted = slotline.replied().await?;
        }
        let scheduled = honest.order().await?;
        let liar = PlayedWorker::start_as("liar", &slotline.broker, &["demo.other"]).await?;
        Ok(Self { slotline, honest, liar, scheduled })
    }

    fn completed(&self) -> Completed {
        self.honest.completed(&self.scheduled, OutcomeKind::Completed)
    }

    fn returned(&self) -> Returned {
        Returned {
            execution_id: self.scheduled.execution_id,
            attempt: self.scheduled.attempt,
            fence: self.scheduled.fence,
            worker: self.honest.name.clone(),
            incarnation: self.honest.incarnation,
            reason: "drain".into(),
            started: true,
            last_sequence: 0,
        }
    }

    /// Sends it in the honest worker's name: with no proof, with the proof of another body, with the liar's own.
    async fn lie<M: Message>(&self, payload: &M) -> Result<()> {
        let body = envelope::write(&Envelope::new(payload, "worker/played", Timestamp::from_micros(0)));
        let truth = envelope::write(&Envelope::new(&self.honest.account(), "worker/played", Timestamp::from_micros(0)));
        let key = self.honest.key.as_ref().context("it is known")?;
        let liars_key = self.liar.key.as_ref().context("it is known")?;
        for proof in [
            None,
            Some(proof::of_worker(self.honest.incarnation, key, &truth)),
            Some(proof::of_worker(self.honest.incarnation, liars_key, &body)),
            Some(proof::of_worker(self.liar.incarnation, liars_key, &body)),
        ] {
            let headers = proof.map(|proof| (PROOF_HEADER.to_owned(), proof)).into_iter().collect();
            publish_report(&self.liar.session, M::TYPE, body.clone(), headers).await?;
        }
        Ok(())
    }

    /// All reports are processed, and the first execution still runs, at the honest worker, and the second waits.
    async fn nothing_has_changed(mut self) -> Result<()> {
        // The leader's session is one of the first of this broker.
        let mut queued = None;
        for session in 1..9 {
            let queue = topology::completions_queue("slotline", self.scheduled.epoch, session);
            queued = queued.or(self.honest.session.depth(&queue).await.ok());
        }
        ensure!(queued == Some(0), "all was taken out of the queue: {queued:?}");
        // A question through the leader's loop; its answer comes after everything before it.
        self.slotline.ask(r#"{"ask":"pause","action_ref":"demo.echo","paused":false}"#).await?;
        assert_eq!(self.slotline.status(1).await?, Status::Scheduled);
        assert_eq!(self.slotline.status(2).await?, Status::Queued);
        self.honest.complete(&self.scheduled, OutcomeKind::Completed).await?;
        let next: Scheduled = self.honest.order().await?;
        assert_eq!((next.execution_id.0, self.slotline.status(1).await?), (2, Status::Completed));
        self.slotline.stop_executor().await
    }
}

#[tokio::test]
async fn a_forged_completion_frees_no_slot() -> Result<()> {
    let stand = Stand::start().await?;
    stand.lie(&stand.completed()).await?;
    Box::pin(stand.nothing_has_changed()).await
}

#[tokio::test]
async fn a_forged_completion_of_numbers_that_no_journal_comes_to_frees_no_slot() -> Result<()> {
    let stand = Stand::start().await?;
    let far = Completed { fence: Fence(i64::MAX), grant: Some(u32::MAX), last_sequence: u64::MAX, ..stand.completed() };
    stand.lie(&far).await?;
    Box::pin(stand.nothing_has_changed()).await
}

#[tokio::test]
async fn a_forged_return_gives_no_slot_to_another() -> Result<()> {
    let stand = Stand::start().await?;
    stand.lie(&stand.returned()).await?;
    Box::pin(stand.nothing_has_changed()).await
}

#[tokio::test]
async fn a_forged_last_word_ends_no_incarnation() -> Result<()> {
    let stand = Stand::start().await?;
    let ended = Ended {
        worker: stand.honest.name.clone(),
        incarnation: stand.honest.incarnation,
        reason: EndReason::Drain,
        outcomes: vec![stand.completed()],
        returned: vec![stand.returned()],
        told_by: None,
        has_more: false,
    };
    stand.lie(&ended).await?;
    Box::pin(stand.nothing_has_changed()).await
}

#[tokio::test]
async fn a_forged_heartbeat_draws_no_work_and_moves_no_number() -> Result<()> {
    let stand = Stand::start().await?;
    let wild = Heartbeat {
        seen: (Epoch(i64::MAX), u64::MAX),
        capacity: u32::MAX,
        sent_at: Timestamp::MAX,
        ..stand.honest.account()
    };
    stand.lie(&wild).await?;
    Box::pin(stand.nothing_has_changed()).await
}

#[tokio::test]
async fn a_forged_status_is_not_shown() -> Result<()> {
    let stand = Stand::start().await?;
    let Scheduled { execution_id, attempt, fence, .. } = stand.scheduled;
    let running = StatusChanged {
        execution_id,
        action_ref: stand.scheduled.action_ref.clone(),
        counts_as: attempt,
        grant: None,
        sequence: None,
        worker: Some(stand.honest.name.clone()),
        fence: Some(fence),
        incarnation: Some(stand.honest.incarnation),
        previous_status: Status::Scheduled,
        new_status: Status::Running,
        changed_at: Timestamp::from_micros(7),
    };
    stand.lie(&running).await?;
    Box::pin(stand.nothing_has_changed()).await
}

#[tokio::test]
async fn forged_progress_is_not_recorded() -> Result<()> {
    let stand = Stand::start().await?;
    let Scheduled { execution_id, attempt, .. } = stand.scheduled;
    let report = Report { message: Some("all is lost".to_owned()), ..Report::default() };
    for (sequence, event) in (1..).zip([Event::Started {}, Event::Progress(report)]) {
        let (action_ref, timestamp) = (stand.scheduled.action_ref.clone(), Timestamp::from_micros(0));
        stand
            .lie(&Progress { execution_id, action_ref, counts_as: attempt, grant: None, sequence, timestamp, event })
            .await?;
    }
    let store = stand.slotline.store.clone();
    Box::pin(stand.nothing_has_changed()).await?;
    let recorded = store.events(execution_id, 0, 100).await?.context("it is known")?;
    ensure!(!serde_json::to_string(&recorded.events)?.contains("lost"), "{recorded:?}");
    Ok(())
}

/// Asks the leader, as executors ask it, with no proof and with the proof of another journal's executors.
async fn ask_unproven(slotline: &Installation, ask: &str, reply_to: Option<&str>) -> Result<()> {
    let wrong = Key::new(&proof::Secret::new(&[0; 32]).context("long enough")?.of_executors());
    for proof in [None, Some(wrong.sign(Channel::Call, ask.as_bytes()))] {
        let headers = proof.map(|proof| (PROOF_HEADER.to_owned(), proof)).into_iter().collect();
        let publication = Publication {
            exchange: topology::work_exchange("slotline"),
            routing_key: "executor.call".to_owned(),
            body: ask.to_owned().into(),
            properties: Properties { reply_to: reply_to.map(str::to_owned), headers, ..Properties::default() },
            mandatory: true,
            persistent: false,
        };
        slotline.session.publish(publication).await?;
    }
    Ok(())
}

/// Nothing of the action has changed, and its execution goes on, once the leader has processed everything before.
async fn the_action_is_as_it_was(mut slotline: Installation) -> Result<()> {
    slotline.put("demo.other", "{}").await?;
    let action = slotline.store.action(&ActionRef::new("demo.echo")?).await?.context("it is there")?;
    assert_eq!((action.policy.limit, action.paused), (Some(1), false));
    let mut worker = PlayedWorker::start(&slotline.broker, &["demo.echo"]).await?;
    slotline.request("demo.echo", "m1").await?;
    let scheduled: Scheduled = worker.order().await?;
    worker.complete(&scheduled, OutcomeKind::Completed).await?;
    slotline.reaches(scheduled.execution_id.0, Status::Completed).await?;
    slotline.stop_executor().await
}

macro_rules! no_executor_asked {
    ($($name:ident: $ask:literal;)*) => {$(
        #[tokio::test]
        async fn $name() -> Result<()> {
            let slotline = Installation::start(&[("demo.echo", POLICY)]).await?;
            ask_unproven(&slotline, $ask, None).await?;
            the_action_is_as_it_was(slotline).await
        }
    )*};
}

no_executor_asked! {
    a_policy_that_no_executor_has_signed_is_not_put:
        r#"{"ask":"put_action","action_ref":"demo.echo","policy":{"limit":9}}"#;
    an_action_that_no_executor_has_asked_to_delete_stays:
        r#"{"ask":"delete_action","action_ref":"demo.echo"}"#;
    an_action_that_no_executor_has_asked_to_pause_goes_on:
        r#"{"ask":"pause","action_ref":"demo.echo","paused":true}"#;
}

#[tokio::test]
async fn an_execution_that_no_executor_has_asked_to_cancel_goes_on() -> Result<()> {
    let stand = Stand::start().await?;
    for id in [1, 2] {
        ask_unproven(&stand.slotline, &format!(r#"{{"ask":"cancel","id":{id},"reason":null}}"#), None).await?;
    }
    Box::pin(stand.nothing_has_changed()).await
}

#[tokio::test]
async fn who_is_no_executor_follows_nothing() -> Result<()> {
    let mut slotline = Installation::start(&[("demo.echo", POLICY)]).await?;
    let id = Uuid::new_v4();
    slotline.session.declare(&Topology::replies("slotline", id, 1)).await?;
    let queue = topology::replies_queue("slotline", id, 1);
    ask_unproven(&slotline, r#"{"ask":"follow","all":true,"ids":[]}"#, Some(&queue)).await?;
    slotline.put("demo.other", "{}").await?;
    slotline.request("demo.other", "watched").await?;
    let _: Accepted = slotline.replied().await?;
    assert_eq!(slotline.session.depth(&queue).await?, 0, "neither an answer nor what others' executions tell");
    slotline.stop_executor().await
}
