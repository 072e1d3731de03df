//! How a leader settles a journal that went back.

use slotline_broker::Session;
use slotline_protocol::ExecutionId;
use slotline_store::{Leadership, lost};
use tokio::time::timeout;

use super::Term;
use super::entry::{LEAVE_DEADLINE, READ_DEADLINE};
use crate::shell::mark;

impl Term {
    /// Goes on with the journal as it is: with higher numbers, as a new generation, and a word on what is missing.
    pub(super) async fn settle(&mut self, leadership: &mut Leadership, session: Option<Session>) -> Step {
        let session = session.ok_or("there is no session with the broker")?;
        // A leader of another copy may have left one more before it saw the claim.
        let read = timeout(READ_DEADLINE, mark::read(&session, &self.postman.prefix)).await;
        let marks = read.map_err(|_| "the broker did not give the marks in time")??;
        let Some((rewind, mark)) = self.leader.settle(&marks) else { return Ok(()) };
        leadership.settle(&rewind).await?;
        let ids = (ExecutionId(rewind.floor.next_id), rewind.shown_id, ExecutionId(rewind.next.next_id));
        tracing::error!(epoch = %self.leader.epoch(), "{}", lost(&rewind.reason, ids, &rewind.recovered));
        let left = mark::is_left(session.publish(mark::publication(&self.postman.prefix, &mark)));
        let left = timeout(LEAVE_DEADLINE, left).await;
        left.map_err(|_| "the broker did not take the mark in time")??;
        Ok(())
    }
}

/// A step whose failure is only logged.
type Step = Result<(), Box<dyn std::error::Error + Send + Sync>>;
