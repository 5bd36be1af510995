-- name: oids
-- a row is: the OID of the relation or statistics object that has a name now, 0 where there is none, in their order
SELECT coalesce(pg_catalog.to_regclass(l.name)::pg_catalog.oid, s.oid, 0::pg_catalog.oid)::bigint AS oid
FROM pg_catalog.unnest(%(names)s::text[]) WITH ORDINALITY AS l (name, place)
LEFT JOIN (SELECT e.oid,
                  pg_catalog.format('%%I.%%I', n.nspname, e.stxname) AS name
           FROM pg_catalog.pg_statistic_ext AS e
           JOIN pg_catalog.pg_namespace AS n ON n.oid = e.stxnamespace) AS s ON s.name = l.name
ORDER BY l.place;

-- name: names
-- a row is: a relation or statistics object, and the name that it has now
SELECT c.oid::bigint AS oid,
       pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%(oids)s::bigint[]::pg_catalog.oid[])
UNION ALL
SELECT e.oid::bigint,
       pg_catalog.format('%%I.%%I', n.nspname, e.stxname)
FROM pg_catalog.pg_statistic_ext AS e
JOIN pg_catalog.pg_namespace AS n ON n.oid = e.stxnamespace
WHERE e.oid = ANY (%(oids)s::bigint[]::pg_catalog.oid[]);
