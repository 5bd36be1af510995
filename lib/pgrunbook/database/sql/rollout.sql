-- name: create
-- a row is: nothing; creates the tables of staged rollouts: each rollout, its stages, and the rows that they changed
CREATE TABLE IF NOT EXISTS pgrunbook.rollout (
    name text PRIMARY KEY,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    column_name text NOT NULL,
    head text NOT NULL,
    state text NOT NULL,
    run_id text NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS pgrunbook.rollout_stage (
    rollout text NOT NULL,
    stage integer NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    state text NOT NULL,
    attempt integer NOT NULL,
    pass integer NOT NULL,
    rows bigint NOT NULL,
    looks bigint NOT NULL,
    metric_before double precision,
    metric_now double precision,
    began_at timestamptz NOT NULL,
    held_at timestamptz,
    ended_at timestamptz,
    why text NOT NULL,
    run_id text NOT NULL,
    changed_by text NOT NULL,
    PRIMARY KEY (rollout, stage)
);
CREATE TABLE IF NOT EXISTS pgrunbook.rollout_row (
    rollout text NOT NULL,
    row_key text NOT NULL,
    stage integer NOT NULL,
    state text NOT NULL,
    set_at timestamptz NOT NULL,
    PRIMARY KEY (rollout, row_key)
);
CREATE INDEX IF NOT EXISTS rollout_row_stage ON pgrunbook.rollout_row (rollout, stage, state, row_key)

-- name: is_there
-- a row is: whether the tables of staged rollouts are there
SELECT pg_catalog.to_regclass('pgrunbook.rollout') IS NOT NULL
   AND pg_catalog.to_regclass('pgrunbook.rollout_stage') IS NOT NULL
   AND pg_catalog.to_regclass('pgrunbook.rollout_row') IS NOT NULL

-- name: rollout
-- a row is: a rollout that has begun in this database
SELECT r.name,
       r.table_schema,
       r.table_name,
       r.column_name,
       r.head,
       r.state,
       r.changed_by,
       r.changed_at
FROM pgrunbook.rollout AS r
WHERE r.name = %(name)s

-- name: others
-- a row is: another rollout of the same column that is not over
SELECT r.name
FROM pgrunbook.rollout AS r
WHERE r.table_schema = %(schema)s
  AND r.table_name = %(table)s
  AND r.column_name = %(column)s
  AND r.name <> %(name)s
  AND r.state IN ('open', 'paused')

-- name: half_done
-- a row is: a stage of a rollout that is not over, and that some of its rows have reached and others not
SELECT r.name,
       s.name AS stage,
       s.state,
       pg_catalog.format('%I.%I', r.table_schema, r.table_name) AS table,
       r.column_name AS column
FROM pgrunbook.rollout AS r
JOIN pgrunbook.rollout_stage AS s ON s.rollout = r.name
WHERE r.state IN ('open', 'paused', 'abandoned')
  AND s.state IN ('writing', 'going back')
ORDER BY r.name, s.stage

-- name: begin
-- a row is: nothing; notes that a rollout begins
INSERT INTO pgrunbook.rollout (name, table_schema, table_name, column_name, head, state, run_id, changed_by, changed_at)
VALUES (%(name)s, %(schema)s, %(table)s, %(column)s, %(head)s, 'open', %(run_id)s, session_user,
        pg_catalog.clock_timestamp())
ON CONFLICT (name) DO NOTHING

-- name: set_state
-- a row is: nothing; notes what became of a rollout, and who decided so
UPDATE pgrunbook.rollout
SET state = %(state)s, run_id = %(run_id)s, changed_by = session_user, changed_at = pg_catalog.clock_timestamp()
WHERE name = %(name)s

-- name: stages
-- a row is: a stage that has begun, with the rows that have the flag by it and those that somebody changed since
SELECT s.stage AS number,
       s.name,
       s.digest,
       s.state,
       s.attempt,
       s.pass AS number_of_pass,
       s.rows,
       s.looks,
       s.metric_before,
       s.metric_now,
       s.began_at,
       s.held_at,
       s.ended_at,
       s.why,
       s.run_id,
       s.changed_by,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - s.held_at) AS held_s
FROM pgrunbook.rollout_stage AS s
WHERE s.rollout = %(name)s
ORDER BY s.stage

-- name: begin_stage
-- a row is: nothing; notes that a stage begins, or begins again after it was taken back
INSERT INTO pgrunbook.rollout_stage AS s
    (rollout, stage, name, digest, state, attempt, pass, rows, looks, metric_before, metric_now, began_at, held_at,
     ended_at, why, run_id, changed_by)
VALUES (%(name)s, %(number)s, %(stage)s, %(digest)s, 'writing', 1, 1, 0, 0, %(metric)s, %(metric)s,
        pg_catalog.clock_timestamp(), NULL, NULL, '', %(run_id)s, session_user)
ON CONFLICT (rollout, stage) DO UPDATE
SET name = excluded.name, digest = excluded.digest, state = 'writing', attempt = s.attempt + 1, pass = 1, rows = 0,
    looks = 0, metric_before = excluded.metric_before, metric_now = excluded.metric_now, began_at = excluded.began_at,
    held_at = NULL, ended_at = NULL, why = '', run_id = excluded.run_id, changed_by = session_user

-- name: next_pass
-- a row is: nothing; notes that the batches of a stage go through the table once more
UPDATE pgrunbook.rollout_stage
SET pass = pass + 1
WHERE rollout = %(name)s
  AND stage = %(number)s

-- name: set_stage
-- a row is: nothing; notes what became of a stage
UPDATE pgrunbook.rollout_stage AS s
SET state = %(state)s,
    why = %(why)s,
    run_id = %(run_id)s,
    changed_by = session_user,
    held_at = CASE %(state)s WHEN 'held' THEN pg_catalog.clock_timestamp() ELSE s.held_at END,
    ended_at = CASE WHEN %(state)s IN ('done', 'back') THEN pg_catalog.clock_timestamp() END,
    rows = (SELECT pg_catalog.count(*)
            FROM pgrunbook.rollout_row AS r
            WHERE r.rollout = s.rollout AND r.stage = s.stage AND r.state = 'on')
WHERE s.rollout = %(name)s
  AND s.stage = %(number)s

-- name: looked
-- a row is: nothing; notes what the metric of a stage was when it was asked
UPDATE pgrunbook.rollout_stage
SET looks = looks + 1, metric_now = %(metric)s
WHERE rollout = %(name)s
  AND stage = %(number)s

-- name: became
-- a row is: how many rows of a stage are in a state: on, back, changed by somebody else, or gone
SELECT r.stage,
       r.state,
       pg_catalog.count(*) AS rows
FROM pgrunbook.rollout_row AS r
WHERE r.rollout = %(name)s
GROUP BY r.stage, r.state

-- name: next_back
-- a row is: the key of a row that a stage has given the flag, locked until it is taken back
SELECT r.row_key
FROM pgrunbook.rollout_row AS r
WHERE r.rollout = %(name)s
  AND r.stage = %(number)s
  AND r.state = 'on'
ORDER BY r.row_key
LIMIT %(rows)s
FOR UPDATE

-- name: set_rows
-- a row is: nothing; notes what became of rows
UPDATE pgrunbook.rollout_row AS r
SET state = %(state)s, set_at = pg_catalog.clock_timestamp()
WHERE r.rollout = %(name)s
  AND r.row_key = ANY (%(keys)s::text[])

-- name: pass_rows
-- a row is: how many rows a pass of a stage has changed so far
SELECT b.rows
FROM pgrunbook.batch AS b
WHERE b.name = %(name)s

-- name: forget_passes
-- a row is: nothing; forgets how far the batches of a stage had come
DELETE FROM pgrunbook.batch AS b
WHERE pg_catalog.starts_with(b.name, %(prefix)s)

-- name: forget_rows
-- a row is: nothing; forgets the rows of a rollout that is over
DELETE FROM pgrunbook.rollout_row AS r
WHERE r.rollout = %(name)s

-- name: counted_since
-- a row is: since when pg_stat_statements counts, and how often it had to forget statements for want of room
SELECT i.stats_reset,
       i.dealloc
FROM {}.pg_stat_statements_info AS i
