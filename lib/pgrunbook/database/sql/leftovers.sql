-- name: indexes
-- a row is: an index that is not valid or not ready; one that somebody builds right now says who
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       pg_catalog.format('%I.%I', tn.nspname, t.relname) AS where_,
       c.relkind = 'I' AS is_partitioned,
       c.relname ~ '_cc(new|old)[0-9]*$' AS is_of_reindex,
       k.conname IS NOT NULL AS is_of_constraint,
       h.inhrelid IS NOT NULL AS is_part,
       n.nspname = 'pg_toast' AS is_of_toast,
       -- As VACUUM and ANALYZE have noted it: to measure it would wait for who holds the index.
       c.relpages * pg_catalog.current_setting('block_size')::bigint AS bytes,
       coalesce((SELECT pg_catalog.string_agg(p.pid::text, ', ') FROM pg_catalog.pg_stat_progress_create_index AS p
                 WHERE p.relid IN (i.indrelid, o.indrelid) OR p.index_relid = i.indexrelid), '') AS built_by,
       -- Progress is hidden of other roles, and a DROP INDEX CONCURRENTLY reports none: both keep such a lock to their end.
       coalesce((SELECT pg_catalog.string_agg(DISTINCT l.pid::text, ', ')
                 FROM pg_catalog.pg_locks AS l
                 JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
                 WHERE l.granted
                   AND l.pid <> pg_catalog.pg_backend_pid()
                   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                                     WHERE d.datname = pg_catalog.current_database())
                   AND l.relation IN (i.indexrelid, i.indrelid, o.indrelid)
                   AND l.mode IN ('ShareUpdateExclusiveLock', 'AccessExclusiveLock')
                   AND coalesce(a.backend_type, 'client backend') = 'client backend'
                   AND a.usename IS NOT NULL), '') AS worked_on_by
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid
JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.relnamespace
LEFT JOIN pg_catalog.pg_constraint AS k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
LEFT JOIN pg_catalog.pg_inherits AS h ON h.inhrelid = i.indexrelid
LEFT JOIN pg_catalog.pg_index AS o ON o.indexrelid = h.inhparent
WHERE NOT (i.indisvalid AND i.indisready)
  AND c.relpersistence <> 't'
ORDER BY 1

-- name: detaching
-- a row is: a partition whose DETACH CONCURRENTLY was cut off
SELECT pg_catalog.format('%I.%I', cn.nspname, c.relname) AS name,
       pg_catalog.format('%I.%I', pn.nspname, p.relname) AS where_
FROM pg_catalog.pg_inherits AS h
JOIN pg_catalog.pg_class AS c ON c.oid = h.inhrelid
JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace
JOIN pg_catalog.pg_class AS p ON p.oid = h.inhparent
JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE h.inhdetachpending
  AND NOT EXISTS (
      SELECT
      FROM pg_catalog.pg_locks AS l
      JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
      WHERE l.pid <> pg_catalog.pg_backend_pid()
        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
        AND l.relation IN (c.oid, p.oid)
        AND l.mode IN ('ShareUpdateExclusiveLock', 'AccessExclusiveLock')
        AND coalesce(a.backend_type, 'client backend') = 'client backend'
        AND a.usename IS NOT NULL
  )
ORDER BY 1

-- name: prepared
-- a row is: a prepared transaction of this database, and how long it is prepared
SELECT p.gid AS name, p.owner::text AS where_,
       extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8 AS age_s
FROM pg_catalog.pg_prepared_xacts AS p
WHERE p.database = pg_catalog.current_database()
ORDER BY p.prepared

-- name: slots
-- a row is: a replication slot that nobody reads, of this database or of the whole server; not one that is synchronized from a primary
SELECT s.slot_name::text AS name, s.slot_type AS where_,
       coalesce(pg_catalog.pg_wal_lsn_diff(
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn), 0)::bigint AS bytes
FROM pg_catalog.pg_replication_slots AS s
WHERE NOT s.active
  AND NOT s.temporary
  AND (s.database IS NULL OR s.database = pg_catalog.current_database())
  AND NOT coalesce((pg_catalog.to_jsonb(s) ->> 'synced')::boolean, false)
ORDER BY 1

-- name: temporary
-- a row is: a temporary table whose session is gone; before 16 the server does not tell the number of a session, and so only where no other is connected
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, '' AS where_
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname ~ '^pg_temp_[0-9]+$'
  AND c.relkind IN ('r', 'p')
  AND n.oid <> pg_catalog.pg_my_temp_schema()
  AND CASE
      WHEN pg_catalog.current_setting('server_version_num')::int >= 160000
      THEN pg_catalog.substr(n.nspname, 9)::int NOT IN (SELECT pg_catalog.pg_stat_get_backend_idset())
      ELSE NOT EXISTS (
          SELECT FROM pg_catalog.pg_stat_activity AS a
          WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid())
  END
ORDER BY 1

-- name: of_tools
-- a row is: something that another tool makes for the time of its change, by the tool and the kind of object
WITH found AS (
SELECT 'pg_repack' AS tool, 'trigger' AS kind, pg_catalog.format('%I', g.tgname) AS name,
       pg_catalog.format('%I.%I', n.nspname, c.relname) AS where_
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_class AS c ON c.oid = g.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE g.tgname IN ('repack_trigger', 'z_repack_trigger')
UNION ALL
SELECT 'pg_repack', 'table', pg_catalog.format('%I.%I', n.nspname, c.relname), ''
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'repack' AND c.relname ~ '^(log|table)_[0-9]+$' AND c.relkind = 'r'
UNION ALL
SELECT 'pg_osc', 'table', pg_catalog.format('%I.%I', n.nspname, c.relname), ''
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname ~ '^pgosc_(st|at|op)_' AND c.relkind = 'r'
UNION ALL
SELECT 'pg_osc', 'trigger', pg_catalog.format('%I', g.tgname), pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_trigger AS g
JOIN pg_catalog.pg_class AS c ON c.oid = g.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE g.tgname = 'primary_to_audit_table_trigger'
UNION ALL
SELECT 'pgroll', 'column', pg_catalog.format('%I', a.attname), pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE a.attname ~ '^_pgroll_(new|dup|del)_' AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
UNION ALL
SELECT 'reshape', 'column', pg_catalog.format('%I', a.attname), pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE a.attname ~ '^__reshape_' AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
UNION ALL
SELECT 'gh-ost', 'table', pg_catalog.format('%I.%I', n.nspname, c.relname), ''
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname ~ '^_.+_(gho|ghc|del)$' AND c.relkind = 'r'
)
SELECT f.*,
       coalesce((
           SELECT pg_catalog.string_agg(a.pid::text, ', ' ORDER BY a.pid)
           FROM pg_catalog.pg_stat_activity AS a
           WHERE a.datname = pg_catalog.current_database()
             AND a.pid <> pg_catalog.pg_backend_pid()
             AND coalesce(a.backend_type, 'client backend') = 'client backend'
             AND a.usename IS NOT NULL
             AND (a.application_name ~* pg_catalog.replace(f.tool, '-', '-?')
                  OR a.query ~ CASE f.tool WHEN 'pg_repack' THEN '\mrepack\.' WHEN 'pg_osc' THEN 'pgosc_'
                                           WHEN 'pgroll' THEN '_pgroll_' WHEN 'reshape' THEN '__reshape_'
                                           ELSE '_gh[oc]\M' END)
       ), '') AS worked_on_by
FROM found AS f
ORDER BY 1, 2, 3, 4

-- name: helpers
-- a row is: a helper object of a safe form of ours, by its name; ``full_name`` is that of a snapshot of the schema
WITH found AS (
    SELECT 'constraint' AS kind,
           pg_catalog.format('%I', k.conname) AS name,
           k.conname AS bare_name,
           k.conrelid AS table_oid,
           pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname) AS statement
    FROM pg_catalog.pg_constraint AS k
    WHERE k.conname ~ '^pgrunbook_[0-9a-f]{12}$' AND k.conrelid <> 0 AND k.coninhcount = 0
    UNION ALL
    SELECT 'index',
           c.oid::regclass::text,
           c.relname,
           i.indrelid,
           pg_catalog.format('DROP INDEX CONCURRENTLY %s', c.oid::regclass)
    FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
    WHERE c.relname ~ '^pgrunbook_[0-9a-f]{12}$' AND i.indisvalid AND c.relkind = 'i'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.conindid = c.oid)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = c.oid)
    UNION ALL
    SELECT 'trigger',
           pg_catalog.format('%I', t.tgname),
           t.tgname,
           t.tgrelid,
           pg_catalog.format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass)
    FROM pg_catalog.pg_trigger AS t
    WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgname ~ '^pgrunbook_[0-9a-f]{12}$'
    UNION ALL
    SELECT 'trigger',
           pg_catalog.format('%I', t.tgname),
           t.tgname,
           t.tgrelid,
           (SELECT pg_catalog.format('DROP FUNCTION %s CASCADE',
                                     pg_catalog.string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.proname))
            FROM pg_catalog.pg_proc AS p
            JOIN pg_catalog.pg_proc AS f ON f.oid = t.tgfoid
            WHERE p.pronamespace = f.pronamespace
              AND p.proname ~ ('^' || f.proname || '(_[0-9]+)?$'))
    FROM pg_catalog.pg_trigger AS t
    WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgname ~ '^~pgrunbook_fill_[0-9a-f]{16}$'
    UNION ALL
    SELECT 'column',
           pg_catalog.format('%I', a.attname),
           a.attname,
           a.attrelid,
           ''
    FROM pg_catalog.pg_attribute AS a
    JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE a.attname ~ '^pgrunbook_[0-9a-f]{12}$' AND NOT a.attisdropped AND n.nspname <> 'pgrunbook'
)
SELECT f.kind,
       f.name,
       f.table_oid::regclass::text AS table_name,
       f.statement,
       pg_catalog.format('%I.%I.%I', n.nspname, c.relname, f.bare_name) AS full_name
FROM found AS f
JOIN pg_catalog.pg_class AS c ON c.oid = f.table_oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
UNION ALL
SELECT 'type',
       pg_catalog.format('%I.%I', n.nspname, t.typname),
       '',
       pg_catalog.format('DROP TYPE %I.%I', n.nspname, t.typname),
       pg_catalog.format('%I.%I', n.nspname, t.typname)
FROM pg_catalog.pg_type AS t
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
WHERE t.typtype = 'e'
  AND t.typname ~ '^pgrunbook_(new|old)_'
ORDER BY 1, 3, 2

-- name: validations
-- a row is: a constraint that is NOT VALID, and the objects of which VALIDATE may run code
SELECT k.conname::text AS name,
       coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text) AS where_,
       ARRAY[k.oid, k.conrelid, k.confrelid]::bigint[] AS objects
FROM pg_catalog.pg_constraint AS k
WHERE NOT k.convalidated
