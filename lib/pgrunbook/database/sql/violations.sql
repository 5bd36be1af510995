-- name: constraint_of_domain
-- a row is: a constraint of a domain by its name, as a statement would define it
SELECT pg_catalog.pg_get_constraintdef(k.oid) AS definition,
       k.convalidated AS is_valid
FROM pg_catalog.pg_constraint AS k
WHERE k.contypid = %(oid)s::oid
  AND k.conname = %(name)s

-- name: handed_down
-- a row is: a foreign key or a unique index of a partitioned table, which a partition gets when it is attached
SELECT k.conname::text AS name,
       pg_catalog.pg_get_constraintdef(k.oid) AS constraint,
       NULL AS index
FROM pg_catalog.pg_constraint AS k
WHERE k.conrelid = %(oid)s::oid
  AND k.contype = 'f'
UNION ALL
SELECT c.relname::text,
       NULL,
       pg_catalog.pg_get_indexdef(i.indexrelid)
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = %(oid)s::oid
  AND i.indisunique
ORDER BY 1

-- name: columns_of_domain
-- a row is: a column, of a relation that holds rows, whose type is a domain or a domain over it
WITH RECURSIVE domains (oid) AS (
    SELECT %(oid)s::oid
    UNION
    SELECT t.oid
    FROM domains AS d
    JOIN pg_catalog.pg_type AS t ON t.typbasetype = d.oid AND t.typtype = 'd'
)
SELECT c.oid::bigint AS oid,
       a.attname::text AS column
FROM domains AS d
JOIN pg_catalog.pg_attribute AS a ON a.atttypid = d.oid
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm')
  AND a.attnum > 0
  AND NOT a.attisdropped
ORDER BY n.nspname, c.relname, a.attnum

-- name: is_castable
-- a row is: a conversion from a type to another that does not go through text
SELECT 1 AS way
FROM pg_catalog.pg_cast AS k
WHERE k.castsource = %(source)s::oid
  AND k.casttarget = %(target)s::oid

-- name: count_violations
-- a row is: how many rows of a table violate a condition; the names and the condition are put in
SELECT pg_catalog.count(*) AS rows
FROM {source}
WHERE {where}

-- name: sample_violations
-- a row is: one of the rows that violate a condition, its key and the offending values
SELECT {shown}
FROM {source}
WHERE {where}
LIMIT {limit}

-- name: plan_of_violations
-- a row is: a line of the query plan for the rows that violate a condition
EXPLAIN SELECT
FROM {source}
WHERE {where}

-- name: is_covered
-- a row is: whether the periods of the rows that are referred to cover the one that refers to them
SELECT {mine} <@ pg_catalog.range_agg({theirs})
FROM {source}
WHERE {where}
