-- name: named
-- a row is: a routine that somebody made, by its name; the functions of an aggregate stand under the aggregate's
WITH called AS (
    SELECT p.oid,
           p.proname
    FROM pg_catalog.pg_proc AS p
    WHERE p.proname = ANY (%(names)s::text[])
      AND p.prokind <> 'a'
    UNION
    SELECT f.oid,
           p.proname
    FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_aggregate AS a ON a.aggfnoid = p.oid
    JOIN pg_catalog.pg_proc AS f
      ON f.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
    WHERE p.proname = ANY (%(names)s::text[])
)
SELECT c.proname::text AS called,
       n.nspname::text AS schema,
       p.proname::text AS name,
       CASE WHEN c.proname = p.proname THEN p.pronargs - p.pronargdefaults ELSE 0 END AS fewest,
       CASE WHEN c.proname <> p.proname OR p.provariadic <> 0 THEN 1000
            WHEN p.prokind = 'p' THEN coalesce(pg_catalog.cardinality(p.proallargtypes), p.pronargs)
            ELSE p.pronargs END AS most,
       l.lanname::text AS language,
       CASE WHEN l.lanname IN ('sql', 'plpgsql') THEN pg_catalog.pg_get_functiondef(p.oid) ELSE '' END AS sql,
       (SELECT pg_catalog.substr(s.setting, pg_catalog.length('search_path=') + 1)
        FROM pg_catalog.unnest(p.proconfig) AS s (setting)
        WHERE pg_catalog.starts_with(s.setting, 'search_path=')) AS path
FROM called AS c
JOIN pg_catalog.pg_proc AS p ON p.oid = c.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
JOIN pg_catalog.pg_roles AS o ON o.oid = p.proowner
WHERE p.oid >= 16384
  -- Those of an extension are harmless; but who owns one may add functions of their own to it.
  AND NOT (EXISTS (SELECT
                   FROM pg_catalog.pg_depend AS d
                   WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                     AND d.objid = p.oid
                     AND d.deptype = 'e')
           AND (o.rolsuper OR l.lanname IN ('c', 'internal')))
ORDER BY n.nspname,
         p.proname,
         p.oid

-- name: operators
-- a row is: the function behind an operator that somebody made, by the operator's name
SELECT o.oprname::text AS operator,
       n.nspname::text AS schema,
       p.proname::text AS name
FROM pg_catalog.pg_operator AS o
JOIN pg_catalog.pg_proc AS p ON p.oid = o.oprcode
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE o.oprname = ANY (%(names)s::text[])
  AND o.oid >= 16384
ORDER BY o.oid

-- name: fired
-- a row is: a routine that runs when a relation is read or written: by a trigger, rule, policy, default, check or index
WITH RECURSIVE reached AS (
    SELECT c.oid AS root,
           e.event,
           c.oid,
           e.event AS here
    FROM pg_catalog.json_to_recordset(%(relations)s::json) AS t (schema text, name text)
    JOIN pg_catalog.pg_class AS c ON c.relname = t.name
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('READ'), ('REFRESH')) AS e (event)
    WHERE n.nspname = t.schema
       OR t.schema IS NULL
    UNION
    SELECT r.root,
           r.event,
           next.oid,
           next.here
    FROM reached AS r
    CROSS JOIN LATERAL (
        SELECT i.inhrelid AS oid,
               r.here
        FROM pg_catalog.pg_inherits AS i
        WHERE i.inhparent = r.oid
        UNION ALL
        SELECT k.conrelid,
               CASE WHEN r.here = 'DELETE' AND k.confdeltype = 'c' THEN 'DELETE' ELSE 'UPDATE' END
        FROM pg_catalog.pg_constraint AS k
        WHERE k.confrelid = r.oid
          AND k.contype = 'f'
          AND (r.here = 'DELETE' AND k.confdeltype IN ('c', 'n', 'd')
               OR r.here = 'UPDATE' AND k.confupdtype IN ('c', 'n', 'd'))
        UNION ALL
        SELECT d.refobjid,
               CASE WHEN r.here = 'REFRESH' THEN 'READ' ELSE r.here END
        FROM pg_catalog.pg_rewrite AS w
        JOIN pg_catalog.pg_class AS v ON v.oid = w.ev_class
        JOIN pg_catalog.pg_depend AS d
          ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
         AND d.objid = w.oid
         AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        WHERE w.ev_class = r.oid
          AND d.refobjid <> r.oid
          AND (v.relkind = 'v' OR r.here = 'REFRESH')
    ) AS next
), held AS (
    SELECT r.root,
           r.event,
           x.classid,
           x.objid
    FROM reached AS r
    CROSS JOIN LATERAL (
        SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass AS classid,
               a.oid AS objid
        FROM pg_catalog.pg_attrdef AS a
        WHERE a.adrelid = r.oid
          AND r.here IN ('INSERT', 'UPDATE')
        UNION ALL
        -- The key of partitions, and what generates a column: of that PostgreSQL 14 says so of the column itself.
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass,
               r.oid
        WHERE r.here IN ('INSERT', 'UPDATE')
        UNION ALL
        SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass,
               k.oid
        FROM pg_catalog.pg_constraint AS k
        WHERE k.conrelid = r.oid
          AND k.contype = 'c'
          AND r.here IN ('INSERT', 'UPDATE')
        UNION ALL
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass,
               i.indexrelid
        FROM pg_catalog.pg_index AS i
        WHERE i.indrelid = r.oid
          AND r.here IN ('INSERT', 'UPDATE', 'REFRESH')
        UNION ALL
        SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass,
               p.oid
        FROM pg_catalog.pg_policy AS p
        WHERE p.polrelid = r.oid
        UNION ALL
        SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass,
               w.oid
        FROM pg_catalog.pg_rewrite AS w
        JOIN pg_catalog.pg_class AS v ON v.oid = w.ev_class
        WHERE w.ev_class = r.oid
          AND (v.relkind <> 'm' OR r.here = 'REFRESH')
    ) AS x
), run AS (
    SELECT r.root,
           r.event,
           t.tgfoid AS routine
    FROM reached AS r
    JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = r.oid
    WHERE t.tgconstrindid = 0
      AND t.tgenabled <> 'D'
      AND (SELECT p.pronamespace FROM pg_catalog.pg_proc AS p WHERE p.oid = t.tgfoid)
          IS DISTINCT FROM pg_catalog.to_regnamespace('pgrunbook')::oid
      AND (r.here = 'INSERT' AND t.tgtype & 4 <> 0
           OR r.here = 'DELETE' AND t.tgtype & 8 <> 0
           OR r.here = 'UPDATE' AND t.tgtype & 16 <> 0
           OR r.here = 'TRUNCATE' AND t.tgtype & 32 <> 0)
    UNION
    SELECT h.root,
           h.event,
           coalesce(o.oprcode, d.refobjid)
    FROM held AS h
    JOIN pg_catalog.pg_depend AS d ON d.classid = h.classid AND d.objid = h.objid
    LEFT JOIN pg_catalog.pg_operator AS o
      ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
     AND o.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
       OR o.oid IS NOT NULL
)
SELECT DISTINCT n.nspname::text AS relation_schema,
       c.relname::text AS relation_name,
       run.event,
       s.nspname::text AS schema,
       p.proname::text AS name
FROM run
JOIN pg_catalog.pg_class AS c ON c.oid = run.root
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc AS p ON p.oid = run.routine
JOIN pg_catalog.pg_namespace AS s ON s.oid = p.pronamespace
WHERE p.oid >= 16384
ORDER BY 1, 2, 3, 4, 5

-- name: rules
-- a row is: a rule that runs when a relation is written
SELECT n.nspname::text AS relation_schema,
       c.relname::text AS relation_name,
       pg_catalog.pg_get_ruledef(w.oid) AS sql
FROM pg_catalog.json_to_recordset(%(relations)s::json) AS t (schema text, name text)
JOIN pg_catalog.pg_class AS c ON c.relname = t.name
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = c.oid
WHERE (n.nspname = t.schema
       OR t.schema IS NULL)
  AND w.oid >= 16384
  AND w.ev_type <> '1'
  AND w.ev_enabled <> 'D'
ORDER BY w.oid

-- name: others
-- a row is: a name that a function or operator has which is not PostgreSQL's own, nor an operator of an extension; or
-- the setting by which the name of a variable of PL/pgSQL may be that of a column
SELECT 'function' AS kind,
       p.proname::text AS name
FROM pg_catalog.pg_proc AS p
WHERE p.proname = ANY (%(functions)s::text[])
  AND p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
  AND p.pronamespace <> 'information_schema'::pg_catalog.regnamespace
UNION
SELECT 'operator',
       o.oprname::text
FROM pg_catalog.pg_operator AS o
JOIN pg_catalog.pg_roles AS r ON r.oid = o.oprowner
WHERE o.oprname = ANY (%(operators)s::text[])
  AND o.oprnamespace <> 'pg_catalog'::pg_catalog.regnamespace
  AND NOT (r.rolsuper
           AND EXISTS (SELECT
                       FROM pg_catalog.pg_depend AS d
                       WHERE d.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass
                         AND d.objid = o.oid
                         AND d.deptype = 'e'))
UNION
SELECT 'setting',
       'plpgsql.variable_conflict'
WHERE %(has_variables)s
  AND pg_catalog.lower(pg_catalog.current_setting('plpgsql.variable_conflict', true)) = 'use_column'
ORDER BY 1, 2
