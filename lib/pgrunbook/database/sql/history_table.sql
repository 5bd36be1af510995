-- name: is_bare
-- a row is: whether the table is our role's or a superuser's, without triggers and children: then nothing foreign is on it
SELECT coalesce(pg_catalog.bool_and((r.rolsuper OR r.rolname IN (session_user, current_user))
                                    AND NOT c.relhastriggers AND NOT c.relhassubclass), true) AS is_bare
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
WHERE n.nspname = %(schema)s
  AND c.relname = %(name)s;

-- name: foreign_parts
-- a row is: what hangs on a history table, or on a child of it, and may run code of a role that we do not trust
WITH RECURSIVE trusted AS (
    SELECT r.oid
    FROM pg_catalog.pg_roles AS r
    WHERE r.rolsuper
       OR r.rolname IN (session_user, current_user)
       OR pg_catalog.pg_has_role(r.oid, 'MEMBER')
          AND NOT (SELECT pg_catalog.bool_or(u.rolsuper)
                   FROM pg_catalog.pg_roles AS u
                   WHERE u.rolname IN (session_user, current_user))
), tables AS (
    SELECT c.oid
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s
      AND c.relname = %(name)s
    UNION
    SELECT i.inhrelid
    FROM tables AS t
    JOIN pg_catalog.pg_inherits AS i ON i.inhparent = t.oid
), alien AS (
    -- Its owner may change all that hangs on it at any time.
    SELECT t.oid
    FROM tables AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.oid
    WHERE c.relowner NOT IN (SELECT trusted.oid FROM trusted)
), parts AS (
    SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass AS classid,
           g.oid AS objid
    FROM tables AS t
    JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = t.oid AND g.tgconstrindid = 0
    JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
    WHERE t.oid IN (SELECT alien.oid FROM alien)
       OR p.proowner NOT IN (SELECT trusted.oid FROM trusted)
    UNION ALL
    SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, w.oid
    FROM alien AS t
    JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = t.oid
    UNION ALL
    SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid
    FROM alien AS t
    JOIN pg_catalog.pg_policy AS p ON p.polrelid = t.oid
    UNION ALL
    SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid
    FROM alien AS t
    JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = t.oid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    WHERE a.attgenerated <> ''
       OR pg_catalog.pg_get_expr(d.adbin, d.adrelid)
          !~ $re$(?x)^(nextval\('([^']|'')*'::regclass\)
              | (now|clock_timestamp|statement_timestamp|transaction_timestamp)\(\) | CURRENT_TIMESTAMP(\(\d\))?
              | \(now\(\)\ AT\ TIME\ ZONE\ '\w+'::text\) | true | false | -?[0-9.]+
              | '([^']|'')*'::[a-z\ ]+ | NULL::[a-z\ ]+)$$re$
    UNION ALL
    SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid
    FROM alien AS t
    JOIN pg_catalog.pg_constraint AS k ON k.conrelid = t.oid
    WHERE k.contype IN ('c', 'x')
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid
    FROM alien AS t
    JOIN pg_catalog.pg_index AS i ON i.indrelid = t.oid
    WHERE i.indexprs IS NOT NULL
       OR i.indpred IS NOT NULL
    UNION ALL
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, y.oid
    FROM alien AS t
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type AS y ON y.oid = a.atttypid
    WHERE y.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace
)
SELECT pg_catalog.pg_describe_object(p.classid, p.objid, 0) AS part
FROM parts AS p
ORDER BY part

-- name: create_copy
-- a row is: nothing; creates the table of the rows from before a repair, where it is missing
CREATE TABLE IF NOT EXISTS pgrunbook.history_copy (
    run_id text NOT NULL,
    history_table text NOT NULL,
    repair text NOT NULL,
    rows jsonb NOT NULL,
    copied_at timestamptz NOT NULL
)

-- name: copy
-- a row is: nothing; keeps the rows of a history table as they are before a repair
INSERT INTO pgrunbook.history_copy (run_id, history_table, repair, rows, copied_at)
VALUES (%(run)s, %(name)s, %(repair)s, %(rows)s, pg_catalog.clock_timestamp())
