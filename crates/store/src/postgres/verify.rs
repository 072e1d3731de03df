//! The facts for judging the journal by the promises, on PostgreSQL.

use futures::TryStreamExt;
use slotline_protocol::Timestamp;
use sqlx::Connection;

use super::Journal;
use super::read::SNAPSHOT;
use crate::Error;
use crate::deadline::{borrow, within};
use crate::stamp::Stamp;
use crate::verify::facts::gather;
use crate::verify::{self, JournalVerdict, VERIFY_DEADLINE};

/// For this transaction alone.
const PATIENCE: &str = "SELECT set_config('statement_timeout', $1, true)";

impl Journal {
    pub(crate) async fn verify(&self, since: Option<Timestamp>) -> Result<JournalVerdict, Error> {
        let mut connection = borrow(&self.pool).await?;
        let mut snapshot = within(connection.begin_with(SNAPSHOT)).await?;
        let patience = VERIFY_DEADLINE.as_millis().to_string();
        within(sqlx::query(PATIENCE).bind(patience).execute(&mut *snapshot)).await?;
        let facts = gather!(snapshot, Stamp(since.unwrap_or_default()));
        within(snapshot.commit()).await?;
        connection.give_back();
        Ok(verify::judge(facts))
    }
}
