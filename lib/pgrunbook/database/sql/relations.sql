-- name: relation
-- a row is: the relation of an OID, or the first of a name on a path
SELECT c.oid::bigint AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       c.relpersistence::text AS persistence,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       c.relrowsecurity AS row_security,
       c.relforcerowsecurity AS forces_row_security,
       c.relispartition AS is_partition,
       c.relispopulated AS is_populated,
       c.relhassubclass AS has_children,
       c.relhasrules AS has_rules,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_own
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s::oid
   OR c.relname = %(name)s
      AND n.nspname = ANY (%(path)s::text[])
ORDER BY pg_catalog.array_position(%(path)s::text[], n.nspname::text)
LIMIT 1

-- name: columns
-- a row is: a column of these relations, with its type below domains, and every property that ALTER TABLE can set
WITH RECURSIVE base AS (
    SELECT a.attrelid,
           a.attnum,
           a.atttypid AS type,
           a.atttypmod AS modifier,
           false AS checked
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = ANY (%(oids)s::oid[])
      AND a.attnum > 0
      AND NOT a.attisdropped
    UNION ALL
    SELECT b.attrelid,
           b.attnum,
           t.typbasetype,
           t.typtypmod,
           b.checked OR t.typnotnull OR EXISTS (SELECT
                                                FROM pg_catalog.pg_constraint AS k
                                                WHERE k.contypid = t.oid)
    FROM base AS b
    JOIN pg_catalog.pg_type AS t ON t.oid = b.type
    WHERE t.typtype = 'd'
)
SELECT a.attrelid::bigint AS relation,
       (SELECT c.relnamespace::pg_catalog.regnamespace::text || '.' || pg_catalog.quote_ident(c.relname)
        FROM pg_catalog.pg_class AS c
        WHERE c.oid = a.attrelid) AS table,
       (SELECT c.relkind::text FROM pg_catalog.pg_class AS c WHERE c.oid = a.attrelid) AS kind,
       a.attnum::integer AS number,
       a.attnum = max(a.attnum) OVER (PARTITION BY a.attrelid) AS is_last,
       a.attname::text AS name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       a.atttypid::bigint AS type_oid,
       (SELECT n.nspname FROM pg_catalog.pg_namespace AS n WHERE n.oid = w.typnamespace) || '.' || w.typname AS type_name,
       t.typname::text AS base,
       (SELECT n.nspname FROM pg_catalog.pg_namespace AS n WHERE n.oid = t.typnamespace) || '.' || t.typname AS base_name,
       t.typtype::text AS base_kind,
       t.typcategory::text AS base_category,
       t.typlen::integer AS base_bytes,
       t.typtype = 'e' OR EXISTS (SELECT
                                  FROM pg_catalog.pg_type AS part
                                  WHERE part.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace
                                    AND part.oid = ANY (t.typelem || ARRAY(SELECT f.atttypid
                                                                           FROM pg_catalog.pg_attribute AS f
                                                                           WHERE f.attrelid = nullif(t.typrelid, 0)
                                                                             AND f.attnum > 0
                                                                             AND NOT f.attisdropped))) AS has_own_form,
       CASE WHEN t.typsend <> 0
            THEN (SELECT p.pronamespace::pg_catalog.regnamespace::text || '.' || pg_catalog.quote_ident(p.proname)
                  FROM pg_catalog.pg_proc AS p
                  WHERE p.oid = t.typsend) END AS send,
       b.modifier,
       b.checked,
       (SELECT l.collname::text
        FROM pg_catalog.pg_collation AS l
        WHERE l.oid = a.attcollation
          AND l.collname <> 'default') AS collation,
       CASE WHEN a.attcollation <> w.typcollation THEN a.attcollation::pg_catalog.regcollation::text END AS own_collation,
       a.attnotnull AS not_null,
       k.conname::text AS not_null_name,
       coalesce(k.convalidated, a.attnotnull) AS not_null_valid,
       NOT coalesce(k.convalidated, a.attnotnull)
       AND EXISTS (SELECT
                   FROM pg_catalog.pg_constraint AS p
                   WHERE p.conrelid = a.attrelid
                     AND p.contype = 'c'
                     AND p.convalidated
                     AND pg_catalog.pg_get_constraintdef(p.oid)
                         = 'CHECK ((' || pg_catalog.quote_ident(a.attname) || ' IS NOT NULL))') AS proven_not_null,
       -- The text of an expression with columns in it locks the table.
       (SELECT CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, 0)
                    WHEN %(locks)s THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END
        FROM pg_catalog.pg_attrdef AS d
        WHERE d.adrelid = a.attrelid
          AND d.adnum = a.attnum) AS expression,
       a.attgenerated::text AS generated,
       CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END AS identity,
       CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END AS storage,
       a.attstorage = w.typstorage AS storage_is_default,
       CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' ELSE 'default' END AS compression,
       coalesce(nullif(a.attstattarget, -1), -1)::integer AS statistics,
       coalesce(a.attoptions, '{}') AS options,
       coalesce(a.attfdwoptions, '{}') AS foreign_options,
       a.attinhcount > 0 AS is_inherited,
       a.attinhcount AS parents,
       a.attislocal AS is_local,
       (SELECT q.objid::bigint
        FROM pg_catalog.pg_depend AS q
        WHERE q.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND q.refobjid = a.attrelid
          AND q.refobjsubid = a.attnum
          AND q.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND q.deptype = 'i'
          AND a.attidentity <> '') AS sequence
FROM base AS b
JOIN pg_catalog.pg_type AS t ON t.oid = b.type AND t.typtype <> 'd'
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = b.attrelid AND a.attnum = b.attnum
JOIN pg_catalog.pg_type AS w ON w.oid = a.atttypid
LEFT JOIN LATERAL (
    SELECT n.conname,
           n.convalidated
    FROM pg_catalog.pg_constraint AS n
    WHERE n.conrelid = a.attrelid
      AND n.contype = 'n'
      AND n.conkey = ARRAY[a.attnum]
    LIMIT 1
) AS k ON true
ORDER BY a.attrelid, a.attnum

-- name: indexes
-- a row is: an index of these relations, or one of these indexes; "" stands for a key that is an expression
SELECT i.indrelid::bigint AS relation,
       i.indexrelid::bigint AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       ARRAY(SELECT coalesce(a.attname::text, '')
             FROM pg_catalog.unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
             LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.place <= i.indnkeyatts
             ORDER BY k.place) AS keys,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = i.indrelid
               AND (a.attnum = ANY (i.indkey::smallint[])
                    OR EXISTS (SELECT
                               FROM pg_catalog.pg_depend AS d
                               WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                 AND d.objid = i.indexrelid
                                 AND d.refobjid = i.indrelid
                                 AND d.refobjsubid = a.attnum))
               AND a.attnum > 0) AS uses,
       i.indisunique AS "unique",
       i.indisprimary AS "primary",
       i.indisvalid AS valid,
       i.indexprs IS NULL AND i.indpred IS NULL AS plain,
       i.indpred IS NOT NULL AS partial,
       i.indisexclusion AS is_exclusion,
       c.relkind = 'I' AS is_partitioned,
       c.relispartition AS is_partition,
       k.conname::text AS constraint_name,
       m.amname::text AS method,
       CASE WHEN %(locks)s THEN pg_catalog.pg_get_indexdef(i.indexrelid) ELSE '' END AS definition,
       CASE WHEN c.relkind = 'i' AND %(locks)s THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END AS bytes,
       pg_catalog.pg_stat_get_numscans(i.indexrelid) AS scans
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_constraint AS k
  ON k.conrelid = i.indrelid
 AND k.conindid = i.indexrelid
 AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = ANY (%(oids)s::oid[])
   OR i.indexrelid = ANY (%(indexes)s::oid[])
ORDER BY i.indrelid, c.relname COLLATE "C"

-- name: constraints
-- a row is: a constraint of one of these tables or domains, with the relation that a foreign key refers to
SELECT k.oid::bigint AS oid,
       k.conrelid::bigint AS relation,
       k.conname::text AS name,
       k.contype::text AS kind,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
             ORDER BY u.place) AS columns,
       coalesce(k.conkey, '{}')::integer[] AS numbers,
       k.convalidated AS valid,
       -- The text of a CHECK locks the table.
       CASE WHEN %(locks)s THEN pg_catalog.pg_get_constraintdef(k.oid) ELSE '' END AS definition,
       pn.nspname::text AS partner_schema,
       p.relname::text AS partner_name,
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS u (attnum, place)
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.attnum
             ORDER BY u.place) AS partner_columns,
       k.confdeltype::text AS on_delete,
       CASE WHEN k.contype <> 'f' THEN ix.relname END::text AS index,
       CASE WHEN k.contype = 'f' THEN ix.relname END::text AS partner_index,
       k.condeferrable AS deferrable,
       k.condeferred AS deferred,
       coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true) AS enforced,
       k.conislocal AS is_local,
       k.coninhcount > 0 OR k.conparentid <> 0 AS is_inherited,
       k.connoinherit AS no_inherit
FROM pg_catalog.pg_constraint AS k
LEFT JOIN pg_catalog.pg_class AS p ON p.oid = k.confrelid
LEFT JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
LEFT JOIN pg_catalog.pg_class AS ix ON ix.oid = k.conindid AND k.contype IN ('p', 'u', 'x', 'f')
WHERE k.conrelid = ANY (%(oids)s::oid[])
   OR k.contypid = ANY (%(types)s::oid[])
ORDER BY k.conrelid, k.conname COLLATE "C"

-- name: enum
-- a row is: the enum of a name, with its values in their order, and the roles with rights to it
SELECT ARRAY(SELECT e.enumlabel::text
             FROM pg_catalog.pg_enum AS e
             WHERE e.enumtypid = t.oid
             ORDER BY e.enumsortorder) AS labels,
       ARRAY(SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee))
             FROM pg_catalog.aclexplode(t.typacl) AS x
             WHERE x.grantee <> 0) AS grantees
FROM pg_catalog.pg_type AS t
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
WHERE t.typtype = 'e'
  AND n.nspname = %(schema)s
  AND t.typname = %(name)s

-- name: types
-- a row is: a type of one of these names or OIDs, with its base type when it is a domain
WITH RECURSIVE base AS (
    SELECT t.oid AS root,
           t.oid AS type,
           -1 AS modifier,
           false AS checked
    FROM pg_catalog.pg_type AS t
    WHERE t.typname = ANY (%(names)s::text[])
       OR t.oid = ANY (%(oids)s::oid[])
    UNION ALL
    SELECT b.root,
           t.typbasetype,
           t.typtypmod,
           b.checked OR t.typnotnull OR EXISTS (SELECT
                                                FROM pg_catalog.pg_constraint AS k
                                                WHERE k.contypid = t.oid)
    FROM base AS b
    JOIN pg_catalog.pg_type AS t ON t.oid = b.type
    WHERE t.typtype = 'd'
)
SELECT rn.nspname::text AS schema,
       r.typname::text AS name,
       r.typtype::text AS kind,
       t.typname::text AS base,
       tn.nspname || '.' || t.typname AS base_name,
       r.oid::bigint AS oid,
       (SELECT l.collname::text
        FROM pg_catalog.pg_collation AS l
        WHERE l.oid = r.typcollation
          AND l.collname <> 'default') AS collation,
       b.modifier,
       b.checked,
       ARRAY(WITH RECURSIVE above AS (
                 SELECT r.oid
                 UNION
                 SELECT d.oid
                 FROM above
                 JOIN pg_catalog.pg_type AS d ON d.typbasetype = above.oid
             )
             SELECT above.oid::bigint
             FROM above
             WHERE r.typtype = 'd') AS domains
FROM base AS b
JOIN pg_catalog.pg_type AS t ON t.oid = b.type AND t.typtype <> 'd'
JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.typnamespace
JOIN pg_catalog.pg_type AS r ON r.oid = b.root
JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.typnamespace

-- name: keys
-- a row is: a unique index over columns that are NOT NULL, best first, those that are deferrable last; a loop goes through the rows by one that is ordered
WITH RECURSIVE base AS (
    SELECT a.attrelid,
           a.attnum,
           a.atttypid AS type,
           a.atttypmod AS typmod
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = ANY (%(oids)s::oid[])
      AND a.attnum > 0
    UNION ALL
    SELECT b.attrelid,
           b.attnum,
           t.typbasetype,
           t.typtypmod
    FROM base AS b
    JOIN pg_catalog.pg_type AS t ON t.oid = b.type
    WHERE t.typtype = 'd'
)
SELECT i.indrelid::bigint AS relation,
       pg_catalog.array_agg(a.attname::text ORDER BY u.place) AS columns,
       pg_catalog.array_agg(pg_catalog.format_type(b.type, b.typmod) ORDER BY u.place) AS types,
       pg_catalog.array_agg(CASE WHEN a.attcollation <> 0 THEN a.attcollation::pg_catalog.regcollation::text ELSE '' END
                            ORDER BY u.place) AS collations,
       pg_catalog.array_agg((SELECT 'OPERATOR(' || pg_catalog.quote_ident(n.nspname) || '.' || o.oprname || ')'
                             FROM pg_catalog.pg_amop AS e
                             JOIN pg_catalog.pg_operator AS o ON o.oid = e.amopopr
                             JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
                             WHERE e.amopfamily = k.opcfamily
                               AND e.amoplefttype = k.opcintype
                               AND e.amoprighttype = k.opcintype
                               AND e.amopstrategy = 3) ORDER BY u.place) AS operators,
       -- Else another order than that of the index counts, or code of the application decides what comes first.
       bool_and(k.opcdefault
                AND k.opcnamespace = 'pg_catalog'::pg_catalog.regnamespace
                AND u.sorts_by = a.attcollation
                AND (SELECT t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace OR t.typtype = 'e'
                     FROM pg_catalog.pg_type AS t
                     WHERE t.oid = b.type)) AS is_ordered,
       NOT i.indimmediate AS is_deferrable
FROM pg_catalog.pg_index AS i
CROSS JOIN LATERAL ROWS FROM (
    pg_catalog.unnest(i.indkey::int2[]),
    pg_catalog.unnest(i.indclass::oid[]),
    pg_catalog.unnest(i.indcollation::oid[])
) WITH ORDINALITY AS u (attnum, opclass, sorts_by, place)
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
LEFT JOIN base AS b
  ON b.attrelid = i.indrelid
 AND b.attnum = u.attnum
 AND (SELECT t.typtype FROM pg_catalog.pg_type AS t WHERE t.oid = b.type) <> 'd'
LEFT JOIN pg_catalog.pg_opclass AS k ON k.oid = u.opclass
WHERE i.indrelid = ANY (%(oids)s::oid[])
  AND (SELECT m.amname FROM pg_catalog.pg_am AS m WHERE m.oid = k.opcmethod) = 'btree'
  AND i.indisunique
  AND i.indisvalid
  AND i.indpred IS NULL
  AND i.indexprs IS NULL
  AND u.place <= i.indnkeyatts
GROUP BY i.indexrelid, i.indrelid, i.indisprimary, i.indimmediate
HAVING bool_and(a.attnotnull)
ORDER BY i.indrelid, i.indimmediate DESC, i.indisprimary DESC, count(*), i.indexrelid

-- name: tables
-- a row is: a table of the database
SELECT c.oid::bigint AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')

-- name: relation_oids
-- a row is: a relation that exists
SELECT c.oid::bigint AS oid
FROM pg_catalog.pg_class AS c
WHERE c.relkind <> 't'

-- name: partitions
-- a row is: a table below a partitioned table, parents before their children
SELECT t.relid::oid::bigint AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       t.parentrelid::oid::bigint AS parent,
       t.isleaf AS is_leaf
FROM pg_catalog.pg_partition_tree(%(oid)s::oid) AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE t.level > 0
ORDER BY t.level,
         n.nspname,
         c.relname

-- name: taken
-- a row is: a name that a new index or constraint beside a table cannot have; is_relation tells which of both
SELECT c.relname::text AS name,
       true AS is_relation
FROM pg_catalog.pg_class AS c
WHERE c.relnamespace = (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = %(schema)s)
  AND c.relname LIKE %(like)s
UNION ALL
SELECT k.conname::text,
       false
FROM pg_catalog.pg_constraint AS k
WHERE k.connamespace = (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = %(schema)s)
  AND k.conname LIKE %(like)s

-- name: unique_columns
-- a row is: a column that takes part in a unique or exclusion index, or in the partition key
SELECT DISTINCT a.attname::text AS name
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %(oid)s::oid
  AND a.attnum > 0
  AND (EXISTS (SELECT
               FROM pg_catalog.pg_index AS i
               WHERE i.indrelid = a.attrelid
                 AND (i.indisunique OR i.indisexclusion)
                 AND (a.attnum = ANY (i.indkey::int2[])
                      OR (i.indexprs IS NOT NULL
                          AND EXISTS (SELECT
                                      FROM pg_catalog.pg_depend AS d
                                      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                        AND d.objid = i.indexrelid
                                        AND d.refobjid = a.attrelid
                                        AND d.refobjsubid = a.attnum))))
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_partitioned_table AS p
                  WHERE p.partrelid = a.attrelid
                    AND (a.attnum = ANY (p.partattrs::int2[]) OR p.partexprs IS NOT NULL)))

-- name: triggers
-- a row is: a trigger that fires on UPDATE (16) or DELETE (8) of a table or its partitions
SELECT t.tgname::text AS name,
       t.tgtype & 1 = 1 AS for_each_row,
       t.tgtype & 16 <> 0 AS on_update,
       t.tgtype & 8 <> 0 AS on_delete
FROM pg_catalog.pg_trigger AS t
WHERE t.tgconstrindid = 0
  AND t.tgenabled <> 'D'
  AND t.tgtype & 24 <> 0
  AND (SELECT p.pronamespace FROM pg_catalog.pg_proc AS p WHERE p.oid = t.tgfoid)
      IS DISTINCT FROM pg_catalog.to_regnamespace('pgrunbook')::oid
  AND t.tgrelid IN (SELECT %(oid)s::oid
                    UNION ALL
                    SELECT p.relid FROM pg_catalog.pg_partition_tree(%(oid)s::oid) AS p)
ORDER BY t.tgname

-- name: row_triggers
-- a row is: a trigger on a table that a user has created
SELECT t.tgname::text AS name
FROM pg_catalog.pg_trigger AS t
WHERE t.tgrelid = %(oid)s::oid
  AND t.tgconstrindid = 0
  AND t.tgenabled <> 'D'
  AND (SELECT p.pronamespace FROM pg_catalog.pg_proc AS p WHERE p.oid = t.tgfoid)
      IS DISTINCT FROM pg_catalog.to_regnamespace('pgrunbook')::oid

-- name: entangled
-- a row is: a foreign key for which it matters that rows change together
SELECT k.conname::text AS name,
       k.conrelid = k.confrelid AS is_self,
       k.condeferrable AS is_deferrable
FROM pg_catalog.pg_constraint AS k
WHERE k.contype = 'f'
  AND %(oid)s::oid IN (k.conrelid, k.confrelid)
  AND (k.conrelid = k.confrelid OR k.condeferrable)

-- name: functions
-- a row is: a function by its name, in whatever schema; volatile counts for all of the name
SELECT p.proname::text AS name,
       pg_catalog.bool_or(p.provolatile = 'v') AS is_volatile,
       pg_catalog.bool_and(p.provolatile = 'i') AS is_immutable,
       pg_catalog.bool_and(p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace) AS is_builtin
FROM pg_catalog.pg_proc AS p
WHERE p.proname = ANY (%(names)s)
GROUP BY p.proname

-- name: rows_up_to
-- a row is: how the rows of a table are counted, up to a limit; the name is put in
SELECT count(*) AS rows
FROM (SELECT FROM {table} LIMIT {limit}) AS found

-- name: table_bytes
-- a row is: the size of a table, with those below it and without indexes; the name is put in
WITH RECURSIVE family AS (
    SELECT pg_catalog.to_regclass({table})::pg_catalog.oid AS oid
    UNION
    SELECT h.inhrelid
    FROM family AS f
    JOIN pg_catalog.pg_inherits AS h ON h.inhparent OPERATOR(pg_catalog.=) f.oid
)
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_table_size(f.oid)), 0)
FROM family AS f

-- name: partitioning
-- a row is: how a partitioned table is partitioned, and its default partition
SELECT pg_catalog.pg_get_partkeydef(p.partrelid) AS key,
       nullif(p.partdefid, 0)::bigint AS default_oid,
       n.nspname::text AS default_schema,
       c.relname::text AS default_name
FROM pg_catalog.pg_partitioned_table AS p
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = p.partdefid
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.partrelid = %(oid)s::oid

-- name: partition_constraint
-- a row is: the condition that a partition's bound puts on its rows
SELECT pg_catalog.pg_get_partition_constraintdef(%(oid)s::oid) AS condition

-- name: partition_ancestors
-- a row is: a partitioned table of which this one is a partition, or a partition's partition
SELECT c.oid::bigint AS oid,
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name
FROM pg_catalog.pg_partition_ancestors(%(oid)s::oid) AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.relid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace

-- name: functions_with_words
-- a row is: a function whose text has two words, or one of them where it is a trigger of the table
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '('
       || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')' AS name
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
WHERE l.lanname NOT IN ('internal', 'c')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgrunbook')
  AND p.prosqlbody IS NULL
  AND p.prosrc ~* %(word)s
  AND (p.prosrc ~* %(other)s
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_trigger AS t
                  WHERE t.tgrelid = %(table)s::oid
                    AND t.tgfoid = p.oid))
ORDER BY 1

-- name: views_over
-- a row is: a view or materialized view over a relation, or over one of its columns
SELECT DISTINCT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(v.relname) AS name
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_rewrite AS w ON w.oid = d.objid AND w.ev_class <> d.refobjid
JOIN pg_catalog.pg_class AS v ON v.oid = w.ev_class AND v.relkind IN ('v', 'm')
JOIN pg_catalog.pg_namespace AS n ON n.oid = v.relnamespace
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refobjid = %(oid)s::oid
  AND (%(column)s = '' OR a.attname = %(column)s)
ORDER BY 1

-- name: files
-- a row is: a table, one below it or an index of these, with its file and how often this transaction has read it
WITH RECURSIVE family AS (
    SELECT %(oid)s::oid AS oid
    UNION
    SELECT h.inhrelid
    FROM family
    JOIN pg_catalog.pg_inherits AS h ON h.inhparent = family.oid
)
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
       c.relkind = 'i' AS is_index,
       c.relfilenode::bigint AS file,
       pg_catalog.pg_stat_get_xact_numscans(c.oid) AS scans
FROM family
LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = family.oid
JOIN pg_catalog.pg_class AS c ON c.oid IN (family.oid, i.indexrelid)
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'i')
GROUP BY n.nspname, c.oid, c.relname, c.relkind, c.relfilenode

-- name: may_silence_triggers
-- a row is: whether this session may set session_replication_role
SELECT r.rolsuper AS may
FROM pg_catalog.pg_roles AS r
WHERE r.rolname = current_user

-- name: may_compress_wal
-- a row is: whether this session may let what it logs be compressed with LZ4, and the server does not already
SELECT s.setting IN ('off', 'pglz')
       AND 'lz4' = ANY (s.enumvals)
       AND pg_catalog.has_parameter_privilege('wal_compression', 'SET') AS may
FROM pg_catalog.pg_settings AS s
WHERE s.name = 'wal_compression'

-- name: batch_session
-- a row is: what a loop of batches has to know of the server; whoever names synchronous standbys wants them waited for
SELECT s.setting::int AS deadlock_timeout_ms,
       pg_catalog.current_setting('synchronous_standby_names') <> '' AS has_synchronous_standbys
FROM pg_catalog.pg_settings AS s
WHERE s.name = 'deadlock_timeout'

-- name: read_batch
-- a row is: the progress of a loop of batches
SELECT b.pass, b.last_key, b.end_key, b.batches, b.rows, b.is_done, b.started_at::text AS started_at
FROM pgrunbook.batch AS b
WHERE b.name = %(name)s
FOR UPDATE

-- name: begin_batch
-- a row is: a loop of batches that begins now
INSERT INTO pgrunbook.batch (name, pass, last_key, end_key, batches, rows, is_done, started_at)
VALUES (%(name)s, 1, %(last_key)s, %(end_key)s, 0, 0, %(is_done)s, pg_catalog.clock_timestamp())
RETURNING pass, last_key, end_key, batches, rows, is_done, started_at::text AS started_at

-- name: write_batch
-- a row is: nothing; records a batch as done, in the batch's transaction
UPDATE pgrunbook.batch
SET pass = %(pass)s,
    last_key = %(last_key)s,
    end_key = %(end_key)s,
    batches = %(batches)s,
    rows = %(rows)s,
    is_done = %(is_done)s,
    updated_at = pg_catalog.clock_timestamp()
WHERE name = %(name)s

-- name: pages
-- a row is: the pages of the largest of a table and its partitions, the live rows of one page of each, as statistics
-- tell, and how many have pages
SELECT p.pages,
       count(*) FILTER (WHERE p.pages > 0) OVER () AS parts,
       p.rows_of_page * pg_catalog.sum(p.pages) OVER () / greatest(p.pages, 1) AS rows_of_page
FROM (SELECT (pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint)::bigint AS pages,
             CASE WHEN c.relpages > 0 THEN c.reltuples / c.relpages ELSE 50 END::float8 AS rows_of_page
      FROM pg_catalog.pg_class AS c
      WHERE c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(%(table)s::regclass) AS p
                      UNION ALL
                      SELECT %(table)s::regclass)
        AND c.relkind = 'r') AS p
ORDER BY p.pages DESC
LIMIT 1

-- name: has_refused_rows
-- a row is: whether the table of rows that loops passed over exists
SELECT pg_catalog.to_regclass('pgrunbook.refused_row') IS NOT NULL

-- name: create_refused_row
-- a row is: nothing; creates the table of rows that loops passed over
CREATE TABLE IF NOT EXISTS pgrunbook.refused_row (
    loop text NOT NULL,
    key text[] NOT NULL,
    sqlstate text NOT NULL,
    said text NOT NULL,
    refused_at timestamptz NOT NULL
)

-- name: refuse_row
-- a row is: nothing; records a row that a batch was refused for, in the transaction that passes it over
WITH before AS (
    DELETE FROM pgrunbook.refused_row AS r WHERE r.loop = %(loop)s AND r.key = %(key)s::text[]
)
INSERT INTO pgrunbook.refused_row (loop, key, sqlstate, said, refused_at)
VALUES (%(loop)s, %(key)s, %(sqlstate)s, %(said)s, pg_catalog.clock_timestamp())

-- name: refused_rows
-- a row is: a row that a loop was refused for, and what the server said
SELECT r.key, r.sqlstate, r.said
FROM pgrunbook.refused_row AS r
WHERE r.loop = %(loop)s
ORDER BY r.refused_at, r.key

-- name: switched_off
-- a row is: a trigger of ours that somebody has switched off, and on again perhaps: its row is not that of its creation
SELECT g.tgname::text AS name
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
  AND p.proname = %(function)s
  AND (g.tgenabled <> 'A'
       OR NOT EXISTS (SELECT
                      FROM pg_catalog.pg_depend AS d
                      WHERE d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
                        AND d.objid = g.oid
                        AND d.refobjid = p.oid
                        AND d.xmin = g.xmin))
ORDER BY g.tgname

-- name: firing
-- a row is: a trigger of ours as it stands, which is another version of its row once somebody has switched it
SELECT g.tgrelid::bigint AS table_oid,
       g.tgname::text AS name,
       g.tgenabled::text AS enabled,
       g.xmin::text AS version
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
  AND p.proname = %(function)s

-- name: is_index_valid
-- a row is: whether an index exists and is valid
SELECT EXISTS (SELECT
               FROM pg_catalog.pg_index AS i
               WHERE i.indexrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({index})
                 AND i.indisvalid
                 AND i.indisready)

-- name: is_relation_there
-- a row is: whether a table or an index exists, valid or not
SELECT pg_catalog.to_regclass({relation}) IS NOT NULL

-- name: is_partition
-- a row is: whether a table is a partition
SELECT EXISTS (SELECT
               FROM pg_catalog.pg_class AS c
               WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({relation})
                 AND c.relispartition)

-- name: drop_index
-- a row is: the statement that drops an index; none for one that is dropped with its constraint or its partitioned index
SELECT pg_catalog.format(
           CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'I' THEN 'DROP INDEX %s' ELSE 'DROP INDEX CONCURRENTLY %s' END,
           {index}::pg_catalog.text
       ) AS statement
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
WHERE i.indexrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({index})
  AND NOT c.relispartition
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_constraint AS k
                  WHERE k.conindid OPERATOR(pg_catalog.=) i.indexrelid
                    AND k.contype OPERATOR(pg_catalog.=) ANY (ARRAY['p', 'u', 'x']::pg_catalog."char"[]))

-- name: drop_invalid_index
-- a row is: the statement that drops an index that an interrupted build has left
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %s', {index}::pg_catalog.text) AS statement
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
WHERE i.indexrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({index})
  AND c.relkind OPERATOR(pg_catalog.=) 'i'
  AND NOT c.relispartition
  AND NOT i.indisvalid

-- name: drop_constraint
-- a row is: the statement that drops a constraint that is not inherited
SELECT pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', {relation}::pg_catalog.text, k.conname) AS statement
FROM pg_catalog.pg_constraint AS k
WHERE k.conrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({relation})
  AND k.conname OPERATOR(pg_catalog.=) {name}
  AND k.coninhcount OPERATOR(pg_catalog.=) 0

-- name: drop_column
-- a row is: the statement that drops a column
SELECT pg_catalog.format('ALTER TABLE %s DROP COLUMN %I', {relation}::pg_catalog.text, a.attname) AS statement
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({relation})
  AND a.attname OPERATOR(pg_catalog.=) {name}
  AND a.attnum > 0
  AND NOT a.attisdropped

-- name: drop_type
-- a row is: the statement that drops a type
SELECT 'DROP TYPE ' || {type} AS statement
WHERE pg_catalog.to_regtype({type}) IS NOT NULL

-- name: drop_not_null
-- a row is: the statement that takes NOT NULL off a column
SELECT pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', {relation}::pg_catalog.text, a.attname) AS statement
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({relation})
  AND a.attname OPERATOR(pg_catalog.=) {name}
  AND a.attnotnull

-- name: rebuild_if_invalid
-- a row is: the statement that rebuilds an index whose removal was interrupted
SELECT pg_catalog.format('REINDEX INDEX CONCURRENTLY %s', {index}::pg_catalog.text) AS statement
FROM pg_catalog.pg_index AS i
WHERE i.indexrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({index})
  AND NOT i.indisvalid
  AND i.indislive

-- name: drop_reindex_leftovers
-- a row is: the statement that drops an index that an interrupted REINDEX CONCURRENTLY has left
SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', n.nspname, c.relname) AS statement
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE NOT i.indisvalid
  AND c.relname OPERATOR(pg_catalog.~) '_cc(new|old)[0-9]*$'
  AND (i.indrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({relation})
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_class AS r
                  WHERE r.reltoastrelid OPERATOR(pg_catalog.=) i.indrelid
                    AND r.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({relation})))

-- name: finalize_detach
-- a row is: the statement that completes an interrupted DETACH PARTITION CONCURRENTLY
SELECT pg_catalog.format(
           'ALTER TABLE %s DETACH PARTITION %s FINALIZE', {parent}::pg_catalog.text, {relation}::pg_catalog.text
       ) AS statement
FROM pg_catalog.pg_inherits AS h
WHERE h.inhrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({relation})
  AND h.inhdetachpending

-- name: setting_category
-- a row is: a setting that the server itself knows, and which of the manual's sections it is in
SELECT s.category::text AS category
FROM pg_catalog.pg_settings AS s
WHERE pg_catalog.lower(s.name) = %(name)s

-- name: deferrable_constraint
-- a row is: a constraint whose check can wait for the commit
SELECT k.conname::text AS name
FROM pg_catalog.pg_constraint AS k
WHERE k.condeferrable
LIMIT 1

-- name: foreign_table
-- a row is: some foreign table, where there is one
SELECT c.oid
FROM pg_catalog.pg_class c
WHERE c.relkind = 'f'
LIMIT 1

-- name: foreign_tables
-- a row is: a foreign table whose rows are reached by a name, by a view's query, or as a partition or child
WITH RECURSIVE reached (oid) AS (
    SELECT n.oid::pg_catalog.oid
    FROM pg_catalog.unnest(%(oids)s::pg_catalog.int8[]) AS n (oid)
    UNION
    SELECT x.oid
    FROM reached r
    JOIN pg_catalog.pg_class c ON c.oid = r.oid
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
          AND (c.relkind <> 'm' OR %(refresh)s)
    ) x
)
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name
FROM reached r
JOIN pg_catalog.pg_class c ON c.oid = r.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'f'
ORDER BY 1

-- name: filtered_tables
-- a row is: a table whose rows policies choose, read by the session's role, or by a view as the role of its owner
WITH RECURSIVE reached (oid, role) AS (
    SELECT n.oid::pg_catalog.oid, u.oid
    FROM pg_catalog.unnest(%(oids)s::pg_catalog.int8[]) AS n (oid)
    JOIN pg_catalog.pg_roles u ON u.rolname = CURRENT_USER
    UNION
    SELECT d.refobjid,
           CASE WHEN c.relkind = 'v' AND o.invokes THEN r.role ELSE c.relowner END
    FROM reached r
    JOIN pg_catalog.pg_class c ON c.oid = r.oid AND (c.relkind = 'v' OR (c.relkind = 'm' AND %(refresh)s))
    CROSS JOIN LATERAL (
        SELECT pg_catalog.bool_or(x.option_name = 'security_invoker' AND x.option_value::boolean) AS invokes
        FROM pg_catalog.pg_options_to_table(c.reloptions) AS x
    ) o
    JOIN pg_catalog.pg_rewrite w ON w.ev_class = c.oid
    JOIN pg_catalog.pg_depend d
      ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
     AND d.objid = w.oid
     AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.refobjid <> c.oid
)
SELECT c.oid::pg_catalog.int8 AS oid,
       pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name,
       CASE WHEN u.rolname = CURRENT_USER THEN '' ELSE pg_catalog.quote_ident(u.rolname) END AS role
FROM reached r
JOIN pg_catalog.pg_class c ON c.oid = r.oid AND c.relrowsecurity
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_roles u ON u.oid = r.role
WHERE NOT u.rolsuper
  AND NOT u.rolbypassrls
  AND (c.relforcerowsecurity OR NOT pg_catalog.pg_has_role(u.oid, c.relowner, 'USAGE'))
ORDER BY 2, 3

-- name: foreign_keys_of
-- a row is: a foreign key of a table, and the table that it references
SELECT k.conname::text AS name, k.confrelid::pg_catalog.int8 AS referenced
FROM pg_catalog.pg_constraint k
WHERE k.conrelid = %(oid)s::pg_catalog.oid
  AND k.contype = 'f'

-- name: rows_estimate
-- a row is: how many rows a table and its partitions hold, as the statistics tell; none where they do not
SELECT pg_catalog.sum(CASE WHEN c.reltuples >= 0 THEN c.reltuples END)::pg_catalog.int8 AS rows
FROM pg_catalog.pg_class c
WHERE c.relkind = 'r'
  AND (c.oid = %(oid)s OR c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(%(oid)s::pg_catalog.oid) AS p))

-- name: policies
-- a row is: what decides how many rows the session's role sees: the conditions of a command's policies, and the size
WITH mine AS (
    SELECT p.polcmd::text AS command,
           p.polpermissive AS is_permissive,
           coalesce('(' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')', 'true') AS condition
    FROM pg_catalog.pg_policy p
    WHERE p.polrelid = %(oid)s::pg_catalog.oid
      AND EXISTS (
          SELECT FROM pg_catalog.unnest(p.polroles) AS r (oid)
          WHERE CASE WHEN r.oid = 0 THEN true ELSE pg_catalog.pg_has_role(r.oid, 'USAGE') END
      )
)
SELECT pg_catalog.row_security_active(%(oid)s::pg_catalog.oid) AS is_filtered,
       (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_table_size(p.oid)), 0)
        FROM (SELECT %(oid)s::pg_catalog.oid AS oid
              UNION
              SELECT t.relid FROM pg_catalog.pg_partition_tree(%(oid)s::pg_catalog.oid) AS t) AS p)::pg_catalog.int8 AS bytes,
       (SELECT coalesce(pg_catalog.array_agg(x.condition), '{}')
        FROM (
            SELECT coalesce(
                       '(' || pg_catalog.string_agg(k.condition, ' OR ') FILTER (WHERE k.is_permissive) || ')', 'false'
                   )
            FROM pg_catalog.unnest(%(commands)s::text[]) AS w (command)
            LEFT JOIN mine AS k ON k.command IN ('*', w.command)
            GROUP BY w.command
            UNION ALL
            SELECT k.condition
            FROM pg_catalog.unnest(%(commands)s::text[]) AS w (command)
            JOIN mine AS k ON k.command IN ('*', w.command) AND NOT k.is_permissive
        ) AS x (condition)) AS conditions

-- name: time_zone
-- a row is: the TimeZone in force
SELECT pg_catalog.current_setting('TimeZone') AS zone

-- name: needs_object
-- a row is: something that falls with one of these objects when it is dropped with CASCADE
SELECT d.objid::bigint AS oid
FROM pg_catalog.pg_depend AS d
LEFT JOIN pg_catalog.pg_type AS t
  ON %(kind)s = 'pg_type'
 AND t.oid = d.refobjid
WHERE d.refclassid = pg_catalog.to_regclass('pg_catalog.' || %(kind)s)
  AND (d.refobjid = ANY (%(oids)s::oid[])
       OR %(kind)s = 'pg_type' AND t.typelem = ANY (%(oids)s::oid[]) AND t.typcategory = 'A')
  AND d.deptype IN ('n', 'a')
LIMIT 1

-- name: routine_oids
-- a row is: a routine of one of these names
SELECT p.oid::bigint AS oid
FROM pg_catalog.pg_proc AS p
WHERE p.proname = ANY (%(names)s::text[])

-- name: extension_oids
-- a row is: an extension of one of these names
SELECT e.oid::bigint AS oid
FROM pg_catalog.pg_extension AS e
WHERE e.extname = ANY (%(names)s::text[])

-- name: extension_tables
-- a row is: a table that belongs to one of these extensions
SELECT c.oid::pg_catalog.regclass::text AS name
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_class AS c ON c.oid = d.objid
WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
  AND d.refobjid = ANY (%(oids)s::oid[])
  AND d.deptype = 'e'
  AND c.relkind IN ('r', 'p', 'm')
ORDER BY 1

-- name: domain_tables
-- a row is: a table with a column of a domain, of one over it, or of an array or composite type of these
WITH RECURSIVE types AS (
    SELECT %(type)s::oid AS oid
    UNION
    SELECT t.oid
    FROM types AS k
    CROSS JOIN LATERAL (
        SELECT o.oid
        FROM pg_catalog.pg_type AS o
        WHERE o.typbasetype = k.oid
           OR o.typelem = k.oid AND o.typcategory = 'A'
        UNION
        SELECT o.oid
        FROM pg_catalog.pg_attribute AS a
        JOIN pg_catalog.pg_type AS o ON o.typrelid = a.attrelid
        WHERE a.atttypid = k.oid
    ) AS t
)
SELECT DISTINCT c.oid::bigint AS oid
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
WHERE a.atttypid IN (SELECT oid FROM types)
  AND NOT a.attisdropped
  AND c.relkind IN ('r', 'm')
ORDER BY 1

-- name: view_tables
-- a row is: a table that a view reads, itself or by other views
WITH RECURSIVE reached AS (
    SELECT %(oid)s::oid AS oid
    UNION
    SELECT d.refobjid
    FROM reached AS r
    JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = r.oid
    JOIN pg_catalog.pg_depend AS d
      ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
     AND d.objid = w.oid
     AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    JOIN pg_catalog.pg_class AS v ON v.oid = r.oid
    WHERE v.relkind = 'v'
)
SELECT c.oid::bigint AS oid
FROM reached AS r
JOIN pg_catalog.pg_class AS c ON c.oid = r.oid
WHERE c.relkind IN ('r', 'p')
ORDER BY 1

-- name: schema_of_name
-- a row is: the schema of a name
SELECT n.oid::bigint AS oid
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname = %(name)s

-- name: set_functions
-- a row is: a function of one of these names that returns many rows
SELECT p.oid::bigint AS oid
FROM pg_catalog.pg_proc AS p
WHERE p.proname = ANY (%(names)s::text[])
  AND p.proretset
LIMIT 1

-- name: type_oids
-- a row is: a type or domain that somebody made
SELECT t.oid::bigint AS oid
FROM pg_catalog.pg_type AS t
WHERE t.oid >= 16384

-- name: reached_relations
-- a row is: one of these relations, or one whose rows are changed with theirs: a partition, a child, a view's table
WITH RECURSIVE reached AS (
    SELECT o.oid
    FROM pg_catalog.unnest(%(oids)s::oid[]) AS o (oid)
    UNION
    SELECT next.oid
    FROM reached AS r
    CROSS JOIN LATERAL (
        SELECT i.inhrelid AS oid
        FROM pg_catalog.pg_inherits AS i
        WHERE i.inhparent = r.oid
        UNION
        SELECT k.conrelid
        FROM pg_catalog.pg_constraint AS k
        WHERE k.confrelid = r.oid
          AND k.contype = 'f'
          AND %(along)s
        UNION
        SELECT d.refobjid
        FROM pg_catalog.pg_rewrite AS w
        JOIN pg_catalog.pg_class AS v ON v.oid = w.ev_class
        JOIN pg_catalog.pg_depend AS d
          ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
         AND d.objid = w.oid
         AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        WHERE w.ev_class = r.oid
          AND v.relkind = 'v'
          AND w.ev_type = '1'
          AND %(is_dml)s
    ) AS next
)
SELECT r.oid::bigint AS oid
FROM reached AS r
ORDER BY 1

-- name: foreign_partition_keys
-- a row is: a partitioned table whose partition key needs something that is not PostgreSQL's own, and that key as SQL
SELECT p.partrelid::bigint AS relation,
       pg_catalog.pg_get_partkeydef(p.partrelid) AS sql
FROM pg_catalog.pg_partitioned_table AS p
WHERE p.partrelid = ANY (%(oids)s::oid[])
  AND (EXISTS (SELECT
               FROM pg_catalog.pg_depend AS d
               WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                 AND d.objid = p.partrelid
                 AND d.objsubid = 0
                 AND d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass,
                                      'pg_catalog.pg_operator'::pg_catalog.regclass,
                                      'pg_catalog.pg_opclass'::pg_catalog.regclass,
                                      'pg_catalog.pg_collation'::pg_catalog.regclass)
                 AND d.refobjid >= 16384)
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS d
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.objid AND a.attnum = d.objsubid
                  JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
                  LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = p.partrelid
                    AND d.refobjid = p.partrelid
                    AND d.objsubid > 0
                    AND d.refobjsubid = 0
                    AND 'pg_catalog'::pg_catalog.regnamespace::oid <> ANY (ARRAY[t.typnamespace, l.collnamespace])))

-- name: shadow_obstacles
-- a row is: what keeps a column from having a second one beside it that a trigger keeps equal
WITH tables AS (
    SELECT %(oid)s::oid AS oid
    UNION
    SELECT p.relid::oid
    FROM pg_catalog.pg_partition_tree(%(oid)s::oid) AS p
), columns AS (
    SELECT a.attrelid,
           a.attnum
    FROM tables AS t
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attname = %(column)s AND NOT a.attisdropped
), triggers AS (
    SELECT g.oid,
           g.tgname::text AS name,
           g.tgtype,
           g.tgattr,
           g.tgqual,
           p.prosrc,
           l.lanname,
           pg_catalog.replace(pg_catalog.encode(g.tgargs, 'escape'), '\000', ' ') AS arguments,
           c.attnum
    FROM columns AS c
    JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = c.attrelid AND g.tgconstrindid = 0 AND g.tgenabled <> 'D'
    JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
    JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
    WHERE p.pronamespace IS DISTINCT FROM pg_catalog.to_regnamespace('pgrunbook')::oid
      AND NOT g.tgisinternal
)
SELECT 'partition key' AS kind,
       c.oid::pg_catalog.regclass::text AS name
FROM tables AS t
JOIN pg_catalog.pg_partitioned_table AS p ON p.partrelid = t.oid
JOIN pg_catalog.pg_class AS c ON c.oid = t.oid
WHERE EXISTS (SELECT FROM columns AS k WHERE k.attrelid = t.oid AND k.attnum = ANY (p.partattrs::smallint[]))
   OR p.partexprs IS NOT NULL AND pg_catalog.pg_get_partkeydef(t.oid) ~* %(word)s
UNION ALL
SELECT 'inherits',
       CASE WHEN h.inhparent = %(oid)s::oid THEN h.inhrelid ELSE h.inhparent END::pg_catalog.regclass::text
FROM pg_catalog.pg_inherits AS h
JOIN pg_catalog.pg_class AS c ON c.oid = h.inhrelid AND NOT c.relispartition
WHERE %(oid)s::oid IN (h.inhparent, h.inhrelid)
UNION ALL
SELECT 'typed',
       c.reloftype::pg_catalog.regtype::text
FROM pg_catalog.pg_class AS c
WHERE c.oid = %(oid)s::oid
  AND c.reloftype <> 0
UNION ALL
SELECT 'published',
       p.pubname::text
FROM pg_catalog.pg_publication_tables AS p
JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
WHERE c.oid IN (SELECT t.oid FROM tables AS t)
  AND (pg_catalog.to_jsonb(p) -> 'attnames' IS NULL OR pg_catalog.to_jsonb(p) -> 'attnames' ? %(column)s)
UNION ALL
SELECT 'update of',
       g.name
FROM triggers AS g
WHERE g.attnum = ANY (g.tgattr::smallint[])
UNION ALL
SELECT 'reads',
       g.name
FROM triggers AS g
WHERE g.tgtype & 3 = 3  -- BEFORE, for each row
  AND (g.lanname IN ('c', 'internal') AND g.arguments ~* %(word)s
       OR g.prosrc ~* %(word)s
       OR g.prosrc ~* %(other)s
       OR g.arguments ~* %(word)s
       OR g.tgqual IS NOT NULL
          AND EXISTS (SELECT
                      FROM pg_catalog.pg_depend AS d
                      WHERE d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
                        AND d.objid = g.oid
                        AND d.refobjsubid = g.attnum))
ORDER BY 1, 2

-- name: column_rights
-- a row is: a statement that gives a role what it may do with a column beyond the whole table
SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS grantee,
       pg_catalog.format('GRANT %%s ON %%I.%%I TO %%s%%s',
                         pg_catalog.string_agg(pg_catalog.format('%%s (%%I)', x.privilege_type, a.attname), ', '
                                               ORDER BY x.privilege_type),
                         n.nspname, c.relname,
                         CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END,
                         CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS sql
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) AS x
WHERE a.attrelid = %(oid)s::oid
  AND a.attname = %(column)s
GROUP BY x.grantee, x.is_grantable, a.attname, n.nspname, c.relname
ORDER BY 1, 2
