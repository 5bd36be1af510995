-- name: foreign_keys
-- a row is: a foreign key that is enforced, with the columns of both sides, the operators that compare them, and how VALIDATE names it
SELECT k.conname::text AS name,
       k.conrelid::regclass::text AS table_name,
       k.confrelid::regclass::text AS parent,
       c.relkind = 'p' AS partitioned,
       p.relkind = 'p' AS parent_partitioned,
       k.confmatchtype = 'f' AS match_full,
       coalesce((pg_catalog.to_jsonb(k) ->> 'conperiod')::boolean, false) AS has_period,
       k.convalidated AS is_valid,
       k.condeferrable AS is_deferrable,
       ARRAY[k.oid, k.conrelid, k.confrelid]::bigint[] AS objects,
       x.columns,
       x.parent_columns,
       x.names,
       x.pairs,
       pg_catalog.format('ALTER TABLE %s VALIDATE CONSTRAINT %I', k.conrelid::regclass, k.conname) AS repair
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_class AS p ON p.oid = k.confrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT pg_catalog.array_agg(pg_catalog.format('c.%I', a.attname) ORDER BY u.place) AS columns,
           pg_catalog.array_agg(pg_catalog.format('p.%I', b.attname) ORDER BY u.place) AS parent_columns,
           pg_catalog.array_agg(a.attname::text ORDER BY u.place) AS names,
           pg_catalog.array_agg(
               pg_catalog.format('p.%I OPERATOR(%I.%s) c.%I%s', b.attname, s.nspname, o.oprname, a.attname,
                                 CASE WHEN a.attcollation <> b.attcollation AND b.attcollation <> 0
                                      THEN ' COLLATE ' || b.attcollation::regcollation::text END)
               ORDER BY u.place) AS pairs
    FROM ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey), pg_catalog.unnest(k.conpfeqop))
        WITH ORDINALITY AS u (child, parent, operator, place)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.child
    JOIN pg_catalog.pg_attribute AS b ON b.attrelid = k.confrelid AND b.attnum = u.parent
    JOIN pg_catalog.pg_operator AS o ON o.oid = u.operator
    JOIN pg_catalog.pg_namespace AS s ON s.oid = o.oprnamespace
) AS x
WHERE k.contype = 'f'
  AND k.conparentid = 0
  AND coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true)
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
ORDER BY table_name, name

-- name: unique_indexes
-- a row is: a unique index, valid or not, with the expressions of its key; of a partitioned table the one that stands for those of its partitions
SELECT i.indexrelid::regclass::text AS name,
       i.indrelid::regclass::text AS table_name,
       c.relkind = 'p' AS partitioned,
       i.indisvalid AND i.indisready AS is_valid,
       coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_equal,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
       ARRAY[i.indexrelid, i.indrelid]::bigint[] AS objects,
       x.keys,
       pg_catalog.format('REINDEX INDEX CONCURRENTLY %s', i.indexrelid::regclass) AS repair
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
JOIN pg_catalog.pg_class AS m ON m.oid = i.indexrelid
JOIN pg_catalog.pg_am AS a ON a.oid = m.relam
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT pg_catalog.array_agg(
               pg_catalog.pg_get_indexdef(i.indexrelid, u.place::integer, true)
               || CASE WHEN u.sorts <> 0 THEN ' COLLATE ' || u.sorts::regcollation::text ELSE '' END
               ORDER BY u.place) AS keys
    FROM pg_catalog.unnest(i.indcollation) WITH ORDINALITY AS u (sorts, place)
    WHERE u.place <= i.indnkeyatts
) AS x
WHERE i.indisunique
  AND a.amname = 'btree'
  AND c.relkind IN ('r', 'p', 'm')
  AND c.relispopulated
  AND NOT m.relispartition
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
ORDER BY table_name, name

-- name: unvalidated_checks
-- a row is: a CHECK or NOT NULL of a table that is NOT VALID, and the condition of the rows that break it
SELECT k.conname::text AS name,
       k.conrelid::regclass::text AS table_name,
       c.relkind = 'p' AS partitioned,
       false AS is_valid,
       ARRAY[k.oid, k.conrelid]::bigint[] AS objects,
       CASE k.contype
           WHEN 'c' THEN pg_catalog.format('(%s) IS FALSE', pg_catalog.pg_get_expr(k.conbin, k.conrelid))
           ELSE pg_catalog.format('%I IS NULL', (SELECT a.attname FROM pg_catalog.pg_attribute AS a
                                                 WHERE a.attrelid = k.conrelid AND a.attnum = k.conkey[1]))
       END AS condition,
       pg_catalog.format('ALTER TABLE %s VALIDATE CONSTRAINT %I', k.conrelid::regclass, k.conname) AS repair
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE k.contype IN ('c', 'n')
  AND NOT k.convalidated
  AND coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true)
  AND c.relkind IN ('r', 'p')
  AND NOT (c.relispartition AND k.coninhcount > 0)
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgrunbook')
ORDER BY table_name, name
