-- name: size
-- a row is: a table by the name that SQL gives it, with its bytes and the planner's estimate of its rows, NULL where there is none
SELECT
    n.nspname::text AS schema_name,
    c.relname::text AS relation,
    x.bytes,
    CASE
        WHEN x.analyzed AND x.pages > 0 THEN (x.tuples * (x.bytes / 8192.0) / x.pages)::bigint
    END AS rows_estimate
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT
        coalesce(sum(pg_catalog.pg_relation_size(m.oid)), 0)::bigint AS bytes,
        coalesce(sum(m.relpages), 0) AS pages,
        coalesce(sum(m.reltuples), 0)::float8 AS tuples,
        coalesce(pg_catalog.bool_and(m.reltuples >= 0), false) AS analyzed
    FROM pg_catalog.pg_class m
    WHERE m.relkind IN ('r', 'm')
      AND (m.oid = c.oid OR m.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(c.oid) t))
) x
WHERE c.oid = pg_catalog.to_regclass(%(name)s)
  AND c.relkind IN ('r', 'p', 'm')
  AND NOT EXISTS (
        SELECT
        FROM pg_catalog.pg_partition_tree(c.oid) t
        JOIN pg_catalog.pg_class f ON f.oid = t.relid
        WHERE f.relkind = 'f'
    )
