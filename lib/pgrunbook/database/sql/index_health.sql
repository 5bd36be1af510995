-- name: expressions
-- a row is: a table with an index on expressions of which the planner knows nothing, and these indexes
SELECT pg_catalog.format('%I.%I', n.nspname, t.relname) AS name,
       pg_catalog.array_agg(c.relname::text ORDER BY c.relname) AS indexes
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid AND c.relkind = 'i'
JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid AND t.relkind IN ('r', 'm')
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
WHERE i.indexprs IS NOT NULL
  AND i.indisvalid
  AND t.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
  AND (t.relpages > 0 OR pg_catalog.pg_stat_get_live_tuples(t.oid) > 0)
  AND pg_catalog.has_table_privilege(t.oid, 'SELECT')
  AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_stats AS s WHERE s.schemaname = n.nspname AND s.tablename = c.relname)
GROUP BY n.nspname, t.relname
ORDER BY 1

-- name: bloated
-- a row is: a B-tree index that takes far more than its keys need, by the statistics of the last ANALYZE and VACUUM
SELECT x.name,
       x.table_name,
       x.bytes,
       x.needed::bigint AS needed
FROM (
    SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name,
           pg_catalog.format('%%I.%%I', n.nspname, t.relname) AS table_name,
           c.relpages * pg_catalog.current_setting('block_size')::bigint AS bytes,
           -- A line pointer, the header of an index tuple, its values aligned; the default fillfactor is 90.
           c.reltuples * (4 + 8 + 8 * pg_catalog.ceil(w.bytes / 8.0)) / 0.9 AS needed
    FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid AND c.relkind = 'i'
    JOIN pg_catalog.pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
    JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
    CROSS JOIN LATERAL (
        SELECT pg_catalog.sum(s.avg_width) AS bytes,
               pg_catalog.count(*) AS known
        FROM pg_catalog.pg_attribute AS a
        JOIN pg_catalog.pg_stats AS s
          ON s.schemaname = n.nspname AND s.tablename = t.relname AND s.attname = a.attname AND NOT s.inherited
        WHERE a.attrelid = t.oid
          AND a.attnum = ANY (i.indkey::smallint[])
    ) AS w
    WHERE i.indisvalid
      AND i.indexprs IS NULL
      AND c.reltuples >= 0
      AND w.known = pg_catalog.cardinality(i.indkey::smallint[])
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
) AS x
WHERE x.bytes >= %(least)s
  AND x.bytes > %(times)s * x.needed
ORDER BY x.bytes - x.needed DESC

-- name: by_table
-- a row is: one of these tables that is there, with the names of its indexes and their definitions
SELECT pg_catalog.format('%%I.%%I', n.nspname, t.relname) AS name,
       c.relname::text AS index_name,
       pg_catalog.pg_get_indexdef(i.indexrelid) AS definition
FROM pg_catalog.pg_class AS t
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = t.oid
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
WHERE t.relkind IN ('r', 'p', 'm')
  AND pg_catalog.format('%%I.%%I', n.nspname, t.relname) = ANY (%(tables)s)
