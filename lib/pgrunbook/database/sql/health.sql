-- name: invalid_indexes
-- a row is: an index that is not valid or not ready, mostly left by a failed CREATE INDEX CONCURRENTLY
SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS table_name
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT (i.indisvalid AND i.indisready)
  AND c.relkind = 'i'
  AND n.nspname !~ '^pg_'
ORDER BY 1

-- name: unvalidated_constraints
-- a row is: a constraint that is NOT VALID: new rows obey it, old rows were never checked; not what stands for a part of it (before 18 VALIDATE leaves those of a foreign key to a partitioned table), nor what is NOT ENFORCED
SELECT
    c.conname::text AS name,
    coalesce(nullif(c.conrelid, 0)::regclass::text, c.contypid::regtype::text) AS table_name,
    pg_catalog.format(
        'ALTER %s %s VALIDATE CONSTRAINT %I;',
        CASE WHEN c.conrelid = 0 THEN 'DOMAIN' ELSE 'TABLE' END,
        coalesce(nullif(c.conrelid, 0)::regclass::text, c.contypid::regtype::text),
        c.conname
    ) AS advice
FROM pg_catalog.pg_constraint c
JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
WHERE NOT c.convalidated
  AND c.conparentid = 0
  AND coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 2, 1

-- name: owned_sequences
-- a row is: a sequence that feeds a column, as its own or by the column's default, and that column
SELECT
    s.seqrelid::regclass::text AS name,
    a.attrelid::bigint AS oid,
    a.attrelid::regclass::text AS table_name,
    n.nspname::text AS schema_name,
    c.relname::text AS relation,
    a.attname::text AS column_name,
    s.seqrelid::bigint AS sequence,
    s.seqincrement AS increment
FROM pg_catalog.pg_sequence s
JOIN (
    SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS place
    FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass
      AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
    UNION
    SELECT d.refobjid, f.adrelid, f.adnum
    FROM pg_catalog.pg_attrdef f
    JOIN pg_catalog.pg_depend d
        ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
        AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'n'
) fed ON fed.sequence = s.seqrelid
JOIN pg_catalog.pg_attribute a ON a.attrelid = fed.relation AND a.attnum = fed.place
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_'
  AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition
  AND (a.atttypid IN (20, 21, 23, 1700) OR a.atttypid IN (
      SELECT t.oid FROM pg_catalog.pg_type t WHERE t.typbasetype IN (20, 21, 23, 1700)))
ORDER BY 1, 2, 5

-- name: tables
-- a row is: a table that holds rows of the application, with the planner's estimate of their number
SELECT
    n.nspname::text AS schema_name,
    c.relname::text AS relation,
    c.oid::bigint AS oid,
    c.oid::regclass::text AS name,
    greatest(c.reltuples, 0)::bigint AS rows_estimate
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
ORDER BY 1, 2
