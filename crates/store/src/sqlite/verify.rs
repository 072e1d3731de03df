//! The facts for judging the journal by the promises, on SQLite.

use futures::TryStreamExt;
use slotline_protocol::Timestamp;
use sqlx::Connection;

use super::Journal;
use crate::Error;
use crate::deadline::{borrow, within};
use crate::stamp::Stamp;
use crate::verify::facts::gather;
use crate::verify::{self, JournalVerdict};

impl Journal {
    pub(crate) async fn verify(&self, since: Option<Timestamp>) -> Result<JournalVerdict, Error> {
        let mut connection = borrow(&self.readers).await?;
        // All that is read in one transaction is of one moment.
        let mut snapshot = within(connection.begin()).await?;
        let facts = gather!(snapshot, Stamp(since.unwrap_or_default()));
        drop(snapshot);
        connection.give_back();
        Ok(verify::judge(facts))
    }
}
