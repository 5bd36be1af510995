-- name: is_there
-- a row is: whether the table of commands exists
SELECT pg_catalog.to_regclass('pgrunbook.control') IS NOT NULL

-- name: create
-- a row is: nothing; creates the table of commands to those who are at work
CREATE TABLE IF NOT EXISTS pgrunbook.control (
    name text PRIMARY KEY,
    command text NOT NULL CHECK (command IN ('pause', 'abort')),
    reason text NOT NULL,
    asked_by text NOT NULL,
    asked_at timestamptz NOT NULL,
    until timestamptz NOT NULL
)

-- name: ask
-- a row is: nothing; gives a command, or renews it; an abort that holds still is not weakened to a pause
INSERT INTO pgrunbook.control AS c (name, command, reason, asked_by, asked_at, until)
VALUES (%(name)s, %(command)s, %(reason)s, session_user, pg_catalog.clock_timestamp(),
        coalesce(pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => %(lease_s)s), 'infinity'))
ON CONFLICT (name) DO UPDATE
SET command = excluded.command, reason = excluded.reason, asked_by = excluded.asked_by, asked_at = excluded.asked_at,
    until = excluded.until
WHERE c.command <> 'abort'
   OR excluded.command = 'abort'
   OR c.until < pg_catalog.clock_timestamp()

-- name: withdraw
-- a row is: nothing; ends a pause that holds
UPDATE pgrunbook.control
SET until = pg_catalog.clock_timestamp()
WHERE name = %(name)s
  AND command = 'pause'
  AND until > pg_catalog.clock_timestamp()

-- name: standing
-- a row is: the command that holds now for this session; an abort given before it began was meant for others
SELECT c.command, c.reason, c.asked_by, c.name <> 'batches' AS is_lasting
FROM pgrunbook.control AS c
WHERE c.name IN ('batches', %(name)s)
  AND c.until > pg_catalog.clock_timestamp()
  AND (c.command <> 'abort'
       OR c.asked_at >= (SELECT a.backend_start
                         FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a))
ORDER BY c.command, c.name
LIMIT 1

-- name: has_paces
-- a row is: whether the table of paces exists
SELECT pg_catalog.to_regclass('pgrunbook.pace') IS NOT NULL

-- name: create_pace
-- a row is: nothing; creates the table of paces that persons give to the batches of their runs
CREATE TABLE IF NOT EXISTS pgrunbook.pace (
    run_id text PRIMARY KEY,
    times double precision NOT NULL,
    asked_by text NOT NULL,
    asked_at timestamptz NOT NULL
)

-- name: change_pace
-- a row is: the pace of a run that holds now, within bounds
INSERT INTO pgrunbook.pace AS p (run_id, times, asked_by, asked_at)
VALUES (%(run_id)s, %(times)s, session_user, pg_catalog.clock_timestamp())
ON CONFLICT (run_id) DO UPDATE
SET times = least(greatest(p.times * excluded.times, %(slowest)s), %(fastest)s), asked_by = excluded.asked_by,
    asked_at = excluded.asked_at
RETURNING p.times

-- name: pace
-- a row is: the pace of a run
SELECT p.times
FROM pgrunbook.pace AS p
WHERE p.run_id = %(run_id)s
