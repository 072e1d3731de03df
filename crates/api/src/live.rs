//! `GET /api/v1/stream`: everything that a page shows, over one stream: totals, pages of lines, single lines, and
//! executions' events.
//!
//! Views are replaced and never queued: a slow reader gets the newest one, and of that the rows that changed since it was
//! served last. Only an execution's events come one by one; a reader that is too slow for them gets `reset`. The stream
//! can't be resumed: its client asks again, with the numbers that it has.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use axum::response::sse::Event;
use futures::StreamExt;
use futures::stream::{self, BoxStream, SelectAll};
use serde_json::json;
use slotline_protocol::lines::LineRow;
use slotline_protocol::{ActionRef, ExecutionId};
use tokio_util::sync::CancellationToken;

use crate::board::Viewer;
use crate::error::Error;
use crate::follow::{EventFollower, LimitedJournal, Next};
use crate::input::Accept;
use crate::limits::Permit;
use crate::lines::read_list;
use crate::state::SharedApi;
use crate::view::{LineList, LinesView};
use crate::{input, limits, stream as events};

/// Lists, lines and executions that one stream shows.
const LISTS_MAX: usize = 16;
const LINES_MAX: usize = 16;
const EXECUTIONS_MAX: usize = 100;
/// Rows of one list.
const ROWS_MAX: usize = 200;

/// What a client wants to see.
#[derive(Default)]
struct Wanted {
    lists: Vec<ShownList>,
    lines: Vec<(ActionRef, Option<Arc<LineRow>>)>,
    /// With the number after which each one's events are wanted.
    executions: Vec<(ExecutionId, u64)>,
}

/// A list, and what was served of it.
struct ShownList {
    /// As its client spells it, and finds it in the answer.
    query: String,
    list: LineList,
    rows: HashMap<ActionRef, Arc<LineRow>>,
    /// `None` until something was served.
    order: Option<Vec<ActionRef>>,
}

pub(crate) async fn stream(State(api): State<SharedApi>, uri: Uri, headers: HeaderMap) -> Result<Response, Error> {
    if let Accept::Other = input::accepted(&headers, events::MEDIA_TYPE) {
        return Err(Error::NotAcceptable(events::MEDIA_TYPE));
    }
    let wanted = read(&uri)?;
    let permit = api.permits.stream()?;
    let mut executions = SelectAll::new();
    for (id, after) in &wanted.executions {
        let opened = EventFollower::open(api.journal.clone(), api.hub.clone(), *id, *after);
        match limits::in_time(opened).await?? {
            Some(follower) => executions.push(follow(*id, follower)),
            None => executions.push(stream::iter([unknown(*id)]).boxed()),
        }
    }
    let live = Live {
        viewer: api.hub.board().watch(),
        wanted,
        executions,
        ready: Vec::new(),
        is_done: false,
        shutdown: api.shutdown.clone(),
        _permit: permit,
    };
    Ok(events::respond(live, Live::next))
}

fn read(uri: &Uri) -> Result<Wanted, Error> {
    let pairs = input::query(uri, &["lines", "line", "executions"])?;
    let mut wanted = Wanted::default();
    for (name, value) in &pairs {
        match name.as_str() {
            "lines" => wanted.lists.push(ShownList::read(value)?),
            "line" => {
                let name = ActionRef::new(value).map_err(|error| Error::malformed("line", error.to_string()))?;
                wanted.lines.push((name, None));
            }
            _ => {
                for item in value.split(',').filter(|item| !item.is_empty()) {
                    let (id, after) = item.split_once(':').unwrap_or((item, "0"));
                    let read = id.parse().ok().zip(after.parse().ok());
                    let malformed = || Error::malformed("executions", "expected numbers such as 42:17,43:0");
                    wanted.executions.push(read.ok_or_else(malformed)?);
                }
            }
        }
    }
    for (field, count, most) in [
        ("lines", wanted.lists.len(), LISTS_MAX),
        ("line", wanted.lines.len(), LINES_MAX),
        ("executions", wanted.executions.len(), EXECUTIONS_MAX),
    ] {
        if count > most {
            return Err(Error::malformed(field, format!("expected at most {most}")));
        }
    }
    Ok(wanted)
}

/// The events of one execution, to its end.
fn follow(id: ExecutionId, follower: EventFollower<LimitedJournal>) -> BoxStream<'static, Event> {
    let next = move |(mut follower, is_done): (EventFollower<LimitedJournal>, bool)| async move {
        if is_done {
            return None;
        }
        let event = match follower.next().await {
            Next::Event(live) => {
                return Some((Event::default().event("execution").data(live.json()), (follower, false)));
            }
            Next::Over => return None,
            Next::Away | Next::Lagged => json!({"execution_id": id, "after": follower.last()}),
        };
        Some((Event::default().event("reset").data(event.to_string()), (follower, true)))
    };
    stream::unfold((follower, false), next).boxed()
}

fn unknown(id: ExecutionId) -> Event {
    Event::default().event("unknown").data(json!({"execution_id": id}).to_string())
}

impl ShownList {
    /// `SORT:STATE:LIMIT:PREFIX`, the last three of which may be empty.
    fn read(query: &str) -> Result<Self, Error> {
        let mut parts = query.splitn(4, ':');
        let names = ["sort", "state", "limit", "prefix"];
        let pairs: Vec<_> = names
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), parts.next()?.to_owned())))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let list = read_list(&pairs)?;
        if list.limit > ROWS_MAX {
            return Err(Error::malformed("lines", format!("expected at most {ROWS_MAX} rows")));
        }
        Ok(Self { query: query.to_owned(), list, rows: HashMap::new(), order: None })
    }

    /// What changed since the last call; `None` if nothing did.
    fn changes(&mut self, view: &LinesView) -> Option<Event> {
        let (page, next_cursor) = view.page(&self.list);
        let order: Vec<ActionRef> = page.iter().map(|row| row.action_ref.clone()).collect();
        let is_new = |row: &&Arc<LineRow>| self.rows.get(&row.action_ref).is_none_or(|old| !Arc::ptr_eq(old, row));
        let changed: Vec<_> = page.iter().filter(is_new).cloned().collect();
        if changed.is_empty() && self.order.as_ref() == Some(&order) {
            return None;
        }
        let data = json!({"list": self.query, "order": order, "rows": changed, "next_cursor": next_cursor});
        self.rows = page.into_iter().map(|row| (row.action_ref.clone(), row)).collect();
        self.order = Some(order);
        Some(Event::default().event("lines").data(data.to_string()))
    }
}

struct Live {
    viewer: Viewer,
    wanted: Wanted,
    executions: SelectAll<BoxStream<'static, Event>>,
    /// To be sent next, the last first.
    ready: Vec<Event>,
    is_done: bool,
    shutdown: CancellationToken,
    _permit: Permit,
}

impl Live {
    async fn next(mut self) -> Option<(Event, Self)> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Some((event, self));
            }
            if self.is_done {
                return None;
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {
                    self.is_done = true;
                    return Some((Event::default().comment(events::STOPPING), self));
                }
                Some(event) = self.executions.next(), if !self.executions.is_empty() => return Some((event, self)),
                view = self.viewer.next() => {
                    let changes = self.wanted.changes(&view);
                    self.ready = changes;
                }
            }
        }
    }
}

impl Wanted {
    /// The events of a new view, the last first.
    fn changes(&mut self, view: &LinesView) -> Vec<Event> {
        let mut changes = vec![Event::default().event("totals").data(json!(view.totals).to_string())];
        for list in &mut self.lists {
            changes.extend(list.changes(view));
        }
        for (name, served) in &mut self.lines {
            let row = view.row(name);
            if let Some(row) = row.filter(|row| served.as_ref().is_none_or(|served| !Arc::ptr_eq(served, row))) {
                changes.push(Event::default().event("line").data(json!(row).to_string()));
                *served = Some(row.clone());
            }
        }
        changes.reverse();
        changes
    }
}
