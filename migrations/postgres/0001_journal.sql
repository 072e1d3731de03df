-- The journal: who leads, which actions there are, what lives, what has ended, and what happened to each.

-- One row per partition. Every commit updates it first, and only under the epoch and after the batch it knows.
CREATE TABLE leadership (
    partition_id integer     PRIMARY KEY,
    epoch        bigint      NOT NULL,
    batch        bigint      NOT NULL,
    next_id      bigint      NOT NULL,
    next_fence   bigint      NOT NULL,
    next_action  bigint      NOT NULL,
    -- The longest lease that some worker may still go by.
    lease_us     bigint      NOT NULL,
    -- How far the journal's time is ahead of the database's clock, since that was set; nearly always 0.
    clock_ahead_us bigint    NOT NULL,
    leader       text        NOT NULL,
    led_since    timestamptz NOT NULL,

    -- Which journal this is, wherever it is restored; and how often it was found older than the world and led on.
    identity      uuid       NOT NULL,
    generation    bigint     NOT NULL,
    -- Executions with lower ids were known before the last rewind: their attempts are numbered by the generation.
    rewound_below bigint     NOT NULL,
    -- How far the last leader had come that had no doubt.
    former_epoch  bigint     NOT NULL,
    former_batch  bigint     NOT NULL,
    -- Why this journal may be older than the world; '' until the leader of the day has judged, NULL if there is no doubt.
    doubt         text,
    -- While there is doubt: the first numbers that this journal has not given.
    floor_id      bigint,
    floor_fence   bigint
) WITH (fillfactor = 10);

INSERT INTO leadership VALUES (0, 0, 0, 1, 1, 1, 0, 0, '', '-infinity', gen_random_uuid(), 1, 0, 0, 0);

-- Each time this journal was found older than the world, and what is known to be missing since.
CREATE TABLE rewinds (
    generation bigint      PRIMARY KEY,
    settled_at timestamptz NOT NULL,
    reason     text        NOT NULL,
    -- The first numbers that the journal had not given, and the first that were given afterwards.
    floor_id   bigint      NOT NULL,
    next_id    bigint      NOT NULL,
    floor_fence bigint     NOT NULL,
    next_fence bigint      NOT NULL,
    -- One above the highest number of an execution that something shows was given; at most `floor_id` if nothing does.
    shown_id   bigint      NOT NULL,
    -- Executions among those in between that a worker still held, as a JSON array of ids.
    recovered  text        NOT NULL
);

-- What executors know and nobody else: by it they know each other, and the workers that they have met.
CREATE TABLE secrets (
    name  text  PRIMARY KEY,
    value bytea NOT NULL
);

INSERT INTO secrets VALUES ('proof', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

CREATE TABLE actions (
    id         bigint      PRIMARY KEY,
    ref        text        NOT NULL,
    policy     text        NOT NULL,
    paused     boolean     NOT NULL,
    -- What holds instead of the policy's limit for a while, as JSON.
    limit_override text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz
);

-- A name may be used again once its action is deleted.
CREATE UNIQUE INDEX actions_ref ON actions (ref) WHERE deleted_at IS NULL;

-- Who changed what, when and why, in the transaction that changed it.
CREATE TABLE audit (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL,
    changed      text        NOT NULL,
    actor        text        NOT NULL,
    via          text        NOT NULL,
    reason       text,
    action_id    bigint,
    action_ref   text,
    execution_id bigint,
    dead_letter  text,
    -- The first fence that could be granted after a change of an action: what was granted before it was judged by what
    -- held before.
    fence        bigint,
    changes      text
);

CREATE INDEX audit_action ON audit (action_ref, id) WHERE action_ref IS NOT NULL;
CREATE INDEX audit_execution ON audit (execution_id, id) WHERE execution_id IS NOT NULL;
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_at ON audit (at);

-- What the time-out of each action has been since when: a row for each change of it, as long as the action is known.
CREATE TABLE action_timeouts (
    action_id  bigint      NOT NULL,
    since      timestamptz NOT NULL,
    timeout_ns bigint,
    PRIMARY KEY (action_id, since)
);

-- Apart from the actions, since it changes with every batch.
CREATE TABLE action_totals (
    action_id bigint PRIMARY KEY,
    enqueued  bigint NOT NULL,
    completed bigint NOT NULL
) WITH (fillfactor = 10);

-- Executions that have not settled. The columns down to `worker` may change, so none of them is indexed.
CREATE TABLE live (
    id               bigint      PRIMARY KEY,
    place            bigint      NOT NULL,
    queued_at        timestamptz NOT NULL,
    not_before       timestamptz,
    fence            bigint,
    scheduled_at     timestamptz,
    started_at       timestamptz,
    incarnation      uuid,
    attempt          integer     NOT NULL,
    failures         integer     NOT NULL,
    losses           integer     NOT NULL,
    keeps_slot       boolean     NOT NULL,
    cancel_requested boolean     NOT NULL,
    status           text        NOT NULL,
    worker           text,
    -- Of the attempt that it starts after: until that has completed it is queued, and holds no slot.
    after_fence      bigint,

    action_id        bigint      NOT NULL,
    enqueued_at      timestamptz NOT NULL,
    timeout_ns       bigint,
    concurrency_key  text,
    message_id       text,
    digest           bytea       NOT NULL,
    detail           text,
    correlation_id   text,
    trace_id         text,
    source           text,
    reply_to         text,
    reply            text        NOT NULL,
    parameters       text        NOT NULL
) WITH (
    fillfactor = 50,
    -- Rows come and go all the time: sweep before the dead outnumber the living by far, also in a large table.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.2,
    autovacuum_analyze_threshold = 10000
);

-- Each `message_id` that is known, while its execution lives and as long as its history is kept. One table, so that one
-- index is searched and written at random places, and not one for the living and one for the settled.
CREATE TABLE messages (
    message_id   text COLLATE "C" PRIMARY KEY,
    execution_id bigint           NOT NULL,
    digest       bytea            NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000
);

CREATE TABLE history (
    id              bigint      PRIMARY KEY,
    action_id       bigint      NOT NULL,
    enqueued_at     timestamptz NOT NULL,
    scheduled_at    timestamptz,
    started_at      timestamptz,
    ended_at        timestamptz NOT NULL,
    fence           bigint,
    timeout_ns      bigint,
    incarnation     uuid,
    attempt         integer     NOT NULL,
    failures        integer     NOT NULL,
    losses          integer     NOT NULL,
    status          text        NOT NULL,
    worker          text,
    concurrency_key text,
    message_id      text,
    detail          text,
    correlation_id  text,
    trace_id        text,
    source          text,
    parameters      text        NOT NULL,
    result          text,
    error           text
);

CREATE INDEX history_action ON history (action_id, id);
-- What people look for among many that went well.
CREATE INDEX history_trouble ON history (status, id) WHERE status <> 'completed';
CREATE INDEX history_ended_at ON history (ended_at);

-- Attempts that ended without settling their executions.
CREATE TABLE attempts (
    execution_id bigint      NOT NULL,
    fence        bigint      NOT NULL,
    attempt      integer     NOT NULL,
    outcome      text        NOT NULL,
    worker       text,
    scheduled_at timestamptz NOT NULL,
    started_at   timestamptz,
    ended_at     timestamptz NOT NULL,
    error        text,
    -- What it left as its result although it failed.
    result       text,
    PRIMARY KEY (execution_id, fence)
);

-- What happened to each execution, as far as its row does not tell it: that it settled is never among these.
CREATE TABLE events (
    execution_id bigint NOT NULL,
    number       bigint NOT NULL,
    kind         text   NOT NULL CHECK (kind <> 'settled'),
    body         text   NOT NULL,
    PRIMARY KEY (execution_id, number)
) WITH (
    -- Only the newest of an execution are kept, so that rows come and go here too.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.2,
    autovacuum_analyze_threshold = 10000
);

-- How far the record of each execution goes that has any of these events.
CREATE TABLE stories (
    execution_id bigint  PRIMARY KEY,
    first        bigint  NOT NULL,
    last         bigint  NOT NULL,
    attempt      integer NOT NULL,
    sequence     bigint  NOT NULL,
    awaits       bigint,
    head         text    NOT NULL
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.2,
    autovacuum_analyze_threshold = 10000
);

-- Those few that a new leader has to finish. Most updates don't touch it and stay within their page.
CREATE INDEX stories_awaits ON stories (execution_id) WHERE awaits IS NOT NULL;

-- Batches whose events may not have been published yet, where somebody subscribes to them: as a JSON array of
-- [execution, first number, last number].
CREATE TABLE announcements (
    epoch  bigint NOT NULL,
    batch  bigint NOT NULL,
    events text   NOT NULL,
    PRIMARY KEY (epoch, batch)
) WITH (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000
);

CREATE TABLE ended_incarnations (
    incarnation uuid        PRIMARY KEY,
    worker      text        NOT NULL,
    ended_at    timestamptz NOT NULL
);

-- What can't be read, put aside with its reason, in the order in which it came.
CREATE TABLE dead_letters (
    position      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id            text        NOT NULL UNIQUE,
    dead_at       timestamptz NOT NULL,
    reason        text        NOT NULL,
    detail        text        NOT NULL,
    message_id    text,
    routing_key   text        NOT NULL,
    -- The bytes of this letter and of those before it, gone ones included: what bounds them all.
    bytes_through bigint      NOT NULL,
    properties    text        NOT NULL,
    body          bytea       NOT NULL
);

CREATE INDEX dead_letters_bytes ON dead_letters (bytes_through);

-- Requests that came back and were begun to be read alone: what kills its reader is not read a third time.
CREATE TABLE suspects (
    digest   bytea       PRIMARY KEY,
    process  uuid        NOT NULL,
    readings integer     NOT NULL,
    noted_at timestamptz NOT NULL
);

-- One commit of one leader: one call, one transaction, one round trip.
--
-- Raises SL001 (detail: the current epoch) if another leads, SL002 if a batch before this one is missing, SL003 if the
-- journal does not hold what the batch says it changes. A message_id that is known already is refused by its key.
--
-- The settings make every plan of this function a walk through the arrays with one look-up by key a row. Without them
-- a plan made while the tables were small (a scan, a hash) would be kept while they grow.
CREATE FUNCTION slotline_commit(
    p_partition   integer,
    p_epoch       bigint,
    p_batch       bigint,
    p_next_id     bigint,
    p_next_fence  bigint,
    p_next_action bigint,

    -- actions deleted that this batch does not put
    d_id          bigint[],
    d_at          timestamptz[],
    -- actions put, as a JSON array of objects
    a_rows        text,

    -- accepted
    n_id               bigint[],
    n_place            bigint[],
    n_queued_at        timestamptz[],
    n_not_before       timestamptz[],
    n_fence            bigint[],
    n_scheduled_at     timestamptz[],
    n_started_at       timestamptz[],
    n_incarnation      uuid[],
    n_attempt          integer[],
    n_failures         integer[],
    n_losses           integer[],
    n_keeps_slot       boolean[],
    n_cancel_requested boolean[],
    n_status           text[],
    n_worker           text[],
    n_after_fence      bigint[],
    n_action_id        bigint[],
    n_enqueued_at      timestamptz[],
    n_timeout_ns       bigint[],
    n_concurrency_key  text[],
    n_message_id       text[],
    n_digest           bytea[],
    n_detail           text[],
    n_correlation_id   text[],
    n_trace_id         text[],
    n_source           text[],
    n_reply_to         text[],
    n_reply            text[],
    n_parameters       text[],

    -- live, changed
    l_id               bigint[],
    l_place            bigint[],
    l_queued_at        timestamptz[],
    l_not_before       timestamptz[],
    l_fence            bigint[],
    l_scheduled_at     timestamptz[],
    l_started_at       timestamptz[],
    l_incarnation      uuid[],
    l_attempt          integer[],
    l_failures         integer[],
    l_losses           integer[],
    l_keeps_slot       boolean[],
    l_cancel_requested boolean[],
    l_status           text[],
    l_worker           text[],
    l_after_fence      bigint[],

    -- attempts that ended
    t_execution_id bigint[],
    t_fence        bigint[],
    t_attempt      integer[],
    t_outcome      text[],
    t_worker       text[],
    t_scheduled_at timestamptz[],
    t_started_at   timestamptz[],
    t_ended_at     timestamptz[],
    t_error        text[],
    t_result       text[],

    -- settled
    s_id           bigint[],
    s_scheduled_at timestamptz[],
    s_started_at   timestamptz[],
    s_ended_at     timestamptz[],
    s_fence        bigint[],
    s_incarnation  uuid[],
    s_attempt      integer[],
    s_failures     integer[],
    s_losses       integer[],
    s_status       text[],
    s_worker       text[],
    s_result       text[],
    s_error        text[],

    -- totals
    c_action_id bigint[],
    c_enqueued  bigint[],
    c_completed bigint[],

    -- incarnations that ended
    i_incarnation uuid[],
    i_worker      text[],
    i_ended_at    timestamptz[],

    -- events
    e_execution_id bigint[],
    e_number       bigint[],
    e_kind         text[],
    e_body         text[],

    -- stories
    r_execution_id bigint[],
    r_first        bigint[],
    r_last         bigint[],
    r_attempt      integer[],
    r_sequence     bigint[],
    r_awaits       bigint[],
    r_head         text[],

    -- audit, as a JSON array of objects
    u_rows         text,

    -- events to be published
    p_announced    text
) RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    theirs  bigint;
    touched bigint;
BEGIN
    UPDATE leadership
       SET batch = p_batch, next_id = p_next_id, next_fence = p_next_fence, next_action = p_next_action
     WHERE partition_id = p_partition AND epoch = p_epoch AND batch = p_batch - 1;
    IF NOT FOUND THEN
        SELECT epoch INTO theirs FROM leadership WHERE partition_id = p_partition;
        IF theirs IS DISTINCT FROM p_epoch THEN
            RAISE EXCEPTION USING ERRCODE = 'SL001',
                MESSAGE = 'another leader took over', DETAIL = coalesce(theirs::text, '');
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'SL002', MESSAGE = format('batch %s does not follow the last one', p_batch);
    END IF;

    IF d_id IS NOT NULL THEN
        UPDATE actions SET deleted_at = d.at, updated_at = d.at
          FROM unnest(d_id, d_at) AS d(id, at)
         WHERE actions.id = d.id;
    END IF;

    IF a_rows IS NOT NULL THEN
        INSERT INTO actions (id, ref, policy, paused, limit_override, created_at, updated_at, deleted_at)
        SELECT * FROM json_to_recordset(a_rows::json)
            AS a(id bigint, ref text, policy text, paused boolean, limit_override text, created_at timestamptz,
            updated_at timestamptz, deleted_at timestamptz)
            ON CONFLICT (id) DO UPDATE
           SET ref = excluded.ref, policy = excluded.policy, paused = excluded.paused,
               limit_override = excluded.limit_override, updated_at = excluded.updated_at, deleted_at = excluded.deleted_at;
        INSERT INTO action_timeouts (action_id, since, timeout_ns)
        SELECT a.id, a.updated_at, a.timeout_ns
          FROM json_to_recordset(a_rows::json) AS a(id bigint, updated_at timestamptz, timeout_ns bigint)
         WHERE NOT EXISTS (
            SELECT FROM action_timeouts t
             WHERE t.action_id = a.id AND t.timeout_ns IS NOT DISTINCT FROM a.timeout_ns
               AND t.since = (SELECT max(n.since) FROM action_timeouts n WHERE n.action_id = a.id))
            ON CONFLICT (action_id, since) DO UPDATE SET timeout_ns = excluded.timeout_ns;
    END IF;

    IF n_id IS NOT NULL THEN
        IF n_message_id IS NOT NULL THEN
            INSERT INTO messages (message_id, execution_id, digest)
            SELECT * FROM unnest(n_message_id, n_id, n_digest) AS n(message_id) WHERE n.message_id IS NOT NULL;
        END IF;
        INSERT INTO live (
            id, place, queued_at, not_before, fence, scheduled_at, started_at, incarnation, attempt, failures, losses,
            keeps_slot, cancel_requested, status, worker, after_fence, action_id, enqueued_at, timeout_ns,
            concurrency_key, message_id, digest, detail, correlation_id, trace_id, source, reply_to, reply, parameters)
        SELECT * FROM unnest(
            n_id, n_place, n_queued_at, n_not_before, n_fence, n_scheduled_at, n_started_at, n_incarnation, n_attempt,
            n_failures, n_losses, n_keeps_slot, n_cancel_requested, n_status, n_worker, n_after_fence, n_action_id,
            n_enqueued_at, n_timeout_ns, n_concurrency_key, n_message_id, n_digest, n_detail, n_correlation_id, n_trace_id, n_source,
            n_reply_to, n_reply, n_parameters);
    END IF;

    IF l_id IS NOT NULL THEN
        UPDATE live
           SET place = l.place, queued_at = l.queued_at, not_before = l.not_before, fence = l.fence,
               scheduled_at = l.scheduled_at, started_at = l.started_at, incarnation = l.incarnation,
               attempt = l.attempt, failures = l.failures, losses = l.losses, keeps_slot = l.keeps_slot,
               cancel_requested = l.cancel_requested, status = l.status, worker = l.worker, after_fence = l.after_fence
          FROM unnest(
            l_id, l_place, l_queued_at, l_not_before, l_fence, l_scheduled_at, l_started_at, l_incarnation, l_attempt,
            l_failures, l_losses, l_keeps_slot, l_cancel_requested, l_status, l_worker, l_after_fence)
            AS l(id, place, queued_at, not_before, fence, scheduled_at, started_at, incarnation, attempt,
            failures, losses, keeps_slot, cancel_requested, status, worker, after_fence)
         WHERE live.id = l.id;
        GET DIAGNOSTICS touched = ROW_COUNT;
        IF touched <> cardinality(l_id) THEN
            RAISE EXCEPTION USING ERRCODE = 'SL003',
                MESSAGE = format('%s executions changed, but %s of them live', cardinality(l_id), touched);
        END IF;
    END IF;

    IF t_execution_id IS NOT NULL THEN
        INSERT INTO attempts (
            execution_id, fence, attempt, outcome, worker, scheduled_at, started_at, ended_at, error, result)
        SELECT * FROM unnest(
            t_execution_id, t_fence, t_attempt, t_outcome, t_worker, t_scheduled_at, t_started_at, t_ended_at, t_error,
            t_result);
    END IF;

    IF s_id IS NOT NULL THEN
        WITH gone AS (
            DELETE FROM live
             USING unnest(
                s_id, s_scheduled_at, s_started_at, s_ended_at, s_fence, s_incarnation, s_attempt, s_failures,
                s_losses, s_status, s_worker, s_result, s_error)
                AS s(id, scheduled_at, started_at, ended_at, fence, incarnation, attempt, failures,
                losses, status, worker, result, error)
             WHERE live.id = s.id
            RETURNING live.id, live.action_id, live.enqueued_at, s.scheduled_at, s.started_at, s.ended_at, s.fence,
                live.timeout_ns, s.incarnation, s.attempt, s.failures, s.losses, s.status, s.worker,
                live.concurrency_key, live.message_id, live.detail, live.correlation_id, live.trace_id,
                live.source, live.parameters, s.result, s.error
        )
        INSERT INTO history (
            id, action_id, enqueued_at, scheduled_at, started_at, ended_at, fence, timeout_ns, incarnation, attempt,
            failures, losses, status, worker, concurrency_key, message_id, detail, correlation_id, trace_id, source,
            parameters, result, error)
        SELECT * FROM gone;
        GET DIAGNOSTICS touched = ROW_COUNT;
        IF touched <> cardinality(s_id) THEN
            RAISE EXCEPTION USING ERRCODE = 'SL003',
                MESSAGE = format('%s executions settled, but %s of them lived', cardinality(s_id), touched);
        END IF;
    END IF;

    IF c_action_id IS NOT NULL THEN
        INSERT INTO action_totals (action_id, enqueued, completed)
        SELECT * FROM unnest(c_action_id, c_enqueued, c_completed)
            ON CONFLICT (action_id) DO UPDATE
           SET enqueued = action_totals.enqueued + excluded.enqueued,
               completed = action_totals.completed + excluded.completed;
    END IF;

    IF i_incarnation IS NOT NULL THEN
        INSERT INTO ended_incarnations (incarnation, worker, ended_at)
        SELECT * FROM unnest(i_incarnation, i_worker, i_ended_at)
            ON CONFLICT DO NOTHING;
    END IF;

    IF e_execution_id IS NOT NULL THEN
        -- A number that was given before is refused by the key.
        INSERT INTO events (execution_id, number, kind, body)
        SELECT * FROM unnest(e_execution_id, e_number, e_kind, e_body);
    END IF;

    IF r_execution_id IS NOT NULL THEN
        IF 1 < ANY (r_first) THEN
            -- From where the record began until now, so that what earlier calls deleted is not walked through again.
            DELETE FROM events
             USING unnest(r_execution_id, r_first) AS r(execution_id, first)
                   LEFT JOIN stories s ON s.execution_id = r.execution_id
             WHERE events.execution_id = r.execution_id
               AND events.number >= coalesce(s.first, 1) AND events.number < r.first;
        END IF;
        INSERT INTO stories (execution_id, first, last, attempt, sequence, awaits, head)
        SELECT * FROM unnest(r_execution_id, r_first, r_last, r_attempt, r_sequence, r_awaits, r_head)
            ON CONFLICT (execution_id) DO UPDATE
           SET first = excluded.first, last = excluded.last, attempt = excluded.attempt,
               sequence = excluded.sequence, awaits = excluded.awaits, head = excluded.head;
    END IF;

    IF u_rows IS NOT NULL THEN
        INSERT INTO audit (at, changed, actor, via, reason, action_id, action_ref, execution_id, fence, changes)
        SELECT * FROM json_to_recordset(u_rows::json)
            AS u(at timestamptz, changed text, actor text, via text, reason text, action_id bigint, action_ref text,
            execution_id bigint, fence bigint, changes text);
    END IF;

    IF p_announced IS NOT NULL THEN
        INSERT INTO announcements (epoch, batch, events) VALUES (p_epoch, p_batch, p_announced);
    END IF;
END
$$;
