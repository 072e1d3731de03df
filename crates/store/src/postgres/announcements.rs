//! Events that are to be published, on PostgreSQL.

use slotline_protocol::{Epoch, ExecutionId};

use super::Journal;
use crate::Error;
use crate::announcements::{self, BatchKey, EventRange, Facts};
use crate::deadline::{borrow, within};

/// One look-up in the index of each table for each execution.
const FACTS: &str = concat!(
    "SELECT found.* FROM unnest($1::bigint[]) AS asked (number) CROSS JOIN LATERAL (",
    announcements::facts!("history WHERE id = asked.number"),
    " UNION ALL ",
    announcements::facts!("live WHERE id = asked.number"),
    " LIMIT 1) AS found",
);

impl Journal {
    pub(crate) async fn announcements_before(&self, epoch: Epoch) -> Result<Vec<BatchKey>, Error> {
        self.rows(sqlx::query(announcements::BEFORE).bind(epoch.0)).await?.iter().map(announcements::key).collect()
    }

    pub(crate) async fn announcement(&self, batch: BatchKey) -> Result<Vec<EventRange>, Error> {
        let query = sqlx::query(announcements::RANGES).bind(batch.epoch.0).bind(batch.number);
        self.rows(query).await?.first().map_or_else(|| Ok(Vec::new()), announcements::ranges)
    }

    pub(crate) async fn forget_announcements(&self, through: BatchKey) -> Result<(), Error> {
        let mut connection = borrow(&self.pool).await?;
        let forget = sqlx::query(announcements::FORGET).bind(through.epoch.0).bind(through.number);
        within(forget.execute(&mut *connection)).await?;
        connection.give_back();
        Ok(())
    }

    pub(crate) async fn facts(&self, ids: &[ExecutionId]) -> Result<Vec<Facts>, Error> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        self.rows(sqlx::query(FACTS).bind(ids)).await?.iter().map(announcements::facts_of).collect()
    }
}
