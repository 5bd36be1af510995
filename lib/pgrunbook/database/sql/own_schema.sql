-- name: is_there
-- a row is: that schema pgrunbook exists
SELECT 1
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname = 'pgrunbook';

-- name: look
-- a row is: whether schema pgrunbook exists, what in it is not ours, and whether the registry has to name some of it
WITH RECURSIVE us AS (
    SELECT r.oid,
           r.rolsuper
    FROM pg_catalog.pg_roles AS r
    WHERE r.rolname IN (session_user, current_user)
), members AS (
    SELECT us.oid
    FROM us
    UNION
    -- Before PostgreSQL 15 a role may grant itself to anybody: that proves nothing. A superuser may SET ROLE to
    -- everybody, so a membership of theirs counts only where a superuser has granted it.
    SELECT m.roleid
    FROM members AS one
    JOIN pg_catalog.pg_auth_members AS m ON m.member = one.oid
    LEFT JOIN pg_catalog.pg_roles AS g ON g.oid = m.grantor
    WHERE (coalesce(g.rolsuper, false)
           OR m.grantor <> m.roleid AND NOT (SELECT pg_catalog.bool_or(us.rolsuper) FROM us))
      -- From PostgreSQL 16 on a membership may be without SET ROLE.
      AND coalesce(pg_catalog.to_jsonb(m) ->> 'set_option', 'true') = 'true'
), owners AS (
    SELECT members.oid
    FROM members
    UNION
    SELECT r.oid
    FROM pg_catalog.pg_roles AS r
    WHERE r.rolsuper
), schemas AS (
    SELECT n.oid,
           n.nspname,
           n.nspowner,
           n.nspacl
    FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname = 'pgrunbook'
), expected AS (
    SELECT e.name,
           pg_catalog.string_to_array(pg_catalog.regexp_replace(e.columns, '\s+', ' ', 'g'), ', ') AS columns
    FROM (VALUES
        ('step', 'run_id text, migration text, direction text, step integer, state text, kind text, sha256 text,
                  file_sha256 text, plan_digest text, schema_before text, schema_after text,
                  started_at timestamp with time zone, ended_at timestamp with time zone, backend_pid integer,
                  session_user_name text, transaction_id xid8'),
        ('restore_point', 'name text, run_id text, lsn pg_lsn, version text, created_at timestamp with time zone'),
        ('batch', 'name text, pass integer, last_key text[], end_key text[], batches bigint, rows bigint,
                   is_done boolean, started_at timestamp with time zone, updated_at timestamp with time zone'),
        ('way_back', 'migration text, statement integer, run_id text, file_sha256 text, plan_digest text, file text,
                      line integer, sql text, steps integer[], undo text[], back jsonb, schema_before text,
                      taken_back_by text, written_at timestamp with time zone'),
        ('shadow', 'table_schema text, table_name text, column_name text, shadow_name text, kind text, migration text,
                    sync_name text, made_at timestamp with time zone'),
        ('published', 'publication text, table_schema text, table_name text'),
        ('history_copy', 'run_id text, history_table text, repair text, rows jsonb,
                          copied_at timestamp with time zone'),
        ('control', 'name text, command text, reason text, asked_by text, asked_at timestamp with time zone,
                     until timestamp with time zone'),
        ('pace', 'run_id text, times double precision, asked_by text, asked_at timestamp with time zone'),
        ('refused_row', 'loop text, key text[], sqlstate text, said text, refused_at timestamp with time zone'),
        ('salvage', 'run_id text, place integer, table_schema text, table_name text, columns text[],
                     made_at timestamp with time zone'),
        ('salvaged_row', 'run_id text, place integer, number bigint, fate text, state text, row_values text[],
                          was text[]'),
        ('rollout', 'name text, table_schema text, table_name text, column_name text, head text, state text, run_id text,
                     changed_by text, changed_at timestamp with time zone'),
        ('rollout_stage', 'rollout text, stage integer, name text, digest text, state text, attempt integer,
                           pass integer, rows bigint, looks bigint, metric_before double precision,
                           metric_now double precision, began_at timestamp with time zone,
                           held_at timestamp with time zone, ended_at timestamp with time zone, why text, run_id text,
                           changed_by text'),
        ('rollout_row', 'rollout text, row_key text, stage integer, state text, set_at timestamp with time zone'),
        ('swap', 'name text, table_schema text, table_name text, run_id text, state text, plan jsonb, relation oid,
                  made_at timestamp with time zone, cut_over_at timestamp with time zone,
                  keep_until timestamp with time zone'),
        ('swap_range', 'name text, number integer, relation oid, file oid, first_place text[], next_place text[],
                        rows bigint'),
        ('ledger', 'ledger text, seq bigint, kind text, run_id text, line_sha256 text, lsn pg_lsn, timeline integer,
                    session_user_name text, transaction_id xid8, written_at timestamp with time zone'),
        ('kept', 'id bigint, part_of bigint, run_id text, migration text, direction text, step integer, kind text,
                  table_schema text, table_name text, key_columns text[], columns text[], kept_as text,
                  made_at timestamp with time zone, keep_until timestamp with time zone, state text,
                  pages_left bigint, rows_given_back bigint, purged_at timestamp with time zone')
    ) AS e (name, columns)
), objects AS (
    -- By the index on pg_depend: pg_class and pg_proc have none on the schema alone.
    SELECT d.classid,
           d.objid
    FROM schemas AS n
    JOIN pg_catalog.pg_depend AS d
      ON d.refclassid = 'pg_catalog.pg_namespace'::regclass
     AND d.refobjid = n.oid
     AND d.deptype = 'n'
), tables AS (
    SELECT c.*
    FROM objects AS o
    JOIN pg_catalog.pg_class AS c ON o.classid = 'pg_catalog.pg_class'::regclass AND c.oid = o.objid
    WHERE c.relkind = 'r'
      AND (c.relname IN (SELECT expected.name FROM expected)
           OR c.relname ~ '^kept_[0-9a-f]{16}(_[0-9]+)?$'
           OR c.relname ~ '^(moves|sync)_[0-9a-f]{16}$'
           OR c.relname ~ '^changes_[0-9a-f]{16}(_back)?$'
           OR c.relname ~ '^load_[0-9a-f]{6}_[0-9]+$')
), functions AS (
    SELECT p.oid,
           p.proname,
           p.pronamespace,
           p.proowner,
           p.proacl
    FROM objects AS o
    JOIN pg_catalog.pg_proc AS p ON o.classid = 'pg_catalog.pg_proc'::regclass AND p.oid = o.objid
    WHERE ((p.proname ~ '^(write_kept_[0-9a-f]{16}(_[0-9]+)?|note_moves_[0-9a-f]{16}|write_sync_[0-9a-f]{16})$'
               OR p.proname ~ '^note_changes_[0-9a-f]{16}(_back)?$')
           AND p.prorettype = 'pg_catalog.trigger'::regtype
           OR p.proname ~ '^fill_[0-9a-f]{16}(_[0-9]+)?$'
           OR p.proname ~ '^(agrees|follows|returns|forward|backward|again)_sync_[0-9a-f]{16}$'
           -- Only within the transaction that changes the type of a key back.
           OR p.proname ~ '^old_kept_[0-9a-f]{16}(_[0-9]+)?$'
           OR p.proname = 'refuse_ledger_change'
              AND p.prorettype = 'pg_catalog.trigger'::regtype
              AND NOT p.prosecdef
              AND p.proconfig IS NULL
              AND p.prolang = (SELECT l.oid FROM pg_catalog.pg_language AS l WHERE l.lanname = 'plpgsql')
              AND p.prosrc = 'BEGIN RAISE EXCEPTION ''rows of pgrunbook.ledger are never changed or deleted''; END')
), sequences AS (
    SELECT c.oid,
           c.relnamespace,
           c.relowner,
           c.relacl
    FROM tables AS t
    JOIN pg_catalog.pg_depend AS d
      ON d.refclassid = 'pg_catalog.pg_class'::regclass
     AND d.refobjid = t.oid
     AND d.deptype = 'i'
    JOIN pg_catalog.pg_class AS c ON d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid AND c.relkind = 'S'
    WHERE t.relname = 'kept'
       OR t.relname ~ '^(moves|sync)_'
), parked AS (
    -- A parked table is its owner's, with what hangs on it; its sequences and statistics are in its schema too.
    -- So is the table of a swap that is not the live one.
    SELECT o.classid,
           o.objid,
           c.relname
    FROM objects AS o
    JOIN pg_catalog.pg_class AS c ON o.classid = 'pg_catalog.pg_class'::regclass AND c.oid = o.objid
    WHERE c.relkind IN ('r', 'p', 'f')
      AND c.relname ~ '^(parked|swap)_[0-9a-f]{16}(_[0-9]+)?$'
), with_parked AS (
    SELECT d.classid,
           d.objid
    FROM parked AS p
    JOIN pg_catalog.pg_depend AS d
      ON d.refclassid = p.classid
     AND d.refobjid = p.objid
     AND d.deptype IN ('a', 'i')
     AND d.classid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_statistic_ext'::regclass)
), grants AS (
    SELECT 'pg_catalog.pg_namespace'::regclass AS classid,
           n.oid AS objid,
           0 AS objsubid,
           n.oid AS schema,
           n.nspacl AS acl,
           '{CREATE}'::text[] AS refused
    FROM schemas AS n
    UNION ALL
    SELECT 'pg_catalog.pg_class'::regclass, t.oid, 0, t.relnamespace, t.relacl,
           '{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'
    FROM tables AS t
    UNION ALL
    SELECT 'pg_catalog.pg_class'::regclass, t.oid, a.attnum, t.relnamespace, a.attacl, '{INSERT,UPDATE,REFERENCES}'
    FROM tables AS t
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND NOT a.attisdropped
    UNION ALL
    SELECT 'pg_catalog.pg_class'::regclass, s.oid, 0, s.relnamespace, s.relacl, '{USAGE,UPDATE}'
    FROM sequences AS s
    UNION ALL
    SELECT 'pg_catalog.pg_proc'::regclass, f.oid, 0, f.pronamespace,
           coalesce(f.proacl, pg_catalog.acldefault('f', f.proowner)), '{EXECUTE}'
    FROM functions AS f
    UNION ALL
    SELECT 'pg_catalog.pg_default_acl'::regclass, d.oid, 0, d.defaclnamespace, d.defaclacl,
           '{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER,EXECUTE}'
    FROM pg_catalog.pg_default_acl AS d
    JOIN schemas AS n ON n.oid = d.defaclnamespace
), foreign_objects AS (
    SELECT 0 AS place,
           pg_catalog.format('schema %I belongs to %I', n.nspname, pg_catalog.pg_get_userbyid(n.nspowner)) AS told
    FROM schemas AS n
    WHERE n.nspowner NOT IN (SELECT owners.oid FROM owners)
    UNION ALL
    SELECT 1,
           pg_catalog.format('%s belongs to %I', pg_catalog.pg_describe_object(x.class, x.oid, 0),
                             pg_catalog.pg_get_userbyid(x.owner))
    FROM (SELECT 'pg_catalog.pg_class'::regclass, t.oid, t.relowner FROM tables AS t
          UNION ALL
          SELECT 'pg_catalog.pg_class'::regclass, s.oid, s.relowner FROM sequences AS s
          UNION ALL
          SELECT 'pg_catalog.pg_proc'::regclass, f.oid, f.proowner FROM functions AS f) AS x (class, oid, owner)
    WHERE x.owner NOT IN (SELECT owners.oid FROM owners)
    UNION ALL
    SELECT 2,
           pg_catalog.pg_describe_object(o.classid, o.objid, 0)
    FROM objects AS o
    WHERE (o.classid, o.objid) NOT IN (SELECT p.classid, p.objid FROM parked AS p
                                       UNION ALL
                                       SELECT p.classid, p.objid FROM with_parked AS p
                                       UNION ALL
                                       SELECT 'pg_catalog.pg_class'::regclass, t.oid FROM tables AS t
                                       UNION ALL
                                       SELECT 'pg_catalog.pg_class'::regclass, s.oid FROM sequences AS s
                                       UNION ALL
                                       SELECT 'pg_catalog.pg_proc'::regclass, f.oid FROM functions AS f)
    UNION ALL
    SELECT 3,
           pg_catalog.pg_describe_object('pg_catalog.pg_trigger'::regclass, g.oid, 0)
    FROM tables AS t
    JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = t.oid
    WHERE g.tgconstrindid = 0
      AND (t.relname <> 'ledger'
           OR g.tgname <> 'append_only'
           OR g.tgqual IS NOT NULL
           OR g.tgfoid NOT IN (SELECT f.oid FROM functions AS f WHERE f.proname = 'refuse_ledger_change'))
    UNION ALL
    SELECT 4,
           pg_catalog.pg_describe_object('pg_catalog.pg_rewrite'::regclass, w.oid, 0)
    FROM tables AS t
    JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = t.oid
    UNION ALL
    SELECT 5,
           pg_catalog.pg_describe_object('pg_catalog.pg_policy'::regclass, p.oid, 0)
    FROM tables AS t
    JOIN pg_catalog.pg_policy AS p ON p.polrelid = t.oid
    UNION ALL
    SELECT 6,
           pg_catalog.format('row level security of table %s', t.oid::regclass)
    FROM tables AS t
    WHERE t.relrowsecurity
       OR t.relforcerowsecurity
    UNION ALL
    SELECT 7,
           pg_catalog.format('default of column %I of table %s', a.attname, t.oid::regclass)
    FROM tables AS t
    JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = t.oid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    WHERE a.attgenerated <> ''
       OR (CASE WHEN pg_catalog.starts_with(t.relname::text, 'kept_') THEN 'kept_'
                WHEN pg_catalog.starts_with(t.relname::text, 'changes_') THEN 'changes_'
                ELSE t.relname::text END,
           a.attname::text,
           pg_catalog.pg_get_expr(d.adbin, d.adrelid)) NOT IN (
              ('step', 'backend_pid', 'pg_backend_pid()'),
              ('step', 'session_user_name', 'SESSION_USER'),
              ('step', 'transaction_id', 'pg_current_xact_id()'),
              ('restore_point', 'created_at', 'clock_timestamp()'),
              ('batch', 'updated_at', 'clock_timestamp()'),
              ('shadow', 'made_at', 'clock_timestamp()'),
              ('ledger', 'session_user_name', 'SESSION_USER'),
              ('ledger', 'transaction_id', 'pg_current_xact_id()'),
              ('ledger', 'written_at', 'clock_timestamp()'),
              ('way_back', 'taken_back_by', '''''::text'),
              ('way_back', 'written_at', 'clock_timestamp()'),
              ('kept', 'made_at', 'clock_timestamp()'),
              ('kept', 'state', '''kept''::text'),
              ('kept', 'rows_given_back', '0'),
              ('kept_', 'pgrunbook_batch', 'pg_current_xact_id()'),
              ('changes_', 'is_emptied', 'false')
          )
    UNION ALL
    SELECT 8,
           pg_catalog.pg_describe_object('pg_catalog.pg_constraint'::regclass, k.oid, 0)
    FROM tables AS t
    JOIN pg_catalog.pg_constraint AS k ON t.oid IN (k.conrelid, k.confrelid)
    WHERE CASE k.contype
              WHEN 'p' THEN false
              WHEN 'u' THEN false
              WHEN 'n' THEN false
              WHEN 'f' THEN k.conrelid <> k.confrelid OR t.relname <> 'kept' OR k.confdeltype <> 'a' OR k.confupdtype <> 'a'
              WHEN 'c' THEN (t.relname::text, pg_catalog.pg_get_expr(k.conbin, k.conrelid)) NOT IN (
                  ('step', '(direction = ANY (ARRAY[''up''::text, ''down''::text]))'),
                  ('step', '(state = ANY (ARRAY[''intended''::text, ''done''::text, ''taken back''::text]))'),
                  ('control', '(command = ANY (ARRAY[''pause''::text, ''abort''::text]))'),
                  ('kept', '(direction = ANY (ARRAY[''up''::text, ''down''::text]))'),
                  ('kept', '(kind = ANY (ARRAY[''update''::text, ''delete''::text, ''insert''::text,'
                           ' ''column''::text, ''table''::text]))'),
                  ('kept', '(state = ANY (ARRAY[''kept''::text, ''giving back''::text, ''given back''::text,'
                           ' ''purged''::text]))')
              )
              ELSE true
          END
    UNION ALL
    SELECT 9,
           pg_catalog.format('type %s of column %I of table %s', a.atttypid::regtype, a.attname, t.oid::regclass)
    FROM tables AS t
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type AS y ON y.oid = a.atttypid
    WHERE y.typnamespace <> 'pg_catalog'::regnamespace
      AND NOT pg_catalog.starts_with(t.relname::text, 'load_')
      AND NOT (t.relname ~ '^(moves|changes)_' AND y.typtype = 'e')  -- it has no code
    UNION ALL
    SELECT 10,
           pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, i.indexrelid, 0)
    FROM tables AS t
    JOIN pg_catalog.pg_index AS i ON i.indrelid = t.oid
    WHERE i.indexprs IS NOT NULL
       OR (CASE WHEN pg_catalog.starts_with(t.relname::text, 'kept_') THEN pg_catalog.pg_get_expr(i.indpred, t.oid)
                ELSE '' END) NOT IN ('(pgrunbook_gone IS NULL)', '(pgrunbook_gone IS NOT NULL)')
          AND i.indpred IS NOT NULL
       OR NOT pg_catalog.starts_with(t.relname::text, 'load_')
          AND EXISTS (SELECT
                      FROM pg_catalog.pg_opclass AS k
                      WHERE k.oid = ANY (i.indclass::oid[])
                        AND k.opcnamespace <> 'pg_catalog'::regnamespace)
    UNION ALL
    SELECT 11,
           pg_catalog.format('inheritance of table %s', h.inhrelid::regclass)
    FROM tables AS t
    JOIN pg_catalog.pg_inherits AS h ON t.oid IN (h.inhrelid, h.inhparent)
    UNION ALL
    SELECT 12,
           pg_catalog.format('type %s of table %s', t.reloftype::regtype, t.oid::regclass)
    FROM tables AS t
    WHERE t.reloftype <> 0
    UNION ALL
    SELECT 13,
           pg_catalog.format('column %I, a %s, of table %s',
                             a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), t.oid::regclass)
    FROM tables AS t
    JOIN expected AS e ON e.name = t.relname
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod) <> ALL (e.columns)
    UNION ALL
    SELECT 14,
           pg_catalog.format('collation %s of column %I of table %s',
                             a.attcollation::regcollation, a.attname, t.oid::regclass)
    FROM tables AS t
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_collation AS c ON c.oid = a.attcollation
    WHERE c.collnamespace <> 'pg_catalog'::regnamespace
      AND t.relname !~ '^(moves|changes)_'
    UNION ALL
    SELECT 15,
           pg_catalog.format('table %s, which is unlogged', t.oid::regclass)
    FROM tables AS t
    WHERE t.relpersistence <> 'p'
    UNION ALL
    SELECT 16,
           pg_catalog.pg_describe_object('pg_catalog.pg_statistic_ext'::regclass, x.oid, 0)
    FROM tables AS t
    JOIN pg_catalog.pg_statistic_ext AS x ON x.stxrelid = t.oid
    WHERE x.stxexprs IS NOT NULL
    UNION ALL
    -- A right on an object is of use only to who may look into its schema; CREATE on the schema needs nothing else.
    SELECT 17,
           pg_catalog.format('%s on %s granted to %s', a.privilege_type,
                             pg_catalog.pg_describe_object(g.classid, g.objid, g.objsubid),
                             CASE a.grantee WHEN 0 THEN 'PUBLIC'
                                  ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
    FROM grants AS g
    CROSS JOIN LATERAL pg_catalog.aclexplode(g.acl) AS a
    WHERE a.privilege_type = ANY (g.refused)
      AND a.grantee NOT IN (SELECT owners.oid FROM owners)
      AND (g.schema = g.objid
           OR EXISTS (SELECT
                      FROM pg_catalog.pg_roles AS r
                      WHERE r.oid NOT IN (SELECT owners.oid FROM owners)
                        AND (a.grantee = 0 OR pg_catalog.pg_has_role(r.oid, a.grantee, 'USAGE'))
                        AND pg_catalog.has_schema_privilege(r.oid, g.schema, 'USAGE')))
)
SELECT EXISTS (SELECT FROM schemas) AS is_there,
       (SELECT coalesce(pg_catalog.array_agg(DISTINCT (pg_catalog.to_char(f.place, '00') || f.told)), '{}')
        FROM foreign_objects AS f) AS told,
       (SELECT coalesce(pg_catalog.array_agg(x.name), '{}')
        FROM (SELECT p.relname::text FROM parked AS p WHERE pg_catalog.starts_with(p.relname::text, 'parked_')
              UNION ALL
              SELECT t.relname::text FROM tables AS t WHERE pg_catalog.starts_with(t.relname::text, 'kept_')
              UNION ALL
              SELECT f.proname::text FROM functions AS f
              WHERE f.proname !~ '^(note_(moves|changes)|[a-z]+_sync|fill)_'
                AND f.proname <> 'refuse_ledger_change') AS x (name)) AS captured,
       EXISTS (SELECT FROM tables AS t WHERE t.relname = 'kept') AS has_registry

-- name: unnamed
-- a row is: a side table, a function or a parked table by its name, that no entry of the registry names
SELECT x.name
FROM pg_catalog.unnest(%(captured)s::text[]) AS x (name)
WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.relname = x.name
              UNION ALL
              SELECT FROM pg_catalog.pg_proc AS p WHERE p.proname = x.name)  -- nobody has purged it meanwhile
  AND NOT EXISTS (SELECT
                  FROM pgrunbook.kept AS k
                  WHERE k.state <> 'purged'
                    AND (k.kind = 'table') = pg_catalog.starts_with(x.name, 'parked_')
                    AND (x.name = k.kept_as
                         OR pg_catalog.starts_with(x.name, 'write_')
                            AND (k.kept_as = pg_catalog.substr(x.name, 7)
                                 OR pg_catalog.starts_with(k.kept_as, pg_catalog.substr(x.name, 7) || '_'))
                         OR pg_catalog.starts_with(x.name, 'old_') AND k.kept_as = pg_catalog.substr(x.name, 5)))
ORDER BY x.name

-- name: granted
-- a row is: a statement that takes from a role what it was given on schema pgrunbook and these objects in it
WITH given AS (
    SELECT 'SCHEMA' AS kind,
           pg_catalog.quote_ident(n.nspname) AS name,
           n.nspowner AS owner,
           n.nspacl AS acl
    FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname = 'pgrunbook'
    UNION ALL
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
           c.oid::regclass::text,
           c.relowner,
           x.acl
    FROM pg_catalog.pg_class AS c
    CROSS JOIN LATERAL (SELECT c.relacl
                        UNION ALL
                        SELECT a.attacl
                        FROM pg_catalog.pg_attribute AS a
                        WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL) AS x (acl)
    WHERE c.relnamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
      AND c.relkind IN ('r', 'S')
      AND c.relname = ANY (%(names)s::text[])
    UNION ALL
    SELECT 'FUNCTION',
           p.oid::regprocedure::text,
           p.proowner,
           coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
    FROM pg_catalog.pg_proc AS p
    WHERE p.pronamespace = pg_catalog.to_regnamespace('pgrunbook')::oid
      AND p.prokind IN ('f', 'w')
      AND p.proname = ANY (%(names)s::text[])
)
SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %%s %%s FROM %%s CASCADE', g.kind, g.name,
                                  CASE a.grantee WHEN 0 THEN 'PUBLIC'
                                       ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END) AS statement
FROM given AS g
CROSS JOIN LATERAL pg_catalog.aclexplode(g.acl) AS a
WHERE a.grantee <> g.owner
