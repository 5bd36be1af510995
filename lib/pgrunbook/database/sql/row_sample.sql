-- name: tables
-- a row is: a table that holds rows itself, with the columns that can be written
SELECT n.nspname::text AS schema_name,
       c.relname::text AS table_name,
       coalesce(pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attnum IS NOT NULL), '{}')
           AS columns
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                                      AND a.attgenerated = ''
WHERE c.relkind = 'r'
  AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_'
  AND n.nspname <> 'information_schema'
  AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
GROUP BY n.nspname, c.relname, c.oid
ORDER BY c.oid

-- name: keys
-- a row is: a foreign key, the tables without their children where these do not count, with the pairs of its columns, the type of each that is referenced, and their operator
SELECT n.nspname::text AS schema_name,
       c.relname::text AS table_name,
       fn.nspname::text AS other_schema,
       fc.relname::text AS other_table,
       CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY' END AS alone,
       CASE fc.relkind WHEN 'p' THEN '' ELSE 'ONLY' END AS other_alone,
       x.columns,
       x.other_columns,
       x.types,
       x.operators,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = fc.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS written
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class AS fc ON fc.oid = k.confrelid
JOIN pg_catalog.pg_namespace AS fn ON fn.oid = fc.relnamespace
CROSS JOIN LATERAL (
    SELECT pg_catalog.array_agg(a.attname::text ORDER BY p.n) AS columns,
           pg_catalog.array_agg(fa.attname::text ORDER BY p.n) AS other_columns,
           pg_catalog.array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY p.n) AS types,
           pg_catalog.array_agg(pg_catalog.quote_ident(opn.nspname) || '.' || op.oprname ORDER BY p.n) AS operators
    FROM ROWS FROM (
        pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey), pg_catalog.unnest(k.conpfeqop)
    ) WITH ORDINALITY AS p (mine, other, operator, n)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = p.mine
    JOIN pg_catalog.pg_attribute AS fa ON fa.attrelid = fc.oid AND fa.attnum = p.other
    JOIN pg_catalog.pg_operator AS op ON op.oid = p.operator
    JOIN pg_catalog.pg_namespace AS opn ON opn.oid = op.oprnamespace
) AS x
WHERE k.contype = 'f'
  AND k.conparentid = 0
ORDER BY k.oid

-- name: positions
-- a row is: a sequence that was used, with where it stands
SELECT s.schemaname::text AS schema_name,
       s.sequencename::text AS sequence_name,
       s.last_value
FROM pg_catalog.pg_sequences AS s
WHERE s.last_value IS NOT NULL
  AND s.schemaname !~ '^pg_'
ORDER BY s.schemaname, s.sequencename
