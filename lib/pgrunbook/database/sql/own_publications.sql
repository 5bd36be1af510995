-- name: sending
-- a row is: a publication that sends each table of a schema, also one that is made later, and by what it has it
SELECT pg_catalog.quote_ident(p.pubname) AS sql,
       CASE WHEN p.puballtables THEN 'FOR ALL TABLES'
            ELSE 'FOR TABLES IN SCHEMA ' || pg_catalog.quote_ident(%(schema)s::text) END AS kind
FROM pg_catalog.pg_publication AS p
WHERE (p.pubinsert OR p.pubupdate OR p.pubdelete OR p.pubtruncate)
  AND (p.puballtables
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_publication_namespace AS m
                  JOIN pg_catalog.pg_namespace AS n ON n.oid = m.pnnspid
                  WHERE m.pnpubid = p.oid
                    AND n.nspname = %(schema)s::text))
ORDER BY p.pubname

-- name: sending_14
-- a row is: as sending; PostgreSQL 14 has no publications of schemas
SELECT pg_catalog.quote_ident(p.pubname) AS sql,
       'FOR ALL TABLES' AS kind
FROM pg_catalog.pg_publication AS p
WHERE (p.pubinsert OR p.pubupdate OR p.pubdelete OR p.pubtruncate)
  AND p.puballtables
ORDER BY p.pubname

-- name: readers
-- a row is: a slot by which somebody follows publications of this database
SELECT s.slot_name::pg_catalog.text AS name
FROM pg_catalog.pg_replication_slots AS s
WHERE s.database = pg_catalog.current_database()
  AND s.plugin = 'pgoutput'
ORDER BY s.slot_name

-- name: schemas
-- a row is: a schema with a table that can be published, and is not ours
SELECT pg_catalog.quote_ident(n.nspname) AS sql
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgrunbook')
  AND EXISTS (SELECT
              FROM pg_catalog.pg_class AS c
              WHERE c.relnamespace = n.oid
                AND c.relkind IN ('r', 'p')
                AND c.relpersistence = 'p')
ORDER BY n.nspname
