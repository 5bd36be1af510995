"""The files of an embedded server: the template from which it is copied, and its settings."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pgrunbook.branches.binaries import Installation, run_checked, state_folder

# Locale C is there on every system and in every version, and sorts the same everywhere.
INITDB_OPTIONS = (
    *("--username=postgres", "--encoding=UTF8", "--locale=C", "--data-checksums"),
    *("--auth-local=trust", "--auth-host=reject", "--no-instructions"),
)
SETTINGS_FILE = "pgrunbook.conf"


def template(postgres: Installation) -> Path:
    """Return a folder with a fresh data directory ``data``, made with initdb once per version and account.

    Copying it takes 0.15 s; initdb takes 0.6 s. All copies share its system identifier, so PostgreSQL
    would not notice WAL of another server in an archive: that is why each server has an archive of its own.

    Raises RunbookError when initdb fails; half-made files are removed.
    """
    owner = postgres.account.uid if postgres.account else os.geteuid()
    mark = hashlib.sha256(repr((INITDB_OPTIONS, SETTINGS_FILE, owner)).encode()).hexdigest()[:8]
    ready = state_folder("templates") / f"{postgres.version}-{mark}"
    if ready.is_dir():
        return ready
    half = Path(tempfile.mkdtemp(prefix="half-", dir=ready.parent))
    try:
        if postgres.account:
            os.chown(half, postgres.account.uid, postgres.account.gid)
        initdb = [str(postgres.program("initdb")), "-D", "data", *INITDB_OPTIONS]
        run_checked(postgres.account, initdb, cwd=half)
        include = f"\ninclude_if_exists = '{SETTINGS_FILE}'\n"
        run_checked(postgres.account, ["tee", "-a", "data/postgresql.conf"], cwd=half, text=include)
        with contextlib.suppress(OSError):  # then another process was quicker
            half.rename(ready)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return ready


def settings(postgres: Installation, name: str, socket_dir: Path) -> dict[str, str]:
    """Return the settings that the server ``name`` is started with."""
    own = {
        "cluster_name": name,
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": '"' + str(socket_dir).replace('"', '""') + '"',
        "unix_socket_permissions": "0700",
        "wal_level": "replica",
        "max_wal_senders": "10",
        "max_prepared_transactions": "10",
        "wal_compression": "pglz" if postgres.major >= 15 else "on",
        "shared_buffers": "128MB",
        "fsync": fsync(),
        "track_io_timing": "on",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",  # the log is read by us
        "log_line_prefix": "%m [%p] %q%u@%d %a ",
        "log_lock_waits": "on",
        "logging_collector": "off",  # pg_ctl appends to log/postgresql.log
        **_archiving(postgres),
    }
    if postgres.major >= 17:
        own["summarize_wal"] = "on"
    return own


def text(settings: Mapping[str, str]) -> str:
    """Return settings as the text of the settings file."""
    lines = [f"{key} = {_quoted(value)}" for key, value in settings.items()]
    return "\n".join(["# Written by pgrunbook at every start.", *lines, ""])


def fsync() -> str:
    """Return the setting fsync; PGRUNBOOK_SERVER_FSYNC=off is meant for servers that are thrown away."""
    return "off" if os.environ.get("PGRUNBOOK_SERVER_FSYNC") == "off" else "on"


def _archiving(postgres: Installation) -> dict[str, str]:
    """Return the settings that archive the WAL; paths are relative to the data directory.

    https://www.postgresql.org/docs/current/basic-archive.html
    """
    if postgres.major >= 15 and postgres.library("basic_archive"):
        library = {"archive_library": "basic_archive", "basic_archive.archive_directory": "../archive"}
        return {"archive_mode": "on", **library}
    there = "../archive/%f"
    copy = f'test ! -f {there} && cp "%p" {there}.part && mv {there}.part {there}'
    return {"archive_mode": "on", "archive_command": f'cmp -s "%p" {there} || {{ {copy}; }}'}


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
