-- name: exists
-- a row is: whether this database has the registry of shadows
SELECT pg_catalog.to_regclass('pgrunbook.shadow') IS NOT NULL

-- name: read
-- a row is: a column that lives beside another until contract, and is there
SELECT s.table_schema,
       s.table_name,
       s.column_name,
       s.shadow_name,
       s.kind,
       s.migration,
       s.sync_name,
       s.made_at
FROM pgrunbook.shadow AS s
JOIN pg_catalog.pg_namespace AS n ON n.nspname = s.table_schema
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = s.table_name AND c.relkind IN ('r', 'p')
WHERE 2 = (SELECT count(*)
           FROM pg_catalog.pg_attribute AS a
           WHERE a.attrelid = c.oid
             AND a.attname IN (s.column_name, s.shadow_name)
             AND a.attnum > 0
             AND NOT a.attisdropped)
ORDER BY s.made_at, s.table_schema, s.table_name, s.shadow_name

-- name: has_both
-- a row is: whether a table has two columns
SELECT count(*) = 2
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = pg_catalog.to_regclass(%(table)s)::pg_catalog.oid
  AND a.attname = ANY (%(columns)s::text[])
  AND a.attnum > 0
  AND NOT a.attisdropped

-- name: sequences
-- a row is: a sequence that a column owns
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_depend AS d
  ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
 AND d.refobjid = a.attrelid
 AND d.refobjsubid = a.attnum
 AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE a.attrelid = pg_catalog.to_regclass(%(table)s)::pg_catalog.oid
  AND a.attname = %(column)s
ORDER BY 1

-- name: old_types
-- a row is: the enum of a column, or of the elements of its array, where it was moved aside
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname) AS name,
       ARRAY(SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee))
             FROM pg_catalog.aclexplode(t.typacl) AS x
             WHERE x.grantee <> 0) AS grantees
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_type AS c ON c.oid = a.atttypid
JOIN pg_catalog.pg_type AS t ON t.oid IN (c.oid, c.typelem) AND t.typtype = 'e'
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
WHERE a.attrelid = pg_catalog.to_regclass(%(table)s)::pg_catalog.oid
  AND a.attname = %(column)s
  AND pg_catalog.starts_with(t.typname, %(prefix)s)

-- name: tables
-- a row is: a table, or one of its partitions
SELECT n.nspname::text AS schema,
       c.relname::text AS name
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid IN (SELECT pg_catalog.to_regclass(%(table)s)::pg_catalog.oid
                UNION ALL
                SELECT p.relid
                FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(%(table)s)) AS p)

-- name: objects
-- a row is: an object that is there only because of a column, by the name that a snapshot of the schema gives it
WITH RECURSIVE tables AS (
    SELECT pg_catalog.to_regclass(%(table)s)::pg_catalog.oid AS oid
    UNION ALL
    SELECT h.inhrelid
    FROM tables AS t
    JOIN pg_catalog.pg_inherits AS h ON h.inhparent = t.oid
), columns AS (
    SELECT a.attrelid,
           a.attnum,
           a.attname,
           a.attacl,
           pg_catalog.format('%%I.%%I', n.nspname, r.relname) AS relation
    FROM tables AS t
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attname = %(column)s AND NOT a.attisdropped
    JOIN pg_catalog.pg_class AS r ON r.oid = t.oid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace
), on_columns AS (
    SELECT c.relation,
           d.classid,
           d.objid
    FROM columns AS c
    JOIN pg_catalog.pg_depend AS d
      ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.refobjid = c.attrelid
     AND d.refobjsubid = c.attnum
)
SELECT c.relation || '.' || pg_catalog.quote_ident(c.attname) AS name
FROM columns AS c
UNION
SELECT 'column ' || c.relation || '.' || pg_catalog.quote_ident(c.attname) || ' to '
       || CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END
FROM columns AS c
CROSS JOIN LATERAL pg_catalog.aclexplode(c.attacl) AS x
UNION
SELECT o.relation || '.' || pg_catalog.quote_ident(i.relname)
FROM on_columns AS o
JOIN pg_catalog.pg_class AS i ON i.oid = o.objid AND i.relkind IN ('i', 'I')
WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
UNION
SELECT o.relation || '.' || pg_catalog.quote_ident(k.conname)
FROM on_columns AS o
JOIN pg_catalog.pg_constraint AS k ON k.oid = o.objid
WHERE o.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
ORDER BY 1
