-- name: create
-- a row is: nothing; creates the tables of what is salvaged: which tables a run salvages, and each row with what became of it
CREATE TABLE IF NOT EXISTS pgrunbook.salvage (
    run_id text NOT NULL,
    place integer NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    columns text[] NOT NULL,
    made_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, place)
);
CREATE TABLE IF NOT EXISTS pgrunbook.salvaged_row (
    run_id text NOT NULL,
    place integer NOT NULL,
    number bigint NOT NULL,
    fate text NOT NULL,
    state text NOT NULL,
    row_values text[] NOT NULL,
    was text[],
    PRIMARY KEY (run_id, place, number)
)

-- name: is_there
-- a row is: whether the tables of what is salvaged are there
SELECT pg_catalog.to_regclass('pgrunbook.salvage') IS NOT NULL
   AND pg_catalog.to_regclass('pgrunbook.salvaged_row') IS NOT NULL

-- name: begun
-- a row is: a table that a run has begun to salvage
SELECT s.place,
       s.table_schema,
       s.table_name,
       s.columns
FROM pgrunbook.salvage AS s
WHERE s.run_id = %(run_id)s
ORDER BY s.place

-- name: begin
-- a row is: nothing; notes a table that a run salvages
INSERT INTO pgrunbook.salvage (run_id, place, table_schema, table_name, columns, made_at)
VALUES (%(run_id)s, %(place)s, %(schema)s, %(name)s, %(columns)s, pg_catalog.clock_timestamp())

-- name: forget_old
-- a row is: nothing; forgets what was salvaged more than so many days ago
WITH gone AS (
    DELETE FROM pgrunbook.salvage AS s
    WHERE s.made_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(days => %(days)s)
    RETURNING s.run_id
)
DELETE FROM pgrunbook.salvaged_row AS r
WHERE r.run_id IN (SELECT g.run_id FROM gone AS g)

-- name: columns
-- a row is: a column of a table, with all that decides whether an old value can be written into it
SELECT a.attname::text AS name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       pg_catalog.format_type(a.atttypid, NULL) AS plain_type,
       a.atttypmod AS modifier,
       a.attgenerated <> '' AS is_generated,
       a.attidentity = 'a' AS is_identity_always,
       a.attnotnull AS is_not_null,
       a.atthasdef OR a.attidentity <> '' AS has_default,
       pg_catalog.array_position(i.indkey::smallint[], a.attnum) AS key_place
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
WHERE n.nspname = %(schema)s
  AND c.relname = %(name)s
ORDER BY a.attnum

-- name: relation
-- a row is: a table, and whether it is a partitioned one
SELECT c.oid::bigint AS oid,
       c.relkind = 'p' AS is_partitioned
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s
  AND c.relname = %(name)s

-- name: is_widening
-- a row is: whether every value of one type is one of another, as an implicit cast says
SELECT EXISTS (SELECT
               FROM pg_catalog.pg_cast AS c
               WHERE c.castsource = pg_catalog.to_regtype(%(old)s)::oid
                 AND c.casttarget = pg_catalog.to_regtype(%(new)s)::oid
                 AND c.castcontext = 'i')

-- name: functions
-- a row is: one of PostgreSQL's own functions by name, and whether one of that name may do more than read
SELECT p.proname::text AS name,
       pg_catalog.bool_or(p.provolatile = 'v') AS is_volatile
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
  AND p.proname = ANY (%(names)s::text[])
GROUP BY p.proname

-- name: sequences
-- a row is: a sequence that a column of a table takes its numbers from, and counts upwards
SELECT a.attname::text AS column_name,
       pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS sequence,
       s.seqincrement AS increment
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = c.oid AND s.seqincrement > 0
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refobjid = %(oid)s::oid
  AND d.deptype IN ('a', 'i')
ORDER BY a.attname

-- name: became
-- a row is: how many rows of a table that a run salvages have come to a state
SELECT r.place,
       r.fate,
       r.state,
       pg_catalog.count(*) AS rows
FROM pgrunbook.salvaged_row AS r
WHERE r.run_id = %(run_id)s
GROUP BY r.place, r.fate, r.state
ORDER BY r.place, r.fate, r.state

-- name: cascades
-- a row is: a table whose rows are deleted with rows of these tables, over all levels
WITH RECURSIVE below (oid) AS (
    SELECT c.conrelid
    FROM pg_catalog.pg_constraint AS c
    WHERE c.confrelid = ANY (%(oids)s::oid[]) AND c.contype = 'f' AND c.confdeltype = 'c'
    UNION
    SELECT c.conrelid
    FROM below AS b
    JOIN pg_catalog.pg_constraint AS c ON c.confrelid = b.oid
    WHERE c.contype = 'f' AND c.confdeltype = 'c'
)
SELECT
    n.nspname AS schema,
    t.relname AS name
FROM below AS b
JOIN pg_catalog.pg_class AS t ON t.oid = b.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
WHERE NOT t.relispartition
