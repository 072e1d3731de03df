//! Events that are to be published, on SQLite.

use slotline_protocol::{Epoch, ExecutionId};

use super::Journal;
use crate::Error;
use crate::announcements::{self, BatchKey, EventRange, Facts};
use crate::deadline::{borrow, within};
use crate::row::json;

const FACTS: &str = concat!(
    announcements::facts!("history WHERE id IN (SELECT value FROM json_each($1))"),
    " UNION ALL ",
    announcements::facts!("live WHERE id IN (SELECT value FROM json_each($1))"),
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
        let mut connection = borrow(&self.writer).await?;
        let forget = sqlx::query(announcements::FORGET).bind(through.epoch.0).bind(through.number);
        within(forget.execute(&mut *connection)).await?;
        connection.give_back();
        Ok(())
    }

    pub(crate) async fn facts(&self, ids: &[ExecutionId]) -> Result<Vec<Facts>, Error> {
        self.rows(sqlx::query(FACTS).bind(json(&ids))).await?.iter().map(announcements::facts_of).collect()
    }
}
