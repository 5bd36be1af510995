-- name: tables
-- a row is: a table that holds rows of its own, or a partitioned table for all its partitions
SELECT n.nspname::text AS schema,
       c.relname::text AS name
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
  AND NOT c.relispartition
  AND n.nspname !~ '^pg_'
  AND n.nspname <> 'information_schema'
  AND n.nspname <> ALL (%(leave_out)s::text[])
  AND n.nspname || '.' || c.relname <> ALL (%(leave_out)s::text[])
  AND pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) <> ALL (%(leave_out)s::text[])
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS e
                  WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND e.objid = c.oid
                    AND e.deptype = 'e')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C";

-- name: columns
-- a row is: a column of one of the named tables, by code point of its name, with its base type below domains and its place in the primary key
SELECT n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind = 'p' AS partitioned,
       c.relispopulated AS populated,
       a.attname::text AS column_name,
       CASE WHEN t.typtype = 'd' THEN (
           WITH RECURSIVE base AS (
               SELECT t.typbasetype AS type
               UNION ALL
               SELECT d.typbasetype
               FROM base AS b
               JOIN pg_catalog.pg_type AS d ON d.oid = b.type
               WHERE d.typtype = 'd'
           )
           SELECT b.type
           FROM base AS b
           JOIN pg_catalog.pg_type AS d ON d.oid = b.type
           WHERE d.typtype <> 'd'
       ) ELSE t.oid END::pg_catalog.regtype::text AS type,
       pg_catalog.array_position(i.indkey::smallint[], a.attnum) AS key_place
FROM pg_catalog.json_to_recordset(%(tables)s::json) AS w (schema text, name text)
JOIN pg_catalog.pg_namespace AS n ON n.nspname = w.schema
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.name
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
WHERE c.relkind IN ('r', 'p', 'm')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", a.attname COLLATE "C";
