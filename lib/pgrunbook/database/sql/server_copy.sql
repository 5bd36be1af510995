-- name: keep_wal
-- a row is: the slot that keeps the WAL from now on until this session ends
SELECT s.slot_name
FROM pg_catalog.pg_create_physical_replication_slot(%(name)s, true, true) AS s

-- name: begin
-- a row is: the WAL segment that a copy of the server's files begins with
SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_backup_start(%(label)s, true))

-- name: begin_14
-- a row is: the WAL segment that a copy of the server's files begins with, on PostgreSQL 14
SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_start_backup(%(label)s, true, false))

-- name: end
-- a row is: the label of the copy, and the WAL segment that it ends with
SELECT s.labelfile, pg_catalog.pg_walfile_name(s.lsn - 1)
FROM pg_catalog.pg_backup_stop(false) AS s

-- name: end_14
-- a row is: the label of the copy, and the WAL segment that it ends with, on PostgreSQL 14
SELECT s.labelfile, pg_catalog.pg_walfile_name(s.lsn - 1)
FROM pg_catalog.pg_stop_backup(false, false) AS s
