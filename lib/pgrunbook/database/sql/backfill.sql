-- name: columns
-- a row is: a column of a table with its type as SQL spells it, in the order of the table; a plain one is of a type
-- whose values are equal where their bytes are
SELECT a.attname::text AS name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       a.attgenerated <> '' AS is_generated,
       a.attnotnull AS is_not_null,
       a.atttypid = ANY (ARRAY['bool', 'int2', 'int4', 'int8', 'oid', 'text', 'varchar', 'bytea', 'uuid', 'date',
                               'timestamp', 'timestamptz']::regtype[]) AS is_plain
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %(table)s
  AND a.attnum > 0
  AND NOT a.attisdropped
ORDER BY a.attnum

-- name: volatile
-- a row is: a function of one of these names that gives another value each time
SELECT DISTINCT p.proname::text AS name
FROM pg_catalog.pg_proc AS p
WHERE p.proname = ANY (%(names)s::text[])
  AND p.provolatile = 'v'
ORDER BY name

-- name: triggers
-- a row is: the trigger of a backfill on a table, and in which sessions it fires
SELECT g.tgname::text AS name,
       g.tgenabled::text AS enabled
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')
  AND p.proname = %(function)s
  AND g.tgrelid = %(table)s::oid

-- name: behind
-- a row is: a trigger BEFORE INSERT or UPDATE of each row that fires behind one of that name
SELECT g.tgname::text AS name
FROM pg_catalog.pg_trigger AS g
WHERE g.tgrelid = %(table)s
  AND NOT g.tgisinternal
  AND g.tgtype & 1 = 1
  AND g.tgtype & 2 = 2
  AND g.tgtype & 20 > 0
  AND g.tgname::text COLLATE "C" > %(last)s
  AND g.tgenabled <> 'D'
ORDER BY name

-- name: left
-- a row is: a trigger of a backfill on a table that fills or reads a column
SELECT g.tgname::text AS name,
       x.fills
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = g.tgrelid AND a.attname = %(column)s
CROSS JOIN LATERAL (
    SELECT pg_catalog.strpos(p.prosrc, 'NEW."' || pg_catalog.replace(a.attname, '"', '""') || '" :=') > 0 AS fills
) AS x
WHERE g.tgrelid = pg_catalog.to_regclass(%(table)s)
  AND p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
  AND pg_catalog.starts_with(p.proname::text, 'fill_')
  AND (x.fills
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_proc AS f
                  JOIN pg_catalog.pg_depend AS d
                    ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = f.oid
                  WHERE f.pronamespace = p.pronamespace
                    AND pg_catalog.starts_with(f.proname::text, p.proname || '_')
                    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.refobjid = g.tgrelid
                    AND d.refobjsubid = a.attnum))
ORDER BY name

-- name: fired
-- a row is: a trigger of the application that an UPDATE of these columns fires
SELECT g.tgname::text AS name,
       CASE WHEN g.tgtype & 1 = 1 THEN 'each row' ELSE 'each batch' END AS fires,
       CASE WHEN g.tgtype & 2 = 2 THEN 'before' ELSE 'after' END AS at,
       g.tgfoid::regprocedure::text AS executes
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
WHERE g.tgrelid = %(table)s
  AND NOT g.tgisinternal
  AND g.tgtype & 16 = 16
  AND g.tgenabled <> 'D'
  AND p.pronamespace <> coalesce(pg_catalog.to_regnamespace('pgrunbook')::oid, 0)
  AND (g.tgattr = ''::int2vector
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid = g.tgrelid
                    AND a.attnum = ANY (g.tgattr::int2[])
                    AND a.attname = ANY (%(columns)s::text[])))
ORDER BY name

-- name: foreign_keys
-- a row is: a foreign key of which one of these columns is a part, on either side
SELECT k.conname::text AS name,
       k.conrelid = %(table)s::oid AS is_outgoing,
       CASE WHEN k.conrelid = %(table)s::oid THEN k.confrelid::regclass::text ELSE k.conrelid::regclass::text END AS other
FROM pg_catalog.pg_constraint AS k
WHERE k.contype = 'f'
  AND (k.conrelid = %(table)s::oid
           AND EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                       WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) AND a.attname = ANY (%(columns)s::text[]))
       OR k.confrelid = %(table)s::oid
           AND EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                       WHERE a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey) AND a.attname = ANY (%(columns)s::text[])))
ORDER BY name

-- name: checks
-- a row is: a check of a table that one of these columns is in, and all columns that it is about
SELECT pg_catalog.pg_get_constraintdef(k.oid) AS definition,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)) AS columns
FROM pg_catalog.pg_constraint AS k
WHERE k.conrelid = %(table)s
  AND k.contype = 'c'
  AND k.conkey && ARRAY(SELECT a.attnum FROM pg_catalog.pg_attribute AS a
                        WHERE a.attrelid = k.conrelid AND a.attname = ANY (%(columns)s::text[]))

-- name: keeping
-- a row is: a trigger of the application that may keep a row of a table, or of a partition, from being deleted
SELECT t.tgname::text AS name
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
WHERE t.tgenabled <> 'D'
  AND t.tgtype & 11 = 11  -- BEFORE DELETE, for each row
  AND p.pronamespace IS DISTINCT FROM pg_catalog.to_regnamespace('pgrunbook')::oid
  AND t.tgrelid IN (SELECT %(table)s::oid
                    UNION ALL
                    SELECT r.relid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass) AS r)
ORDER BY t.tgname

-- name: order_facts
-- a row is: what decides the order of a backfill: its size, room on pages, how far the key follows the pages, indexes;
-- and what is kept in memory, and written between two checkpoints; of a partitioned table, over its partitions
WITH part AS (
    SELECT c.oid,
           greatest(c.reltuples, 0)::float8 AS rows,
           (SELECT o.option_value::int FROM pg_catalog.pg_options_to_table(c.reloptions) AS o
            WHERE o.option_name = 'fillfactor') AS fillfactor,
           (SELECT abs(s.correlation::float8)
            FROM pg_catalog.pg_stats AS s
            WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = %(key)s AND NOT s.inherited)
               AS correlation,
           (SELECT count(*)::int FROM pg_catalog.pg_index AS i WHERE i.indrelid = c.oid) AS indexes
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r'
      AND c.oid IN (SELECT %(table)s::oid
                    UNION ALL
                    SELECT t.relid::oid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass) AS t)
)
SELECT coalesce(sum(pg_catalog.pg_table_size(p.oid)), 0)::bigint AS bytes,
       least(pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')),
             pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size'))) AS room_bytes,
       coalesce(sum(p.rows), 0)::bigint AS rows_estimate,
       coalesce(min(p.fillfactor), 100) AS fillfactor,
       sum(p.correlation * p.rows) / nullif(sum(p.rows) FILTER (WHERE p.correlation IS NOT NULL), 0) AS correlation,
       EXISTS (SELECT
               FROM pg_catalog.pg_index AS i
               JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
               JOIN pg_catalog.pg_am AS m ON m.oid = x.relam
               WHERE i.indrelid IN (SELECT t.oid FROM part AS t)
                 AND m.amname <> 'brin'
                 AND EXISTS (SELECT
                             FROM pg_catalog.pg_depend AS d
                             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                             WHERE d.classid = 'pg_catalog.pg_class'::regclass
                               AND d.objid = i.indexrelid
                               AND d.refclassid = 'pg_catalog.pg_class'::regclass
                               AND d.refobjid = i.indrelid
                               AND a.attname = ANY (%(columns)s::text[]))) AS is_indexed,
       coalesce(max(p.indexes), 0) AS indexes
FROM part AS p

-- name: counted
-- a row is: how many rows of a table and its partitions the server has counted as updated, and how many of them as HOT
SELECT coalesce(sum(pg_catalog.pg_stat_get_tuples_updated(t.oid)), 0)::bigint AS updated,
       coalesce(sum(pg_catalog.pg_stat_get_tuples_hot_updated(t.oid)), 0)::bigint AS hot
FROM (
    SELECT p.relid AS oid FROM pg_catalog.pg_partition_tree(%(table)s::oid) AS p
    UNION
    SELECT %(table)s::oid
) AS t

-- name: captures
-- a row is: the trigger function of a backfill, where it captures into this side table
SELECT p.oid
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')
  AND p.proname = %(function)s
  AND pg_catalog.strpos(p.prosrc, %(kept_as)s) > 0
