-- name: extension
-- a row is: the schema of pg_stat_statements, where it is installed
SELECT n.nspname::text AS schema
FROM pg_catalog.pg_extension AS e
JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements'

-- name: without_statistics
-- a row is: a table with rows of which the planner knows nothing, or not of each column, and the columns; we may read all of them
SELECT c.oid::regclass::text AS name,
       x.columns,
       -- Autovacuum never comes to a table of fewer rows, and a wrong guess there slows nothing down.
       greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid))
           < pg_catalog.current_setting('autovacuum_analyze_threshold')::int AS is_small
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT coalesce(pg_catalog.array_agg(a.attname::text ORDER BY a.attnum), '{}') AS columns
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = c.oid
      AND a.attnum > 0
      AND NOT a.attisdropped
      AND a.attstattarget IS DISTINCT FROM 0
      AND (pg_catalog.to_jsonb(a) ->> 'attgenerated') IS DISTINCT FROM 'v'
      AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
      AND NOT EXISTS (
          SELECT
          FROM pg_catalog.pg_stats AS s
          WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname AND NOT s.inherited)
) AS x
WHERE c.relkind IN ('r', 'm')
  AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
  AND NOT pg_catalog.row_security_active(c.oid)
  -- Not by its size: to measure that would wait for who holds the table.
  AND (c.relpages > 0 OR pg_catalog.pg_stat_get_live_tuples(c.oid) > 0)
  AND pg_catalog.cardinality(x.columns) > 0
ORDER BY c.oid::regclass::text

-- name: sizes
-- a row is: a table, its bytes without and of its indexes, whether it has no page, and its rows as the statistics count them
SELECT c.oid::regclass::text AS name,
       n.nspname::text AS schema_name,
       c.relname::text AS relation,
       pg_catalog.pg_table_size(c.oid) AS table_bytes,
       pg_catalog.pg_indexes_size(c.oid) AS index_bytes,
       pg_catalog.pg_relation_size(c.oid) = 0 AS is_empty,
       pg_catalog.pg_stat_get_dead_tuples(c.oid) AS dead_rows
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm')
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
ORDER BY c.oid::regclass::text
