-- name: source
-- a row is: the properties that a copy of this session's database has to have
SELECT
    pg_catalog.current_database() AS database,
    pg_catalog.pg_database_size(pg_catalog.current_database()) AS database_bytes,
    (
        SELECT sum(CASE WHEN pg_catalog.has_database_privilege(d.oid, 'CONNECT')
                        THEN pg_catalog.pg_database_size(d.oid) END)::bigint
        FROM pg_catalog.pg_database d
    ) AS server_bytes,
    pg_catalog.getdatabaseencoding()::text AS encoding,
    (
        SELECT coalesce(pg_catalog.array_agg(ARRAY[t.oid::text, x.location] ORDER BY t.oid), '{}')
        FROM pg_catalog.pg_tablespace t
        CROSS JOIN LATERAL pg_catalog.pg_tablespace_location(t.oid) AS x (location)
        WHERE x.location LIKE '/%'
    ) AS tablespaces

-- name: prepared
-- a row is: a prepared transaction of this database, which was copied with its locks
SELECT p.gid
FROM pg_catalog.pg_prepared_xacts p
WHERE p.database = pg_catalog.current_database()
ORDER BY p.prepared

-- name: views_from_outside
-- a row is: a materialized view that is filled from foreign tables, or by functions that reach another server
WITH RECURSIVE reached (view, oid) AS (
    SELECT c.oid, c.oid
    FROM pg_catalog.pg_class c
    WHERE c.relkind = 'm'
    UNION
    SELECT r.view, x.oid
    FROM reached r
    CROSS JOIN LATERAL (
        SELECT i.inhrelid AS oid
        FROM pg_catalog.pg_inherits i
        WHERE i.inhparent = r.oid
        UNION ALL
        SELECT d.refobjid
        FROM pg_catalog.pg_rewrite w
        JOIN pg_catalog.pg_depend d
          ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
         AND d.objid = w.oid
         AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        WHERE w.ev_class = r.oid
    ) x
)
SELECT DISTINCT
    n.nspname::pg_catalog.text AS schema_name,
    v.relname::pg_catalog.text AS relation
FROM reached r
JOIN pg_catalog.pg_class c ON c.oid = r.oid
JOIN pg_catalog.pg_class v ON v.oid = r.view
JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
WHERE c.relkind = 'f'
   OR EXISTS (
        SELECT
        FROM pg_catalog.pg_rewrite w
        JOIN pg_catalog.pg_depend d
          ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
         AND d.objid = w.oid
         AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
        JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid
        WHERE w.ev_class = c.oid
          AND (p.proname LIKE 'dblink%' OR p.prosrc LIKE '%dblink%')
    )
ORDER BY 1, 2

-- name: analyzable
-- a row is: a table of which statistics can be taken without asking a foreign table, as SQL names it
WITH RECURSIVE above (oid) AS (
    SELECT c.oid
    FROM pg_catalog.pg_class c
    WHERE c.relkind = 'f'
    UNION
    SELECT i.inhparent
    FROM above a
    JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.oid
)
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'p')
  AND c.relpersistence <> 't'
  AND NOT EXISTS (SELECT FROM above a WHERE a.oid = c.oid)
ORDER BY c.oid

-- name: unlogged
-- a row is: an unlogged table or sequence, by the name that pg_dump's patterns give it
SELECT pg_catalog.format('"%s"."%s"', pg_catalog.replace(n.nspname, '"', '""'), pg_catalog.replace(c.relname, '"', '""'))
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence = 'u'
  AND c.relkind IN ('r', 'S')
ORDER BY c.oid

-- name: foreign_keys
-- a row is: a foreign key, the statement that makes it without a look at the rows, and the one that comments on it
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS table_name,
       k.conname::text AS name,
       pg_catalog.format('ALTER TABLE %s %I.%I ADD CONSTRAINT %I %s', CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY' END,
                         n.nspname, c.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid))
           || CASE WHEN k.convalidated THEN ' NOT VALID' ELSE '' END AS made,
       pg_catalog.format('COMMENT ON CONSTRAINT %I ON %I.%I IS %L', k.conname, n.nspname, c.relname,
                         pg_catalog.obj_description(k.oid, 'pg_constraint')) AS commented
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE k.contype = 'f'
  AND k.conparentid = 0

-- name: call_valid
-- a row is: nothing; marks a foreign key and those of its partitions as validated, as the source has them
WITH RECURSIVE family AS (
    SELECT k.oid
    FROM pg_catalog.pg_constraint AS k
    WHERE k.conrelid = %(table)s::pg_catalog.regclass
      AND k.conname = %(name)s
    UNION
    SELECT k.oid
    FROM family AS f
    JOIN pg_catalog.pg_constraint AS k ON k.conparentid = f.oid
)
UPDATE pg_catalog.pg_constraint AS k
SET convalidated = true
FROM family AS f
WHERE f.oid = k.oid
