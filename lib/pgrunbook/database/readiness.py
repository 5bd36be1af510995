"""Checks whether it is safe to start: one per thing that can hurt a change; for prepare and migrate."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pgrunbook.database import activity, locks, own_publications
from pgrunbook.database.activity import Identity
from pgrunbook.database.connection import Connection
from pgrunbook.display.prose import counted, listed

MB = 1024 * 1024
LEAST_FREE_BYTES = 256 * MB


class Level(StrEnum):
    """What a check says: go on, look at it, do not start, or the answer is not known."""

    GOOD = "ok"
    WARN = "look"
    STOP = "stop"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Limits:
    """The limits beyond which a finding stops the run."""

    transaction_age_s: float = 300
    replay_lag_bytes: int = 256 * MB
    slot_retained_bytes: int = 4096 * MB
    wraparound_percent: float = 75
    free_disk_percent: float = 10


# One reads, one holds the run lock, one executes, one watches waits for locks.
CONNECTIONS = 4
LEFT = "only the migrations' own ways back, and a restore by your provider's or your own backups, lead back"
DONE_WITHOUT_POINTS = f"restore_points = false: {LEFT}."
WITHOUT_POINTS = (
    f"set restore_points = false for this target: then no restore point is made before a change, and {LEFT}."
)


@dataclass(frozen=True)
class Check:
    """One finding: what was checked, what was found, the limit, the verdict and what to do."""

    name: str
    found: str
    limit: str
    level: Level
    advice: str = ""


def checks(
    conn: Connection, who: Identity, limits: Limits, *, data_dir: Path | None, needs_restore_point: bool
) -> list[Check]:
    """Return every check, in the order in which an operator wants to know.

    ``data_dir`` is the server's data directory where it is on this machine; SQL cannot read the free disk space,
    so without it that check says so.
    """
    probes: list[Callable[[], Check]] = [
        lambda: _primary(who),
        lambda: _rights(conn, needs_restore_point),
        lambda: _connections(conn),
        lambda: _pooler(conn),
        lambda: _other_run(conn),
        lambda: _oldest_transaction(conn, limits),
        lambda: _archive(conn, who, needs_restore_point),
        lambda: _replication(conn, who, limits),
        lambda: _slots(conn, who, limits),
        lambda: _slot_bound(conn, who),
        lambda: _publications(conn),
        lambda: _vacuum(conn),
        lambda: _wraparound(conn, limits),
        lambda: _disk(who, limits, data_dir),
    ]
    return [probe() for probe in probes]


def _primary(who: Identity) -> Check:
    if who.in_recovery:
        return Check("primary", "a replica", "primary", Level.STOP, "Name the primary in targets.toml.")
    return Check("primary", "primary", "primary", Level.GOOD)


def _rights(conn: Connection, needs_restore_point: bool) -> Check:
    may = activity.row(conn, "rights")
    lacking, ways = [], []
    if not may["may_keep_the_record"]:
        lacking.append("a schema pgrunbook that it may write to, or CREATE on the database")
        made = f"CREATE SCHEMA pgrunbook AUTHORIZATION {may['me']}."
        given = f"{may['owner']} owns it: docs/rights.md says how it is handed over."
        ways.append(given if may["owner"] else f"Let an administrator run {made}")
    if needs_restore_point and not may["may_create_restore_point"]:
        lacking.append("EXECUTE on pg_create_restore_point(text) and pg_switch_wal()")
        functions = "pg_create_restore_point(text), pg_switch_wal()"
        ways.append(
            f"Let an administrator run GRANT EXECUTE ON FUNCTION {functions} TO {may['me']}; or {WITHOUT_POINTS}"
        )
    if lacking:
        return Check("rights", "lacks " + "; ".join(lacking), "all", Level.STOP, " ".join(ways))
    if may["not_owned"]:
        found = f"{counted(may['not_owned'], 'relation belongs', 'relations belong')} to others"
        return Check("rights", found, "owner", Level.WARN, "Only their owner can ALTER them.")
    if not may["may_read_stats"]:
        advice = "GRANT pg_monitor: without it blockers show no query."
        return Check("rights", "cannot see what others run", "pg_read_all_stats", Level.WARN, advice)
    return Check("rights", "all that is needed", "all", Level.GOOD)


def _connections(conn: Connection) -> Check:
    limit = f"{CONNECTIONS} at once"
    for found in activity.rows(conn, "connection_limits"):
        if found["most"] - found["others"] < CONNECTIONS:
            told = f"CONNECTION LIMIT {found['most']} of {found['of']}, of which others use {found['others']}"
            enough = CONNECTIONS + found["others"]
            advice = f"Let an administrator run ALTER {found['of']} CONNECTION LIMIT {enough}, or more."
            return Check("connections", told, limit, Level.STOP, advice)
    return Check("connections", "not limited below that", limit, Level.GOOD)


def _pooler(conn: Connection) -> Check:
    """A pooler answers the start-up with a process id of its own, so it differs from the backend's."""
    seen = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    if seen == (conn.info.backend_pid,):
        return Check("pooler", "none", "none", Level.GOOD)
    advice = "Connect directly: SET and advisory locks do not survive transaction pooling."
    return Check("pooler", "a pooler in between", "none", Level.STOP, advice)


def _other_run(conn: Connection) -> Check:
    holder = locks.run_in_progress(conn)
    if holder:
        return Check("other runs", holder, "none", Level.STOP, "Wait until it has ended: pgrunbook runs.")
    return Check("other runs", "none", "none", Level.GOOD)


def _oldest_transaction(conn: Connection, limits: Limits) -> Check:
    limit = f"{limits.transaction_age_s:g} s"
    oldest = activity.row(conn, "oldest_transaction")
    sees_all = activity.row(conn, "rights")["may_read_stats"]
    if not sees_all and (not oldest or oldest["age_s"] <= limits.transaction_age_s):
        advice = "GRANT pg_monitor: a transaction that you cannot see blocks locks all the same."
        return Check("oldest transaction", "those of others are not visible", limit, Level.UNKNOWN, advice)
    if not oldest:
        return Check("oldest transaction", "none open", limit, Level.GOOD)
    who = f'process {oldest["pid"]}, "{oldest["application"]}"' if oldest["pid"] else oldest["application"]
    found = f"{oldest['age_s']:.0f} s ({who}, {oldest['state']})"
    if oldest["age_s"] > limits.transaction_age_s:
        advice = "Locks will queue behind it; end it, or wait."
        return Check("oldest transaction", found, limit, Level.STOP, advice)
    level = Level.WARN if oldest["age_s"] > limits.transaction_age_s / 5 else Level.GOOD
    return Check("oldest transaction", found, limit, level, "Find out who uses it." if level is Level.WARN else "")


def _archive(conn: Connection, who: Identity, needed: bool) -> Check:
    if who.in_recovery:
        return Check("WAL archive", "not checked on a replica", "working", Level.UNKNOWN)
    found = activity.row(conn, "archiver")
    if found["archive_mode"] == "off":
        level = Level.STOP if needed else Level.WARN
        advice = f"Turn archive_mode on, or {WITHOUT_POINTS}" if needed else DONE_WITHOUT_POINTS
        return Check("WAL archive", "off: no restore point can be restored", "working", level, advice)
    if found["goes_nowhere"]:
        advice = f"Set archive_library or archive_command, or {WITHOUT_POINTS}" if needed else DONE_WITHOUT_POINTS
        return Check("WAL archive", "on, but archives nothing", "working", Level.STOP if needed else Level.WARN, advice)
    if found["failing"]:
        failure = f"last attempt failed: {found['last_failed_wal']} at {found['last_failed_utc']}Z"
        return Check("WAL archive", failure, "working", Level.STOP, "Read the server's log.")
    return Check("WAL archive", f"last archived {found['last_archived_wal'] or 'nothing yet'}", "working", Level.GOOD)


def _replication(conn: Connection, who: Identity, limits: Limits) -> Check:
    limit = _size(limits.replay_lag_bytes)
    if who.in_recovery:
        return Check("replication lag", "not checked on a replica", limit, Level.UNKNOWN)
    lag = activity.row(conn, "replication")
    if not lag["standbys"]:
        return Check("replication lag", "no standby", limit, Level.GOOD)
    found = f"{_size(lag['replay_lag_bytes'])} at the furthest behind of {lag['standbys']}"
    if lag["standbys_without_lag"]:
        found = f"not visible for {lag['standbys_without_lag']} of {lag['standbys']}"
        return Check("replication lag", found, limit, Level.UNKNOWN, "GRANT pg_monitor, or look on the standby.")
    if lag["replay_lag_bytes"] > limits.replay_lag_bytes:
        return Check("replication lag", found, limit, Level.STOP, "Let the standby catch up first.")
    return Check("replication lag", found, limit, Level.GOOD)


def _slots(conn: Connection, who: Identity, limits: Limits) -> Check:
    limit = _size(limits.slot_retained_bytes)
    if who.in_recovery:
        return Check("replication slots", "not checked on a replica", limit, Level.UNKNOWN)
    lag = activity.row(conn, "replication")
    if not lag["slots"]:
        return Check("replication slots", "none", limit, Level.GOOD)
    found = f"{_size(lag['slot_retained_bytes'])} of WAL kept by the furthest behind of {lag['slots']}"
    if lag["slot_retained_bytes"] > limits.slot_retained_bytes:
        advice = "A slot that nobody reads fills the disk: find its reader, or drop it."
        return Check("replication slots", found, limit, Level.STOP, advice)
    if lag["slots_lost"]:
        advice = "The WAL that its reader needs is gone: drop it; the reader begins anew, behind a new base backup."
        return Check("replication slots", f"{found}; lost: {lag['slots_lost']}", limit, Level.WARN, advice)
    if lag["slots_without_reader"]:
        found += f"; nobody reads {lag['slots_without_reader']}"
        advice = "It keeps WAL until it is read: find its reader, or drop it."
        return Check("replication slots", found, limit, Level.WARN, advice)
    return Check("replication slots", found, limit, Level.GOOD)


def _slot_bound(conn: Connection, who: Identity) -> Check:
    lag = {} if who.in_recovery else activity.row(conn, "replication")
    if not lag.get("slots"):
        return Check("slots' bound", "not checked on a replica" if who.in_recovery else "no slot", "any",
                     Level.UNKNOWN if who.in_recovery else Level.GOOD)  # fmt: skip
    if lag["slot_bound"] != "-1":
        return Check("slots' bound", f"max_slot_wal_keep_size is {lag['slot_bound']}", "any", Level.GOOD)
    advice = "Whoever stops reading fills the disk: ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'."
    return Check("slots' bound", "none: max_slot_wal_keep_size is -1", "any", Level.WARN, advice)


def _publications(conn: Connection) -> Check:
    name, limit = "publications", "none that sends schema pgrunbook"
    found = own_publications.sending(conn)
    if not found:
        return Check(name, "none that sends schema pgrunbook", limit, Level.GOOD)
    told, slots = listed(found, 3), own_publications.readers(conn)
    if conn.publishes_records:
        return Check(name, f"{told}; publish_records = true: its readers pass that over", limit, Level.GOOD)
    advice = f"{own_publications.STOPS} {own_publications.way_out(conn, found)}"
    if slots:
        return Check(name, f"{told}, which slot {listed(slots, 3)} may follow", limit, Level.STOP, advice)
    return Check(name, f"{told}, which no slot here follows", limit, Level.WARN, advice)


def _vacuum(conn: Connection) -> Check:
    at_work = activity.rows(conn, "vacuums")
    if not at_work:
        return Check("vacuum at work", "none", "none on our tables", Level.GOOD)
    found = ", ".join(f"{v['table_name']} ({v['phase']})" for v in at_work)
    if any(v["prevents_wraparound"] for v in at_work):
        advice = "The server does not cancel it for our locks: wait until it has ended."
        return Check("vacuum at work", f"{found}, to prevent wraparound", "none on our tables", Level.WARN, advice)
    advice = "The server cancels it when we wait for its lock."
    return Check("vacuum at work", found, "none on our tables", Level.WARN, advice)


def _wraparound(conn: Connection, limits: Limits) -> Check:
    used = activity.row(conn, "wraparound")
    limit = f"{limits.wraparound_percent:g} %"
    found = f"{used['percent']:.1f} % of the transaction ids"
    if used["percent"] > limits.wraparound_percent:
        return Check("wraparound", found, limit, Level.STOP, "VACUUM FREEZE the oldest tables first.")
    return Check("wraparound", found, limit, Level.GOOD)


def _disk(who: Identity, limits: Limits, data_dir: Path | None) -> Check:
    limit = f"{limits.free_disk_percent:g} % and the database's size"
    if data_dir is None:
        advice = "SQL cannot read it: look on the server, or at the provider's page."
        return Check("free disk", "not visible from here", limit, Level.UNKNOWN, advice)
    usage = shutil.disk_usage(data_dir)
    percent = 100 * usage.free / usage.total
    found = f"{_size(usage.free)} ({percent:.0f} %); the database has {_size(who.size_bytes)}"
    if usage.free < max(who.size_bytes / 2, LEAST_FREE_BYTES):
        least = f"at least {_size(LEAST_FREE_BYTES)} and half the database's size"
        return Check("free disk", found, least, Level.STOP, "A rewrite needs the table's size once more: free space.")
    if percent < limits.free_disk_percent or usage.free < who.size_bytes:
        return Check("free disk", found, limit, Level.WARN, "Enough for small changes only.")
    return Check("free disk", found, limit, Level.GOOD)


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TB"
