-- name: refused
-- a row is: why a column, or what hangs on it, cannot be carried over to another column; a family is a table, and behind it its partitions
WITH here AS (
    SELECT c.*,
           a.attnum,
           a.attname,
           a.attgenerated,
           a.attinhcount,
           c.oid <> (%(family)s::oid[])[1] AS is_below
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped
    WHERE c.oid = %(table)s::oid
), found AS (
    SELECT d.classid,
           d.objid,
           d.objsubid
    FROM here
    JOIN pg_catalog.pg_depend AS d
      ON d.refclassid = 'pg_catalog.pg_class'::regclass
     AND d.refobjid = here.oid
     AND d.refobjsubid = here.attnum
), known AS (
    SELECT f.classid,
           f.objid
    FROM found AS f
    JOIN pg_catalog.pg_class AS i ON i.oid = f.objid AND i.relkind IN ('i', 'I', 'S')
    WHERE f.classid = 'pg_catalog.pg_class'::regclass
    UNION
    SELECT f.classid,
           f.objid
    FROM found AS f
    JOIN pg_catalog.pg_constraint AS k ON k.oid = f.objid
    WHERE f.classid = 'pg_catalog.pg_constraint'::regclass
      AND k.contype IN ('c', 'f', 'n', 'p', 'u')
      AND NOT (k.contype = 'p' AND k.condeferrable)
      AND NOT (k.contype = 'u'
               AND k.condeferrable
               AND ((SELECT here.relkind = 'p' OR here.is_below FROM here)
                    OR (SELECT coalesce((pg_catalog.to_jsonb(x) ->> 'indnullsnotdistinct')::boolean, false)
                        FROM pg_catalog.pg_index AS x
                        WHERE x.indexrelid = k.conindid)))
      AND (k.conparentid = 0 OR pg_catalog.cardinality(%(family)s::oid[]) > 1)
      AND (NOT (SELECT here.relkind = 'p' OR here.is_below FROM here)
           OR coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true)
              AND (k.contype <> 'n' OR k.convalidated))
      AND NOT coalesce((pg_catalog.to_jsonb(k) ->> 'conperiod')::boolean, false)
      AND (k.conrelid = ANY (%(family)s::oid[])
           OR (SELECT o.relkind = 'r' AND NOT o.relispartition AND pg_catalog.pg_has_role(o.relowner, 'USAGE')
               FROM pg_catalog.pg_class AS o
               WHERE o.oid = k.conrelid))
      AND (k.contype <> 'f'
           OR k.confrelid = ANY (%(family)s::oid[])
           OR (SELECT o.relkind = 'r' FROM pg_catalog.pg_class AS o WHERE o.oid = k.confrelid))
    UNION
    SELECT k.conindid_class,
           k.conindid
    FROM (SELECT 'pg_catalog.pg_class'::regclass AS conindid_class,
                 k.conindid
          FROM found AS f
          JOIN pg_catalog.pg_constraint AS k ON k.oid = f.objid AND k.contype IN ('p', 'u')
          WHERE f.classid = 'pg_catalog.pg_constraint'::regclass) AS k
    UNION
    SELECT f.classid,
           f.objid
    FROM found AS f
    JOIN pg_catalog.pg_attrdef AS e ON e.oid = f.objid
    JOIN here ON here.oid = e.adrelid AND here.attnum = e.adnum
    WHERE f.classid = 'pg_catalog.pg_attrdef'::regclass
    UNION
    SELECT f.classid,
           f.objid
    FROM found AS f
    -- Whether a publication can do without the column is asked beside this.
    WHERE f.classid IN ('pg_catalog.pg_statistic_ext'::regclass, 'pg_catalog.pg_publication_rel'::regclass)
), behind AS (
    SELECT d.classid,
           d.objid,
           d.objsubid
    FROM known AS k
    JOIN pg_catalog.pg_depend AS d ON d.refclassid = k.classid AND d.refobjid = k.objid
    WHERE k.classid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_constraint'::regclass)
      AND (d.deptype <> 'i' OR d.classid NOT IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass,
                                                 'pg_catalog.pg_trigger'::regclass, 'pg_catalog.pg_constraint'::regclass))
      AND d.deptype NOT IN ('P', 'S')  -- what belongs to a partition
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_attrdef AS e
                      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
                      JOIN here ON a.attname = here.attname AND a.attrelid = ANY (%(family)s::oid[])
                      WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = e.oid)
)
SELECT 'the table has ' || CASE WHEN here.relispartition AND NOT here.is_below THEN 'a partitioned table above it'
                                WHEN here.relhassubclass AND here.relkind <> 'p' THEN 'child tables'
                                WHEN here.attinhcount > 0 AND NOT here.is_below THEN 'a parent table'
                                WHEN here.reloftype <> 0 THEN 'a type of its own'
                                ELSE 'rules' END AS why
FROM here
WHERE here.relispartition AND NOT here.is_below
   OR here.relhassubclass AND here.relkind <> 'p'
      AND EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = here.oid)
   OR here.attinhcount > 0 AND NOT here.is_below
   OR here.reloftype <> 0
   OR here.relhasrules AND EXISTS (SELECT FROM pg_catalog.pg_rewrite AS w WHERE w.ev_class = here.oid)
UNION ALL
SELECT 'it is a foreign table'
FROM here
WHERE here.relkind = 'f'
UNION ALL
SELECT 'the column is in the partition key of ' || here.oid::pg_catalog.regclass::text
FROM here
WHERE here.relkind = 'p'
  AND EXISTS (SELECT
              FROM pg_catalog.pg_depend AS d
              WHERE d.classid = 'pg_catalog.pg_class'::regclass
                AND d.objid = here.oid
                AND d.objsubid = here.attnum
                AND d.refclassid = 'pg_catalog.pg_class'::regclass
                AND d.refobjid = here.oid
                AND d.refobjsubid = 0
                AND d.deptype = 'i')
UNION ALL
SELECT 'index ' || i.indexrelid::pg_catalog.regclass::text || ' lacks partitions'
FROM here
JOIN pg_catalog.pg_index AS i ON i.indrelid = here.oid AND NOT i.indisvalid
WHERE here.relkind = 'p'
  AND EXISTS (SELECT FROM found AS f WHERE f.objid = i.indexrelid)
UNION ALL
SELECT 'foreign key ' || pg_catalog.quote_ident(k.conname)
       || CASE WHEN here.relkind = 'p' AND i.indisprimary
               THEN ' refers to the primary key of a partitioned table, which can adopt no index'
               ELSE ' refers to the partitioned table itself' END
FROM here
JOIN pg_catalog.pg_constraint AS k ON k.confrelid = here.oid AND k.contype = 'f' AND k.conparentid = 0
JOIN pg_catalog.pg_index AS i ON i.indexrelid = k.conindid
WHERE here.attnum = ANY (k.confkey)
  AND (here.relkind = 'p' OR here.is_below)
  AND (here.relkind = 'p' AND i.indisprimary OR k.conrelid = ANY (%(family)s::oid[]))
UNION ALL
SELECT 'NOT NULL constraint ' || pg_catalog.quote_ident(k.conname) || ' has a name of its own, which it would lose'
FROM here
JOIN pg_catalog.pg_constraint AS k ON k.conrelid = here.oid AND k.contype = 'n' AND k.conkey = ARRAY[here.attnum]
WHERE here.is_below
  AND k.coninhcount > 0
  AND k.conname <> here.relname || '_' || here.attname || '_not_null'
  AND NOT EXISTS (SELECT
                  FROM pg_catalog.pg_inherits AS h
                  JOIN pg_catalog.pg_constraint AS p ON p.conrelid = h.inhparent
                  WHERE h.inhrelid = here.oid
                    AND p.contype = 'n'
                    AND p.conname = k.conname)
UNION ALL
SELECT 'the column is generated'
FROM here
WHERE here.attgenerated <> ''
UNION ALL
SELECT 'the table is not this role''s own'
FROM here
WHERE NOT pg_catalog.pg_has_role(here.relowner, 'USAGE')
UNION ALL
SELECT 'trigger ' || pg_catalog.quote_ident(g.tgname) || ' fires behind the one that keeps the columns equal'
FROM here
JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = here.oid AND NOT g.tgisinternal
JOIN pg_catalog.pg_proc AS f ON f.oid = g.tgfoid
WHERE g.tgtype & 3 = 3
  AND f.pronamespace <> coalesce(pg_catalog.to_regnamespace('pgrunbook')::oid, 0)
  AND g.tgname::text COLLATE "C" > %(last)s
UNION ALL
SELECT pg_catalog.pg_describe_object(x.classid, x.objid, x.objsubid) || ' hangs on it'
       || CASE WHEN k.contype = 'x' THEN ': PostgreSQL builds the index of an exclusion constraint under a lock only'
               WHEN (pg_catalog.to_jsonb(k) ->> 'conperiod')::boolean
               THEN ': PostgreSQL makes a key WITHOUT OVERLAPS, or with PERIOD, under a lock only'
               WHEN k.contype = 'p' AND k.condeferrable
               THEN ': until it is the primary key an index is checked at once, and would fail in the middle of'
                    ' transactions that this one lets pass'
               WHEN k.contype = 'u' AND k.condeferrable
               THEN ': it takes NULL for a value, and the other column is empty at first'
               ELSE '' END
FROM (SELECT * FROM found UNION SELECT * FROM behind) AS x
LEFT JOIN pg_catalog.pg_constraint AS k ON x.classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = x.objid
WHERE (x.classid, x.objid) NOT IN (SELECT k.classid, k.objid FROM known AS k)

-- name: indexes
-- a row is: an index that uses a column, with what hangs on it; a constraint's name is that of its index
SELECT n.nspname::text AS schema,
       c.relname::text AS name,
       pg_catalog.pg_get_indexdef(c.oid) AS definition,
       s.spcname::text AS tablespace,
       k.contype::text AS constraint_kind,
       i.indisreplident AS is_replica_identity,
       i.indisclustered AS is_clustered,
       pg_catalog.obj_description(c.oid, 'pg_class') AS comment,
       pg_catalog.obj_description(k.oid, 'pg_constraint') AS constraint_comment,
       CASE WHEN k.condeferred THEN 'DEFERRABLE INITIALLY DEFERRED'
            WHEN k.condeferrable THEN 'DEFERRABLE'
            ELSE '' END AS checked_late,
       pg_catalog.pg_get_constraintdef(k.oid) AS constraint_definition,
       c.oid::bigint AS oid,
       coalesce(h.inhparent, 0)::bigint AS parent
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attname = %(column)s AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_tablespace AS s ON s.oid = c.reltablespace
LEFT JOIN pg_catalog.pg_constraint AS k ON k.conrelid = i.indrelid AND k.conindid = c.oid AND k.contype IN ('p', 'u')
LEFT JOIN pg_catalog.pg_inherits AS h ON h.inhrelid = c.oid
WHERE i.indrelid = %(table)s::oid
  AND i.indisvalid
  AND (a.attnum = ANY (i.indkey::smallint[])
       OR EXISTS (SELECT
                  FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_catalog.pg_class'::regclass
                    AND d.objid = c.oid
                    AND d.refobjid = i.indrelid
                    AND d.refobjsubid = a.attnum))
ORDER BY k.contype IS DISTINCT FROM 'p', c.relname COLLATE "C"

-- name: constraints
-- a row is: a CHECK or foreign key that uses a column, of its table or of one that refers to it
SELECT k.conname::text AS name,
       k.contype::text AS kind,
       pg_catalog.pg_get_constraintdef(k.oid) AS definition,
       k.convalidated AS is_valid,
       n.nspname::text AS schema,
       c.relname::text AS table,
       pn.nspname::text AS partner_schema,
       p.relname::text AS partner_table,
       pg_catalog.obj_description(k.oid, 'pg_constraint') AS comment,
       k.oid::bigint AS oid,
       k.conparentid::bigint AS parent,
       k.coninhcount > 0 AS is_inherited
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_constraint AS k
  ON k.contype IN ('c', 'f')
 AND (k.conrelid = a.attrelid AND a.attnum = ANY (k.conkey) OR k.confrelid = a.attrelid AND a.attnum = ANY (k.confkey))
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class AS p ON p.oid = k.confrelid
LEFT JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE a.attrelid = %(table)s::oid
  AND a.attname = %(column)s
ORDER BY k.contype, n.nspname COLLATE "C", c.relname COLLATE "C", k.conname COLLATE "C"

-- name: statistics
-- a row is: a statistics object that uses a column
SELECT n.nspname::text AS schema,
       x.stxname::text AS name,
       pg_catalog.pg_get_statisticsobjdef(x.oid) AS definition,
       coalesce(x.stxstattarget, -1)::integer AS target,
       pg_catalog.obj_description(x.oid, 'pg_statistic_ext') AS comment
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_statistic_ext AS x ON x.stxrelid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = x.stxnamespace
WHERE a.attrelid = %(table)s::oid
  AND a.attname = %(column)s
  AND EXISTS (SELECT
              FROM pg_catalog.pg_depend AS d
              WHERE d.classid = 'pg_catalog.pg_statistic_ext'::regclass
                AND d.objid = x.oid
                AND d.refobjid = a.attrelid
                AND d.refobjsubid = a.attnum)
ORDER BY n.nspname COLLATE "C", x.stxname COLLATE "C"

-- name: sequences
-- a row is: a sequence that a column owns
SELECT n.nspname::text AS schema,
       c.relname::text AS name,
       d.deptype = 'i' AS is_identity,
       pg_catalog.format_type(s.seqtypid, NULL) AS type,
       s.seqstart AS start,
       s.seqincrement AS increment,
       s.seqmin AS least,
       s.seqmax AS most,
       s.seqcache AS cache,
       s.seqcycle AS cycles,
       pg_catalog.obj_description(c.oid, 'pg_class') AS comment
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_depend AS d
  ON d.refclassid = 'pg_catalog.pg_class'::regclass
 AND d.refobjid = a.attrelid
 AND d.refobjsubid = a.attnum
 AND d.classid = 'pg_catalog.pg_class'::regclass
 AND d.deptype IN ('a', 'i')
JOIN pg_catalog.pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = c.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE a.attrelid = %(table)s::oid
  AND a.attname = %(column)s
ORDER BY c.relname COLLATE "C"

-- name: grants
-- a row is: a right on a column (sequence "") or on a sequence that it owns, which is not the owner's own
SELECT CASE WHEN q.oid IS NULL THEN '' ELSE pg_catalog.format('%%I.%%I', n.nspname, q.relname) END AS sequence,
       x.privilege_type AS privilege,
       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS grantee,
       x.is_grantable,
       x.grantor = c.relowner AS is_owners
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN LATERAL (SELECT a.attacl AS acl,
                     0::oid AS sequence
              UNION ALL
              SELECT s.relacl,
                     s.oid
              FROM pg_catalog.pg_depend AS d
              JOIN pg_catalog.pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
              WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
                AND d.refobjid = a.attrelid
                AND d.refobjsubid = a.attnum
                AND d.classid = 'pg_catalog.pg_class'::regclass
                AND d.deptype = 'i') AS o ON true
CROSS JOIN LATERAL pg_catalog.aclexplode(o.acl) AS x
LEFT JOIN pg_catalog.pg_class AS q ON q.oid = o.sequence
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = q.relnamespace
WHERE a.attrelid = %(table)s::oid
  AND a.attname = %(column)s
  AND x.grantee <> c.relowner
ORDER BY 1, 3, 2

-- name: told
-- a row is: the comment on a column, and whether no row of before may have NULL there in spite of its NOT NULL
SELECT pg_catalog.col_description(a.attrelid, a.attnum) AS comment,
       NOT EXISTS (SELECT
                   FROM pg_catalog.pg_constraint AS k
                   WHERE k.conrelid = a.attrelid
                     AND k.contype = 'n'
                     AND k.conkey = ARRAY[a.attnum]
                     AND NOT k.convalidated) AS is_not_null_proven
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %(table)s::oid
  AND a.attname = %(column)s

-- name: conversion
-- a row is: whether the cast of one type to another depends on no setting
SELECT coalesce(f.provolatile = 'i',
                CASE k.castmethod WHEN 'b' THEN true
                                  WHEN 'i' THEN fo.provolatile = 'i' AND fi.provolatile = 'i' END,
                %(source)s::oid = %(made)s::oid) AS is_steady
FROM pg_catalog.pg_type AS s
JOIN pg_catalog.pg_type AS m ON m.oid = %(made)s::oid
JOIN pg_catalog.pg_proc AS fo ON fo.oid = s.typoutput
JOIN pg_catalog.pg_proc AS fi ON fi.oid = m.typinput
LEFT JOIN pg_catalog.pg_cast AS k ON k.castsource = s.oid AND k.casttarget = m.oid
LEFT JOIN pg_catalog.pg_proc AS f ON f.oid = k.castfunc
WHERE s.oid = %(source)s::oid
