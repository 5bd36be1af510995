-- name: tables
-- a row is: a table, partition or materialized view with rows of its own, by the name that SQL has for it
SELECT n.nspname::text AS schema,
       c.relname::text AS name
FROM pg_catalog.unnest(%(labels)s::text[]) WITH ORDINALITY AS l (label, place)
JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass(l.label)
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm')
ORDER BY l.place

-- name: take_numbers
-- a row is: the next number of a sequence that is not at its end
SELECT pg_catalog.nextval(c.oid)
FROM pg_catalog.pg_sequence AS s
JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname <> 'pgrunbook'
  AND coalesce(pg_catalog.pg_sequence_last_value(c.oid), s.seqstart)
      BETWEEN s.seqmin - least(s.seqincrement, 0) AND s.seqmax - greatest(s.seqincrement, 0)

-- name: sequences
-- a row is: a sequence that we may read, its last value, and whether it ascends or descends
SELECT pg_catalog.format('%I.%I', s.schemaname, s.sequencename) AS name,
       s.last_value,
       s.increment_by
FROM pg_catalog.pg_sequences AS s
WHERE s.schemaname <> 'pgrunbook'
  AND (s.last_value IS NOT NULL
       OR pg_catalog.has_sequence_privilege(pg_catalog.format('%I.%I', s.schemaname, s.sequencename), 'SELECT'))
