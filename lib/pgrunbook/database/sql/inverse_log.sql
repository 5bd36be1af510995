-- name: exists
-- a row is: whether this database records inverses
SELECT pg_catalog.to_regclass('pgrunbook.way_back') IS NOT NULL

-- name: write
-- a row is: nothing; records the inverses of one migration's statements, except those that the same plan has recorded
WITH told AS (
    SELECT w.statement, w.file, w.line, w.sql, w.steps, w.cleanup, w.back, w.schema_before
    FROM pg_catalog.jsonb_to_recordset(%(ways)s::jsonb)
        AS w (statement int, file text, line int, sql text, steps int[], cleanup text[], back jsonb, schema_before text)
), other AS (
    DELETE FROM pgrunbook.way_back AS b
    WHERE b.migration = %(migration)s
      AND b.statement NOT IN (SELECT t.statement FROM told AS t)
)
INSERT INTO pgrunbook.way_back (
    migration, statement, run_id, file_sha256, plan_digest, file, line, sql, steps, undo, back, schema_before
)
SELECT %(migration)s, t.statement, %(run_id)s, %(file_sha256)s, %(plan_digest)s,
       t.file, t.line, t.sql, t.steps, t.cleanup, t.back, t.schema_before
FROM told AS t
ON CONFLICT (migration, statement) DO UPDATE
SET run_id = excluded.run_id, file_sha256 = excluded.file_sha256, plan_digest = excluded.plan_digest,
    file = excluded.file, line = excluded.line, sql = excluded.sql, steps = excluded.steps, undo = excluded.undo,
    back = excluded.back, schema_before = excluded.schema_before, taken_back_by = ''
WHERE pgrunbook.way_back.plan_digest <> excluded.plan_digest

-- name: correct
-- a row is: nothing; replaces the inverse of a statement by the one computed right before it was executed
UPDATE pgrunbook.way_back
SET back = %(back)s::jsonb
WHERE migration = %(migration)s
  AND statement = %(statement)s

-- name: read
-- a row is: the inverse of one statement of a migration
SELECT b.migration, b.statement, b.run_id, b.file_sha256, b.file, b.line, b.sql, b.steps, b.undo AS cleanup, b.back,
       b.schema_before, b.taken_back_by,
       pg_catalog.row_number() OVER (PARTITION BY b.line ORDER BY b.statement) AS nth
FROM pgrunbook.way_back AS b
WHERE b.migration = %(migration)s
ORDER BY b.statement

-- name: forget
-- a row is: nothing; deletes the inverses of a migration that was taken back
DELETE FROM pgrunbook.way_back
WHERE migration = %(migration)s

-- name: mark
-- a row is: nothing; records that single statements of a migration were taken back
UPDATE pgrunbook.way_back
SET taken_back_by = %(run_id)s
WHERE migration = %(migration)s
  AND statement = ANY (%(statements)s)
