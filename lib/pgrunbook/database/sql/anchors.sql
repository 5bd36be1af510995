-- name: create
-- a row is: nothing; creates the table that holds the ends of the ledger, to which rows can only be added
CREATE TABLE pgrunbook.ledger (
    ledger text NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    run_id text NOT NULL,
    line_sha256 text NOT NULL,
    lsn pg_lsn NOT NULL,
    timeline integer NOT NULL,
    session_user_name text NOT NULL DEFAULT session_user,
    transaction_id xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    written_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (ledger, seq)
);
CREATE FUNCTION pgrunbook.refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION ''rows of pgrunbook.ledger are never changed or deleted''; END';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON pgrunbook.ledger
    FOR EACH STATEMENT EXECUTE FUNCTION pgrunbook.refuse_ledger_change();
REVOKE UPDATE, DELETE, TRUNCATE ON pgrunbook.ledger FROM CURRENT_USER

-- name: exists
-- a row is: whether the table is there
SELECT pg_catalog.to_regclass('pgrunbook.ledger') IS NOT NULL

-- name: write
-- a row is: where the server stands, and as whom it knows us, now that a line of the ledger is anchored
WITH place AS (
    SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn,
           ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::integer
               AS timeline
), written AS (
    INSERT INTO pgrunbook.ledger (ledger, seq, kind, run_id, line_sha256, lsn, timeline)
    SELECT %(ledger)s, %(seq)s, %(kind)s, %(run_id)s, %(line_sha256)s, place.lsn, place.timeline
    FROM place
    ON CONFLICT (ledger, seq) DO NOTHING
)
SELECT (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() AS c) AS system_identifier,
       place.timeline,
       place.lsn::text AS lsn,
       session_user::text AS session_user_name
FROM place

-- name: place
-- a row is: where the server stands now; timeline 0 where it is in recovery
SELECT (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() AS c) AS system_identifier,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0
            ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::integer
       END AS timeline,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_insert_lsn()
       END::text AS lsn,
       session_user::text AS session_user_name

-- name: rows
-- a row is: an anchored line of a ledger
SELECT l.ledger,
       l.seq,
       l.kind,
       l.run_id,
       l.line_sha256,
       l.timeline,
       l.session_user_name,
       l.written_at
FROM pgrunbook.ledger AS l
ORDER BY l.ledger, l.seq

-- name: guarded
-- a row is: whether the trigger that refuses changes is there and fires
SELECT EXISTS (SELECT
               FROM pg_catalog.pg_trigger AS g
               WHERE g.tgrelid = pg_catalog.to_regclass('pgrunbook.ledger')
                 AND g.tgname = 'append_only'
                 AND g.tgenabled IN ('O', 'A'))
