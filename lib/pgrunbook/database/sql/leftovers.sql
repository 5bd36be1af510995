-- name: indexes
-- a row is: an index that is not valid or not ready; one that somebody builds right now says who
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       pg_catalog.format('%I.%I', tn.nspname, t.relname) AS where_,
       c.relkind = 'I' AS is_partitioned,
       c.relname ~ '_cc(new|old)[0-9]*$' AS is_of_reindex,
       k.conname IS NOT NULL AS is_of_constraint,
       n.nspname = 'pg_toast' AS is_of_toast,
       -- As VACUUM and ANALYZE have noted it: to measure it would wait for who holds the index.
       c.relpages * pg_catalog.current_setting('block_size')::bigint AS bytes,
       coalesce((SELECT pg_catalog.string_agg(p.pid::text, ', ') FROM pg_catalog.pg_stat_progress_create_index AS p
                 WHERE p.relid IN (i.indrelid, o.indrelid) OR p.index_relid = i.indexrelid), '') AS built_by
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
ORDER BY 1

-- name: prepared
-- a row is: a prepared transaction of this database, and how long it is prepared
SELECT p.gid AS name, p.owner::text AS where_,
       extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::float8 AS age_s
FROM pg_catalog.pg_prepared_xacts AS p
WHERE p.database = pg_catalog.current_database()
ORDER BY p.prepared

-- name: slots
-- a row is: a replication slot that nobody reads
SELECT s.slot_name::text AS name, s.slot_type AS where_,
       coalesce(pg_catalog.pg_wal_lsn_diff(
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn), 0)::bigint AS bytes
FROM pg_catalog.pg_replication_slots AS s
WHERE NOT s.active
  AND NOT s.temporary
ORDER BY 1

-- name: temporary
-- a row is: a temporary table whose session is gone
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, '' AS where_
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname ~ '^pg_temp_[0-9]+$'
  AND c.relkind IN ('r', 'p')
  AND pg_catalog.substr(n.nspname, 9)::int NOT IN (SELECT pg_catalog.pg_stat_get_backend_idset())
ORDER BY 1

-- name: of_tools
-- a row is: something that another tool makes for the time of its change, by the tool and the kind of object
SELECT 'pg_repack' AS tool, 'trigger' AS kind, g.tgname::text AS name,
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
SELECT 'pg_osc', 'trigger', g.tgname::text, pg_catalog.format('%I.%I', n.nspname, c.relname)
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
ORDER BY 1, 2, 3, 4
