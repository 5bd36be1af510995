"""Functions of the system and of extensions that act beyond the rows that a statement names, and what each does."""

from __future__ import annotations

from types import MappingProxyType

_SESSIONS = "ends what other sessions do"
_SERVER = "acts on the whole server"
_REPLICATION = "changes what replicas are sent or apply"
_FILES = "reads or writes files of the server"
_ELSEWHERE = "sends statements to another server"
_SCHEDULER = "lets a scheduler run a text later"
_DESTROYS = "destroys rows"
_TEXT = "executes a text"

# Functions of pg_catalog and of extensions that are not named here count as harmless.
ACTING = MappingProxyType({
    **dict.fromkeys(("pg_terminate_backend", "pg_cancel_backend"), _SESSIONS),
    **dict.fromkeys(
        ("pg_reload_conf", "pg_rotate_logfile", "pg_switch_wal", "pg_switch_xlog", "pg_promote", "pg_wal_replay_pause",
         "pg_wal_replay_resume", "pg_backup_start", "pg_backup_stop", "pg_start_backup", "pg_stop_backup",
         "pg_stat_reset", "pg_stat_reset_shared", "pg_stat_statements_reset"),
        _SERVER,
    ),
    **dict.fromkeys(
        ("pg_create_physical_replication_slot", "pg_create_logical_replication_slot", "pg_drop_replication_slot",
         "pg_copy_physical_replication_slot", "pg_copy_logical_replication_slot", "pg_replication_slot_advance",
         "pg_sync_replication_slots", "pg_logical_slot_get_changes", "pg_logical_slot_get_binary_changes",
         "pg_logical_emit_message", "pg_replication_origin_create", "pg_replication_origin_drop",
         "pg_replication_origin_advance", "pg_replication_origin_session_setup"),
        _REPLICATION,
    ),
    **dict.fromkeys(
        ("pg_read_file", "pg_read_binary_file", "pg_ls_dir", "pg_stat_file", "pg_file_write", "pg_file_rename",
         "pg_file_unlink", "pg_file_sync", "pg_logdir_ls", "lo_import", "lo_export"),
        _FILES,
    ),
    **dict.fromkeys(
        ("dblink", "dblink_connect", "dblink_connect_u", "dblink_exec", "dblink_open", "dblink_fetch",
         "dblink_send_query", "run_command_on_workers", "run_command_on_shards",
         "run_command_on_placements", "run_command_on_all_nodes", "http", "http_get", "http_post", "http_put",
         "http_delete", "http_patch"),
        _ELSEWHERE,
    ),
    **dict.fromkeys(
        ("schedule", "schedule_in_database", "alter_job", "add_job", "run_job", "add_retention_policy",
         "add_compression_policy", "pg_background_launch"),
        _SCHEDULER,
    ),
    **dict.fromkeys(
        ("lo_unlink", "drop_chunks", "heap_force_kill", "heap_force_freeze", "pg_truncate_visibility_map",
         "undo_partition", "undo_partition_proc", "drop_partition_id", "drop_partition_time", "run_maintenance",
         "run_maintenance_proc", "partition_data_proc", "partition_data_time", "partition_data_id"),
        _DESTROYS,
    ),
    **dict.fromkeys(
        ("xpath_table", "lives_ok", "throws_ok", "throws_like", "performs_ok"),
        _TEXT,
    ),
})  # fmt: skip

# Functions of the system that execute a text, and which argument it is.
OF_TEXT = MappingProxyType({
    "query_to_xml": 0, "query_to_xmlschema": 0, "query_to_xml_and_xmlschema": 0, "ts_stat": 0, "ts_rewrite": 1,
})  # fmt: skip
