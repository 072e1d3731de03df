//! Dead letters on SQLite.

use slotline_protocol::audit::{By, Changed};
use slotline_protocol::http;
use sqlx::{Connection, Row};
use uuid::Uuid;

use super::{Journal, only};
use crate::audit::via_text;
use crate::dead::{self, DeadBounds, StoredLetter, WholeLetter};
use crate::deadline::{borrow, within};
use crate::stamp::Stamp;
use crate::text::hide;
use crate::{Error, PageRequest};

/// Two processes that begin to read a message one after the other are two readings; a process that begins again is not.
const SUSPECT: &str = "INSERT INTO suspects (digest, process, readings, noted_at) \
    VALUES ($1, $2, 1, unixepoch() * 1000000) \
    ON CONFLICT (digest) DO UPDATE SET process = excluded.process, noted_at = excluded.noted_at, \
    readings = suspects.readings + CASE WHEN suspects.process = excluded.process THEN 0 ELSE 1 END RETURNING readings";

const FORGET_OLD: &str = "DELETE FROM suspects WHERE noted_at < (unixepoch() - 7 * 86400) * 1000000";

const NOTE: &str = dead::note!("CAST(unixepoch('subsec') * 1000000 AS INTEGER)");

impl Journal {
    pub(crate) async fn put_dead(&self, letters: &[StoredLetter], bounds: DeadBounds) -> Result<u64, Error> {
        let mut connection = borrow(&self.writer).await?;
        let dropped = within(async {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            for letter in letters {
                let insert = sqlx::query(dead::INSERT)
                    .bind(hide(&letter.id))
                    .bind(Stamp(letter.dead_at))
                    .bind(hide(&letter.reason))
                    .bind(hide(&letter.detail))
                    .bind(letter.message_id.as_deref().map(hide))
                    .bind(hide(&letter.routing_key))
                    .bind(letter.bytes())
                    .bind(&letter.properties)
                    .bind(&letter.body[..]);
                insert.execute(&mut *transaction).await?;
            }
            let mut dropped = 0;
            if let Some(newest) = sqlx::query(dead::NEWEST).fetch_optional(&mut *transaction).await? {
                for (drop, bound) in bounds.drops(&newest)? {
                    dropped += sqlx::query(drop).bind(bound).execute(&mut *transaction).await?.rows_affected();
                }
            }
            transaction.commit().await?;
            Ok::<_, Error>(dropped)
        })
        .await?;
        connection.give_back();
        Ok(dropped)
    }

    pub(crate) async fn dead_letters(&self, page: &PageRequest) -> Result<http::Page<http::DeadLetter>, Error> {
        let most = i64::try_from(page.limit()).unwrap_or(i64::MAX) + 1;
        let rows = self.rows(sqlx::query(dead::LIST).bind(dead::above(page)?).bind(most)).await?;
        dead::page(&rows, page)
    }

    pub(crate) async fn dead_letter(&self, id: &str) -> Result<Option<WholeLetter>, Error> {
        self.rows(sqlx::query(dead::SHOW).bind(hide(id))).await?.first().map(dead::whole).transpose()
    }

    pub(crate) async fn drop_dead(&self, id: &str, changed: Changed, by: &By) -> Result<bool, Error> {
        let mut connection = borrow(&self.writer).await?;
        let is_gone = within(async {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            let dropped = sqlx::query(dead::DROP).bind(hide(id)).execute(&mut *transaction).await?;
            let is_gone = dropped.rows_affected() > 0;
            if is_gone {
                let note = sqlx::query(NOTE)
                    .bind(changed.as_str())
                    .bind(hide(&by.actor))
                    .bind(via_text(by.via))
                    .bind(by.reason.as_deref().map(hide))
                    .bind(hide(id));
                note.execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok::<_, Error>(is_gone)
        })
        .await?;
        connection.give_back();
        Ok(is_gone)
    }

    pub(crate) async fn suspect(&self, digest: [u8; 32], process: Uuid) -> Result<u32, Error> {
        let mut connection = borrow(&self.writer).await?;
        within(sqlx::query(FORGET_OLD).execute(&mut *connection)).await?;
        let noted = sqlx::query(SUSPECT).bind(&digest[..]).bind(process);
        let readings: i64 = only(within(noted.fetch_all(&mut *connection)).await?)?.try_get("readings")?;
        connection.give_back();
        Ok(u32::try_from(readings).unwrap_or(0))
    }

    pub(crate) async fn clear_suspect(&self, digest: [u8; 32]) -> Result<(), Error> {
        let mut connection = borrow(&self.writer).await?;
        within(sqlx::query(dead::CLEAR_SUSPECT).bind(&digest[..]).execute(&mut *connection)).await?;
        connection.give_back();
        Ok(())
    }

    pub(crate) async fn clear_suspects_of(&self, process: Uuid) -> Result<(), Error> {
        let mut connection = borrow(&self.writer).await?;
        within(sqlx::query(dead::CLEAR_SUSPECTS).bind(process).execute(&mut *connection)).await?;
        connection.give_back();
        Ok(())
    }
}
