-- name: settings
-- a row is: how much WAL a slot may keep, and the size of a segment
SELECT
    pg_catalog.current_setting('max_slot_wal_keep_size') AS bound,
    s.setting::bigint AS segment_bytes
FROM pg_catalog.pg_settings AS s
WHERE s.name = 'wal_segment_size'

-- name: slot
-- a row is: the process that sends what a slot keeps, and whether its WAL is still there
SELECT
    s.active_pid,
    s.wal_status
FROM pg_catalog.pg_replication_slots AS s
WHERE s.slot_name = %(name)s

-- name: has_segment
-- a row is: the WAL segment that ends so, on whichever timeline, where the server has it yet
SELECT w.name
FROM pg_catalog.pg_ls_waldir() AS w
WHERE pg_catalog.length(w.name) = 24 AND pg_catalog.right(w.name, 16) = %(tail)s
LIMIT 1
