//! The executor, as the API sees it: each call is one question to the leader, here or elsewhere.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use slotline_api::Condition;
use slotline_api::control::{Control, ControlError, LineQuery, Submission};
use slotline_protocol::change::{Applied, Declared};
use slotline_protocol::http::{Action, Health, Part, QueueStats, Role, Submitted, Waiting, Worker};
use slotline_protocol::lines::{Holder, InLine, LinePage};
use slotline_protocol::{ActionRef, By, ExecutionId, Policy, Status};
use tokio::time::Instant;

use super::handle::{Handle, REWINDS_TOLD, no_journal, unexpected};
use crate::leader::ask::{Ask, LeaderAnswer};
use crate::shell::metrics::Moment;
use crate::shell::{clock, dead};

impl Control for Handle {
    fn takes_requests(&self) -> Result<(), ControlError> {
        self.common.journal.trouble(Instant::now()).map_or(Ok(()), |cause| Err(no_journal(&cause)))
    }

    fn submit(&self, submission: Submission) -> BoxFuture<'_, Result<Submitted, ControlError>> {
        self.submit_request(submission).boxed()
    }

    fn cancel(&self, id: ExecutionId, by: By) -> BoxFuture<'_, Result<Status, ControlError>> {
        self.cancelled(id, by).boxed()
    }

    fn put_action(
        &self,
        action_ref: ActionRef,
        policy: Policy,
        condition: Condition,
        by: By,
    ) -> BoxFuture<'_, Result<(Action, bool), ControlError>> {
        self.changed(Ask::PutAction { action_ref, policy: Box::new(policy), condition, by }).boxed()
    }

    fn patch_action(
        &self,
        action_ref: ActionRef,
        patch: Value,
        condition: Condition,
        by: By,
    ) -> BoxFuture<'_, Result<Action, ControlError>> {
        self.altered(Ask::PatchAction { action_ref, patch, condition, by }).boxed()
    }

    fn apply(
        &self,
        actions: Vec<Declared>,
        dry_run: bool,
        by: By,
    ) -> BoxFuture<'_, Result<Vec<Applied>, ControlError>> {
        async move {
            match self.ask(Ask::Apply { actions, dry_run, by }).await? {
                LeaderAnswer::Applied(applied) => Ok(applied),
                _ => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn delete_action(&self, action_ref: ActionRef, by: By) -> BoxFuture<'_, Result<(), ControlError>> {
        async move { self.ask(Ask::DeleteAction { action_ref, by }).await.map(|_| ()) }.boxed()
    }

    fn pause(&self, action_ref: ActionRef, paused: bool, by: By) -> BoxFuture<'_, Result<Action, ControlError>> {
        self.altered(Ask::Pause { action_ref, paused, by }).boxed()
    }

    fn override_limit(
        &self,
        action_ref: ActionRef,
        limit: Option<u32>,
        duration: Duration,
        by: By,
    ) -> BoxFuture<'_, Result<Action, ControlError>> {
        self.altered(Ask::OverrideLimit { action_ref, limit, duration, by }).boxed()
    }

    fn clear_override(&self, action_ref: ActionRef, by: By) -> BoxFuture<'_, Result<Action, ControlError>> {
        self.altered(Ask::ClearOverride { action_ref, by }).boxed()
    }

    fn queue_stats(&self, action_ref: ActionRef) -> BoxFuture<'_, Result<Option<QueueStats>, ControlError>> {
        async move {
            match self.ask(Ask::QueueStats { action_ref: Some(action_ref), after: None, limit: None }).await? {
                LeaderAnswer::QueueStats(stats) => Ok(stats.into_iter().next()),
                _ => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn queues(&self, after: Option<ActionRef>, limit: usize) -> BoxFuture<'_, Result<Vec<QueueStats>, ControlError>> {
        async move {
            match self.ask(Ask::QueueStats { action_ref: None, after, limit: Some(limit) }).await? {
                LeaderAnswer::QueueStats(stats) => Ok(stats),
                _ => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn waiting(&self, query: LineQuery) -> BoxFuture<'_, Result<LinePage<InLine>, ControlError>> {
        async move {
            match self.ask(Ask::Waiting(query)).await? {
                LeaderAnswer::Waiting(page) => Ok(page),
                _ => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn holders(&self, query: LineQuery) -> BoxFuture<'_, Result<LinePage<Holder>, ControlError>> {
        async move {
            match self.ask(Ask::Holders(query)).await? {
                LeaderAnswer::Holders(page) => Ok(page),
                _ => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn explain(&self, ids: Vec<ExecutionId>) -> BoxFuture<'_, Result<Vec<(ExecutionId, Waiting)>, ControlError>> {
        async move {
            match self.ask(Ask::Explain { ids }).await? {
                LeaderAnswer::Explained(explained) => Ok(explained),
                _ => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn workers(&self) -> BoxFuture<'_, Result<Vec<Worker>, ControlError>> {
        async move {
            match self.ask(Ask::Workers).await? {
                LeaderAnswer::Workers(workers) => Ok(workers),
                _ => Err(unexpected()),
            }
        }
        .boxed()
    }

    fn replay_dead(&self, id: String, by: By) -> BoxFuture<'_, Result<(), ControlError>> {
        async move {
            let gate = self.gate().await?;
            dead::replay(&self.store, &self.session()?, &gate, &self.prefix, &id, &by).await
        }
        .boxed()
    }

    fn drop_dead(&self, id: String, by: By) -> BoxFuture<'_, Result<(), ControlError>> {
        async move { dead::discard(&self.store, &id, &by).await }.boxed()
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        async move {
            let trouble = self.common.journal.trouble(Instant::now()).or_else(|| self.common.notice.doubt());
            let database = match (self.store.ping().await, trouble) {
                (Ok(()), None) => Part { ok: true, detail: None },
                (Ok(()), Some(cause)) => Part { ok: false, detail: Some(cause) },
                (Err(error), _) => Part { ok: false, detail: Some(error.to_string()) },
            };
            let broker = match self.session() {
                Ok(session) if session.is_blocked() => {
                    Part { ok: false, detail: Some("the broker blocks publishers: an alarm is on".to_owned()) }
                }
                Ok(_) => Part { ok: true, detail: None },
                Err(refused) => Part { ok: false, detail: Some(refused.to_string()) },
            };
            let role = if self.common.leads.load(Ordering::Acquire) { Role::Leader } else { Role::Standby };
            let mut warnings: Vec<String> = self.warnings.iter().cloned().chain(self.common.remarks.all()).collect();
            if role == Role::Leader {
                warnings.extend(self.common.policies.get());
            }
            // A database that does not answer is already in `database`.
            let rewinds = self.store.rewinds().await.unwrap_or_default();
            let recent = rewinds.iter().filter(|rewind| rewind.settled_at + REWINDS_TOLD >= clock::wall());
            warnings.extend(recent.map(|rewind| format!("{}: {}", rewind.settled_at, rewind.sentence())));
            let refused = self.common.gates.refusals.count();
            if refused > 0 {
                warnings.push(format!(
                    "{refused} messages were refused since the start: they did not prove who had sent them, or bore numbers that can't be"
                ));
            }
            Health { role, database, broker, warnings }
        }
        .boxed()
    }

    fn metrics(&self, open_streams: usize) -> BoxFuture<'_, Result<String, ControlError>> {
        async move {
            let leads = self.common.leads.load(Ordering::Acquire);
            let workers = match if leads { self.ask(Ask::Workers).await.ok() } else { None } {
                Some(LeaderAnswer::Workers(workers)) => workers,
                _ => Vec::new(),
            };
            let has_trouble = self.common.journal.trouble(Instant::now()).is_some();
            let moment = Moment { leads, session: self.session().ok(), has_trouble, open_streams, workers };
            self.common.metrics.scrape(&moment)
        }
        .boxed()
    }

    fn answered(&self, route: &str, status: u16, took: Duration) {
        self.common.metrics.answered(route, status, took);
    }
}
