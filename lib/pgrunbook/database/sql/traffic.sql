-- name: tables
-- a row is: a table for the traffic, with the columns of its best key and those that can be updated, or NULL
SELECT
    n.nspname::text AS schema,
    c.relname::text AS name,
    greatest(c.reltuples, 0)::float8 AS rows_estimate,
    (
        SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.place)
        FROM pg_catalog.unnest(x.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
        WHERE k.place <= x.indnkeyatts
    ) AS key,
    (
        SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns,
    (
        SELECT pg_catalog.array_agg(
            a.attname::text
            ORDER BY EXISTS (
                SELECT FROM pg_catalog.pg_index o WHERE o.indrelid = c.oid AND a.attnum = ANY (o.indkey::int2[])
            ), a.attnum
        )
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND a.attgenerated = '' AND a.attidentity <> 'a'
    ) AS writable
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT
        i.indkey,
        i.indnkeyatts
    FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid
      AND i.indisunique AND i.indisvalid AND i.indimmediate
      AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]) AND NOT a.attnotnull
      )
    ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid
    LIMIT 1
) x ON true
WHERE c.oid = pg_catalog.to_regclass(%(table)s)
  AND c.relkind IN ('r', 'p')
