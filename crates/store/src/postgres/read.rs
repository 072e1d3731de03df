//! The reads of the journal that are open to all, on PostgreSQL.

use std::collections::HashMap;

use futures::TryStreamExt;
use slotline_protocol::audit::Entry;
use slotline_protocol::proof::Secret;
use slotline_protocol::{ActionId, ActionRef, ExecutionId, RequestName, Status, http};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Postgres, Row as _};

use super::Journal;
use crate::browse::{ATTEMPTS_SHOWN_MAX, PageBuilder};
use crate::deadline::{borrow, within};
use crate::events::EventsAfter;
use crate::text::hide;
use crate::verify::REWINDS_MAX;
use crate::{
    AuditFilter, DURATIONS_SAMPLE_MAX, Durations, Error, Filter, Known, PageRequest, PastRewind, RecordPart, Request,
    audit, durations, row, sql,
};

/// One look-up in the index for each: for `= ANY` of a thousand, a table of a hundred thousand is scanned.
const FIND_MESSAGES: &str = "SELECT known.* FROM unnest($1::text[]) AS asked (id) CROSS JOIN LATERAL \
    (SELECT message_id, execution_id AS id, digest FROM messages WHERE message_id = asked.id LIMIT 1) AS known";

const REQUESTS: &str = "SELECT known.* FROM unnest($1::bigint[]) AS asked (id) CROSS JOIN LATERAL \
    (SELECT id, message_id, digest, parameters, timeout_ns, detail, correlation_id, trace_id, source, reply_to, reply \
    FROM live WHERE id = asked.id LIMIT 1) AS known";

const ACTION_IDS: &str = "SELECT id FROM actions WHERE ref = $1";

/// A filter that is not set costs nothing, since each call is planned for its own values. A single action, as nearly
/// always, is compared as such, since only then the index on actions gives the order, too.
const EXECUTIONS: &str = sql::page_of_executions!(
    "AND ($3::bigint IS NULL OR e.action_id = $3) AND ($4::bigint[] IS NULL OR e.action_id = ANY($4)) \
     AND ($5::text[] IS NULL OR e.status = ANY($5)) AND ($6::text IS NULL OR e.concurrency_key = $6)"
);

/// All that is read after it is of one moment.
pub(super) const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

const ATTEMPTS: &str = sql::newest_attempts!("result", "execution_id = ANY($1)");

/// On a page of executions.
const ATTEMPTS_LISTED: &str = sql::newest_attempts!("CAST(NULL AS text) AS result", "execution_id = ANY($1)");

impl Journal {
    pub(crate) async fn find_messages(&self, names: &[RequestName]) -> Result<Vec<Known>, Error> {
        let ids: Vec<_> = names.iter().map(|name| hide(name.as_text())).collect();
        self.rows(sqlx::query(FIND_MESSAGES).bind(ids)).await?.iter().map(row::known).collect()
    }

    pub(crate) async fn requests(&self, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Request)>, Error> {
        self.rows(sqlx::query(REQUESTS).bind(numbers(ids))).await?.iter().map(row::request).collect()
    }

    pub(crate) async fn execution(&self, id: ExecutionId) -> Result<Option<http::Execution>, Error> {
        let rows = self.rows(sqlx::query(sql::EXECUTION).bind(id.0)).await?;
        let mut found: Vec<_> = rows.iter().map(told).collect::<Result<_, _>>()?;
        self.add_attempts(&mut found, ATTEMPTS).await?;
        Ok(found.pop())
    }

    pub(crate) async fn events(&self, id: ExecutionId, after: u64, limit: u32) -> Result<Option<RecordPart>, Error> {
        let asked = EventsAfter::new(after, limit);
        let mut connection = borrow(&self.pool).await?;
        let mut snapshot = within(connection.begin_with(SNAPSHOT)).await?;
        let Some(row) = within(sqlx::query(sql::EXECUTION).bind(id.0).fetch_optional(&mut *snapshot)).await? else {
            within(snapshot.commit()).await?;
            connection.give_back();
            return Ok(None);
        };
        let execution = row::execution(&row)?;
        let Some(story) = row::story(&row)? else {
            within(snapshot.commit()).await?;
            connection.give_back();
            return Ok(Some(asked.of_plain(&execution)));
        };
        let mut page = asked.of_story(execution, story);
        let (above, most) = page.wanted();
        let mut rows = sqlx::query(sql::EVENTS).bind(id.0).bind(above).bind(most).fetch(&mut *snapshot);
        while let Some(row) = within(rows.try_next()).await? {
            let (event, bytes) = row::event(&row)?;
            if !page.push(event, bytes)? {
                break;
            }
        }
        drop(rows);
        // The rest of a page that was cut short by its size is still under way.
        if !page.is_full() {
            within(snapshot.commit()).await?;
            connection.give_back();
        }
        page.finish().map(Some)
    }

    pub(crate) async fn executions(
        &self,
        filter: &Filter,
        page: PageRequest,
    ) -> Result<http::Page<http::Execution>, Error> {
        let below = page.below()?;
        let mut page = PageBuilder::new(page.limit());
        let (mut action, mut actions) = (None, None);
        if let Some(name) = &filter.action_ref {
            let mut ids: Vec<i64> = self.scalars(sqlx::query(ACTION_IDS).bind(name.as_str())).await?;
            match ids.len() {
                0 => return Ok(page.finish()),
                1 => action = ids.pop(),
                _ => actions = Some(ids),
            }
        }
        let statuses: Option<Vec<&str>> =
            (!filter.statuses.is_empty()).then(|| filter.statuses.iter().copied().map(Status::as_str).collect());
        let mut connection = borrow(&self.pool).await?;
        let mut rows = sqlx::query(EXECUTIONS)
            .bind(below)
            .bind(page.rows_wanted())
            .bind(action)
            .bind(actions)
            .bind(statuses)
            .bind(filter.concurrency_key.as_deref().map(hide))
            .fetch(&mut *connection);
        while let Some(row) = within(rows.try_next()).await? {
            if !page.push(row::execution(&row)?) {
                break;
            }
        }
        drop(rows);
        // The rest of a page that was cut short by its size is still under way.
        if !page.is_cut() {
            connection.give_back();
        }
        self.add_attempts(page.executions(), ATTEMPTS_LISTED).await?;
        Ok(page.finish())
    }

    async fn add_attempts(&self, executions: &mut [http::Execution], query: &'static str) -> Result<(), Error> {
        let retried: Vec<i64> =
            executions.iter().filter(|e| e.grant > 0).map(|execution| execution.execution_id.0).collect();
        if retried.is_empty() {
            return Ok(());
        }
        let mut attempts: HashMap<ExecutionId, Vec<http::Attempt>> = HashMap::new();
        for row in self.rows(sqlx::query(query).bind(retried).bind(ATTEMPTS_SHOWN_MAX)).await? {
            let (id, attempt) = row::attempt(&row)?;
            attempts.entry(id).or_default().push(attempt);
        }
        for execution in executions {
            execution.earlier_attempts = attempts.remove(&execution.execution_id).unwrap_or_default();
        }
        Ok(())
    }

    pub(crate) async fn rewinds(&self) -> Result<Vec<PastRewind>, Error> {
        self.rows(sqlx::query(sql::REWINDS).bind(REWINDS_MAX)).await?.iter().map(row::rewind).collect()
    }

    pub(crate) async fn actions(&self) -> Result<Vec<http::Action>, Error> {
        self.rows(sqlx::query(sql::ACTIONS)).await?.iter().map(row::action).collect()
    }

    pub(crate) async fn actions_after(&self, after: Option<&ActionRef>, most: u32) -> Result<Vec<http::Action>, Error> {
        let list = sqlx::query(sql::ACTIONS_AFTER).bind(after.map_or("", ActionRef::as_str)).bind(i64::from(most));
        self.rows(list).await?.iter().map(row::action).collect()
    }

    pub(crate) async fn action(&self, action: &ActionRef) -> Result<Option<http::Action>, Error> {
        let rows = self.rows(sqlx::query(sql::ACTION).bind(action.as_str())).await?;
        rows.first().map(row::action).transpose()
    }

    pub(crate) async fn audit(&self, filter: &AuditFilter, page: &PageRequest) -> Result<http::Page<Entry>, Error> {
        let list = sqlx::query(audit::LIST)
            .bind(audit::below(page)?)
            .bind(i64::try_from(page.limit()).unwrap_or(i64::MAX) + 1)
            .bind(filter.action_ref.as_ref().map(ActionRef::as_str))
            .bind(filter.execution_id.map(|id| id.0))
            .bind(filter.actor.as_deref().map(hide));
        audit::page(&self.rows(list).await?, page)
    }

    pub(crate) async fn secret(&self) -> Result<Secret, Error> {
        let rows = self.rows(sqlx::query(sql::SECRET)).await?;
        let value: Option<Vec<u8>> = rows.first().map(|row| row.try_get("value")).transpose()?;
        row::secret(&value.unwrap_or_default())
    }

    pub(crate) async fn durations(&self, action: ActionId, newest: u32) -> Result<Durations, Error> {
        let newest = i64::from(newest.min(DURATIONS_SAMPLE_MAX));
        let rows = self.rows(sqlx::query(sql::DURATIONS).bind(action.0).bind(newest)).await?;
        let samples = rows.iter().map(row::sample).collect::<Result<Vec<_>, _>>()?;
        Ok(durations::of(&samples))
    }

    pub(super) async fn rows(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, Error> {
        let mut connection = borrow(&self.pool).await?;
        let rows = within(query.fetch_all(&mut *connection)).await?;
        connection.give_back();
        Ok(rows)
    }

    /// The first column of each row.
    async fn scalars(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<i64>, Error> {
        use sqlx::Row;
        self.rows(query).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

fn numbers(ids: &[ExecutionId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

/// An execution with its progress.
fn told(row: &PgRow) -> Result<http::Execution, Error> {
    let mut execution = row::execution(row)?;
    if let Some(story) = row::story(row)? {
        story.show_in(&mut execution);
    }
    Ok(execution)
}
