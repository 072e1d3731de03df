-- The journal: who leads, which actions there are, what lives, what has ended, and what happened to each.
-- The same tables and columns as on PostgreSQL; times are microseconds since 1970, booleans are 0 and 1.

-- One row per partition. Every commit updates it first, and only under the epoch and after the batch it knows.
CREATE TABLE leadership (
    partition_id INTEGER PRIMARY KEY,
    epoch        INTEGER NOT NULL,
    batch        INTEGER NOT NULL,
    next_id      INTEGER NOT NULL,
    next_fence   INTEGER NOT NULL,
    next_action  INTEGER NOT NULL,
    -- The longest lease that some worker may still go by.
    lease_us     INTEGER NOT NULL,
    -- How far the journal's time is ahead of the database's clock, since that was set; nearly always 0.
    clock_ahead_us INTEGER NOT NULL,
    leader       TEXT    NOT NULL,
    led_since    INTEGER NOT NULL,

    -- Which journal this is, wherever it is restored; and how often it was found older than the world and led on.
    identity      BLOB    NOT NULL,
    generation    INTEGER NOT NULL,
    -- Executions with lower ids were known before the last rewind: their attempts are numbered by the generation.
    rewound_below INTEGER NOT NULL,
    -- How far the last leader had come that had no doubt.
    former_epoch  INTEGER NOT NULL,
    former_batch  INTEGER NOT NULL,
    -- Why this journal may be older than the world; '' until the leader of the day has judged, NULL if there is no doubt.
    doubt         TEXT,
    -- While there is doubt: the first numbers that this journal has not given.
    floor_id      INTEGER,
    floor_fence   INTEGER
) STRICT;

INSERT INTO leadership VALUES (0, 0, 0, 1, 1, 1, 0, 0, '', 0, randomblob(16), 1, 0, 0, 0, NULL, NULL, NULL);

-- Each time this journal was found older than the world, and what is known to be missing since.
CREATE TABLE rewinds (
    generation  INTEGER PRIMARY KEY,
    settled_at  INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    -- The first numbers that the journal had not given, and the first that were given afterwards.
    floor_id    INTEGER NOT NULL,
    next_id     INTEGER NOT NULL,
    floor_fence INTEGER NOT NULL,
    next_fence  INTEGER NOT NULL,
    -- One above the highest number of an execution that something shows was given; at most `floor_id` if nothing does.
    shown_id    INTEGER NOT NULL,
    -- Executions among those in between that a worker still held, as a JSON array of ids.
    recovered   TEXT    NOT NULL
) STRICT;

-- What executors know and nobody else: by it they know each other, and the workers that they have met.
CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

INSERT INTO secrets VALUES ('proof', randomblob(48));

CREATE TABLE actions (
    id         INTEGER PRIMARY KEY,
    ref        TEXT    NOT NULL,
    policy     TEXT    NOT NULL,
    paused     INTEGER NOT NULL,
    -- What holds instead of the policy's limit for a while, as JSON.
    limit_override TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

-- A name may be used again once its action is deleted.
CREATE UNIQUE INDEX actions_ref ON actions (ref) WHERE deleted_at IS NULL;

-- Who changed what, when and why, in the transaction that changed it.
CREATE TABLE audit (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    at           INTEGER NOT NULL,
    changed      TEXT    NOT NULL,
    actor        TEXT    NOT NULL,
    via          TEXT    NOT NULL,
    reason       TEXT,
    action_id    INTEGER,
    action_ref   TEXT,
    execution_id INTEGER,
    dead_letter  TEXT,
    -- The first fence that could be granted after a change of an action: what was granted before it was judged by what
    -- held before.
    fence        INTEGER,
    changes      TEXT
) STRICT;

CREATE INDEX audit_action ON audit (action_ref, id) WHERE action_ref IS NOT NULL;
CREATE INDEX audit_execution ON audit (execution_id, id) WHERE execution_id IS NOT NULL;
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_at ON audit (at);

-- What the time-out of each action has been since when: a row for each change of it, as long as the action is known.
CREATE TABLE action_timeouts (
    action_id  INTEGER NOT NULL,
    since      INTEGER NOT NULL,
    timeout_ns INTEGER,
    PRIMARY KEY (action_id, since)
) STRICT, WITHOUT ROWID;

CREATE TABLE action_totals (
    action_id INTEGER PRIMARY KEY,
    enqueued  INTEGER NOT NULL,
    completed INTEGER NOT NULL
) STRICT;

-- Executions that have not settled.
CREATE TABLE live (
    id               INTEGER PRIMARY KEY,
    place            INTEGER NOT NULL,
    queued_at        INTEGER NOT NULL,
    not_before       INTEGER,
    fence            INTEGER,
    scheduled_at     INTEGER,
    started_at       INTEGER,
    incarnation      BLOB,
    attempt          INTEGER NOT NULL,
    failures         INTEGER NOT NULL,
    losses           INTEGER NOT NULL,
    keeps_slot       INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    status           TEXT    NOT NULL,
    worker           TEXT,
    -- Of the attempt that it starts after: until that has completed it is queued, and holds no slot.
    after_fence      INTEGER,

    action_id        INTEGER NOT NULL,
    enqueued_at      INTEGER NOT NULL,
    timeout_ns       INTEGER,
    concurrency_key  TEXT,
    message_id       TEXT,
    digest           BLOB    NOT NULL,
    detail           TEXT,
    correlation_id   TEXT,
    trace_id         TEXT,
    source           TEXT,
    reply_to         TEXT,
    reply            TEXT    NOT NULL,
    parameters       TEXT    NOT NULL
) STRICT;

-- Each `message_id` that is known, while its execution lives and as long as its history is kept.
CREATE TABLE messages (
    message_id   TEXT    PRIMARY KEY,
    execution_id INTEGER NOT NULL,
    digest       BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE history (
    id              INTEGER PRIMARY KEY,
    action_id       INTEGER NOT NULL,
    enqueued_at     INTEGER NOT NULL,
    scheduled_at    INTEGER,
    started_at      INTEGER,
    ended_at        INTEGER NOT NULL,
    fence           INTEGER,
    timeout_ns      INTEGER,
    incarnation     BLOB,
    attempt         INTEGER NOT NULL,
    failures        INTEGER NOT NULL,
    losses          INTEGER NOT NULL,
    status          TEXT    NOT NULL,
    worker          TEXT,
    concurrency_key TEXT,
    message_id      TEXT,
    detail          TEXT,
    correlation_id  TEXT,
    trace_id        TEXT,
    source          TEXT,
    parameters      TEXT    NOT NULL,
    result          TEXT,
    error           TEXT
) STRICT;

CREATE INDEX history_action ON history (action_id, id);
-- What people look for among many that went well.
CREATE INDEX history_trouble ON history (status, id) WHERE status <> 'completed';
CREATE INDEX history_ended_at ON history (ended_at);

-- Attempts that ended without settling their executions.
CREATE TABLE attempts (
    execution_id INTEGER NOT NULL,
    fence        INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    outcome      TEXT    NOT NULL,
    worker       TEXT,
    scheduled_at INTEGER NOT NULL,
    started_at   INTEGER,
    ended_at     INTEGER NOT NULL,
    error        TEXT,
    -- What it left as its result although it failed.
    result       TEXT,
    PRIMARY KEY (execution_id, fence)
) STRICT, WITHOUT ROWID;

-- What happened to each execution, as far as its row does not tell it: that it settled is never among these.
CREATE TABLE events (
    execution_id INTEGER NOT NULL,
    number       INTEGER NOT NULL,
    kind         TEXT    NOT NULL CHECK (kind <> 'settled'),
    body         TEXT    NOT NULL,
    PRIMARY KEY (execution_id, number)
) STRICT, WITHOUT ROWID;

-- How far the record of each execution goes that has any of these events.
CREATE TABLE stories (
    execution_id INTEGER PRIMARY KEY,
    first        INTEGER NOT NULL,
    last         INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    awaits       INTEGER,
    head         TEXT    NOT NULL
) STRICT;

-- Those few that a new leader has to finish.
CREATE INDEX stories_awaits ON stories (execution_id) WHERE awaits IS NOT NULL;

-- Batches whose events may not have been published yet, where somebody subscribes to them: as a JSON array of
-- [execution, first number, last number].
CREATE TABLE announcements (
    epoch  INTEGER NOT NULL,
    batch  INTEGER NOT NULL,
    events TEXT    NOT NULL,
    PRIMARY KEY (epoch, batch)
) STRICT, WITHOUT ROWID;

CREATE TABLE ended_incarnations (
    incarnation BLOB    PRIMARY KEY,
    worker      TEXT    NOT NULL,
    ended_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What can't be read, put aside with its reason, in the order in which it came.
CREATE TABLE dead_letters (
    position      INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT    NOT NULL UNIQUE,
    dead_at       INTEGER NOT NULL,
    reason        TEXT    NOT NULL,
    detail        TEXT    NOT NULL,
    message_id    TEXT,
    routing_key   TEXT    NOT NULL,
    -- The bytes of this letter and of those before it, gone ones included: what bounds them all.
    bytes_through INTEGER NOT NULL,
    properties    TEXT    NOT NULL,
    body          BLOB    NOT NULL
) STRICT;

CREATE INDEX dead_letters_bytes ON dead_letters (bytes_through);

-- Requests that came back and were begun to be read alone: what kills its reader is not read a third time.
CREATE TABLE suspects (
    digest   BLOB    PRIMARY KEY,
    process  BLOB    NOT NULL,
    readings INTEGER NOT NULL,
    noted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
