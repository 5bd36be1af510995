-- name: roles
-- a row is: a role that we do not trust and that owns a function, or any role that we do not trust
WITH RECURSIVE us AS (
    SELECT r.oid,
           r.rolsuper
    FROM pg_catalog.pg_roles AS r
    WHERE r.rolname IN (session_user, current_user)
), members AS (
    -- Code of a role that a superuser has taken (SET ROLE, or a setting of the database) may take it back: RESET ROLE.
    SELECT us.oid
    FROM us
    WHERE NOT (SELECT pg_catalog.bool_or(us.rolsuper) FROM us)
    UNION
    -- Before PostgreSQL 15 a role may grant itself to anybody: that proves nothing.
    SELECT m.roleid
    FROM members AS one
    JOIN pg_catalog.pg_auth_members AS m ON m.member = one.oid AND m.grantor <> m.roleid
)
SELECT r.oid::bigint AS oid
FROM pg_catalog.pg_roles AS r
WHERE NOT r.rolsuper
  AND r.rolname <> session_user
  AND r.oid NOT IN (SELECT members.oid FROM members)
  AND (%(any)s OR EXISTS (SELECT FROM pg_catalog.pg_proc AS p WHERE p.proowner = r.oid))

-- name: reached
-- a row is: an index, a constraint or a table, whose use by a query of ours may run code of these roles, of a table also its name; or a table with a column of a type that does
WITH RECURSIVE code AS (
    SELECT p.oid
    FROM pg_catalog.pg_proc AS p
    WHERE p.proowner = ANY (%(roles)s::oid[])
), reached (classid, objid, subid) AS (
    SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass::oid, c.oid, 0
    FROM code AS c
    UNION
    SELECT x.*
    FROM reached AS r
    CROSS JOIN LATERAL (
        SELECT d.classid, d.objid, d.objsubid
        FROM pg_catalog.pg_depend AS d
        LEFT JOIN pg_catalog.pg_class AS c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
        LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
        WHERE d.refclassid = r.classid
          AND d.refobjid = r.objid
          AND (d.refobjsubid = r.subid OR r.subid = 0)
          AND CASE
              -- What is made of code: an operator, a cast, a range; what calls it: a key of partitions.
              WHEN d.classid IN ('pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_cast'::pg_catalog.regclass)
              THEN r.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
              WHEN d.classid IN ('pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_constraint'::pg_catalog.regclass,
                                 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass)
              THEN true
              WHEN c.relkind IN ('i', 'I') THEN i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
              WHEN c.relkind = 'p' AND d.objsubid = 0 THEN r.classid <> 'pg_catalog.pg_type'::pg_catalog.regclass
              ELSE d.objsubid > 0 AND r.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
          END
        UNION ALL
        -- An explicit or implicit cast is found by the types on both its sides.
        SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 0
        FROM pg_catalog.pg_cast AS k
        JOIN pg_catalog.pg_type AS t ON t.oid IN (k.castsource, k.casttarget)
        WHERE r.classid = 'pg_catalog.pg_cast'::pg_catalog.regclass
          AND k.oid = r.objid
          AND t.oid >= 16384
        UNION ALL
        -- Whatever becomes a domain is checked by its constraints.
        SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, k.contypid, 0
        FROM pg_catalog.pg_constraint AS k
        WHERE r.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
          AND k.oid = r.objid
          AND k.contypid <> 0
        UNION ALL
        -- A row has the types of its columns.
        SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, c.reltype, 0
        FROM pg_catalog.pg_class AS c
        WHERE r.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND r.subid > 0
          AND c.oid = r.objid
          AND c.reltype <> 0
        UNION ALL
        -- An expression over a whole row depends on its table.
        SELECT d.classid, d.objid, d.objsubid
        FROM pg_catalog.pg_type AS t
        JOIN pg_catalog.pg_depend AS d
          ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = t.typrelid AND d.refobjsubid = 0
        WHERE r.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
          AND t.oid = r.objid
          AND d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
    ) AS x
), tables (oid, is_key) AS (
    -- To plan any query on a table folds the constants of its expressions, and so calls their functions:
    -- get_relation_info in src/backend/optimizer/util/plancat.c.
    SELECT coalesce(i.indrelid, e.stxrelid, c.oid, k.conrelid), c.oid IS NOT NULL
    FROM reached AS r
    LEFT JOIN pg_catalog.pg_index AS i
      ON r.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.indexrelid = r.objid
    LEFT JOIN pg_catalog.pg_statistic_ext AS e
      ON r.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass AND e.oid = r.objid
    LEFT JOIN pg_catalog.pg_class AS c  -- a key of partitions
      ON r.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND r.subid = 0 AND c.oid = r.objid AND c.relkind = 'p'
    LEFT JOIN pg_catalog.pg_constraint AS k
      ON r.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = r.objid AND k.contype = 'c'
         AND k.conrelid <> 0
         AND (pg_catalog.current_setting('constraint_exclusion') = 'on'
              OR EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = k.conrelid))
    UNION
    SELECT x.*
    FROM tables AS t
    CROSS JOIN LATERAL (
        SELECT h.inhparent, false
        FROM pg_catalog.pg_inherits AS h
        WHERE h.inhrelid = t.oid
        UNION ALL
        -- The key of partitions is part of the constraint of each.
        SELECT h.inhrelid, true
        FROM pg_catalog.pg_inherits AS h
        WHERE h.inhparent = t.oid
          AND t.is_key
    ) AS x
)
SELECT r.objid::bigint AS oid, r.subid > 0 AS is_by_column, NULL AS schema, NULL AS name
FROM reached AS r
WHERE r.classid IN ('pg_catalog.pg_constraint'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass)
UNION
SELECT c.oid::bigint, false, n.nspname::text, c.relname::text
FROM tables AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace

-- name: written
-- a row is: one of these tables, where a row that is written into it would run code of these roles
SELECT DISTINCT f.root::bigint AS oid
FROM (
    SELECT t.root,
           coalesce(p.relid::oid, t.root) AS oid
    FROM pg_catalog.unnest(%(oids)s::oid[]) AS t (root)
    LEFT JOIN LATERAL pg_catalog.pg_partition_tree(t.root) AS p ON true
) AS f
LEFT JOIN (
    SELECT g.tgrelid AS oid,
           'pg_catalog.pg_trigger'::pg_catalog.regclass AS classid,
           g.oid AS objid
    FROM pg_catalog.pg_trigger AS g
    WHERE NOT g.tgisinternal
      AND (g.tgenabled = 'A' OR %(fires)s AND g.tgenabled <> 'D')
    UNION ALL
    SELECT a.adrelid, 'pg_catalog.pg_attrdef'::pg_catalog.regclass, a.oid
    FROM pg_catalog.pg_attrdef AS a
    UNION ALL
    -- What the expression of a generated column needs, PostgreSQL 14 says of the column itself.
    SELECT a.attrelid, 'pg_catalog.pg_class'::pg_catalog.regclass, a.attrelid
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attgenerated <> ''
    UNION ALL
    SELECT w.ev_class, 'pg_catalog.pg_rewrite'::pg_catalog.regclass, w.oid
    FROM pg_catalog.pg_rewrite AS w
    UNION ALL
    SELECT k.conrelid, 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid
    FROM pg_catalog.pg_constraint AS k
    WHERE k.oid = ANY (%(reached)s::oid[])
) AS x ON x.oid = f.oid
WHERE f.oid = ANY (%(reached)s::oid[])
   OR x.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
   OR EXISTS (SELECT
              FROM pg_catalog.pg_depend AS d
              JOIN pg_catalog.pg_proc AS c ON c.oid = d.refobjid
              WHERE d.classid = x.classid
                AND d.objid = x.objid
                AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                AND c.proowner = ANY (%(roles)s::oid[]))

-- name: called
-- a row is: one of these functions of schema pgrunbook, whose text calls code of these roles: a function, an operator, or what a domain of theirs asks now or later
SELECT DISTINCT p.proname::text AS name
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
LEFT JOIN pg_catalog.pg_operator AS o
  ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = d.refobjid
LEFT JOIN pg_catalog.pg_proc AS c
  ON c.oid = CASE d.refclassid WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass THEN d.refobjid ELSE o.oprcode::oid END
LEFT JOIN pg_catalog.pg_type AS t
  ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = d.refobjid AND t.typtype = 'd'
WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
  AND p.proname = ANY (%(names)s::text[])
  AND (c.proowner = ANY (%(roles)s::oid[]) OR t.typowner = ANY (%(roles)s::oid[]))
ORDER BY 1

-- name: read_by
-- a row is: a relation that a query of these reads, also as a partition or child table, or, of a view, not known
WITH RECURSIVE named AS (
    SELECT pg_catalog.unnest(%(oids)s::oid[]) AS oid
    UNION
    SELECT i.inhrelid
    FROM named AS n
    JOIN pg_catalog.pg_inherits AS i ON i.inhparent = n.oid
)
SELECT c.oid::bigint AS oid,
       c.relkind NOT IN ('r', 'p', 'm', 'f') AS is_unknown
FROM named AS n
JOIN pg_catalog.pg_class AS c ON c.oid = n.oid
