-- name: create_schema
-- a row is: nothing; creates the schema in which the database itself records what runs did, where it is missing
DO $$ BEGIN
    -- IF NOT EXISTS asks for CREATE on the database even where the schema exists.
    IF pg_catalog.to_regnamespace('pgrunbook') IS NULL THEN
        CREATE SCHEMA pgrunbook;
        COMMENT ON SCHEMA pgrunbook IS 'What pgrunbook did to this database. Not part of the application.';
    END IF;
END $$

-- name: create
-- a row is: nothing; creates the tables in it
CREATE TABLE IF NOT EXISTS pgrunbook.step (
    run_id text NOT NULL,
    migration text NOT NULL,
    direction text NOT NULL CHECK (direction IN ('up', 'down')),
    step int NOT NULL,
    state text NOT NULL CHECK (state IN ('intended', 'done', 'taken back')),
    kind text NOT NULL,
    sha256 text NOT NULL,
    file_sha256 text NOT NULL,
    plan_digest text NOT NULL,
    schema_before text,
    schema_after text,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    backend_pid int NOT NULL DEFAULT pg_catalog.pg_backend_pid(),
    session_user_name text NOT NULL DEFAULT session_user,
    transaction_id xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    PRIMARY KEY (run_id, migration, direction, step)
);
CREATE TABLE IF NOT EXISTS pgrunbook.restore_point (
    name text PRIMARY KEY,
    run_id text NOT NULL,
    lsn pg_lsn NOT NULL,
    version text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE TABLE IF NOT EXISTS pgrunbook.batch (
    name text PRIMARY KEY,
    pass int NOT NULL,
    last_key text[],
    end_key text[],
    batches bigint NOT NULL,
    rows bigint NOT NULL,
    is_done boolean NOT NULL,
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE TABLE IF NOT EXISTS pgrunbook.way_back (
    migration text NOT NULL,
    statement int NOT NULL,
    run_id text NOT NULL,
    file_sha256 text NOT NULL,
    plan_digest text NOT NULL,
    file text NOT NULL,
    line int NOT NULL,
    sql text NOT NULL,
    steps int[] NOT NULL,
    undo text[] NOT NULL,
    back jsonb,
    schema_before text,
    taken_back_by text NOT NULL DEFAULT '',
    written_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (migration, statement)
);
CREATE TABLE IF NOT EXISTS pgrunbook.shadow (
    table_schema text NOT NULL,
    table_name text NOT NULL,
    column_name text NOT NULL,
    shadow_name text NOT NULL,
    kind text NOT NULL,
    migration text NOT NULL,
    sync_name text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (table_schema, table_name, shadow_name)
);
CREATE TABLE IF NOT EXISTS pgrunbook.published (
    publication text NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    PRIMARY KEY (publication, table_schema, table_name)
)

-- name: complete
-- a row is: whether everything that create creates exists
SELECT count(*) = 6
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'pgrunbook' AND c.relname IN ('step', 'restore_point', 'batch', 'way_back', 'shadow', 'published')

-- name: exists
-- a row is: whether this database records what runs did
SELECT count(*) = 2
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'pgrunbook' AND c.relname IN ('step', 'restore_point')

-- name: write
-- a row is: nothing; records steps that a run is about to execute, or has executed
INSERT INTO pgrunbook.step (
    run_id, migration, direction, step, state, kind, sha256, file_sha256, plan_digest,
    schema_before, schema_after, started_at, ended_at
)
SELECT
    %(run_id)s, %(migration)s, %(direction)s, s.step, %(state)s, s.kind, s.sha256, %(file_sha256)s,
    %(plan_digest)s, s.schema_before, s.schema_after, pg_catalog.now(),
    CASE WHEN %(state)s = 'done' THEN pg_catalog.clock_timestamp() END
FROM pg_catalog.jsonb_to_recordset(%(steps)s::jsonb)
    AS s (step int, kind text, sha256 text, schema_before text, schema_after text)
ON CONFLICT (run_id, migration, direction, step) DO UPDATE
SET state = excluded.state, kind = excluded.kind, sha256 = excluded.sha256, file_sha256 = excluded.file_sha256,
    plan_digest = excluded.plan_digest, schema_before = excluded.schema_before, schema_after = excluded.schema_after,
    ended_at = excluded.ended_at, backend_pid = excluded.backend_pid, transaction_id = excluded.transaction_id

-- name: of_plan
-- a row is: a step that was done, or about to be, and was not taken back, of the migrations and texts named
SELECT
    s.migration,
    s.step,
    s.state = 'done' AS done,
    s.kind = 'history row' AS is_whole,
    s.run_id,
    s.sha256
FROM pgrunbook.step s
JOIN ROWS FROM (
    pg_catalog.unnest(%(migrations)s::text[]),
    pg_catalog.unnest(%(file_sha256s)s::text[])
) AS p (migration, file_sha256) USING (migration, file_sha256)
WHERE s.direction = %(direction)s
  AND s.state IN ('intended', 'done')
ORDER BY s.started_at, s.step

-- name: of_run
-- a row is: a step that a run has executed, was about to, or has taken back
SELECT
    s.migration,
    s.direction,
    s.step,
    s.state,
    s.kind
FROM pgrunbook.step s
WHERE s.run_id = %(run_id)s
ORDER BY s.migration, s.direction, s.step

-- name: unfinished
-- a row is: a migration that was begun in a direction and not completed, newest first
SELECT
    s.migration,
    (pg_catalog.array_agg(s.run_id ORDER BY s.started_at DESC))[1] AS run_id,
    (pg_catalog.array_agg(s.file_sha256 ORDER BY s.started_at DESC))[1] AS file_sha256
FROM pgrunbook.step s
WHERE s.direction = %(direction)s
  AND (s.state = 'done'
       OR s.state = 'intended'
          AND EXISTS (SELECT
                      FROM pgrunbook.batch b
                      WHERE b.batches > 0
                        AND pg_catalog.starts_with(b.name, s.direction || ':' || s.migration || ':')))
GROUP BY s.migration
HAVING NOT pg_catalog.bool_or(s.kind = 'history row')
ORDER BY pg_catalog.max(s.started_at) DESC

-- name: take_back
-- a row is: nothing; marks the steps of a migration that has just gone the other way as taken back
WITH forgotten AS (
    DELETE FROM pgrunbook.batch
    WHERE pg_catalog.starts_with(name, %(direction)s || ':' || %(migration)s || ':')
)
UPDATE pgrunbook.step
SET state = 'taken back'
WHERE migration = %(migration)s AND direction = %(direction)s AND state <> 'taken back'

-- name: withdraw
-- a row is: nothing; marks steps of any run as taken back that were intended and not done, or done and undone
UPDATE pgrunbook.step
SET state = 'taken back'
WHERE migration = %(migration)s
  AND direction = %(direction)s
  AND file_sha256 = %(file_sha256)s
  AND step = ANY (%(steps)s)

-- name: has_batches
-- a row is: whether a batch of one of these loops is committed
SELECT EXISTS (SELECT FROM pgrunbook.batch b WHERE b.name = ANY (%(names)s) AND b.batches > 0)

-- name: forget_unbegun
-- a row is: nothing; forgets loops of which no batch is committed
DELETE FROM pgrunbook.batch
WHERE name = ANY (%(names)s)
  AND batches = 0

-- name: applied_by_run
-- a row is: a migration that a run has applied completely and nobody has taken back, newest first
SELECT s.migration
FROM pgrunbook.step s
WHERE s.run_id = %(run_id)s AND s.direction = 'up' AND s.kind = 'history row' AND s.state = 'done'
ORDER BY s.ended_at DESC, s.migration DESC

-- name: last_history_step
-- a row is: the last migration that was applied or taken back by a run, and the schema after it
SELECT s.run_id, s.migration, s.direction, s.schema_before, s.schema_after, s.ended_at
FROM pgrunbook.step s
WHERE s.kind = 'history row' AND s.ended_at IS NOT NULL
ORDER BY s.ended_at DESC
LIMIT 1

-- name: history_step
-- a row is: the fingerprints of the schema before and after a migration, where a rehearsal has read them
SELECT s.run_id, s.schema_before, s.schema_after
FROM pgrunbook.step s
WHERE s.migration = %(migration)s AND s.direction = 'up' AND s.kind = 'history row' AND s.state = 'done'
ORDER BY s.ended_at DESC
LIMIT 1

-- name: write_restore_point
-- a row is: nothing; records a restore point that a run has created
INSERT INTO pgrunbook.restore_point (name, run_id, lsn, version)
VALUES (%(name)s, %(run_id)s, %(lsn)s, %(version)s)

-- name: restore_points
-- a row is: a restore point that this database has recorded, newest first
SELECT r.name, r.run_id, r.lsn::text AS lsn, r.version, r.created_at
FROM pgrunbook.restore_point r
ORDER BY r.created_at DESC

-- name: loops
-- a row is: a loop of batches that is not at its end, with the run that has begun it
SELECT b.name,
       s.direction,
       s.migration,
       s.step,
       s.run_id,
       b.rows,
       b.batches,
       b.last_key,
       b.end_key,
       extract(epoch FROM pg_catalog.clock_timestamp() - b.started_at)::float8 AS age_s,
       extract(epoch FROM pg_catalog.clock_timestamp() - b.updated_at)::float8 AS quiet_s
FROM pgrunbook.batch b
JOIN LATERAL (SELECT s.direction, s.migration, s.step, s.run_id
              FROM pgrunbook.step s
              WHERE s.state = 'intended'
                AND b.name = pg_catalog.concat_ws(':', s.direction, s.migration, s.file_sha256, s.step)
              ORDER BY s.started_at DESC
              LIMIT 1) s ON true
WHERE NOT b.is_done
ORDER BY b.started_at, b.name

-- name: last_migrations
-- a row is: a migration that was applied or taken back by a run, the newest first
SELECT s.migration, s.direction, s.run_id, s.ended_at
FROM pgrunbook.step s
WHERE s.kind = 'history row' AND s.ended_at IS NOT NULL
ORDER BY s.ended_at DESC, s.migration DESC
LIMIT %(most)s
