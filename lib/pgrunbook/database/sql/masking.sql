-- name: names
-- a row is: the parts of the name that a rule gives, as they are stored and as SQL spells them
SELECT p.part, pg_catalog.quote_ident(p.part) AS spelled
FROM pg_catalog.unnest(pg_catalog.parse_ident(%(rule)s)) WITH ORDINALITY AS p (part, number)
ORDER BY p.number

-- name: column
-- a row is: a column of a relation; no row where there is none
SELECT n.nspname::text AS schema_name,
       c.relname::text AS table_name,
       a.attname::text AS column_name,
       c.relkind::text AS kind,
       a.attgenerated <> '' AS is_generated,
       a.attidentity = 'a' AS is_always_identity,
       a.attnotnull OR EXISTS (
           SELECT FROM pg_catalog.pg_type AS d WHERE d.oid = a.atttypid AND d.typnotnull
       ) AS is_not_null,
       EXISTS (
           SELECT FROM pg_catalog.pg_partitioned_table AS p
           WHERE p.partrelid = c.oid AND a.attnum = ANY (p.partattrs::int2[])
       ) AS is_partition_key,
       CASE WHEN tn.nspname = 'pg_catalog' THEN pg_catalog.format_type(a.atttypid, a.atttypmod)
            ELSE pg_catalog.format('%%I.%%I', tn.nspname, t.typname) END AS type_name,
       base.typname::text AS base_name,
       NOT coalesce(l.collisdeterministic, true) AS is_fuzzy,
       CASE WHEN base.typname IN ('varchar', 'bpchar') AND mod.value > 4 THEN mod.value - 4 END AS most_chars,
       CASE WHEN base.typname = 'numeric' AND mod.value > 4
            THEN ((mod.value - 4) >> 16 & 65535) - ((mod.value - 4) & 2047) END AS most_digits
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = %(column)s
                                 AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.typnamespace
CROSS JOIN LATERAL (
    WITH RECURSIVE below (oid, base, typmod) AS (
        SELECT t.oid, t.typbasetype, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END
        UNION ALL
        SELECT u.oid, u.typbasetype, CASE WHEN u.typtype = 'd' THEN u.typtypmod ELSE below.typmod END
        FROM below
        JOIN pg_catalog.pg_type AS u ON u.oid = below.base
    )
    SELECT below.oid, below.typmod AS value FROM below WHERE below.base = 0
) AS mod
JOIN pg_catalog.pg_type AS base ON base.oid = mod.oid
LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
WHERE c.oid = %(oid)s

-- name: family
-- a row is: a table whose rows are written with those of the one that is named: itself, its partitions and children
WITH RECURSIVE family (oid) AS (
    SELECT c.oid
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s
      AND c.relname = %(table)s
    UNION
    SELECT i.inhrelid
    FROM family AS f
    JOIN pg_catalog.pg_inherits AS i ON i.inhparent = f.oid
)
SELECT n.nspname::text AS schema_name,
       c.relname::text AS table_name,
       c.relkind = 'r' AS has_rows,
       c.relkind = 'f' AS is_foreign
FROM family AS f
JOIN pg_catalog.pg_class AS c ON c.oid = f.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY c.oid

-- name: references
-- a row is: a foreign key, also of a partition, with the columns of both sides in their order
SELECT k.conname::text AS name,
       k.confmatchtype = 'f' AS is_full,
       n.nspname::text AS schema_name,
       c.relname::text AS table_name,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY x.n)
        FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS x (attnum, n)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = x.attnum) AS columns,
       fn.nspname::text AS other_schema,
       fc.relname::text AS other_table,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY x.n)
        FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS x (attnum, n)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = x.attnum) AS other_columns
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class AS fc ON fc.oid = k.confrelid
JOIN pg_catalog.pg_namespace AS fn ON fn.oid = fc.relnamespace
WHERE k.contype = 'f'
ORDER BY k.oid

-- name: others
-- a row is: another database of the server, which came along with the files
SELECT d.datname::text AS name
FROM pg_catalog.pg_database AS d
WHERE d.datname <> ALL (%(kept)s)
ORDER BY d.datname

-- name: undo_data
-- a row is: a table of schema pgrunbook that holds rows, or keys, of the application as they were
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'pgrunbook'
  AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition
  AND c.relname NOT IN ('step', 'restore_point', 'way_back', 'shadow', 'published', 'history_copy', 'control', 'kept')
ORDER BY c.relname

-- name: ours
-- a row is: a column of a table whose name is one of ours: what a change of type has left, or has begun
SELECT a.attname::text AS name
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s
  AND c.relname = %(table)s
  AND a.attnum > 0
  AND NOT a.attisdropped
  AND pg_catalog.starts_with(a.attname::text, 'pgrunbook_')
ORDER BY a.attnum

-- name: views
-- a row is: a materialized view that holds rows
SELECT n.nspname::text AS schema_name,
       c.relname::text AS relation
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'm'
  AND c.relispopulated
ORDER BY c.oid

-- name: files
-- a row is: the file of a table or an index of this database, below the data directory
SELECT pg_catalog.pg_relation_filepath(c.oid) AS path
FROM pg_catalog.pg_class AS c
WHERE NOT c.relisshared
  AND pg_catalog.pg_relation_filepath(c.oid) IS NOT NULL
